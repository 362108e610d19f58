//! What a volume holds, by its signature: the answers of blkid(8), told where blkid would rather not say.
//!
//! A format is a row in one of the tables: where its magic may be, and a function that reads label and UUID. Rows are tried
//! in blkid's order: RAID members and containers first, because what they contain shows through some of them.

mod apple;
mod bsd;
mod clustered;
mod ext;
mod fat;
mod linux;
mod members;
mod optical;
mod raid;
mod swap;
mod windows;

use crate::block::{BlockSource, read_vec};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::Result;

use super::Content;

/// What sort of thing a volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Files.
    #[default]
    Filesystem,
    /// A part of something larger: RAID, LVM.
    Raid,
    /// Something encrypted.
    Crypto,
    /// Swap, a journal, a cache.
    Other,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the volume holds, if it is known.
    pub content: Option<Content>,
    /// What is odd about it, a sentence each.
    pub problems: Vec<String>,
}

/// A format.
struct Row {
    kind: &'static str,
    usage: Usage,
    /// Places of the magic, from the start of the volume. None at all: `parse` looks for itself.
    magics: &'static [(u64, &'static [u8])],
    /// Reads label and UUID; `None` when it is not this format after all. Given the magic's place in `magics`.
    parse: fn(&Probe<'_>, usize) -> Option<Content>,
}

/// Bytes at the start of a volume that are read at once: most magics lie there.
const HEAD: usize = 72 << 10;

/// Every format, in the order in which they are tried.
const TABLES: &[&[Row]] = &[
    raid::ROWS,
    members::ROWS,
    fat::ROWS,
    swap::ROWS,
    ext::ROWS,
    linux::ROWS,
    optical::ROWS,
    apple::ROWS,
    bsd::ROWS,
    windows::ROWS,
    clustered::ROWS,
];

/// What `source` holds. An unreadable place counts as one without a signature, and is said. Fails only when cancelled.
pub fn detect(source: &dyn BlockSource, effort: &Effort) -> Result<Found> {
    let probe = Probe::new(source);
    let mut found = Found::default();
    let mut others: Vec<&'static str> = Vec::new();
    'tables: for row in TABLES.iter().flat_map(|table| table.iter()) {
        effort.check()?;
        let Some(content) = row.find(&probe) else { continue };
        match &found.content {
            None => {
                let container = matches!(content.usage, Usage::Raid | Usage::Crypto);
                found.content = Some(content);
                // What shows through a container is not this volume's own.
                if container {
                    break 'tables;
                }
            }
            Some(first) if first.kind != content.kind && !tolerated(first.kind, content.kind) => {
                others.push(content.kind);
            }
            Some(_) => {}
        }
    }
    if found.content.is_none() {
        found = fallback(&probe);
    }
    if let (Some(content), [_, ..]) = (&found.content, &*others) {
        found.problems.push(format!(
            "it carries the signatures of {} and of {}; it is shown as {}",
            content.kind,
            others.join(", "),
            content.kind
        ));
    }
    if let Some(problem) = probe.unreadable {
        found.problems.push(problem);
    }
    Ok(found)
}

/// A format's spare superblock, where the first one is gone.
fn fallback(probe: &Probe<'_>) -> Found {
    let spare =
        ext::spare(probe).or_else(|| linux::btrfs_spare(probe)).or_else(|| windows::ntfs_spare(probe));
    spare.map_or_else(Found::default, |(content, at)| Found {
        problems: vec![format!(
            "the superblock of {} is damaged; it was recognised by the copy at byte {at}",
            content.kind
        )],
        content: Some(content),
    })
}

/// Pairs that share a volume by design: a bridge disc is both ISO 9660 and UDF, and swap space keeps what lay before it.
fn tolerated(first: &str, second: &str) -> bool {
    matches!((first, second), ("udf", "iso9660" | "hfsplus" | "hfs") | ("iso9660", "hfsplus" | "hfs"))
}

impl Row {
    fn find(&self, probe: &Probe<'_>) -> Option<Content> {
        let place = if self.magics.is_empty() {
            Some(0)
        } else {
            self.magics.iter().position(|(at, magic)| probe.has(*at, magic))
        };
        let mut content = (self.parse)(probe, place?)?;
        if content.kind.is_empty() {
            content.kind = self.kind;
        }
        content.usage = self.usage;
        Some(content)
    }
}

/// A parse function for formats that have no label and no UUID, or where they say nothing.
#[expect(clippy::unnecessary_wraps, reason = "the shape of a row's parse function")]
fn plain(_: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content::default())
}

/// Looks at a volume's bytes. What cannot be read is not there.
struct Probe<'a> {
    source: &'a dyn BlockSource,
    head: Vec<u8>,
    unreadable: Option<String>,
}

impl<'a> Probe<'a> {
    fn new(source: &'a dyn BlockSource) -> Self {
        let len = usize::try_from(source.len()).unwrap_or(usize::MAX).min(HEAD);
        let (head, unreadable) = match read_vec(source, 0, len) {
            Ok(head) => (head, None),
            Err(error) => (Vec::new(), Some(format!("its start cannot be read whole: {}", error.what()))),
        };
        Self { source, head, unreadable }
    }

    fn len(&self) -> u64 {
        self.source.len()
    }

    /// Fills `out` from `at`.
    fn fill(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let end = at.checked_add(out.len() as u64).filter(|end| *end <= self.len())?;
        let head = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        if let Some(bytes) = head.and_then(|(a, b)| self.head.get(a..b)) {
            out.copy_from_slice(bytes);
            return Some(());
        }
        self.source.read_at(at, out).ok()
    }

    fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        self.fill(at, &mut out)?;
        Some(out)
    }

    /// `len` bytes from `at`; meant for structures of at most some KiB.
    fn bytes(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        at.checked_add(len as u64).filter(|end| *end <= self.len())?;
        let mut out = vec![0; len];
        self.fill(at, &mut out)?;
        Some(out)
    }

    fn has(&self, at: u64, magic: &[u8]) -> bool {
        let mut buf = [0; 32];
        let Some(buf) = buf.get_mut(..magic.len()) else { return false };
        self.fill(at, buf).is_some() && buf == magic
    }

    fn le16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn le32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn le64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn be16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn be32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
}

/// The bytes of a structure already read, without field names: a short one is no structure.
fn view(data: &[u8]) -> Bytes<'_> {
    Bytes::new(data, "superblock")
}
