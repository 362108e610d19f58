//! Journals that the kernel and debugfs wrote, replayed here and by e2fsck or the kernel, compared block by block.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::{BUDGET, Cache};
use coldread::block::file::HostFile;
use coldread::block::memory::Memory;
use coldread::effort::Effort;
use coldread::fs::ext4::journal::{self, Replayed, Volume};
use coldread::fs::{FileType, Options, Stream};

use crate::support::{Mount, full, need, need_root, output, repository, run, shell, temp, text};

const TOOLS: &[&str] = &["mkfs.ext4", "e2fsck", "debugfs", "dumpe2fs", "python3"];

/// What the kernel does on a mounted filesystem before its image is copied.
#[derive(Clone, Copy)]
struct Case<'a> {
    name: &'static str,
    mkfs: &'static str,
    mount: &'static str,
    work: &'a str,
    /// Words that dumpe2fs must print about the copy, so that the case tests what it says.
    proof: &'static [&'static str],
}

const SMALL: &str = "-b 1024 -J size=1";

const CASES: &[Case<'_>] = &[
    Case { name: "ext3", mkfs: "-t ext3 -b 1024", mount: "", work: CHURN, proof: &["needs_recovery"] },
    Case {
        name: "default",
        mkfs: "",
        mount: "",
        work: CHURN,
        proof: &["journal_64bit", "journal_checksum_v3", "crc32c"],
    },
    Case {
        name: "no-64bit",
        mkfs: "-O ^64bit -b 2048",
        mount: "",
        work: CHURN,
        proof: &["journal_checksum_v3"],
    },
    Case {
        name: "csum-v1",
        mkfs: "-O ^metadata_csum -b 1024",
        mount: "journal_checksum",
        work: CHURN,
        proof: &["journal_checksum", "journal_64bit"],
    },
    Case {
        name: "async-v1",
        mkfs: "-O ^metadata_csum,^64bit",
        mount: "journal_async_commit,data=writeback",
        work: CHURN,
        proof: &["journal_async_commit"],
    },
    Case {
        name: "async-v3",
        mkfs: "",
        mount: "journal_async_commit,data=writeback",
        work: CHURN,
        proof: &["journal_async_commit"],
    },
    Case {
        name: "escaped",
        mkfs: "-b 1024",
        mount: "data=journal",
        work: ESCAPED,
        proof: &["needs_recovery"],
    },
    Case { name: "escaped-4k", mkfs: "", mount: "data=journal", work: ESCAPED, proof: &["needs_recovery"] },
    Case { name: "wrapped", mkfs: SMALL, mount: "", work: WRAPPED, proof: &["needs_recovery"] },
    Case { name: "wrapped-ext3", mkfs: "-t ext3 -b 1024 -J size=1", mount: "", work: WRAPPED, proof: &[] },
    Case { name: "wrapped-data", mkfs: SMALL, mount: "data=journal", work: WRAPPED, proof: &[] },
    Case { name: "revoked", mkfs: "-b 1024", mount: "", work: REVOKED, proof: &["journal_incompat_revoke"] },
    Case {
        name: "revoked-data",
        mkfs: "-O ^metadata_csum",
        mount: "data=journal",
        work: REVOKED,
        proof: &[],
    },
];

/// Names, renames, attributes and deletions, committed in between and once more not.
const CHURN: &str = r#"
mkdir d e; for i in $(seq 120); do echo "file $i" >d/f$i; done; sync -f .
for i in $(seq 1 2 120); do mv d/f$i e/g$i; done; setfattr -n user.note -v "some text" e/g1; sync -f .
for i in $(seq 2 4 120); do rm d/f$i; done; ln e/g3 linked; ln -s e/g5 pointed; truncate -s 5G sparse; chmod 600 e/g7; sync -f .
dd if=/dev/urandom of=big bs=64k count=20 status=none; sync -f .; echo "not committed" >late
"#;

/// Blocks of content that begin with the journal's magic.
const ESCAPED: &str = r#"
python3 - <<'END'
import os
for name in range(40):
    with open(f"m{name}", "wb") as f:
        for block in range(6):
            f.write((b"\xc0\x3b\x39\x98" + bytes([name, block]) * 510) * 4)
END
sync -f .; echo more >m3; sync -f .
"#;

/// More than the log holds, several times over.
const WRAPPED: &str = r#"
for round in $(seq 60); do mkdir -p r$round; for i in $(seq 15); do echo $round.$i >r$round/$i; done; sync -f .
  [ $round -lt 9 ] || rm -r r$((round - 8)); done
"#;

/// Directories deleted and their blocks used again, for content that the journal must not overwrite.
const REVOKED: &str = r#"
for round in $(seq 6); do
  for d in $(seq 30); do mkdir d$d; for f in $(seq 30); do : >d$d/long-name-to-fill-blocks-$f; done; done; sync -f .
  rm -r d*; sync -f .; dd if=/dev/urandom of=fill$round bs=1k count=900 status=none; sync -f .
done
"#;

/// Makes a filesystem, lets the kernel work on it and gives a copy of the image as it was while mounted.
fn dirty(dir: &Path, case: &Case<'_>) -> PathBuf {
    let image = dir.join("image");
    let copy = dir.join("copy");
    shell(
        "truncate -s 48M $1; mkfs.ext4 -q -F -E lazy_itable_init=0 -U 6d3f1a52-9c4e-4b7e-8a55-0f4bd7f4a001 $2 $1",
        &[&image.to_string_lossy(), case.mkfs].map(std::ffi::OsStr::new),
    );
    let options = ["commit=300", case.mount].join(",");
    let mount = Mount::new(
        &image,
        if case.mkfs.contains("ext3") { "ext3" } else { "ext4" },
        options.trim_end_matches(','),
    );
    shell(
        "cd $1; eval \"$2\"; cp --sparse=always $3 $4",
        &[mount.path().as_os_str(), case.work.as_ref(), image.as_os_str(), copy.as_os_str()],
    );
    copy
}

fn dumpe2fs(image: &Path) -> String {
    text(run("dumpe2fs", &[std::ffi::OsStr::new("-h"), image.as_os_str()]))
}

/// The number after `key` in the output of dumpe2fs.
fn number(facts: &str, key: &str) -> u64 {
    let line = facts.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Replays `image` with what dumpe2fs and debugfs say of it.
fn replayed(image: &Path) -> (Replayed, Arc<Effort>) {
    let facts = dumpe2fs(image);
    let volume = Volume {
        block_size: u32::try_from(number(&facts, "Block size:")).unwrap(),
        blocks: number(&facts, "Block count:"),
        needs_recovery: facts.contains("needs_recovery"),
    };
    let dump = image.with_extension("journal");
    run("debugfs", &["-R", &format!("dump <8> {}", dump.display()), &image.to_string_lossy()]);
    let journal: Source = Arc::new(Memory::new("journal", std::fs::read(&dump).unwrap()));
    let raw: Source = Arc::new(HostFile::new("image", std::fs::File::open(image).unwrap()).unwrap());
    let effort = Arc::new(Effort::default());
    (journal::replay(&raw, &volume, &journal, &effort).unwrap(), effort)
}

/// Compares the replayed view with `recovered`, which another program recovered. What recovery itself notes is left out:
/// the primary superblock's state, times and checksum, and the journal superblock.
fn same(case: &str, ours: &Source, recovered: &Path, superblock: bool) {
    let theirs = std::fs::read(recovered).unwrap();
    assert_eq!(ours.len(), theirs.len() as u64);
    let mut mine = vec![0; theirs.len()];
    ours.read_at(0, &mut mine).unwrap();
    let (mut wrong, mut journals) = (Vec::new(), 0);
    for (number, (a, b)) in mine.chunks(1024).zip(theirs.chunks(1024)).enumerate() {
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        if number == 1 {
            if !superblock {
                continue;
            }
            // s_mtime and s_wtime, s_state, s_lastcheck, s_feature_incompat, s_kbytes_written, s_checksum
            for field in [0x2c..0x34, 0x3a..0x3c, 0x40..0x44, 0x60..0x64, 0x178..0x180, 0x3fc..0x400] {
                a[field.clone()].fill(0);
                b[field].fill(0);
            }
        }
        if a != b && a.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]) {
            journals += 1;
        } else if a != b {
            let first = a.iter().zip(&b).position(|(a, b)| a != b).unwrap();
            wrong.push(format!("{:#x}", number * 1024 + first));
        }
    }
    assert!(
        wrong.is_empty() && journals <= 1,
        "{case}: {} KiB differ, at {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}

/// A copy of a mounted filesystem, replayed here, is block for block what e2fsck's recovery makes of it, and reads as the
/// kernel shows it after its own recovery.
#[test]
fn a_copy_of_a_mounted_filesystem_reads_as_it_is_recovered() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    for case in CASES {
        let dir = temp();
        let copy = dirty(dir.path(), case);
        let facts = dumpe2fs(&copy);
        for word in case.proof {
            assert!(facts.contains(word), "{}: dumpe2fs does not say {word}:\n{facts}", case.name);
        }
        let (ours, effort) = replayed(&copy);
        eprintln!("{}: {}", case.name, ours.summary);
        assert!(ours.changed, "{}: {}", case.name, ours.summary);
        assert!(effort.findings().0.is_empty(), "{}: {:?}", case.name, effort.findings().0);
        let recovered = dir.path().join("recovered");
        std::fs::copy(&copy, &recovered).unwrap();
        output("e2fsck", &["-y", "-E", "journal_only", &recovered.to_string_lossy()]);
        assert!(!dumpe2fs(&recovered).contains("needs_recovery"), "{}: e2fsck did not recover", case.name);
        same(case.name, &ours.source, &recovered, true);
        let kind = if case.mkfs.contains("ext3") { "ext3" } else { "ext4" };
        let said = as_the_kernel_shows(case.name, kind, &copy, true);
        assert_eq!(said, ours.summary, "{}", case.name);
    }
}

/// What must be the same of one name here and on the kernel's mount.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    links: u32,
    size: u64,
    times: Option<[(i64, i64); 3]>,
    rdev: Option<(u32, u32)>,
    /// The target of a link, the content of a file; of a large one its two ends.
    content: Vec<u8>,
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

/// Every name below the root, as it is read here. `times` of directories are left out on demand.
fn our_tree(image: &Path, dir_times: bool) -> (BTreeMap<Vec<u8>, Facts>, Arc<Effort>, Option<String>) {
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
            size: node.size,
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
            size: meta.size(),
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
fn as_the_kernel_shows(case: &str, kind: &str, copy: &Path, dir_times: bool) -> String {
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

/// Logs that debugfs writes: csum v2, which no kernel of today makes, and v3, each with tags of 32 and of 64 bits; revoked
/// and escaped blocks among them.
#[test]
fn logs_that_debugfs_wrote_replay_as_e2fsck_replays_them() {
    if !need(TOOLS) {
        return;
    }
    for (features, version) in [("64bit", 2), ("^64bit", 2), ("64bit", 3), ("^64bit", 3)] {
        let dir = temp();
        let image = dir.path().join("image");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let blocks = |byte: u8, count: usize| -> Vec<u8> {
            (0..count)
                .flat_map(|i| {
                    [vec![0xc0, 0x3b, 0x39, 0x98], vec![byte + u8::try_from(i).unwrap(); 1020]].concat()
                })
                .collect()
        };
        for (i, name) in ["one", "two", "three"].into_iter().enumerate() {
            std::fs::write(path(name), blocks(b'a' + u8::try_from(i * 8).unwrap(), 6)).unwrap();
        }
        let commands = format!(
            "jo -c -v {version}\njw -b 9000-9005 {}\njw -r 9000,9004\njw -b 9003-9008 {}\njw -r 9100,9005-9006\njw -b 9100-9105 {}\njc\n",
            path("one"),
            path("two"),
            path("three")
        );
        std::fs::write(path("commands"), commands).unwrap();
        shell(
            "truncate -s 16M $1; mkfs.ext4 -q -F -b 1024 -O $2 $1; debugfs -w -f $3 $1",
            &[&image.to_string_lossy(), features, path("commands").as_str()].map(std::ffi::OsStr::new),
        );
        let facts = dumpe2fs(&image);
        assert!(facts.contains(&format!("journal_checksum_v{version}")), "{facts}");
        assert_eq!(facts.contains("journal_64bit"), features == "64bit", "{facts}");
        let (ours, effort) = replayed(&image);
        let what = format!("{features} v{version}: {}", ours.summary);
        assert!(ours.summary.starts_with("replayed 5 transactions from 1: 13 writes"), "{what}");
        assert!(effort.findings().0.is_empty(), "{what}: {:?}", effort.findings().0);
        let recovered = dir.path().join("recovered");
        std::fs::copy(&image, &recovered).unwrap();
        output("e2fsck", &["-y", "-E", "journal_only", &recovered.to_string_lossy()]);
        same(&what, &ours.source, &recovered, true);
    }
}

/// Files that were deleted or truncated while open: the kernel finishes that at the mount, here they stay orphans. The
/// names and what they hold are the same.
#[test]
fn orphans_do_not_change_what_the_names_show() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    for mkfs in ["-b 1024", "-O orphan_file"] {
        let dir = temp();
        let work = r#"
for i in 1 2 3; do dd if=/dev/urandom of=kept$i bs=7k count=9 status=none; cp kept$i open$i; done; sync -f .
exec 8<open1 9<open2; rm open1 open2; echo more >>kept1; sync -f ."#;
        let case = Case { name: "orphans", mkfs, mount: "", work, proof: &[] };
        let copy = dirty(dir.path(), &case);
        let facts = dumpe2fs(&copy);
        assert!(facts.contains("First orphan inode:") || facts.contains("orphan_present"), "{facts}");
        as_the_kernel_shows(mkfs, "ext4", &copy, true);
    }
}

/// The sample's web-1 shows, through its unreplayed journal, the files whose digests the kernel's recovery gave.
#[test]
fn the_sample_reads_as_the_kernel_recovered_it() {
    if !need(&["qemu-img", "sha256sum"]) {
        return;
    }
    let nova = repository("testdata/nova/instances");
    for (uuid, expected) in [
        ("5d0c7c2e-8f0b-4f3d-9a51-6b1d2f3a4c01", "expect.sha256"),
        ("9a7e1b44-2c6d-4c58-8f0e-3e5b7d9f1a02", "expect-web-2.sha256"),
    ] {
        let dir = temp();
        shell(
            "cp $1/$2/disk $3/disk; base=$(ls $1/_base); qemu-img rebase -u -b $1/_base/$base -F raw $3/disk
             qemu-img convert -O raw $3/disk $3/flat; dd if=$3/flat of=$3/root bs=512 skip=64 count=4400 status=none",
            &[nova.as_os_str(), uuid.as_ref(), dir.path().as_os_str()],
        );
        let (tree, effort, replay) = our_tree(&dir.path().join("root"), true);
        assert_eq!(replay.is_some(), expected == "expect.sha256", "{replay:?}");
        assert!(effort.findings().0.is_empty(), "{:?}", effort.findings().0);
        let out = dir.path().join("out");
        for (name, facts) in tree.iter().filter(|(_, facts)| facts.kind == FileType::File) {
            let path = out.join(std::ffi::OsStr::from_bytes(&name[1..]));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &facts.content).unwrap();
        }
        let sums = repository("testdata/nova").join(expected);
        let files = tree.values().filter(|facts| facts.kind == FileType::File).count();
        assert_eq!(files, std::fs::read(&sums).unwrap().iter().filter(|b| **b == b'\n').count());
        shell("cd $1; sha256sum -c --quiet --strict $2", &[out.as_os_str(), sums.as_os_str()]);
    }
}

/// A block of the log that debugfs names.
struct Record {
    transaction: u32,
    kind: String,
    block: u64,
}

fn records(image: &Path) -> Vec<Record> {
    let dump = text(run("debugfs", &["-R", "logdump -a", &image.to_string_lossy()]));
    let found = dump.lines().filter_map(|line| {
        let rest = line.strip_prefix("Found expected sequence ")?;
        let (transaction, rest) = rest.split_once(", type ")?;
        let (kind, block) = rest.split_once(" at block ")?;
        Some(Record {
            transaction: transaction.parse().ok()?,
            kind: kind.split(['(', ')']).nth(1)?.into(),
            block: block.trim().parse().ok()?,
        })
    });
    found.collect()
}

/// Changes one byte of block `block` of the log.
fn damage(image: &Path, block: u64, inside: u64) {
    let size = number(&dumpe2fs(image), "Block size:");
    let map = text(run("debugfs", &["-R", &format!("bmap <8> {block}"), &image.to_string_lossy()]));
    let at = map.trim().parse::<u64>().unwrap() * size + inside;
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Where a damaged log is damaged, in terms of the records before it.
#[derive(Clone, Copy, Debug)]
enum Where {
    /// The descriptor of the transaction before the last: its tags.
    Descriptor,
    /// A block of data behind it.
    Data,
    /// The commit block of the transaction before the last: behind its header, or the magic that makes it one.
    Commit(u64),
    /// The commit block of the last transaction.
    LastCommit(u64),
}

/// A damaged log: as much of it is applied as the kernel applies before it refuses the mount, or ends the log there.
#[test]
fn a_damaged_log_is_applied_as_far_as_the_kernel_applies_it() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    let v3 = Case { name: "v3", mkfs: "-b 1024", mount: "", work: CHURN, proof: &["journal_checksum_v3"] };
    let v1 = Case { name: "v1", mkfs: "-O ^metadata_csum", mount: "journal_checksum", ..v3 };
    let v1_async = Case { name: "async", mount: "journal_async_commit,data=writeback", ..v1 };
    let v3_async = Case { name: "async-v3", mount: "journal_async_commit,data=writeback", ..v3 };
    let cases: &[Case<'_>] = if full() { &[v3, v1, v1_async, v3_async] } else { &[v3, v1_async] };
    for case in cases {
        let dir = temp();
        let sound = dirty(dir.path(), case);
        let log = records(&sound);
        let last = log.iter().map(|r| r.transaction).max().unwrap();
        let find = |transaction, kind: &str| {
            log.iter().find(|r| r.transaction == transaction && r.kind.starts_with(kind)).unwrap().block
        };
        for place in [
            Where::Descriptor,
            Where::Data,
            Where::Commit(0),
            Where::Commit(60),
            Where::LastCommit(1),
            Where::LastCommit(20),
            Where::LastCommit(900),
        ] {
            let copy = dir.path().join("damaged");
            std::fs::copy(&sound, &copy).unwrap();
            match place {
                Where::Descriptor => damage(&copy, find(last - 1, "descriptor"), 15),
                Where::Data => damage(&copy, find(last - 1, "descriptor") + 1, 100),
                Where::Commit(at) => damage(&copy, find(last - 1, "commit"), at),
                Where::LastCommit(at) => damage(&copy, find(last, "commit"), at),
            }
            let (ours, effort) = replayed(&copy);
            let recovered = dir.path().join("kernel");
            std::fs::copy(&copy, &recovered).unwrap();
            let mounted = Mount::try_new(&recovered, "ext4", "noatime").is_some();
            let what = format!("{} {place:?} (kernel mounts: {mounted}; {})", case.name, ours.summary);
            eprintln!("{what}");
            assert_eq!(mounted, effort.findings().0.is_empty(), "{what}: {:?}", effort.findings().0);
            same(&what, &ours.source, &recovered, false);
        }
    }
}

/// What the kernel's fast commits can record, one piece of work each.
const FAST: &[(&str, &str)] = &[
    ("create", "w('new',b'n'*50000); w('d0/new2',b'hi')"),
    ("mkdir", "os.mkdir('dd'); w('anchor',b'b'); w('dd/f',b'f'*3000); sync('anchor')"),
    (
        "rename",
        "os.rename('d0/x','d0/x2'); sync('d0/x2'); os.rename('d0/y','d0/z'); sync('d0/z'); os.rename('d0/z','zz'); sync('zz')",
    ),
    (
        "unlink",
        "os.unlink('d0/x'); w('anchor',b'q'); os.unlink('d0/y'); w('anchor',b'qq'); w('reuse',b'r'*5000); os.unlink('d0/gone'); w('d0/gone',b'new')",
    ),
    (
        "link",
        "os.link('d0/x','lx'); sync('lx'); os.link('d0/x','d0/lx2'); sync('d0/x'); os.unlink('d0/x'); sync('lx')",
    ),
    (
        "truncate",
        "f=os.open('d0/y',os.O_RDWR); os.ftruncate(f,100); os.fsync(f); os.lseek(f,20000,0); os.write(f,b'tail'*100); os.fsync(f)
os.ftruncate(f,0); os.fsync(f); os.write(f,b'again'*3000); os.fsync(f)",
    ),
    (
        "unwritten",
        "f=os.open('fa',os.O_RDWR|os.O_CREAT); os.posix_fallocate(f,0,200000); os.fsync(f); os.pwrite(f,b'm'*9000,50000); os.fsync(f)
os.pwrite(f,b'end',300000); os.fsync(f)",
    ),
    ("attributes", "os.chmod('d0/x',0o711); os.utime('d0/x',ns=(10**17+1,2*10**18+3)); sync('d0/x'); os.chown('d0/y',77,88); sync('d0/y')"),
    ("many", "for i in range(150): w(f'd0/many{i}',bytes([i])*(i*7+1)); i%3 or os.unlink(f'd0/many{i//2}')" ),
    ("scattered", "f=os.open('frag',os.O_RDWR|os.O_CREAT)
for i in range(40): os.pwrite(f,bytes([65+i])*700,i*9000); os.fsync(f)"),
    ("full-between", "os.symlink('base0','sl'); os.mknod('nod',0o20600,os.makedev(5,1)); os.sync(); w('anchor',b'c'); w('last',b'l'*70000)"),
];

const FAST_START: &str = r"
import os,sys
def sync(p):
    f=os.open(p,os.O_RDWR); os.fsync(f); os.close(f)
def w(p,data):
    f=os.open(p,os.O_RDWR|os.O_CREAT); os.write(f,data); os.fsync(f); os.close(f)
w('base0',b'z'*10000); os.mkdir('d0')
for n in 'xyz': w('d0/'+n,n.encode()*4000)
w('d0/gone',b'g'*100); os.sync(); w('anchor',b'a'); sync('anchor')
";

/// Fast commits, replayed from their records, against the kernel's replay. The kernel gives directories whose names
/// changed the time of the mount; those times are not compared.
#[test]
fn fast_commits_read_as_the_kernel_replays_them() {
    if !need(TOOLS) || !need_root() {
        return;
    }
    for (name, work) in FAST {
        for mkfs in ["-O fast_commit -b 1024", "-O fast_commit -b 4096 -I 512"] {
            let dir = temp();
            let script = format!("python3 - <<'END'{FAST_START}{work}\nEND\n");
            let case = Case { name, mkfs, mount: "", work: &script, proof: &[] };
            let copy = dirty(dir.path(), &case);
            let said = as_the_kernel_shows(name, "ext4", &copy, false);
            eprintln!("{name}: {said}");
            assert!(said.contains(" fast commits with "), "{name}: {said}");
        }
    }
}
