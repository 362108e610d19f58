//! Where files are written: beneath one directory handle, never over anything, never through a joined path.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use sha2::{Digest, Sha256};

use super::copy::sink_error;
use super::hash::hex;
use crate::error::{Error, Result};

/// A directory of the output.
pub struct Dir {
    fd: OwnedFd,
    /// Its path below the output's top, without slashes at its ends; empty for the top.
    path: Vec<u8>,
}

impl Dir {
    /// Its path below the output's top; empty for the top.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Takes back a file that was not finished.
    pub fn remove(&self, name: &[u8]) {
        // It is ours, it was just made, and if it cannot go, `verify` will name it.
        let _ = unlinkat(self.fd.as_fd(), OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir);
    }
}

/// An output directory.
pub struct Sink {
    top: Arc<Dir>,
    /// Numbers for names that were taken.
    taken: AtomicU64,
}

const DIR_FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

const FILE_FLAGS: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Tries at a name that is free.
const TRIES: u32 = 64;

impl Sink {
    /// Makes `dir`, or takes it if it is there and empty; anything in it is an error.
    pub fn create(dir: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("{}: cannot make the output directory", dir.display()), error);
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
                    return Err(Error::usage(format!(
                        "{}: the output directory is not empty",
                        dir.display()
                    ))
                    .hint("name a directory that does not exist yet"));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        let fd = open(dir, DIR_FLAGS, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { top: Arc::new(Dir { fd, path: Vec::new() }), taken: AtomicU64::new(0) })
    }

    /// The output directory itself.
    pub fn top(&self) -> &Arc<Dir> {
        &self.top
    }

    /// Makes a directory for the guest's name `name`.
    pub fn dir(&self, parent: &Dir, name: &[u8]) -> Result<Arc<Dir>> {
        let (fd, name) = self.place(name, |name| {
            mkdirat(parent.fd.as_fd(), name, Mode::S_IRWXU)?;
            openat(parent.fd.as_fd(), name, DIR_FLAGS, Mode::empty())
        })?;
        Ok(Arc::new(Dir { fd, path: join(&parent.path, &name) }))
    }

    /// Opens a directory that [`Sink::dir`] made, by its path below the top.
    pub fn reopen(&self, path: &[u8]) -> Result<Arc<Dir>> {
        let mut here: Option<OwnedFd> = None;
        for part in path.split(|b| *b == b'/') {
            let at = here.as_ref().map_or(self.top.fd.as_fd(), AsFd::as_fd);
            here = Some(openat(at, OsStr::from_bytes(part), DIR_FLAGS, Mode::empty()).map_err(sink_errno)?);
        }
        match here {
            Some(fd) => Ok(Arc::new(Dir { fd, path: path.to_vec() })),
            None => Ok(Arc::clone(&self.top)),
        }
    }

    /// Makes a file for the guest's name `name`; gives it with the name it got.
    pub fn file(&self, parent: &Dir, name: &[u8]) -> Result<(File, Vec<u8>)> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let (fd, name) = self.place(name, |name| openat(parent.fd.as_fd(), name, FILE_FLAGS, mode))?;
        Ok((File::from(fd), name))
    }

    /// Tries the guest's name; then, if the host cannot hold it or has it, names made from it.
    fn place<T>(&self, name: &[u8], mut make: impl FnMut(&OsStr) -> nix::Result<T>) -> Result<(T, Vec<u8>)> {
        let mut held = if holdable(name) { name.to_vec() } else { escaped(name) };
        for _ in 0..TRIES {
            match make(OsStr::from_bytes(&held)) {
                Ok(made) => return Ok((made, held)),
                Err(Errno::EEXIST) => {
                    let number = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
                    held = escaped(name);
                    held.extend_from_slice(format!("~{number}").as_bytes());
                }
                Err(Errno::ENAMETOOLONG | Errno::EILSEQ | Errno::EINVAL | Errno::ENOENT) if held == name => {
                    held = escaped(name);
                }
                Err(Errno::ENAMETOOLONG) => held = shortened(name),
                Err(error) => return Err(sink_errno(error)),
            }
        }
        Err(Error::unsupported(format!("{}: no free name for it in the output", crate::bytes::escape(name))))
    }
}

fn sink_errno(error: Errno) -> Error {
    sink_error(error.into())
}

/// Whether Linux can hold the name as it is. What a filesystem refuses beyond that, it says.
fn holdable(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// `name` in printable ASCII that every filesystem holds: all other bytes, and those that mean something, as `\xNN`.
fn escaped(name: &[u8]) -> Vec<u8> {
    let dots = name == b"." || name == b"..";
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        let plain = matches!(byte, b' '..=b'~') && !matches!(byte, b'/' | b'\\') && !(dots && *byte == b'.');
        if plain {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    if out.is_empty() {
        out.push(b'~');
    }
    // Room for a number behind it.
    if out.len() > 230 { shortened(name) } else { out }
}

/// The beginning of `name`, and its digest so that it is told from others.
fn shortened(name: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = name.iter().copied().filter(u8::is_ascii_alphanumeric).take(64).collect();
    out.push(b'~');
    out.extend_from_slice(&hex(&Sha256::digest(name)).as_bytes()[..32]);
    out
}

/// The name of a guest's path in a tar: without the slash before it, with one after a directory. A name that would lead elsewhere when
/// it is unpacked is escaped.
pub fn tar_name(path: &[u8], is_dir: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 1);
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        if !out.is_empty() {
            out.push(b'/');
        }
        if part == b"." || part == b".." { out.extend(escaped(part)) } else { out.extend_from_slice(part) }
    }
    if out.is_empty() {
        out.push(b'.');
    }
    if is_dir {
        out.push(b'/');
    }
    out
}

/// `name` below `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(dir.len() + 1 + name.len());
    out.extend_from_slice(dir);
    if !dir.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_host_cannot_hold_are_escaped_and_taken_ones_are_numbered() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("out");
        let sink = Sink::create(&out).unwrap();
        let long = [b'x'; 300];
        let names: [&[u8]; 9] = [b"a", b"a", b".", b"..", b"a/b", b"", b"n\0l", &long, &long];
        let held: Vec<Vec<u8>> = names.iter().map(|name| sink.file(sink.top(), name).unwrap().1).collect();
        let mut listed: Vec<Vec<u8>> =
            std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
        listed.sort();
        let mut sorted = held.clone();
        sorted.sort();
        assert_eq!(listed, sorted);
        assert_eq!(held[..5], [&b"a"[..], b"a~1", b"\\x2e", b"\\x2e\\x2e", b"a\\x2fb"].map(<[u8]>::to_vec));
        assert!(Sink::create(&out).is_err());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let sink = Sink::create(&temp.path().join("out")).unwrap();
        std::os::unix::fs::symlink("/etc", temp.path().join("out/etc")).unwrap();
        assert_eq!(sink.dir(sink.top(), b"etc").unwrap().path(), b"etc~1");
        assert!(sink.reopen(b"etc").is_err());
        assert_eq!(sink.file(sink.top(), b"etc").unwrap().1, b"etc~2");
    }
}
