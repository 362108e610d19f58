//! Full disks, limits, kill -9 at every write of the log, and the order of system calls: no content without its intent on
//! disk, and nothing lost that was acknowledged.

use std::path::Path;
use std::process::Command;

use coldread::case::audit::verify::verify;

use super::house::{House, INSTANCE, SECRET};
use super::support::{self, need, need_root};

const LEAVE: [&str; 6] = ["--ticket", "T", "--approved-by", "x", "--reason", "y"];

fn extract(to: &str) -> Vec<&str> {
    [&["extract", INSTANCE, "/home/alice/secret", "--to", to][..], &LEAVE[..]].concat()
}

/// A house with one run in its log.
fn house() -> House {
    let house = House::stated();
    house.exits(0, &extract("first"));
    house
}

fn shell(house: &House, before: &str, args: &[&str]) -> std::process::Output {
    let command = house.command(args);
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &format!("{before}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.output().unwrap()
}

fn nothing_was_copied(house: &House, to: &str) {
    let copied = support::output("grep", &["-rq", SECRET, &house.path(to).to_string_lossy()]);
    assert!(!copied.status.success(), "content was copied to {to}");
}

#[test]
fn a_log_that_cannot_be_written_stops_the_act() {
    if !need(&["mkfs.ext4", "bash"]) {
        return;
    }
    // A limit on the size of files, just below what the next line needs. A kibibyte is the unit of ulimit -f.
    let house = house();
    let log = house.path("log/audit.jsonl");
    let len = std::fs::metadata(&log).unwrap().len();
    let lines = std::fs::read(&log).unwrap();
    let out = shell(&house, &format!("ulimit -f {}", len / 1024), &extract("limited"));
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    nothing_was_copied(&house, "limited");
    assert_eq!(std::fs::read(&log).unwrap(), lines);
    // With room again work goes on.
    house.exits(0, &extract("second"));
    assert!(verify(&log, None).unwrap().sound);
    // A case whose log is gone.
    house.open_case("c");
    std::fs::remove_file(house.path("c/audit.jsonl")).unwrap();
    house.refuses("No such file", &[&extract("gone")[..], &["--case", "c"]].concat());
    nothing_was_copied(&house, "gone");
    // Where checkpoints are wanted and cannot go, nothing is done either.
    std::fs::remove_file(house.path("kept")).unwrap();
    std::fs::create_dir(house.path("kept")).unwrap();
    house.refuses("checkpoint to", &extract("unkept"));
    nothing_was_copied(&house, "unkept");
}

/// A small tmpfs; unmounted when it is dropped.
struct Small<'p>(&'p Path);

impl<'p> Small<'p> {
    fn new(at: &'p Path) -> Self {
        support::run("mount", &["-t", "tmpfs", "-o", "size=64k", "none", &at.to_string_lossy()]);
        Self(at)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = support::output("umount", &[&*self.0.to_string_lossy()]);
    }
}

#[test]
fn a_full_or_read_only_disk_stops_the_act() {
    if !need(&["mkfs.ext4"]) || !need_root() {
        return;
    }
    let house = House::stated();
    let dir = house.path("log");
    std::fs::create_dir(&dir).unwrap();
    let mounted = Small::new(&dir);
    house.exits(0, &extract("first"));
    let log = dir.join("audit.jsonl");
    let before = std::fs::read(&log).unwrap();
    // All that is left is filled, but for what is left of the log's own last page.
    let _ = support::output("dd", &["if=/dev/zero", &format!("of={}/fill", dir.display()), "bs=4k"]);
    let mut last = 0;
    for n in 0..10 {
        let to = format!("full{n}");
        let before = std::fs::read(&log).unwrap().len();
        last = house.run(&extract(&to)).status.code().unwrap();
        let intent = std::fs::read_to_string(&log).unwrap()[before..].contains("\"kind\":\"intent\"");
        if !intent {
            nothing_was_copied(&house, &to);
        }
        if last != 0 {
            break;
        }
    }
    assert_eq!(last, 3, "the disk was full");
    assert!(std::fs::read(&log).unwrap().starts_with(&before));
    std::fs::remove_file(dir.join("fill")).unwrap();
    house.exits(0, &extract("again"));
    assert!(verify(&log, None).unwrap().sound, "{:?}", verify(&log, None));
    support::run("mount", &["-o", "remount,ro", &dir.to_string_lossy()]);
    house.refuses("audit log", &extract("readonly"));
    nothing_was_copied(&house, "readonly");
    drop(mounted);
}

#[test]
fn killed_at_every_write_of_the_log_nothing_acknowledged_is_lost() {
    if !need(&["mkfs.ext4", "strace"]) {
        return;
    }
    let house = house();
    let log = house.path("log/audit.jsonl");
    let path = log.to_string_lossy().into_owned();
    let mut killed = 0;
    for call in ["pwrite64", "fdatasync", "ftruncate"] {
        for when in 1..=3 {
            let before = std::fs::read(&log).unwrap();
            let to = format!("{call}{when}");
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let command = house.command(&extract(&to));
            let mut strace = Command::new("strace");
            strace.args([
                "-f",
                "-o",
                "/dev/null",
                "-P",
                &path,
                "-e",
                &format!("trace={call}"),
                "-e",
                &inject,
            ]);
            strace.arg(command.get_program()).args(command.get_args());
            strace.current_dir(house.path("")).env("COLDREAD_POLICY", house.path("policy.toml"));
            strace.env("COLDREAD_INSTANCES", house.path("instances"));
            let out = strace.output().unwrap();
            let after = std::fs::read(&log).unwrap();
            assert!(after.starts_with(&before), "{to}: lines were lost");
            // The intent was not acknowledged when its first write or sync killed the run.
            if when == 1 && call != "ftruncate" {
                assert!(!out.status.success(), "{to} was not killed");
                killed += 1;
                nothing_was_copied(&house, &to);
            }
            if house.path(&to).join("SHA256SUMS").exists() {
                let text = String::from_utf8_lossy(&after[before.len()..]).into_owned();
                assert!(text.contains("\"intent\""), "{to}: content without its intent\n{text}");
            }
            house.exits(0, &extract(&format!("{to}-next")));
            assert!(verify(&log, None).unwrap().sound, "{to}");
        }
    }
    assert_eq!(killed, 2);
}

#[test]
fn a_torn_last_line_is_set_aside_at_every_length() {
    if !need(&["mkfs.ext4"]) {
        return;
    }
    let house = house();
    let (log, kept) = (house.path("log/audit.jsonl"), house.path("kept"));
    let whole = std::fs::read(&log).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let line = &whole[last..];
    for keep in [1, 2, line.len() / 2, line.len() - 2, line.len() - 1] {
        // The next line, torn: as much of it as reached the disk.
        let torn = [&whole[..], &line[..keep]].concat();
        std::fs::write(&log, &torn).unwrap();
        let found = verify(&log, None).unwrap();
        assert_eq!((found.sound, found.torn, found.bad_line), (false, Some(keep as u64), None));
        std::fs::write(&kept, "").unwrap();
        house.exits(0, &extract(&format!("after{keep}")));
        let found = verify(&log, None).unwrap();
        assert!(found.sound, "{found:?}");
        let text = std::fs::read_to_string(&log).unwrap();
        let record: serde_json::Value = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .find(|l: &serde_json::Value| l["kind"] == "torn")
            .unwrap();
        let aside = house.path("log").join(record["kept"].as_str().unwrap());
        assert_eq!(std::fs::read(&aside).unwrap(), line[..keep]);
        let sum = support::text(support::run("sha256sum", &[aside]));
        assert_eq!(record["sha256"], sum[..64]);
        assert!(text.as_bytes().starts_with(&whole));
    }
    // The length reached the disk and the bytes did not.
    std::fs::write(&log, [&whole[..], &[0; 700][..], b"\n"].concat()).unwrap();
    house.exits(0, &extract("zeros"));
    assert!(verify(&log, None).unwrap().sound);
}

#[test]
fn content_is_read_after_its_intent_is_synced() {
    if !need(&["mkfs.ext4", "strace"]) {
        return;
    }
    let house = house();
    let image = std::fs::read(house.path("instances").join(INSTANCE).join("disk")).unwrap();
    let at = |needle: &[u8]| image.windows(needle.len()).position(|w| w == needle).unwrap() as u64;
    // Where the file's bytes lie, and where its name does.
    let (content, name) = (at(SECRET.as_bytes()), at(b"secret"));
    let trace = house.path("trace");
    let args = extract("traced");
    let command = house.command(&args);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o", &trace.to_string_lossy()]);
    strace.args(["-e", "trace=read,pread64,preadv,preadv2,mmap,pwrite64,write,fdatasync,fsync"]);
    strace.arg(command.get_program()).args(command.get_args());
    strace.current_dir(house.path("")).env("COLDREAD_POLICY", house.path("policy.toml"));
    strace.env("COLDREAD_INSTANCES", house.path("instances"));
    assert!(strace.output().unwrap().status.success());
    let trace = std::fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let syncs: Vec<usize> = (0..lines.len())
        .filter(|n| lines[*n].contains("fdatasync(") && lines[*n].contains("audit.jsonl>"))
        .collect();
    assert_eq!(syncs.len(), 2, "one for the intent, one for the outcome");
    let log_syncs = lines.iter().filter(|l| l.contains("sync(") && l.contains("/log")).count();
    assert_eq!(log_syncs, 2, "nothing else of the log is synced");
    let disk = format!("{INSTANCE}/disk>");
    let mut reads = 0;
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(&disk)) {
        assert!(!line.contains("mmap("), "{line}");
        let Some(call) = line.split("pread64(").nth(1) else { continue };
        let numbers: Vec<u64> =
            call.split(", ").filter_map(|part| part.split(')').next()?.trim().parse().ok()).collect();
        let [.., length, offset] = numbers[..] else { continue };
        let covers = |byte: u64| (offset..offset + length).contains(&byte);
        if covers(content) || covers(name) {
            reads += 1;
            assert!(n > syncs[0], "read before the intent was synced: {line}");
        }
    }
    assert!(reads >= 2, "the trace does not show the reads");
}
