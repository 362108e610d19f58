//! ext2, ext3 and ext4 made to hurt.

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{Source, State};
use coldread::effort::Effort;
use coldread::error::{Kind, Result};
use coldread::fs::{FileSystem, NodeId, Options, READERS, Stream};

use crate::harness::{Seed, failing_reads, in_child, mutate};
use crate::support::{need, shell, temp};

fn open(source: Source, replay: bool) -> Result<Arc<dyn FileSystem>> {
    let options = Options { replay, cache: Cache::new(4 << 20), effort: Arc::new(Effort::default()) };
    let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).unwrap();
    (reader.open)(&[source], &options)
}

/// Reads all that a node has, within what a test can spend.
fn node(fs: &dyn FileSystem, id: NodeId) {
    let _ = (fs.node(id), fs.attributes(id), fs.link(id), fs.streams(id));
    let _ = fs.footprint(id, &mut |range, _| assert!(range.start < range.end));
    for stream in [Stream::Content, Stream::Slack] {
        let Ok(source) = fs.open(id, stream) else { continue };
        let mut buf = vec![0; 20_000];
        let mut at = 0;
        for _ in 0..100 {
            if at >= source.len() {
                break;
            }
            let run = source.run_at(at).unwrap();
            assert!(run.len > 0 && run.len <= source.len() - at);
            let state = run.state;
            let take = usize::try_from(run.len.min(20_000)).unwrap();
            let read = source.read_at(at, &mut buf[..take]);
            assert!(state != State::Lost || read.is_err(), "lost and yet read");
            assert!(!state.reads_zero() || read.is_ok() && buf[..take].iter().all(|b| *b == 0));
            at += run.len;
        }
    }
}

/// Goes through the tree and looks at everything.
fn look(source: Source, replay: bool) -> Result<()> {
    let fs = open(source, replay)?;
    let mut stack = vec![fs.root()];
    stack.extend(fs.orphans()?);
    stack.push(NodeId::new(7));
    let mut looked = 0;
    while let Some(id) = stack.pop() {
        looked += 1;
        if looked > 120 {
            break;
        }
        node(&*fs, id);
        let Ok(entries) = fs.entries(id) else { continue };
        for entry in entries.take(300).flatten() {
            assert!(!entry.name.is_empty() && !entry.name.iter().any(|b| matches!(b, 0 | b'/')));
            let _ = fs.lookup(id, &entry.name);
            stack.push(entry.id);
        }
        let _ = fs.lookup(id, b"not there");
    }
    Ok(())
}

fn read(bytes: &[u8]) {
    for replay in [true, false] {
        let _ = look(Arc::new(Memory::new("image", bytes)), replay);
    }
}

/// Small images of every kind, and where their tables are.
fn seeds() -> Option<Vec<Seed>> {
    if !need(&["mke2fs", "debugfs", "python3"]) {
        return None;
    }
    let dir = temp();
    shell(
        r#"cd "$1"; mkdir -p tree/d/e tree/many; echo content >tree/file; ln -s file tree/short
        ln -s "$(printf 'x%.0s' $(seq 100))" tree/long; mkfifo tree/fifo; ln tree/file tree/hard
        for i in $(seq 60); do : >"tree/many/a name of some length, number $i"; done
        python3 - <<'END'
import os
with open("tree/pieces", "wb") as f:
    for i in range(40):
        os.pwrite(f.fileno(), b"piece" * 100, i * 8192)
os.truncate("tree/pieces", 1 << 30)
os.setxattr("tree/file", "user.a", b"b" * 300)
os.setxattr("tree/d", "user.inline", b"c")
END
        make() { name=$1; shift; truncate -s 1M $name; mke2fs -q -F -d tree -N 128 -U 6f6c6420-7265-6164-2065-787434210a0a "$@" $name; }
        make ext2 -t ext2 -b 1024
        make ext4 -t ext4 -b 1024 -O ^has_journal,inline_data,ea_inode
        make plain -t ext4 -b 1024 -O ^has_journal,^metadata_csum,^uninit_bg,inline_data
        truncate -s 3M journal; mke2fs -q -F -d tree -t ext4 -b 1024 -O ^metadata_csum,orphan_file -J size=1 -N 128 journal
        e2fsck -fyD plain >/dev/null || true"#,
        &[dir.path()],
    );
    let seed = |name: &'static str| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        // Superblock and descriptors, then the inodes and the first directories.
        Seed { name, bytes, hot: vec![1024..1424, 2048..2112, 8 << 10..48 << 10, 40 << 10..160 << 10] }
    };
    Some(["ext2", "ext4", "plain", "journal"].map(seed).into())
}

#[test]
fn mutations_of_small_filesystems() {
    mutate("ext4::mutations_of_small_filesystems", 80, seeds, read);
}

#[test]
fn reads_that_fail() {
    in_child("ext4::reads_that_fail", seeds, |seeds, note| {
        for (number, seed) in seeds.into_iter().enumerate() {
            note.turn_to(number as u64);
            let source: Source = Arc::new(Memory::new("image", seed.bytes));
            let reads = failing_reads(&source, 40, |source| {
                let _ = look(source, true);
            });
            assert!(reads > 3, "{}: {reads} reads", seed.name);
        }
    });
}

/// A filesystem made by mke2fs without checksums, for one patch each.
struct Patched {
    bytes: Vec<u8>,
}

impl Patched {
    fn new() -> Option<Self> {
        seeds().map(|seeds| Self { bytes: seeds.into_iter().find(|s| s.name == "plain").unwrap().bytes })
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get32(&self, at: usize) -> usize {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Where inode `ino` lies: all are in group 0.
    fn inode(&self, ino: u64) -> usize {
        self.get32(2048 + 8) * 1024 + (usize::try_from(ino).unwrap() - 1) * 256
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        open(Arc::new(Memory::new("image", &self.bytes[..])), true).unwrap()
    }

    fn id(&self, name: &[u8]) -> NodeId {
        let fs = self.fs();
        fs.lookup(fs.root(), name).unwrap().unwrap().id
    }

    /// Makes `i_block` of inode `ino` an extent root: header, then entries.
    fn extents(&mut self, ino: u64, depth: u16, entries: &[[u8; 12]]) {
        let at = self.inode(ino) + 0x28;
        self.put(at - 8, &0x8_0000u32.to_le_bytes());
        self.put(at, &node_bytes(depth, 4, entries));
    }
}

fn node_bytes(depth: u16, max: u16, entries: &[[u8; 12]]) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap();
    let mut out: Vec<u8> =
        [0xf30a, count, max, depth, 0, 0].iter().flat_map(|v: &u16| v.to_le_bytes()).collect();
    out.extend(entries.iter().flatten());
    out
}

fn index(block: u32, leaf: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&block.to_le_bytes());
    out[4..8].copy_from_slice(&leaf.to_le_bytes());
    out
}

fn extent(block: u32, len: u16, start: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&block.to_le_bytes());
    out[4..6].copy_from_slice(&len.to_le_bytes());
    out[8..].copy_from_slice(&start.to_le_bytes());
    out
}

fn set_size(image: &mut Patched, ino: u64, size: u64) {
    let at = image.inode(ino);
    let [a, b, c, d, e, f, g, h] = size.to_le_bytes();
    image.put(at + 4, &[a, b, c, d]);
    image.put(at + 0x6c, &[e, f, g, h]);
}

#[test]
fn a_size_of_two_to_the_63_is_one_hole() {
    in_child("ext4::a_size_of_two_to_the_63_is_one_hole", Patched::new, |mut image, note| {
        note.turn_to(0);
        let id = image.id(b"pieces");
        image.extents(id.ino, 0, &[]);
        set_size(&mut image, id.ino, (1 << 63) - 1);
        let source = image.fs().open(id, Stream::Content).unwrap();
        let run = source.run_at(0).unwrap();
        assert_eq!((run.len, run.state), ((1 << 63) - 1, State::Hole));
        let mut end = [1; 16];
        source.read_at((1 << 63) - 17, &mut end).unwrap();
        assert_eq!(end, [0; 16]);
        node(&*image.fs(), id);
    });
}

#[test]
fn shared_and_looping_extent_blocks_are_lost_where_they_do_not_belong() {
    let name = "ext4::shared_and_looping_extent_blocks_are_lost_where_they_do_not_belong";
    in_child(name, Patched::new, |mut image, note| {
        note.turn_to(0);
        let id = image.id(b"pieces");
        // Block 900 is a leaf for blocks 0 to 9; both indexes lead to it.
        image.put(900 * 1024, &node_bytes(0, 84, &[extent(0, 10, 901)]));
        image.put(901 * 1024, &[b'x'; 10 * 1024]);
        image.extents(id.ino, 1, &[index(0, 900), index(100, 900)]);
        set_size(&mut image, id.ino, 1 << 20);
        let source = image.fs().open(id, Stream::Content).unwrap();
        let states = |source: &Source| {
            let (mut at, mut states) = (0, Vec::new());
            while at < source.len() {
                let run = source.run_at(at).unwrap();
                states.push((run.len / 1024, run.state));
                at += run.len;
            }
            states
        };
        // Through the second index the leaf has nothing of its range; what it says of other ranges does not count.
        let found = states(&source);
        assert_eq!(found[0], (10, State::Data));
        assert!(found[1..].iter().all(|(_, state)| *state != State::Data), "{found:?}");
        note.turn_to(1);
        // A node that is its own child, and one whose depth lies.
        image.put(900 * 1024, &node_bytes(1, 84, &[index(0, 900), index(50, 900)]));
        image.extents(id.ino, 2, &[index(0, 900)]);
        let source = image.fs().open(id, Stream::Content).unwrap();
        assert_eq!(source.run_at(0).unwrap().state, State::Lost);
        let error = source.read_at(0, &mut [0; 10]).unwrap_err();
        assert_eq!((error.kind(), error.range()), (Kind::Corrupt, Some(0..50 * 1024)));
        image.extents(id.ino, 5, &[index(0, 900)]);
        let source = image.fs().open(id, Stream::Content).unwrap();
        assert_eq!(states(&source).len(), 1);
        assert_eq!(source.run_at(0).unwrap().state, State::Lost);
    });
}

#[test]
fn a_rotten_directory_is_corrupt_and_keeps_its_other_entries() {
    let name = "ext4::a_rotten_directory_is_corrupt_and_keeps_its_other_entries";
    in_child(name, Patched::new, |mut image, note| {
        note.turn_to(0);
        let root = image.get32(image.inode(2) + 0x28 + 20) * 1024;
        let fs = image.fs();
        let names = fs.entries(fs.root()).unwrap().count();
        // The third entry gets a length of 0: what lies after it in the block cannot be found.
        let third = root + 24;
        image.put(third + 4, &[0, 0]);
        let fs = image.fs();
        let all: Vec<_> = fs.entries(fs.root()).unwrap().collect();
        assert!(all.iter().any(Result::is_err) && all.len() < names);
        assert_eq!(fs.lookup(fs.root(), b"pieces").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(fs.lookup(fs.root(), b"not there").unwrap_err().kind(), Kind::Corrupt);
    });
}

#[test]
fn an_orphan_list_that_loops_ends() {
    in_child("ext4::an_orphan_list_that_loops_ends", Patched::new, |mut image, note| {
        note.turn_to(0);
        let (a, b) = (image.id(b"file").ino, image.id(b"pieces").ino);
        for (ino, next) in [(a, b), (b, a)] {
            let at = image.inode(ino);
            image.put(at + 0x14, &u32::try_from(next).unwrap().to_le_bytes());
            image.put(at + 0x1a, &[0, 0]);
        }
        image.put(1024 + 0xe8, &u32::try_from(a).unwrap().to_le_bytes());
        let mut wanted = [a, b].map(NodeId::new);
        wanted.sort();
        assert_eq!(image.fs().orphans().unwrap(), wanted);
    });
}

#[test]
fn counts_that_lie_are_refused() {
    in_child("ext4::counts_that_lie_are_refused", Patched::new, |image, note| {
        let patches: [(usize, &[u8]); 6] = [
            (0x18, &[7, 0, 0, 0]),
            (0x20, &[0, 0, 0, 0]),
            (0x28, &[0, 0, 0, 0]),
            (0x28, &[255, 255, 255, 255]),
            (0x58, &[3, 0]),
            (0x14, &[255, 255, 255, 255]),
        ];
        for (number, (at, bytes)) in patches.into_iter().enumerate() {
            note.turn_to(number as u64);
            let mut bad = Patched { bytes: image.bytes.clone() };
            bad.put(1024 + at, bytes);
            // There is one group and so no backup.
            let opened = open(Arc::new(Memory::new("image", &bad.bytes[..])), true);
            assert_eq!(opened.err().map(|e| e.kind()), Some(Kind::Corrupt), "at {at:#x}");
        }
        note.turn_to(99);
        let mut bad = Patched { bytes: image.bytes.clone() };
        bad.put(1024 + 0x60, &[0, 0, 0, 0x80]);
        let opened = open(Arc::new(Memory::new("image", &bad.bytes[..])), true);
        assert_eq!(opened.err().map(|e| e.kind()), Some(Kind::Unsupported));
    });
}
