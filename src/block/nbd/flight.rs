//! Requests in flight on one connection, from any number of threads.
//!
//! There is no reader thread. Of the threads that wait for replies one at a time holds the reading half; it puts data
//! of its own requests straight into its buffer and leaves those of others on the board, where they fetch them.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chunk::{self, Body, Broken, Coverage, Fault};
use super::negotiate::{Terms, broken};
use super::wire::{Incoming, Request, be32, cmd};
use crate::error::{Error, Kind, Result};

/// Requests of one call in flight at once.
pub const WINDOW: usize = 16;
/// Requests of all threads in flight at once. With the size of a piece it bounds what replies can take in memory.
const FLIGHTS_MAX: usize = 32;
/// Extents kept of one block status reply.
const EXTENTS_MAX: usize = 4096;

/// A connection that carries requests.
pub struct Connection {
    name: String,
    stream: UnixStream,
    deadline: Duration,
    structured: bool,
    allocation: Option<u32>,
    board: Mutex<Board>,
    turn: Condvar,
}

struct Board {
    /// The reading half; away while a thread reads.
    incoming: Option<Incoming<UnixStream>>,
    flights: Vec<Flight>,
    next_cookie: u64,
    waiting: usize,
    /// When the last reply ended, or the first request went out after a rest.
    progress: Instant,
    dead: Option<Dead>,
}

/// Why a connection is of no more use.
struct Dead {
    kind: Kind,
    what: String,
    /// Whether the server went away, so that another connection may do.
    lost: bool,
}

/// A request that was sent.
struct Flight {
    cookie: u64,
    offset: u64,
    len: u32,
    command: u16,
    covered: Coverage,
    fault: Option<Fault>,
    done: bool,
    parcels: Vec<Parcel>,
    extents: Vec<(u32, u32)>,
}

/// Data that another thread read for us: where in the request, and the bytes or as many zeros.
enum Parcel {
    Bytes(usize, Vec<u8>),
    Zeros(usize, usize),
}

/// A request of this thread and where its data go.
struct Piece<'b> {
    cookie: u64,
    offset: u64,
    buf: &'b mut [u8],
}

type Window<'b> = [Option<Piece<'b>>; WINDOW];

/// A piece that the server could not read.
pub struct Failed<'b> {
    /// From the start of the export.
    pub offset: u64,
    /// Its place in the caller's buffer.
    pub buf: &'b mut [u8],
    /// What the server said.
    pub fault: Fault,
}

impl Connection {
    /// A connection after its negotiation. `deadline` bounds the wait for each reply.
    pub fn new(
        name: String,
        stream: UnixStream,
        incoming: Incoming<UnixStream>,
        terms: &Terms,
        deadline: Duration,
    ) -> Self {
        let board = Board {
            incoming: Some(incoming),
            flights: Vec::with_capacity(FLIGHTS_MAX),
            next_cookie: 1,
            waiting: 0,
            progress: Instant::now(),
            dead: None,
        };
        Self {
            name,
            stream,
            deadline,
            structured: terms.structured,
            allocation: terms.allocation,
            board: Mutex::new(board),
            turn: Condvar::new(),
        }
    }

    /// Reads all pieces, several in flight. Gives those that the server could not read; once there is one, the rest of
    /// `pieces` is left where it is. An error means that the connection is of no more use.
    pub fn read<'b>(
        &self,
        flags: u16,
        pieces: &mut dyn Iterator<Item = (u64, &'b mut [u8])>,
    ) -> Result<Vec<Failed<'b>>> {
        let mut mine: Window<'b> = [const { None }; WINDOW];
        let mut failed = Vec::new();
        loop {
            if failed.is_empty() {
                self.send(flags, pieces, &mut mine)?;
            }
            if mine.iter().all(Option::is_none) {
                return Ok(failed);
            }
            let (piece, flight) = self.settle(&mut mine)?;
            if let Some(fault) = flight.fault {
                failed.push(Failed { offset: piece.offset, buf: piece.buf, fault });
            }
        }
    }

    /// The extents of `base:allocation` from `offset` on: length and flags of each. The inner error is the server's.
    pub fn status(&self, offset: u64, len: u32) -> Result<std::result::Result<Vec<(u32, u32)>, Fault>> {
        let mut mine: Window<'_> = [const { None }; WINDOW];
        self.launch(
            Request { flags: 0, command: cmd::BLOCK_STATUS, cookie: 0, offset, length: len },
            &mut mine,
        )?;
        let (_, flight) = self.settle(&mut mine)?;
        Ok(match flight.fault {
            Some(fault) => Err(fault),
            None => Ok(flight.extents),
        })
    }

    /// Whether the server went away from this connection, without breaking a rule or being late.
    pub fn is_lost(&self) -> bool {
        self.lock().dead.as_ref().is_some_and(|dead| dead.lost)
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, mut board: MutexGuard<'g, Board>) -> MutexGuard<'g, Board> {
        board.waiting = board.waiting.saturating_add(1);
        let mut board = self.turn.wait(board).unwrap_or_else(PoisonError::into_inner);
        board.waiting = board.waiting.saturating_sub(1);
        board
    }

    /// Sends as many pieces as there is room for; waits for room if this thread has none in flight at all.
    fn send<'b>(
        &self,
        flags: u16,
        pieces: &mut dyn Iterator<Item = (u64, &'b mut [u8])>,
        mine: &mut Window<'b>,
    ) -> Result<()> {
        let mut out = [0; Request::SIZE * WINDOW];
        let mut used = 0_usize;
        let mut board = self.lock();
        while board.flights.len() >= FLIGHTS_MAX && board.dead.is_none() && mine.iter().all(Option::is_none) {
            board = self.wait(board);
        }
        for slot in mine.iter_mut().filter(|slot| slot.is_none()) {
            if board.flights.len() >= FLIGHTS_MAX {
                break;
            }
            let Some((offset, buf)) = pieces.next() else { break };
            let length = u32::try_from(buf.len()).unwrap_or(u32::MAX);
            let request = board.register(Request { flags, command: cmd::READ, cookie: 0, offset, length });
            super::wire::put(&mut out, used, &request.encode());
            used = used.saturating_add(Request::SIZE);
            *slot = Some(Piece { cookie: request.cookie, offset, buf });
        }
        self.transmit(&mut board, out.get(..used).unwrap_or_default())
    }

    /// Sends one request without data.
    fn launch(&self, request: Request, mine: &mut Window<'_>) -> Result<()> {
        let mut board = self.lock();
        while board.flights.len() >= FLIGHTS_MAX && board.dead.is_none() {
            board = self.wait(board);
        }
        let request = board.register(request);
        if let Some(slot) = mine.first_mut() {
            *slot = Some(Piece { cookie: request.cookie, offset: request.offset, buf: &mut [] });
        }
        self.transmit(&mut board, &request.encode())
    }

    /// Under the board's lock, so that requests of several threads do not mix. They are few and small: a write blocks
    /// only where the server reads none of them, and then the socket's timeout ends it.
    fn transmit(&self, board: &mut Board, bytes: &[u8]) -> Result<()> {
        if board.dead.is_none()
            && let Err(error) = (&self.stream).write_all(bytes)
        {
            let lost = is_lost(&error);
            self.kill(board, &broken(&self.name, "cannot send a request", error), lost);
        }
        board.alive()
    }

    /// Waits until one request of this thread is answered.
    fn settle<'b>(&self, mine: &mut Window<'b>) -> Result<(Piece<'b>, Flight)> {
        let mut board = self.lock();
        loop {
            board.alive()?;
            for slot in mine.iter_mut() {
                let Some(piece) = slot else { continue };
                let Some(i) = board.flights.iter().position(|flight| flight.cookie == piece.cookie) else {
                    continue;
                };
                let Some(flight) = board.flights.get_mut(i) else { continue };
                for parcel in flight.parcels.drain(..) {
                    parcel.unpack(piece.buf);
                }
                if flight.done {
                    let flight = board.flights.swap_remove(i);
                    if board.waiting > 0 {
                        self.turn.notify_all();
                    }
                    if let Some(piece) = slot.take() {
                        return Ok((piece, flight));
                    }
                }
            }
            let Some(mut incoming) = board.incoming.take() else {
                board = self.wait(board);
                continue;
            };
            let until = board.progress.checked_add(self.deadline);
            drop(board);
            let received = self.receive(&mut incoming, mine, until);
            board = self.lock();
            match received {
                Ok(()) => board.incoming = Some(incoming),
                Err(Broken::Transport(error)) => {
                    let lost = is_lost(&error);
                    self.kill(&mut board, &broken(&self.name, "no reply", error), lost);
                }
                Err(Broken::Breach(what)) => {
                    let what = format!("{}: the NBD server sent {what}", self.name);
                    self.kill(&mut board, &Error::corrupt(what), false);
                }
            }
            if board.waiting > 0 {
                self.turn.notify_all();
            }
        }
    }

    /// Ends the connection for all threads.
    fn kill(&self, board: &mut Board, error: &Error, lost: bool) {
        let text = error.to_string();
        let what = text.split_once(": ").map_or(text.as_str(), |(_, what)| what);
        board.dead = Some(Dead { kind: error.kind(), what: what.to_owned(), lost });
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.turn.notify_all();
    }

    /// Reads one reply or chunk, whosever it is.
    fn receive(
        &self,
        incoming: &mut Incoming<UnixStream>,
        mine: &mut Window<'_>,
        until: Option<Instant>,
    ) -> std::result::Result<(), Broken> {
        let head = chunk::head(incoming, until)?;
        let mut parcel = None;
        let mut fault = None;
        let mut extents = Vec::new();
        match head.body {
            Body::Nothing => {
                self.find(head.cookie, None, None)?;
            }
            Body::Simple { error: 0 } => {
                if self.structured {
                    return Err(Broken::Breach("a simple reply to a request that wants a structured one"));
                }
                let (_, len) = self.find(head.cookie, Some(cmd::READ), None)?;
                parcel = data(incoming, head.cookie, 0, len, mine, until)?;
                self.cover(head.cookie, 0, len)?;
            }
            Body::Simple { error } => {
                self.find(head.cookie, None, None)?;
                fault = Some(Fault { errno: error, message: String::new(), at: None });
            }
            Body::Data { offset, len } => {
                let (at, _) = self.find(head.cookie, Some(cmd::READ), Some((offset, len)))?;
                self.cover(head.cookie, at, len)?;
                parcel = data(incoming, head.cookie, at, len, mine, until)?;
            }
            Body::Hole { offset, len } => {
                let (at, _) = self.find(head.cookie, Some(cmd::READ), Some((offset, len)))?;
                self.cover(head.cookie, at, len)?;
                parcel = zeros(head.cookie, at, len, mine);
            }
            Body::Status { context, count } => {
                self.find(head.cookie, Some(cmd::BLOCK_STATUS), None)?;
                if Some(context) != self.allocation {
                    return Err(Broken::Breach("the status of a context that was not asked for"));
                }
                extents = read_extents(incoming, count, until)?;
            }
            Body::Error { kind, len } => {
                self.find(head.cookie, None, None)?;
                fault = Some(chunk::fault(incoming, kind, len, until)?);
            }
        }
        self.lock().note(head.cookie, head.done, parcel, fault, extents)
    }

    /// Checks that a request is in flight, is of this sort, and asked for these bytes; gives where in it they begin,
    /// and its length.
    fn find(
        &self,
        cookie: u64,
        command: Option<u16>,
        span: Option<(u64, u32)>,
    ) -> std::result::Result<(u32, u32), Broken> {
        let board = self.lock();
        let flight = board
            .flights
            .iter()
            .find(|flight| flight.cookie == cookie && !flight.done)
            .ok_or(Broken::Breach("a reply to a request that was not made"))?;
        if command.is_some_and(|command| command != flight.command) {
            return Err(Broken::Breach("a reply of the wrong sort for its request"));
        }
        let Some((offset, len)) = span else { return Ok((0, flight.len)) };
        let at = offset.checked_sub(flight.offset).and_then(|at| u32::try_from(at).ok());
        at.filter(|at| at.checked_add(len).is_some_and(|end| end <= flight.len))
            .map(|at| (at, flight.len))
            .ok_or(Broken::Breach("bytes that were not asked for"))
    }

    fn cover(&self, cookie: u64, at: u32, len: u32) -> std::result::Result<(), Broken> {
        let mut board = self.lock();
        let flight = board.flights.iter_mut().find(|flight| flight.cookie == cookie);
        flight.map_or(Ok(()), |flight| flight.covered.add(at..at.saturating_add(len)))
    }
}

impl Drop for Connection {
    /// A polite end, if the socket takes it at once.
    fn drop(&mut self) {
        let end = Request { flags: 0, command: cmd::DISC, cookie: 0, offset: 0, length: 0 };
        if self.lock().dead.is_none() && self.stream.set_nonblocking(true).is_ok() {
            let _ = (&self.stream).write_all(&end.encode());
        }
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Board {
    fn alive(&self) -> Result<()> {
        self.dead.as_ref().map_or(Ok(()), |dead| Err(Error::new(dead.kind, dead.what.clone())))
    }

    fn register(&mut self, mut request: Request) -> Request {
        request.cookie = self.next_cookie;
        self.next_cookie = self.next_cookie.wrapping_add(1);
        if self.flights.is_empty() {
            self.progress = Instant::now();
        }
        self.flights.push(Flight {
            cookie: request.cookie,
            offset: request.offset,
            len: request.length,
            command: request.command,
            covered: Coverage::default(),
            fault: None,
            done: false,
            parcels: Vec::new(),
            extents: Vec::new(),
        });
        request
    }

    /// Enters what one chunk brought; at a reply's end, checks that it answers the whole request.
    fn note(
        &mut self,
        cookie: u64,
        done: bool,
        parcel: Option<Parcel>,
        fault: Option<Fault>,
        extents: Vec<(u32, u32)>,
    ) -> std::result::Result<(), Broken> {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.cookie == cookie) else {
            return Ok(());
        };
        flight.parcels.extend(parcel);
        if !extents.is_empty() {
            if !flight.extents.is_empty() {
                return Err(Broken::Breach("the status of one range twice"));
            }
            flight.extents = extents;
        }
        if flight.fault.is_none() {
            flight.fault = fault;
        }
        if done {
            let whole = match flight.command {
                cmd::READ => flight.covered.is_whole(flight.len),
                _ => !flight.extents.is_empty(),
            };
            if flight.fault.is_none() && !whole {
                return Err(Broken::Breach("a reply that answers only a part of its request"));
            }
            flight.done = true;
            self.progress = Instant::now();
        }
        Ok(())
    }
}

fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [UnexpectedEof, BrokenPipe, ConnectionReset].contains(&error.kind())
}

impl Parcel {
    fn unpack(self, buf: &mut [u8]) {
        match self {
            Self::Bytes(at, bytes) => super::wire::put(buf, at, &bytes),
            Self::Zeros(at, len) => {
                if let Some(part) = at.checked_add(len).and_then(|end| buf.get_mut(at..end)) {
                    part.fill(0);
                }
            }
        }
    }
}

/// Reads data into their place if the request is of this thread, else into a parcel. `len` was checked against the
/// request, which is no longer than a piece.
fn data(
    incoming: &mut Incoming<UnixStream>,
    cookie: u64,
    at: u32,
    len: u32,
    mine: &mut Window<'_>,
    until: Option<Instant>,
) -> std::result::Result<Option<Parcel>, Broken> {
    if let Some(place) = place(cookie, at, len, mine) {
        incoming.fill(place, until)?;
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    incoming.fill(&mut bytes, until)?;
    Ok(Some(Parcel::Bytes(usize::try_from(at).unwrap_or(usize::MAX), bytes)))
}

fn zeros(cookie: u64, at: u32, len: u32, mine: &mut Window<'_>) -> Option<Parcel> {
    match place(cookie, at, len, mine) {
        Some(place) => {
            place.fill(0);
            None
        }
        None => Some(Parcel::Zeros(usize::try_from(at).ok()?, usize::try_from(len).ok()?)),
    }
}

fn place<'m>(cookie: u64, at: u32, len: u32, mine: &'m mut Window<'_>) -> Option<&'m mut [u8]> {
    let piece = mine.iter_mut().flatten().find(|piece| piece.cookie == cookie)?;
    let start = usize::try_from(at).ok()?;
    piece.buf.get_mut(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// Reads `count` extents and keeps the first of them; those left out are asked for again when their turn comes.
fn read_extents(
    incoming: &mut Incoming<UnixStream>,
    count: u32,
    until: Option<Instant>,
) -> std::result::Result<Vec<(u32, u32)>, Broken> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let keep = count.min(EXTENTS_MAX);
    let mut extents = Vec::with_capacity(keep);
    for _ in 0..keep {
        let raw: [u8; 8] = incoming.array(until)?;
        let (len, flags) = (be32(&raw, 0), be32(&raw, 4));
        if len == 0 {
            return Err(Broken::Breach("an empty extent"));
        }
        extents.push((len, flags));
    }
    incoming.skip((count.saturating_sub(keep) as u64).saturating_mul(8), until)?;
    Ok(extents)
}
