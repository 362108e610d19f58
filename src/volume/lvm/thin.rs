//! Thin pools (`drivers/md/dm-thin-metadata.c`): each thin volume maps its blocks through a B-tree in the pool's metadata; snapshots share
//! blocks.

use std::sync::Arc;

use super::btree;
use crate::block::{BlockSource, Locate, Origin, Run, Source, State, within};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

const MAGIC: u64 = 27_022_010;
const CSUM_XOR: u32 = 160_774;
const SECTOR: u64 = 512;
const NEEDS_CHECK: u32 = 1;

/// A pool: its metadata and its data.
pub(super) struct Pool {
    metadata: Source,
    data: Source,
    /// Bytes in a block of data.
    block: u64,
    mappings: u64,
    /// The pool's own count of its changes.
    pub(super) transaction: u64,
    /// What is odd, a sentence each.
    pub(super) problems: Vec<String>,
}

impl Pool {
    /// `metadata` is the cached way to the pool's metadata volume.
    pub(super) fn new(metadata: Source, data: Source) -> Result<Self> {
        let mut raw = [0; 4096];
        metadata.read_at(0, &mut raw)?;
        let sb = Bytes::new(&raw, "thin pool superblock");
        let corrupt = |what: String| Error::corrupt(what).found_at(&*metadata, 0);
        if sb.le64(32, "magic")? != MAGIC {
            return Err(corrupt(format!("{}: no thin pool superblock", metadata.name())));
        }
        let mut problems = Vec::new();
        if sb.le32(0, "csum")? != btree::checksum(&raw, CSUM_XOR) {
            problems.push("thin pool superblock: its checksum is wrong".to_owned());
        }
        if sb.le32(4, "flags")? & NEEDS_CHECK != 0 {
            problems.push("the thin pool asks for a check (thin_check)".to_owned());
        }
        let version = sb.le32(40, "version")?;
        if !matches!(version, 1 | 2) {
            return Err(Error::unsupported(format!("{}: thin pool version {version}", metadata.name())));
        }
        let block = u64::from(sb.le32(336, "data_block_size")?).saturating_mul(SECTOR);
        if block == 0 {
            return Err(corrupt(format!("{}: data blocks of no size", metadata.name())));
        }
        Ok(Self {
            block,
            mappings: sb.le64(320, "data_mapping_root")?,
            transaction: sb.le64(48, "trans_id")?,
            problems,
            metadata,
            data,
        })
    }

    /// The root of the mappings of the thin volume numbered `id`.
    pub(super) fn device(&self, id: u64) -> Result<u64> {
        let found = btree::find::<8>(&self.metadata, self.mappings, id, |_, _, _| false)?;
        found.value.map(u64::from_le_bytes).ok_or_else(|| {
            Error::corrupt(format!("{}: the thin pool knows no device {id}", self.metadata.name()))
        })
    }
}

/// A thin volume.
pub(super) struct Thin {
    name: Arc<str>,
    len: u64,
    pool: Arc<Pool>,
    root: u64,
    /// What unmapped blocks show: a volume outside the pool that this one was made from.
    external: Option<Source>,
}

/// A stretch of a thin volume: where in the pool's data, or nowhere.
enum Spot {
    Data(u64),
    Nowhere,
}

impl Thin {
    pub(super) fn new(
        name: Arc<str>,
        len: u64,
        pool: Arc<Pool>,
        root: u64,
        external: Option<Source>,
    ) -> Self {
        Self { name, len, pool, root, external }
    }

    /// Where the byte at `offset` is, and how many bytes that holds for.
    fn find(&self, offset: u64) -> Result<(Spot, u64)> {
        let size = self.pool.block;
        let block = offset.checked_div(size).unwrap_or(0);
        let inside = offset.saturating_sub(block.saturating_mul(size));
        let left = self.len.saturating_sub(offset);
        // A value is the data block's number above 24 bits of time.
        let number = |raw: &[u8; 8]| u64::from_le_bytes(*raw) >> 24;
        let found = btree::find::<8>(&self.pool.metadata, self.root, block, |first, value, nth| {
            number(value) == number(first).saturating_add(nth)
        })?;
        let Some(value) = found.value else {
            let end = found.next.saturating_mul(size);
            return Ok((Spot::Nowhere, end.saturating_sub(offset).clamp(1, left.max(1))));
        };
        let at = number(&value).checked_mul(size).and_then(|at| at.checked_add(inside));
        let at = at.ok_or_else(|| Error::corrupt(format!("{}: a block beyond all data", self.name)))?;
        Ok((Spot::Data(at), found.count.saturating_mul(size).saturating_sub(inside).min(left)))
    }
}

impl BlockSource for Thin {
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
            let whole = at..at.saturating_add(rest.len() as u64);
            let (spot, len) = self.find(at).map_err(|error| error.context(&self.name).with_range(whole))?;
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()).max(1);
            let (now, later) = rest.split_at_mut(take);
            let range = at..at.saturating_add(take as u64);
            match (spot, &self.external) {
                (Spot::Data(place), _) => {
                    self.pool.data.read_at(place, now).map_err(|error| error.with_range(range))?;
                }
                (Spot::Nowhere, Some(origin)) => {
                    let have =
                        usize::try_from(origin.len().saturating_sub(at)).unwrap_or(usize::MAX).min(take);
                    let (from, zeros) = now.split_at_mut(have);
                    origin.read_at(at.min(origin.len()), from)?;
                    zeros.fill(0);
                }
                (Spot::Nowhere, None) => now.fill(0),
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let Ok((spot, len)) = self.find(offset) else {
            // The block of the tree that would tell is not readable: this much at least is lost.
            let block = self.pool.block;
            let inside = offset.checked_rem(block).unwrap_or(0);
            let len = block.saturating_sub(inside).min(self.len.saturating_sub(offset));
            return Ok(Run::own(len, State::Lost));
        };
        let (source, at): (&dyn BlockSource, u64) = match (spot, &self.external) {
            (Spot::Data(at), _) => (&*self.pool.data, at),
            (Spot::Nowhere, Some(origin)) if offset < origin.len() => (&**origin, offset),
            (Spot::Nowhere, _) => return Ok(Run::own(len, State::Hole)),
        };
        if at >= source.len() {
            return Ok(Run::own(len, State::Lost));
        }
        let below = source.run_at(at)?;
        Ok(Run { len: len.min(below.len), state: below.state, origin: Origin::At { source, offset: at } })
    }
}
