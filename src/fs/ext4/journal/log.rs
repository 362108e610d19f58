//! The log as a ring of blocks, and a walk through its records.

use super::checksum;
use super::superblock::JournalSuperblock;
use super::tags::{self, BlockType, TAIL_SIZE};
use crate::block::Source;
use crate::effort::Fuel;
use crate::error::{Error, Result};

/// Whether transaction `a` comes after `b`; transaction numbers wrap (`tid_gt`).
pub fn sequence_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 0x8000_0000
}

/// The largest log that mke2fs makes, in blocks: bounds the work that a larger claim could cause.
const MAX_BLOCKS: u64 = 10_240_000;

/// The blocks of a journal.
pub struct Log {
    /// Its content; block 0 is the journal superblock.
    pub source: Source,
    /// Its superblock.
    pub sb: JournalSuperblock,
    /// How many blocks the filesystem has: a log that is longer has blocks more than once.
    pub volume_blocks: u64,
}

impl Log {
    /// Bytes in a block.
    pub fn block_size(&self) -> usize {
        usize::try_from(self.sb.block_size).unwrap_or(usize::MAX)
    }

    /// Where block `number` starts in the journal, in bytes.
    pub fn offset(&self, number: u32) -> u64 {
        u64::from(number).saturating_mul(u64::from(self.sb.block_size))
    }

    /// Fills `buf`, which is one block long.
    pub fn read(&self, number: u32, buf: &mut [u8]) -> Result<()> {
        if number >= self.sb.maxlen {
            return Err(Error::corrupt(format!(
                "journal: block {number} of a log of {} blocks",
                self.sb.maxlen
            )));
        }
        self.source.read_at(self.offset(number), buf)
    }

    /// The block `count` blocks after `number`, around the end of the log.
    pub fn after(&self, number: u32, count: u32) -> u32 {
        let next = u64::from(number).saturating_add(u64::from(count));
        let (first, last) = (u64::from(self.sb.first), u64::from(self.sb.last));
        let wrapped = if next >= last { next.saturating_sub(last.saturating_sub(first)) } else { next };
        u32::try_from(wrapped).unwrap_or(u32::MAX)
    }

    /// Whether the crc32c in the last four bytes of a descriptor or revoke block is right; true where there is none.
    pub fn tail_sound(&self, block: &[u8]) -> bool {
        let field = block.len().saturating_sub(TAIL_SIZE);
        !self.sb.has_crc32c() || self.sound(block, field)
    }

    /// Whether the crc32c of `block`, stored at `field`, is right.
    pub fn sound(&self, block: &[u8], field: usize) -> bool {
        let stored = block.get(field..).and_then(|rest| rest.first_chunk::<4>());
        stored.is_some_and(|stored| {
            checksum::with_zero(self.sb.seed, block, field) == u32::from_be_bytes(*stored)
        })
    }

    /// Starts a walk at the first record.
    pub fn walk(&self) -> Walk {
        let blocks = u64::from(self.sb.last.saturating_sub(self.sb.first));
        let blocks = blocks.min(self.volume_blocks).min(MAX_BLOCKS);
        Walk {
            next: self.sb.start,
            sequence: self.sb.sequence,
            fuel: Fuel::new("journal", blocks.saturating_add(1)),
        }
    }
}

/// A walk through the records of a log. It visits each block once at most: a log never holds more than its length,
/// and one that bites its own tail ends with an error.
pub struct Walk {
    next: u32,
    /// The transaction that is being read.
    pub sequence: u32,
    fuel: Fuel,
}

impl Walk {
    /// Reads the next record of the current transaction into `buf`. Gives its type and its block; `None` at the end
    /// of the log: a block without header, or one of another transaction.
    pub fn step(&mut self, log: &Log, buf: &mut [u8]) -> Result<Option<(BlockType, u32)>> {
        let at = self.next;
        log.read(at, buf)?;
        match tags::header(buf) {
            Some((kind, sequence)) if sequence == self.sequence => {
                self.skip(log, 1)?;
                Ok(Some((kind, at)))
            }
            _ => Ok(None),
        }
    }

    /// The block that the walk comes to next.
    pub fn position(&self) -> u32 {
        self.next
    }

    /// Passes over `count` blocks: the data of a descriptor.
    pub fn skip(&mut self, log: &Log, count: u32) -> Result<()> {
        self.fuel.burn(u64::from(count))?;
        self.next = log.after(self.next, count);
        Ok(())
    }

    /// The transaction is complete: records of the following one are expected.
    pub fn commit(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }
}
