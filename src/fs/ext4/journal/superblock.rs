//! The journal superblock, block 0 of the log (`journal_superblock_t`, include/linux/jbd2.h).

use super::checksum;
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// `h_magic` of every block of the log that is not data.
pub const JBD2_MAGIC_NUMBER: u32 = 0xc03b_3998;
/// Bytes of the superblock that are read and that its checksum covers.
pub const SUPERBLOCK_SIZE: usize = 1024;

const JBD2_SUPERBLOCK_V1: u32 = 3;
const JBD2_SUPERBLOCK_V2: u32 = 4;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// `JBD2_CRC32C_CHKSUM`: the only algorithm that csum v2 and v3 know.
const CRC32C: u8 = 4;
/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
/// `JBD2_MIN_JOURNAL_BLOCKS`.
const MIN_JOURNAL_BLOCKS: u32 = 1024;

/// How the journal protects itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No checksums.
    None,
    /// `JBD2_FEATURE_COMPAT_CHECKSUM`: one CRC-32 over a transaction, in its commit block.
    V1,
    /// `JBD2_FEATURE_INCOMPAT_CSUM_V2`: crc32c of every block, 16 bits of it in a tag.
    V2,
    /// `JBD2_FEATURE_INCOMPAT_CSUM_V3`: crc32c of every block, in tags of 16 bytes.
    V3,
}

/// What replay needs of the journal superblock.
#[derive(Clone, Debug)]
pub struct JournalSuperblock {
    /// Bytes in a block of the log.
    pub block_size: u32,
    /// Blocks in the log, the superblock included.
    pub maxlen: u32,
    /// The first block of the log that holds records.
    pub first: u32,
    /// The block after the last one that holds ordinary records; the log wraps from here to `first`.
    pub last: u32,
    /// The first block of the fast commit area, and the one after its last; empty without the feature.
    pub fast_commit: std::ops::Range<u32>,
    /// The transaction that the log starts with.
    pub sequence: u32,
    /// The block that the log starts at; 0 if there is nothing to replay.
    pub start: u32,
    /// `s_errno`: the error that the filesystem was aborted with, 0 if none.
    pub errno: i32,
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Whether commit blocks were written without waiting for the rest of their transaction.
    pub async_commit: bool,
    /// Which checksums there are.
    pub protection: Protection,
    /// The start value of the crc32c of every block (csum v2 and v3).
    pub seed: u32,
    /// Whether the superblock's own checksum is wrong.
    pub checksum_wrong: bool,
}

impl JournalSuperblock {
    /// Reads the superblock from the first [`SUPERBLOCK_SIZE`] bytes of the journal.
    ///
    /// Corrupt if it breaks a rule that the kernel holds it to (`journal_load_superblock`), Unsupported if it has
    /// an incompatible feature that is not known here.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let bytes = Bytes::new(data, "journal superblock");
        let magic = bytes.be32(0, "h_magic")?;
        if magic != JBD2_MAGIC_NUMBER {
            return Err(Error::corrupt(format!(
                "journal superblock: magic {magic:#010x}, wanted {JBD2_MAGIC_NUMBER:#010x}"
            )));
        }
        let (compat, incompat) = match bytes.be32(4, "h_blocktype")? {
            JBD2_SUPERBLOCK_V1 => (0, 0),
            JBD2_SUPERBLOCK_V2 => {
                (bytes.be32(0x24, "s_feature_compat")?, bytes.be32(0x28, "s_feature_incompat")?)
            }
            other => return Err(Error::corrupt(format!("journal superblock: block type {other}"))),
        };
        let unknown = incompat & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!("journal: incompatible features {unknown:#x}"))
                .hint("--no-replay reads the filesystem as it lies"));
        }
        let has = |bit| incompat & bit != 0;
        let protection = match (compat & COMPAT_CHECKSUM != 0, has(INCOMPAT_CSUM_V2), has(INCOMPAT_CSUM_V3)) {
            (false, false, false) => Protection::None,
            (true, false, false) => Protection::V1,
            (false, true, false) => Protection::V2,
            (false, false, true) => Protection::V3,
            _ => return Err(Error::corrupt("journal superblock: more than one version of checksums")),
        };
        let crc32c = matches!(protection, Protection::V2 | Protection::V3);
        let mut checksum_wrong = false;
        if crc32c {
            let algorithm = bytes.u8(0x50, "s_checksum_type")?;
            if algorithm != CRC32C {
                return Err(Error::corrupt(format!("journal superblock: checksum type {algorithm}")));
            }
            let stored = bytes.be32(0xfc, "s_checksum")?;
            checksum_wrong = checksum::with_zero(!0, bytes.slice(0, SUPERBLOCK_SIZE, "all")?, 0xfc) != stored;
        }
        let maxlen = bytes.be32(0x10, "s_maxlen")?;
        let first = bytes.be32(0x14, "s_first")?;
        if first == 0 || first >= maxlen {
            return Err(Error::corrupt(format!(
                "journal superblock: s_first {first} of a log of {maxlen} blocks"
            )));
        }
        let (mut last, mut fast_commit) = (maxlen, 0..0);
        if has(INCOMPAT_FAST_COMMIT) {
            let blocks = match bytes.be32(0x54, "s_num_fc_blks")? {
                0 => DEFAULT_FAST_COMMIT_BLOCKS,
                blocks => blocks,
            };
            if let Some(rest) = maxlen.checked_sub(blocks).filter(|rest| *rest >= MIN_JOURNAL_BLOCKS) {
                last = rest;
            }
            fast_commit = last.saturating_add(1)..maxlen;
        }
        Ok(Self {
            block_size: bytes.be32(0x0c, "s_blocksize")?,
            maxlen,
            first,
            last,
            fast_commit,
            sequence: bytes.be32(0x18, "s_sequence")?,
            start: bytes.be32(0x1c, "s_start")?,
            errno: i32::from_be_bytes(bytes.array(0x20, "s_errno")?),
            wide: has(INCOMPAT_64BIT),
            async_commit: has(INCOMPAT_ASYNC_COMMIT),
            protection,
            seed: checksum::crc32c(!0, bytes.slice(0x30, 16, "s_uuid")?),
            checksum_wrong,
        })
    }

    /// Whether every block of the log carries a crc32c (csum v2 and v3).
    pub fn has_crc32c(&self) -> bool {
        matches!(self.protection, Protection::V2 | Protection::V3)
    }
}
