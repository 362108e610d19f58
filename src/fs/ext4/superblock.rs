//! `struct ext4_super_block` (fs/ext4/ext4.h): geometry, features, state.

use super::checksum::crc32c;
use super::flags;
use super::inode::{BLOCK_AT, Inode};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// Where the primary copy lies, in bytes from the start of the volume.
pub(super) const PRIMARY: u64 = 1024;
/// Bytes of a copy.
pub(super) const LEN: usize = 1024;
const MAGIC: u16 = 0xef53;

/// `s_feature_compat`.
pub(super) mod compat {
    pub(in crate::fs::ext4) const HAS_JOURNAL: u32 = 0x4;
    pub(in crate::fs::ext4) const SPARSE_SUPER2: u32 = 0x200;
    pub(in crate::fs::ext4) const ORPHAN_FILE: u32 = 0x1000;
}

/// `s_feature_incompat`.
pub(super) mod incompat {
    pub(in crate::fs::ext4) const FILETYPE: u32 = 0x2;
    pub(in crate::fs::ext4) const RECOVER: u32 = 0x4;
    pub(in crate::fs::ext4) const JOURNAL_DEV: u32 = 0x8;
    pub(in crate::fs::ext4) const META_BG: u32 = 0x10;
    pub(in crate::fs::ext4) const EXTENTS: u32 = 0x40;
    pub(in crate::fs::ext4) const SIXTY_FOUR_BIT: u32 = 0x80;
    pub(in crate::fs::ext4) const MMP: u32 = 0x100;
    pub(in crate::fs::ext4) const FLEX_BG: u32 = 0x200;
    pub(in crate::fs::ext4) const EA_INODE: u32 = 0x400;
    pub(in crate::fs::ext4) const CSUM_SEED: u32 = 0x2000;
    pub(in crate::fs::ext4) const LARGEDIR: u32 = 0x4000;
    pub(in crate::fs::ext4) const INLINE_DATA: u32 = 0x8000;
    pub(in crate::fs::ext4) const ENCRYPT: u32 = 0x10000;
    pub(in crate::fs::ext4) const CASEFOLD: u32 = 0x20000;

    /// Those that this reader understands.
    pub(in crate::fs::ext4) const KNOWN: u32 = FILETYPE
        | RECOVER
        | META_BG
        | EXTENTS
        | SIXTY_FOUR_BIT
        | MMP
        | FLEX_BG
        | EA_INODE
        | CSUM_SEED
        | LARGEDIR
        | INLINE_DATA
        | ENCRYPT
        | CASEFOLD;
}

/// `s_feature_ro_compat`.
pub(super) mod ro_compat {
    pub(in crate::fs::ext4) const SPARSE_SUPER: u32 = 0x1;
    pub(in crate::fs::ext4) const LARGE_FILE: u32 = 0x2;
    pub(in crate::fs::ext4) const BTREE_DIR: u32 = 0x4;
    pub(in crate::fs::ext4) const GDT_CSUM: u32 = 0x10;
    pub(in crate::fs::ext4) const BIGALLOC: u32 = 0x200;
    pub(in crate::fs::ext4) const METADATA_CSUM: u32 = 0x400;
}

/// The fields that reading needs, in the kernel's names without `s_`.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    /// Which block group this copy belongs to; the descriptors beside it are read.
    pub(super) group: u32,
    pub(super) inodes_count: u32,
    pub(super) blocks_count: u64,
    pub(super) free_blocks: u64,
    pub(super) first_data_block: u32,
    /// Bytes in a block: 1024 to 65536.
    pub(super) block_size: u32,
    /// Blocks in a cluster: 1 without bigalloc.
    pub(super) cluster_ratio: u32,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) state: u16,
    pub(super) first_ino: u32,
    pub(super) inode_size: u16,
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    pub(super) uuid: [u8; 16],
    pub(super) label: [u8; 16],
    pub(super) journal_uuid: [u8; 16],
    pub(super) journal_inum: u32,
    pub(super) journal_dev: u32,
    pub(super) last_orphan: u32,
    pub(super) orphan_file_inum: u32,
    pub(super) hash_seed: [u32; 4],
    /// `s_def_hash_version`: the hash of directories that get an index.
    pub(super) hash_version: u8,
    pub(super) desc_size: u16,
    pub(super) first_meta_bg: u32,
    pub(super) backup_bgs: [u32; 2],
    /// `s_flags`: how the directory hash was computed.
    pub(super) flags: u32,
    /// Where every metadata checksum starts.
    pub(super) csum_seed: u32,
    /// What of the journal inode is kept here (`s_jnl_blocks`), should the inode be lost.
    pub(super) jnl_blocks: [u32; 17],
    /// The checksum stored and the one computed, when they differ.
    pub(super) bad_checksum: Option<(u32, u32)>,
}

impl Superblock {
    /// Reads one copy and checks that its numbers can belong together. A wrong checksum is kept in
    /// [`Superblock::bad_checksum`] and is no error.
    pub(super) fn parse(data: &[u8]) -> Result<Self> {
        let b = Bytes::new(data, "ext4 superblock");
        let magic = b.le16(0x38, "s_magic")?;
        if magic != MAGIC {
            return Err(Error::corrupt(format!("ext4 superblock: magic {magic:#06x}, wanted {MAGIC:#06x}")));
        }
        let log_block = b.le32(0x18, "s_log_block_size")?;
        let log_cluster = b.le32(0x1c, "s_log_cluster_size")?;
        if log_block > 6 {
            return Err(Error::corrupt(format!(
                "ext4 superblock: s_log_block_size {log_block}, more than 6 (64 KiB)"
            )));
        }
        let block_size = 1024u32.wrapping_shl(log_block);
        let rev = b.le32(0x4c, "s_rev_level")?;
        let dynamic = rev >= 1;
        let feature = |offset, name| if dynamic { b.le32(offset, name) } else { Ok(0) };
        let compat = feature(0x5c, "s_feature_compat")?;
        let incompat = feature(0x60, "s_feature_incompat")?;
        let ro_compat = feature(0x64, "s_feature_ro_compat")?;
        let wide = incompat & incompat::SIXTY_FOUR_BIT != 0;
        let high = |offset, name| if wide { b.le32(offset, name).map(u64::from) } else { Ok(0) };
        let blocks_count =
            u64::from(b.le32(0x04, "s_blocks_count_lo")?) | high(0x150, "s_blocks_count_hi")? << 32;
        let free_blocks =
            u64::from(b.le32(0x0c, "s_free_blocks_count_lo")?) | high(0x158, "s_free_blocks_count_hi")? << 32;
        let bigalloc = ro_compat & ro_compat::BIGALLOC != 0;
        let cluster_shift = if bigalloc { log_cluster.wrapping_sub(log_block) } else { 0 };
        if cluster_shift > 30 {
            return Err(Error::corrupt(format!(
                "ext4 superblock: clusters of 2^{log_cluster} KiB with blocks of 2^{log_block} KiB"
            )));
        }
        let mut hash_seed = [0; 4];
        for (seed, offset) in hash_seed.iter_mut().zip((0xec..).step_by(4)) {
            *seed = b.le32(offset, "s_hash_seed")?;
        }
        let mut jnl_blocks = [0; 17];
        for (block, offset) in jnl_blocks.iter_mut().zip((0x10c..).step_by(4)) {
            *block = b.le32(offset, "s_jnl_blocks")?;
        }
        let uuid = b.array::<16>(0x68, "s_uuid")?;
        let csum_seed = if incompat & incompat::CSUM_SEED != 0 {
            b.le32(0x270, "s_checksum_seed")?
        } else {
            crc32c(!0, &uuid)
        };
        let metadata_csum = ro_compat & ro_compat::METADATA_CSUM != 0;
        let stored = b.le32(0x3fc, "s_checksum")?;
        let computed = crc32c(!0, b.slice(0, 0x3fc, "superblock")?);
        let desc_size = b.le16(0xfe, "s_desc_size")?;
        let sb = Self {
            group: u32::from(b.le16(0x5a, "s_block_group_nr")?),
            inodes_count: b.le32(0x00, "s_inodes_count")?,
            blocks_count,
            free_blocks,
            first_data_block: b.le32(0x14, "s_first_data_block")?,
            block_size,
            cluster_ratio: 1u32.wrapping_shl(cluster_shift),
            blocks_per_group: b.le32(0x20, "s_blocks_per_group")?,
            inodes_per_group: b.le32(0x28, "s_inodes_per_group")?,
            state: b.le16(0x3a, "s_state")?,
            first_ino: if dynamic { b.le32(0x54, "s_first_ino")? } else { 11 },
            inode_size: if dynamic { b.le16(0x58, "s_inode_size")? } else { 128 },
            compat,
            incompat,
            ro_compat,
            uuid,
            label: b.array(0x78, "s_volume_name")?,
            journal_uuid: b.array(0xd0, "s_journal_uuid")?,
            journal_inum: b.le32(0xe0, "s_journal_inum")?,
            journal_dev: b.le32(0xe4, "s_journal_dev")?,
            last_orphan: b.le32(0xe8, "s_last_orphan")?,
            orphan_file_inum: b.le32(0x280, "s_orphan_file_inum")?,
            hash_seed,
            hash_version: b.u8(0xfc, "s_def_hash_version")?,
            desc_size: if wide { desc_size } else { 32 },
            first_meta_bg: b.le32(0x104, "s_first_meta_bg")?,
            backup_bgs: [b.le32(0x24c, "s_backup_bgs")?, b.le32(0x250, "s_backup_bgs")?],
            flags: b.le32(0x160, "s_flags")?,
            csum_seed,
            jnl_blocks,
            bad_checksum: (metadata_csum && stored != computed).then_some((stored, computed)),
        };
        sb.check()?;
        Ok(sb)
    }

    /// The rules of the kernel's `ext4_check_geometry` and its neighbours that reading relies on.
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::corrupt(format!("ext4 superblock: {what}")));
        let size = u32::from(self.inode_size);
        if size < 128 || size > self.block_size || !size.is_power_of_two() {
            return wrong(format!("s_inode_size {size} with blocks of {}", self.block_size));
        }
        let desc = u32::from(self.desc_size);
        if desc < 32 || desc > 1024.min(self.block_size) || !desc.is_power_of_two() {
            return wrong(format!("s_desc_size {desc}"));
        }
        if self.has_incompat(incompat::SIXTY_FOUR_BIT) && desc < 64 {
            return wrong(format!("s_desc_size {desc} with 64bit"));
        }
        let bits = self.block_size.wrapping_mul(8);
        if self.blocks_per_group == 0
            || u64::from(self.blocks_per_group) > u64::from(bits).saturating_mul(self.cluster_ratio.into())
        {
            return wrong(format!("s_blocks_per_group {}", self.blocks_per_group));
        }
        if self.inodes_per_group == 0 || self.inodes_per_group > bits {
            return wrong(format!("s_inodes_per_group {}", self.inodes_per_group));
        }
        if u64::from(self.first_data_block) >= self.blocks_count {
            return wrong(format!(
                "s_first_data_block {} of {} blocks",
                self.first_data_block, self.blocks_count
            ));
        }
        if self.blocks_count > u64::MAX / 65536 {
            return wrong(format!("s_blocks_count {}", self.blocks_count));
        }
        if self.groups() > u64::from(u32::MAX) {
            return wrong(format!("{} block groups", self.groups()));
        }
        Ok(())
    }

    pub(super) fn has_compat(&self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(super) fn has_incompat(&self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(super) fn has_ro_compat(&self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    /// Whether metadata carries crc32c checksums.
    pub(super) fn metadata_csum(&self) -> bool {
        self.has_ro_compat(ro_compat::METADATA_CSUM)
    }

    /// Whether the journal waits to be replayed.
    pub(super) fn needs_recovery(&self) -> bool {
        self.has_incompat(incompat::RECOVER)
    }

    /// How many block groups there are.
    pub(super) fn groups(&self) -> u64 {
        self.blocks_count
            .saturating_sub(self.first_data_block.into())
            .div_ceil(u64::from(self.blocks_per_group).max(1))
    }

    /// The first block of a group.
    pub(super) fn group_start(&self, group: u64) -> u64 {
        group.saturating_mul(self.blocks_per_group.into()).saturating_add(self.first_data_block.into())
    }

    /// Where a block starts, in bytes from the start of the volume.
    pub(super) fn offset(&self, block: u64) -> u64 {
        block.saturating_mul(self.block_size.into())
    }

    /// Bytes of the filesystem.
    pub(super) fn size(&self) -> u64 {
        self.offset(self.blocks_count)
    }

    /// Refuses features that are unknown, or that make this something else than a filesystem.
    pub(super) fn admit(&self) -> Result<()> {
        if self.has_incompat(incompat::JOURNAL_DEV) {
            return Err(Error::unsupported("ext4: this is an external journal, not a filesystem"));
        }
        let unknown = self.incompat & !incompat::KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!(
                "ext4: unknown incompatible features {unknown:#x} (s_feature_incompat {:#x})",
                self.incompat
            )));
        }
        Ok(())
    }

    /// The journal's inode as `s_jnl_blocks` keeps it: the fifteen words of `i_block`, then the size.
    pub(super) fn journal_backup(&self) -> Option<Inode> {
        let (words, size) = self.jnl_blocks.split_at_checked(15)?;
        let [high, low] = size else { return None };
        let mut raw = [0; 128];
        let mut set = |at: usize, bytes: &[u8]| {
            let to = raw.get_mut(at..).unwrap_or_default();
            to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        };
        let extents = words.first().is_some_and(|word| word & 0xffff == 0xf30a);
        set(0x00, &0o100_600_u16.to_le_bytes());
        set(0x04, &low.to_le_bytes());
        set(0x1a, &1u16.to_le_bytes());
        set(0x20, &(if extents { flags::EXTENTS } else { 0 }).to_le_bytes());
        set(0x6c, &high.to_le_bytes());
        for (word, at) in words.iter().zip((BLOCK_AT..).step_by(4)) {
            set(at, &word.to_le_bytes());
        }
        let backup = (*low != 0 || *high != 0) && words.iter().any(|word| *word != 0);
        Inode::parse(self, self.journal_inum, &raw).ok().filter(|_| backup)
    }

    /// `ext2`, `ext3` or `ext4`, by the rules of libblkid.
    pub(super) fn kind(&self) -> &'static str {
        let old_incompat = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        let old_ro = ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
        if self.incompat & !old_incompat != 0 || self.ro_compat & !old_ro != 0 {
            "ext4"
        } else if self.has_compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// `clean`, `not clean`, `errors`.
    pub(super) fn state_word(&self) -> &'static str {
        const VALID_FS: u16 = 1;
        const ERROR_FS: u16 = 2;
        if self.state & ERROR_FS != 0 {
            "errors"
        } else if self.state & VALID_FS == 0 || self.needs_recovery() {
            "not clean"
        } else {
            "clean"
        }
    }

    /// Whether a group carries a copy of the superblock and of the descriptors (`ext4_bg_has_super`).
    pub(super) fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compat(compat::SPARSE_SUPER2) {
            return self.backup_bgs.iter().any(|g| u64::from(*g) == group);
        }
        if group == 1 || !self.has_ro_compat(ro_compat::SPARSE_SUPER) {
            return true;
        }
        [3u64, 5, 7].iter().any(|base| {
            let mut power = *base;
            while power < group {
                power = power.saturating_mul(*base);
            }
            power == group
        })
    }
}

/// A label or name up to its first NUL.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let bytes = bytes.get(..end).unwrap_or_default();
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// A UUID as blkid prints it; `None` when it is all zeros.
pub(super) fn uuid_text(uuid: &[u8; 16]) -> Option<String> {
    use std::fmt::Write;
    if *uuid == [0; 16] {
        return None;
    }
    let mut out = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    Some(out)
}
