//! Content on its way: read, given to whoever writes it, hashed in order. One pass, few buffers, both cores.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::chunks::{BLOCK, Chunk, Chunks, Gap, PIECE, add_gap, fill, lost};
use crate::block::{BlockSource, State};
use crate::effort::Effort;
use crate::error::{Error, Result};

/// A piece of content.
pub struct Piece<'p> {
    /// Where it starts.
    pub start: u64,
    /// Its length.
    pub len: u64,
    /// Its bytes; `None` is zeros that nobody had to read.
    pub data: Option<&'p [u8]>,
}

/// Buffers of [`PIECE`] bytes that one stream uses.
const BUFFERS: usize = 6;

/// Content of this many bytes and more is worth two more threads.
pub const LARGE: u64 = 8 << 20;

/// Runs all of `source` past two callers: `beside` in any order, at once on several threads if the content is large, and
/// `in_order` from the start to the end, on this thread. Gives what could not be read; there the pieces are zeros.
/// `scratch` is reused from call to call.
pub fn stream(
    source: &dyn BlockSource,
    effort: &Effort,
    scratch: &mut Vec<u8>,
    beside: &(dyn Fn(&Piece<'_>) -> Result<()> + Sync),
    in_order: &mut dyn FnMut(&Piece<'_>) -> Result<()>,
) -> Result<Vec<Gap>> {
    let len = source.len();
    if len >= LARGE {
        return threaded(source, effort, beside, in_order);
    }
    if scratch.len() < PIECE {
        scratch.resize(PIECE, 0);
    }
    let mut gaps = Vec::new();
    // Little content is read whole: to ask for its runs costs more than to read them.
    let whole = Chunk { start: 0, len, state: State::Data };
    let little = len <= PIECE as u64;
    let chunks: &mut dyn Iterator<Item = Chunk> =
        if little { &mut std::iter::once(whole).filter(|c| c.len > 0) } else { &mut Chunks::new(source) };
    for chunk in chunks {
        let data = load(source, &chunk, scratch, &mut gaps, effort)?;
        let piece = Piece { start: chunk.start, len: chunk.len, data };
        beside(&piece)?;
        in_order(&piece)?;
        effort.advance(chunk.len);
    }
    Ok(gaps)
}

fn load<'b>(
    source: &dyn BlockSource,
    chunk: &Chunk,
    buf: &'b mut [u8],
    gaps: &mut Vec<Gap>,
    effort: &Effort,
) -> Result<Option<&'b [u8]>> {
    match chunk.state {
        State::Zero | State::Hole => Ok(None),
        State::Lost => {
            add_gap(gaps, lost(source, chunk));
            Ok(None)
        }
        State::Data => {
            let buf = &mut buf[..usize::try_from(chunk.len).unwrap_or(PIECE)];
            fill(source, chunk.start, buf, gaps, effort)?;
            Ok(Some(buf))
        }
    }
}

/// What the threads of one stream share.
struct Shared<'s> {
    chunks: Chunks<'s>,
    /// Chunks handed out, and whether there are more.
    claimed: u64,
    more: bool,
    free: Vec<Vec<u8>>,
    done: BTreeMap<u64, Done>,
    failed: Option<Error>,
}

struct Done {
    chunk: Chunk,
    data: bool,
    buf: Vec<u8>,
    gaps: Vec<Gap>,
}

struct Meeting<'s> {
    shared: Mutex<Shared<'s>>,
    moved: Condvar,
}

impl<'s> Meeting<'s> {
    fn lock(&self) -> MutexGuard<'_, Shared<'s>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, Shared<'s>>) -> MutexGuard<'g, Shared<'s>> {
        self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut shared = self.lock();
        shared.failed.get_or_insert(error);
        shared.more = false;
        self.moved.notify_all();
    }

    /// The next chunk with a buffer for it; waits for a buffer, so that readers are never far ahead. Chunks are given out in
    /// order, each with its buffer: the one that everybody waits for always has one.
    fn claim(&self) -> Option<(u64, Chunk, Vec<u8>)> {
        let mut shared = self.lock();
        loop {
            if !shared.more {
                return None;
            }
            if let Some(buf) = shared.free.pop() {
                let Some(chunk) = shared.chunks.next() else {
                    shared.more = false;
                    self.moved.notify_all();
                    return None;
                };
                let number = shared.claimed;
                shared.claimed += 1;
                return Some((number, chunk, buf));
            }
            shared = self.wait(shared);
        }
    }
}

fn threaded(
    source: &dyn BlockSource,
    effort: &Effort,
    beside: &(dyn Fn(&Piece<'_>) -> Result<()> + Sync),
    in_order: &mut dyn FnMut(&Piece<'_>) -> Result<()>,
) -> Result<Vec<Gap>> {
    let shared = Shared {
        chunks: Chunks::new(source),
        claimed: 0,
        more: true,
        free: vec![Vec::new(); BUFFERS],
        done: BTreeMap::new(),
        failed: None,
    };
    let meeting = Meeting { shared: Mutex::new(shared), moved: Condvar::new() };
    let work = || {
        while let Some((number, chunk, mut buf)) = meeting.claim() {
            if buf.len() < PIECE {
                buf.resize(PIECE, 0);
            }
            let mut gaps = Vec::new();
            let result = load(source, &chunk, &mut buf, &mut gaps, effort).and_then(|data| {
                beside(&Piece { start: chunk.start, len: chunk.len, data })?;
                Ok(data.is_some())
            });
            match result {
                Ok(data) => {
                    let mut shared = meeting.lock();
                    shared.done.insert(number, Done { chunk, data, buf, gaps });
                    meeting.moved.notify_all();
                }
                Err(error) => return meeting.fail(error),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
        let mut gaps = Vec::new();
        let mut next = 0;
        loop {
            let mut shared = meeting.lock();
            let done = loop {
                if let Some(error) = shared.failed.take() {
                    return Err(error);
                }
                if let Some(done) = shared.done.remove(&next) {
                    break done;
                }
                if !shared.more && shared.claimed == next {
                    return Ok(gaps);
                }
                shared = meeting.wait(shared);
            };
            drop(shared);
            next += 1;
            let Done { chunk, data, buf, gaps: found } = done;
            let data = data.then(|| &buf[..usize::try_from(chunk.len).unwrap_or(PIECE)]);
            if let Err(error) = in_order(&Piece { start: chunk.start, len: chunk.len, data }) {
                meeting.fail(error);
                continue;
            }
            effort.advance(chunk.len);
            for gap in found {
                add_gap(&mut gaps, gap);
            }
            meeting.lock().free.push(buf);
            meeting.moved.notify_all();
        }
    })
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A block of zeros to compare with.
pub fn is_zero(block: &[u8]) -> bool {
    block.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Zeros to hash, in slices of at most 64 KiB; stops when `take` fails.
pub fn zeros(mut len: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        take(&ZEROS[..usize::try_from(now).unwrap_or(0)])?;
        len -= now;
    }
    Ok(())
}

/// The stretches of `data`, which lies at `start`, that are not blocks of zeros: each with its offset.
pub fn spans(start: u64, data: &[u8], mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let block = usize::try_from(BLOCK).unwrap_or(4096);
    let (mut from, mut at) = (0, 0);
    while at < data.len() {
        let end = (at + block).min(data.len());
        if is_zero(&data[at..end]) {
            if from < at {
                each(start + from as u64, &data[from..at])?;
            }
            from = end;
        }
        at = end;
    }
    if from < data.len() { each(start + from as u64, &data[from..]) } else { Ok(()) }
}

/// Writes a piece where it belongs, zeros left out. The file's length is to be set afterwards ([`set_len`]).
pub fn write_sparse(file: &File, piece: &Piece<'_>) -> Result<()> {
    let Some(data) = piece.data else { return Ok(()) };
    spans(piece.start, data, |offset, span| file.write_all_at(span, offset).map_err(sink_error))
}

/// Gives a sparse copy its length. [`crate::error::Kind::Unsupported`] if the output's filesystem cannot hold a file of that size.
pub fn set_len(file: &File, len: u64) -> Result<()> {
    file.set_len(len).map_err(sink_error)
}

/// What the output's filesystem said. A file that it cannot hold is Unsupported and the next file may do; all else ends a run.
pub fn sink_error(error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::FileTooLarge | ErrorKind::InvalidInput => {
            Error::unsupported(format!("the output's filesystem cannot hold a file of this size: {error}"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::io("cannot write the output", error)
            .hint("make room and start again in a new directory; what is finished is in the manifest"),
        _ => Error::io("cannot write the output", error),
    }
}
