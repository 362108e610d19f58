//! The hashed index of a directory (`struct dx_root`, `struct dx_node`, fs/ext4/namei.c).

use super::checksum::{crc32c, crc32c_parts};
use super::dir;
use super::disk::Disk;
use super::flags;
use super::inode::Inode;
use crate::bytes::Bytes;

/// What is wrong with the checksum of block `block` of a directory, if anything.
pub(super) fn bad_checksum(disk: &Disk, inode: &Inode, block: u64, data: &[u8]) -> Option<String> {
    let seed = inode.csum_seed(&disk.sb);
    let (stored, computed) = match count_offset(inode, block, data) {
        Some(at) => index_checksum(seed, at, data)?,
        None => match dir::tail(data) {
            Some((at, stored)) => (stored, crc32c(seed, data.get(..at)?)),
            None => return Some("no checksum where there should be one".into()),
        },
    };
    (stored != computed).then(|| format!("checksum {stored:#010x}, its bytes have {computed:#010x}"))
}

/// Where `struct dx_countlimit` lies, if the block is a part of the index.
fn count_offset(inode: &Inode, block: u64, data: &[u8]) -> Option<usize> {
    let b = Bytes::new(data, "ext4 directory index");
    let first = b.le16(4, "rec_len").ok()?;
    let whole = usize::from(first) == data.len() || data.len() == 65536 && matches!(first, 0 | 0xffff);
    if whole && b.le32(0, "inode").ok()? == 0 {
        return Some(8);
    }
    if inode.has(flags::INDEX) && block == 0 && first == 12 {
        let info = usize::from(b.u8(0x1d, "info_length").ok()?);
        return info.checked_add(0x18);
    }
    None
}

/// The checksum of a part of the index, stored and computed (`ext4_dx_csum`).
fn index_checksum(seed: u32, at: usize, data: &[u8]) -> Option<(u32, u32)> {
    let b = Bytes::new(data, "ext4 directory index");
    let limit = usize::from(b.le16(at, "limit").ok()?);
    let count = usize::from(b.le16(at.checked_add(2)?, "count").ok()?);
    let used = data.get(..at.checked_add(count.checked_mul(8)?)?)?;
    let tail = at.checked_add(limit.checked_mul(8)?)?;
    let reserved = b.slice(tail, 4, "dt_reserved").ok()?;
    let stored = b.le32(tail.checked_add(4)?, "dt_checksum").ok()?;
    Some((stored, crc32c_parts(seed, &[used, reserved, &[0; 4]])))
}
