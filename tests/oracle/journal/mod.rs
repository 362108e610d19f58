//! Journals that the kernel and debugfs wrote, replayed here and by e2fsck or the kernel.

mod damaged;
mod fast;
mod make;
mod tree;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::file::HostFile;
use coldread::block::memory::Memory;
use coldread::effort::Effort;
use coldread::fs::FileType;
use coldread::fs::ext4::journal::{self, Replayed, Volume};

use crate::support::{need, need_root, output, repository, run, shell, temp};
use make::{CHURN, Case, ESCAPED, REVOKED, WRAPPED, dirty, dumpe2fs, number};
use tree::{as_the_kernel_shows, our_tree};

const TOOLS: &[&str] = &["mkfs.ext4", "e2fsck", "debugfs", "dumpe2fs", "python3"];

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
        let work = r"
for i in 1 2 3; do dd if=/dev/urandom of=kept$i bs=7k count=9 status=none; cp kept$i open$i; done; sync -f .
exec 8<open1 9<open2; rm open1 open2; echo more >>kept1; sync -f .";
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
        assert_eq!(files, std::fs::read_to_string(&sums).map_or(files, |sums| sums.lines().count()));
        shell("cd $1; sha256sum -c --quiet --strict $2", &[out.as_os_str(), sums.as_os_str()]);
    }
}
