//! The extent tree (`struct ext4_extent_header` and its kin, fs/ext4/ext4_extents.h).

use std::ops::Range;

use super::checksum::crc32c;
use super::disk::Disk;
use super::inode::Inode;
use super::map::{Extent, Seen, What, Window, push};
use crate::block;
use crate::bytes::Bytes;
use crate::error::{Error, Result};

const MAGIC: u16 = 0xf30a;
/// Bytes of a header, of an index and of an extent alike.
const ENTRY: usize = 12;
/// `EXT4_MAX_EXTENT_DEPTH`.
const DEPTH_MAX: u16 = 5;
/// Extents longer than this are unwritten; their length is what is above it.
const INIT_MAX_LEN: u16 = 32768;
/// Logical blocks are numbers of 32 bits.
const BLOCKS: u64 = 1 << 32;

/// A node: the header's fields, checked against the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtentNode<'a> {
    pub(super) depth: u16,
    entries: u16,
    max: u16,
    data: Bytes<'a>,
}

impl<'a> ExtentNode<'a> {
    /// Checks magic, counts and depth.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self> {
        let b = Bytes::new(data, "extent node");
        let magic = b.le16(0, "eh_magic")?;
        if magic != MAGIC {
            return Err(Error::corrupt(format!("extent magic {magic:#06x}, wanted {MAGIC:#06x}")));
        }
        let (entries, max) = (b.le16(2, "eh_entries")?, b.le16(4, "eh_max")?);
        let depth = b.le16(6, "eh_depth")?;
        let room = data.len().saturating_sub(ENTRY).checked_div(ENTRY).unwrap_or(0);
        if entries > max || usize::from(max) > room {
            return Err(Error::corrupt(format!(
                "extent node with {entries} of {max} entries, it has room for {room}"
            )));
        }
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(format!("extent tree of depth {depth}, more than {DEPTH_MAX}")));
        }
        Ok(Self { depth, entries, max, data: b })
    }

    fn entry(&self, i: u16) -> Result<Bytes<'a>> {
        let at = usize::from(i).saturating_add(1).saturating_mul(ENTRY);
        self.data.part(at, ENTRY, "extent entry")
    }

    /// The indexes of an inner node: the first logical block, and the block of the child.
    pub(super) fn indexes(&self) -> impl Iterator<Item = Result<(u64, u64)>> + use<'a> {
        let node = *self;
        (0..node.entries).map(move |i| {
            let e = node.entry(i)?;
            let leaf = u64::from(e.le32(4, "ei_leaf_lo")?) | u64::from(e.le16(8, "ei_leaf_hi")?) << 32;
            Ok((e.le32(0, "ei_block")?.into(), leaf))
        })
    }

    /// The extents of a leaf, as they are stored.
    pub(super) fn extents(&self) -> impl Iterator<Item = Result<Extent>> + use<'a> {
        let node = *self;
        (0..node.entries).map(move |i| {
            let e = node.entry(i)?;
            let len = e.le16(4, "ee_len")?;
            let block = u64::from(e.le32(8, "ee_start_lo")?) | u64::from(e.le16(6, "ee_start_hi")?) << 32;
            let start = e.le32(0, "ee_block")?.into();
            Ok(match len.checked_sub(INIT_MAX_LEN) {
                Some(len) if len > 0 => Extent { start, len: len.into(), what: What::Unwritten(block) },
                _ => Extent { start, len: len.into(), what: What::At(block) },
            })
        })
    }

    /// The checksum stored behind the last place for an entry and the one computed, when they differ. The node in the
    /// inode has none.
    fn bad_checksum(&self, seed: u32) -> Option<(u32, u32)> {
        let at = usize::from(self.max).saturating_add(1).saturating_mul(ENTRY);
        let stored = self.data.le32(at, "et_checksum").ok()?;
        let computed = crc32c(seed, self.data.slice(0, at, "extent node").ok()?);
        (stored != computed).then_some((stored, computed))
    }

    /// The child that speaks for `block`, with the range that the parent gives it; a hole before the first one.
    fn child(&self, block: u64, range: &Range<u64>) -> Result<(Range<u64>, Option<u64>)> {
        let mut found: (Range<u64>, Option<u64>) = (range.clone(), None);
        let mut last = None;
        for index in self.indexes() {
            let (start, child) = index?;
            if last.is_some_and(|last| start <= last) || start >= range.end {
                return Err(Error::corrupt(format!("extent index for block {start:#x} is out of order")));
            }
            last = Some(start);
            if start <= block {
                found = (start.max(range.start)..range.end, Some(child));
            } else {
                found.0.end = found.0.end.min(start);
            }
        }
        Ok(found)
    }
}

/// The extents of a leaf that speaks for `range`. One that breaks the rules is Lost, and the others are not.
fn leaf(disk: &Disk, ino: u32, node: &ExtentNode<'_>, range: Range<u64>) -> Result<Window> {
    let mut extents: Vec<Extent> = Vec::with_capacity(usize::from(node.entries));
    let mut end = range.start;
    for extent in node.extents() {
        let mut extent = extent?;
        let fault = match &extent.what {
            _ if extent.len == 0 => Some("it has no length"),
            _ if extent.start < end || extent.end() > range.end => Some("it reaches into its neighbours"),
            What::At(block) | What::Unwritten(block) if !disk.has_blocks(*block, extent.len) => {
                Some("it lies outside the volume")
            }
            _ => None,
        };
        if let Some(fault) = fault {
            let what = format!("ext4 inode {ino}: extent at block {:#x} of the file: {fault}", extent.start);
            extent.what = What::Lost(what.into());
        }
        let Some(extent) = extent.clip(&(end..range.end)) else { continue };
        end = extent.end();
        push(&mut extents, extent);
    }
    Ok(Window { range, extents })
}

/// What the tree of `inode` says around block `block` of the file.
pub(super) fn window(disk: &Disk, inode: &Inode, block: u64, seen: Seen<'_>) -> Window {
    if block >= BLOCKS {
        return Window::hole(BLOCKS..u64::MAX);
    }
    let mut range = 0..BLOCKS;
    descend(disk, inode, block, &mut range, seen).unwrap_or_else(|error| {
        // Everything that the damaged node speaks for is lost, and nothing beyond it.
        Window::lost(range, format!("ext4 inode {}: {}", inode.ino, error.what()))
    })
}

fn descend(disk: &Disk, inode: &Inode, block: u64, range: &mut Range<u64>, seen: Seen<'_>) -> Result<Window> {
    let mut buf = Vec::new();
    let mut node = ExtentNode::parse(&inode.block)?;
    for level in 0..=usize::from(DEPTH_MAX) {
        if node.depth == 0 {
            return leaf(disk, inode.ino, &node, range.clone());
        }
        let (narrow, child) = node.child(block, range)?;
        *range = narrow;
        let Some(child) = child else { return Ok(Window::hole(range.clone())) };
        let depth = node.depth;
        if !disk.has_blocks(child, 1) {
            return Err(Error::corrupt(format!("extent block {child:#x} lies outside the volume")));
        }
        disk.read_block(child, &mut buf)?;
        seen(level, child);
        node = ExtentNode::parse(&buf)?;
        if node.depth.checked_add(1) != Some(depth) {
            return Err(Error::corrupt(format!(
                "extent block {child:#x} says depth {}, below one of depth {depth}",
                node.depth
            )));
        }
        if disk.sb.metadata_csum()
            && let Some((stored, computed)) = node.bad_checksum(inode.csum_seed(&disk.sb))
        {
            let what = format!(
                "ext4 inode {}: extent block {child:#x}: checksum {stored:#010x}, its bytes have {computed:#010x}",
                inode.ino
            );
            disk.effort.find(what, block::site(&*disk.raw, disk.sb.offset(child)));
        }
    }
    Err(Error::corrupt("extent tree deeper than it says"))
}
