//! ext2, ext3 and ext4 that others made, held against the kernel's mount, the digests that came with them, and each
//! other.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::{BUDGET, Cache};
use coldread::block::file::HostFile;
use coldread::block::trace::step;
use coldread::effort::Effort;
use coldread::error::Kind;
use coldread::fs::{FileSystem, FileType, NodeId, Options, READERS, Stream};
use sha2::{Digest as _, Sha256};

use crate::images::try_open;
use crate::support::{Mount, corpus, need, need_root, run, shell, temp, text};

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    Dir,
    /// Size and digest.
    File(u64, String),
    Link(Vec<u8>),
    /// Encrypted: the key is not there.
    Refused,
    Other(char),
}

type Tree = BTreeMap<Vec<u8>, Held>;

fn open(source: Source) -> (Arc<dyn FileSystem>, Arc<Effort>) {
    let effort = Arc::new(Effort::default());
    let options = Options { replay: true, cache: Cache::new(BUDGET), effort: Arc::clone(&effort) };
    let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).unwrap();
    ((reader.open)(&[source], &options).unwrap(), effort)
}

fn raw(path: &Path) -> Source {
    Arc::new(HostFile::new("image", fs::File::open(path).unwrap()).unwrap())
}

fn bytes(source: &Source) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(source.len()).unwrap()];
    source.read_at(0, &mut bytes).unwrap();
    bytes
}

fn digest(source: &Source) -> String {
    let (mut hash, mut at, mut buf) = (Sha256::new(), 0, vec![0; 1 << 20]);
    while at < source.len() {
        let take = usize::try_from((source.len() - at).min(1 << 20)).unwrap();
        source.read_at(at, &mut buf[..take]).unwrap();
        hash.update(&buf[..take]);
        at += take as u64;
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The whole tree of `fs`.
fn ours(fs: &dyn FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut stack = vec![(Vec::new(), fs.root())];
    while let Some((path, id)) = stack.pop() {
        for entry in fs.entries(id).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(fs.lookup(id, &entry.name).unwrap().as_ref(), Some(&entry));
            let (path, node) = (joined(&path, &entry.name), fs.node(entry.id).unwrap());
            let held = match node.kind {
                FileType::Dir => {
                    stack.push((path.clone(), entry.id));
                    Held::Dir
                }
                FileType::File => match fs.open(entry.id, Stream::Content) {
                    Ok(source) => Held::File(source.len(), digest(&source)),
                    Err(error) if error.kind() == Kind::Unsupported => Held::Refused,
                    Err(error) => panic!("{}: {error}", String::from_utf8_lossy(&path)),
                },
                FileType::Symlink => match fs.link(entry.id) {
                    Ok(target) => Held::Link(target),
                    Err(error) if error.kind() == Kind::Unsupported => Held::Refused,
                    Err(error) => panic!("{}: {error}", String::from_utf8_lossy(&path)),
                },
                other => Held::Other(other.letter()),
            };
            tree.insert(path, held);
        }
    }
    tree
}

/// The same of a mounted filesystem, without the targets of links that are encrypted.
fn kernels(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut stack = vec![(Vec::new(), root.to_path_buf())];
    while let Some((relative, dir)) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = joined(&relative, entry.file_name().as_bytes());
            let kind = entry.file_type().unwrap();
            let held = if kind.is_dir() {
                stack.push((path.clone(), entry.path()));
                Held::Dir
            } else if kind.is_symlink() {
                Held::Link(fs::read_link(entry.path()).unwrap().into_os_string().into_vec())
            } else if kind.is_file() {
                match fs::File::open(entry.path()) {
                    Ok(mut file) => {
                        let mut hash = Sha256::new();
                        let mut buf = vec![0; 1 << 20];
                        loop {
                            let n = file.read(&mut buf).unwrap();
                            if n == 0 {
                                break;
                            }
                            hash.update(&buf[..n]);
                        }
                        Held::File(entry.metadata().unwrap().len(), hex(&hash.finalize()))
                    }
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOKEY) => Held::Refused,
                    Err(error) => panic!("{}: {error}", entry.path().display()),
                }
            } else {
                Held::Other('?')
            };
            tree.insert(path, held);
        }
    }
    tree
}

/// Names, sizes and digests as the kernel gives them after its own recovery, which a copy gets.
#[test]
fn the_images_of_ext4_view_are_what_the_kernel_mounts() {
    let Some(corpus) = corpus() else { return };
    if !need(&["zstd"]) || !need_root() {
        return;
    }
    let mut mounted = 0;
    for (name, entries) in [
        ("test_disk1", 11_000),
        ("test_disk_4k_block_journal", 700),
        ("test_disk_ext2", 3),
        ("test_disk_ext3", 1000),
    ] {
        let dir = temp();
        let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
        let packed = corpus.join(format!("ext4-view-rs/test_data/{name}.bin.zst"));
        shell(
            "zstd -qdc --sparse \"$1\" >\"$2\"; cp --sparse=always \"$2\" \"$3\"",
            &[&packed, &image, &copy],
        );
        let (fs, effort) = open(raw(&image));
        let tree = ours(&*fs);
        assert!(tree.len() >= entries, "{name}: {} entries", tree.len());
        let findings = effort.findings().0;
        assert!(findings.is_empty(), "{name}: {:?}", findings.iter().map(|f| &f.what).collect::<Vec<_>>());
        let Some(mount) = Mount::try_new(&copy, "ext4", "rw,noatime") else {
            eprintln!("skipped: this kernel does not mount {name}");
            continue;
        };
        mounted += 1;
        let theirs = kernels(mount.path());
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&tree), names(&theirs), "{name}");
        for ((path, ours), theirs) in tree.iter().zip(theirs.values()) {
            let encrypted = *ours == Held::Refused && matches!(theirs, Held::Link(_));
            assert!(ours == theirs || encrypted, "{name}: {path:?}: {ours:?}, the kernel: {theirs:?}");
        }
    }
    assert!(mounted > 1, "this kernel mounts {mounted} of them");
}

/// What stands between `<tag>` and `</tag>`.
fn tag<'a>(object: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = object.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(value, _)| value)
}

/// The number in attribute `name` of an element.
fn number(element: &str, name: &str) -> u64 {
    let (_, rest) = element.split_once(&format!("{name}='")).unwrap();
    rest.split_once('\'').unwrap().0.parse().unwrap()
}

/// Every allocated object of sleuthkit's report: number, size, where each byte lies, and its SHA-1.
#[test]
fn sleuthkits_report_names_the_same_files_runs_and_digests() {
    let Some(corpus) = corpus() else { return };
    let root = corpus.join("sleuthkit/test");
    let report = fs::read_to_string(root.join("fiwalk/image_dd.xml")).unwrap();
    let (fs, _) = open(raw(&root.join("data/image.dd")));
    let dir = temp();
    let (mut seen, mut named) = (0, Vec::new());
    for object in report.split("<fileobject>").skip(1) {
        let name = tag(object, "filename").unwrap();
        if tag(object, "alloc_name") != Some("1") || name == "$OrphanFiles" {
            continue;
        }
        // `<parent_object>` has an inode of its own, before the object's.
        let (_, object) = object.split_once("</parent_object>").unwrap();
        let dots = name.rsplit('/').next().is_some_and(|last| matches!(last, "." | ".."));
        let ino = NodeId::new(tag(object, "inode").unwrap().parse().unwrap());
        if !dots {
            let mut id = fs.root();
            for part in name.split('/') {
                id = fs.lookup(id, part.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name}")).id;
            }
            assert_eq!(id, ino, "{name}");
            named.push(name.as_bytes().to_vec());
        }
        let (node, size) = (fs.node(ino).unwrap(), tag(object, "filesize").unwrap());
        assert_eq!(node.size.to_string(), size, "{name}");
        assert_eq!(node.mode.to_string(), tag(object, "mode").unwrap(), "{name}");
        assert_eq!(node.uid.to_string(), tag(object, "uid").unwrap(), "{name}");
        if node.kind == FileType::Symlink {
            assert_eq!(fs.link(ino).unwrap().len() as u64, node.size);
            continue;
        }
        let source = fs.open(ino, Stream::Content).unwrap();
        for run in object.split("<byte_run ").skip(1) {
            let (from, to) = (number(run, "file_offset"), number(run, "img_offset"));
            for at in [0, number(run, "len") - 1] {
                let leaf = step(&*source, from + at, 1).unwrap();
                assert_eq!(leaf.trail.last().map(|place| place.offset), Some(to + at), "{name}");
            }
        }
        if let Some((_, sha1)) = object.split_once("type='sha1'>") {
            let copy = dir.path().join("content");
            fs::write(&copy, bytes(&source)).unwrap();
            let said = text(run("sha1sum", &[&copy]));
            assert_eq!(said.split(' ').next(), Some(&sha1[..40]), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} digests");
    let mut all: Vec<_> = ours(&*fs).into_keys().collect();
    all.sort();
    named.sort();
    assert_eq!(all, named);
}

/// One filesystem in several containers has one tree.
#[test]
fn a_tree_is_the_same_in_each_container() {
    let Some(corpus) = corpus() else { return };
    let (now, then) = (corpus.join("dfvfs/test_data"), corpus.join("dfvfs-history/test_data"));
    let dir = temp();
    let whole = dir.path().join("raw");
    shell("cat \"$1\"/ext2.splitraw.00* >\"$2\"", &[&now, &whole]);
    for (plain, qcow2, names) in [
        (whole, now.join("ext2.qcow2"), &["a_directory/a_file", "a_link", "passwords.txt"][..]),
        (then.join("image.dd"), then.join("image.qcow2"), &["a_directory/another_file", "passwords.txt"]),
    ] {
        let tree = ours(&*open(raw(&plain)).0);
        for name in names {
            assert!(tree.contains_key(name.as_bytes()), "{name} in {:?}", tree.keys());
        }
        let chain = try_open(&qcow2).unwrap();
        assert_eq!(tree, ours(&*open(chain.disk("disk").unwrap()).0), "{}", qcow2.display());
    }
}

/// Labels and UUIDs are blkid's; the tree is the one directory that mke2fs makes.
#[test]
fn the_samples_of_blkid_open() {
    let Some(corpus) = corpus() else { return };
    if !need(&["xz"]) {
        return;
    }
    let root = corpus.join("util-linux-blkid");
    for name in ["ext2", "ext3", "ext4"] {
        let dir = temp();
        let image = dir.path().join("image");
        let packed = root.join(format!("ts/blkid/images-fs/{name}.img.xz"));
        shell("xz -dc \"$1\" >\"$2\"", &[&packed, &image]);
        let (fs, _) = open(raw(&image));
        let said = fs::read_to_string(root.join(format!("expected/blkid/low-probe-{name}"))).unwrap();
        let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        assert_eq!(fs.facts().uuid, value("ID_FS_UUID="), "{name}");
        assert_eq!(fs.facts().label, value("ID_FS_LABEL="), "{name}");
        assert_eq!(ours(&*fs), Tree::from([(b"lost+found".to_vec(), Held::Dir)]), "{name}");
    }
}
