//! Everything on the volume that one node depends on.

use std::ops::Range;

use super::disk::Disk;
use super::flags;
use super::inode::Inode;
use super::map::{What, window};
use super::xattr;
use crate::effort::Fuel;
use crate::error::Result;
use crate::fs::{FileType, Role};

/// Levels of a map below the inode, at most.
const LEVELS: usize = 6;

/// Calls `visit` with each range of bytes, and why the node depends on it. Holes and unwritten blocks are none.
pub(super) fn footprint(disk: &Disk, inode: &Inode, visit: &mut dyn FnMut(Range<u64>, Role)) -> Result<()> {
    record(disk, inode.ino, Role::Record, visit)?;
    if inode.file_acl != 0 && disk.has_blocks(inode.file_acl, 1) {
        visit(blocks(disk, inode.file_acl, 1), Role::Attribute);
    }
    for ino in xattr::value_inodes(disk, inode).unwrap_or_default() {
        let Ok(value) = disk.inode(ino) else { continue };
        record(disk, ino, Role::Attribute, visit)?;
        map(disk, &value, Role::Attribute, Role::Attribute, visit)?;
    }
    let data = if inode.kind() == FileType::Dir { Role::Directory } else { Role::Data };
    if inode.maps_blocks() && !inode.has(flags::INLINE_DATA) && !inode.is_fast_symlink() {
        map(disk, inode, Role::Map, data, visit)?;
    }
    Ok(())
}

fn blocks(disk: &Disk, block: u64, len: u64) -> Range<u64> {
    disk.sb.offset(block)..disk.sb.offset(block.saturating_add(len))
}

fn record(disk: &Disk, ino: u32, role: Role, visit: &mut dyn FnMut(Range<u64>, Role)) -> Result<()> {
    let at = disk.inode_place(ino)?;
    visit(at..at.saturating_add(disk.sb.inode_size.into()), role);
    Ok(())
}

/// The blocks of the map, and those that it leads to up to the size.
fn map(
    disk: &Disk,
    inode: &Inode,
    nodes: Role,
    data: Role,
    visit: &mut dyn FnMut(Range<u64>, Role),
) -> Result<()> {
    let end = inode.size.div_ceil(disk.sb.block_size.into());
    let mut fuel = Fuel::new("ext4 block map", disk.sb.blocks_count.saturating_add(64));
    let mut last = [0u64; LEVELS];
    let mut at = 0;
    while at < end {
        disk.effort.check()?;
        fuel.burn(1)?;
        let mut seen = |level: usize, block: u64| {
            // The upper nodes are passed again on the way to each leaf.
            if let Some(last) = last.get_mut(level)
                && *last != block
            {
                *last = block;
                visit(blocks(disk, block, 1), nodes);
            }
        };
        let window = window(disk, inode, at, &mut seen);
        at = window.range.end;
        for extent in window.extents.iter().filter_map(|extent| extent.clip(&(0..end))) {
            if let What::At(block) = extent.what {
                visit(blocks(disk, block, extent.len), data);
            }
        }
    }
    Ok(())
}
