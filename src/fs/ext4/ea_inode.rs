//! Values of extended attributes that are inodes of their own (the feature ea_inode).

use super::checksum::crc32c;
use super::content;
use super::disk::Disk;
use super::flags;
use crate::block;
use crate::error::{Error, Result};

/// The value in inode `ino`, of `len` bytes. It holds content and nothing else: its own attributes are not looked at, so
/// that no cycle can come about.
pub(super) fn value(disk: &Disk, ino: u32, len: usize, hash: u32) -> Result<Vec<u8>> {
    let inode = disk.inode(ino)?;
    if !inode.has(flags::EA_INODE) {
        return Err(Error::corrupt(format!("inode {ino} is none that holds a value")));
    }
    if inode.size != len as u64 {
        return Err(Error::corrupt(format!("a value of {len} bytes in inode {ino} of {}", inode.size)));
    }
    let value = content::read(disk, &inode, len)?;
    // The hash of the value is kept in i_atime (`ext4_xattr_inode_get_hash`); an older one took generation and mtime.
    let stored = u32::try_from(inode.atime.seconds & 0xffff_ffff).unwrap_or(0);
    if disk.sb.metadata_csum() && stored != crc32c(disk.sb.csum_seed, &value) && hash != 0 {
        let what = format!("ext4 inode {ino}: the hash of the attribute value in it is wrong");
        disk.effort.find(what, block::site(&*disk.raw, disk.inode_place(ino).unwrap_or(0)));
    }
    Ok(value)
}
