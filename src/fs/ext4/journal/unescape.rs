//! The journal as a source in which every block begins with the journal's magic.
//!
//! A block of data that began with the magic was written with zeros in its place, so that recovery does not take it for
//! a record. Such blocks are read through here: nothing is copied, however many there are.

use std::sync::Arc;

use super::superblock::JBD2_MAGIC_NUMBER;
use crate::block::{BlockSource, Origin, Run, Source, State, within};
use crate::error::Result;

/// Bytes that the magic takes.
const MAGIC_SIZE: u64 = 4;

/// `journal` with the first four bytes of every block put back.
pub struct Unescaped {
    journal: Source,
    block_size: u64,
}

impl Unescaped {
    /// `block_size` is in bytes.
    pub fn new(journal: Source, block_size: u32) -> Self {
        Self { journal, block_size: u64::from(block_size).max(MAGIC_SIZE) }
    }

    /// How far `offset` lies in its block.
    fn inside(&self, offset: u64) -> u64 {
        offset.checked_rem(self.block_size).unwrap_or(0)
    }
}

impl BlockSource for Unescaped {
    fn name(&self) -> &Arc<str> {
        self.journal.name()
    }

    fn len(&self) -> u64 {
        self.journal.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let magic = JBD2_MAGIC_NUMBER.to_be_bytes();
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let inside = self.inside(at);
            let lead = usize::try_from(inside).ok().and_then(|i| magic.get(i..)).unwrap_or_default();
            let stretch =
                if lead.is_empty() { self.block_size.saturating_sub(inside) } else { lead.len() as u64 };
            let take = usize::try_from(stretch).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            match lead.get(..take) {
                Some(lead) => now.copy_from_slice(lead),
                None => self.journal.read_at(at, now)?,
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let inside = self.inside(offset);
        let left = self.len().saturating_sub(offset);
        if inside < MAGIC_SIZE {
            return Ok(Run::own(MAGIC_SIZE.saturating_sub(inside).min(left), State::Data));
        }
        let below = self.journal.run_at(offset)?;
        let len = below.len.min(self.block_size.saturating_sub(inside));
        Ok(Run { len, state: below.state, origin: Origin::At { source: &*self.journal, offset } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::memory::Memory;

    /// Any read, whatever its start and length, is the same cut of the blocks with the magic in front of each.
    #[test]
    fn every_block_begins_with_the_magic() {
        let journal: Source = Arc::new(Memory::new("journal", vec![7u8; 30]));
        let source = Unescaped::new(journal, 10);
        let block = [0xc0, 0x3b, 0x39, 0x98, 7, 7, 7, 7, 7, 7];
        let whole = [block, block, block].concat();
        for start in 0..30usize {
            for end in start..=30 {
                let mut buf = vec![0; end.saturating_sub(start)];
                source.read_at(start as u64, &mut buf).unwrap();
                assert_eq!(buf, whole[start..end]);
            }
        }
        let run = source.run_at(12).unwrap();
        assert!(run.len == 2 && matches!(run.origin, Origin::Own));
        let run = source.run_at(14).unwrap();
        assert!(run.len == 6 && matches!(run.origin, Origin::At { offset: 14, .. }));
    }
}
