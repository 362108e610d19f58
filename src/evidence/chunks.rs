//! A source cut into pieces: what is to be read, and what is known to be zeros without reading. And what becomes of reads that fail.

use crate::block::{BlockSource, Locate, State, trace};
use crate::effort::Effort;
use crate::error::{Error, Result};

/// Bytes in one piece of data at most.
pub const PIECE: usize = 1 << 20;

/// Pieces begin and end at multiples of this, the end of the source aside; so do blocks that are left out of a sparse copy.
pub const BLOCK: u64 = 4096;

/// Holes shorter than this are read like data: a piece is cheaper than two.
const HOLE_MIN: u64 = 64 << 10;

/// Gaps kept apart; beyond that many they grow together with what is between them.
const GAPS_MAX: usize = 4096;

/// Bytes that could not be read. Their place in an output is filled with zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Bytes from the start of the source.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Why.
    pub error: String,
}

/// Adds a gap at the end; neighbours grow together and keep the first error.
pub fn add_gap(gaps: &mut Vec<Gap>, gap: Gap) {
    let full = gaps.len() >= GAPS_MAX;
    match gaps.last_mut() {
        Some(last) if full || last.start.saturating_add(last.len) == gap.start => {
            last.len = gap.start.saturating_add(gap.len).saturating_sub(last.start);
        }
        _ => gaps.push(gap),
    }
}

/// One piece of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it starts; a multiple of [`BLOCK`].
    pub start: u64,
    /// Its length; a multiple of [`BLOCK`] except at the end of the source. At most [`PIECE`] for data, any for others.
    pub len: u64,
    /// What is there.
    pub state: State,
}

/// The chunks of a source, in order, all of it.
pub struct Chunks<'s> {
    source: &'s dyn BlockSource,
    at: u64,
    /// The run that is known to start at an offset: where, its state and its end.
    ahead: Option<(u64, State, u64)>,
}

impl<'s> Chunks<'s> {
    /// Of `source`, from its start.
    pub fn new(source: &'s dyn BlockSource) -> Self {
        Self { source, at: 0, ahead: None }
    }

    /// State and end of the run at `at`. Where nobody knows, a read will say why: data.
    fn run(&mut self, at: u64) -> (State, u64) {
        match self.ahead {
            Some((start, state, end)) if start <= at && at < end => (state, end),
            _ => {
                let end = self.source.len();
                let (state, end) = match trace::state_at(self.source, at) {
                    Ok((state, len)) => (state, at.saturating_add(len.max(1)).min(end)),
                    Err(_) => (State::Data, at.saturating_add(PIECE as u64).min(end)),
                };
                self.ahead = Some((at, state, end));
                (state, end)
            }
        }
    }

    /// The end of the longest stretch from `at` on that is all zeros, or all lost.
    fn stretch(&mut self, at: u64, first: State) -> u64 {
        let (_, mut end) = self.run(at);
        while end < self.source.len() {
            let (state, next) = self.run(end);
            if state != first && !(state.reads_zero() && first.reads_zero()) {
                break;
            }
            end = next;
        }
        end
    }

    /// What can be left out of a stretch from `at` to `end`: it has to begin and end at a block, and be worth it.
    fn left_out(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let len = self.source.len();
        let from = block_end(at, len);
        let to = if end == len { len } else { end & !(BLOCK - 1) };
        (from < to && (to == len || to - from >= HOLE_MIN)).then_some((from, to))
    }
}

/// `at` rounded up to a block, `len` at most.
fn block_end(at: u64, len: u64) -> u64 {
    at.checked_next_multiple_of(BLOCK).map_or(len, |end| end.min(len))
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let (start, len) = (self.at, self.source.len());
        if start >= len {
            return None;
        }
        let piece_end = start.saturating_add(PIECE as u64).min(len);
        let mut end = start;
        while end < piece_end {
            let (state, run_end) = self.run(end);
            if state == State::Data {
                end = run_end;
                continue;
            }
            let stretch = self.stretch(end, state);
            match self.left_out(end, stretch) {
                None => end = stretch,
                Some((from, to)) if from == start => {
                    self.at = to;
                    return Some(Chunk { start, len: to - start, state });
                }
                Some((from, _)) => {
                    end = from;
                    break;
                }
            }
        }
        // The last block is read whole, whatever run it ends in.
        let end = block_end(end.min(piece_end), len);
        self.at = end;
        Some(Chunk { start, len: end - start, state: State::Data })
    }
}

/// Reads `buf.len()` bytes at `start`. What cannot be read is zeros in `buf` and a gap in `gaps`. An error is a cancelled effort.
pub fn fill(
    source: &dyn BlockSource,
    start: u64,
    buf: &mut [u8],
    gaps: &mut Vec<Gap>,
    effort: &Effort,
) -> Result<()> {
    let end = start + buf.len() as u64;
    let mut at = start;
    while at < end {
        effort.check()?;
        let rest = &mut buf[place(at, start)..];
        let Err(error) = source.read_at(at, rest) else { break };
        effort.check()?;
        let Some(bad) = error.range().map(|r| r.start.max(at)..r.end.min(end)).filter(|r| !r.is_empty())
        else {
            finely(source, at, rest, gaps, effort)?;
            break;
        };
        if bad.start > at {
            let good = &mut rest[..place(bad.start, at)];
            if source.read_at(at, good).is_err() {
                finely(source, at, good, gaps, effort)?;
            }
        }
        rest[place(bad.start, at)..place(bad.end, at)].fill(0);
        let len = bad.end - bad.start;
        add_gap(gaps, Gap { start: bad.start, len, error: said(error, source, bad.start) });
        at = bad.end;
    }
    Ok(())
}

/// As [`fill`] where an error does not say which bytes are bad: block by block.
fn finely(
    source: &dyn BlockSource,
    start: u64,
    buf: &mut [u8],
    gaps: &mut Vec<Gap>,
    effort: &Effort,
) -> Result<()> {
    let end = start + buf.len() as u64;
    let mut at = start;
    while at < end {
        effort.check()?;
        let next = block_end(at + 1, end);
        let block = &mut buf[place(at, start)..place(next, start)];
        if let Err(error) = source.read_at(at, block) {
            block.fill(0);
            add_gap(gaps, Gap { start: at, len: next - at, error: said(error, source, at) });
        }
        at = next;
    }
    Ok(())
}

/// The gap of a chunk that is lost as a whole.
pub fn lost(source: &dyn BlockSource, chunk: &Chunk) -> Gap {
    let mut byte = [0; 1];
    let error = match source.read_at(chunk.start, &mut byte) {
        Err(error) => said(error, source, chunk.start),
        Ok(()) => "said to be unreadable".into(),
    };
    Gap { start: chunk.start, len: chunk.len, error }
}

fn said(error: Error, source: &dyn BlockSource, at: u64) -> String {
    error.found_at(source, at).to_string()
}

fn place(at: u64, start: u64) -> usize {
    usize::try_from(at - start).unwrap_or(usize::MAX)
}
