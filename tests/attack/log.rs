//! Edits of a log: those in place, and those by somebody who writes all of it anew.

use std::path::{Path, PathBuf};

use coldread::case::audit::checkpoint::{Checkpoint, load_key};
use coldread::case::audit::proof::Proof;
use coldread::case::audit::verify::{Verdict, verify};
use coldread::case::audit::{Kind, Log};
use serde_json::{Map, Value, json};

use super::support::{self, need};
use super::tree::{head, hex, path};

/// A log with `lines` lines, and the checkpoint of all of them.
fn log(dir: &Path, lines: usize) -> (PathBuf, String) {
    let file = dir.join("audit.jsonl");
    let log = Log::create(&file, "test", Map::new()).unwrap();
    let mut tree = None;
    for n in 1..lines {
        let kind = if n % 2 == 1 { Kind::Intent } else { Kind::Outcome };
        tree = Some(log.append(kind, "run", &json!({ "n": n, "paths": ["/etc"] })).unwrap().tree);
    }
    let origin = verify(&file, None).unwrap().origin.unwrap();
    (file, Checkpoint::of(&origin, &tree.unwrap()).to_string())
}

fn check(file: &Path, bytes: &[u8], checkpoint: Option<&str>) -> Result<Verdict, String> {
    std::fs::write(file, bytes).unwrap();
    verify(file, checkpoint).map_err(|e| e.to_string())
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

/// The lines as somebody would write them who knows all of this: numbers and roots fitted anew.
fn chained(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut done: Vec<Vec<u8>> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let mut value: Value = serde_json::from_slice(line).unwrap();
        let before: Vec<&[u8]> = done.iter().map(Vec::as_slice).collect();
        value["seq"] = json!(n);
        value["tree"] = json!({ "size": n, "root": hex(&head(&before)) });
        done.push(serde_json::to_vec(&value).unwrap());
    }
    done.into_iter()
        .flat_map(|mut line| {
            line.push(b'\n');
            line
        })
        .collect()
}

#[test]
fn edits_in_place_are_found_and_the_first_bad_line_is_named() {
    let dir = support::temp();
    let (file, checkpoint) = log(dir.path(), 12);
    let sound = std::fs::read(&file).unwrap();
    assert!(check(&file, &sound, Some(&checkpoint)).unwrap().sound);
    let lines = split(&sound);
    type Edit = fn(&mut Vec<Vec<u8>>);
    let edits: [(&str, Edit, u64); 6] = [
        (
            "flip",
            |l| {
                let at = l[4].windows(4).position(|w| w == b"/etc").unwrap();
                l[4][at] ^= 1;
            },
            5,
        ),
        (
            "drop",
            |l| {
                l.remove(4);
            },
            4,
        ),
        (
            "insert",
            |l| {
                let line = l[4].clone();
                l.insert(5, line);
            },
            5,
        ),
        ("swap", |l| l.swap(4, 6), 4),
        (
            "cut the start",
            |l| {
                l.remove(0);
            },
            0,
        ),
        (
            "cut within",
            |l| {
                let half = l[4].len() / 2;
                l[4].truncate(half);
            },
            4,
        ),
    ];
    for (name, edit, bad) in edits {
        let mut lines = lines.clone();
        edit(&mut lines);
        let verdict = check(&file, &lines.concat(), None).unwrap();
        assert_eq!((verdict.sound, verdict.bad_line), (false, Some(bad)), "{name}: {:?}", verdict.problem);
    }
    // These leave a log that is sound in itself. The checkpoint tells.
    let mut edited = lines.clone();
    let last = String::from_utf8(edited[11].clone()).unwrap().replace("/etc", "/opt");
    edited[11] = last.into_bytes();
    let mut other = lines.clone();
    other[4] = String::from_utf8(other[4].clone()).unwrap().replace("/etc", "/opt").into_bytes();
    for (name, bytes, says) in [
        ("cut tail", lines[..9].concat(), "its end was cut"),
        ("edited last line", edited.concat(), "they were changed"),
        ("re-chained", chained(&other), "they were changed"),
        ("re-chained and longer", chained(&[&other[..], &other[10..]].concat()), "they were changed"),
    ] {
        assert!(check(&file, &bytes, None).unwrap().sound, "{name}");
        let verdict = check(&file, &bytes, Some(&checkpoint)).unwrap();
        assert!(verdict.problem.as_ref().is_some_and(|p| p.contains(says)), "{name}: {:?}", verdict.problem);
    }
    // A later checkpoint of the forged log does not hide it, if the earlier one was kept as well.
    let forged = chained(&[&other[..], &other[10..]].concat());
    let entries: Vec<&[u8]> = forged.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    let origin = checkpoint.lines().next().unwrap();
    let later = Checkpoint { origin: origin.into(), size: entries.len() as u64, root: head(&entries) };
    assert!(!check(&file, &forged, Some(&format!("{checkpoint}\n{later}\n"))).unwrap().sound);
}

/// A small generator, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }
}

#[test]
fn ten_thousand_edits_are_all_found_with_a_checkpoint() {
    let dir = support::temp();
    let (file, checkpoint) = log(dir.path(), 24);
    let sound = std::fs::read(&file).unwrap();
    let mut random = Random(0x5eed);
    for n in 0..10_000 {
        let mut lines = split(&sound);
        let (a, b) = (random.below(lines.len()), random.below(lines.len()));
        // What is edited as text is edited so that the result still parses, and chained anew.
        let rechained = n % 4 == 3;
        let bytes = if rechained {
            match random.below(3) {
                0 => drop(lines.remove(a)),
                1 if a != b && a > 0 && b > 0 => lines.swap(a, b),
                _ => {
                    let mut value: Value = serde_json::from_slice(&lines[a]).unwrap();
                    value["n"] = json!(random.below(1 << 30) + 1000);
                    lines[a] = serde_json::to_vec(&value).unwrap();
                }
            }
            chained(&lines)
        } else {
            match random.below(5) {
                0 => {
                    let at = random.below(lines[a].len());
                    lines[a][at] ^= 1 << random.below(8);
                }
                1 => {
                    lines.remove(a);
                }
                2 => {
                    let line = lines[a].clone();
                    lines.insert(b.min(lines.len() - 1), line);
                }
                3 => {
                    let keep = random.below(lines[a].len());
                    lines[a].truncate(keep);
                }
                _ => lines.truncate(a),
            }
            lines.concat()
        };
        // An edit that changes nothing of what is covered is none.
        if bytes.starts_with(&sound) {
            continue;
        }
        let verdict = check(&file, &bytes, Some(&checkpoint));
        assert!(verdict.is_err() || verdict.is_ok_and(|v| !v.sound), "edit {n} was not found");
    }
}

#[test]
fn roots_and_proofs_hold_in_a_second_implementation() {
    let dir = support::temp();
    let (file, _) = log(dir.path(), 21);
    let bytes = std::fs::read(&file).unwrap();
    let entries: Vec<&[u8]> = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    for (n, entry) in entries.iter().enumerate() {
        let line: Value = serde_json::from_slice(entry).unwrap();
        assert_eq!(line["tree"]["root"], hex(&head(&entries[..n])), "line {n}");
        let proof = Proof::of(&file, n as u64).unwrap();
        let expected: Vec<String> = path(n, &entries).iter().map(|hash| hex(hash)).collect();
        assert_eq!((proof.audit_path.clone(), proof.root_hash.clone()), (expected, hex(&head(&entries))));
        assert!(proof.check().is_ok());
        for field in ["line", "leaf_hash", "root_hash", "leaf_index", "tree_size"] {
            let mut value = serde_json::to_value(&proof).unwrap();
            value[field] = match &value[field] {
                Value::String(text) => json!(text.replacen(['0', '1', '2', '3'], "4", 1)),
                number => json!(number.as_u64().unwrap() + 1),
            };
            let forged: Proof = serde_json::from_value(value).unwrap();
            // A path alone does not always bind the tree's size; the checkpoint does.
            let holds = forged.check().is_ok_and(|root| Ok(root) == proof.check());
            assert!(forged == proof || !holds, "{field} of line {n}");
        }
    }
}

#[test]
fn a_signed_checkpoint_is_sound_for_openssl_too() {
    if !need(&["openssl"]) {
        return;
    }
    let dir = support::temp();
    let (file, body) = log(dir.path(), 3);
    let (pem, public) = (dir.path().join("key.pem"), dir.path().join("key.pub"));
    let (pem_path, public_path) = (pem.to_string_lossy(), public.to_string_lossy());
    support::run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", &pem_path]);
    support::run("openssl", &["pkey", "-in", &pem_path, "-pubout", "-out", &public_path]);
    let key = load_key(&pem).unwrap();
    let checkpoint = Checkpoint::read(&body).unwrap();
    let (note, verifier) = (checkpoint.sign(&key), checkpoint.verifier(&key));
    assert!(Checkpoint::signed_by(&note, &verifier).unwrap());
    assert!(!Checkpoint::signed_by(&note.replacen("\n3\n", "\n2\n", 1), &verifier).unwrap());
    assert!(verify(&file, Some(&note)).unwrap().sound);
    // The note's last line: a dash, the name, and base64 of a key id of four bytes and the signature.
    let (text, signature) = note.split_once("\n\n").unwrap();
    let signature = signature.trim_end().rsplit(' ').next().unwrap();
    let script = r#"cd "$1"; printf '%s\n' "$2" >body; printf '%s' "$3" | base64 -d | tail -c 64 >sig
        openssl pkeyutl -verify -rawin -pubin -inkey key.pub -in body -sigfile sig"#;
    support::shell(script, &[&dir.path().to_string_lossy(), text, signature]);
}

#[test]
fn appends_of_many_are_serialised() {
    let dir = support::temp();
    let (file, _) = log(dir.path(), 2);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let file = &file;
            scope.spawn(move || {
                let log = Log::open(file).unwrap();
                for _ in 0..15 {
                    log.append(Kind::Intent, "run", &json!({ "from": n })).unwrap();
                }
            });
        }
    });
    let verdict = verify(&file, None).unwrap();
    assert_eq!((verdict.sound, verdict.lines), (true, 2 + 6 * 15), "{:?}", verdict.problem);
}

#[test]
fn what_is_kept_beside_the_log_is_never_believed() {
    let dir = support::temp();
    let (file, _) = log(dir.path(), 9);
    let kept = dir.path().join("audit.jsonl.tree");
    let sound = std::fs::read_to_string(&kept).unwrap();
    let lies = [
        String::new(),
        "{}".into(),
        sound.replace("\"size\":7", "\"size\":3"),
        sound.replace("\"offset\":", "\"offset\":1"),
        sound.replace(|c: char| ('a'..='f').contains(&c), "0"),
    ];
    let log = Log::open(&file).unwrap();
    for lie in lies {
        std::fs::write(&kept, lie).unwrap();
        log.append(Kind::Intent, "run", &json!({})).unwrap();
        assert!(verify(&file, None).unwrap().sound);
    }
    // With nothing beside it the whole log is read, and nothing is added to one that was changed.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200] ^= 2;
    std::fs::write(&file, &bytes).unwrap();
    std::fs::remove_file(&kept).unwrap();
    let refused = log.append(Kind::Intent, "run", &json!({})).unwrap_err().to_string();
    assert!(refused.contains("line 1:") || refused.contains("line 0:"), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}
