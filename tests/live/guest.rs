//! The guest that is read: a writer on ext4 in a qcow2 overlay, as `guest.sh` starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The guest's directory, name and UUID.
pub struct Guest {
    pub dir: PathBuf,
    pub name: String,
    pub uuid: String,
}

impl Guest {
    /// Starts it. Its name and UUID hold our pid, so that test runs do not meet.
    pub fn up() -> Self {
        let pid = std::process::id();
        let name = format!("instance-{pid:08x}");
        let uuid = format!("{pid:08x}-2b7d-4a54-9d3c-0f5e7a1bc01d");
        // QEMU's user has to reach it, which rules out the build's directory.
        let dir = std::env::temp_dir().join(format!("coldread-live-{pid:x}"));
        let guest = Self { dir, name, uuid };
        std::fs::create_dir_all(&guest.dir).unwrap();
        // Before QEMU starts: what is mounted later is not seen in its mount namespace.
        mount_small(&guest.small(), 128);
        guest.script("up");
        guest
    }

    fn script(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/guest.sh");
        let out = Command::new("bash")
            .arg(script)
            .arg(verb)
            .env("LIVE_GUEST_DIR", &self.dir)
            .env("LIVE_GUEST_NAME", &self.name)
            .env("LIVE_GUEST_UUID", &self.uuid)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "guest.sh {verb}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }

    /// The instance's directory.
    pub fn instance(&self) -> PathBuf {
        self.dir.join("instances").join(&self.uuid)
    }

    /// A filesystem of 128 MiB that QEMU sees.
    pub fn small(&self) -> PathBuf {
        self.dir.join("small")
    }

    /// Its overlay.
    pub fn disk(&self) -> PathBuf {
        self.instance().join("disk")
    }

    /// The last file that the guest said it had synced.
    pub fn last(&self) -> u32 {
        let log = std::fs::read(self.instance().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&log)
            .rsplit("SYNCED ")
            .find_map(|rest| rest.get(..6).and_then(|n| n.parse().ok()))
            .unwrap_or(0)
    }

    /// Waits until the guest has written another file.
    pub fn counts_on(&self) {
        let before = self.last();
        until("the guest writes on", 20, || self.last() > before);
    }

    /// virsh's answer for this domain: `virsh VERB DOMAIN REST…`.
    pub fn virsh(&self, verb: &str, rest: &[&str]) -> Output {
        Command::new("virsh")
            .args(["--quiet", verb, &self.uuid])
            .args(rest)
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }

    /// The same, and it has to succeed.
    pub fn does(&self, verb: &str, rest: &[&str]) -> String {
        let out = self.virsh(verb, rest);
        assert!(out.status.success(), "virsh {verb}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// `running`, `paused`, …
    pub fn state(&self) -> String {
        self.does("domstate", &[])
    }

    /// Starts the domain where it does not run, and waits for the writer.
    pub fn start_again(&self) {
        if self.state() != "running" {
            let _ = self.virsh("destroy", &[]);
            self.does("start", &[]);
        }
        until("the guest writes", 60, || self.last() > 0);
        self.counts_on();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.script("down")));
        let _ = Command::new("umount").arg("-l").arg(self.small()).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Mounts an empty filesystem in memory there.
pub fn mount_small(dir: &Path, mib: u32) {
    std::fs::create_dir_all(dir).unwrap();
    let options = format!("size={mib}m,mode=755");
    crate::support::run("mount", &["-t", "tmpfs", "-o", &options, "none", dir.to_str().unwrap()]);
}

/// Leaves no byte free there.
pub fn fill(dir: &Path) {
    crate::support::shell(r#"dd if=/dev/zero of="$1/filler" bs=64k 2>/dev/null || true"#, &[dir]);
}

/// Waits for something that has to come to pass.
pub fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(20));
    }
}
