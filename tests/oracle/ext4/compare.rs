//! One tree, read here and by the kernel.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use coldread::block::trace::state_at;
use coldread::block::{Source, State};
use coldread::fs::{FileSystem, FileType, InodeState, Node, NodeId, Stream, Time};
use nix::sys::stat::{major, minor};
use nix::unistd::Whence;

use crate::support::{repository, run, text};

/// What is compared.
#[derive(Clone, Copy)]
pub struct Same {
    /// The kernel's view of the same filesystem, not the tree that mke2fs copied: inode numbers, all times, holes.
    pub kernel: bool,
    /// Extended attributes; revision 0 has none.
    pub attributes: bool,
}

/// Compares all below `root`, in both directions.
pub fn compare(fs: &dyn FileSystem, root: &Path, same: Same) -> usize {
    let mut attributes = attributes(root);
    let mut inodes = HashMap::new();
    let mut stack = vec![(fs.root(), root.to_path_buf())];
    let mut seen = 0;
    while let Some((id, path)) = stack.pop() {
        seen += 1;
        let relative = path.strip_prefix(root).unwrap();
        let context = relative.display().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        let node = fs.node(id).unwrap_or_else(|e| panic!("{context}: {e}"));
        // Hard links: one node there is one node here.
        assert_eq!(*inodes.entry(meta.ino()).or_insert(id), id, "{context}: a hard link");
        metadata(&node, &meta, &context, same);
        let ours: BTreeMap<_, _> =
            fs.attributes(id).unwrap().into_iter().map(|a| (a.name, a.value)).collect();
        let key = if context.is_empty() { b".".to_vec() } else { relative.as_os_str().as_bytes().to_vec() };
        let theirs = attributes.remove(&key).unwrap_or_default();
        assert!(!same.attributes || ours == theirs, "{context}: {ours:?}, there {theirs:?}");
        match node.kind {
            FileType::Dir => children(fs, id, &path, same, &mut stack),
            FileType::Symlink => {
                let target = fs::read_link(&path).unwrap().into_os_string().into_vec();
                assert_eq!(fs.link(id).unwrap(), target, "{context}: target");
            }
            FileType::File => {
                let source = fs.open(id, Stream::Content).unwrap();
                content(&source, &path, &context, same);
            }
            _ => {}
        }
    }
    assert!(attributes.is_empty(), "attributes of {:?}", attributes.keys());
    seen
}

fn metadata(node: &Node, meta: &fs::Metadata, context: &str, same: Same) {
    let kind = meta.file_type();
    let wanted = if kind.is_dir() {
        FileType::Dir
    } else if kind.is_file() {
        FileType::File
    } else if kind.is_symlink() {
        FileType::Symlink
    } else if kind.is_fifo() {
        FileType::Fifo
    } else if kind.is_socket() {
        FileType::Socket
    } else if kind.is_char_device() {
        FileType::Char
    } else {
        FileType::Block
    };
    assert_eq!(node.kind, wanted, "{context}: type");
    assert_eq!(u32::from(node.mode), meta.mode() & 0o7777, "{context}: mode");
    assert_eq!((node.uid, node.gid), (meta.uid(), meta.gid()), "{context}: owner");
    let time = |seconds, ns: i64| Some(Time { seconds, nanoseconds: u32::try_from(ns).unwrap() });
    assert_eq!(node.state, InodeState::Live, "{context}: state");
    assert_eq!(node.dtime, None, "{context}: dtime");
    if wanted != FileType::Dir || same.kernel {
        assert_eq!(node.size, meta.len(), "{context}: size");
        assert_eq!(u64::from(node.nlink), meta.nlink(), "{context}: links");
        let seconds = meta.mtime();
        if same.kernel {
            assert_eq!(node.mtime, time(seconds, meta.mtime_nsec()), "{context}: mtime");
        } else if i32::try_from(seconds).is_ok() {
            // mke2fs copies whole seconds, and 32 bits of them.
            assert_eq!(node.mtime.map(|t| t.seconds), Some(seconds), "{context}: mtime");
        }
    }
    let rdev =
        matches!(wanted, FileType::Char | FileType::Block).then(|| (major(meta.rdev()), minor(meta.rdev())));
    let rdev = rdev.map(|(a, b)| (u32::try_from(a).unwrap(), u32::try_from(b).unwrap()));
    assert_eq!(node.rdev, rdev, "{context}: device");
    if same.kernel {
        assert_eq!(node.id.ino, meta.ino(), "{context}: inode");
        assert_eq!(node.atime, time(meta.atime(), meta.atime_nsec()), "{context}: atime");
        assert_eq!(node.ctime, time(meta.ctime(), meta.ctime_nsec()), "{context}: ctime");
        if let Some(crtime) = node.crtime
            && let Ok(born) = meta.created()
        {
            let born = born.duration_since(UNIX_EPOCH).unwrap();
            let born = time(i64::try_from(born.as_secs()).unwrap(), born.subsec_nanos().into());
            assert_eq!(Some(crtime), born, "{context}: crtime");
        }
    }
}

fn children(fs: &dyn FileSystem, id: NodeId, path: &Path, same: Same, stack: &mut Vec<(NodeId, PathBuf)>) {
    let mut theirs: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        theirs.insert(entry.file_name().into_vec(), entry.metadata().map(|m| m.ino()).unwrap());
    }
    let mut listed: Vec<_> =
        fs.entries(id).unwrap().map(|e| e.unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect();
    if !same.kernel {
        // mke2fs makes it, and copies everything else.
        listed.retain(|entry| entry.name != b"lost+found");
    }
    let mut ours: Vec<&[u8]> = listed.iter().map(|e| &e.name[..]).collect();
    ours.sort_unstable();
    let names: Vec<&[u8]> = theirs.keys().map(|name| &name[..]).collect();
    assert_eq!(ours, names, "{}: names", path.display());
    for (i, entry) in listed.iter().enumerate() {
        // Looking up is another way than listing; in a large directory some are enough.
        if listed.len() < 300 || i % 17 == 0 {
            let found = fs.lookup(id, &entry.name).unwrap();
            assert_eq!(found.as_ref(), Some(entry), "{}: lookup", path.display());
        }
        stack.push((entry.id, path.join(std::ffi::OsStr::from_bytes(&entry.name))));
    }
    for absent in [&b"no such name"[..], b"entry number", b"\xff"] {
        assert!(theirs.contains_key(absent) || fs.lookup(id, absent).unwrap().is_none());
    }
}

/// Compares all that is not a hole here, and that the rest are zeros there.
fn content(source: &Source, path: &Path, context: &str, same: Same) {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{context}: {e}"));
    // Before anything is read: what is in the page cache counts as data, also where nothing was written.
    let kernel = data_of(&file);
    let mut offset = 0;
    let (mut ours, mut theirs) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    let mut data = Vec::new();
    while offset < source.len() {
        let run = source.run_at(offset).unwrap();
        assert!(run.len > 0 && run.len <= source.len() - offset, "{context}: run at {offset}");
        if run.state == State::Data {
            data.push(offset..offset + run.len);
            let mut at = offset;
            while at < offset + run.len {
                let n = usize::try_from((offset + run.len - at).min(1 << 18)).unwrap();
                source.read_at(at, &mut ours[..n]).unwrap_or_else(|e| panic!("{context}: {e}"));
                file.read_exact_at(&mut theirs[..n], at).unwrap();
                assert!(ours[..n] == theirs[..n], "{context}: content at {at}");
                at += n as u64;
            }
        } else {
            assert_ne!(run.state, State::Lost, "{context}: lost at {offset}");
            assert_eq!(state_at(&**source, offset).unwrap().0, run.state);
        }
        offset += run.len;
    }
    if same.kernel {
        let ours = data.iter().map(|range| range.end - range.start).sum::<u64>();
        let theirs = kernel.iter().map(|range| range.end - range.start).sum::<u64>();
        for range in &kernel {
            let overlap = data.iter().map(|r| r.end.min(range.end).saturating_sub(r.start.max(range.start)));
            assert_eq!(
                overlap.sum::<u64>(),
                range.end - range.start,
                "{context}: data {range:?}, here {data:?}"
            );
        }
        assert_eq!(ours, theirs, "{context}: {data:?} for {kernel:?}");
    }
}

/// Data as SEEK_DATA and SEEK_HOLE give it.
fn data_of(file: &fs::File) -> Vec<Range<u64>> {
    let (mut at, mut all) = (0, Vec::new());
    while let Ok(start) = seek(file, at, Whence::SeekData) {
        at = seek(file, start, Whence::SeekHole).unwrap();
        all.push(start..at);
    }
    all
}

fn seek(file: &fs::File, at: u64, whence: Whence) -> nix::Result<u64> {
    nix::unistd::lseek(file, i64::try_from(at).unwrap(), whence).map(i64::unsigned_abs)
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn attributes(root: &Path) -> HashMap<Vec<u8>, Pairs> {
    let script = repository("tests/oracle/ext4/attributes.py");
    let out = text(run("python3", &[script.as_os_str(), root.as_os_str()]));
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let path = unhex(words.next().unwrap());
        let pair = |word: &str| word.split_once('=').map(|(n, v)| (unhex(n), unhex(v))).unwrap();
        (path, words.map(pair).collect())
    };
    out.lines().map(parse).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}
