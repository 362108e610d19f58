//! Floor 5: contents of files in ext2 and ext4, whatever maps them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::file::HostFile;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::fs::{FileSystem, Options, READERS, Stream};

use crate::support::laws::laws;
use crate::support::{need, run, shell, temp, text};

/// A directory `tree`, and a filesystem `image` that mke2fs fills from it with the options `$2`; then the holes of one
/// file are allocated without being written.
const MAKE: &str = r#"cd "$1"; mkdir tree
python3 - <<'END'
import os, random
random.seed(7)
def put(name, pieces, size=None):
    with open("tree/" + name, "wb") as f:
        for offset, data in pieces:
            os.pwrite(f.fileno(), data, offset)
        if size is not None:
            os.truncate(f.fileno(), size)
put("empty", [])
put("inline", [(0, random.randbytes(100))])
put("sparse", [(0, b"start"), (70_000, random.randbytes(3000)), (5_000_000, b"end")])
put("pieces", [(i * 16384, random.randbytes(1000)) for i in range(300)])
put("large", [(0, random.randbytes(700_001))])
put("unwritten", [(150_000, b"in the middle"), (399_999, b".")])
put("far", [(0, b"x"), (1 << 32, b"y" * 5000)])
END
truncate -s 48M image
mke2fs -q -F -d tree -N 128 $2 image
debugfs -w -R "fallocate unwritten 0 80" image 2>/dev/null"#;

/// Makes the image of [`MAKE`] in `dir`.
fn make(dir: &Path, options: &str) {
    shell(MAKE, &[dir.as_os_str(), options.as_ref()]);
}

fn open(image: &Path, replay: bool) -> Arc<dyn FileSystem> {
    let source: Source = Arc::new(HostFile::new("image", std::fs::File::open(image).unwrap()).unwrap());
    let options = Options { replay, cache: Cache::new(4 << 20), effort: Arc::new(Effort::default()) };
    let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).unwrap();
    (reader.open)(&[source], &options).unwrap()
}

fn content(fs: &dyn FileSystem, name: &str) -> Source {
    let id = fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap().id;
    fs.open(id, Stream::Content).unwrap()
}

fn states(source: &dyn BlockSource) -> BTreeSet<String> {
    let (mut at, mut all) = (0, BTreeSet::new());
    while at < source.len() {
        let run = source.run_at(at).unwrap();
        all.insert(format!("{:?}", run.state));
        at += run.len;
    }
    all
}

/// Puts every file of `fs` through the laws, its slack too, and holds the bytes against the tree they came from.
fn check(dir: &Path, fs: &dyn FileSystem) {
    for entry in std::fs::read_dir(dir.join("tree")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let source = content(fs, &name);
        laws(&*source);
        let id = fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap().id;
        if let Ok(slack) = fs.open(id, Stream::Slack) {
            laws(&*slack);
        }
        assert_eq!(source.len(), entry.metadata().unwrap().len(), "{name}");
        if source.len() < 1 << 30 {
            let mut bytes = vec![0xa5; usize::try_from(source.len()).unwrap()];
            source.read_at(0, &mut bytes).unwrap();
            assert!(bytes == std::fs::read(entry.path()).unwrap(), "{name}");
        }
    }
}

#[test]
fn contents_in_extents_inodes_clusters_and_indirect_blocks() {
    if !need(&["mke2fs", "debugfs", "python3"]) {
        return;
    }
    for (options, unwritten) in [
        ("-t ext2 -b 1024", false),
        ("-t ext4 -b 1024 -O inline_data", true),
        ("-t ext4 -b 4096 -O bigalloc,^resize_inode -C 16384", true),
        ("-t ext4 -b 4096 -O ^extents,^64bit", false),
        ("-t ext4 -b 16384", true),
    ] {
        let dir = temp();
        make(dir.path(), options);
        let fs = open(&dir.path().join("image"), true);
        check(dir.path(), &*fs);
        let holes = states(&*content(&*fs, "sparse"));
        assert!(holes.contains("Hole"), "{options}: {holes:?}");
        let found = states(&*content(&*fs, "unwritten"));
        assert_eq!(found.contains("Zero"), unwritten, "{options}: {found:?}");
    }
}

/// A journal that debugfs wrote holds two blocks of a file: they come from the log, the rest from where it lies.
#[test]
fn contents_after_the_journal_was_replayed() {
    if !need(&["mke2fs", "debugfs", "python3"]) {
        return;
    }
    let dir = temp();
    make(dir.path(), "-t ext4 -b 1024 -J size=1");
    let image = dir.path().join("image");
    let path = image.to_str().unwrap();
    let block: u64 = text(run("debugfs", &["-R", "bmap large 5", path])).trim().parse().unwrap();
    // The second one starts with the journal's magic and so is escaped in the log.
    let mut new = [[b'n'; 1024], [b'm'; 1024]].concat();
    new[1024..1028].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    std::fs::write(dir.path().join("new"), &new).unwrap();
    shell(
        r#"cd "$1"; printf 'jo\njw -b %d-%d new\njc\n' "$2" "$(($2 + 1))" >requests; debugfs -w -f requests image 2>&1"#,
        &[dir.path().as_os_str(), block.to_string().as_ref()],
    );
    check(dir.path(), &*open(&image, false));
    let fs = open(&image, true);
    assert!(fs.facts().replay.is_some(), "{:?}", fs.facts());
    let file = dir.path().join("tree/large");
    let mut wanted = std::fs::read(&file).unwrap();
    wanted[5 * 1024..7 * 1024].copy_from_slice(&new);
    std::fs::write(&file, wanted).unwrap();
    check(dir.path(), &*fs);
}
