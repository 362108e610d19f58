//! A source with some of its blocks replaced: a journal replayed without writing anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BlockSource, Run, Source, State, within};
use crate::error::{Error, Result};

/// Where a replaced block's bytes are.
#[derive(Clone)]
pub enum Patch {
    /// In another source, at this offset: a block in the journal.
    At(Source, u64),
    /// Here: a block whose bytes had to be changed (an escaped journal block).
    Bytes(Arc<[u8]>),
}

/// `base` with whole blocks replaced. The journal's bytes are referred to, not copied.
pub struct Overlay {
    base: Source,
    block_size: u64,
    blocks: BTreeMap<u64, Patch>,
}

impl Overlay {
    /// `blocks` maps a block number of `base` to its replacement of `block_size` bytes; `block_size` is not 0.
    /// It keeps the name of `base`: it is the same thing, as it is after recovery.
    pub fn new(base: Source, block_size: u64, blocks: BTreeMap<u64, Patch>) -> Result<Self> {
        if block_size == 0 {
            return Err(Error::corrupt(format!("{}: an overlay of blocks of no size", base.name())));
        }
        Ok(Self { base, block_size, blocks })
    }

    /// The patch over `offset` with the offset inside it, or none; and how many bytes from `offset` on that holds for.
    fn find(&self, offset: u64) -> (Option<(&Patch, u64)>, u64) {
        let block = offset.checked_div(self.block_size).unwrap_or(0);
        let inside = offset.saturating_sub(block.saturating_mul(self.block_size));
        if let Some(patch) = self.blocks.get(&block) {
            return (Some((patch, inside)), self.block_size.saturating_sub(inside));
        }
        let next =
            self.blocks.range(block..).next().map_or(u64::MAX, |(b, _)| b.saturating_mul(self.block_size));
        (None, next.saturating_sub(offset))
    }
}

impl BlockSource for Overlay {
    fn name(&self) -> &Arc<str> {
        self.base.name()
    }

    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (patch, len) = self.find(at);
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()).max(1);
            let (now, later) = rest.split_at_mut(take);
            match patch {
                None => self.base.read_at(at, now)?,
                Some((Patch::At(source, start), inside)) => {
                    let range = at..at.saturating_add(take as u64);
                    source
                        .read_at(start.saturating_add(inside), now)
                        .map_err(|error| error.with_range(range))?;
                }
                Some((Patch::Bytes(bytes), inside)) => {
                    let from = usize::try_from(inside).unwrap_or(usize::MAX);
                    let bytes = bytes.get(from..).and_then(|b| b.get(..take));
                    now.copy_from_slice(
                        bytes.ok_or_else(|| Error::corrupt("overlay: a patch shorter than its block"))?,
                    );
                }
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let left = self.len().saturating_sub(offset);
        match self.find(offset) {
            (None, len) => {
                let below = self.base.run_at(offset)?;
                let origin = super::Origin::At { source: &*self.base, offset };
                Ok(Run { len: below.len.min(len).min(left), state: below.state, origin })
            }
            (Some((Patch::At(source, start), inside)), len) => {
                let there = start.saturating_add(inside);
                let below = source.run_at(there)?;
                let origin = super::Origin::At { source: &**source, offset: there };
                Ok(Run { len: below.len.min(len).min(left), state: below.state, origin })
            }
            (Some((Patch::Bytes(_), _)), len) => Ok(Run::own(len.min(left), State::Data)),
        }
    }
}
