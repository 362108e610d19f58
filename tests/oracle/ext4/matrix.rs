//! Every option of mke2fs that changes the layout, pairwise, over one populated tree.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::compare::{Same, compare};
use super::{Opened, mkfs, populate};
use crate::support::{Mount, full, need, need_root, temp};

/// The options and their values; the first is mke2fs's own choice.
const AXES: &[(&str, &[&str])] = &[
    ("block", &["-b 4096", "-b 1024", "-b 2048"]),
    ("map", &["extents,64bit", "extents,^64bit", "^extents,^64bit"]),
    (
        "csum",
        &[
            "metadata_csum",
            "metadata_csum,metadata_csum_seed",
            "^metadata_csum,uninit_bg",
            "^metadata_csum,^uninit_bg",
        ],
    ),
    ("groups", &["flex_bg,^meta_bg", "^flex_bg,^meta_bg", "flex_bg,meta_bg,^resize_inode"]),
    ("super", &["sparse_super", "^sparse_super,^resize_inode", "sparse_super,sparse_super2"]),
    ("inode", &["-I 256", "-I 128", "-I 1024"]),
    ("inline", &["^inline_data", "inline_data"]),
    (
        "dirs",
        &["dir_index,filetype", "^dir_index,filetype", "dir_index,large_dir,filetype", "dir_index,^filetype"],
    ),
    ("big", &["", "ea_inode", "bigalloc", "ea_inode,bigalloc"]),
    (
        "rest",
        &[
            "has_journal",
            "^has_journal",
            "has_journal,orphan_file",
            "has_journal,project",
            "has_journal,mmp,verity",
        ],
    ),
];

/// One value for each axis.
type Choice = Vec<usize>;

/// Choices in which each pair of values of two axes comes together at least once; greedy, always the same.
fn pairwise() -> Vec<Choice> {
    let mut open: BTreeSet<(usize, usize, usize, usize)> = BTreeSet::new();
    for (a, (_, x)) in AXES.iter().enumerate() {
        for (b, (_, y)) in AXES.iter().enumerate().skip(a + 1) {
            open.extend((0..x.len()).flat_map(|i| (0..y.len()).map(move |j| (a, i, b, j))));
        }
    }
    let mut rows = Vec::new();
    while let Some(&(a, i, b, j)) = open.iter().next() {
        let mut row: Vec<Option<usize>> = vec![None; AXES.len()];
        (row[a], row[b]) = (Some(i), Some(j));
        for axis in 0..AXES.len() {
            if row[axis].is_none() {
                let gain = |value: usize| {
                    row.iter()
                        .enumerate()
                        .filter(|(other, set)| {
                            let pair = |o: usize| {
                                if axis < *other {
                                    (axis, value, *other, o)
                                } else {
                                    (*other, o, axis, value)
                                }
                            };
                            set.is_some_and(|o| open.contains(&pair(o)))
                        })
                        .count()
                };
                row[axis] = (0..AXES[axis].1.len()).rev().max_by_key(|value| gain(*value));
            }
        }
        let row: Choice = row.into_iter().flatten().collect();
        open.retain(|(a, i, b, j)| row[*a] != *i || row[*b] != *j);
        rows.push(row);
    }
    rows
}

/// The words for mke2fs; features that exclude each other give way.
fn options(choice: &Choice) -> String {
    let value = |name: &str| {
        let axis = AXES.iter().position(|(axis, _)| *axis == name).unwrap();
        AXES[axis].1[choice[axis]]
    };
    let mut features: Vec<&str> = Vec::new();
    for (name, _) in AXES.iter().filter(|(name, _)| !matches!(*name, "block" | "inode")) {
        features.extend(value(name).split(',').filter(|f| !f.is_empty()));
    }
    let has = |features: &[&str], name| features.contains(&name);
    if value("inode") == "-I 128" {
        // Inline data and project ids need room after the first 128 bytes.
        features.retain(|f| !matches!(*f, "inline_data" | "project"));
    }
    if has(&features, "^extents") {
        features.retain(|f| !matches!(*f, "bigalloc" | "verity"));
    }
    if has(&features, "^filetype") {
        features.retain(|f| !matches!(*f, "metadata_csum_seed"));
    }
    let mut words =
        format!("-t ext4 {} {} -N 6000 -O {}", value("block"), value("inode"), features.join(","));
    if has(&features, "bigalloc") {
        words.push_str(" -C 16384");
    }
    words
}

/// How a filesystem got its tree.
#[derive(PartialEq, Eq)]
enum By {
    Kernel,
    Mke2fs,
}

/// Makes, fills and compares one filesystem. One that this kernel does not mount gets its tree from mke2fs, and is compared
/// with what that copied.
fn one(options: &str, tree: &Path) -> By {
    let dir = temp();
    let image = mkfs(dir.path(), 160 << 20, options);
    let Some(mount) = Mount::try_new(&image, "ext4", "acl,user_xattr") else {
        copied(&dir, &format!("{options} -d {}", tree.display()), tree);
        return By::Mke2fs;
    };
    populate(mount.path(), 1500, false);
    drop(mount);
    let mount = Mount::new(&image, "ext4", "ro");
    let opened = Opened::new(&image);
    let seen = compare(&*opened.fs, mount.path(), Same { kernel: true, attributes: true });
    assert!(seen > 1700, "{options}: {seen} nodes");
    assert_eq!(opened.findings(), [""; 0], "{options}");
    By::Kernel
}

/// Makes a filesystem into which mke2fs copies `tree`, and compares.
fn copied(dir: &TempDir, options: &str, tree: &Path) {
    let image = mkfs(dir.path(), 160 << 20, options);
    let opened = Opened::new(&image);
    let attributes = !options.contains("-r 0");
    let seen = compare(&*opened.fs, tree, Same { kernel: false, attributes });
    assert!(seen > 300, "{options}: {seen} nodes");
    assert_eq!(opened.findings(), [""; 0], "{options}");
}

/// A tree for mke2fs to copy, on the host's filesystem.
fn host_tree() -> TempDir {
    let tree = temp();
    populate(tree.path(), 300, true);
    tree
}

/// Blocks larger than a page, and features that this kernel may lack.
#[test]
fn what_the_kernel_does_not_mount_reads_as_mke2fs_copied_it() {
    if !need(&["mke2fs", "python3", "chattr", "fallocate"]) || !need_root() {
        return;
    }
    let tree = host_tree();
    for options in [
        "-t ext4 -b 8192",
        "-t ext4 -b 16384 -O inline_data,orphan_file",
        "-t ext4 -b 32768 -O ^metadata_csum,ea_inode",
        "-t ext4 -b 65536 -I 1024 -O ea_inode,large_dir,inline_data",
        "-t ext4 -b 65536 -O ^extents,^64bit,^has_journal",
        "-t ext4 -O casefold -E encoding=utf8",
        "-t ext4 -O quota,project,verity,stable_inodes",
        "-t ext2 -r 0 -b 1024",
        "-t ext3 -b 4096",
    ] {
        copied(&temp(), &format!("{options} -d {}", tree.path().display()), tree.path());
    }
    let _ = Command::new("chattr").args(["-a"]).arg(tree.path().join("append")).status();
}

#[test]
fn every_option_of_mke2fs_reads_as_the_kernel_reads_it() {
    if !need(&["mke2fs", "python3", "chattr", "fallocate"]) || !need_root() {
        return;
    }
    let mut rows = pairwise();
    if !full() {
        rows.truncate(24);
    }
    let tree = host_tree();
    let (next, mounted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let options = options(row);
                    if let Ok(by) = std::panic::catch_unwind(|| one(&options, tree.path())) {
                        mounted.fetch_add(usize::from(by == By::Kernel), Ordering::Relaxed);
                    } else {
                        // The panic itself was printed; the options say how to get it again.
                        failed.lock().unwrap().push(options);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let _ = Command::new("chattr").args(["-a"]).arg(tree.path().join("append")).status();
    assert!(failed.is_empty(), "mke2fs {failed:#?}");
    let mounted = mounted.into_inner();
    assert!(mounted * 2 > rows.len(), "this kernel mounts {mounted} of {}", rows.len());
    eprintln!("{} filesystems, {mounted} of them made by the kernel", rows.len());
}
