//! The block map of ext2 and ext3: twelve direct blocks, then trees of one, two and three levels.

use std::ops::Range;
use std::sync::Arc;

use super::disk::Disk;
use super::inode::Inode;
use super::map::{Extent, Seen, What, Window, push};
use crate::bytes::Bytes;
use crate::error::Result;

/// `EXT4_NDIR_BLOCKS`.
const DIRECT: u64 = 12;

/// What the block map of `inode` says around block `block` of the file.
pub(super) fn window(disk: &Disk, inode: &Inode, block: u64, seen: Seen<'_>) -> Window {
    if block < DIRECT {
        let direct = inode.block.get(..48).unwrap_or_default();
        return Window { range: 0..DIRECT, extents: pointers(disk, inode.ino, direct, 0) };
    }
    let per = u64::from(disk.sb.block_size) / 4;
    let mut start = DIRECT;
    let mut span = per;
    for (levels, at) in [(1, 48), (2, 52), (3, 56)] {
        let range = start..start.saturating_add(span);
        if range.contains(&block) {
            let root = Bytes::new(&inode.block, "i_block").le32(at, "i_block").unwrap_or(0);
            return tree(disk, inode, block, (root, levels), range, seen);
        }
        start = range.end;
        span = span.saturating_mul(per);
    }
    Window::hole(start..u64::MAX)
}

/// Goes down from `root`, which is a tree of `levels` levels for `range`.
fn tree(
    disk: &Disk,
    inode: &Inode,
    block: u64,
    (root, levels): (u32, usize),
    mut range: Range<u64>,
    seen: Seen<'_>,
) -> Window {
    let per = u64::from(disk.sb.block_size) / 4;
    let mut pointer = root;
    let mut buf = Vec::new();
    for level in 0..levels {
        if pointer == 0 {
            return Window::hole(range);
        }
        let lost = |range, why: &str| {
            Window::lost(range, format!("ext4 inode {}: indirect block {pointer:#x}: {why}", inode.ino))
        };
        if !disk.has_blocks(pointer.into(), 1) {
            return lost(range, "outside the volume");
        }
        if let Err(error) = disk.read_block(pointer.into(), &mut buf) {
            return lost(range, error.what());
        }
        seen(level, pointer.into());
        if level.saturating_add(1) == levels {
            break;
        }
        let span = range.end.saturating_sub(range.start).checked_div(per).unwrap_or(1).max(1);
        let index = block.saturating_sub(range.start).checked_div(span).unwrap_or(0);
        let start = range.start.saturating_add(index.saturating_mul(span));
        range = start..start.saturating_add(span);
        pointer = match child(&buf, index) {
            Ok(pointer) => pointer,
            Err(error) => return lost(range, error.what()),
        };
    }
    Window { extents: pointers(disk, inode.ino, &buf, range.start), range }
}

fn child(buf: &[u8], index: u64) -> Result<u32> {
    let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
    Bytes::new(buf, "indirect block").le32(at, "pointer")
}

/// The extents of a block of pointers, the first of which is for block `start` of the file.
fn pointers(disk: &Disk, ino: u32, data: &[u8], start: u64) -> Vec<Extent> {
    let mut extents = Vec::new();
    let (words, _) = data.as_chunks::<4>();
    let mut outside: Option<Arc<str>> = None;
    for (word, start) in words.iter().zip(start..) {
        let block = u64::from(u32::from_le_bytes(*word));
        if block == 0 {
            continue;
        }
        let what = if disk.has_blocks(block, 1) {
            What::At(block)
        } else {
            let why = outside.get_or_insert_with(|| {
                format!("ext4 inode {ino}: block {start:#x} of the file lies outside the volume").into()
            });
            What::Lost(Arc::clone(why))
        };
        push(&mut extents, Extent { start, len: 1, what });
    }
    extents
}
