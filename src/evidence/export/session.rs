//! One client: its negotiation, then its requests, several at a time.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::block::nbd::wire::{self, Incoming, Request, cmd, errno};
use crate::block::{BlockSource, State, trace};
use crate::error::Error;

use super::Shared;
use super::handshake::{self, Agreed};
use super::reply::Outgoing;

/// How long a client may take over each message of its negotiation.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// Threads of one session at most; each has a buffer of [`BUFFER`].
const THREADS_MAX: usize = 4;
/// Bytes of one chunk of data.
const BUFFER: usize = 256 << 10;
/// A shorter stretch of zeros is sent as data: a chunk of its own costs more.
const HOLE_MIN: u64 = 4096;
/// Extents of one status reply at most.
const EXTENTS_MAX: usize = 4096;
/// Runs looked at for one status reply at most.
const RUNS_MAX: usize = 1 << 16;
/// Data after a write's header that are read away before it is refused; with more the session ends.
const WRITE_MAX: u32 = 64 << 20;

/// Serves one client to its end.
pub fn run(shared: &Shared<'_>, stream: &UnixStream) {
    // Every error here is the client's or the connection's, and ends the session alone.
    let _ = serve(shared, stream);
}

fn serve(shared: &Shared<'_>, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(NEGOTIATION))?;
    let mut incoming = Incoming::new(stream.try_clone()?);
    let Some(agreed) = handshake::negotiate(shared, &mut incoming, stream)? else { return Ok(()) };
    stream.set_read_timeout(None)?;
    shared.clients.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let outgoing = Outgoing::new(stream, agreed.structured);
    let session = Session { shared, agreed, stream, incoming: Mutex::new(incoming), outgoing };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| session.work());
        }
        session.work();
    });
    Ok(())
}

struct Session<'s> {
    shared: &'s Shared<'s>,
    agreed: Agreed<'s>,
    stream: &'s UnixStream,
    incoming: Mutex<Incoming<UnixStream>>,
    outgoing: Outgoing<'s>,
}

impl Session<'_> {
    /// Takes request after request until the client or the connection ends.
    fn work(&self) {
        let mut buffer = vec![0; BUFFER];
        while let Ok(Some(request)) = self.next() {
            if self.answer(&request, &mut buffer).is_err() {
                break;
            }
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The next request, a write's data read away.
    fn next(&self) -> io::Result<Option<Request>> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = incoming.array(None)?;
        let Some(request) = Request::decode(&raw) else { return Ok(None) };
        if request.command == cmd::WRITE {
            if request.length > WRITE_MAX {
                return Ok(None);
            }
            incoming.skip(u64::from(request.length), None)?;
        }
        Ok((request.command != cmd::DISC).then_some(request))
    }

    fn answer(&self, request: &Request, buffer: &mut [u8]) -> io::Result<()> {
        let end = request.offset.checked_add(u64::from(request.length));
        let inside = request.length > 0 && end.is_some_and(|end| end <= self.agreed.export.source.len());
        let refuse = |errno, what| self.outgoing.plain(request.cookie, errno, what);
        match request.command {
            cmd::READ if !inside => refuse(errno::EINVAL, "nothing asked for, or past the end"),
            cmd::READ if !self.outgoing.structured() => self.read_simple(request, buffer),
            cmd::READ if request.flags & cmd::FLAG_DF != 0 => self.read_whole(request, buffer),
            cmd::READ => self.read(request, buffer),
            cmd::BLOCK_STATUS if !self.agreed.allocation => {
                refuse(errno::EINVAL, "no context was chosen in the negotiation")
            }
            cmd::BLOCK_STATUS if !inside => refuse(errno::EINVAL, "nothing asked for, or past the end"),
            cmd::BLOCK_STATUS => self.status(request),
            cmd::FLUSH => refuse(0, ""),
            cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES => refuse(errno::EPERM, "this export is read-only"),
            _ => refuse(errno::EINVAL, "a command that is not known here"),
        }
    }

    /// State and length from `offset` up to `end`; what the source cannot tell is data.
    fn run(&self, offset: u64, end: u64) -> (State, u64) {
        let left = end - offset;
        let (state, len) =
            trace::state_at(&*self.agreed.export.source, offset).unwrap_or((State::Data, BUFFER as u64));
        (state, len.clamp(1, left))
    }

    /// A structured reply: zeros as zeros, data in chunks of a buffer.
    fn read(&self, request: &Request, buffer: &mut [u8]) -> io::Result<()> {
        let (mut at, end) = (request.offset, request.offset + u64::from(request.length));
        while at < end {
            let (state, mut len) = self.run(at, end);
            if state.reads_zero() && (len >= HOLE_MIN || at + len == end) {
                let short = u32::try_from(len).unwrap_or(u32::MAX);
                self.outgoing.hole(request.cookie, at + len == end, at, short)?;
            } else {
                // Short stretches of zeros, and the data after them, in one chunk.
                while at + len < end && len < buffer.len() as u64 {
                    let (state, more) = self.run(at + len, end);
                    if state.reads_zero() && more >= HOLE_MIN {
                        break;
                    }
                    len += more;
                }
                len = len.min(buffer.len() as u64);
                let piece = &mut buffer[..usize::try_from(len).unwrap_or(0)];
                if let Err(error) = self.source().read_at(at, piece) {
                    return self.broken(request, at, piece, &error);
                }
                self.outgoing.data(request.cookie, at + len == end, at, piece)?;
            }
            at += len;
            self.shared.count(len);
        }
        Ok(())
    }

    /// Ends a reply at an unreadable place: what lies before it in `piece` (at `offset`) is sent, then the error.
    fn broken(&self, request: &Request, offset: u64, piece: &mut [u8], error: &Error) -> io::Result<()> {
        let bad =
            error.range().map_or(offset, |range| range.start.clamp(offset, offset + piece.len() as u64 - 1));
        let good = &mut piece[..usize::try_from(bad - offset).unwrap_or(0)];
        if !good.is_empty() && self.source().read_at(offset, good).is_ok() {
            self.outgoing.data(request.cookie, false, offset, good)?;
        }
        self.outgoing.error_at(request.cookie, errno::EIO, error.what(), bad)
    }

    /// A structured reply in one chunk, as the client insists.
    fn read_whole(&self, request: &Request, buffer: &mut [u8]) -> io::Result<()> {
        let Some(piece) = buffer.get_mut(..request.length as usize) else {
            return self.outgoing.plain(request.cookie, errno::EOVERFLOW, "too much for one chunk");
        };
        match self.source().read_at(request.offset, piece) {
            Ok(()) => {
                self.shared.count(u64::from(request.length));
                self.outgoing.data(request.cookie, true, request.offset, piece)
            }
            Err(error) => {
                let bad = error.range().map_or(request.offset, |range| range.start.max(request.offset));
                self.outgoing.error_at(request.cookie, errno::EIO, error.what(), bad)
            }
        }
    }

    /// A simple reply. Its head says that all of it can be read, so all is read before the first byte goes out, and what
    /// does not fit the buffer is read twice.
    fn read_simple(&self, request: &Request, buffer: &mut [u8]) -> io::Result<()> {
        let len = request.length as usize;
        for at in (0..len).step_by(BUFFER) {
            let piece = &mut buffer[..BUFFER.min(len - at)];
            if let Err(error) = self.source().read_at(request.offset + at as u64, piece) {
                return self.outgoing.plain(request.cookie, errno::EIO, error.what());
            }
        }
        self.shared.count(u64::from(request.length));
        let mut done = 0;
        self.outgoing.simple_data(request.cookie, |send| {
            let piece = &mut buffer[..BUFFER.min(len - done)];
            if len > BUFFER {
                self.source().read_at(request.offset + done as u64, piece).map_err(io::Error::other)?;
            }
            done += piece.len();
            send(piece)?;
            Ok(done < len)
        })
    }

    /// Extents from the offset on, neighbours of one state as one.
    fn status(&self, request: &Request) -> io::Result<()> {
        let one = request.flags & cmd::FLAG_REQ_ONE != 0;
        let (mut at, end) = (request.offset, request.offset + u64::from(request.length));
        let mut extents: Vec<(u32, u32)> = Vec::new();
        for _ in 0..RUNS_MAX {
            if at >= end {
                break;
            }
            let (state, len) = self.run(at, end);
            let flags = match state {
                State::Hole => wire::STATE_HOLE | wire::STATE_ZERO,
                State::Zero => wire::STATE_ZERO,
                State::Data | State::Lost => 0,
            };
            // The request's length has 32 bits, so that no sum of its parts has more.
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let full = extents.len() == if one { 1 } else { EXTENTS_MAX };
            match extents.last_mut() {
                Some((have, same)) if *same == flags => *have += len,
                _ if full => break,
                _ => extents.push((len, flags)),
            }
            at += u64::from(len);
        }
        let raw: Vec<u8> = extents
            .iter()
            .flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()])
            .flatten()
            .collect();
        self.outgoing.extents(request.cookie, handshake::CONTEXT, &raw)
    }

    fn source(&self) -> &dyn BlockSource {
        &*self.agreed.export.source
    }
}
