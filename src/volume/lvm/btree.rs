//! The B-trees of the kernel's persistent-data library (`drivers/md/persistent-data/dm-btree-internal.h`): 64-bit keys, values of
//! one size, in blocks of 4 KiB.

use crate::block::{Locate, Source};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

pub(super) const BLOCK: u64 = 4096;
const HEADER: usize = 32;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;
const CSUM_XOR: u32 = 121_107;
/// Levels of a tree at most: 2^64 keys need far fewer.
const DEPTH_MAX: u32 = 16;

/// The checksum of the library: CRC-32C without its last inversion, with a salt for each kind of block.
pub(super) fn checksum(block: &[u8], salt: u32) -> u32 {
    !crc32c::crc32c(block.get(4..).unwrap_or_default()) ^ salt
}

/// What a leaf has for a key.
pub(super) struct Found<const N: usize> {
    /// The value of the key itself.
    pub(super) value: Option<[u8; N]>,
    /// How many keys from it on have values that `step` accepts as its continuation; 1 at least where there is a value.
    pub(super) count: u64,
    /// Where there is no value: the next key that may have one.
    pub(super) next: u64,
}

/// Finds `key` in the tree at block `root`. `step(first, nth)` tells whether a following value continues the first one.
pub(super) fn find<const N: usize>(
    source: &Source,
    root: u64,
    key: u64,
    step: impl Fn(&[u8; N], &[u8; N], u64) -> bool,
) -> Result<Found<N>> {
    let mut raw = [0; 4096];
    let (mut block, mut bound) = (root, u64::MAX);
    for _ in 0..DEPTH_MAX {
        let node = Node::read(source, block, &mut raw)?;
        let at = node.upper(key)?;
        if at < node.entries {
            bound = bound.min(node.key(at)?);
        }
        if !node.leaf {
            let Some(at) = at.checked_sub(1) else { return Ok(Found { value: None, count: 0, next: bound }) };
            block = u64::from_le_bytes(node.value(at)?);
            continue;
        }
        let Some(at) = at.checked_sub(1).filter(|at| node.key(*at).is_ok_and(|k| k == key)) else {
            return Ok(Found { value: None, count: 0, next: bound });
        };
        let value: [u8; N] = node.value(at)?;
        let mut count = 1u64;
        for i in at.saturating_add(1)..node.entries {
            if node.key(i)? != key.saturating_add(count) || !step(&value, &node.value(i)?, count) {
                break;
            }
            count = count.saturating_add(1);
        }
        return Ok(Found { value: Some(value), count, next: key.saturating_add(count) });
    }
    Err(Error::corrupt(format!("{}: a B-tree deeper than {DEPTH_MAX} levels", source.name())))
}

struct Node<'a> {
    bytes: Bytes<'a>,
    leaf: bool,
    entries: usize,
    values: usize,
    size: usize,
}

impl<'a> Node<'a> {
    fn read(source: &Source, block: u64, raw: &'a mut [u8; 4096]) -> Result<Self> {
        let offset =
            block.checked_mul(BLOCK).ok_or_else(|| Error::corrupt("a B-tree node beyond all blocks"))?;
        source.read_at(offset, raw)?;
        Self::parse(block, raw).found_at(&**source, offset)
    }

    fn parse(block: u64, raw: &'a [u8; 4096]) -> Result<Self> {
        let bytes = Bytes::new(raw, "B-tree node");
        let wrong = |what: &str| Err(Error::corrupt(format!("B-tree node {block}: {what}")));
        // A node read in another one's place would give another volume's data.
        if bytes.le32(0, "csum")? != checksum(raw, CSUM_XOR) {
            return wrong("its checksum is wrong");
        }
        if bytes.le64(8, "blocknr")? != block {
            return wrong("it says that it belongs elsewhere");
        }
        let leaf = match bytes.le32(4, "flags")? {
            LEAF => true,
            INTERNAL => false,
            _ => return wrong("neither leaf nor internal"),
        };
        let word = |at, field| -> Result<usize> {
            Ok(usize::try_from(bytes.le32(at, field)?).unwrap_or(usize::MAX))
        };
        let (entries, max, size) =
            (word(16, "nr_entries")?, word(20, "max_entries")?, word(24, "value_size")?);
        let room = max.checked_mul(size.saturating_add(8)).and_then(|n| n.checked_add(HEADER));
        if entries > max || room.is_none_or(|end| end > raw.len()) {
            return wrong("more entries than it has room for");
        }
        let values = max.saturating_mul(8).saturating_add(HEADER);
        Ok(Self { bytes, leaf, entries, values, size })
    }

    fn key(&self, at: usize) -> Result<u64> {
        self.bytes.le64(at.saturating_mul(8).saturating_add(HEADER), "key")
    }

    fn value<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        if self.size < N {
            return Err(Error::corrupt(format!("B-tree node: values of {} bytes", self.size)));
        }
        self.bytes.array(at.saturating_mul(self.size).saturating_add(self.values), "value")
    }

    /// The first entry whose key is greater than `key`.
    fn upper(&self, key: u64) -> Result<usize> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.saturating_add(high.saturating_sub(low) >> 1);
            if self.key(middle)? <= key {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
