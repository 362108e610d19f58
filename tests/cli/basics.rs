//! The sample tree through every command, and the mistakes that people make.

use serde_json::Value;

use super::{Desk, code, sample, sample_instance, stderr, text};
use crate::support;

#[test]
fn the_sample_is_extracted_as_the_kernel_reads_it() {
    let desk = Desk::new();
    for (which, expect) in [(1, "expect.sha256"), (2, "expect-web-2.sha256")] {
        let to = desk.path(&format!("out{which}"));
        let out = desk.act(&["extract", &sample_instance(which), "/", "--to", &text(&to)]);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        support::shell("cd \"$1\" && sha256sum --quiet --strict -c SHA256SUMS", &[&to]);
        let manifest = std::fs::read_to_string(to.join("manifest.jsonl")).unwrap();
        let lines: Vec<Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut ours: Vec<_> =
            lines.iter().filter(|line| line["type"] == "file").map(name_and_digest).collect();
        ours.sort();
        // The names in the expectation are the guest's own bytes.
        let expect = std::fs::read(support::repository("testdata/nova").join(expect)).unwrap();
        let mut kernel: Vec<_> =
            expect.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(of_sha256sum).collect();
        kernel.sort();
        assert_eq!(ours, kernel);
    }
}

fn name_and_digest(line: &Value) -> (String, String) {
    (line["path"].as_str().unwrap().to_string(), line["sha256"].as_str().unwrap().to_string())
}

fn of_sha256sum(line: &[u8]) -> (String, String) {
    let (digest, name) = line.split_at(64);
    let escape = |b: &u8| if b.is_ascii() { char::from(*b).to_string() } else { format!("\\x{b:02x}") };
    let escaped: String = name[2..].iter().map(escape).collect();
    (format!("/{escaped}"), String::from_utf8(digest.to_vec()).unwrap())
}

#[test]
fn an_extraction_does_not_go_into_a_directory_that_is_not_empty() {
    let desk = Desk::new();
    let to = desk.path("full");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("mine"), "mine").unwrap();
    let out = desk.act(&["extract", &sample_instance(1), "/etc", "--to", &text(&to)]);
    assert_eq!(code(&out), 2, "{}", stderr(&out));
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 1);
}

#[test]
fn what_needs_leave_is_refused_without_it_and_shows_the_command() {
    let desk = Desk::new();
    let source = sample_instance(1);
    for args in
        [vec!["ls", &source], vec!["stat", &source, "/etc"], vec!["extract", &source, "/etc", "--to", "x"]]
    {
        let out = desk.run(&args);
        assert_eq!(code(&out), 3, "{args:?}");
        assert!(out.stdout.is_empty(), "{args:?}: content without leave");
        assert!(stderr(&out).contains("--ticket") && stderr(&out).contains(&source), "{}", stderr(&out));
    }
    for args in [vec!["chain", &source], vec!["volumes", &source], vec!["instances"]] {
        let mut args = args;
        let tree = sample();
        if args[0] == "instances" {
            args.push(&tree);
        }
        assert_eq!(code(&desk.run(&args)), 0, "{args:?} shows only the operator's own metadata");
    }
}

#[test]
fn mistakes_get_an_answer_that_helps() {
    let desk = Desk::new();
    let source = sample_instance(1);
    let cases: [(&[&str], i32, &str); 7] = [
        (&["ls", "no-such-instance"], 2, "no-such-instance"),
        (&["ls", "/no/such/path"], 2, "/no/such/path"),
        (&["ls", &source, "/no/such/file"], 2, "no such file"),
        (&["ls", &source, "--volume", "9"], 2, "it has:"),
        (&["ls", &source, "--disk", "disk.eph0"], 2, "it has"),
        (&["ls", &source, "--snapshot", "x"], 2, "snapshot"),
        (&["frobnicate"], 2, "frobnicate"),
    ];
    for (args, exit, said) in cases {
        let out = if args[0] == "ls" { desk.act(args) } else { desk.run(args) };
        assert_eq!(code(&out), exit, "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(said), "{args:?}: {}", stderr(&out));
    }
    let out = desk.run(&["--json", "volumes", "/no/such/path"]);
    let error: Value = serde_json::from_slice(&out.stderr).expect("one JSON object on standard error");
    assert_eq!(error["error"]["kind"], "not found");
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let desk = Desk::new();
    let script = "\"$1\" --json ls -R \"$2\" / $3 2>\"$4\" | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}";
    let args = [
        env!("CARGO_BIN_EXE_coldread"),
        &sample_instance(1),
        &super::LEAVE.join(" ").replace("a test", "test"),
        &text(&desk.path("err")),
    ];
    assert_eq!(
        support::text(support::shell(script, &args)).trim(),
        "0",
        "{}",
        std::fs::read_to_string(desk.path("err")).unwrap()
    );
}

#[test]
fn names_steer_no_terminal_and_json_keeps_every_byte() {
    let desk = Desk::new();
    let lines = desk.json(&["ls", "-R", &sample_instance(1), "/home"]);
    let odd: Vec<_> = lines.iter().filter(|line| line["path_bytes"].is_string()).collect();
    assert_eq!(odd.len(), 1, "the sample has one name that is not UTF-8");
    assert_eq!(odd[0]["path"], "/home/debian/caf\\xe9.txt");
    let table = desk.act(&["ls", "-lR", &sample_instance(1), "/home"]);
    assert!(table.stdout.is_ascii() && !table.stdout.contains(&0x1b));
}

/// What coldread does not read itself goes through qemu-nbd, and that is said.
#[test]
fn a_foreign_image_reads_as_the_disk_it_was_made_from() {
    if !support::need(&["qemu-img", "qemu-nbd"]) || !support::need_root() {
        return;
    }
    let desk = Desk::new();
    let raw = text(&desk.path("disk.raw"));
    let made = desk.act(&["image", &sample_instance(2), "--to", &raw]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let expect = desk.act(&["cat", &sample_instance(2), "/etc/hostname"]).stdout;
    for format in ["vhdx", "vmdk", "vdi"] {
        let image = text(&desk.path(&format!("disk.{format}")));
        support::run("qemu-img", &["convert", "-f", "raw", "-O", format, &raw, &image]);
        let out = desk.act(&["cat", &format!("qemu:{image}"), "/etc/hostname"]);
        assert_eq!((code(&out), &out.stdout), (0, &expect), "{format}: {}", stderr(&out));
        assert!(stderr(&out).contains("qemu-nbd"), "{format}: used without a word");
    }
}
