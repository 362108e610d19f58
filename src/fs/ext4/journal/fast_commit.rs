//! Fast commits: a log of changes to names, inodes and block maps behind the ordinary log
//! (`ext4_fc_replay_scan`, fs/ext4/fast_commit.c; the layouts are in fast_commit.h, little-endian).

use super::checksum::crc32c;
use super::log::Log;
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::{Error, Result};

const TAG_ADD_RANGE: u16 = 1;
const TAG_DEL_RANGE: u16 = 2;
const TAG_CREAT: u16 = 3;
const TAG_LINK: u16 = 4;
const TAG_UNLINK: u16 = 5;
const TAG_INODE: u16 = 6;
const TAG_PAD: u16 = 7;
const TAG_TAIL: u16 = 8;
const TAG_HEAD: u16 = 9;

/// Bytes of `struct ext4_fc_tl`, which starts every tag.
const TL_SIZE: usize = 4;
/// `EXT4_NAME_LEN`.
const NAME_MAX: usize = 255;
/// An extent longer than this is unwritten (`EXT_INIT_MAX_LEN`).
const INIT_MAX_LEN: u16 = 32768;
/// The largest fast commit area that is read, in bytes; mke2fs makes 256 blocks.
const AREA_MAX: u64 = 16 << 20;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The directory's inode.
    pub parent: u32,
    /// The inode that it names.
    pub ino: u32,
    /// Its bytes.
    pub name: Vec<u8>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `len` blocks of inode `ino` from `start` on lie at `block`.
    AddRange {
        /// The inode.
        ino: u32,
        /// Its first block.
        start: u32,
        /// How many blocks.
        len: u16,
        /// Where they lie, in blocks of the filesystem.
        block: u64,
        /// Allocated and never written.
        unwritten: bool,
    },
    /// `len` blocks of inode `ino` from `start` on are taken out.
    DelRange {
        /// The inode.
        ino: u32,
        /// Its first block.
        start: u32,
        /// How many blocks.
        len: u32,
    },
    /// A new inode gets its first name.
    Creat(Name),
    /// An inode gets a name.
    Link(Name),
    /// A name goes.
    Unlink(Name),
    /// The raw inode, up to the end of its extra fields; without what its sixty bytes of block map say.
    Inode {
        /// The inode.
        ino: u32,
        /// 128 bytes or more.
        raw: Vec<u8>,
    },
}

/// What the fast commit area holds.
#[derive(Debug, Default)]
pub struct FastCommits {
    /// The changes of all complete fast commits, in order.
    pub changes: Vec<Change>,
    /// How many complete fast commits there are.
    pub commits: u32,
    /// Why there are none although the area holds some of this transaction: the kernel refuses the mount.
    pub fault: Option<String>,
}

/// Reads the fast commits that follow the last full commit; `tid` is the transaction that was to come next.
pub fn scan(log: &Log, tid: u32, effort: &Effort) -> Result<FastCommits> {
    let mut scan = Scan { tid, crc: 0, pending: Vec::new(), found: FastCommits::default() };
    let size = u64::from(log.sb.block_size);
    let mut block = vec![0; log.block_size()];
    let mut read = 0u64;
    for number in log.sb.fast_commit.clone() {
        effort.check()?;
        read = read.saturating_add(size);
        if read > AREA_MAX {
            scan.fault(format!("more than {AREA_MAX} bytes"));
            break;
        }
        log.read(number, &mut block)?;
        if number == log.sb.fast_commit.start && tag(&block, 0)?.0 != TAG_HEAD {
            break;
        }
        if !scan.block(&block)? {
            break;
        }
    }
    Ok(scan.found)
}

struct Scan {
    tid: u32,
    crc: u32,
    /// Changes since the last TAIL.
    pending: Vec<Change>,
    found: FastCommits,
}

/// The number, the length and the value of the tag at byte `at` of `block`.
fn tag(block: &[u8], at: usize) -> Result<(u16, usize)> {
    let bytes = Bytes::new(block, "fast commit tag");
    let len = bytes.le16(at.saturating_add(2), "fc_len")?;
    Ok((bytes.le16(at, "fc_tag")?, usize::from(len)))
}

impl Scan {
    /// Takes in one block; false if the log ends in it.
    fn block(&mut self, block: &[u8]) -> Result<bool> {
        let mut at = 0usize;
        while at.saturating_add(TL_SIZE) <= block.len() {
            let (kind, len) = tag(block, at)?;
            let start = at.saturating_add(TL_SIZE);
            let end = start.saturating_add(len);
            let (Some(whole), Some(value)) = (block.get(at..end), block.get(start..end)) else {
                self.fault(format!("tag {kind} of {len} bytes reaches past its block"));
                return Ok(false);
            };
            if !self.tag(kind, whole, &Bytes::new(value, "fast commit tag"))? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    fn tag(&mut self, kind: u16, whole: &[u8], value: &Bytes<'_>) -> Result<bool> {
        match kind {
            TAG_HEAD => {
                let features = value.le32(0, "fc_features")?;
                if features != 0 {
                    let what = format!("fast commits: features {features:#x}");
                    return Err(Error::unsupported(what).hint("--no-replay reads the filesystem as it lies"));
                }
                if value.le32(4, "fc_tid")? != self.tid {
                    return Ok(false);
                }
            }
            TAG_TAIL => return self.tail(whole, value),
            TAG_PAD => {}
            _ => {
                let Some(change) = change(kind, value)? else {
                    self.fault(format!("tag {kind} of {} bytes", value.len()));
                    return Ok(false);
                };
                self.pending.push(change);
            }
        }
        self.crc = crc32c(self.crc, whole);
        Ok(true)
    }

    /// The end of a fast commit: its transaction, and the checksum of all tags since the last one.
    fn tail(&mut self, whole: &[u8], value: &Bytes<'_>) -> Result<bool> {
        let tid = value.le32(0, "fc_tid")?;
        let stored = value.le32(4, "fc_crc")?;
        let covered = whole.get(..TL_SIZE.saturating_add(4)).unwrap_or_default();
        let crc = crc32c(std::mem::take(&mut self.crc), covered);
        if tid != self.tid || crc != stored {
            self.fault(format!("the first of them has checksum {crc:#010x}, wanted {stored:#010x}"));
            return Ok(false);
        }
        self.found.changes.append(&mut self.pending);
        self.found.commits = self.found.commits.saturating_add(1);
        Ok(true)
    }

    /// Damage after a complete fast commit is the log's end; before any, it is an error.
    fn fault(&mut self, what: String) {
        if self.found.commits == 0 {
            self.found.fault = Some(what);
        }
    }
}

/// Decodes a change; `None` for one of no known kind or of a length that it cannot have
/// (`ext4_fc_value_len_isvalid`).
fn change(kind: u16, value: &Bytes<'_>) -> Result<Option<Change>> {
    let len = value.len();
    let name = || -> Result<Option<Name>> {
        let name = value.rest(8, "fc_dname")?;
        let sound = !name.is_empty() && name.len() <= NAME_MAX;
        let (parent, ino) = (value.le32(0, "fc_parent_ino")?, value.le32(4, "fc_ino")?);
        Ok(sound.then(|| Name { parent, ino, name: name.to_vec() }))
    };
    Ok(match kind {
        TAG_ADD_RANGE if len == 16 => {
            let stored = value.le16(8, "ee_len")?;
            let unwritten = stored > INIT_MAX_LEN;
            let high = u64::from(value.le16(10, "ee_start_hi")?);
            Some(Change::AddRange {
                ino: value.le32(0, "fc_ino")?,
                start: value.le32(4, "ee_block")?,
                len: if unwritten { stored.saturating_sub(INIT_MAX_LEN) } else { stored },
                block: high << 32 | u64::from(value.le32(12, "ee_start_lo")?),
                unwritten,
            })
        }
        TAG_DEL_RANGE if len == 12 => Some(Change::DelRange {
            ino: value.le32(0, "fc_ino")?,
            start: value.le32(4, "fc_lblk")?,
            len: value.le32(8, "fc_len")?,
        }),
        TAG_CREAT if len > 8 => name()?.map(Change::Creat),
        TAG_LINK if len > 8 => name()?.map(Change::Link),
        TAG_UNLINK if len > 8 => name()?.map(Change::Unlink),
        TAG_INODE if len >= 4 + 128 => {
            let raw = value.rest(4, "fc_raw_inode")?.to_vec();
            Some(Change::Inode { ino: value.le32(0, "fc_ino")?, raw })
        }
        _ => None,
    })
}
