//! The decrypted bytes of a device.

use std::sync::Arc;

use super::cipher::Sectors;
use crate::block::{BlockSource, Extent, How, Inputs, Origin, Run, Source, State, within};
use crate::error::Result;

/// Bytes that are decrypted at a time where a read does not fall on sectors.
const PIECE: usize = 4096;

/// Plain text over cipher text.
pub(super) struct Plain {
    name: Arc<str>,
    inner: Source,
    /// Where the first sector lies.
    start: u64,
    len: u64,
    /// Bytes in a sector: 512 to 4096.
    sector: usize,
    /// The start value's number of the first sector, in units of 512 bytes.
    tweak: u64,
    cipher: Box<dyn Sectors>,
    how: &'static str,
}

/// What [`Plain`] is made of.
pub(super) struct Parts {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) sector: usize,
    pub(super) tweak: u64,
    pub(super) cipher: Box<dyn Sectors>,
    pub(super) how: &'static str,
}

impl Plain {
    /// `parts.start + parts.len` does not overflow; `parts.sector` divides 4096.
    pub(super) fn new(name: Arc<str>, inner: Source, parts: Parts) -> Self {
        let Parts { start, len, sector, tweak, cipher, how } = parts;
        // A last piece that is no whole sector cannot be decrypted, and no system shows it.
        let size = (sector as u64).max(1);
        let len = len.saturating_sub(len.checked_rem(size).unwrap_or(0));
        Self { name, inner, start, len, sector, tweak, cipher, how }
    }

    /// Reads and decrypts whole sectors from `offset`, which is a sector's start.
    fn whole(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let there = self.start.saturating_add(offset);
        self.inner.read_at(there, buf).map_err(|error| {
            let range = error.range().map_or(offset..offset.saturating_add(buf.len() as u64), |range| {
                let here = |at: u64| at.saturating_sub(self.start).min(self.len);
                let size = self.sector as u64;
                let start = here(range.start);
                let end = here(range.end).checked_next_multiple_of(size).unwrap_or(self.len).min(self.len);
                start.saturating_sub(start.checked_rem(size).unwrap_or(0))..end
            });
            error.with_range(range)
        })?;
        self.cipher.decrypt(self.tweak.wrapping_add(offset >> 9), self.sector, buf);
        Ok(())
    }
}

impl BlockSource for Plain {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let size = self.sector as u64;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let inside = usize::try_from(at.checked_rem(size).unwrap_or(0)).unwrap_or(0);
            let sectors = rest.len().saturating_sub(rest.len().checked_rem(self.sector).unwrap_or(0));
            let take = if inside == 0 && sectors > 0 {
                let (now, _) = rest.split_at_mut(sectors);
                self.whole(at, now)?;
                sectors
            } else {
                let mut piece = [0; PIECE];
                let piece = piece.get_mut(..self.sector).unwrap_or_default();
                self.whole(at.saturating_sub(inside as u64), piece)?;
                let have = piece.get(inside..).unwrap_or_default();
                let take = have.len().min(rest.len()).max(1);
                for (to, from) in rest.iter_mut().zip(have) {
                    *to = *from;
                }
                take
            };
            at = at.saturating_add(take as u64);
            rest = rest.get_mut(take..).unwrap_or_default();
        }
        Ok(())
    }

    /// As the cipher text lies. A hole below is no hole here: zeros decrypt to something.
    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let size = self.sector as u64;
        let left = self.len.saturating_sub(offset);
        let inside = offset.checked_rem(size).unwrap_or(0);
        let sector = offset.saturating_sub(inside);
        let there = self.start.saturating_add(sector);
        if there >= self.inner.len() {
            return Ok(Run::own(left, State::Lost));
        }
        let below = self.inner.run_at(there)?;
        // A sector that begins in one run and ends in another is as lost as either of them.
        let (mut len, mut state) = (below.len, below.state);
        if len < size {
            while len < size && state != State::Lost {
                match self.inner.run_at(there.saturating_add(len)) {
                    Ok(next) => {
                        len = len.saturating_add(next.len);
                        state = next.state;
                    }
                    Err(_) => state = State::Lost,
                }
            }
            len = size;
        }
        len = len.saturating_sub(len.checked_rem(size).unwrap_or(0)).saturating_sub(inside).min(left);
        if state == State::Lost {
            return Ok(Run::own(len, State::Lost));
        }
        let end = inside.saturating_add(len).checked_next_multiple_of(size).unwrap_or(size);
        let range = there..there.saturating_add(end);
        let inputs = Inputs::One(Extent { source: &*self.inner, range });
        Ok(Run { len, state: State::Data, origin: Origin::From { inputs, how: How::Encrypted(self.how) } })
    }
}
