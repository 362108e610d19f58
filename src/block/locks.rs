//! QEMU's image locks: whether somebody holds a disk open for writing, and who. Looked at, never taken.
//!
//! QEMU's file driver (`block/file-posix.c`, `RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE`) holds shared OFD locks on
//! single bytes: byte 100 + i says that permission i is held, byte 200 + i that it is not shared with others. The
//! permissions are those of `include/block/block-common.h`: 0 consistent read, 1 write, 2 write unchanged, 3 resize.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};

/// The byte that stands for permission 0 held (`RAW_LOCK_PERM_BASE`).
const PERM_BASE: u64 = 100;
/// The byte that stands for permission 0 not shared (`RAW_LOCK_SHARED_BASE`).
const SHARED_BASE: u64 = 200;
/// Bytes looked at from each base; QEMU uses the first few.
const PERMISSIONS: u64 = 64;
/// `BLK_PERM_WRITE`, as a bit of [`Locks::held`].
const WRITE: u64 = 1 << 1;

/// What is locked in one file at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Bit i: somebody holds permission i.
    pub held: u64,
    /// Bit i: somebody does not share permission i.
    pub unshared: u64,
    /// The holders that can be seen in `/proc`, by pid. One in another pid namespace or on another host cannot.
    pub owners: Vec<Owner>,
}

/// A process with the file open and locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id in our pid namespace.
    pub pid: u32,
    /// Its command's name (`comm`), as the kernel has it: at most 15 bytes.
    pub command: String,
    /// The libvirt domain that it runs, by QEMU's `-name guest=`.
    pub domain: Option<String>,
    /// The domain's UUID, by QEMU's `-uuid`.
    pub uuid: Option<String>,
    /// Whether this one holds the write permission.
    pub writer: bool,
}

impl Locks {
    /// Whether somebody holds the write permission, running or paused.
    pub fn writer(&self) -> bool {
        self.held & WRITE != 0
    }

    /// The processes in a sentence: `qemu-system-x86 (pid 4711, domain instance-0000274a)`.
    pub fn who(&self) -> String {
        if self.owners.is_empty() {
            return "a process that cannot be seen from here".into();
        }
        let mut words = Vec::with_capacity(self.owners.len());
        for owner in self.owners.iter().filter(|owner| owner.writer || !self.writer()) {
            let domain = owner.domain.as_ref().map_or(String::new(), |name| format!(", domain {name}"));
            words.push(format!("{} (pid {}{domain})", owner.command, owner.pid));
        }
        words.join(", ")
    }
}

/// Looks at the locks that others hold on `file`, which may be open for reading only. Locks of this very descriptor
/// do not count; those of another descriptor of this process do. An error says that the filesystem cannot tell.
pub fn inspect(file: &File) -> Result<Locks> {
    let mut locks = Locks::default();
    if !locked(file, PERM_BASE, SHARED_BASE.saturating_add(PERMISSIONS).saturating_sub(PERM_BASE))? {
        return Ok(locks);
    }
    for i in 0..PERMISSIONS {
        let bit = 1_u64.checked_shl(u32::try_from(i).unwrap_or(0)).unwrap_or(0);
        if locked(file, PERM_BASE.saturating_add(i), 1)? {
            locks.held |= bit;
        }
        if locked(file, SHARED_BASE.saturating_add(i), 1)? {
            locks.unshared |= bit;
        }
    }
    locks.owners = owners(file).unwrap_or_default();
    Ok(locks)
}

/// Whether anybody else's lock touches these bytes.
fn locked(file: &File, start: u64, len: u64) -> Result<bool> {
    let failed = |error| Error::io("cannot look at the image's locks", error);
    let offset = |value| libc::off_t::try_from(value).map_err(failed);
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).map_err(failed)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(failed)?,
        l_start: offset(start)?,
        l_len: offset(len)?,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|errno| Error::io("cannot look at the image's locks", errno))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// The processes with locks on the same inode. Those that end while we look are left out.
fn owners(file: &File) -> std::io::Result<Vec<Owner>> {
    let ours = file.metadata()?;
    let mut owners: Vec<Owner> = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(infos) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        let (mut found, mut writer) = (false, false);
        for info in infos.flatten() {
            let Ok(text) = fs::read_to_string(info.path()) else { continue };
            let Some(held) = perm_locks(&text, ours.ino()) else { continue };
            // The lock's device number is the superblock's, which stat(2) does not show on every filesystem; the open
            // file itself settles it.
            let link = process.path().join("fd").join(info.file_name());
            let same = fs::metadata(link).is_ok_and(|m| m.ino() == ours.ino() && m.dev() == ours.dev());
            if same {
                found = true;
                writer |= held & WRITE != 0;
            }
        }
        if found {
            owners.push(describe(pid, &process.path(), writer));
        }
    }
    owners.sort_by_key(|owner| owner.pid);
    Ok(owners)
}

/// The permission bits that an fdinfo's `lock:` lines (proc(5)) hold on inode `ino`; none if it locks none of the
/// bytes looked at: `lock:\t1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101`.
fn perm_locks(fdinfo: &str, ino: u64) -> Option<u64> {
    let mut found = None;
    for line in fdinfo.lines().filter_map(|line| line.strip_prefix("lock:")) {
        // FLOCK lines are of flock(2), which is another sort of lock.
        if !line.contains("OFDLCK") && !line.contains("POSIX") {
            continue;
        }
        let mut words = line.split_ascii_whitespace().rev();
        let (last, first, inode) = (words.next(), words.next(), words.next());
        let lock_ino = inode.and_then(|word| word.rsplit(':').next()).and_then(|word| word.parse().ok());
        let Some(first) = first.and_then(|word| word.parse::<u64>().ok()) else { continue };
        let last = last.and_then(|word| word.parse::<u64>().ok()).unwrap_or(u64::MAX);
        let end = SHARED_BASE.saturating_add(PERMISSIONS);
        if lock_ino != Some(ino) || last < PERM_BASE || first >= end {
            continue;
        }
        let bits = (0..PERMISSIONS)
            .filter(|i| (first..=last).contains(&PERM_BASE.saturating_add(*i)))
            .filter_map(|i| 1_u64.checked_shl(u32::try_from(i).ok()?));
        found = Some(bits.fold(found.unwrap_or(0), |all, bit| all | bit));
    }
    found
}

fn describe(pid: u32, process: &Path, writer: bool) -> Owner {
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
    let cmdline = fs::read(process.join("cmdline")).unwrap_or_default();
    let (domain, uuid) = domain(&cmdline);
    Owner { pid, command, domain, uuid, writer }
}

/// Name and UUID of the domain in a QEMU command line, whose words end with NUL bytes.
fn domain(cmdline: &[u8]) -> (Option<String>, Option<String>) {
    let words: Vec<_> = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let after = |option: &str| {
        words.iter().position(|word| word == option).and_then(|i| words.get(i.saturating_add(1)))
    };
    let name = after("-name").map(|value| {
        let first = value.split(',').next().unwrap_or_default();
        first.strip_prefix("guest=").unwrap_or(first).to_owned()
    });
    (name, after("-uuid").map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as the kernel printed them for a guest's overlay.
    const FDINFO: &str = "pos:\t0\nflags:\t02500002\nmnt_id:\t29\nino:\t77\n\
        lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:77 100 101\n\
        lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:77 103 103\n\
        lock:\t3: OFDLCK ADVISORY  READ -1 fe:00:77 201 201\n";

    #[test]
    fn reads_the_permissions_of_lock_lines() {
        assert_eq!(perm_locks(FDINFO, 77), Some(0b1011));
        assert_eq!(perm_locks(FDINFO, 78), None);
        assert_eq!(perm_locks("lock:\t1: POSIX  ADVISORY  WRITE 1 fe:00:77 0 EOF\n", 77), Some(u64::MAX));
        assert_eq!(perm_locks("lock:\t1: POSIX  ADVISORY  WRITE 1 fe:00:77 0 99\n", 77), None);
        assert_eq!(perm_locks("lock:\t1: FLOCK  ADVISORY  WRITE 1 fe:00:77 0 EOF\n", 77), None);
    }

    #[test]
    fn finds_the_domain_of_a_command_line() {
        let line =
            b"/usr/bin/qemu-system-x86_64\0-name\0guest=instance-0000274a,debug-threads=on\0-S\0-uuid\0\
            3a7f0c58-8a5c-4f0e-9d1e-5c1f0b7a2d11\0";
        let (name, uuid) = domain(line);
        assert_eq!(name.as_deref(), Some("instance-0000274a"));
        assert_eq!(uuid.as_deref(), Some("3a7f0c58-8a5c-4f0e-9d1e-5c1f0b7a2d11"));
        assert_eq!(domain(b"qemu-nbd\0-r\0-name"), (None, None));
    }

    #[test]
    fn a_file_nobody_locks_has_none() {
        let file = tempfile::tempfile().unwrap();
        let locks = inspect(&file).unwrap();
        assert_eq!(locks, Locks::default());
        assert!(!locks.writer());
    }
}
