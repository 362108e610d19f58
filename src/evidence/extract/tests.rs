//! Guests that no kernel would make: hostile names, lost content, files larger than any disk.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use super::*;
use crate::block::join::{Join, Part, Piece};
use crate::block::memory::Memory;
use crate::block::{Source, State};
use crate::effort::Effort;
use crate::fs::Tree;
use crate::fs::fake::{Body, Fake};
use crate::permit::Scope;
use crate::stack::Refusals;

/// A scope of the paths for which a function says yes.
struct Paths<'c>(&'c (dyn Fn(&[u8]) -> bool + Sync));

impl Scope for Paths<'_> {
    fn covers_path(&self, path: &[u8]) -> bool {
        (self.0)(path)
    }

    fn covers_disk(&self, _: &str) -> bool {
        true
    }

    fn whole_disk(&self) -> bool {
        true
    }
}

fn about() -> Map<String, Value> {
    Map::from_iter([("source".to_string(), Value::from("fake"))])
}

fn run(fake: &Fake, paths: &[&str], covers: &(dyn Fn(&[u8]) -> bool + Sync), to: &Path) -> Result<Outcome> {
    let effort = Effort::default();
    let (scope, refusals) = (Paths(covers), Refusals::default());
    let guest = Guest::new(Tree::new(fake), &scope, &effort, &refusals);
    let paths: Vec<&[u8]> = paths.iter().map(|p| p.as_bytes()).collect();
    guest_to_dir(&guest, &paths, to, &about)
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("manifest.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line<'v>(lines: &'v [Value], path: &str) -> &'v Value {
    lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("no line for {path}"))
}

fn sums_pass(dir: &Path) {
    let out =
        Command::new("sha256sum").args(["-c", "--quiet", "--strict", "SHA256SUMS"]).current_dir(dir).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn hostile_names_stay_inside_and_are_all_there() {
    let mut fake = Fake::new();
    let names: [&[u8]; 12] = [
        b"plain",
        b"new\nline",
        b"cr\rback\\slash",
        b"..",
        b".",
        b"a/../../b",
        b"\xff\xfe",
        b"\x1b[31m",
        b"plain",
        &[b'n'; 255],
        &[b'm'; 400],
        "ü\u{202e}".as_bytes(),
    ];
    for (i, name) in names.iter().enumerate() {
        fake.file(2, name, 100 + i as u64, format!("content {i}").as_bytes());
    }
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    let outcome = run(&fake, &["/"], &|_| true, &to).unwrap();
    assert_eq!((outcome.files, outcome.gaps, outcome.refused), (13, 0, 0));
    let mut contents: Vec<String> = fs::read_dir(to.join("files"))
        .unwrap()
        .map(|e| fs::read_to_string(e.unwrap().path()).unwrap())
        .collect();
    contents.sort();
    let mut expected: Vec<String> = (0..12).map(|i| format!("content {i}")).collect();
    expected.sort();
    assert_eq!(contents, expected);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    sums_pass(&to);
    let lines = lines(&to);
    assert_eq!(lines.len(), 14);
    assert_eq!(line(&lines, "/\\xff\\xfe")["path_bytes"], "L//+");
    assert_eq!(line(&lines, "/..")["output"], "files/\\x2e\\x2e");
    assert!(lines[13]["summary"]["files"] == 13 && lines[13]["summary"]["source"] == "fake");
    let mode = fs::metadata(to.join("files/plain")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

fn pieces(parts: Vec<(u64, u64, Part)>, len: u64) -> Source {
    let pieces = parts.into_iter().map(|(start, len, what)| Piece { start, len, what }).collect();
    Arc::new(Join::new("file", len, pieces).unwrap())
}

fn ones(len: usize) -> Source {
    Arc::new(Memory::new("disk", vec![1_u8; len]))
}

#[test]
fn lost_ranges_are_zeros_and_gaps_and_the_digest_is_of_the_output() {
    let mut fake = Fake::new();
    let small = vec![
        (0, 5000, Part::At(ones(9000), 0)),
        (5000, 1000, Part::Lost("bad sector".into())),
        (6000, 3000, Part::At(ones(9000), 0)),
    ];
    fake.add(2, b"small", 10, Body::File(pieces(small, 9000)));
    let mib = 1 << 20;
    let large = vec![
        (0, 3 * mib, Part::At(ones(3 << 20), 0)),
        (3 * mib, 5 * mib + 512, Part::Lost("bad track".into())),
        (8 * mib + 512, mib, Part::At(ones(1 << 20), 0)),
    ];
    fake.add(2, b"large", 11, Body::File(pieces(large, 20 * mib)));
    fake.rot(2);
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    let outcome = run(&fake, &["/"], &|_| true, &to).unwrap();
    assert_eq!(outcome.gaps, 3);
    sums_pass(&to);
    let lines = lines(&to);
    for (name, start, len) in [("small", 5000, 1000), ("large", 3 * mib, 5 * mib + 512)] {
        let line = line(&lines, &format!("/{name}"));
        let gap = &line["gaps"][0];
        assert_eq!((gap["start"].as_u64(), gap["length"].as_u64()), (Some(start), Some(len)), "{line}");
        assert!(line["sha256"].is_null() && line["output_sha256"].is_string());
        assert_eq!(line["gaps"].as_array().unwrap().len(), 1);
        let data = fs::read(to.join("files").join(name)).unwrap();
        let at = |n: u64| usize::try_from(n).unwrap();
        let (start, end) = (at(start), at(start + len));
        assert!(
            data[..start].iter().all(|b| *b == 1)
                && data[start..end].iter().all(|b| *b == 0)
                && data[end] == 1
        );
    }
}

#[test]
fn a_file_of_many_names_is_stored_once_and_listed_each_time() {
    let mut fake = Fake::new();
    fake.add(2, b"d", 9, Body::Dir(vec![]));
    fake.file(2, b"one", 10, b"same");
    for i in 0..200 {
        fake.file(2, format!("f{i}").as_bytes(), 1000 + i, b"other");
    }
    fake.name(2, b"two", 10);
    fake.name(9, b"three", 10);
    // One more name than it says it has: that one is a copy of its own.
    fake.name(9, b"four", 10);
    fake.change(10, |node| node.nlink = 3);
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    run(&fake, &["/d", "/one", "/two", "/f1", "/d/three", "/missing"], &|_| true, &to).unwrap();
    let part = lines(&to);
    assert!(line(&part, "/missing")["error"].as_str().unwrap().contains("no such file"));
    assert_eq!(line(&part, "/one")["output"], line(&part, "/d/three")["output"]);
    let to = temp.path().join("all");
    let outcome = run(&fake, &["/"], &|_| true, &to).unwrap();
    assert_eq!((outcome.files, outcome.bytes), (206, 200 * 5 + 2 * 4));
    sums_pass(&to);
    let all = lines(&to);
    let outputs: Vec<&Value> =
        ["/d/three", "/d/four", "/one", "/two"].iter().map(|p| &line(&all, p)["output"]).collect();
    assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2] && outputs[2] != outputs[3], "{outputs:?}");
    assert!(!to.join("files/one").exists() && to.join("files/two").exists());
    assert_eq!(line(&all, "/one")["sha256"], line(&all, "/two")["sha256"]);
}

#[test]
fn a_file_larger_than_any_disk_costs_no_hours() {
    let mut fake = Fake::new();
    let far = 1_u64 << 40;
    let parts =
        |end: u64| vec![(4096, 4096, Part::At(ones(4096), 0)), (end - 4096, 4096, Part::At(ones(4096), 0))];
    fake.add(2, b"tib", 10, Body::File(pieces(parts(far), far)));
    fake.add(2, b"huge", 11, Body::File(pieces(parts(1 << 63), 1 << 63)));
    fake.file(2, b"small", 12, b"small");
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    let outcome = run(&fake, &["/"], &|_| true, &to).unwrap();
    assert_eq!(outcome.gaps, 2);
    let lines = lines(&to);
    let tib = line(&lines, "/tib");
    assert!(tib["sha256"].is_null() && tib["sparse_sha256"].is_string() && tib["note"].is_string());
    let meta = fs::metadata(to.join("files/tib")).unwrap();
    assert!(meta.len() == far && meta.blocks() < 100);
    let huge = line(&lines, "/huge");
    assert!(huge["output"].is_null() && huge["gaps"][0]["length"] == 1_u64 << 63, "{huge}");
    assert!(!to.join("files/huge").exists());
    assert!(line(&lines, "/small")["sha256"].is_string());
    sums_pass(&to);
}

#[test]
fn holes_and_blocks_of_zeros_stay_holes() {
    let mut fake = Fake::new();
    let mut data = vec![0_u8; 1 << 20];
    data[500_000] = 7;
    fake.file(2, b"zeros", 10, &data);
    let mib = 1 << 20;
    let parts = vec![(mib + 100, 10_000, Part::At(ones(10_000), 0)), (40 * mib, 5, Part::Zeros(State::Zero))];
    fake.add(2, b"holes", 11, Body::File(pieces(parts, 64 * mib + 1)));
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    assert_eq!(run(&fake, &["/"], &|_| true, &to).unwrap().gaps, 0);
    sums_pass(&to);
    assert_eq!(fs::read(to.join("files/zeros")).unwrap(), data);
    for name in ["zeros", "holes"] {
        assert!(fs::metadata(to.join("files").join(name)).unwrap().blocks() * 512 < 64 << 10, "{name}");
    }
    assert_eq!(fs::metadata(to.join("files/holes")).unwrap().len(), 64 * mib + 1);
}

#[test]
fn what_the_permit_does_not_cover_is_refused_one_by_one() {
    let mut fake = Fake::new();
    fake.add(2, b"etc", 9, Body::Dir(vec![]));
    fake.file(9, b"passwd", 10, b"p");
    fake.file(9, b"shadow", 11, b"s");
    fake.add(2, b"home", 12, Body::Dir(vec![]));
    fake.file(12, b"key", 13, b"k");
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    let covers = |path: &[u8]| !path.ends_with(b"shadow") && !path.starts_with(b"/home");
    let outcome = run(&fake, &["/"], &covers, &to).unwrap();
    assert_eq!((outcome.files, outcome.refused, outcome.gaps), (3, 2, 0));
    let lines = lines(&to);
    assert!(line(&lines, "/home")["refused"] == true && line(&lines, "/etc/shadow")["refused"] == true);
    assert!(!to.join("files/home").exists() && !to.join("files/etc/shadow").exists());
    assert!(!lines.iter().any(|line| line["path"] == "/home/key"));
}

#[test]
fn a_cancelled_run_has_lines_for_what_is_finished_and_no_summary() {
    let mut fake = Fake::new();
    for i in 0..2000_u64 {
        fake.file(2, format!("f{i}").as_bytes(), 100 + i, &[7; 3000]);
    }
    let cancelled = Arc::new(AtomicBool::new(false));
    let effort = Effort::new(Arc::clone(&cancelled));
    let covers = |path: &[u8]| {
        if path == b"/f1500" {
            cancelled.store(true, Ordering::Relaxed);
        }
        true
    };
    let (scope, refusals) = (Paths(&covers), Refusals::default());
    let guest = Guest::new(Tree::new(&fake), &scope, &effort, &refusals);
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    assert!(guest_to_dir(&guest, &[b"/"], &to, &about).is_err());
    sums_pass(&to);
    let lines = lines(&to);
    assert!(lines.iter().all(|line| line["summary"].is_null()));
    for line in lines.iter().filter(|line| line["type"] == "file") {
        let output = to.join(line["output"].as_str().unwrap());
        assert_eq!(fs::read(&output).unwrap(), [7; 3000]);
    }
    assert!(run(&fake, &["/"], &|_| true, &to).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn output_names_hold_the_guest_s_bytes() {
    let mut fake = Fake::new();
    fake.add(2, b"d\xe4", 9, Body::Dir(vec![]));
    fake.file(9, b"\x80", 10, b"x");
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("out");
    run(&fake, &["/"], &|_| true, &to).unwrap();
    let dir = fs::read_dir(to.join("files")).unwrap().next().unwrap().unwrap();
    assert_eq!(dir.file_name().as_bytes(), b"d\xe4");
    let file = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(file.file_name().as_bytes(), b"\x80");
    assert_eq!(lines(&to)[2]["output_bytes"], "ZmlsZXMvZOQvgA==");
}

/// A small extraction for the tests of `verify`.
pub(crate) fn extracted(to: &Path) {
    let mut fake = Fake::new();
    fake.file(2, b"a", 10, b"A");
    fake.add(2, b"d", 11, Body::Dir(vec![]));
    fake.file(11, b"b", 12, b"B");
    fake.file(2, b"new\nline \\", 13, b"C");
    fake.file(2, b"\xff", 14, b"D");
    fake.name(2, b"again", 12);
    fake.change(12, |node| node.nlink = 2);
    run(&fake, &["/"], &|_| true, to).unwrap();
}

/// One with a file that is too large to hash.
pub(crate) fn sparse_sample(to: &Path) {
    let mut fake = Fake::new();
    let far = 1_u64 << 40;
    let parts = vec![(8192, 5000, Part::At(ones(5000), 0)), (far - 1000, 1000, Part::At(ones(4096), 0))];
    fake.add(2, b"tib", 10, Body::File(pieces(parts, far)));
    run(&fake, &["/"], &|_| true, to).unwrap();
}
