//! The blocks of the log: their common header, and the tags of a descriptor block
//! (`journal_header_t`, `journal_block_tag_t`, `journal_block_tag3_t`).

use super::superblock::{JBD2_MAGIC_NUMBER, JournalSuperblock, Protection};
use crate::bytes::Bytes;
use crate::error::Result;

/// Bytes of `journal_header_t`.
pub const HEADER_SIZE: usize = 12;
/// Bytes of `jbd2_journal_block_tail`, the checksum that ends descriptor and revoke blocks (csum v2 and v3).
pub const TAIL_SIZE: usize = 4;

const FLAG_ESCAPE: u16 = 1;
const FLAG_SAME_UUID: u16 = 2;
const FLAG_LAST_TAG: u16 = 8;

/// What a block of the log is, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Tags; the blocks that they describe follow.
    Descriptor,
    /// The end of a transaction.
    Commit,
    /// Blocks that earlier transactions must not restore.
    Revoke,
    /// None of these: the log ends here.
    Other(u32),
}

/// Block type and transaction of a log block, or `None` if it has no header.
pub fn header(block: &[u8]) -> Option<(BlockType, u32)> {
    let bytes = Bytes::new(block, "journal block");
    if bytes.be32(0, "h_magic").ok()? != JBD2_MAGIC_NUMBER {
        return None;
    }
    let kind = match bytes.be32(4, "h_blocktype").ok()? {
        1 => BlockType::Descriptor,
        2 => BlockType::Commit,
        5 => BlockType::Revoke,
        other => BlockType::Other(other),
    };
    Some((kind, bytes.be32(8, "h_sequence").ok()?))
}

/// Describes one block that follows the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The filesystem block that it replaces.
    pub block: u64,
    /// The crc32c of transaction number and data; only the low 16 bits in csum v2; 0 without checksums.
    pub checksum: u32,
    /// The data began with the journal's magic, which was replaced by zeros.
    pub escaped: bool,
}

/// Bytes of a tag, without the UUID that may follow it (`journal_tag_bytes`).
fn tag_bytes(sb: &JournalSuperblock) -> usize {
    match (sb.protection, sb.wide) {
        (Protection::V3, _) => 16,
        (Protection::V2, true) => 14,
        (Protection::V2, false) => 10,
        (_, true) => 12,
        (_, false) => 8,
    }
}

/// The tags of a descriptor block in order. Ends after the one with `LAST_TAG`, or where no further one fits.
pub struct Tags<'a> {
    sb: &'a JournalSuperblock,
    block: Bytes<'a>,
    next: usize,
    ended: bool,
}

impl<'a> Tags<'a> {
    /// The tags of the descriptor `block`.
    pub fn new(sb: &'a JournalSuperblock, block: &'a [u8]) -> Self {
        let used = block.len().saturating_sub(if sb.has_crc32c() { TAIL_SIZE } else { 0 });
        let block = Bytes::new(block.get(..used).unwrap_or_default(), "journal descriptor");
        Self { sb, block, next: HEADER_SIZE, ended: false }
    }

    fn tag(&self, at: usize) -> Result<(Tag, u16)> {
        let len = tag_bytes(self.sb);
        let tag = self.block.part(at, len, "journal block tag")?;
        // In both layouts the flags' low half lies here: be16 after a be16, or the end of a be32.
        let flags = tag.be16(6, "t_flags")?;
        let high = if self.sb.wide { tag.be32(8, "t_blocknr_high")? } else { 0 };
        let checksum = match self.sb.protection {
            Protection::V3 => tag.be32(12, "t_checksum")?,
            Protection::V2 => u32::from(tag.be16(4, "t_checksum")?),
            Protection::None | Protection::V1 => 0,
        };
        let block = u64::from(high) << 32 | u64::from(tag.be32(0, "t_blocknr")?);
        Ok((Tag { block, checksum, escaped: flags & FLAG_ESCAPE != 0 }, flags))
    }
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        if self.ended {
            return None;
        }
        let (tag, flags) = self.tag(self.next).ok()?;
        let uuid = if flags & FLAG_SAME_UUID == 0 { 16 } else { 0 };
        self.next = self.next.saturating_add(tag_bytes(self.sb)).saturating_add(uuid);
        self.ended = flags & FLAG_LAST_TAG != 0;
        Some(tag)
    }
}
