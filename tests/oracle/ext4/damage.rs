//! Damage, one patch each: the data is read all the same, and what is wrong is said.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use coldread::error::Kind;
use coldread::fs::Stream;

use super::{Opened, mkfs};
use crate::support::{need, run, shell, temp, text};

const OPTIONS: &str = "-t ext4 -b 1024 -O ^has_journal,^resize_inode -N 2048";

/// A filesystem of several groups with a few files, made by mke2fs and debugfs.
fn image(dir: &Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    shell(
        r#"mkdir -p "$1"/sub; cd "$1"; seq 40000 >numbers; echo here >sub/file; setfattr -n user.a -v "$(seq 150)" numbers
        python3 -c '
import os
with open("pieces", "wb") as f:
    for i in range(300): os.pwrite(f.fileno(), b"%d" % i, i * 2048)'"#,
        &[&tree],
    );
    mkfs(dir, 32 << 20, &format!("{OPTIONS} -d {}", tree.display()))
}

fn patch(image: &Path, at: u64, change: impl Fn(u8) -> u8) {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[change(byte[0])], at).unwrap();
}

/// What `debugfs` says to a request.
fn debugfs(image: &Path, request: &str) -> String {
    text(run("debugfs", &["-R", request, image.to_str().unwrap()]))
}

/// The first number after `word` in what debugfs says.
fn number(said: &str, word: &str) -> u64 {
    let rest = &said[said.find(word).unwrap_or_else(|| panic!("{word} in {said}")) + word.len()..];
    let digits: String =
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn read(opened: &Opened, path: &[&str]) -> coldread::error::Result<Vec<u8>> {
    let mut id = opened.fs.root();
    for name in path {
        id = opened.fs.lookup(id, name.as_bytes())?.expect("a name").id;
    }
    let source = opened.fs.open(id, Stream::Content)?;
    let mut data = vec![0; usize::try_from(source.len()).unwrap()];
    source.read_at(0, &mut data)?;
    opened.fs.attributes(id)?;
    opened.fs.node(id)?;
    Ok(data)
}

#[test]
fn a_wrong_checksum_is_said_beside_the_data() {
    if !need(&["mke2fs", "debugfs", "setfattr", "python3"]) {
        return;
    }
    let dir = temp();
    let image = image(dir.path());
    let numbers = std::fs::read(dir.path().join("tree/numbers")).unwrap();
    let sound = Opened::new(&image);
    assert_eq!(read(&sound, &["numbers"]).unwrap(), numbers);
    assert_eq!(read(&sound, &["sub", "file"]).unwrap(), b"here\n");
    assert_eq!(sound.findings(), [""; 0]);
    assert_eq!(sound.fs.facts().state, "clean");

    let inode = debugfs(&image, "imap numbers");
    let place = number(&inode, "located at block") * 1024
        + u64::from_str_radix(inode.rsplit("0x").next().unwrap().trim(), 16).unwrap();
    let root = debugfs(&image, "blocks /").trim().parse::<u64>().unwrap() * 1024;
    let attributes = number(&debugfs(&image, "stat numbers"), "File ACL:") * 1024;
    let leaf = debugfs(&image, "ex -n pieces");
    let leaf = debugfs(&image, "ex pieces").lines().find(|l| l.trim_start().starts_with("0/")).map_or_else(
        || panic!("no index in {leaf}"),
        |line| line.split_whitespace().nth(7).unwrap().parse::<u64>().unwrap() * 1024,
    );
    for (what, at, name) in [
        // A byte of each structure that carries no meaning to the reader: only the checksum can tell.
        ("ext4 superblock: checksum", 1024 + 0x88, "numbers"),
        ("ext4 group descriptor 0: checksum", 2048 + 0x0e, "numbers"),
        ("checksum", place + 0x6c + 4 + 4, "numbers"),
        ("ext4 directory inode 2: block 0x0: checksum", root + 1024 - 1, "numbers"),
        ("attribute block", attributes + 4, "numbers"),
        ("extent block", leaf + 8, "pieces"),
    ] {
        patch(&image, at, |byte| byte ^ 0x40);
        let opened = Opened::new(&image);
        let data = read(&opened, &[name]).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(data, std::fs::read(dir.path().join("tree").join(name)).unwrap(), "{what}");
        let findings = opened.findings();
        assert!(findings.iter().any(|f| f.contains(what) && f.contains("checksum")), "{what}: {findings:?}");
        patch(&image, at, |byte| byte ^ 0x40);
    }
    assert_eq!(Opened::new(&image).findings(), [""; 0]);
}

#[test]
fn a_backup_serves_when_the_primary_superblock_is_gone() {
    if !need(&["mke2fs", "debugfs", "setfattr", "python3"]) {
        return;
    }
    let dir = temp();
    for (options, size) in [
        (OPTIONS, 32u64 << 20),
        ("-t ext4 -b 4096", 300 << 20),
        ("-t ext4 -O bigalloc", 3 << 30),
        ("-t ext2 -b 2048", 64 << 20),
    ] {
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("file"), b"still here").unwrap();
        let image = mkfs(dir.path(), size, &format!("{options} -d {}", tree.display()));
        let sound = Opened::new(&image);
        // The boot block, the superblock and with blocks of 1 KiB the first descriptors.
        File::options().write(true).open(&image).unwrap().write_all_at(&[0xff; 4096], 0).unwrap();
        let opened = Opened::new(&image);
        assert_eq!(read(&opened, &["file"]).unwrap(), b"still here", "{options}");
        assert_eq!(opened.fs.facts().uuid, sound.fs.facts().uuid);
        let findings = opened.findings();
        assert!(findings.iter().any(|f| f.contains("read from the backup")), "{options}: {findings:?}");
    }
}

#[test]
fn an_image_of_nothing_is_corrupt() {
    let dir = temp();
    let image = dir.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let error = Opened::try_new(&image, true).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("magic 0x0000, wanted 0xef53"), "{error}");
}
