//! What else can happen, each with its stated outcome.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::Case;
use crate::guest::{Guest, fill, mount_small, until};
use crate::reader::{Place, ended, signal};
use crate::support::{run, shell};

pub const CASES: &[Case] = &[
    ("signals_end_it_tidily", signals),
    ("found_paused", found_paused),
    ("paused_by_another_in_the_same_moment", same_moment),
    ("resumed_by_another_while_held", resumed_by_another),
    ("paused_by_another_while_a_view_is_read", paused_meanwhile),
    ("two_readers", two_readers),
    ("a_reader_that_is_stopped", reader_stopped),
    ("a_watchdog_that_is_stopped", watchdog_stopped),
    ("a_watchdog_that_is_told_to_end", watchdog_told),
    ("virsh_missing", virsh_missing),
    ("virsh_hanging", virsh_hanging),
    ("scratch_limit", scratch_limit),
    ("scratch_refused", scratch_refused),
    ("scratch_filled_by_others", scratch_filled),
    ("journals_disk_full", journals_full),
    ("libvirtd_restarted", libvirtd_restarted),
];

/// After the comparison with the shut-off disk: a guest that is started anew writes its files anew.
pub const LAST: &[Case] = &[("destroyed_meanwhile", destroyed)];

/// A small filesystem for this case alone; QEMU does not see it.
struct Small(PathBuf);

impl Small {
    fn new(guest: &Guest, mib: u32) -> Self {
        let dir = guest.dir.join("own");
        mount_small(&dir, mib);
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn signals(guest: &Guest) {
    for (which, mode) in [(Signal::SIGINT, "hold"), (Signal::SIGTERM, "brief"), (Signal::SIGHUP, "no-pause")]
    {
        let place = Place::new(guest);
        let (mut reader, _) = place.open(mode, json!({}));
        signal(-reader.pid(), which);
        let end = reader.wait();
        assert_eq!(end.code, Some(0), "{which}: {}", end.said);
        assert!(place.watchdog().is_none(), "{which}");
        place.is_clean(which.as_str());
    }
    // While the steps before reading are under way.
    let place = Place::new(guest);
    place.hold_at("backup-begin");
    let mut reader = place.start("brief", json!({}));
    place.wait_held();
    signal(reader.pid(), Signal::SIGTERM);
    place.let_go();
    let end = reader.wait();
    assert!(matches!(end.code, Some(0 | 2)), "{:?} {}", end.code, end.said);
    place.is_clean("SIGTERM in the middle of the steps");
}

/// Refused, and left paused; read as it is on request, and left paused.
fn found_paused(guest: &Guest) {
    guest.does("suspend", &[]);
    for mode in ["brief", "hold", "no-pause"] {
        let place = Place::new(guest);
        let end = place.start(mode, json!({})).wait();
        assert_eq!(end.code, Some(3), "{}", end.said);
        assert!(end.error().contains("found paused") && end.error().contains("--as-is"), "{}", end.error());
        assert_eq!(guest.state(), "paused");
        place.has_no_rests(mode);
    }
    let place = Place::new(guest);
    let (mut reader, disks) = place.open("brief", json!({"as_is": true}));
    assert_eq!(disks[0]["file"], guest.disk().to_str().unwrap());
    let end = reader.finish();
    assert_eq!(end.code, Some(0), "{}", end.said);
    assert_eq!(end.said["report"]["consistency"], "found paused");
    assert_eq!(guest.state(), "paused");
    guest.does("resume", &[]);
    guest.counts_on();
}

/// Not resumed, exit 4, and the command that does it.
fn same_moment(guest: &Guest) {
    for mode in ["brief", "hold"] {
        let place = Place::new(guest);
        place.hold_at("; suspend");
        let mut reader = place.start(mode, json!({}));
        place.wait_held();
        guest.does("suspend", &[]);
        place.let_go();
        let end = reader.wait();
        assert_eq!(end.code, Some(4), "{mode}: {}", end.said);
        assert!(
            end.error().contains("someone else paused") && end.error().contains(" resume "),
            "{}",
            end.error()
        );
        place.has_no_rests(mode);
        assert_eq!(guest.state(), "paused", "{mode}");
        guest.does("resume", &[]);
    }
    guest.counts_on();
}

/// The read is marked, exit 1; and a pause that someone makes after that stays, exit 4.
fn resumed_by_another(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("hold", json!({}));
    guest.does("resume", &[]);
    guest.counts_on();
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    assert!(
        end.marks().contains("resumed by someone else") && end.marks().contains("changed while"),
        "{}",
        end.marks()
    );
    place.is_clean("resumed by someone else");

    let (mut reader, _) = place.open("hold", json!({}));
    guest.does("resume", &[]);
    guest.does("suspend", &[]);
    let end = reader.finish();
    assert_eq!(end.code, Some(4), "{}", end.said);
    place.has_no_rests("resumed and paused by someone else");
    assert_eq!(guest.state(), "paused");
    guest.does("resume", &[]);
}

/// Their pause stays, the read is whole and says so.
fn paused_meanwhile(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("no-pause", json!({}));
    guest.does("suspend", &[]);
    let end = reader.finish();
    assert_eq!(end.code, Some(0), "{}", end.said);
    assert!(end.said["report"]["notes"].to_string().contains("paused by someone else"), "{}", end.said);
    place.has_no_rests("paused by someone else");
    assert_eq!(guest.state(), "paused");
    guest.does("resume", &[]);
}

/// The second one is refused and disturbs nothing.
fn two_readers(guest: &Guest) {
    for (first, second) in [("hold", "brief"), ("no-pause", "hold"), ("brief", "no-pause")] {
        let place = Place::new(guest);
        let (mut reader, _) = place.open(first, json!({}));
        let end = place.start(second, json!({})).wait();
        assert_eq!(end.code, Some(3), "{first}, {second}: {}", end.said);
        assert_eq!(guest.state(), if first == "hold" { "paused" } else { "running" });
        // A restore leaves alone what somebody works on.
        assert!(place.live("restore").status.success());
        assert_eq!(guest.state(), if first == "hold" { "paused" } else { "running" });
        let end = reader.finish();
        assert_eq!(end.code, Some(0), "{first}, {second}: {}", end.said);
        place.is_clean("two readers");
    }
    // Both at once, and neither sees the other's pause or job: the journal decides.
    let place = Place::new(guest);
    place.hold_at("; suspend");
    let mut one = place.start("hold", json!({}));
    place.wait_held();
    let other = place.start("hold", json!({})).wait();
    assert_eq!(other.code, Some(3), "{}", other.said);
    assert!(other.error().contains("another run"), "{}", other.error());
    place.let_go();
    assert_eq!(one.finish().code, Some(0));
    place.is_clean("two readers at once");
}

/// The watchdog ends the pause at its deadline; the read is marked.
fn reader_stopped(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("hold", json!({"max_pause_ms": 700}));
    signal(reader.pid(), Signal::SIGSTOP);
    until("the watchdog resumes", 10, || guest.state() == "running");
    signal(reader.pid(), Signal::SIGCONT);
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    assert!(end.marks().contains("longest pause"), "{}", end.marks());
    place.is_clean("stopped reader");
    // The same for a view.
    let (mut reader, _) = place.open("no-pause", json!({"max_view_ms": 700}));
    signal(reader.pid(), Signal::SIGSTOP);
    until("the watchdog ends the view", 10, || !guest.does("domjobinfo", &[]).contains("Backup"));
    signal(reader.pid(), Signal::SIGCONT);
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    assert!(end.marks().contains("longest view"), "{}", end.marks());
    place.is_clean("stopped reader of a view");
}

/// The reader does not wait for it longer than a deadline and its patience.
fn watchdog_stopped(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("hold", json!({"max_pause_ms": 500, "patience_ms": 4000}));
    signal(place.watchdog().unwrap(), Signal::SIGSTOP);
    until("the reader resumes", 20, || guest.state() == "running");
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    assert!(end.marks().contains("watchdog was lost"), "{}", end.marks());
    place.is_clean("stopped watchdog");
}

/// It puts everything back before it goes.
fn watchdog_told(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("hold", json!({}));
    signal(place.watchdog().unwrap(), Signal::SIGTERM);
    until("the watchdog resumes", 10, || guest.state() == "running");
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    place.is_clean("watchdog told to end");
}

fn virsh_missing(guest: &Guest) {
    let place = Place::new(guest);
    let end = place.start("brief", json!({"virsh": "/nonexistent/virsh"})).wait();
    assert_eq!(end.code, Some(2), "{}", end.said);
    assert!(end.error().contains("libvirt-clients"), "{}", end.error());
    place.is_clean("virsh missing");
}

/// Exit 2 where nothing was done yet. Where the pause cannot be ended: exit 4 and the command; the watchdog goes on and ends it
/// as soon as virsh answers again.
fn virsh_hanging(guest: &Guest) {
    let place = Place::new(guest);
    place.hold_at("dumpxml");
    let end = place.start("brief", json!({})).wait();
    assert_eq!(end.code, Some(2), "{}", end.said);
    assert!(end.error().contains("no answer"), "{}", end.error());
    place.let_go();
    place.is_clean("virsh hanging at once");

    let place = Place::new(guest);
    let (mut reader, _) = place.open("hold", json!({"patience_ms": 1500}));
    place.hold_at("; resume");
    let end = reader.finish();
    assert_eq!(end.code, Some(4), "{}", end.said);
    assert!(end.error().contains(&format!("resume {}", guest.name)), "{}", end.error());
    assert_eq!(guest.state(), "paused");
    place.let_go();
    until("the watchdog resumes", 30, || guest.state() == "running");
    place.is_clean("virsh hanging on the way back");
}

/// The view ends before its scratch files are larger; the guest does not notice.
fn scratch_limit(guest: &Guest) {
    let place = Place::new(guest);
    let (mut reader, _) = place.open("no-pause", json!({"scratch_limit": 300 << 10}));
    until("the view ends", 60, || !guest.does("domjobinfo", &[]).contains("Backup"));
    assert_eq!(guest.state(), "running");
    let end = reader.finish();
    assert_eq!(end.code, Some(1), "{}", end.said);
    assert!(end.marks().contains("scratch files have"), "{}", end.marks());
    place.is_clean("scratch limit");
}

/// Too little room, and a directory that QEMU cannot reach: exit 2, nothing begun, and the ways out are named.
fn scratch_refused(guest: &Guest) {
    let place = Place::new(guest);
    let small = Small::new(guest, 32);
    let end = place.start("brief", json!({"scratch": small.0})).wait();
    assert_eq!(end.code, Some(2), "{}", end.said);
    assert!(end.error().contains("bytes free") && end.error().contains("--hold"), "{}", end.error());
    let closed = guest.dir.join("closed");
    fs::create_dir_all(&closed).unwrap();
    shell("chmod 700 \"$1\"", &[closed.as_os_str()]);
    for mode in ["brief", "no-pause"] {
        let end = place.start(mode, json!({"scratch": closed})).wait();
        assert_eq!(end.code, Some(2), "{}", end.said);
        assert!(
            end.error().contains("Permission denied") && end.error().contains("--hold"),
            "{}",
            end.error()
        );
        place.is_clean("a directory that QEMU cannot reach");
        assert!(fs::read_dir(&closed).unwrap().next().is_none());
    }
}

/// Others fill the filesystem at once. Where the floor is seen first, the guest runs on; where QEMU's error is, the guest is paused
/// by QEMU, which is not ours to resume, and that is said with exit 4.
fn scratch_filled(guest: &Guest) {
    for floor in [16 << 20, 0] {
        let place = Place::new(guest);
        let (mut reader, _) = place.open("no-pause", json!({"scratch": guest.small(), "floor": floor}));
        fill(&guest.small());
        until("the view ends", 60, || !guest.does("domjobinfo", &[]).contains("Backup"));
        let end = reader.finish();
        if end.code == Some(4) {
            assert!(end.error().contains("I/O error"), "{}", end.error());
            guest.does("resume", &[]);
        } else {
            assert_eq!(end.code, Some(1), "{}", end.said);
            place.is_clean("scratch filled");
        }
        guest.counts_on();
        fs::remove_file(guest.small().join("filler")).unwrap();
    }
}

/// Nothing is begun that cannot be written down; what was begun is put back all the same.
fn journals_full(guest: &Guest) {
    let place = Place::new(guest);
    let small = Small::new(guest, 1);
    shell("chmod 700 \"$1\"", &[small.0.as_os_str()]);
    let (mut reader, _) = place.open("hold", json!({"dir": small.0}));
    fill(&small.0);
    let end = reader.finish();
    assert_eq!(end.code, Some(0), "{}", end.said);
    place.is_clean("journals' disk full while paused");
    // The journal that was closed left room.
    fs::remove_file(small.0.join("filler")).unwrap();
    fill(&small.0);
    let end = place.start("hold", json!({"dir": small.0})).wait();
    assert_eq!(end.code, Some(2), "{}", end.said);
    assert!(end.error().contains("No space left"), "{}", end.error());
    place.is_clean("journals' disk full");
}

/// The guest does not depend on it, and neither does a run. Only where the daemon is this test's own.
fn libvirtd_restarted(guest: &Guest) {
    let file = guest.dir.join("libvirtd.pid");
    if !file.exists() {
        println!("skipped: libvirtd was running before this test");
        return;
    }
    for mode in ["hold", "brief"] {
        let place = Place::new(guest);
        let (mut reader, disks) = place.open(mode, json!({"patience_ms": 60_000}));
        let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        signal(pid, Signal::SIGTERM);
        ended(pid);
        run("libvirtd", &["-d", "-p", file.to_str().unwrap()]);
        until("libvirtd answers", 60, || guest.virsh("domstate", &[]).status.success());
        if mode == "brief" {
            // The view comes from QEMU: it is there all along.
            let uri = format!("nbd+unix:///vda?socket={}", disks[0]["socket"].as_str().unwrap());
            run("nbdinfo", &[uri.as_str()]);
        }
        let end = reader.finish();
        assert_eq!(end.code, Some(0), "{mode}: {}", end.said);
        place.is_clean("libvirtd restarted");
    }
    guest.counts_on();
}

/// Nothing is done to an instance that is gone, nor to the one that is started in its place.
fn destroyed(guest: &Guest) {
    for mode in ["hold", "no-pause"] {
        let place = Place::new(guest);
        let (mut reader, _) = place.open(mode, json!({}));
        guest.does("destroy", &[]);
        let end = reader.finish();
        assert_eq!(end.code, Some(1), "{mode}: {}", end.said);
        assert!(end.marks().contains("nothing was done to it"), "{}", end.marks());
        assert_eq!(guest.state(), "shut off");
        place.has_no_rests("destroyed");
        guest.start_again();
    }
    // Started anew and paused by someone: a restore after both were killed leaves that alone.
    let place = Place::new(guest);
    let (reader, _) = place.open("hold", json!({}));
    let watchdog = place.watchdog().unwrap();
    signal(watchdog, Signal::SIGSTOP);
    signal(reader.pid(), Signal::SIGKILL);
    ended(reader.pid());
    signal(watchdog, Signal::SIGKILL);
    ended(watchdog);
    guest.does("destroy", &[]);
    guest.does("start", &["--paused"]);
    let out = place.live("restore");
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("closed without acting"));
    assert_eq!(guest.state(), "paused");
    place.has_no_rests("started anew");
    guest.does("resume", &[]);
    guest.start_again();
}
