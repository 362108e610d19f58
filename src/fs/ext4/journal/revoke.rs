//! Revoke records: blocks that transactions up to a given one must not restore (`jbd2_journal_revoke_header_t`).

use std::collections::{BTreeMap, BTreeSet};

use super::log::sequence_after;
use super::superblock::JournalSuperblock;
use super::tags::TAIL_SIZE;
use crate::bytes::Bytes;
use crate::error::{Error, Result};

const REVOKE_HEADER_SIZE: usize = 16;

/// The last transaction that revoked each block. Only blocks that the log restores are kept, so that its size is
/// bounded by the number of tags in the log and not by what revoke blocks claim.
#[derive(Default)]
pub struct RevokeTable {
    last: BTreeMap<u64, u32>,
    records: u64,
}

impl RevokeTable {
    /// Takes in the records of the revoke block `block` of transaction `sequence`; Corrupt if its count is more than
    /// a block can hold.
    pub fn add(
        &mut self,
        sb: &JournalSuperblock,
        block: &[u8],
        sequence: u32,
        restored: &BTreeSet<u64>,
    ) -> Result<()> {
        let bytes = Bytes::new(block, "journal revoke block");
        let count = usize::try_from(bytes.be32(12, "r_count")?).unwrap_or(usize::MAX);
        let tail = if sb.has_crc32c() { TAIL_SIZE } else { 0 };
        if count > block.len().saturating_sub(tail) {
            return Err(Error::corrupt(format!("journal revoke block: {count} bytes used")));
        }
        let records = block.get(REVOKE_HEADER_SIZE..count).unwrap_or_default();
        for record in records.chunks_exact(if sb.wide { 8 } else { 4 }) {
            let number = record.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            self.records = self.records.saturating_add(1);
            if restored.contains(&number) {
                let last = self.last.entry(number).or_insert(sequence);
                if sequence_after(sequence, *last) {
                    *last = sequence;
                }
            }
        }
        Ok(())
    }

    /// Whether transaction `sequence` must not restore `block`.
    pub fn covers(&self, block: u64, sequence: u32) -> bool {
        self.last.get(&block).is_some_and(|last| !sequence_after(sequence, *last))
    }

    /// Records seen, those for blocks that the log does not restore included.
    pub fn records(&self) -> u64 {
        self.records
    }
}
