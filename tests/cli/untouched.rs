//! No source is opened for writing, and none is different afterwards: under `strace -f`, and by what stat(2) says.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Desk, LEAVE, text};
use crate::support;

/// Parts of the names of system calls that change a file or a directory.
const HARMFUL: [&str; 12] = [
    "unlink",
    "rename",
    "truncate",
    "fallocate",
    "chmod",
    "chown",
    "utime",
    "setxattr",
    "removexattr",
    "mknod",
    "mkdir",
    "write",
];

/// Flags that would make an open harmful.
const FLAGS: [&str; 4] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];

/// Whether a line of the trace does something to a file of `tree`.
fn is_harmful(line: &str, tree: &str) -> bool {
    let (call, rest) = line.split_once('(').unwrap_or((line, ""));
    let call = call.rsplit(' ').next().unwrap_or(call);
    if call.starts_with("open") {
        return FLAGS.iter().any(|flag| rest.contains(flag));
    }
    if call.contains("write") {
        // The descriptor's path comes first; what is written may well name a source.
        return rest.split_once('<').is_some_and(|(_, path)| path.starts_with(tree));
    }
    HARMFUL.iter().any(|word| call.contains(word))
        || ["link", "linkat", "symlink", "symlinkat"].contains(&call)
}

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
            all.insert(path, [&[meta.size().cast_signed()][..], &times].concat());
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
        let harm: Vec<_> = ours.iter().filter(|line| is_harmful(line, &tree_text)).collect();
        assert!(harm.is_empty(), "{args:?}: {harm:?}");
    }
    assert_eq!(before, facts(&tree), "size, mtime, ctime or atime of a source moved");
}

#[test]
fn the_check_itself_sees_a_write() {
    for line in [
        "12  openat(AT_FDCWD</x>, \"/t/disk\", O_RDWR|O_CLOEXEC) = 3</t/disk>",
        "12  pwrite64(3</t/disk>, \"x\", 1, 0) = 1",
        "12  unlink(\"/t/disk\") = 0",
        "12  utimensat(AT_FDCWD, \"/t/disk\", NULL, 0) = 0",
    ] {
        assert!(is_harmful(line, "/t"), "{line}");
    }
    for line in
        ["12  readlink(\"/t\", 0x7, 1023) = -1 EINVAL", "12  write(1</dev/pts/0>, \"/t/disk\", 7) = 7"]
    {
        assert!(!is_harmful(line, "/t"), "{line}");
    }
}
