//! ext4 journals made to hurt.

use std::ops::Range;
use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Run, Source, State};
use coldread::effort::Effort;
use coldread::error::Result;
use coldread::fs::ext4::journal::{self, Volume};
use coldread::fs::{FileType, Options, Stream};

use crate::harness::{Seed, failing_reads, in_child, mutate};
use crate::support::{Mount, need, need_root, shell, temp};

const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
const BLOCK: usize = 1024;

/// Opens a filesystem through its journal and goes through its names, within what a test can spend.
fn look(raw: Source) -> Result<()> {
    let options = Options { replay: true, cache: Cache::new(2 << 20), effort: Arc::new(Effort::default()) };
    let fs = coldread::fs::ext4::open(&[raw], &options)?;
    let mut todo = vec![fs.root()];
    let mut buf = vec![0; 4096];
    for _ in 0..300 {
        let Some(id) = todo.pop() else { break };
        let Ok(node) = fs.node(id) else { continue };
        if node.kind == FileType::Dir {
            let Ok(entries) = fs.entries(id) else { continue };
            todo.extend(entries.take(200).flatten().map(|entry| entry.id));
        } else if let Ok(content) = fs.open(id, Stream::Content) {
            let take = usize::try_from(content.len().min(4096)).unwrap();
            let _ = content.read_at(0, &mut buf[..take]);
            let _ = content.run_at(content.len() / 2);
        }
    }
    Ok(())
}

/// Gives every TAIL of the fast commit area the checksum of what is before it, so that what mutations made of the
/// area gets past that check.
fn reseal(bytes: &mut [u8]) {
    let head = [9, 0, 8, 0, 0, 0, 0, 0];
    let Some(start) = bytes.chunks_exact(BLOCK).position(|block| block.starts_with(&head)) else { return };
    let mut crc = 0u32;
    let add = |crc: u32, data: &[u8]| !crc32c::crc32c_append(!crc, data);
    for block in bytes.chunks_exact_mut(BLOCK).skip(start).take(256) {
        let mut at = 0;
        while at + 4 <= block.len() {
            let kind = u16::from_le_bytes([block[at], block[at + 1]]);
            let end = at + 4 + usize::from(u16::from_le_bytes([block[at + 2], block[at + 3]]));
            if end > block.len() || kind > 9 {
                return;
            }
            if kind == 8 && at + 12 <= end {
                let sum = add(crc, &block[at..at + 8]).to_le_bytes();
                block[at + 8..at + 12].copy_from_slice(&sum);
                crc = 0;
            } else {
                crc = add(crc, &block[at..end]);
            }
            at = end;
        }
    }
}

fn read(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    reseal(&mut bytes);
    let _ = look(Arc::new(Memory::new("image", bytes)));
}

/// Where the log's records and the fast commits lie: every block that begins as one of them.
fn hot(image: &[u8]) -> Vec<Range<usize>> {
    let fast = [9, 0, 8, 0];
    let mut hot = Vec::new();
    for (number, block) in image.chunks_exact(BLOCK).enumerate() {
        let at = number * BLOCK;
        if block.starts_with(&MAGIC) {
            // Descriptors and revoke blocks are tables at their start; the journal superblock is 256 bytes of fields.
            hot.push(at..at + 256);
        } else if block.starts_with(&fast) {
            hot.extend([at..at + BLOCK, at..at + BLOCK, at + BLOCK..at + 2 * BLOCK]);
        }
    }
    hot
}

/// Small filesystems that were copied while mounted.
fn seeds() -> Option<Vec<Seed>> {
    if !need(&["mkfs.ext4", "python3"]) || !need_root() {
        return None;
    }
    let work = r#"cd "$1"; mkdir d; for i in $(seq 30); do echo $i >d/$i; done; sync -f .; rm d/1*; rmdir lost+found; sync -f .
        python3 - <<'END'
import os
def w(name, data):
    f = os.open(name, os.O_RDWR | os.O_CREAT); os.write(f, data); os.fsync(f); os.close(f)
w('a', b'a' * 3000); w('b', b'b'); os.link('a', 'd/c'); w('a', b'c' * 9000); os.rename('b', 'd/2'); w('d/2', b'e'); os.unlink('a'); os.mkdir('n'); w('n/x', b'x')
f = os.open('n/x', os.O_RDWR); os.posix_fallocate(f, 0, 50000); os.fsync(f); os.ftruncate(f, 3); os.fsync(f)
END
        cp "$2" "$3""#;
    let mut seeds = Vec::new();
    for (name, mkfs) in [
        ("plain", "-O ^metadata_csum,^64bit -J size=1"),
        ("64bit", "-O ^metadata_csum,64bit -J size=1"),
        ("checksums", "-J size=1"),
        ("fast", "-O fast_commit,^metadata_csum -J size=1"),
        ("fast-checksums", "-O fast_commit -J size=1"),
    ] {
        let dir = temp();
        let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
        shell("truncate -s 4M $1; mkfs.ext4 -q -F -b 1024 -N 128 $2 $1", &[image.as_os_str(), mkfs.as_ref()]);
        let mount = Mount::new(&image, "ext4", "commit=300");
        shell(work, &[mount.path(), image.as_path(), copy.as_path()]);
        let bytes = std::fs::read(copy).unwrap();
        let hot = hot(&bytes);
        assert!(hot.len() > 4, "{name}: no log in it");
        seeds.push(Seed { name, bytes, hot });
    }
    Some(seeds)
}

#[test]
fn mutated_journals() {
    mutate("journal::mutated_journals", 120, seeds, read);
}

/// A journal superblock of version 2 without features: a log of `blocks` blocks from block 1 on, transaction 1.
fn superblock(blocks: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..4].copy_from_slice(&MAGIC);
    for (at, value) in [(4, 4), (12, 1024), (16, blocks), (20, 1), (24, 1), (28, 1)] {
        block[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
    }
    block
}

/// A record of transaction 1 with `body` after its header.
fn record(kind: u32, body: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let words = [kind, 1].into_iter().chain(body).flat_map(u32::to_be_bytes);
    let mut block: Vec<u8> = MAGIC.into_iter().chain(words).collect();
    block.resize(BLOCK, 0);
    block
}

/// A journal of 2^42 bytes that has the same block everywhere behind its superblock: shared extents make one.
struct Endless(Arc<str>, Vec<u8>, Vec<u8>);

impl BlockSource for Endless {
    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn len(&self) -> u64 {
        1 << 42
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let block = if offset < BLOCK as u64 { &self.1 } else { &self.2 };
        for (at, byte) in (offset..).zip(buf) {
            *byte = block[usize::try_from(at).unwrap() % BLOCK];
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        Ok(Run::own(self.len() - offset, State::Data))
    }
}

/// Logs that bite their own tail or never end are cut at the size of the volume, and nothing of them is applied.
#[test]
fn logs_without_an_end() {
    in_child(
        "journal::logs_without_an_end",
        || Some(()),
        |(), note| {
            let volume = Volume { block_size: 1024, blocks: 20_000, needs_recovery: true };
            let raw: Source = Arc::new(Memory::new("raw", vec![0; 4096]));
            // A descriptor with no tag that is the last, one with the longest list of tags, a revoke block, a commit.
            let tags = (0..126).flat_map(|i| [i, 2]);
            let blocks = [
                record(1, [1, 8 | 2]),
                record(1, tags),
                record(5, [BLOCK.try_into().unwrap()].into_iter().chain(0..).take(253)),
                record(1, []),
            ];
            for (number, block) in blocks.into_iter().enumerate() {
                note.turn_to(number as u64);
                let journal: Source = Arc::new(Endless("journal".into(), superblock(u32::MAX), block));
                let effort = Effort::default();
                let replayed = journal::replay(&raw, &volume, &journal, &effort).unwrap();
                assert!(!replayed.changed, "{}", replayed.summary);
                assert_eq!(effort.findings().0.len(), 1, "{}", replayed.summary);
            }
        },
    );
}

/// A transaction of a hundred thousand blocks, each begun with the magic, and revoke records for more blocks than there
/// are: what is kept is bounded by the tags, and no block is copied.
#[test]
fn large_transactions_are_not_copied() {
    in_child(
        "journal::large_transactions_are_not_copied",
        || Some(()),
        |(), note| {
            note.turn_to(0);
            let mut journal = superblock(70_000);
            let data = record(9, []);
            for i in 0..400u32 {
                let tags = (0..124u32).flat_map(|t| [i * 124 + t + 1, 2 | 1 | if t == 123 { 8 } else { 0 }]);
                journal.extend(record(1, tags));
                (0..124).for_each(|_| journal.extend(&data));
                journal.extend(record(5, [1024].into_iter().chain(200_000 + i * 300..).take(253)));
            }
            journal.extend(record(2, []));
            journal.resize(70_000 * BLOCK, 0);
            let journal: Source = Arc::new(Memory::new("journal", journal));
            let raw: Source = Arc::new(Memory::new("raw", vec![0; 8 << 20]));
            let volume = Volume { block_size: 1024, blocks: 100_000, needs_recovery: true };
            let effort = Effort::default();
            let replayed = journal::replay(&raw, &volume, &journal, &effort).unwrap();
            assert!(replayed.changed && effort.findings().0.is_empty(), "{}", replayed.summary);
            let mut block = vec![0; BLOCK];
            replayed.source.read_at(BLOCK as u64, &mut block).unwrap();
            assert!(block.starts_with(&MAGIC));
        },
    );
}

/// A journal on a disk that fails: every read from the Nth on, for every N that replay takes.
#[test]
fn failing_journals() {
    in_child("journal::failing_journals", seeds, |seeds, note| {
        for (number, seed) in seeds.into_iter().enumerate() {
            note.turn_to(number as u64);
            let source: Source = Arc::new(Memory::new("image", seed.bytes));
            let reads = failing_reads(&source, 60, |source| {
                let _ = look(source);
            });
            assert!(reads > 10, "{}: {reads} reads", seed.name);
        }
    });
}
