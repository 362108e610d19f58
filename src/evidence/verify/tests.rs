//! An extraction with one thing changed at a time.

use std::path::PathBuf;

use super::*;
use crate::evidence::extract::tests::{extracted, sparse_sample};

fn problems(dir: &Path) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    verify(dir, &Effort::default(), &mut |problem| {
        out.push((problem.kind, escape(&problem.path).into_owned()));
    })
    .unwrap();
    out
}

fn sample(temp: &tempfile::TempDir) -> PathBuf {
    let dir = temp.path().join("out");
    extracted(&dir);
    dir
}

#[test]
fn a_sound_directory_passes_and_its_bytes_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = sample(&temp);
    let done = verify(&dir, &Effort::default(), &mut |problem| panic!("{}", problem.text())).unwrap();
    assert_eq!((done.files, done.problems), (4, 0));
}

#[test]
fn every_change_is_named() {
    type Change = fn(&Path);
    let changes: [(Change, &[(&str, &str)]); 10] = [
        (|dir| fs::write(dir.join("files/a"), "X").unwrap(), &[("changed", "files/a")]),
        (|dir| fs::write(dir.join("files/a"), "longer").unwrap(), &[("changed", "files/a")]),
        (|dir| fs::remove_file(dir.join("files/a")).unwrap(), &[("missing", "files/a")]),
        (|dir| fs::write(dir.join("files/d/new"), "").unwrap(), &[("extra", "files/d/new")]),
        (|dir| fs::write(dir.join("note"), "").unwrap(), &[("extra", "note")]),
        (
            |dir| {
                fs::rename(dir.join("files/d"), dir.join("files/e")).unwrap();
                std::os::unix::fs::symlink("e", dir.join("files/d")).unwrap();
            },
            &[("missing", "files/d/b"), ("extra", "files/d"), ("extra", "files/e/b")],
        ),
        (
            |dir| {
                edit(dir, |text| {
                    text.lines().filter(|l| !l.contains("summary")).flat_map(|l| [l, "\n"]).collect()
                });
            },
            &[("incomplete", "manifest.jsonl")],
        ),
        (
            |dir| edit(dir, |text| text[..text.len() - 5].to_string()),
            &[("manifest", "manifest.jsonl"), ("incomplete", "manifest.jsonl")],
        ),
        (
            |dir| {
                edit(dir, |text| {
                    text.lines().filter(|l| !l.contains("\"/a\"")).flat_map(|l| [l, "\n"]).collect()
                });
            },
            &[("manifest", "manifest.jsonl"), ("sums", "files/a"), ("extra", "files/a")],
        ),
        (
            |dir| edit(dir, |text| text.replace("\"output\":\"files/a\"", "\"output\":\"files/../../a\"")),
            &[("manifest", "manifest.jsonl"), ("sums", "files/a"), ("extra", "files/a")],
        ),
    ];
    for (i, (change, expected)) in changes.into_iter().enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let dir = sample(&temp);
        change(&dir);
        let expected: Vec<_> = expected.iter().map(|(kind, path)| (*kind, (*path).to_string())).collect();
        assert_eq!(problems(&dir), expected, "change {i}");
    }
}

fn edit(dir: &Path, change: impl Fn(&str) -> String) {
    let path = dir.join("manifest.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(&text)).unwrap();
}

#[test]
fn a_file_whose_zeros_were_not_hashed_is_checked_all_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    sparse_sample(&dir);
    assert_eq!(problems(&dir), []);
    let file = fs::OpenOptions::new().write(true).open(dir.join("files/tib")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 39).unwrap();
    assert_eq!(problems(&dir), [("changed", "files/tib".to_string())]);
}
