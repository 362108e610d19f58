//! Processes told apart for good: a pid together with its start time, which no later process with that pid shares.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A process that is running, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start: u64,
}

/// The QEMU process of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// The process.
    #[serde(flatten)]
    pub running: Running,
    /// The user it runs as.
    pub uid: u32,
    /// The group it runs as.
    pub gid: u32,
}

impl Running {
    /// The process with this pid.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, in parentheses, can hold anything: the fields start after its last parenthesis.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        // A zombie has ended.
        if matches!(state, "Z" | "X") {
            return None;
        }
        // The state was field 3.
        Some(Self { pid, start: fields.nth(18)?.parse().ok()? })
    }

    /// This process.
    pub fn me() -> Result<Self> {
        Self::find(std::process::id()).ok_or_else(|| {
            Error::unsupported("/proc does not show this process").hint("mount procfs at /proc")
        })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Kills it at once. Whether it is gone is for the caller to see.
    pub fn kill(&self) {
        if self.is_alive()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The id of this boot of the host.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(|e| Error::io(path, e))?.trim().to_owned())
}

/// All pids.
fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The QEMU that runs the domain with this UUID, by its `-uuid` argument. None where it is not to be seen from here.
pub fn qemu(uuid: &str) -> Option<Qemu> {
    pids().into_iter().find_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next()?;
        let name = program.rsplit(|byte| *byte == b'/').next()?;
        if !(name.starts_with(b"qemu") || name.ends_with(b"qemu-kvm")) {
            return None;
        }
        words.find(|word| *word == b"-uuid")?;
        if !words.next()?.eq_ignore_ascii_case(uuid.as_bytes()) {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Qemu {
            running: Running::find(pid)?,
            uid: effective(&status, "Uid:")?,
            gid: effective(&status, "Gid:")?,
        })
    })
}

/// The effective id of a line of `/proc/PID/status`: real, effective, saved, filesystem. The owner of `/proc/PID` would not
/// do: it is root for a process that changed its user.
fn effective(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().nth(1)?.parse().ok()
}

/// The processes, this one excepted, that have the file open.
pub fn holders(path: &Path) -> Vec<Running> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let me = std::process::id();
    pids()
        .into_iter()
        .filter(|pid| *pid != me)
        .filter(|pid| {
            let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            fds.filter_map(Result::ok).any(|fd| {
                fs::metadata(fd.path())
                    .is_ok_and(|meta| (meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino()))
            })
        })
        .filter_map(Running::find)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_its_end_is_seen() {
        let me = Running::me().unwrap();
        assert!(me.is_alive());
        assert!(!Running { start: me.start + 1, ..me }.is_alive());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let running = Running::find(child.id()).unwrap();
        running.kill();
        child.wait().unwrap();
        assert!(!running.is_alive());
        running.kill();
    }

    #[test]
    fn the_user_of_a_process() {
        let status = "Name:\tqemu\nUid:\t0\t64055\t64055\t64055\nGid:\t1\t108\t2\t3\n";
        assert_eq!(effective(status, "Uid:"), Some(64055));
        assert_eq!(effective(status, "Gid:"), Some(108));
    }

    #[test]
    fn the_holders_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(fs::File::open(file.path()).unwrap())
            .spawn()
            .unwrap();
        assert_eq!(holders(file.path()), [Running::find(child.id()).unwrap()]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
