//! No source is opened for writing, and none is different afterwards: under `strace -f`, and by what stat(2) says.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Desk, LEAVE, text};
use crate::support;

/// System calls that could change a file, with the flag that would make an open harmful.
const HARMFUL: [&str; 18] = [
    "O_WRONLY",
    "O_RDWR",
    "O_CREAT",
    "O_TRUNC",
    "unlink",
    "rename",
    "truncate",
    "fallocate",
    "chmod",
    "chown",
    "utimens",
    "setxattr",
    "removexattr",
    "link(",
    "linkat",
    "symlink",
    "mknod",
    "mkdir",
];

fn facts(tree: &Path) -> BTreeMap<PathBuf, Vec<i64>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![tree.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                dirs.push(path);
                continue;
            }
            let times = [
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
                meta.atime(),
                meta.atime_nsec(),
            ];
            all.insert(path, [&[meta.size() as i64][..], &times].concat());
        }
    }
    all
}

#[test]
fn no_source_is_opened_for_writing_or_changes() {
    if !support::need(&["strace"]) {
        return;
    }
    let desk = Desk::new();
    let tree = desk.path("copied/instances");
    support::shell(
        "mkdir -p \"$2\" && cp -a \"$1/.\" \"$2\"",
        &[&support::repository("testdata/nova/instances"), &tree],
    );
    // A time of access in the past would move at the first read, under relatime too.
    support::shell("find \"$1\" -type f -exec touch -a -d 2001-01-01 {} +", &[&tree]);
    let before = facts(&tree);
    let instance = text(&tree.join("5d0c7c2e-8f0b-4f3d-9a51-6b1d2f3a4c01"));
    let (to, image, tree_text) = (text(&desk.path("to")), text(&desk.path("image")), text(&tree));
    let commands: [&[&str]; 9] = [
        &["instances", &tree_text],
        &["chain", "--map-extents", &instance],
        &["volumes", &instance],
        &["ls", "-lR", &instance, "/"],
        &["stat", &instance, "/etc/hostname"],
        &["cat", &instance, "/etc/hostname"],
        &["hash", &instance, "/"],
        &["extract", &instance, "/", "--to", &to],
        &["image", &instance, "--to", &image],
    ];
    for (i, args) in commands.iter().enumerate() {
        let trace = desk.path(&format!("trace{i}"));
        let mut command = support::command("strace");
        command
            .args(["-f", "-qq", "-y", "-e", "trace=file,desc", "-o"])
            .arg(&trace)
            .arg(env!("CARGO_BIN_EXE_coldread"));
        command.args(*args).env("COLDREAD_POLICY", desk.path("policy.toml"));
        if !["instances", "chain", "volumes"].contains(&args[0]) {
            command.args(LEAVE);
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        let trace = std::fs::read_to_string(&trace).unwrap();
        let ours: Vec<_> =
            trace.lines().filter(|line| line.contains(&tree_text) && !line.contains("execve(")).collect();
        assert!(
            ours.iter().any(|line| line.contains("O_RDONLY")),
            "{args:?}: the trace shows no source at all"
        );
        let writing =
            |line: &str| line.contains("write(") || line.contains("write64(") || line.contains("writev(");
        for line in ours {
            // A write names its descriptor's path first; what it writes may well name a source.
            let target = line.split_once('<').map_or("", |(_, rest)| rest.split('>').next().unwrap_or(""));
            assert!(!writing(line) || !target.starts_with(&tree_text), "{args:?} writes: {line}");
            assert!(writing(line) || !HARMFUL.iter().any(|word| line.contains(word)), "{args:?}: {line}");
        }
    }
    assert_eq!(before, facts(&tree), "size, mtime, ctime or atime of a source moved");
}
