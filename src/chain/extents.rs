//! The map of a chain, extent by extent, as `qemu-img map --output=json` gives it; and what each layer holds.

use super::disk::find;
use super::{Chain, Link};
use crate::block::{BlockSource, State};
use crate::effort::{Effort, Fuel};
use crate::error::Result;
use crate::image::{Here, Layer};

/// A stretch of the disk that comes from one layer in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// Where it starts in the disk.
    pub start: u64,
    /// Its length in bytes; never 0.
    pub length: u64,
    /// The layer, 0 being the top. A hole counts for the lowest layer that was asked.
    pub depth: usize,
    /// Some layer has it, if only as zeros.
    pub present: bool,
    /// It has data of its own.
    pub data: bool,
    /// It reads as zeros, as far as the tables and the host's holes say.
    pub zero: bool,
    /// It is compressed.
    pub compressed: bool,
    /// It cannot be read: a damaged table, or data past the end of the file.
    pub lost: bool,
    /// Where it starts in the layer's file (or that one's external data file), where it lies there as it is.
    pub offset: Option<u64>,
}

impl DiskExtent {
    /// Whether `next` goes on with what `self` starts.
    fn goes_on(&self, next: &Self) -> bool {
        let rest = |e: &Self| (e.depth, e.present, e.data, e.zero, e.compressed, e.lost);
        let follows = match (self.offset, next.offset) {
            (None, None) => true,
            (Some(a), Some(b)) => a.checked_add(self.length) == Some(b),
            _ => false,
        };
        rest(self) == rest(next) && follows
    }
}

/// How many bytes of its disk a layer holds in which way. They add up to its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Data as they are.
    pub data: u64,
    /// Zeros that it holds as such.
    pub zero: u64,
    /// Unpacked size of its compressed clusters.
    pub compressed: u64,
    /// What it leaves to the layer below; the host file's holes, of a raw image.
    pub unallocated: u64,
    /// What cannot be read.
    pub lost: u64,
}

impl Link {
    /// How many bytes of its disk this layer holds in which way.
    pub fn held(&self, effort: &Effort) -> Result<Held> {
        let (mut held, mut at) = (Held::default(), 0);
        let mut fuel = Fuel::new("image tables", self.steps());
        while at < self.layer.size() {
            effort.check()?;
            fuel.burn(1)?;
            let mapped = self.layer.map(at, u64::MAX)?;
            let mut len = mapped.len;
            let sum = match mapped.here {
                Here::File { source, offset } => {
                    let (hole, run) = hole(source, offset, self.qcow2.is_none())?;
                    len = len.min(run);
                    if hole { &mut held.unallocated } else { &mut held.data }
                }
                Here::Packed(_) => &mut held.compressed,
                Here::Zero { .. } => &mut held.zero,
                Here::Below { .. } => &mut held.unallocated,
                Here::Lost(_) => &mut held.lost,
            };
            *sum = sum.saturating_add(len);
            at = at.saturating_add(len);
        }
        Ok(held)
    }

    /// Steps enough for every entry of sound tables, which share nothing.
    fn steps(&self) -> u64 {
        let entries = self.files().map(|file| file.file.len() >> 3).fold(0, u64::saturating_add);
        let l1 = self.header().map_or(0, |header| u64::from(header.l1_entries));
        entries.saturating_mul(4).saturating_add(l1).saturating_add(4096)
    }
}

/// Whether a host file has a hole at `offset`, where `asked`, and how long that holds.
fn hole(source: &dyn BlockSource, offset: u64, asked: bool) -> Result<(bool, u64)> {
    if !asked {
        return Ok((false, u64::MAX));
    }
    let run = source.run_at(offset)?;
    Ok((run.state == State::Hole, run.len))
}

impl Chain {
    /// Every extent of the disk in order, neighbours that go on with each other joined, until `visit` fails.
    pub fn extents(&self, effort: &Effort, visit: &mut dyn FnMut(&DiskExtent) -> Result<()>) -> Result<()> {
        let size = self.links.first().map_or(0, Link::virtual_size);
        // One layer's extents are cut at the others' boundaries, so the steps of all count together.
        let steps = self.links.iter().map(Link::steps).fold(0, u64::saturating_add);
        let mut fuel = Fuel::new("image tables", steps);
        let mut pending: Option<DiskExtent> = None;
        let mut at = 0;
        while at < size {
            effort.check()?;
            let extent = self.extent(at, size.saturating_sub(at))?;
            fuel.burn(1)?;
            at = at.saturating_add(extent.length);
            pending = Some(match pending {
                Some(mut last) if last.goes_on(&extent) => {
                    last.length = last.length.saturating_add(extent.length);
                    last
                }
                Some(last) => {
                    visit(&last)?;
                    extent
                }
                None => extent,
            });
        }
        pending.map_or(Ok(()), |last| visit(&last))
    }

    fn extent(&self, start: u64, left: u64) -> Result<DiskExtent> {
        let layers = self.links.iter().map(|link| &*link.layer as &dyn Layer);
        let found = find(layers, start, left, u64::MAX)?;
        let mut extent = DiskExtent {
            start,
            length: found.len,
            depth: found.depth,
            present: true,
            data: false,
            zero: false,
            compressed: false,
            lost: false,
            offset: None,
        };
        match found.here {
            Here::File { source, offset } => {
                let raw = self.links.get(found.depth).is_some_and(|link| link.qcow2.is_none());
                let (hole, run) = hole(source, offset, raw)?;
                extent.length = extent.length.min(run);
                extent.data = !hole;
                extent.zero = hole;
                extent.offset = Some(offset);
            }
            Here::Packed(_) => {
                extent.data = true;
                extent.compressed = true;
            }
            Here::Zero { kept } => {
                extent.zero = true;
                extent.offset = kept;
            }
            Here::Below { kept } => {
                extent.present = false;
                extent.zero = true;
                extent.offset = kept;
            }
            Here::Lost(_) => extent.lost = true,
        }
        Ok(extent)
    }
}
