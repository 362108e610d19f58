//! What fast commits leave behind, as records beside the volume (`ext4_fc_replay_*`, fs/ext4/fast_commit.c).
//!
//! The log names no blocks of metadata, so no block of the volume stands for its changes: inodes, block maps and names
//! are kept as [`Records`] that the reader looks at first.
//!
//! It is done as the kernel does it, its quirks included: a directory that a fast commit made has one link and adds
//! none to its parent. Three things the kernel makes up while it replays, and they are not made up here: the times of
//! the directories whose names change (the kernel sets those to the time of the mount), the blocks of directories, and
//! the counts of free blocks and inodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::dir::Listing;
use super::super::disk::Disk;
use super::super::flags;
use super::super::inode::{BLOCK_AT, BLOCK_LEN, Inode, seal};
use super::super::records::{InodeRecord, RangeEdit, Records};
use super::fast_commit::{Change, Name};
use crate::bytes::Bytes;
use crate::effort::Fuel;
use crate::error::{Error, Kind, Result};
use crate::fs::FileType;

const EXTENT_MAGIC: u16 = 0xf30a;
/// Extents that fit into the inode.
const EXTENTS_IN_INODE: u16 = 4;
/// Logical blocks are numbers of 32 bits.
const BLOCKS: u64 = 1 << 32;
/// Directory entries that are gone through in all to find the names that the log changes.
const ENTRIES_MAX: u64 = 16 << 20;

/// Where fields of the inode lie.
const SIZE_LO: usize = 0x04;
const DTIME: usize = 0x14;
const LINKS: usize = 0x1a;
const GENERATION: usize = 0x64;
const SIZE_HIGH: usize = 0x6c;

/// Applies `changes` to `disk`, the volume after the ordinary log. A change that the kernel would stop at ends it, with a
/// finding. Fails only where the volume cannot be read.
pub(in super::super) fn apply(disk: &Arc<Disk>, changes: Vec<Change>) -> Result<Records> {
    let present = match present(disk, &changes) {
        Err(error) if error.kind() == Kind::Corrupt => {
            disk.effort.find(format!("{}; fast commits are left out", error.what()), Vec::new());
            return Ok(Records::default());
        }
        other => other?,
    };
    let mut replay = Replay { disk, present, records: Records::default() };
    for change in changes {
        disk.effort.check()?;
        if let Err(error) = replay.change(change) {
            disk.effort.find(format!("fast commit: {}; what follows is left out", error.what()), Vec::new());
            break;
        }
    }
    let Replay { mut records, .. } = replay;
    for (ino, record) in &mut records.inodes {
        record.ranges = settled(&record.ranges);
        if let Some(raw) = &mut record.raw {
            seal(&disk.sb, *ino, raw);
        }
    }
    Ok(records)
}

/// Names as they are in the directories' blocks: directory and name → inode.
type Present = BTreeMap<(u32, Vec<u8>), u32>;

/// Looks up every name that the log mentions, each directory once.
fn present(disk: &Arc<Disk>, changes: &[Change]) -> Result<Present> {
    let mut wanted: BTreeMap<u32, BTreeSet<&[u8]>> = BTreeMap::new();
    for change in changes {
        if let Change::Creat(name) | Change::Link(name) | Change::Unlink(name) = change {
            wanted.entry(name.parent).or_default().insert(&name.name);
        }
    }
    let mut present = Present::new();
    let mut fuel = Fuel::new("directories that fast commits change", ENTRIES_MAX);
    for (parent, names) in wanted {
        disk.effort.check()?;
        let Ok(inode) = disk.inode(parent) else { continue };
        let Ok(listing) = Listing::new(disk, &inode) else { continue };
        // A damaged block is a finding when the directory is listed; the names in it are as good as gone here.
        for entry in listing {
            fuel.burn(1)?;
            if let Ok(entry) = entry
                && names.contains(entry.name.as_slice())
                && let Ok(ino) = u32::try_from(entry.id.ino)
            {
                present.insert((parent, entry.name), ino);
            }
        }
    }
    Ok(present)
}

struct Replay<'a> {
    disk: &'a Arc<Disk>,
    present: Present,
    records: Records,
}

impl Replay<'_> {
    fn change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Inode { ino, raw } => self.inode(ino, &raw),
            Change::AddRange { ino, start, len, block, unwritten } => {
                self.range(ino, start, len.into(), Some((block, unwritten)));
                Ok(())
            }
            Change::DelRange { ino, start, len } => {
                self.range(ino, start, len.into(), None);
                Ok(())
            }
            Change::Creat(name) => self.creat(&name),
            Change::Link(name) => {
                if self.live(name.ino).is_some() && self.link(&name) {
                    self.add_links(name.ino, 1)?;
                }
                Ok(())
            }
            Change::Unlink(name) => self.unlink(name),
        }
    }

    /// The record of `ino` with its raw inode in it.
    fn record(&mut self, ino: u32) -> Result<&mut InodeRecord> {
        let record = self.records.inodes.entry(ino).or_default();
        if record.raw.is_none() {
            record.raw = Some(self.disk.with_inode(ino, |raw| Ok(raw.to_vec()))?);
        }
        Ok(record)
    }

    fn raw(&mut self, ino: u32) -> Result<&mut Vec<u8>> {
        let record = self.record(ino)?;
        record.raw.as_mut().ok_or_else(|| Error::corrupt(format!("fast commit: no inode {ino}")))
    }

    /// Inode `ino` if it is in use: what `ext4_iget` gives.
    fn live(&mut self, ino: u32) -> Option<Inode> {
        let known = self.records.inodes.get(&ino).and_then(|record| record.raw.as_deref());
        let inode = match known {
            Some(raw) => Inode::parse(&self.disk.sb, ino, raw),
            None => self.disk.with_inode(ino, |raw| Inode::parse(&self.disk.sb, ino, raw)),
        };
        inode.ok().filter(|inode| inode.links > 0)
    }

    /// `ext4_fc_replay_inode`: everything but the block map, which the ranges tell of.
    fn inode(&mut self, ino: u32, from: &[u8]) -> Result<()> {
        let raw = self.raw(ino)?;
        for part in [0..BLOCK_AT, GENERATION..from.len().min(raw.len())] {
            if let (Some(to), Some(from)) = (raw.get_mut(part.clone()), from.get(part)) {
                to.copy_from_slice(from);
            }
        }
        let flags = Bytes::new(from, "inode").le32(0x20, "i_flags")?;
        let map = BLOCK_AT..BLOCK_AT.saturating_add(BLOCK_LEN);
        let Some(to) = raw.get_mut(map.clone()) else { return Ok(()) };
        if flags & flags::EXTENTS != 0 {
            if Bytes::new(to, "i_block").le16(0, "eh_magic")? != EXTENT_MAGIC {
                let header = [EXTENT_MAGIC, 0, EXTENTS_IN_INODE, 0, 0, 0].map(u16::to_le_bytes);
                to.iter_mut().zip(header.as_flattened()).for_each(|(to, from)| *to = *from);
            }
        } else if flags & flags::INLINE_DATA != 0
            && let Some(from) = from.get(map)
        {
            to.copy_from_slice(from);
        }
        Ok(())
    }

    fn range(&mut self, ino: u32, start: u32, len: u64, to: Option<(u64, bool)>) {
        if self.live(ino).is_none() || len == 0 {
            return;
        }
        let edit = RangeEdit { start: start.into(), len, to };
        self.records.inodes.entry(ino).or_default().ranges.push(edit);
    }

    /// `ext4_fc_replay_create`.
    fn creat(&mut self, name: &Name) -> Result<()> {
        let Some(inode) = self.live(name.ino) else {
            return Err(Error::corrupt(format!("inode {} is not in use and is given a name", name.ino)));
        };
        if inode.kind() == FileType::Dir {
            if self.live(name.parent).is_none() {
                return Ok(());
            }
            let size = self.disk.sb.block_size;
            let record = self.record(name.ino)?;
            record.made = true;
            if let Some(raw) = &mut record.raw {
                put(raw, SIZE_LO, &size.to_le_bytes());
                put(raw, SIZE_HIGH, &[0; 4]);
            }
        }
        self.link(name);
        put(self.raw(name.ino)?, LINKS, &1u16.to_le_bytes());
        Ok(())
    }

    /// Puts a name into its directory; false if it is there already or there is no such directory.
    fn link(&mut self, name: &Name) -> bool {
        let parent = self.live(name.parent).filter(|parent| parent.kind() == FileType::Dir);
        if parent.is_none() || self.target(name).is_some() {
            return false;
        }
        let inode = self.live(name.ino);
        let kind = inode.map_or(0, |inode| file_type(inode.kind()));
        let parent = self.records.inodes.entry(name.parent).or_default();
        parent.names.insert(name.name.clone(), Some((name.ino, kind)));
        true
    }

    /// `ext4_fc_replay_unlink`: the name goes if it names this inode; a link of the inode goes in any case.
    fn unlink(&mut self, name: Name) -> Result<()> {
        if self.live(name.ino).is_none() || self.live(name.parent).is_none() {
            return Ok(());
        }
        match self.target(&name) {
            None => return Ok(()),
            Some(ino) if ino == name.ino => {
                self.records.inodes.entry(name.parent).or_default().names.insert(name.name, None);
            }
            Some(_) => {}
        }
        self.add_links(name.ino, -1)
    }

    /// The inode that a name names now.
    fn target(&self, name: &Name) -> Option<u32> {
        let changed = self.records.inodes.get(&name.parent).and_then(|record| record.names.get(&name.name));
        match changed {
            Some(link) => link.map(|(ino, _)| ino),
            None if self.records.inodes.get(&name.parent).is_some_and(|record| record.made) => None,
            None => self.present.get(&(name.parent, name.name.clone())).copied(),
        }
    }

    /// Changes the link count. With its last link an inode loses its blocks, as the kernel deletes it then and there.
    fn add_links(&mut self, ino: u32, by: i16) -> Result<()> {
        let raw = self.raw(ino)?;
        let links = Bytes::new(raw, "inode").le16(LINKS, "i_links_count")?.saturating_add_signed(by);
        put(raw, LINKS, &links.to_le_bytes());
        if links == 0 {
            let mtime = Bytes::new(raw, "inode").le32(0x10, "i_mtime")?;
            put(raw, SIZE_LO, &[0; 4]);
            put(raw, SIZE_HIGH, &[0; 4]);
            put(raw, DTIME, &mtime.max(1).to_le_bytes());
            let record = self.record(ino)?;
            record.ranges.push(RangeEdit { start: 0, len: BLOCKS, to: None });
            record.names.clear();
            record.made = true;
        }
        Ok(())
    }
}

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = raw.get_mut(at..at.saturating_add(bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

/// The type in a directory entry (`EXT4_FT_*`).
fn file_type(kind: FileType) -> u8 {
    match kind {
        FileType::File => 1,
        FileType::Dir => 2,
        FileType::Char => 3,
        FileType::Block => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

/// The same edits without overlaps, in ascending order: of those for one block the last one holds.
fn settled(edits: &[RangeEdit]) -> Vec<RangeEdit> {
    let mut map: BTreeMap<u64, RangeEdit> = BTreeMap::new();
    let mut add = |edit: RangeEdit| {
        let end = edit.start.saturating_add(edit.len);
        let touched: Vec<RangeEdit> = map
            .range(..end)
            .rev()
            .map(|(_, old)| *old)
            .take_while(|old| old.start.saturating_add(old.len) > edit.start)
            .collect();
        for old in touched {
            map.remove(&old.start);
            let old_end = old.start.saturating_add(old.len);
            if old.start < edit.start {
                map.insert(old.start, RangeEdit { len: edit.start.saturating_sub(old.start), ..old });
            }
            if old_end > end {
                let skip = end.saturating_sub(old.start);
                let to = old.to.map(|(block, unwritten)| (block.saturating_add(skip), unwritten));
                map.insert(end, RangeEdit { start: end, len: old_end.saturating_sub(end), to });
            }
        }
        map.insert(edit.start, edit);
    };
    edits.iter().copied().for_each(&mut add);
    map.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_edits_for_one_block_the_last_one_holds() {
        let add = |start, len, block| RangeEdit { start, len, to: Some((block, false)) };
        let del = |start, len| RangeEdit { start, len, to: None };
        assert_eq!(
            settled(&[add(0, 10, 100), del(3, 2), add(4, 4, 500), add(20, 1, 7)]),
            [add(0, 3, 100), del(3, 1), add(4, 4, 500), add(8, 2, 108), add(20, 1, 7)]
        );
        assert_eq!(settled(&[add(5, 1, 9), add(9, 1, 9), del(0, 1 << 32)]), [del(0, 1 << 32)]);
    }
}
