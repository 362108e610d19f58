//! The listening socket: made for its owner alone, in one step, and taken away again.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Error, Result};

/// How long an accept waits before it gives its caller a chance to stop, in milliseconds.
const PATIENCE_MS: i64 = 100;

pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that only our own is removed.
    identity: (u64, u64),
}

impl Socket {
    /// Binds `path`. bind(2) follows no symbolic link at its end and fails where anything exists; the mode that
    /// fchmod(2) gives an unbound socket is the one its file is born with (unix(7), "Pathname socket ownership and
    /// permissions"; `unix_bind_bsd` in net/unix/af_unix.c), so that there is no moment in which others could connect.
    pub fn bind(path: &Path) -> Result<Self> {
        let failed = |what: &str, error: nix::Error| {
            let error = Error::io(format!("{}: {what}", path.display()), error);
            if path.symlink_metadata().is_ok() {
                return error.hint(
                    "something of that name is there; a socket left by a server that died may be removed",
                );
            }
            error
        };
        let address = UnixAddr::new(path)
            .map_err(|error| failed("no path for a socket, which may have 107 bytes", error))?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| failed("no socket to be had", error))?;
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| failed("cannot restrict it", error))?;
        bind(fd.as_raw_fd(), &address).map_err(|error| failed("cannot make the socket", error))?;
        let meta = path.symlink_metadata().map_err(|error| {
            Error::io(format!("{}: the socket is gone as soon as it was made", path.display()), error)
        })?;
        let this = |listener| Self { listener, path: path.to_owned(), identity: (meta.dev(), meta.ino()) };
        let patience = TimeVal::milliseconds(PATIENCE_MS);
        let listening = setsockopt(&fd, sockopt::ReceiveTimeout, &patience)
            .and_then(|()| Backlog::new(16))
            .and_then(|backlog| listen(&fd, backlog));
        let socket = this(UnixListener::from(fd));
        listening.map_err(|error| failed("cannot listen", error))?;
        Ok(socket)
    }

    /// The next client; none if there was none for a moment.
    pub fn accept(&self) -> Result<Option<UnixStream>> {
        use io::ErrorKind::{ConnectionAborted, Interrupted, TimedOut, WouldBlock};
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if [WouldBlock, Interrupted, TimedOut, ConnectionAborted].contains(&error.kind()) => {
                Ok(None)
            }
            Err(error) => Err(Error::io(format!("{}: cannot accept a client", self.path.display()), error)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |meta: fs::Metadata| (meta.dev(), meta.ino()) == self.identity;
        if self.path.symlink_metadata().is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
