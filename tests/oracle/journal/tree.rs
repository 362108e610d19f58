//! Every name of a filesystem, as it is read here and as the kernel shows it.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::{BUDGET, Cache};
use coldread::block::file::HostFile;
use coldread::effort::Effort;
use coldread::fs::{FileType, Options, Stream};

use crate::support::Mount;

/// What must be the same of one name here and on the kernel's mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: FileType,
    mode: u32,
    owner: (u32, u32),
    links: u32,
    size: u64,
    times: Option<[(i64, i64); 3]>,
    rdev: Option<(u32, u32)>,
    /// The target of a link, the content of a file; of a large one its two ends.
    pub content: Vec<u8>,
}

const END: u64 = 1 << 20;

fn ends(len: u64, mut read: impl FnMut(u64, &mut [u8])) -> Vec<u8> {
    let pieces = if len <= 8 * END { vec![(0, len)] } else { vec![(0, END), (len - END, END)] };
    let mut all = Vec::new();
    for (at, len) in pieces {
        let mut piece = vec![0; usize::try_from(len).unwrap()];
        read(at, &mut piece);
        all.append(&mut piece);
    }
    all
}

/// Every name below the root, as it is read here. Times and sizes of directories are left out on demand: the kernel grows a
/// directory while it replays fast commits, block by block as it then splits them.
pub fn our_tree(image: &Path, dir_times: bool) -> (BTreeMap<Vec<u8>, Facts>, Arc<Effort>, Option<String>) {
    let raw: Source = Arc::new(HostFile::new("image", std::fs::File::open(image).unwrap()).unwrap());
    let effort = Arc::new(Effort::default());
    let options = Options { replay: true, cache: Cache::new(BUDGET), effort: Arc::clone(&effort) };
    let fs = coldread::fs::ext4::open(&[raw], &options).unwrap();
    let mut tree = BTreeMap::new();
    let mut todo = vec![(Vec::new(), fs.root())];
    while let Some((path, id)) = todo.pop() {
        let node = fs.node(id).unwrap_or_else(|e| panic!("{}: {e}", path.escape_ascii()));
        let time = |t: Option<coldread::fs::Time>| t.map(|t| (t.seconds, t.nanoseconds.into())).unwrap();
        let content = match node.kind {
            FileType::Symlink => fs.link(id).unwrap(),
            FileType::File => {
                let content = fs.open(id, Stream::Content).unwrap();
                ends(content.len(), |at, buf| content.read_at(at, buf).unwrap())
            }
            _ => Vec::new(),
        };
        if node.kind == FileType::Dir {
            for entry in fs.entries(id).unwrap() {
                let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", path.escape_ascii()));
                let found = fs.lookup(id, &entry.name).unwrap().expect("a listed name is found");
                assert_eq!(found.id, entry.id);
                let name = [path.as_slice(), b"/", &entry.name].concat();
                todo.push((name, entry.id));
            }
        }
        let facts = Facts {
            kind: node.kind,
            mode: node.mode.into(),
            owner: (node.uid, node.gid),
            links: node.nlink,
            size: if dir_times || node.kind != FileType::Dir { node.size } else { 0 },
            times: (dir_times || node.kind != FileType::Dir)
                .then(|| [time(node.mtime), time(node.ctime), time(node.crtime.or(Some(NO_TIME)))]),
            rdev: node.rdev,
            content,
        };
        tree.insert(path, facts);
    }
    let replay = fs.facts().replay.clone();
    (tree, effort, replay)
}

const NO_TIME: coldread::fs::Time = coldread::fs::Time { seconds: 0, nanoseconds: 0 };

/// The same of a mounted filesystem.
fn kernel_tree(root: &Path, dir_times: bool) -> BTreeMap<Vec<u8>, Facts> {
    let mut tree = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let kind = FileType::from_mode(meta.mode());
        let content = match kind {
            FileType::Symlink => std::fs::read_link(&path).unwrap().into_os_string().into_vec(),
            FileType::File => {
                let file = std::fs::File::open(&path).unwrap();
                ends(meta.size(), |at, buf| file.read_exact_at(buf, at).unwrap())
            }
            _ => Vec::new(),
        };
        if kind == FileType::Dir {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let created = meta.created().ok().map(|t| t.duration_since(std::time::UNIX_EPOCH).unwrap());
        let created = created.map_or((0, 0), |t| (t.as_secs().cast_signed(), t.subsec_nanos().into()));
        let device = matches!(kind, FileType::Char | FileType::Block);
        let facts = Facts {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            links: u32::try_from(meta.nlink()).unwrap(),
            size: if dir_times || kind != FileType::Dir { meta.size() } else { 0 },
            times: (dir_times || kind != FileType::Dir)
                .then(|| [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()), created]),
            rdev: device.then(|| {
                let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
                (u32::try_from(major).unwrap(), u32::try_from(minor).unwrap())
            }),
            content,
        };
        let name = path.as_os_str().as_bytes()[root.as_os_str().len()..].to_vec();
        tree.insert(name, facts);
    }
    tree
}

/// Opens `copy` here, lets the kernel recover another copy of it, and compares what both show.
pub fn as_the_kernel_shows(case: &str, kind: &str, copy: &Path, dir_times: bool) -> String {
    let recovered = copy.with_extension("kernel");
    std::fs::copy(copy, &recovered).unwrap();
    let (ours, effort, replay) = our_tree(copy, dir_times);
    let theirs = {
        let mount = Mount::new(&recovered, kind, "noatime");
        kernel_tree(mount.path(), dir_times)
    };
    let brief = |facts: Option<&Facts>| {
        facts.map(|f| {
            format!(
                "{:?}",
                Facts { content: f.content[..f.content.len().min(40)].to_vec(), times: f.times, ..*f }
            )
        })
    };
    for name in ours.keys().chain(theirs.keys()) {
        let (a, b) = (ours.get(name), theirs.get(name));
        assert!(a == b, "{case}: {}\n ours   {:?}\n kernel {:?}", name.escape_ascii(), brief(a), brief(b));
    }
    let findings = effort.findings().0;
    assert!(findings.is_empty(), "{case}: {findings:?}");
    replay.unwrap_or_default()
}
