//! The three ways to read, with what the guest wrote as the measure.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Case;
use crate::guest::{Guest, until};
use crate::reader::Place;
use crate::support::{run, shell};

pub const CASES: &[Case] = &[
    ("live_list", list),
    ("brief", |guest| read(guest, "brief")),
    ("no_pause", |guest| read(guest, "no-pause")),
    ("hold", |guest| read(guest, "hold")),
    ("commands", commands),
    ("pause_of_brief", pause),
];

pub const LAST: &[Case] = &[("afterwards", afterwards)];

type Digests = BTreeMap<String, Vec<u8>>;

/// What each read of the running instance found, for the comparison with the shut-off disk.
static FOUND: Mutex<Vec<(String, Digests)>> = Mutex::new(Vec::new());

/// The lifecycle events that an independent listener hears.
struct Listener(Child, tempfile::NamedTempFile);

impl Listener {
    fn new(guest: &Guest) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new("virsh")
            .args(["event", "--domain", &guest.uuid, "--event", "lifecycle", "--loop", "--timestamp"])
            .stdin(Stdio::null())
            .stdout(file.reopen().unwrap())
            .spawn()
            .unwrap();
        // It does not say when it listens.
        std::thread::sleep(std::time::Duration::from_millis(700));
        Self(child, file)
    }

    /// The words after the domain's name: `Suspended Paused`.
    fn heard(&self) -> Vec<String> {
        // The last event is on its way from libvirtd.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let text = fs::read_to_string(self.1.path()).unwrap();
        text.lines().filter_map(|line| Some(line.rsplit_once("': ")?.1.to_owned())).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The digests of the writer's files in a raw disk, read by the kernel with the journal replayed. The disk is a copy.
fn digests(raw: &Path) -> Digests {
    let mount = tempfile::tempdir().unwrap();
    let script = r#"mount -o loop,offset=1048576 "$1" "$2""#;
    shell(script, &[raw.as_os_str(), mount.path().as_os_str()]);
    let found = digests_in(&mount.path().join("srv/writer"));
    run("umount", &[mount.path()]);
    found.unwrap()
}

fn digests_in(dir: &Path) -> std::io::Result<Digests> {
    let mut found = Digests::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let mut bytes = Vec::new();
        fs::File::open(entry.path())?.read_to_end(&mut bytes)?;
        let digest = Sha256::digest(&bytes);
        found.insert(entry.file_name().to_string_lossy().into_owned(), digest.to_vec());
    }
    Ok(found)
}

/// One read: at least the last file that was synced before it is there, and it is kept for [`afterwards`].
fn read(guest: &Guest, mode: &str) {
    let place = Place::new(guest);
    let listener = Listener::new(guest);
    let before = guest.last();
    let (mut reader, disks) = place.open(mode, json!({}));
    let raw = tempfile::NamedTempFile::new().unwrap();
    if mode == "hold" {
        assert_eq!(guest.state(), "paused");
        let disk = disks[0]["file"].as_str().unwrap();
        assert_eq!(disk, guest.disk().to_str().unwrap());
        assert_eq!(disks[0]["format"], "qcow2");
        let held = guest.last();
        run("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", disk, raw.path().to_str().unwrap()]);
        assert_eq!(guest.last(), held, "the guest wrote while it was held");
    } else {
        assert_eq!(guest.state(), "running");
        assert_eq!(disks[0]["size"], 2_u64 << 30);
        // The console counts on during the read.
        guest.counts_on();
        let uri = format!("nbd+unix:///vda?socket={}", disks[0]["socket"].as_str().unwrap());
        run("nbdcopy", &[uri.as_str(), raw.path().to_str().unwrap()]);
        guest.counts_on();
    }
    let status: Value = serde_json::from_slice(&place.live("status").stdout).unwrap();
    assert_eq!(status[0]["uuid"], guest.uuid.as_str());
    assert_eq!(status[0]["guarded"], true);
    assert_eq!(status[0]["owes_resume"], mode == "hold");
    let end = reader.finish();
    assert_eq!(end.code, Some(0), "{}", end.said);
    place.is_clean(mode);
    let wanted: &[&str] = if mode == "no-pause" { &[] } else { &["Suspended Paused", "Resumed Unpaused"] };
    assert_eq!(listener.heard(), wanted, "{mode}");
    guest.counts_on();
    let found = digests(raw.path());
    let newest = found.keys().max().and_then(|name| name.parse().ok()).unwrap_or(0);
    assert!(newest >= before, "{mode}: the newest file is {newest}, {before} was synced before the read");
    FOUND.lock().unwrap().push((mode.to_owned(), found));
}

/// The product as its users run it: files copied out of the running instance, each with the digest it has in the end.
fn commands(guest: &Guest) {
    let flags: [&[&str]; 3] = [&[], &["--hold"], &["--no-pause"]];
    for flags in flags {
        let place = Place::new(guest);
        let listener = Listener::new(guest);
        let before = guest.last();
        let to = tempfile::tempdir().unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["extract", &format!("domain:{}", guest.name), "/srv/writer", "--to"])
            .arg(to.path().join("out"))
            .args(["--ticket", "T-1", "--approved-by", "alice", "--reason", "test"])
            .args(flags)
            .env("COLDREAD_RUN_DIR", place.journals())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{flags:?}: {said}");
        place.is_clean("extract");
        let wanted: &[&str] =
            if flags == ["--no-pause"] { &[] } else { &["Suspended Paused", "Resumed Unpaused"] };
        assert_eq!(listener.heard(), wanted, "{flags:?}");
        let found = digests_in(&to.path().join("out/files/srv/writer")).unwrap();
        let newest = found.keys().max().and_then(|name| name.parse().ok()).unwrap_or(0);
        assert!(newest >= before, "{flags:?}: the newest file is {newest}, {before} was synced before");
        FOUND.lock().unwrap().push((format!("extract {flags:?}"), found));
    }
}

/// The pause of the brief way, as libvirt's events give it. Only shown: a loaded machine makes it longer.
fn pause(guest: &Guest) {
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let place = Place::new(guest);
        let (mut reader, _) = place.open("brief", json!({}));
        let end = reader.finish();
        pauses.push(end.said["report"]["pause_us"].as_i64().unwrap() / 1000);
        place.is_clean("brief");
    }
    pauses.sort_unstable();
    println!("pause of the brief way in ms, sorted: {pauses:?}");
}

fn list(guest: &Guest) {
    let servers = tempfile::NamedTempFile::new().unwrap();
    let listed = json!([{"ID": guest.uuid, "Name": "web one", "Status": "SHUTOFF", "Task State": null, "Power State": 4,
        "Host": "hv1", "Project ID": "p1"}]);
    fs::write(servers.path(), listed.to_string()).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_coldread"))
        .args(["--json", "live", "list", "--servers"])
        .arg(servers.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["uuid"] == guest.uuid.as_str()).unwrap();
    assert_eq!(row["id"].to_string(), guest.does("domid", &[]));
    assert_eq!(row["name"], guest.name.as_str());
    assert_eq!((&row["server"], &row["state"]), (&json!("web one"), &json!("running")));
    assert_eq!(
        row["problems"][0],
        format!("Nova says shut down, libvirt says running ({})", row["reason"].as_str().unwrap())
    );
    assert_eq!(row["disks"][0]["chain"][0]["path"], guest.disk().to_str().unwrap());
    let disks = guest.does("domblklist", &["--details"]);
    assert_eq!(row["disks"].as_array().unwrap().len(), disks.lines().count());
}

/// The instance is shut off: its disk is sound, and every file that a live read found is there with the same bytes.
fn afterwards(guest: &Guest) {
    guest.does("destroy", &[]);
    until("the domain ends", 20, || guest.state() == "shut off");
    let disk = guest.disk();
    run("qemu-img", &["check", "-q", disk.to_str().unwrap()]);
    let raw = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &["convert", "-O", "raw", disk.to_str().unwrap(), raw.path().to_str().unwrap()]);
    let finally = digests(raw.path());
    for (mode, found) in FOUND.lock().unwrap().iter() {
        // The file that was being written at that moment may have been without its bytes.
        let newest = found.keys().max().unwrap();
        for (name, digest) in found.iter().filter(|(name, _)| *name != newest) {
            assert_eq!(finally.get(name), Some(digest), "{mode}: {name}");
        }
        println!("{mode}: {} files with the bytes they have in the shut-off disk", found.len());
    }
    guest.start_again();
}
