//! `struct ext4_group_desc`: where a block group keeps its bitmaps and inodes.

use super::backup::descriptor_copies;
use super::checksum::{crc16, crc32c_parts};
use super::disk::Disk;
use super::superblock::{Superblock, incompat, ro_compat};
use crate::block::{self, BlockSource};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// The largest descriptor that a superblock may claim.
const DESC_MAX: usize = 1024;

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) inode_table: u64,
    /// Free blocks (clusters with bigalloc).
    pub(super) free: u32,
    /// The checksum stored and the one computed, when they differ.
    pub(super) bad_checksum: Option<(u16, u16)>,
}

impl Group {
    /// Reads a descriptor of `sb.desc_size` bytes.
    pub(super) fn parse(sb: &Superblock, number: u64, data: &[u8]) -> Result<Self> {
        let b = Bytes::new(data, "ext4 group descriptor");
        let wide = data.len() >= 64 && sb.has_incompat(incompat::SIXTY_FOUR_BIT);
        let table_high = if wide { b.le32(0x28, "bg_inode_table_hi")? } else { 0 };
        let free_high = if wide { b.le16(0x2c, "bg_free_blocks_count_hi")? } else { 0 };
        let stored = b.le16(0x1e, "bg_checksum")?;
        let computed = checksum(sb, number, data);
        Ok(Self {
            inode_table: u64::from(b.le32(0x08, "bg_inode_table_lo")?) | u64::from(table_high) << 32,
            free: u32::from(b.le16(0x0c, "bg_free_blocks_count")?) | u32::from(free_high) << 16,
            bad_checksum: computed.filter(|c| *c != stored).map(|c| (stored, c)),
        })
    }

    /// Whether the inode table can lie where the descriptor says.
    fn plausible(&self, sb: &Superblock) -> bool {
        self.inode_table > u64::from(sb.first_data_block) && self.inode_table < sb.blocks_count
    }
}

/// `ext4_group_desc_csum`: crc32c with metadata_csum, crc16 with uninit_bg, none otherwise.
fn checksum(sb: &Superblock, number: u64, data: &[u8]) -> Option<u16> {
    let number = u32::try_from(number).ok()?.to_le_bytes();
    let (head, tail) = (data.get(..0x1e)?, data.get(0x20..)?);
    if sb.metadata_csum() {
        let crc = crc32c_parts(sb.csum_seed, &[&number, head, &[0, 0], tail]);
        return u16::try_from(crc & 0xffff).ok();
    }
    if sb.has_ro_compat(ro_compat::GDT_CSUM) {
        return Some([&sb.uuid[..], &number, head, tail].iter().fold(!0, |crc, part| crc16(crc, part)));
    }
    None
}

/// Where descriptor `number` lies, in bytes, in the copy of the table that group `copy` carries. With meta_bg a
/// descriptor lies in its own meta group, which `copy` does not move (`descriptor_loc` of fs/ext4/super.c).
fn place(sb: &Superblock, number: u64, copy: u64) -> u64 {
    let desc_size = u64::from(sb.desc_size);
    let per_block = u64::from(sb.block_size).checked_div(desc_size).unwrap_or(1).max(1);
    let table = number.checked_div(per_block).unwrap_or(0);
    let inside = number.saturating_sub(table.saturating_mul(per_block)).saturating_mul(desc_size);
    let small = sb.block_size == 1024;
    let block = if sb.has_incompat(incompat::META_BG) && table >= sb.first_meta_bg.into() {
        let group = table.saturating_mul(per_block);
        // Blocks of 1 KiB put the primary superblock into block 1, even where group 0 starts at block 0.
        let extra = u64::from(small && table == 0 && sb.first_data_block == 0);
        sb.group_start(group).saturating_add(sb.has_super(group).into()).saturating_add(extra)
    } else if copy == 0 {
        u64::from(small).saturating_add(1).saturating_add(table)
    } else {
        sb.group_start(copy).saturating_add(1).saturating_add(table)
    };
    sb.offset(block).saturating_add(inside)
}

impl Disk {
    /// Descriptor `number`. When its checksum is wrong or its table lies outside the volume, that is a finding and a
    /// sound backup stands in.
    pub(super) fn group(&self, number: u64) -> Result<Group> {
        if number >= self.sb.groups() {
            return Err(Error::corrupt(format!(
                "ext4 group {number}: the filesystem has {}",
                self.sb.groups()
            )));
        }
        let own = u64::from(self.sb.group);
        let first = self.group_copy(number, own);
        let sound = |group: &Group| group.bad_checksum.is_none() && group.plausible(&self.sb);
        match &first {
            Ok(group) if sound(group) => return first,
            Ok(group) => {
                let why = match group.bad_checksum {
                    Some((stored, computed)) => {
                        format!("checksum {stored:#06x}, its bytes have {computed:#06x}")
                    }
                    None => format!("inode table at block {:#x}, outside the volume", group.inode_table),
                };
                let offset = place(&self.sb, number, own);
                let what = format!("ext4 group descriptor {number}: {why}");
                self.effort.find(what, block::site(&*self.raw, offset));
            }
            Err(_) => {}
        }
        let copies = descriptor_copies(&self.sb).filter(|copy| *copy != own);
        let backup = copies.filter_map(|copy| self.group_copy(number, copy).ok()).find(sound);
        backup.map_or(first, Ok)
    }

    fn group_copy(&self, number: u64, copy: u64) -> Result<Group> {
        let mut buf = [0; DESC_MAX];
        let data = buf.get_mut(..self.sb.desc_size.into()).unwrap_or_default();
        self.meta.read_at(place(&self.sb, number, copy), data)?;
        Group::parse(&self.sb, number, data)
    }

    /// Free bytes by the sum of all descriptors.
    pub(super) fn free(&self) -> Option<u64> {
        /// Beyond this many groups (8 TiB with blocks of 4 KiB) the superblock's own count has to do.
        const GROUPS_MAX: u64 = 65536;
        let groups = self.sb.groups();
        if groups > GROUPS_MAX {
            return Some(self.sb.offset(self.sb.free_blocks));
        }
        let own = u64::from(self.sb.group);
        let mut clusters = 0u64;
        for number in 0..groups {
            clusters = clusters.saturating_add(self.group_copy(number, own).ok()?.free.into());
        }
        Some(self.sb.offset(clusters.saturating_mul(self.sb.cluster_ratio.into())))
    }
}
