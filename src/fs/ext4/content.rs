//! A file's content as a source.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;
use super::inode::Inode;
use super::map::{Extent, What, Window, find, push, window};
use crate::block::{BlockSource, Run, State, within};
use crate::error::{Error, Result};

/// A map that takes no more than this many leaves and extents is read once, when the file is opened.
const LEAVES_MAX: usize = 16;
const EXTENTS_MAX: usize = 2048;
/// Leaves of a larger map that are kept.
const KEPT: usize = 4;

/// The blocks of an inode, one after another.
pub(super) struct Content {
    disk: Arc<Disk>,
    name: Arc<str>,
    inode: Inode,
    len: u64,
    map: Map,
}

/// How the map is held: whole, or its last leaves.
enum Map {
    Whole(Vec<Extent>),
    Leaves(Mutex<Leaves>),
}

#[derive(Default)]
struct Leaves {
    kept: [Option<Arc<Window>>; KEPT],
    next: usize,
}

/// A stretch of a file of one kind, in its blocks.
struct Piece {
    range: Range<u64>,
    what: Option<What>,
}

impl Content {
    /// The first `len` bytes of the blocks of `inode`.
    pub(super) fn new(disk: Arc<Disk>, inode: Inode, len: u64) -> Result<Self> {
        let name: Arc<str> = format!("inode {}", inode.ino).into();
        let blocks = len.div_ceil(disk.sb.block_size.into());
        let map = match whole(&disk, &inode, blocks)? {
            Some(extents) => Map::Whole(extents),
            None => Map::Leaves(Mutex::default()),
        };
        Ok(Self { disk, name, inode, len, map })
    }

    /// What holds block `block`, and how far that goes.
    fn piece(&self, block: u64) -> Piece {
        match &self.map {
            Map::Whole(extents) => piece(extents, block, &(0..u64::MAX)),
            Map::Leaves(leaves) => {
                let window = self.leaf(leaves, block);
                piece(&window.extents, block, &window.range)
            }
        }
    }

    fn leaf(&self, leaves: &Mutex<Leaves>, block: u64) -> Arc<Window> {
        let lock = || leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().kept.iter().flatten().find(|w| w.range.contains(&block)).cloned();
        if let Some(window) = kept {
            return window;
        }
        let fresh = Arc::new(window(&self.disk, &self.inode, block, &mut |_, _| {}));
        let mut leaves = lock();
        let next = leaves.next;
        if let Some(slot) = leaves.kept.get_mut(next) {
            *slot = Some(Arc::clone(&fresh));
        }
        leaves.next = next.saturating_add(1).checked_rem(KEPT).unwrap_or(0);
        fresh
    }

    /// The piece at byte `offset`: how many bytes of it are left there, what it is, and where its bytes lie on the volume.
    fn at(&self, offset: u64) -> (u64, Option<What>, u64) {
        let size = u64::from(self.disk.sb.block_size);
        let block = offset.checked_div(size).unwrap_or(0);
        let piece = self.piece(block);
        let end = piece.range.end.saturating_mul(size).min(self.len);
        let inside = offset.saturating_sub(piece.range.start.saturating_mul(size));
        let there = match &piece.what {
            Some(What::At(start)) => self.disk.sb.offset(*start).saturating_add(inside),
            _ => 0,
        };
        (end.saturating_sub(offset).max(1), piece.what, there)
    }

    /// The stretch that holds block `block`: its blocks of the file and what is there, `None` for a hole.
    pub(super) fn block_at(&self, block: u64) -> (Range<u64>, Option<What>) {
        let piece = self.piece(block);
        (piece.range, piece.what)
    }
}

fn piece(extents: &[Extent], block: u64, range: &Range<u64>) -> Piece {
    match find(extents, block, range) {
        Ok(extent) => Piece { range: extent.start..extent.end(), what: Some(extent.what.clone()) },
        Err(range) => Piece { range, what: None },
    }
}

/// The whole map of the first `blocks` blocks, unless it is too large to be kept.
fn whole(disk: &Disk, inode: &Inode, blocks: u64) -> Result<Option<Vec<Extent>>> {
    let mut extents = Vec::new();
    let mut at = 0;
    for _ in 0..LEAVES_MAX {
        disk.effort.check()?;
        let window = window(disk, inode, at, &mut |_, _| {});
        at = window.range.end;
        if extents.is_empty() {
            extents = window.extents;
        } else {
            window.extents.into_iter().for_each(|extent| push(&mut extents, extent));
        }
        if at >= blocks {
            return Ok(Some(extents));
        }
        if extents.len() > EXTENTS_MAX {
            break;
        }
    }
    Ok(None)
}

impl BlockSource for Content {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (len, what, there) = self.at(at);
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            let end = at.saturating_add(take as u64);
            match what {
                None | Some(What::Unwritten(_)) => now.fill(0),
                Some(What::Lost(why)) => {
                    return Err(Error::corrupt(&*why).with_range(at..at.saturating_add(len)));
                }
                Some(What::At(_)) => self.disk.raw.read_at(there, now).map_err(|error| {
                    let here = |x: u64| at.saturating_add(x.saturating_sub(there)).min(self.len);
                    let range = error.range().map_or(at..end, |r| here(r.start)..here(r.end));
                    error.with_range(range)
                })?,
            }
            at = end;
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let (len, what, there) = self.at(offset);
        Ok(match what {
            None => Run::own(len, State::Hole),
            Some(What::Unwritten(_)) => Run::own(len, State::Zero),
            Some(What::Lost(_)) => Run::own(len, State::Lost),
            Some(What::At(_)) if there >= self.disk.raw.len() => Run::own(len, State::Lost),
            Some(What::At(_)) => {
                let len = len.min(self.disk.raw.len().saturating_sub(there));
                Run::at(len, &*self.disk.raw, there)
            }
        })
    }
}

/// The first `len` bytes of the blocks of `inode`, at once. `len` is one that the caller has bounded.
pub(super) fn read(disk: &Disk, inode: &Inode, len: usize) -> Result<Vec<u8>> {
    let size = u64::from(disk.sb.block_size);
    let mut out = Vec::with_capacity(len.min(1 << 20));
    while out.len() < len {
        let at = out.len() as u64;
        let block = at.checked_div(size).unwrap_or(0);
        let window = window(disk, inode, block, &mut |_, _| {});
        let Ok(extent) = find(&window.extents, block, &window.range) else {
            return Err(Error::corrupt(format!("ext4 inode {}: no block at {at:#x}", inode.ino)));
        };
        let What::At(start) = &extent.what else {
            return Err(Error::corrupt(format!("ext4 inode {}: no data at {at:#x}", inode.ino)));
        };
        let there = disk.sb.offset(start.saturating_add(block.saturating_sub(extent.start)));
        let have = extent.end().saturating_sub(block).saturating_mul(size);
        let take = usize::try_from(have).unwrap_or(usize::MAX).min(len.saturating_sub(out.len()));
        out.extend(crate::block::read_vec(&*disk.raw, there, take)?);
    }
    Ok(out)
}
