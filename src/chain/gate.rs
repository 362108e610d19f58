//! Which host files a chain may pull in. The only place where a path becomes a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

use crate::block::file::HostFile;
use crate::error::{Error, Result};

/// The most layers of a chain, unless the gate says otherwise.
pub const DEPTH: usize = 200;

/// Which host files a chain may pull in, as plain data.
///
/// Files are opened beneath the roots alone, without following symbolic links. The top image and the targets of
/// remaps are the operator's own words, and open wherever they lie.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Directories beneath which files may be opened: the instance's own, its own tree's `_base`, `--base`.
    pub roots: Vec<Root>,
    /// `--map FROM=TO`: a path prefix, or a whole name as it is recorded, and what stands in its place.
    pub maps: Vec<(PathBuf, PathBuf)>,
    /// Formats that something trustworthy says, by path.
    pub formats: BTreeMap<PathBuf, super::Format>,
    /// The most layers of a chain.
    pub depth: usize,
    /// Whether block devices may be opened.
    pub allow_device: bool,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            maps: Vec::new(),
            formats: BTreeMap::new(),
            depth: DEPTH,
            allow_device: false,
        }
    }
}

/// A directory beneath which files may be opened.
#[derive(Clone, Debug)]
pub struct Root {
    /// As it was named, made absolute.
    pub path: PathBuf,
    /// Without symbolic links.
    pub real: PathBuf,
    /// Whether a file is looked for here by its name alone, when the image records a path of another host. Meant for
    /// `_base` and `--base`; in an instance's directory every instance has the same names.
    pub by_name: bool,
    handle: Arc<OwnedFd>,
}

impl Root {
    /// Opens the directory `path`. It is the operator's word: symbolic links in it are followed.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::io(format!("{}: cannot open the directory", path.display()), error)
        };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let real = path.canonicalize().map_err(failed)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let handle = open(&real, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        Ok(Self { path: absolute, real, by_name: true, handle: Arc::new(handle) })
    }

    /// The same directory, where nothing is looked for by its name alone.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.by_name = false;
        self
    }

    /// Whether the file that was recorded as `literal` may be looked for here by its name: the directory is meant for
    /// that, or it has the name of the recorded one.
    pub(super) fn looks_for(&self, literal: &Path) -> bool {
        self.by_name || literal.parent().and_then(Path::file_name) == self.path.file_name()
    }

    /// `path`, absolute and without `..`, as a path beneath this root, if it is one.
    pub fn beneath<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.path).or_else(|_| path.strip_prefix(&self.real)).ok()
    }
}

/// What a descriptor said of its file when it was opened, or says of it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file's size in bytes; 0 for a device.
    pub size: u64,
    /// Its last change of content: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Its last change of any kind.
    pub ctime: (i64, i64),
    /// Its inode number.
    pub inode: u64,
    /// The device it lies on.
    pub device: u64,
}

impl Identity {
    /// Asks the descriptor.
    pub fn of(file: &File) -> Result<Self> {
        let meta = file.metadata().map_err(|error| Error::io("cannot tell what the file is", error))?;
        Ok(Self {
            size: if meta.is_file() { meta.size() } else { 0 },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        })
    }

    /// Whether both are the same file.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// A host file that was let in.
#[derive(Clone)]
pub struct Admitted {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Its bytes.
    pub file: Arc<HostFile>,
    /// What it was when it was opened.
    pub identity: Identity,
    /// Reading it may move its access time: the system does not let us ask for `O_NOATIME`.
    pub atime_may_move: bool,
}

impl Admitted {
    /// How many bytes it takes on its host, as `du` counts them.
    pub fn allocated(&self) -> u64 {
        self.file.file().metadata().map_or(0, |meta| meta.blocks().saturating_mul(512))
    }
}

impl Gate {
    /// The gate for the image `top`, an instance's disk or any file: its own directory, its own tree's `_base`, and
    /// `bases`.
    pub fn around(top: &Path, bases: &[PathBuf]) -> Result<Self> {
        let real = std::path::absolute(top)
            .map_err(|error| Error::io(format!("{}: cannot tell where it is", top.display()), error))?;
        let mut roots = Vec::new();
        if let Some(own) = real.parent() {
            roots.push(Root::open(own)?.exact());
            // A link is no part of the tree: it may lead to another one.
            let base = own.with_file_name("_base");
            if own.file_name() != Some("_base".as_ref())
                && base.symlink_metadata().is_ok_and(|meta| meta.is_dir())
            {
                roots.push(Root::open(&base)?);
            }
        }
        for base in bases {
            roots.push(Root::open(base)?);
        }
        Ok(Self { roots, ..Self::default() })
    }

    /// Opens a file that the operator named. Symbolic links in the path are the operator's.
    pub fn named(&self, path: &Path) -> Result<Admitted> {
        let real = path.canonicalize().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            if missing {
                Error::not_found(format!("{}: there is no such file", path.display()))
            } else {
                Error::io(format!("{}: cannot open", path.display()), error)
            }
        })?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| real.clone());
        let (fd, atime_may_move) = without_atime(|flags| open(&real, flags, Mode::empty()))
            .map_err(|errno| open_failed(path, errno))?;
        self.admit(absolute, fd, atime_may_move)
    }

    /// Opens `relative` beneath `root`.
    pub(super) fn beneath(&self, root: &Root, relative: &Path) -> Result<Admitted> {
        let path = root.path.join(relative);
        let (fd, atime_may_move) = without_atime(|flags| open_beneath(&root.handle, relative, flags))
            .map_err(|errno| open_failed(&path, errno))?;
        self.admit(path, fd, atime_may_move)
    }

    fn admit(&self, path: PathBuf, fd: OwnedFd, atime_may_move: bool) -> Result<Admitted> {
        let file = File::from(fd);
        let name = path.display().to_string();
        let kind = file
            .metadata()
            .map_err(|error| Error::io(format!("{name}: cannot tell what it is"), error))?
            .file_type();
        if kind.is_block_device() {
            if !self.allow_device {
                return Err(
                    Error::refused(format!("{name}: a block device")).hint("--allow-device lets it in")
                );
            }
        } else if !kind.is_file() {
            let what = if kind.is_dir() {
                "a directory"
            } else if kind.is_fifo() {
                "a FIFO"
            } else if kind.is_char_device() {
                "a character device"
            } else {
                "a socket"
            };
            return Err(Error::unsupported(format!("{name}: {what}, and no disk image")));
        }
        let identity = Identity::of(&file)?;
        Ok(Admitted { path, file: Arc::new(HostFile::new(name, file)?), identity, atime_may_move })
    }
}

fn open_failed(path: &Path, errno: Errno) -> Error {
    let name = path.display();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Error::not_found(format!("{name}: there is no such file")),
        Errno::ELOOP => Error::refused(format!("{name}: a symbolic link, which is not followed"))
            .hint("name the directory it leads to with --base, or the file with --map"),
        Errno::EXDEV => Error::refused(format!("{name}: leads out of its directory")),
        Errno::ENXIO => Error::unsupported(format!("{name}: a socket or a device that is not there")),
        errno => Error::io(format!("{name}: cannot open"), std::io::Error::from(errno)),
    }
}

/// Opens read-only, without moving the access time where the system lets us; says whether it may move.
fn without_atime(
    mut open: impl FnMut(OFlag) -> std::result::Result<OwnedFd, Errno>,
) -> std::result::Result<(OwnedFd, bool), Errno> {
    // O_NONBLOCK: a FIFO opens at once, and is then turned away.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => Ok((open(flags)?, true)),
        other => Ok((other?, false)),
    }
}

fn open_beneath(root: &OwnedFd, relative: &Path, flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    match openat2(root, relative, how) {
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::ENOSYS) => step_by_step(root, relative, flags),
        Err(Errno::EPERM) if !flags.contains(OFlag::O_NOATIME) => step_by_step(root, relative, flags),
        other => other,
    }
}

/// As `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`: one directory at a time, none of them a link.
fn step_by_step(root: &OwnedFd, relative: &Path, flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
    let mut parts = Vec::new();
    for part in relative.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => return Err(Errno::EXDEV),
        }
    }
    let last = parts.pop().ok_or(Errno::EISDIR)?;
    let mut here: Option<OwnedFd> = None;
    for part in parts {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let next = openat(here.as_ref().map_or(root.as_fd(), AsFd::as_fd), part, directory, Mode::empty());
        // A link that O_NOFOLLOW meets with O_DIRECTORY is "not a directory".
        here = Some(next?);
    }
    openat(here.as_ref().map_or(root.as_fd(), AsFd::as_fd), last, flags, Mode::empty())
}

/// Whether the file exists, whatever it is. Of a path that nobody may look at: yes.
pub(super) fn exists(path: &Path) -> bool {
    !matches!(
        openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()),
        Err(Errno::ENOENT | Errno::ENOTDIR)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// On old kernels the same files open, and the same are turned away, though not with the same number.
    #[test]
    fn the_fallback_is_as_strict_as_openat2() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/sub")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(dir.path().join("root/sub/file"), "f").unwrap();
        symlink("sub/file", dir.path().join("root/inner")).unwrap();
        symlink("sub", dir.path().join("root/directory")).unwrap();
        symlink("../secret", dir.path().join("root/outer")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        for (name, opens) in [
            ("sub/file", true),
            ("./sub/./file", true),
            ("sub", true),
            ("sub/../sub/file", false),
            ("inner", false),
            ("directory/file", false),
            ("outer", false),
            ("../secret", false),
            ("/etc/passwd", false),
            ("nowhere", false),
            ("", false),
        ] {
            let name = Path::new(name);
            assert_eq!(step_by_step(&root.handle, name, flags).is_ok(), opens, "{}", name.display());
            let kernel = open_beneath(&root.handle, name, flags).is_ok();
            // The kernel lets `..` stay inside; names are made plain before they come here.
            assert!(kernel == opens || name == Path::new("sub/../sub/file"), "{}", name.display());
        }
    }
}
