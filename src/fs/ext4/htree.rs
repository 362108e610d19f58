//! The hashed index of a directory (`struct dx_root`, `struct dx_node`, fs/ext4/namei.c).

use std::sync::Arc;

use super::checksum::{crc32c, crc32c_parts};
use super::dir::{self, Blocks};
use super::dirent::Layout;
use super::disk::Disk;
use super::flags;
use super::hash::Hasher;
use super::inode::Inode;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::fs::Entry;

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

/// `struct dx_root`: what the first block of an indexed directory says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) hash_version: u8,
    levels: u8,
    /// Where the entries start.
    at: usize,
}

impl Root {
    /// Reads it from the directory's first block.
    pub(super) fn parse(data: &[u8]) -> Result<Self> {
        let b = Bytes::new(data, "ext4 directory index");
        let (reserved, flags) = (b.le32(0x18, "reserved_zero")?, b.u8(0x1f, "unused_flags")?);
        let (info, levels) = (b.u8(0x1d, "info_length")?, b.u8(0x1e, "indirect_levels")?);
        if reserved != 0 || flags & 1 != 0 || info != 8 || levels > LEVELS_MAX {
            return Err(Error::corrupt(format!(
                "directory index with flags {flags:#x}, {info} bytes of information and {levels} levels"
            )));
        }
        Ok(Self { hash_version: b.u8(0x1c, "hash_version")?, levels, at: 0x20 })
    }
}

/// Levels below the root: two, and three with large_dir.
const LEVELS_MAX: u8 = 3;

/// The answer of an index.
pub(super) enum Answer {
    /// The entry.
    Found(Entry),
    /// The leaf to which the index leads has no such name. That proves nothing: the guest made the index.
    Missing,
    /// The index cannot tell.
    Unsure,
}

/// Where a hash leads: the block, its place in its node, and the hash at which the next block starts.
struct Step {
    block: u64,
    index: usize,
    next: Option<u32>,
}

/// Finds the last entry of the node at byte `at` of `data` whose hash is not above `hash`.
fn search(data: &[u8], at: usize, hash: u32) -> Result<Step> {
    let b = Bytes::new(data, "ext4 directory index");
    let (limit, count) = (b.le16(at, "limit")?, b.le16(at.saturating_add(2), "count")?);
    let room = data.len().saturating_sub(at) / 8;
    if count == 0 || count > limit || usize::from(limit) > room {
        return Err(Error::corrupt(format!(
            "directory index with {count} of {limit} entries, room for {room}"
        )));
    }
    let place = |i: usize| at.saturating_add(i.saturating_mul(8));
    let key = |i: usize| b.le32(place(i), "hash");
    // The first entry has no hash of its own: its place holds limit and count.
    let (mut low, mut high) = (1usize, usize::from(count));
    while low < high {
        let middle = low.midpoint(high);
        if key(middle)? > hash { high = middle } else { low = middle.saturating_add(1) }
    }
    let index = low.saturating_sub(1);
    let block = b.le32(place(index).saturating_add(4), "block")? & 0x0fff_ffff;
    let next = if low < usize::from(count) { Some(key(low)?) } else { None };
    Ok(Step { block: block.into(), index, next })
}

/// Looks `name` up through the index, whose hash is that of `hashed` (the folded name in a casefolded directory).
pub(super) fn lookup(
    disk: &Arc<Disk>,
    inode: &Inode,
    hashed: &[u8],
    matches: &dyn Fn(&[u8]) -> bool,
) -> Result<Answer> {
    let blocks = Blocks::new(disk, inode)?;
    let mut buf = Vec::new();
    blocks.read(disk, 0, &mut buf)?;
    let root = Root::parse(&buf)?;
    let Some(hasher) = Hasher::new(disk, root.hash_version) else { return Ok(Answer::Unsure) };
    let (hash, _) = hasher.hash(hashed);
    let (mut at, mut next) = (root.at, None);
    let mut level = 0;
    let step = loop {
        let step = search(&buf, at, hash)?;
        next = step.next.or(next);
        if level >= root.levels {
            break step;
        }
        level = level.saturating_add(1);
        blocks.read(disk, step.block, &mut buf)?;
        at = 8;
    };
    let layout = Layout::new(disk, false);
    let (mut leaf, mut index, mut entries) = (step.block, step.index, Vec::new());
    loop {
        blocks.read(disk, leaf, &mut entries)?;
        if let Some(found) = dir::find_in(disk, inode, layout, &entries, matches)? {
            return Ok(Answer::Found(found));
        }
        // Names with one hash that did not fit go on in the next block, whose own hash has the lowest bit set.
        if next != Some(hash | 1) {
            return Ok(Answer::Missing);
        }
        index = index.saturating_add(1);
        let b = Bytes::new(&buf, "ext4 directory index");
        let count = usize::from(b.le16(at.saturating_add(2), "count")?);
        if index >= count {
            return Ok(Answer::Unsure);
        }
        let place = |i: usize| at.saturating_add(i.saturating_mul(8));
        leaf = u64::from(b.le32(place(index).saturating_add(4), "block")? & 0x0fff_ffff);
        let after = index.saturating_add(1);
        // Behind the last entry of a node the next one lies below another node; then all entries are gone through.
        next = if after < count { Some(b.le32(place(after), "hash")?) } else { Some(hash | 1) };
    }
}
