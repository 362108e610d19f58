//! Inline data: content in `i_block`, going on in the attribute `system.data`.

use super::disk::Disk;
use super::inode::{BLOCK_AT, BLOCK_LEN, Inode};
use super::xattr;
use crate::error::{Error, Result};

/// All inline bytes: those in `i_block`, then the value of the attribute. `inode.size` bytes at most.
pub(super) fn content(disk: &Disk, inode: &Inode) -> Result<Vec<u8>> {
    let mut data = inode.block.to_vec();
    if inode.size > BLOCK_LEN as u64 {
        data.extend(xattr::inline_data(disk, inode)?.map(|(_, value)| value).unwrap_or_default());
    }
    let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
    if data.len() < size {
        return Err(Error::corrupt(format!(
            "ext4 inode {}: {} bytes of inline data, its size is {size}",
            inode.ino,
            data.len()
        )));
    }
    data.truncate(size);
    Ok(data)
}

/// The chunks of an inline directory, and where they lie on the volume. The first four bytes are the parent's number;
/// there is neither `.` nor `..`.
pub(super) fn directory(disk: &Disk, inode: &Inode) -> Result<Vec<(u64, Vec<u8>)>> {
    let place = disk.inode_place(inode.ino)?;
    let entries = inode.block.get(4..).unwrap_or_default().to_vec();
    let mut chunks = vec![(place.saturating_add(BLOCK_AT as u64).saturating_add(4), entries)];
    if inode.size > BLOCK_LEN as u64
        && let Some((at, value)) = xattr::inline_data(disk, inode)?
    {
        chunks.push((place.saturating_add(at as u64), value));
    }
    Ok(chunks)
}
