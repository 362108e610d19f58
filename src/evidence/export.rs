//! A read-only NBD server on a Unix socket: the disk and its volumes for nbdcopy, `qemu-img`, nbdfuse and others.
//!
//! Fixed newstyle negotiation, structured replies, holes as holes, `base:allocation`; every write is refused. The wire is
//! that of `block::nbd::wire`.

mod handshake;
mod reply;
mod session;
mod socket;

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::Source;
use crate::block::nbd::wire;
use crate::effort::Effort;
use crate::error::{Error, Result};

use self::socket::Socket;

/// One thing to serve.
#[derive(Clone)]
pub struct Export {
    /// The name that clients ask for: `disk`, `p1`, `vg/lv`.
    pub name: String,
    /// Its bytes.
    pub source: Source,
    /// A sentence for people, shown in lists.
    pub description: String,
}

/// What a server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Clients that chose an export.
    pub clients: u64,
    /// Bytes of content that were sent or told to be zeros.
    pub bytes: u64,
}

/// Clients at a time; a further one is turned away. With the buffers of a session it bounds the memory.
const CLIENTS_MAX: usize = 16;

/// A server whose socket is there, readable by its owner alone. The socket goes when this is dropped.
pub struct Server {
    socket: Socket,
    exports: Vec<Export>,
}

/// What the sessions of a server share.
struct Shared<'a> {
    exports: &'a [Export],
    effort: &'a Effort,
    /// Open connections, so that they can be ended from outside.
    streams: Mutex<HashMap<u64, UnixStream>>,
    clients: AtomicU64,
    bytes: AtomicU64,
}

impl Server {
    /// Makes the socket. The first export is also the default one, whose name is empty. A path at which anything exists,
    /// a symbolic link included, is an error.
    pub fn bind(path: &Path, exports: Vec<Export>) -> Result<Self> {
        let mut names: Vec<_> = exports.iter().map(|export| export.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(Error::usage("two exports of one name"));
        }
        if exports.is_empty() || names.iter().any(|name| name.len() > wire::STRING_MAX) {
            return Err(Error::usage("nothing to export, or an export with an endless name"));
        }
        Ok(Self { socket: Socket::bind(path)?, exports })
    }

    /// Serves until `effort` is cancelled, then ends every session and removes the socket.
    pub fn run(self, effort: &Effort) -> Result<Served> {
        let shared = Shared {
            exports: &self.exports,
            effort,
            streams: Mutex::default(),
            clients: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let served = std::thread::scope(|scope| {
            let mut number = 0_u64;
            let accepted = loop {
                if effort.is_cancelled() {
                    break Ok(());
                }
                let stream = match self.socket.accept() {
                    Ok(Some(stream)) => stream,
                    Ok(None) => continue,
                    Err(error) => break Err(error),
                };
                number += 1;
                if shared.enter(number, &stream) {
                    let (shared, id) = (&shared, number);
                    scope.spawn(move || {
                        session::run(shared, &stream);
                        shared.leave(id);
                    });
                }
            };
            for stream in shared.streams().values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            accepted
        });
        served.map(|()| Served {
            clients: shared.clients.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
        })
    }
}

impl Shared<'_> {
    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<u64, UnixStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection, unless there are too many.
    fn enter(&self, id: u64, stream: &UnixStream) -> bool {
        let mut streams = self.streams();
        if streams.len() >= CLIENTS_MAX {
            return false;
        }
        stream.try_clone().is_ok_and(|copy| {
            streams.insert(id, copy);
            true
        })
    }

    fn leave(&self, id: u64) {
        if let Some(stream) = self.streams().remove(&id) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The export of that name; the first one for the empty name, unless one is really called that.
    fn find(&self, name: &[u8]) -> Option<&Export> {
        let named = self.exports.iter().find(|export| export.name.as_bytes() == name);
        named.or_else(|| self.exports.first().filter(|_| name.is_empty()))
    }

    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.effort.advance(bytes);
    }
}
