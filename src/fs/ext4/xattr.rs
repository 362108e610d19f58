//! Extended attributes (`struct ext4_xattr_entry`, fs/ext4/xattr.h): in the inode, in a block, in inodes of their own.

use super::disk::Disk;
use super::inode::{Inode, OLD_SIZE};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// `EXT4_XATTR_INDEX_SYSTEM`.
const SYSTEM: u8 = 7;

/// One entry as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrEntry<'a> {
    pub(super) index: u8,
    pub(super) name: &'a [u8],
    /// Where the value starts in the region.
    pub(super) value_at: usize,
    pub(super) value_len: usize,
    /// The inode that holds the value, 0 when it lies in the region.
    pub(super) value_inum: u32,
}

/// The entry at byte `at` of `region`, and where the next one is; `None` at the end of the list.
pub(super) fn entry(region: &[u8], at: usize) -> Result<Option<(XattrEntry<'_>, usize)>> {
    let b = Bytes::new(region, "extended attributes");
    // The list ends with four zero bytes, or with the region.
    if b.len().saturating_sub(at) < 4 || b.le32(at, "e_name_len")? == 0 {
        return Ok(None);
    }
    let e = b.part(at, ENTRY, "extended attribute")?;
    let name_len = usize::from(e.u8(0, "e_name_len")?);
    let name = b.slice(at.saturating_add(ENTRY), name_len, "e_name")?;
    let entry = XattrEntry {
        index: e.u8(1, "e_name_index")?,
        name,
        value_at: e.le16(2, "e_value_offs")?.into(),
        value_len: usize::try_from(e.le32(8, "e_value_size")?).unwrap_or(usize::MAX),
        value_inum: e.le32(4, "e_value_inum")?,
    };
    Ok(Some((entry, at.saturating_add(ENTRY).saturating_add(name_len.next_multiple_of(4)))))
}

/// Where the attributes in an inode start, if there are any: behind `i_extra_isize` and a magic number.
pub(super) fn inode_region(inode: &Inode, raw: &[u8]) -> Option<usize> {
    let at = OLD_SIZE.saturating_add(inode.extra.into());
    let magic = Bytes::new(raw, "ext4 inode").le32(at, "h_magic").ok()?;
    (inode.extra != 0 && inode.extra % 4 == 0 && magic == MAGIC).then(|| at.saturating_add(4))
}

/// The value of `system.data` in the inode, and where it lies in the inode.
pub(super) fn inline_data(disk: &Disk, inode: &Inode) -> Result<Option<(usize, Vec<u8>)>> {
    disk.with_inode(inode.ino, |raw| {
        let Some(start) = inode_region(inode, raw) else { return Ok(None) };
        let region = raw.get(start..).unwrap_or_default();
        let mut at = 0;
        while let Some((found, next)) = entry(region, at)? {
            if found.index == SYSTEM && found.name == b"data" {
                if found.value_inum != 0 {
                    return Err(Error::corrupt(format!(
                        "ext4 inode {}: inline data in an inode of its own",
                        inode.ino
                    )));
                }
                let value =
                    Bytes::new(region, "inline data").slice(found.value_at, found.value_len, "value")?;
                return Ok(Some((start.saturating_add(found.value_at), value.to_vec())));
            }
            at = next;
        }
        Ok(None)
    })
}
