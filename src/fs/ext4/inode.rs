//! `struct ext4_inode`: metadata of a node, and the sixty bytes that map or hold its content.

use super::checksum::crc32c_parts;
use super::disk::Disk;
use super::flags;
use super::superblock::{Superblock, incompat};
use crate::block::{self, BlockSource, Locate};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::fs::{FileType, Time};

/// Bytes of the part that every revision has (`EXT4_GOOD_OLD_INODE_SIZE`).
pub(super) const OLD_SIZE: usize = 128;
/// Bytes of `i_block`.
pub(super) const BLOCK_LEN: usize = 60;
/// Where `i_block` lies in the inode.
pub(super) const BLOCK_AT: usize = 0x28;
/// Inodes up to this size are read without an allocation.
const STACK: usize = 512;

/// An inode, decoded.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) ino: u32,
    /// `i_mode`: type and permissions.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u16,
    /// `i_dtime`: seconds since 1970 of the deletion; on the orphan list the next inode of it.
    pub(super) dtime: u32,
    pub(super) flags: u32,
    pub(super) generation: u32,
    /// `i_file_acl`: the block with extended attributes, 0 for none.
    pub(super) file_acl: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) crtime: Option<Time>,
    /// `i_extra_isize`: bytes in use after the first 128.
    pub(super) extra: u16,
    /// `i_block`.
    pub(super) block: [u8; BLOCK_LEN],
    /// The checksum stored and the one computed, when they differ.
    pub(super) bad_checksum: Option<(u32, u32)>,
}

impl Inode {
    /// Decodes inode `ino` from its `sb.inode_size` bytes.
    pub(super) fn parse(sb: &Superblock, ino: u32, data: &[u8]) -> Result<Self> {
        let b = Bytes::new(data, "ext4 inode");
        let extra = if data.len() > OLD_SIZE { b.le16(0x80, "i_extra_isize")? } else { 0 };
        // A field is there when it ends within i_extra_isize.
        let reach = OLD_SIZE.saturating_add(extra.into()).min(data.len());
        let mode = b.le16(0x00, "i_mode")?;
        let kind = FileType::from_mode(mode.into());
        let wide = kind == FileType::File || kind == FileType::Dir && sb.has_incompat(incompat::LARGEDIR);
        let high = if wide { b.le32(0x6c, "i_size_high")? } else { 0 };
        let time = |low, high: usize| -> Result<Time> {
            let extra = if high.saturating_add(4) <= reach { b.le32(high, "i_time_extra")? } else { 0 };
            Ok(timestamp(b.le32(low, "i_time")?, extra))
        };
        let generation = b.le32(0x64, "i_generation")?;
        let stored_high = if reach >= 0x84 { Some(b.le16(0x82, "i_checksum_hi")?) } else { None };
        let stored = u32::from(b.le16(0x7c, "i_checksum_lo")?) | u32::from(stored_high.unwrap_or(0)) << 16;
        let bad_checksum = if sb.metadata_csum() {
            let full = checksum(sb.csum_seed, ino, generation, data, stored_high.is_some());
            let computed = if stored_high.is_some() { full } else { full & 0xffff };
            (computed != stored).then_some((stored, computed))
        } else {
            None
        };
        Ok(Self {
            ino,
            mode,
            uid: u32::from(b.le16(0x02, "i_uid")?) | u32::from(b.le16(0x78, "l_i_uid_high")?) << 16,
            gid: u32::from(b.le16(0x18, "i_gid")?) | u32::from(b.le16(0x7a, "l_i_gid_high")?) << 16,
            size: u64::from(b.le32(0x04, "i_size_lo")?) | u64::from(high) << 32,
            links: b.le16(0x1a, "i_links_count")?,
            dtime: b.le32(0x14, "i_dtime")?,
            flags: b.le32(0x20, "i_flags")?,
            generation,
            file_acl: u64::from(b.le32(0x68, "i_file_acl_lo")?)
                | u64::from(b.le16(0x76, "l_i_file_acl_high")?) << 32,
            atime: time(0x08, 0x8c)?,
            ctime: time(0x0c, 0x84)?,
            mtime: time(0x10, 0x88)?,
            crtime: if reach >= 0x94 { Some(time(0x90, 0x94)?) } else { None },
            extra,
            block: b.array(BLOCK_AT, "i_block")?,
            bad_checksum,
        })
    }

    /// The type in `i_mode`.
    pub(super) fn kind(&self) -> FileType {
        FileType::from_mode(self.mode.into())
    }

    /// Whether a flag of `i_flags` is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether nothing was ever put here.
    pub(super) fn is_blank(&self) -> bool {
        self.mode == 0 && self.links == 0
    }

    /// Whether `i_block` has to do with content at all: that of a device is its number.
    pub(super) fn maps_blocks(&self) -> bool {
        matches!(self.kind(), FileType::File | FileType::Dir | FileType::Symlink)
    }

    /// Whether `i_block` holds the target of a symbolic link.
    pub(super) fn is_fast_symlink(&self) -> bool {
        self.kind() == FileType::Symlink
            && self.size < BLOCK_LEN as u64
            && !self.has(flags::EXTENTS | flags::INLINE_DATA)
    }

    /// Where the seed of the checksums of this inode's blocks comes from: its number and its generation.
    pub(super) fn csum_seed(&self, sb: &Superblock) -> u32 {
        crc32c_parts(sb.csum_seed, &[&self.ino.to_le_bytes(), &self.generation.to_le_bytes()])
    }

    /// Major and minor number of a device: the old 16-bit encoding in the first word, or the new one in the second.
    pub(super) fn rdev(&self) -> (u32, u32) {
        let word = |at: usize| {
            self.block
                .get(at..at.saturating_add(4))
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        match word(0) {
            0 => {
                let dev = word(4);
                ((dev >> 8) & 0xfff, dev & 0xff | (dev >> 12) & 0xfff00)
            }
            old => ((old >> 8) & 0xff, old & 0xff),
        }
    }
}

/// A time of 34 bits of seconds and 30 bits of nanoseconds: the low two bits of `extra` count epochs of 2^32 seconds
/// onto the signed 32-bit seconds, so that it reaches from 1901-12-13 to 2446-05-10.
fn timestamp(low: u32, extra: u32) -> Time {
    let epoch = i64::from(extra & 3) << 32;
    Time {
        seconds: i64::from(low.cast_signed()).saturating_add(epoch),
        nanoseconds: (extra >> 2).min(999_999_999),
    }
}

/// `ext4_inode_csum`: over number, generation and the whole inode, with its own two halves taken as zeros.
fn checksum(seed: u32, ino: u32, generation: u32, data: &[u8], has_high: bool) -> u32 {
    let part = |from: usize, to: usize| data.get(from..to.min(data.len())).unwrap_or_default();
    let start = [&ino.to_le_bytes()[..], &generation.to_le_bytes(), part(0, 0x7c), &[0, 0], part(0x7e, 0x80)];
    let crc = crc32c_parts(seed, &start);
    if has_high {
        crc32c_parts(crc, &[part(0x80, 0x82), &[0, 0], part(0x84, usize::MAX)])
    } else {
        crc32c_parts(crc, &[part(0x80, usize::MAX)])
    }
}

/// Puts the right checksum into the raw inode `ino`, where the filesystem has such checksums.
pub(super) fn seal(sb: &Superblock, ino: u32, raw: &mut [u8]) {
    if !sb.metadata_csum() {
        return;
    }
    let b = Bytes::new(raw, "ext4 inode");
    let extra = if raw.len() > OLD_SIZE { b.le16(0x80, "i_extra_isize").unwrap_or(0) } else { 0 };
    let has_high = OLD_SIZE.saturating_add(extra.into()).min(raw.len()) >= 0x84;
    let Ok(generation) = b.le32(0x64, "i_generation") else { return };
    let [a, b, c, d] = checksum(sb.csum_seed, ino, generation, raw, has_high).to_le_bytes();
    for (at, half) in [(0x7c, [a, b]), (0x82, [c, d])].into_iter().take(if has_high { 2 } else { 1 }) {
        if let Some(to) = raw.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *to = half;
        }
    }
}

impl Disk {
    /// Where inode `ino` lies, in bytes from the start of the volume, and whether its group was ever in use.
    pub(super) fn inode_place(&self, ino: u32) -> Result<u64> {
        let index = ino.checked_sub(1).filter(|_| ino <= self.sb.inodes_count);
        let index = index.ok_or_else(|| {
            Error::not_found(format!("ext4 inode {ino}: the filesystem has 1 to {}", self.sb.inodes_count))
        })?;
        let number = index.checked_div(self.sb.inodes_per_group).unwrap_or(0);
        let inside = index.saturating_sub(number.saturating_mul(self.sb.inodes_per_group));
        let group = self.group(number.into())?;
        let within = u64::from(inside).saturating_mul(self.sb.inode_size.into());
        Ok(self.sb.offset(group.inode_table).saturating_add(within))
    }

    /// Calls `f` with the raw bytes of inode `ino`, as they lie or as a fast commit has left them.
    pub(super) fn with_inode<T>(&self, ino: u32, f: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        if let Some(raw) = self.records.inode(ino) {
            return f(raw);
        }
        let offset = self.inode_place(ino)?;
        let size = usize::from(self.sb.inode_size);
        let read = |buf: &mut [u8]| self.meta.read_at(offset, buf).found_at(&*self.raw, offset);
        let mut stack = [0; STACK];
        if let Some(buf) = stack.get_mut(..size) {
            read(buf)?;
            return f(buf);
        }
        let mut buf = vec![0; size];
        read(&mut buf)?;
        f(&buf)
    }

    /// Inode `ino`. A wrong checksum is a finding; an inode that was never in use is NotFound.
    pub(super) fn inode(&self, ino: u32) -> Result<Inode> {
        let inode = self.with_inode(ino, |data| Inode::parse(&self.sb, ino, data))?;
        if inode.is_blank() {
            return Err(Error::not_found(format!("ext4 inode {ino} was never in use")));
        }
        if let Some((stored, computed)) = inode.bad_checksum {
            let what = format!("ext4 inode {ino}: checksum {stored:#010x}, its bytes have {computed:#010x}");
            self.effort.find(what, block::site(&*self.raw, self.inode_place(ino).unwrap_or(0)));
        }
        Ok(inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps".
    #[test]
    fn the_epoch_bits_count_from_1901_to_2446() {
        let cases = [
            (0x8000_0000u32, 0, -0x8000_0000i64),
            (0xffff_ffff, 0, -1),
            (0, 0, 0),
            (0x7fff_ffff, 0, 0x7fff_ffff),
            (0x8000_0000, 1, 0x8000_0000),
            (0xffff_ffff, 1, 0xffff_ffff),
            (0, 1, 0x1_0000_0000),
            (0x8000_0000, 2, 0x1_8000_0000),
            (0x7fff_ffff, 3, 0x3_7fff_ffff),
        ];
        for (low, epoch, seconds) in cases {
            let time = timestamp(low, epoch | 999_999_999 << 2);
            assert_eq!(time, Time { seconds, nanoseconds: 999_999_999 });
        }
    }
}
