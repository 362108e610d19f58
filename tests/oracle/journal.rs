//! Journals that the kernel and debugfs wrote, replayed here and by e2fsck or the kernel, compared block by block.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::file::HostFile;
use coldread::block::memory::Memory;
use coldread::effort::Effort;
use coldread::fs::ext4::journal::{self, Replayed, Volume};

use crate::support::{Mount, need, need_root, output, run, shell, temp, text};

const TOOLS: &[&str] = &["mkfs.ext4", "e2fsck", "debugfs", "dumpe2fs", "python3"];

/// What the kernel does on a mounted filesystem before its image is copied.
struct Case {
    name: &'static str,
    mkfs: &'static str,
    mount: &'static str,
    work: &'static str,
    /// Words that dumpe2fs must print about the copy, so that the case tests what it says.
    proof: &'static [&'static str],
}

const SMALL: &str = "-b 1024 -J size=1";

const CASES: &[Case] = &[
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
fn dirty(dir: &Path, case: &Case) -> PathBuf {
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
fn same(case: &str, ours: &Source, recovered: &Path, skip_superblock: bool) {
    let theirs = std::fs::read(recovered).unwrap();
    assert_eq!(ours.len(), theirs.len() as u64);
    let mut mine = vec![0; theirs.len()];
    ours.read_at(0, &mut mine).unwrap();
    let (mut wrong, mut journals) = (Vec::new(), 0);
    for (number, (a, b)) in mine.chunks(1024).zip(theirs.chunks(1024)).enumerate() {
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        if number == 1 {
            if skip_superblock {
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

/// e2fsck's own recovery and ours give the same filesystem, block for block.
#[test]
fn replayed_as_e2fsck_replays() {
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
        same(case.name, &ours.source, &recovered, false);
    }
}
