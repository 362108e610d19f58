//! An export of an NBD server as a source.

use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::chunk::Fault;
use super::flight::{Connection, Failed};
use super::negotiate::{Listed, Negotiation, Terms};
use super::status::Extents;
use super::wire::{cmd, errno, flag};
use crate::block::{BlockSource, Run, State, within};
use crate::error::{Error, Kind, Result};

/// An export, read over one connection by any number of threads.
pub struct Client {
    name: Arc<str>,
    terms: Terms,
    piece: usize,
    deadline: Duration,
    /// Where another connection can be had.
    home: Option<(PathBuf, String)>,
    connection: Mutex<Arc<Connection>>,
    /// Set once the server closed a connection on us: see [`Client::again`].
    careful: AtomicBool,
    extents: Extents,
}

/// Bytes of one read request, where the server's limits allow it. What a reply can take in memory follows from it.
const PIECE: u32 = 256 << 10;
/// The most that one question about allocation covers, in bytes.
const STATUS_SPAN: u64 = 1 << 30;
/// Bytes to which an unreadable place is narrowed down.
const SECTOR: u32 = 512;
/// Bytes of one read that must be answered in one chunk; the specification lets servers refuse more.
const CAREFUL_PIECE: usize = 64 << 10;
/// How often one call may connect anew.
const CONNECTIONS: u32 = 2;
/// How often a place may be readable after all before a piece is given up.
const SECOND_CHANCES: u32 = 16;

impl Client {
    /// Connects to the server at `path` and opens `export` (empty for the default one). `deadline` bounds the
    /// negotiation and then the wait for each reply.
    pub fn connect(path: &Path, export: &str, deadline: Duration) -> Result<Arc<Self>> {
        let name = format!("nbd+unix:///{export}?socket={}", path.display());
        let stream = reach(path, &name, deadline)?;
        let home = Some((path.to_owned(), export.to_owned()));
        Self::new(stream, name.into(), export, deadline, home).map_err(|error| {
            if error.kind() != Kind::NotFound {
                return error;
            }
            let names = Self::list(path, deadline).unwrap_or_default();
            let names: Vec<_> = names.iter().take(20).map(|listed| format!("{:?}", listed.name)).collect();
            if names.is_empty() { error } else { error.hint(format!("the server has {}", names.join(", "))) }
        })
    }

    /// The exports of the server at `path`.
    pub fn list(path: &Path, deadline: Duration) -> Result<Vec<Listed>> {
        let name = format!("nbd+unix:///?socket={}", path.display());
        let stream = reach(path, &name, deadline)?;
        let mut negotiation = Negotiation::begin(&name, &stream, soon(deadline))?;
        let exports = negotiation.list()?;
        negotiation.abort();
        Ok(exports)
    }

    /// Opens `export` over a socket that is connected already. `name` is what errors and traces call the source.
    #[cfg(feature = "internals")]
    pub fn over(
        stream: UnixStream,
        name: impl Into<Arc<str>>,
        export: &str,
        deadline: Duration,
    ) -> Result<Arc<Self>> {
        Self::new(stream, name.into(), export, deadline, None)
    }

    fn new(
        stream: UnixStream,
        name: Arc<str>,
        export: &str,
        deadline: Duration,
        home: Option<(PathBuf, String)>,
    ) -> Result<Arc<Self>> {
        let (terms, connection) = open(stream, &name, export, deadline)?;
        let limit = PIECE.max(terms.min_block).min(terms.max_block);
        // A server's odd maximum is rounded down to whole blocks.
        let piece = limit.saturating_sub(limit.checked_rem(terms.min_block).unwrap_or(0));
        Ok(Arc::new(Self {
            name,
            terms,
            piece: usize::try_from(piece).unwrap_or(usize::MAX),
            deadline,
            home,
            connection: Mutex::new(connection),
            careful: AtomicBool::new(false),
            extents: Extents::default(),
        }))
    }

    /// What the server said about the export.
    #[cfg(feature = "internals")]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Does `act` over the connection, and once more over a new one if the server closed it.
    ///
    /// QEMU's server (`nbd_co_send_sparse_read`; seen with 7.2) answers an unreadable sector in the midst of a
    /// structured reply by closing the connection. With `NBD_CMD_FLAG_DF` it answers with an error. So from the first
    /// such end on, reads ask for one chunk, at the price of zeros that go over the wire.
    fn again<T>(&self, mut act: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        let mut left = CONNECTIONS;
        loop {
            let connection = Arc::clone(&self.lock());
            let done = act(&connection);
            let Some((path, export)) = &self.home else { return done };
            if done.is_ok() || left == 0 || !connection.is_lost() {
                return done;
            }
            left = left.saturating_sub(1);
            let mut current = self.lock();
            if Arc::ptr_eq(&current, &connection) {
                let stream = reach(path, &self.name, self.deadline)?;
                let (terms, fresh) = open(stream, &self.name, export, self.deadline)?;
                if terms != self.terms {
                    let what = format!("{}: the export is another one after connecting again", self.name);
                    return Err(Error::corrupt(what));
                }
                self.careful.store(terms.flags & flag::SEND_DF != 0, Ordering::Relaxed);
                *current = fresh;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flags(&self) -> u16 {
        if self.careful.load(Ordering::Relaxed) { cmd::FLAG_DF } else { 0 }
    }

    /// Reads whole blocks into `buf`, in pieces, and narrows failures down.
    fn read_blocks(&self, connection: &Connection, offset: u64, buf: &mut [u8]) -> Result<()> {
        let flags = self.flags();
        let size = if flags == 0 { self.piece } else { self.piece.min(CAREFUL_PIECE) };
        let mut at = offset;
        let mut pieces = buf.chunks_mut(size).map(|piece| {
            let start = at;
            at = at.saturating_add(piece.len() as u64);
            (start, piece)
        });
        loop {
            let mut failed = connection.read(flags, &mut pieces)?;
            if failed.is_empty() {
                return Ok(());
            }
            failed.sort_by_key(|piece| piece.offset);
            for piece in failed {
                self.mend(connection, piece)?;
            }
        }
    }

    /// One request; the inner error is the server's.
    fn ask(
        &self,
        connection: &Connection,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<std::result::Result<(), Fault>> {
        let mut failed = connection.read(self.flags(), &mut std::iter::once((offset, buf)))?;
        Ok(failed.pop().map_or(Ok(()), |piece| Err(piece.fault)))
    }

    /// Finds the bytes of a failed piece that cannot be read, to the sector, so that the caller loses no others. A piece
    /// that can be read after all is mended.
    fn mend(&self, connection: &Connection, piece: Failed<'_>) -> Result<()> {
        let Failed { offset, buf, mut fault } = piece;
        let end = offset.saturating_add(buf.len() as u64);
        if [errno::ESHUTDOWN, errno::EPERM].contains(&fault.errno) {
            return Err(self.unreadable(&fault, offset, end));
        }
        let grain = u64::from(SECTOR.max(self.terms.min_block));
        // All before `good` was read; `bad` is the end of what failed last.
        let (mut good, mut chances) = (offset, SECOND_CHANCES);
        loop {
            let mut bad = end;
            while align_down(good, grain).saturating_add(grain) < bad {
                let middle = split(good, bad, grain, fault.at);
                match self.ask(connection, good, part(buf, offset, good, middle))? {
                    Ok(()) => good = middle,
                    Err(found) => (bad, fault) = (middle, found),
                }
            }
            match self.ask(connection, good, part(buf, offset, good, bad))? {
                Err(found) => {
                    let stop = self.end_of_gap(connection, bad..end, offset, buf, grain)?;
                    return Err(self.unreadable(&found, good, stop));
                }
                Ok(()) if chances == 0 => return Err(self.unreadable(&fault, good, end)),
                Ok(()) => (good, chances) = (bad, chances.saturating_sub(1)),
            }
            if good >= end {
                return Ok(());
            }
            match self.ask(connection, good, part(buf, offset, good, end))? {
                Ok(()) => return Ok(()),
                Err(found) => fault = found,
            }
        }
    }

    /// Where the unreadable place that reaches the start of `rest` ends, at most at its end.
    fn end_of_gap(
        &self,
        connection: &Connection,
        rest: Range<u64>,
        offset: u64,
        buf: &mut [u8],
        grain: u64,
    ) -> Result<u64> {
        let mut at = rest.start;
        while at < rest.end {
            let next = align_down(at, grain).saturating_add(grain).min(rest.end);
            if self.ask(connection, at, part(buf, offset, at, next))?.is_ok() {
                break;
            }
            at = next;
        }
        Ok(at)
    }

    fn unreadable(&self, fault: &Fault, start: u64, end: u64) -> Error {
        let errno = i32::try_from(fault.errno).unwrap_or(0);
        let said = if fault.message.is_empty() { String::new() } else { format!(" ({})", fault.message) };
        let what = format!("{}: cannot read {:#x}..{:#x}{said}", self.name, start, end);
        Error::io(what, std::io::Error::from_raw_os_error(errno)).with_range(start..end)
    }

    /// Reads the block that holds `offset` and copies from it as much of `buf` as it has; gives how much.
    fn read_within_block(&self, connection: &Connection, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let block = u64::from(self.terms.min_block);
        let start = align_down(offset, block);
        let len = block.min(self.len().saturating_sub(start));
        let mut whole = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read_blocks(connection, start, &mut whole)?;
        let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let have = whole.get(from..).unwrap_or_default();
        let take = have.len().min(buf.len());
        if let (Some(to), Some(have)) = (buf.get_mut(..take), have.get(..take)) {
            to.copy_from_slice(have);
        }
        Ok(take)
    }

    fn read_any(&self, connection: &Connection, offset: u64, buf: &mut [u8]) -> Result<()> {
        let block = u64::from(self.terms.min_block);
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let end = at.saturating_add(rest.len() as u64);
            let whole = if end == self.len() { end } else { align_down(end, block) };
            let take = if align_down(at, block) == at && whole > at {
                let take = usize::try_from(whole.saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
                self.read_blocks(connection, at, rest.get_mut(..take).unwrap_or_default())?;
                take
            } else {
                self.read_within_block(connection, at, rest)?
            };
            at = at.saturating_add(take as u64);
            rest = rest.get_mut(take..).unwrap_or_default();
        }
        Ok(())
    }
}

impl BlockSource for Client {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.terms.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = within(self, offset, buf.len() as u64)?;
        self.again(|connection| self.read_any(connection, offset, buf)).map_err(|error| match error.range() {
            // A block that was read for a part of it may fail outside of that part.
            Some(range) => error.with_range(range.start.clamp(offset, end)..range.end.clamp(offset, end)),
            None => error.with_range(offset..end),
        })
    }

    /// The server's allocation, as it says; without that, all is data.
    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let left = self.len().saturating_sub(offset);
        if self.terms.allocation.is_none() {
            return Ok(Run::own(left, State::Data));
        }
        if let Some((len, state)) = self.extents.get(offset) {
            return Ok(Run::own(len.min(left), state));
        }
        let start = align_down(offset, u64::from(self.terms.min_block));
        let span = self.len().saturating_sub(start).min(STATUS_SPAN);
        let len = u32::try_from(span).unwrap_or(u32::MAX);
        match self.again(|connection| connection.status(start, len))? {
            Ok(extents) => self.extents.keep(start, self.len(), &extents),
            // Not knowing is no obstacle to reading.
            Err(_) => {
                return Ok(Run::own(
                    start.saturating_add(span).saturating_sub(offset).min(left),
                    State::Data,
                ));
            }
        }
        // The first extent holds `offset`, or ends before it within its block.
        let (len, state) = self.extents.get(offset).unwrap_or((1, State::Data));
        Ok(Run::own(len.min(left), state))
    }
}

/// Where to cut `good..bad`: at the place that the server named, else in the middle; on a multiple of `grain` and strictly
/// inside.
fn split(good: u64, bad: u64, grain: u64, named: Option<u64>) -> u64 {
    let inside = |at: u64| Some(align_down(at, grain)).filter(|at| *at > good && *at < bad);
    named
        .and_then(inside)
        .or_else(|| inside(good.midpoint(bad)))
        .unwrap_or_else(|| align_down(good, grain).saturating_add(grain).min(bad))
}

/// The part of a piece's buffer for `from..to`; the piece starts at `offset`.
fn part(buf: &mut [u8], offset: u64, from: u64, to: u64) -> &mut [u8] {
    let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    buf.get_mut(index(from)..index(to)).unwrap_or_default()
}

/// `at` rounded down to a multiple of `to`, a power of two.
fn align_down(at: u64, to: u64) -> u64 {
    at & !to.saturating_sub(1)
}

/// Negotiates over a connected socket.
fn open(
    stream: UnixStream,
    name: &Arc<str>,
    export: &str,
    deadline: Duration,
) -> Result<(Terms, Arc<Connection>)> {
    let failed = |error| Error::io(format!("{name}: cannot set the socket's deadline"), error);
    stream.set_read_timeout(Some(deadline)).map_err(failed)?;
    stream.set_write_timeout(Some(deadline)).map_err(failed)?;
    let (terms, incoming) = Negotiation::begin(name, &stream, soon(deadline))?.go(export)?;
    let connection = Connection::new(name.to_string(), stream, incoming, &terms, deadline);
    Ok((terms, Arc::new(connection)))
}

fn soon(deadline: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(deadline).unwrap_or(now)
}

/// Connects, and does not wait beyond the deadline for a server whose queue is full.
fn reach(path: &Path, name: &str, deadline: Duration) -> Result<UnixStream> {
    let failed = |what: &str, error: nix::Error| Error::io(format!("{name}: {what}"), error);
    let address = UnixAddr::new(path).map_err(|error| failed("no path for a socket", error))?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| failed("no socket to be had", error))?;
    let patience = TimeVal::milliseconds(i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&fd, sockopt::SendTimeout, &patience)
        .map_err(|error| failed("cannot set the socket's deadline", error))?;
    connect(fd.as_raw_fd(), &address).map_err(|error| failed("cannot connect", error))?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_piece_is_cut_where_the_server_says_or_in_the_middle() {
        assert_eq!(split(0, 4096, 512, Some(1000)), 512);
        assert_eq!(split(0, 4096, 512, Some(9000)), 2048);
        assert_eq!(split(100, 1400, 512, None), 512);
        assert_eq!(split(510, 1030, 512, None), 512);
        assert_eq!(split(100, 600, 512, None), 512);
        assert_eq!(split(512, 1030, 512, None), 1024);
    }
}
