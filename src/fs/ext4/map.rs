//! From a file's blocks to the volume's: what extent trees and indirect blocks have in common.

use std::ops::Range;
use std::sync::Arc;

use super::disk::Disk;
use super::inode::Inode;
use super::records::RangeEdit;
use super::{extents, flags, indirect};

/// A stretch of a file, in its own blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first block of the file.
    pub(super) start: u64,
    /// How many blocks; never 0.
    pub(super) len: u64,
    /// What is there.
    pub(super) what: What,
}

/// What a stretch of a file is. Where there is no extent at all, there is a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Blocks of the volume, from this one on.
    At(u64),
    /// Blocks of the volume that were allocated and never written: zeros.
    Unwritten(u64),
    /// The map cannot be read, and why.
    Lost(Arc<str>),
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The part of it in `range`, if any.
    pub(super) fn clip(&self, range: &Range<u64>) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end().min(range.end));
        let skip = start.saturating_sub(self.start);
        let what = match &self.what {
            What::At(block) => What::At(block.saturating_add(skip)),
            What::Unwritten(block) => What::Unwritten(block.saturating_add(skip)),
            What::Lost(why) => What::Lost(Arc::clone(why)),
        };
        (start < end).then(|| Self { start, len: end.saturating_sub(start), what })
    }

    /// Whether `next` goes on where this one ends, here and on the volume.
    fn joins(&self, next: &Self) -> bool {
        self.end() == next.start
            && match (&self.what, &next.what) {
                (What::At(a), What::At(b)) | (What::Unwritten(a), What::Unwritten(b)) => {
                    a.saturating_add(self.len) == *b
                }
                _ => false,
            }
    }
}

/// Appends an extent, as a part of the last one where it goes on from there.
pub(super) fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.joins(&next) => last.len = last.len.saturating_add(next.len),
        _ => extents.push(next),
    }
}

/// All that is known of one range of a file from one leaf of its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The blocks of the file that it speaks for; never empty.
    pub(super) range: Range<u64>,
    /// In ascending order, without overlap, within `range`; a hole between them.
    pub(super) extents: Vec<Extent>,
}

impl Window {
    /// A range without any blocks.
    pub(super) fn hole(range: Range<u64>) -> Self {
        Self { range, extents: Vec::new() }
    }

    /// A range whose part of the map cannot be read.
    pub(super) fn lost(range: Range<u64>, why: impl Into<Arc<str>>) -> Self {
        let len = range.end.saturating_sub(range.start);
        let extents = vec![Extent { start: range.start, len, what: What::Lost(why.into()) }];
        Self { range, extents }
    }

    /// Applies what a fast commit changed, in order.
    fn edit(&mut self, edits: &[RangeEdit]) {
        for edit in edits {
            let end = edit.start.saturating_add(edit.len);
            if end <= self.range.start || edit.start >= self.range.end {
                continue;
            }
            let (before, after) = (self.range.start..edit.start, end..self.range.end);
            let kept = |range: &Range<u64>| -> Vec<Extent> {
                self.extents.iter().filter_map(|e| e.clip(range)).collect()
            };
            let mut extents = kept(&before);
            if let Some((block, unwritten)) = edit.to {
                let what = if unwritten { What::Unwritten(block) } else { What::At(block) };
                let extent = Extent { start: edit.start, len: edit.len, what };
                extents.extend(extent.clip(&self.range));
            }
            extents.extend(kept(&after));
            self.extents = extents;
        }
    }
}

/// A callback for each block of the map on the way: its level below the inode, and its number on the volume.
pub(super) type Seen<'a> = &'a mut dyn FnMut(usize, u64);

/// What the map of `inode` says around block `block` of the file. What of the map is damaged is Lost in the window.
pub(super) fn window(disk: &Disk, inode: &Inode, block: u64, seen: Seen<'_>) -> Window {
    let mut window = if inode.has(flags::EXTENTS) {
        extents::window(disk, inode, block, seen)
    } else {
        indirect::window(disk, inode, block, seen)
    };
    let edits = disk.records.ranges(inode.ino);
    if !edits.is_empty() {
        window.edit(edits);
    }
    window
}

/// The extent of `extents` that holds `block`, or the hole around it within `range`.
pub(super) fn find<'a>(
    extents: &'a [Extent],
    block: u64,
    range: &Range<u64>,
) -> Result<&'a Extent, Range<u64>> {
    let next = extents.partition_point(|e| e.start <= block);
    let before = next.checked_sub(1).and_then(|i| extents.get(i));
    match before {
        Some(extent) if block < extent.end() => Ok(extent),
        _ => {
            let start = before.map_or(range.start, Extent::end);
            Err(start..extents.get(next).map_or(range.end, |e| e.start))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, len: u64, block: u64) -> Extent {
        Extent { start, len, what: What::At(block) }
    }

    #[test]
    fn what_goes_on_is_one_extent() {
        let mut extents = Vec::new();
        for next in [at(0, 2, 100), at(2, 3, 102), at(5, 1, 200), at(7, 1, 202)] {
            push(&mut extents, next);
        }
        assert_eq!(extents, [at(0, 5, 100), at(5, 1, 200), at(7, 1, 202)]);
        assert_eq!(find(&extents, 4, &(0..10)), Ok(&at(0, 5, 100)));
        assert_eq!(find(&extents, 6, &(0..10)), Err(6..7));
        assert_eq!(find(&extents, 9, &(0..10)), Err(8..10));
    }

    #[test]
    fn edits_cut_and_put_in_order() {
        let mut window = Window { range: 0..10, extents: vec![at(0, 10, 100)] };
        window.edit(&[
            RangeEdit { start: 2, len: 2, to: None },
            RangeEdit { start: 3, len: 2, to: Some((500, false)) },
            RangeEdit { start: 9, len: 5, to: Some((600, true)) },
        ]);
        let tail = Extent { start: 9, len: 1, what: What::Unwritten(600) };
        assert_eq!(window.extents, [at(0, 2, 100), at(3, 2, 500), at(5, 4, 105), tail]);
    }
}
