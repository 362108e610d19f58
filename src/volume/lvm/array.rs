//! Stripes, mirrors and parity: one source over several members, for segments of types striped, mirror and raid0 to raid10.

use std::sync::Arc;

use super::layout::Layout;
use super::part;
use crate::block::join::Part;
use crate::block::{BlockSource, Extent, How, Inputs, Origin, Run, State, within};
use crate::error::{Error, Result};

/// How chunks lie on the members.
pub(super) enum Shape {
    /// One after another.
    Stripe,
    /// Each member has everything.
    Mirror,
    /// Near copies: so many of each chunk, one after another.
    Ten(u64),
    /// One parity or two for each row.
    Parity(Layout),
}

/// Members that make one volume.
pub(super) struct Array {
    name: Arc<str>,
    len: u64,
    /// Bytes of a chunk; for a mirror all of it.
    chunk: u64,
    members: Vec<Part>,
    shape: Shape,
    /// Bytes of each member up to which parity is known to fit.
    synced: u64,
}

impl Array {
    pub(super) fn new(
        name: Arc<str>,
        len: u64,
        chunk: u64,
        members: Vec<Part>,
        shape: Shape,
        synced: u64,
    ) -> Result<Self> {
        let count = members.len() as u64;
        let enough = match &shape {
            Shape::Stripe | Shape::Mirror => 1,
            Shape::Ten(copies) => (*copies).max(1),
            Shape::Parity(layout) => layout.parities().saturating_add(1),
        };
        if count < enough || chunk == 0 || matches!(shape, Shape::Ten(0)) {
            return Err(Error::corrupt(format!(
                "{name}: {count} members in chunks of {chunk} make no array"
            )));
        }
        Ok(Self { name, len, chunk, members, shape, synced })
    }

    /// Bytes from `offset` to the end of its chunk.
    fn left(&self, offset: u64) -> u64 {
        let inside = offset.checked_rem(self.chunk).unwrap_or(0);
        self.chunk.saturating_sub(inside).min(self.len.saturating_sub(offset))
    }

    /// Where copy `i` of the byte at `offset` lies: in which member, and where there.
    fn copy(&self, offset: u64, i: u64) -> Option<(usize, u64)> {
        let count = self.members.len() as u64;
        let chunk = offset.checked_div(self.chunk)?;
        let inside = offset.checked_rem(self.chunk)?;
        let place = |member: u64, row: u64| {
            Some((usize::try_from(member).ok()?, row.checked_mul(self.chunk)?.checked_add(inside)?))
        };
        match &self.shape {
            Shape::Mirror => (i < count).then_some((usize::try_from(i).ok()?, offset)),
            Shape::Stripe if i == 0 => place(chunk.checked_rem(count)?, chunk.checked_div(count)?),
            Shape::Ten(copies) if i < *copies => {
                let nth = chunk.checked_mul(*copies)?.checked_add(i)?;
                place(nth.checked_rem(count)?, nth.checked_div(count)?)
            }
            Shape::Parity(layout) if i == 0 => {
                let data = count.checked_sub(layout.parities())?;
                let row = chunk.checked_div(data)?;
                let spot = layout.spot(count, row, chunk.checked_rem(data)?)?;
                place(spot.data, row)
            }
            _ => None,
        }
    }

    /// The members, at `inside` each, whose sum is what member `lost` has there. None where parity cannot tell.
    fn siblings(&self, lost: usize, inside: u64, len: u64) -> Option<impl Iterator<Item = &Part>> {
        let Shape::Parity(layout) = &self.shape else { return None };
        (inside.checked_add(len)? <= self.synced).then_some(())?;
        let row = inside.checked_div(self.chunk)?;
        let second =
            layout.spot(self.members.len() as u64, row, 0)?.second.and_then(|q| usize::try_from(q).ok());
        let siblings = self.members.iter().enumerate();
        Some(siblings.filter(move |(i, _)| *i != lost && Some(*i) != second).map(|(_, part)| part))
    }

    /// Computes what member `lost` has at `inside` from the others.
    fn rebuild(&self, lost: usize, inside: u64, buf: &mut [u8]) -> Result<()> {
        let cannot = || Error::corrupt("its parity cannot stand in for it");
        let siblings = self.siblings(lost, inside, buf.len() as u64).ok_or_else(cannot)?;
        buf.fill(0);
        let mut piece = [0; 4096];
        for part in siblings {
            let mut at = inside;
            for out in buf.chunks_mut(piece.len()) {
                let Some(piece) = piece.get_mut(..out.len()) else { return Err(cannot()) };
                part::read(part, at, piece)?;
                for (sum, byte) in out.iter_mut().zip(piece.iter()) {
                    *sum ^= *byte;
                }
                at = at.saturating_add(out.len() as u64);
            }
        }
        Ok(())
    }

    /// Fills `buf`, which lies in one chunk.
    fn piece(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut failed = None;
        for i in 0.. {
            let Some((member, inside)) = self.copy(offset, i) else { break };
            let Some(part) = self.members.get(member) else { break };
            let Err(error) = part::read(part, inside, buf) else { return Ok(()) };
            if matches!(self.shape, Shape::Parity(_)) && self.rebuild(member, inside, buf).is_ok() {
                return Ok(());
            }
            failed.get_or_insert(error);
        }
        let error = failed.unwrap_or_else(|| Error::corrupt("a chunk without a place"));
        let end = offset.saturating_add(buf.len() as u64);
        Err(error.context(&self.name).with_range(offset..end))
    }
}

impl BlockSource for Array {
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
            let take = usize::try_from(self.left(at)).unwrap_or(usize::MAX).min(rest.len()).max(1);
            let (now, later) = rest.split_at_mut(take);
            self.piece(at, now)?;
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let mut len = self.left(offset);
        for i in 0.. {
            let Some((member, inside)) = self.copy(offset, i) else { break };
            let Some(part) = self.members.get(member) else { break };
            let run = part::run(part, inside, len)?;
            len = len.min(run.len);
            if run.state != State::Lost {
                return Ok(run);
            }
            let Some(siblings) = self.siblings(member, inside, len) else { continue };
            let mut inputs = Vec::with_capacity(self.members.len());
            let mut whole = true;
            for part in siblings {
                let run = part::run(part, inside, len)?;
                len = len.min(run.len);
                whole &= run.state != State::Lost;
                if let Part::At(source, start) = part {
                    inputs.push((&**source, start.saturating_add(inside)));
                }
            }
            if whole {
                let extent = |(source, at): (_, u64)| Extent { source, range: at..at.saturating_add(len) };
                let inputs = Inputs::Many(inputs.into_iter().map(extent).collect());
                return Ok(Run {
                    len,
                    state: State::Data,
                    origin: Origin::From { inputs, how: How::Parity },
                });
            }
        }
        Ok(Run::own(len, State::Lost))
    }
}
