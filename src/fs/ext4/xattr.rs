//! Extended attributes (`struct ext4_xattr_entry`, fs/ext4/xattr.h): in the inode, in a block, in inodes of their own.

use super::acl;
use super::checksum::crc32c_parts;
use super::disk::Disk;
use super::ea_inode;
use super::inode::{Inode, OLD_SIZE};
use crate::block;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::fs::Attribute;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Bytes of `struct ext4_xattr_header` at the start of a block.
const BLOCK_HEADER: usize = 32;
/// Zero bytes that end the list of entries.
const LAST: usize = 4;
/// Bytes of all values of one inode together. The system calls allow 64 KiB for each value, and a list of names takes
/// 64 KiB at most.
const TOTAL_MAX: usize = 16 << 20;

/// `EXT4_XATTR_INDEX_*`.
mod index {
    pub(super) const USER: u8 = 1;
    pub(super) const ACL_ACCESS: u8 = 2;
    pub(super) const ACL_DEFAULT: u8 = 3;
    pub(super) const TRUSTED: u8 = 4;
    pub(super) const SECURITY: u8 = 6;
    pub(super) const SYSTEM: u8 = 7;
    pub(super) const RICHACL: u8 = 8;
    pub(super) const ENCRYPTION: u8 = 9;
    pub(super) const HURD: u8 = 10;
}

/// One entry as it is stored.
#[derive(Clone, Copy, Debug)]
struct XattrEntry<'a> {
    index: u8,
    name: &'a [u8],
    /// Where the value starts in the region.
    value_at: usize,
    value_len: usize,
    /// The inode that holds the value, 0 when it lies in the region.
    value_inum: u32,
    hash: u32,
}

impl XattrEntry<'_> {
    /// Whether it is the rest of inline data.
    fn is_inline_data(&self) -> bool {
        self.index == index::SYSTEM && self.name == b"data"
    }

    /// The full name; `None` for what the kernel keeps for itself.
    fn full_name(&self) -> Option<Vec<u8>> {
        let (prefix, bare): (&[u8], bool) = match self.index {
            index::USER => (b"user.", false),
            index::ACL_ACCESS => (b"system.posix_acl_access", true),
            index::ACL_DEFAULT => (b"system.posix_acl_default", true),
            index::TRUSTED => (b"trusted.", false),
            index::SECURITY => (b"security.", false),
            index::SYSTEM if self.name == b"data" => return None,
            index::SYSTEM => (b"system.", false),
            index::RICHACL => (b"system.richacl", true),
            index::ENCRYPTION => return None,
            index::HURD => (b"gnu.", false),
            _ => (b"", false),
        };
        let rest = if bare { &[][..] } else { self.name };
        let mut name = Vec::with_capacity(prefix.len().saturating_add(rest.len()));
        name.extend_from_slice(prefix);
        name.extend_from_slice(rest);
        Some(name).filter(|name| !name.is_empty())
    }
}

/// The entry at byte `at` of `region`, and where the next one is; `None` at the end of the list.
fn entry(region: &[u8], at: usize) -> Result<Option<(XattrEntry<'_>, usize)>> {
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
        value_inum: e.le32(4, "e_value_inum")?,
        value_len: usize::try_from(e.le32(8, "e_value_size")?).unwrap_or(usize::MAX),
        hash: e.le32(12, "e_hash")?,
    };
    Ok(Some((entry, at.saturating_add(ENTRY).saturating_add(name_len.next_multiple_of(4)))))
}

/// Where the attributes in an inode start, if there are any: behind `i_extra_isize` and a magic number.
fn inode_region(inode: &Inode, raw: &[u8]) -> Option<usize> {
    let at = OLD_SIZE.saturating_add(inode.extra.into());
    let magic = Bytes::new(raw, "ext4 inode").le32(at, "h_magic").ok()?;
    (inode.extra != 0 && inode.extra.is_multiple_of(4) && magic == MAGIC).then(|| at.saturating_add(4))
}

/// The value of `system.data` in the inode, and where it lies in the inode.
pub(super) fn inline_data(disk: &Disk, inode: &Inode) -> Result<Option<(usize, Vec<u8>)>> {
    disk.with_inode(inode.ino, |raw| {
        let Some(start) = inode_region(inode, raw) else { return Ok(None) };
        let region = raw.get(start..).unwrap_or_default();
        let mut at = 0;
        while let Some((found, next)) = entry(region, at)? {
            if found.is_inline_data() {
                if found.value_inum != 0 {
                    return Err(Error::corrupt(format!(
                        "ext4 inode {}: inline data in an inode of its own",
                        inode.ino
                    )));
                }
                let value = value_slice(region, &found)?;
                return Ok(Some((start.saturating_add(found.value_at), value.to_vec())));
            }
            at = next;
        }
        Ok(None)
    })
}

fn value_slice<'a>(region: &'a [u8], entry: &XattrEntry<'_>) -> Result<&'a [u8]> {
    Bytes::new(region, "extended attribute").slice(entry.value_at, entry.value_len, "value")
}

/// The attributes of one inode, while they are collected.
struct Collector<'a> {
    disk: &'a Disk,
    ino: u32,
    found: Vec<Attribute>,
    total: usize,
}

impl Collector<'_> {
    /// Adds the entries that start at byte `first` of `region`; offsets of values count from the start of `region`, which
    /// lies at `place` on the volume. What breaks the rules is a finding, and the others are read.
    fn region(&mut self, region: &[u8], first: usize, place: u64) {
        let mut at = first;
        let end = loop {
            match entry(region, at) {
                Ok(Some((_, next))) => at = next,
                Ok(None) => break at.saturating_add(LAST),
                Err(error) => {
                    self.fault(&error, place.saturating_add(at as u64));
                    break at.saturating_add(LAST);
                }
            }
        };
        let mut values = Vec::new();
        at = first;
        while let Ok(Some((entry, next))) = entry(region, at) {
            if entry.value_inum == 0 && entry.value_len > 0 {
                values.push(entry.value_at..entry.value_at.saturating_add(entry.value_len));
            }
            if let Err(error) = self.take(region, end, &entry) {
                self.fault(&error, place.saturating_add(at as u64));
            }
            at = next;
        }
        values.sort_by_key(|value| value.start);
        let shared = values.windows(2).find_map(|pair| match pair {
            [a, b] if b.start < a.end => Some(b.start),
            _ => None,
        });
        if let Some(shared) = shared {
            let what = format!("ext4 inode {}: values of extended attributes overlap", self.ino);
            let site = block::site(&*self.disk.raw, place.saturating_add(shared as u64));
            self.disk.effort.find(what, site);
        }
    }

    fn fault(&self, error: &Error, place: u64) {
        let what = format!("ext4 inode {}: an extended attribute is left out: {}", self.ino, error.what());
        self.disk.effort.find(what, block::site(&*self.disk.raw, place));
    }

    /// Adds one entry of `region`, whose list of entries ends at byte `end`.
    fn take(&mut self, region: &[u8], end: usize, entry: &XattrEntry<'_>) -> Result<()> {
        let Some(name) = entry.full_name() else { return Ok(()) };
        let shown = String::from_utf8_lossy(&name).into_owned();
        if entry.name.contains(&0) {
            return Err(Error::corrupt(format!("{shown:?}: a name with a zero byte")));
        }
        // Only what is read counts: a length that lies must not use up the room of the others.
        if self.total.saturating_add(entry.value_len) > TOTAL_MAX {
            return Err(Error::corrupt(format!("{shown}: values of more than {TOTAL_MAX} bytes in all")));
        }
        let stored = if entry.value_inum != 0 {
            let len = entry.value_len;
            ea_inode::value(self.disk, entry.value_inum, len, entry.hash).map_err(|e| e.context(&shown))?
        } else if entry.value_len == 0 {
            Vec::new()
        } else if entry.value_at < end {
            let at = entry.value_at;
            return Err(Error::corrupt(format!("{shown}: a value at byte {at}, the entries end at {end}")));
        } else {
            value_slice(region, entry).map_err(|e| e.context(&shown))?.to_vec()
        };
        self.total = self.total.saturating_add(stored.len());
        let value = match entry.index {
            index::ACL_ACCESS | index::ACL_DEFAULT => acl::given(&stored).map_err(|e| e.context(&shown))?,
            _ => stored,
        };
        self.found.push(Attribute { name, value });
        Ok(())
    }
}

/// All attributes of an inode with their full names, those in the inode first.
pub(super) fn attributes(disk: &Disk, inode: &Inode) -> Result<Vec<Attribute>> {
    let mut all = Collector { disk, ino: inode.ino, found: Vec::new(), total: 0 };
    let place = disk.inode_place(inode.ino)?;
    disk.with_inode(inode.ino, |raw| {
        if let Some(start) = inode_region(inode, raw) {
            all.region(raw.get(start..).unwrap_or_default(), 0, place.saturating_add(start as u64));
        }
        Ok(())
    })?;
    if inode.file_acl != 0 {
        let (block, place) = read_block(disk, inode)?;
        all.region(&block, BLOCK_HEADER, place);
    }
    Ok(all.found)
}

/// The numbers of the inodes that hold values of this one.
pub(super) fn value_inodes(disk: &Disk, inode: &Inode) -> Result<Vec<u32>> {
    let mut inums = Vec::new();
    let mut collect = |region: &[u8], mut at: usize| {
        while let Ok(Some((entry, next))) = entry(region, at) {
            if entry.value_inum != 0 {
                inums.push(entry.value_inum);
            }
            at = next;
        }
    };
    disk.with_inode(inode.ino, |raw| {
        if let Some(start) = inode_region(inode, raw) {
            collect(raw.get(start..).unwrap_or_default(), 0);
        }
        Ok(())
    })?;
    if inode.file_acl != 0 {
        collect(&read_block(disk, inode)?.0, BLOCK_HEADER);
    }
    Ok(inums)
}

/// The block of attributes, and where it lies in bytes. A wrong checksum is a finding.
fn read_block(disk: &Disk, inode: &Inode) -> Result<(Vec<u8>, u64)> {
    let (ino, number) = (inode.ino, inode.file_acl);
    let wrong =
        |what: String| Error::corrupt(format!("ext4 inode {ino}: attribute block {number:#x}: {what}"));
    if !disk.has_blocks(number, 1) {
        return Err(wrong("outside the volume".into()));
    }
    let mut data = Vec::new();
    disk.read_block(number, &mut data)?;
    let place = disk.sb.offset(number);
    let b = Bytes::new(&data, "attribute block");
    let magic = b.le32(0, "h_magic")?;
    if magic != MAGIC {
        let error = wrong(format!("magic {magic:#010x}, wanted {MAGIC:#010x}"));
        return Err(error.with_site(block::site(&*disk.raw, place)));
    }
    if disk.sb.metadata_csum() {
        let stored = b.le32(0x10, "h_checksum")?;
        let (head, rest) = (b.slice(0, 0x10, "header")?, b.rest(0x14, "entries")?);
        let computed = crc32c_parts(disk.sb.csum_seed, &[&number.to_le_bytes(), head, &[0; 4], rest]);
        if stored != computed {
            let error = wrong(format!("checksum {stored:#010x}, its bytes have {computed:#010x}"));
            disk.effort.find(error.what(), block::site(&*disk.raw, place));
        }
    }
    Ok((data, place))
}
