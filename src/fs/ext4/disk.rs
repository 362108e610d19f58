//! What all parts of the reader share: the volume, its superblock, the cache, and what fast commits changed.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::records::Records;
use super::superblock::Superblock;
use crate::block::cache::Cached;
use crate::block::{BlockSource, Source};
use crate::effort::Effort;

/// An opened volume, after replay if there was one.
pub(super) struct Disk {
    pub(super) sb: Superblock,
    /// The volume, for content.
    pub(super) raw: Source,
    /// The volume through the cache, for metadata.
    pub(super) meta: Cached,
    /// What fast commits changed.
    pub(super) records: Records,
    pub(super) effort: Arc<Effort>,
    /// Read when first asked for.
    pub(super) orphans: OnceLock<BTreeSet<u32>>,
}

impl Disk {
    /// Whether `len` blocks from `block` on lie within the filesystem, and none of them is block 0.
    pub(super) fn has_blocks(&self, block: u64, len: u64) -> bool {
        block != 0 && block.checked_add(len).is_some_and(|end| end <= self.sb.blocks_count)
    }

    /// Bytes in a block, as a length in memory: at most 65536.
    pub(super) fn block_len(&self) -> usize {
        usize::try_from(self.sb.block_size).unwrap_or(0)
    }

    /// Reads block `block` into `buf`.
    pub(super) fn read_block(&self, block: u64, buf: &mut Vec<u8>) -> crate::error::Result<()> {
        buf.resize(self.block_len(), 0);
        self.meta.read_at(self.sb.offset(block), buf)
    }
}
