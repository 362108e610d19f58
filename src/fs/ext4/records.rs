//! What fast commits change, kept as records: the log is logical there, so no block of the volume stands for it.

use std::collections::BTreeMap;

/// Names of a directory: each that was linked (inode and the type as a directory entry stores it) or unlinked.
pub(super) type Names = BTreeMap<Vec<u8>, Option<(u32, u8)>>;

/// A change of a file's block map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RangeEdit {
    /// The first logical block.
    pub(super) start: u64,
    /// How many blocks.
    pub(super) len: u64,
    /// The first physical block and whether the range is unwritten; `None` for a range that was taken out.
    pub(super) to: Option<(u64, bool)>,
}

/// What the log says of one inode.
#[derive(Clone, Debug, Default)]
pub(super) struct InodeRecord {
    /// The raw inode, `s_inode_size` bytes, when the log has it.
    pub(super) raw: Option<Vec<u8>>,
    /// Changes of its block map, in the order of the log.
    pub(super) ranges: Vec<RangeEdit>,
    /// For a directory: each name that was linked (inode and the type as a directory entry stores it) or unlinked.
    pub(super) names: Names,
    /// For a directory: the log made it, and what its blocks hold is none of its names.
    pub(super) made: bool,
}

/// All records of the log, by inode.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// By inode number.
    pub(super) inodes: BTreeMap<u32, InodeRecord>,
}

impl Records {
    /// The raw inode, when the log has it.
    pub(super) fn inode(&self, ino: u32) -> Option<&[u8]> {
        self.inodes.get(&ino)?.raw.as_deref()
    }

    /// Whether directory `ino` has no names but those of its record.
    pub(super) fn made(&self, ino: u32) -> bool {
        self.inodes.get(&ino).is_some_and(|record| record.made)
    }

    /// Changes of the block map of `ino`.
    pub(super) fn ranges(&self, ino: u32) -> &[RangeEdit] {
        self.inodes.get(&ino).map_or(&[], |record| &record.ranges)
    }

    /// Names that were linked or unlinked in directory `ino`.
    pub(super) fn names(&self, ino: u32) -> Option<&Names> {
        self.inodes.get(&ino).map(|record| &record.names).filter(|names| !names.is_empty())
    }
}
