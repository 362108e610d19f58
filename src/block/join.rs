//! Several pieces one after another: a file's extents, the segments of a logical volume.

use std::sync::Arc;

use super::{BlockSource, Run, Source, State, within};
use crate::error::{Error, Result};

/// One piece of a [`Join`].
pub struct Piece {
    /// Where it starts in the join.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What is there.
    pub what: Part,
}

/// What a piece is.
pub enum Part {
    /// The same bytes in another source.
    At(Source, u64),
    /// Zeros; `State::Zero` or `State::Hole`.
    Zeros(State),
    /// Not readable, and why.
    Lost(Arc<str>),
}

/// Pieces one after another. What lies between and after them, up to the length, is a hole.
pub struct Join {
    name: Arc<str>,
    len: u64,
    pieces: Vec<Piece>,
}

impl Join {
    /// `pieces` in ascending order without overlap (else an error), `len` bytes in all.
    pub fn new(name: impl Into<Arc<str>>, len: u64, pieces: Vec<Piece>) -> Result<Self> {
        let name = name.into();
        let mut end = 0u64;
        for piece in &pieces {
            if piece.start < end {
                return Err(Error::corrupt(format!(
                    "{name}: two extents hold the same place, {:#x}",
                    piece.start
                )));
            }
            end = piece
                .start
                .checked_add(piece.len)
                .ok_or_else(|| Error::corrupt(format!("{name}: an extent overflows")))?;
        }
        Ok(Self { name, len, pieces })
    }

    /// The piece that holds `offset`, or the distance to the next one (or to the end).
    fn find(&self, offset: u64) -> std::result::Result<(&Piece, u64), u64> {
        let next = self.pieces.partition_point(|piece| piece.start <= offset);
        if let Some(piece) = next.checked_sub(1).and_then(|i| self.pieces.get(i)) {
            let inside = offset.saturating_sub(piece.start);
            if inside < piece.len {
                return Ok((piece, inside));
            }
        }
        Err(self.pieces.get(next).map_or(self.len, |piece| piece.start.min(self.len)).saturating_sub(offset))
    }
}

impl BlockSource for Join {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (len, piece) = match self.find(at) {
                Ok((piece, inside)) => (piece.len.saturating_sub(inside), Some((piece, inside))),
                Err(gap) => (gap, None),
            };
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()).max(1);
            let (now, later) = rest.split_at_mut(take);
            match piece {
                None => now.fill(0),
                Some((piece, inside)) => match &piece.what {
                    Part::Zeros(_) => now.fill(0),
                    Part::Lost(why) => {
                        return Err(Error::corrupt(format!("{}: {why}", self.name))
                            .with_range(at..piece.start.saturating_add(piece.len).min(self.len)));
                    }
                    Part::At(source, start) => {
                        let there = start.saturating_add(inside);
                        source.read_at(there, now).map_err(|error| {
                            let here = |x: u64| at.saturating_add(x.saturating_sub(there));
                            let range = error
                                .range()
                                .map_or(at..at.saturating_add(take as u64), |r| here(r.start)..here(r.end));
                            error.with_range(range)
                        })?;
                    }
                },
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let left = self.len.saturating_sub(offset);
        match self.find(offset) {
            Err(gap) => Ok(Run::own(gap.min(left), State::Hole)),
            Ok((piece, inside)) => {
                let len = piece.len.saturating_sub(inside).min(left);
                match &piece.what {
                    Part::Zeros(state) => Ok(Run::own(len, *state)),
                    Part::Lost(_) => Ok(Run::own(len, State::Lost)),
                    Part::At(source, start) => {
                        let there = start.saturating_add(inside);
                        if there >= source.len() {
                            return Ok(Run::own(len, State::Lost));
                        }
                        let below = source.run_at(there)?;
                        let origin = super::Origin::At { source: &**source, offset: there };
                        Ok(Run { len: len.min(below.len), state: below.state, origin })
                    }
                }
            }
        }
    }
}
