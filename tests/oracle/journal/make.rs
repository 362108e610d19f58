//! Filesystems with a journal that waits, made by the kernel, and what e2fsprogs say of them.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Mount, run, shell, text};

/// What the kernel does on a mounted filesystem before its image is copied.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub name: &'static str,
    pub mkfs: &'static str,
    pub mount: &'static str,
    pub work: &'a str,
    /// Words that dumpe2fs must print about the copy, so that the case tests what it says.
    pub proof: &'static [&'static str],
}

/// Names, renames, attributes and deletions, committed in between and once more not.
pub const CHURN: &str = r#"
mkdir d e; for i in $(seq 120); do echo "file $i" >d/f$i; done; sync -f .
for i in $(seq 1 2 120); do mv d/f$i e/g$i; done; setfattr -n user.note -v "some text" e/g1; sync -f .
for i in $(seq 2 4 120); do rm d/f$i; done; ln e/g3 linked; ln -s e/g5 pointed; truncate -s 5G sparse; chmod 600 e/g7; sync -f .
dd if=/dev/urandom of=big bs=64k count=20 status=none; sync -f .; echo "not committed" >late
"#;

/// Blocks of content that begin with the journal's magic.
pub const ESCAPED: &str = r#"
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
pub const WRAPPED: &str = r"
for round in $(seq 60); do mkdir -p r$round; for i in $(seq 15); do echo $round.$i >r$round/$i; done; sync -f .
  [ $round -lt 9 ] || rm -r r$((round - 8)); done
";

/// Directories deleted and their blocks used again, for content that the journal must not overwrite.
pub const REVOKED: &str = r"
for round in $(seq 6); do
  for d in $(seq 30); do mkdir d$d; for f in $(seq 30); do : >d$d/long-name-to-fill-blocks-$f; done; done; sync -f .
  rm -r d*; sync -f .; dd if=/dev/urandom of=fill$round bs=1k count=900 status=none; sync -f .
done
";
/// Makes a filesystem, lets the kernel work on it and gives a copy of the image as it was while mounted.
pub fn dirty(dir: &Path, case: &Case<'_>) -> PathBuf {
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

pub fn dumpe2fs(image: &Path) -> String {
    text(run("dumpe2fs", &[std::ffi::OsStr::new("-h"), image.as_os_str()]))
}

/// The number after `key` in the output of dumpe2fs.
pub fn number(facts: &str, key: &str) -> u64 {
    let line = facts.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// A block of the log that debugfs names.
pub struct Record {
    pub transaction: u32,
    pub kind: String,
    pub block: u64,
}

pub fn records(image: &Path) -> Vec<Record> {
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
pub fn damage(image: &Path, block: u64, inside: u64) {
    let size = number(&dumpe2fs(image), "Block size:");
    let map = text(run("debugfs", &["-R", &format!("bmap <8> {block}"), &image.to_string_lossy()]));
    let at = map.trim().parse::<u64>().unwrap() * size + inside;
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}
