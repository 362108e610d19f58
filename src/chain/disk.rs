//! One disk out of its layers: each offset belongs to the first layer that has it.

use std::sync::Arc;

use crate::block::cache::{Cache, Owner};
use crate::block::{BlockSource, Extent, Inputs, Origin, Run, Source, State, within};
use crate::error::{Error, Result};
use crate::image::{Here, Layer, Packed};

/// The disk that a chain of layers describes. Its size is the top layer's.
pub struct Disk {
    name: Arc<str>,
    size: u64,
    layers: Vec<Level>,
    cache: Arc<Cache>,
}

struct Level {
    layer: Arc<dyn Layer>,
    /// The owner of its unpacked clusters in the cache.
    owner: Owner,
}

/// What a disk has at an offset, and from which layer.
pub(super) struct Found<'a> {
    /// Bytes from the offset on; never 0.
    pub len: u64,
    /// The layer, 0 being the top.
    pub depth: usize,
    /// What it has there. [`Here::Below`] is a hole: no layer has it.
    pub here: Here<'a>,
}

/// Runs are followed this far by [`BlockSource::run_at`], so that its cost stays bounded.
const RUN_MAX: u64 = 64 << 20;

impl Disk {
    /// `layers` from the top to the base; at least one.
    pub fn new(name: impl Into<Arc<str>>, layers: Vec<Arc<dyn Layer>>, cache: &Arc<Cache>) -> Result<Self> {
        let name = name.into();
        let size =
            layers.first().ok_or_else(|| Error::corrupt(format!("{name}: a disk without layers")))?.size();
        let layers = layers.into_iter().map(|layer| Level { layer, owner: cache.owner() }).collect();
        Ok(Self { name, size, layers, cache: Arc::clone(cache) })
    }

    /// What is at `offset`, which is below the size. Looks no further than about `want` bytes.
    pub(super) fn find(&self, offset: u64, want: u64) -> Result<Found<'_>> {
        find(self.layers.iter().map(|level| &*level.layer), offset, self.size.saturating_sub(offset), want)
    }

    /// Bytes of a compressed cluster of the layer at `depth`: from `inside` it on, all of `buf`.
    fn unpacked(&self, depth: usize, packed: &Packed, inside: u64, buf: &mut [u8]) -> Result<()> {
        let Some(level) = self.layers.get(depth) else {
            return Err(Error::corrupt("no such layer"));
        };
        let end = self.size.min(packed.start.saturating_add(packed.unpacked));
        let lost = |error: Error| error.with_range(packed.start..end);
        if inside == 0 && buf.len() as u64 == packed.unpacked {
            return level.layer.unpack(packed, buf).map_err(lost);
        }
        let number = packed.start.checked_div(packed.unpacked).unwrap_or(0);
        let page = self.cache.page(level.owner, number, || {
            let mut page = vec![0; usize::try_from(packed.unpacked).unwrap_or(0)];
            level.layer.unpack(packed, &mut page).map_err(lost)?;
            Ok(page.into())
        })?;
        let from = usize::try_from(inside).unwrap_or(usize::MAX);
        let bytes = page.get(from..).and_then(|bytes| bytes.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or_else(|| Error::corrupt("a compressed cluster cut short"))?);
        Ok(())
    }
}

/// The first of `layers` that has `offset`. A layer that ends before it has nothing there: what lies past the end of
/// a short base reads as zeros.
pub(super) fn find<'a>(
    layers: impl Iterator<Item = &'a dyn Layer>,
    offset: u64,
    left: u64,
    want: u64,
) -> Result<Found<'a>> {
    let mut found = Found { len: left, depth: 0, here: Here::Below { kept: None } };
    for (depth, layer) in layers.enumerate() {
        if offset >= layer.size() {
            // The layers below it are seen through it, so they end here too.
            break;
        }
        let mapped = layer.map(offset, want.min(found.len))?;
        found.len = found.len.min(mapped.len);
        let below = matches!(mapped.here, Here::Below { .. });
        // A hole belongs to the layer that was asked last: QEMU counts so.
        found.depth = depth;
        found.here = mapped.here;
        if !below {
            break;
        }
    }
    Ok(found)
}

/// Bytes of one file that follow each other there as they do in the buffer: read at once.
struct Pending<'a> {
    source: &'a dyn BlockSource,
    from: u64,
    len: usize,
}

impl BlockSource for Disk {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let found = self.find(at, rest.len() as u64)?;
            let mut take = usize::try_from(found.len).unwrap_or(usize::MAX).min(rest.len());
            match found.here {
                Here::File { source, offset: from } => {
                    let mut pending = Pending { source, from, len: take };
                    self.extend(at, rest.len(), &mut pending)?;
                    take = pending.len;
                    let now = rest.get_mut(..take).unwrap_or_default();
                    source.read_at(from, now).map_err(|error| shift(error, from, at, take as u64))?;
                }
                Here::Packed(packed) => {
                    let now = rest.get_mut(..take).unwrap_or_default();
                    self.unpacked(found.depth, &packed, at.saturating_sub(packed.start), now)?;
                }
                Here::Zero { .. } | Here::Below { .. } => rest.get_mut(..take).unwrap_or_default().fill(0),
                Here::Lost(error) => {
                    return Err(error.with_range(at..at.saturating_add(found.len)));
                }
            }
            at = at.saturating_add(take as u64);
            rest = rest.get_mut(take..).unwrap_or_default();
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let found = self.find(offset, RUN_MAX)?;
        Ok(match found.here {
            Here::File { source, offset: there } => {
                let below = source.run_at(there)?;
                let origin = Origin::At { source, offset: there };
                Run { len: found.len.min(below.len), state: below.state, origin }
            }
            Here::Packed(packed) => {
                let file: &Source = self
                    .layers
                    .get(found.depth)
                    .map_or_else(|| Err(Error::corrupt("no such layer")), |level| Ok(level.layer.file()))?;
                let range = packed.offset..packed.offset.saturating_add(packed.len);
                let inputs = Inputs::One(Extent { source: &**file, range });
                Run { len: found.len, state: State::Data, origin: Origin::From { inputs, how: packed.how } }
            }
            Here::Zero { .. } => Run::own(found.len, State::Zero),
            Here::Below { .. } => Run::own(found.len, State::Hole),
            Here::Lost(_) => Run::own(found.len, State::Lost),
        })
    }
}

impl Disk {
    /// Makes `pending`, which starts at `at`, as long as the same file goes on with it, up to `max` bytes.
    fn extend<'a>(&'a self, at: u64, max: usize, pending: &mut Pending<'a>) -> Result<()> {
        while pending.len < max {
            let left = max.saturating_sub(pending.len);
            let found = self.find(at.saturating_add(pending.len as u64), left as u64)?;
            match found.here {
                Here::File { source, offset }
                    if std::ptr::addr_eq(source, pending.source)
                        && offset == pending.from.saturating_add(pending.len as u64) =>
                {
                    let more = usize::try_from(found.len).unwrap_or(usize::MAX).min(left);
                    pending.len = pending.len.saturating_add(more);
                }
                _ => break,
            }
        }
        Ok(())
    }
}

/// An error of the file below at `from`, in the disk's coordinates, where the read of `len` bytes began at `at`.
fn shift(error: Error, from: u64, at: u64, len: u64) -> Error {
    let end = at.saturating_add(len);
    let here = |x: u64| at.saturating_add(x.saturating_sub(from)).min(end);
    let range = error.range().map_or(at..end, |range| here(range.start)..here(range.end));
    error.with_range(range)
}
