//! Classic snapshots: the persistent exception store of dm-snapshot (`drivers/md/dm-snap-persistent.c`).

use std::sync::Arc;

use crate::block::{BlockSource, Locate, Origin, Run, Source, State, within};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::{Error, Result};

const MAGIC: u32 = 0x7041_6e53;
const SECTOR: u64 = 512;
/// Bytes of an entry: the chunk that was copied, and where to.
const ENTRY: u64 = 16;
/// Stretches of chunks that are kept; each takes 24 bytes.
const STRETCHES_MAX: usize = 1 << 20;
const CHUNK_MAX: u64 = 64 << 20;

/// The origin with what was copied before it changed.
pub(super) struct Snapshot {
    name: Arc<str>,
    origin: Source,
    store: Source,
    chunk: u64,
    /// Chunks of the origin that are in the store: first, place there, how many; in order of the first.
    stretches: Vec<(u64, u64, u64)>,
}

impl Snapshot {
    /// Reads the store's table. `store` is the cached way to it and serves the bytes as well.
    pub(super) fn new(name: Arc<str>, origin: Source, store: Source, effort: &Effort) -> Result<Self> {
        let mut raw = [0; 16];
        store.read_at(0, &mut raw)?;
        let header = Bytes::new(&raw, "snapshot header");
        if header.le32(0, "magic")? != MAGIC {
            return Err(
                Error::corrupt(format!("{name}: its exception store has no header")).found_at(&*store, 0)
            );
        }
        if header.le32(4, "valid")? == 0 {
            return Err(Error::corrupt(format!(
                "{name}: the snapshot was given up by the system that wrote it (its store was full)"
            )));
        }
        let version = header.le32(8, "version")?;
        if version != 1 {
            return Err(Error::unsupported(format!("{name}: exception store version {version}")));
        }
        let chunk = u64::from(header.le32(12, "chunk_size")?).saturating_mul(SECTOR);
        if !chunk.is_power_of_two() || chunk > CHUNK_MAX {
            return Err(Error::corrupt(format!("{name}: chunks of {chunk} bytes")));
        }
        let entries = entries(&store, chunk, effort)?;
        let stretches = stretches(&name, entries)?;
        Ok(Self { name, origin, store, chunk, stretches })
    }

    /// Where the byte at `offset` is, and how many bytes that holds for.
    fn find(&self, offset: u64) -> (Option<u64>, u64) {
        let chunk = offset.checked_div(self.chunk).unwrap_or(0);
        let next = self.stretches.partition_point(|(first, ..)| *first <= chunk);
        if let Some((first, place, count)) = next.checked_sub(1).and_then(|i| self.stretches.get(i)) {
            let inside = offset.saturating_sub(first.saturating_mul(self.chunk));
            let len = count.saturating_mul(self.chunk);
            if inside < len {
                return (
                    Some(place.saturating_mul(self.chunk).saturating_add(inside)),
                    len.saturating_sub(inside),
                );
            }
        }
        let end = self.stretches.get(next).map_or(u64::MAX, |(first, ..)| first.saturating_mul(self.chunk));
        (None, end.saturating_sub(offset).max(1))
    }
}

/// The entries of all areas, in the order they were made.
fn entries(store: &Source, chunk: u64, effort: &Effort) -> Result<Vec<(u64, u64)>> {
    let per_area = chunk.checked_div(ENTRY).unwrap_or(0);
    let mut out = Vec::new();
    let mut at = chunk;
    'areas: while at.saturating_add(chunk) <= store.len() {
        effort.check()?;
        let mut done = 0;
        let mut block = [0; 4096];
        while done < chunk {
            let len = usize::try_from(chunk.saturating_sub(done)).unwrap_or(usize::MAX).min(block.len());
            let Some(block) = block.get_mut(..len) else { break };
            store.read_at(at.saturating_add(done), block)?;
            for entry in block.as_chunks::<16>().0 {
                let (old, new) = entry.split_at_checked(8).unwrap_or_default();
                let long = |raw: &[u8]| u64::from_le_bytes(raw.try_into().unwrap_or_default());
                // Chunk 0 is the header: an entry that points there is the end.
                if long(new) == 0 {
                    break 'areas;
                }
                out.push((long(old), long(new)));
                if out.len() > STRETCHES_MAX {
                    return Err(Error::unsupported("a snapshot with more than a million changed chunks"));
                }
            }
            done = done.saturating_add(len as u64);
        }
        // Each area is followed by the chunks that it describes.
        at = at.saturating_add(per_area.saturating_add(1).saturating_mul(chunk));
    }
    Ok(out)
}

fn stretches(name: &str, mut entries: Vec<(u64, u64)>) -> Result<Vec<(u64, u64, u64)>> {
    entries.sort_unstable();
    let mut out: Vec<(u64, u64, u64)> = Vec::new();
    for (old, new) in entries {
        if let Some((first, place, count)) = out.last_mut() {
            let (next, there) = (first.saturating_add(*count), place.saturating_add(*count));
            if old < next {
                return Err(Error::corrupt(format!("{name}: its store holds chunk {old} twice")));
            }
            if (old, new) == (next, there) {
                *count = count.saturating_add(1);
                continue;
            }
        }
        out.push((old, new, 1));
    }
    Ok(out)
}

impl BlockSource for Snapshot {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.origin.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (place, len) = self.find(at);
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()).max(1);
            let (now, later) = rest.split_at_mut(take);
            match place {
                None => self.origin.read_at(at, now)?,
                Some(place) => {
                    let range = at..at.saturating_add(take as u64);
                    self.store.read_at(place, now).map_err(|error| error.with_range(range))?;
                }
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let (place, len) = self.find(offset);
        let len = len.min(self.len().saturating_sub(offset));
        let (source, at) = place.map_or((&*self.origin, offset), |place| (&*self.store, place));
        if at >= source.len() {
            return Ok(Run::own(len, State::Lost));
        }
        let below = source.run_at(at)?;
        Ok(Run { len: len.min(below.len), state: below.state, origin: Origin::At { source, offset: at } })
    }
}
