//! The L1 and L2 tables: from an offset of the disk to an entry, and what an entry says.

use std::sync::Arc;

use super::header::Header;
use crate::block::cache::{Cache, Owner, PAGE};
use crate::block::{Locate, Source, within};
use crate::error::Result;

/// Bits 9 to 55 of an entry: an offset in the file.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Bit 62 of an L2 entry: a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;

/// Bit 63 of an entry: the cluster's refcount is exactly one.
pub const COPIED: u64 = 1 << 63;

/// Bit 0 of an L2 entry: the cluster reads as zeros. Not with extended L2 entries, whose bitmap says it.
const ZERO: u64 = 1;

/// An L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1 {
    /// Where it starts in the file.
    pub offset: u64,
    /// How many entries of 8 bytes it has.
    pub entries: u64,
}

/// The file's bytes by pages, through the stack's cache.
#[derive(Clone)]
pub struct Pages {
    file: Source,
    cache: Arc<Cache>,
    owner: Owner,
}

impl Pages {
    /// The pages of `file`.
    pub fn new(file: Source, cache: &Arc<Cache>) -> Self {
        Self { file, owner: cache.owner(), cache: Arc::clone(cache) }
    }

    /// The page that holds `offset`, and where in it `offset` is. At least `need` bytes are there.
    fn at(&self, offset: u64, need: u64) -> Result<(Arc<[u8]>, usize)> {
        within(&*self.file, offset, need)?;
        let number = offset.checked_div(PAGE).unwrap_or(0);
        let start = number.saturating_mul(PAGE);
        let len = usize::try_from(PAGE.min(self.file.len().saturating_sub(start))).unwrap_or(0);
        let page = self.cache.page(self.owner, number, || {
            let mut page = vec![0; len];
            self.file.read_at(start, &mut page)?;
            Ok(page.into())
        })?;
        Ok((page, usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)))
    }

    /// As many entries of `width` bytes of the table `offset..end` as one page holds; at least one.
    pub fn slice(&self, offset: u64, end: u64, width: u64) -> Result<Slice> {
        let (page, from) = self.at(offset, width).found_at(&*self.file, offset)?;
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let to = from.saturating_add(len).min(page.len());
        Ok(Slice { page, from, to })
    }
}

/// Some entries of a table.
pub struct Slice {
    page: Arc<[u8]>,
    from: usize,
    to: usize,
}

impl Slice {
    /// The 64-bit word `index` from the first entry on, if the slice has it.
    pub fn word(&self, index: usize) -> Option<u64> {
        let at = self.from.checked_add(index.checked_mul(8)?)?;
        let bytes = self.page.get(at..at.checked_add(8)?.min(self.to))?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// What an L2 entry says of one cluster or subcluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Data in the file that holds clusters, at this offset.
    Normal(u64),
    /// Zeros; with the offset of the cluster that is kept for them.
    Zero(Option<u64>),
    /// Not here; with the offset of the cluster that holds its neighbours.
    Unallocated(Option<u64>),
    /// A compressed cluster; the entry itself.
    Compressed(u64),
    /// It breaks the rules; why.
    Invalid(&'static str),
}

impl Entry {
    /// Whether `next`, `distance` bytes further on, goes on with what `self` starts.
    pub fn goes_on(self, next: Self, distance: u64) -> bool {
        let kept = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => a.checked_add(distance) == Some(b),
            _ => false,
        };
        match (self, next) {
            (Self::Normal(a), Self::Normal(b)) => kept(Some(a), Some(b)),
            (Self::Zero(a), Self::Zero(b)) | (Self::Unallocated(a), Self::Unallocated(b)) => kept(a, b),
            _ => false,
        }
    }
}

/// Decodes the L2 entry of a cluster of 8 bytes. `start` is where in the disk the cluster starts.
pub fn standard(header: &Header, entry: u64, start: u64) -> Entry {
    if entry & COMPRESSED != 0 {
        return compressed(header, entry);
    }
    let host = entry & OFFSET_MASK;
    if host & header.cluster_size().wrapping_sub(1) != 0 {
        return Entry::Invalid("the cluster's offset is not a multiple of the cluster size");
    }
    if entry & ZERO != 0 {
        if header.version < 3 {
            return Entry::Invalid("a zero cluster, which version 2 does not have");
        }
        return Entry::Zero((host != 0).then_some(host));
    }
    normal(header, entry, host, start)
}

fn compressed(header: &Header, entry: u64) -> Entry {
    if header.refers.data_file.is_some() {
        return Entry::Invalid("a compressed cluster beside an external data file");
    }
    Entry::Compressed(entry)
}

fn normal(header: &Header, entry: u64, host: u64, start: u64) -> Entry {
    let external = header.refers.data_file.is_some();
    // Offset 0 is the header's own; in an external data file it is the first cluster, and then the copied bit is set.
    if host == 0 && !(external && entry & COPIED != 0) {
        return Entry::Unallocated(None);
    }
    if external && host != start {
        return Entry::Invalid("a cluster of an external data file lies at another offset than in the disk");
    }
    Entry::Normal(host)
}

/// Decodes an extended L2 entry for subcluster `sub` (0 to 31). `start` is where in the disk the cluster starts.
pub fn extended(header: &Header, entry: u64, bitmap: u64, sub: u32, start: u64) -> Entry {
    if entry & COMPRESSED != 0 {
        return compressed(header, entry);
    }
    let host = entry & OFFSET_MASK;
    if host & header.cluster_size().wrapping_sub(1) != 0 {
        return Entry::Invalid("the cluster's offset is not a multiple of the cluster size");
    }
    let allocated = bitmap & (1u64 << (sub & 31)) != 0;
    let zero = (bitmap >> 32) & (1u64 << (sub & 31)) != 0;
    let inside = (header.cluster_size() >> 5).saturating_mul(u64::from(sub));
    let here = host.saturating_add(inside);
    match normal(header, entry, host, start) {
        Entry::Normal(_) if (bitmap >> 32) & bitmap & 0xffff_ffff != 0 => {
            Entry::Invalid("a subcluster that is both data and zeros")
        }
        Entry::Normal(_) if zero => Entry::Zero(Some(here)),
        Entry::Normal(_) if allocated => Entry::Normal(here),
        Entry::Normal(_) => Entry::Unallocated(Some(here)),
        Entry::Unallocated(_) if bitmap & 0xffff_ffff != 0 => {
            Entry::Invalid("a subcluster with data in a cluster without a place")
        }
        Entry::Unallocated(_) if zero => Entry::Zero(None),
        other => other,
    }
}
