//! From a group's description to the bytes of its volumes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::array::{Array, Shape};
use super::group::{Group, Logical, Segment};
use super::layout::Layout;
use super::raid;
use super::snapshot::Snapshot;
use super::snapshot_of;
use super::thin::{Pool, Thin};
use crate::block::cache::Cached;
use crate::block::join::{Join, Part, Piece};
use crate::block::{Source, State};
use crate::error::{Error, Result};
use crate::volume::Options;

/// Volumes inside volumes at most: a thin volume on RAID with a snapshot needs five.
const DEPTH_MAX: usize = 12;
const SECTOR: u64 = 512;

/// Builds the sources of one group's volumes; each is built once.
pub(super) struct Builder<'a> {
    group: &'a Group,
    /// The devices that are there, by the group's name for them.
    devices: &'a HashMap<String, Source>,
    options: &'a Options,
    built: HashMap<String, Source>,
    pools: HashMap<String, Arc<Pool>>,
    open: HashSet<String>,
    /// What is odd about what was built since it was last taken, a sentence each.
    pub(super) problems: Vec<String>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(group: &'a Group, devices: &'a HashMap<String, Source>, options: &'a Options) -> Self {
        Self {
            group,
            devices,
            options,
            built: HashMap::new(),
            pools: HashMap::new(),
            open: HashSet::new(),
            problems: Vec::new(),
        }
    }

    /// The volume as a system that has activated it shows it: a snapshot over its origin.
    pub(super) fn shown(&mut self, lv: &Logical) -> Result<Source> {
        let group = self.group;
        let snapshots = || group.logical.iter().flat_map(|l| &l.segments).filter(|s| s.kind == "snapshot");
        if let Some(segment) = snapshot_of(lv, group) {
            let origin = self.raw(segment.section.text("origin").unwrap_or_default())?;
            let store = self.raw(&lv.name)?;
            return self.snapshot(lv, origin, store);
        }
        let merging = snapshots().find(|s| {
            s.section.text("origin") == Some(&lv.name) && s.section.text("merging_store").is_some()
        });
        if let Some(store) = merging.and_then(|s| s.section.text("merging_store")) {
            self.problems
                .push(format!("the snapshot {store} is being merged into it; it is shown as after that"));
            let origin = self.raw(&lv.name)?;
            let store = self.raw(store)?;
            return self.snapshot(lv, origin, store);
        }
        self.raw(&lv.name)
    }

    fn snapshot(&self, lv: &Logical, origin: Source, store: Source) -> Result<Source> {
        let store = Arc::new(Cached::new(store, &self.options.cache));
        Ok(Arc::new(Snapshot::new(self.name(&lv.name), origin, store, &self.options.effort)?))
    }

    fn name(&self, lv: &str) -> Arc<str> {
        format!("{}/{lv}", self.group.name).into()
    }

    /// The volume's own bytes.
    fn raw(&mut self, name: &str) -> Result<Source> {
        if let Some(source) = self.built.get(name) {
            return Ok(Arc::clone(source));
        }
        let group = self.group;
        let wrong = |what: &str| Error::corrupt(format!("{}/{name}: {what}", group.name));
        let lv = group.find(name).ok_or_else(|| wrong("the group has no such volume"))?;
        if self.open.len() >= DEPTH_MAX {
            return Err(wrong("volumes too deep inside each other"));
        }
        if !self.open.insert(name.to_owned()) {
            return Err(wrong("the volume is a part of itself"));
        }
        let source = self.segments(lv);
        self.open.remove(name);
        let source = source?;
        self.built.insert(name.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    fn segments(&mut self, lv: &Logical) -> Result<Source> {
        let mut pieces = Vec::with_capacity(lv.segments.len());
        for segment in &lv.segments {
            self.options.effort.check()?;
            let what = match self.segment(lv, segment) {
                Ok(part) => part,
                // A segment of a kind that is not known is a gap; a volume that is nothing else is no volume.
                Err(error) if lv.segments.len() > 1 => Part::Lost(error.what().into()),
                Err(error) => return Err(error),
            };
            if let Part::Lost(why) = &what {
                self.problems
                    .push(format!("{} bytes from {} on are lost: {why}", segment.len, segment.start));
            }
            pieces.push(Piece { start: segment.start, len: segment.len, what });
        }
        // A volume that is one array is that array.
        if let [Piece { start: 0, len, what: Part::At(source, 0) }] = &*pieces
            && *len == lv.size
            && source.len() == lv.size
            && **source.name() == *self.name(&lv.name)
        {
            return Ok(Arc::clone(source));
        }
        Ok(Arc::new(Join::new(self.name(&lv.name), lv.size, pieces)?))
    }

    fn segment(&mut self, lv: &Logical, segment: &Segment) -> Result<Part> {
        let section = &segment.section;
        let name = self.name(&lv.name);
        let members = |key: &str| section.pairs(key);
        match &*segment.kind {
            "striped" | "linear" => {
                let stripes = members("stripes");
                if let [(device, extent)] = &*stripes {
                    return self.area(device, *extent, segment.len);
                }
                let len = segment.len.checked_div(stripes.len() as u64).unwrap_or(0);
                let parts = stripes.iter().map(|(device, extent)| self.area(device, *extent, len));
                let parts = parts.collect::<Result<_>>()?;
                array(name, segment, parts, Shape::Stripe, u64::MAX)
            }
            "mirror" => {
                let mirrors = members("mirrors");
                let parts = mirrors.iter().map(|(image, extent)| self.area(image, *extent, segment.len));
                let parts = parts.collect::<Result<_>>()?;
                array(name, segment, parts, Shape::Mirror, u64::MAX)
            }
            "raid0" | "raid0_meta" => {
                let (parts, _) = self.raid_members(segment, 0)?;
                array(name, segment, parts, Shape::Stripe, u64::MAX)
            }
            "raid1" => {
                let (parts, _) = self.raid_members(segment, segment.len)?;
                array(name, segment, parts, Shape::Mirror, u64::MAX)
            }
            "raid10" | "raid10_near" => {
                let (parts, _) = self.raid_members(segment, 0)?;
                let copies = section.number("data_copies").unwrap_or(2);
                array(name, segment, parts, Shape::Ten(copies), u64::MAX)
            }
            "thin" => self.thin(lv, segment),
            "zero" => Ok(Part::Zeros(State::Zero)),
            "error" => Ok(Part::Lost("the segment is of type error".into())),
            kind => {
                let unknown = || Error::unsupported(format!("{name}: segments of type {kind} are not read"));
                let layout = Layout::by_name(kind).ok_or_else(unknown)?;
                let (parts, synced) = self.raid_members(segment, 0)?;
                array(name, segment, parts, Shape::Parity(layout), synced)
            }
        }
    }

    /// What a segment's area refers to: extents of a physical volume, or of another logical one.
    fn area(&mut self, name: &str, extent: u64, len: u64) -> Result<Part> {
        let group = self.group;
        let overflow =
            || Error::corrupt(format!("volume group {}: an extent beyond all devices", group.name));
        let inside = extent.checked_mul(group.extent).ok_or_else(overflow)?;
        let Some(pv) = group.physical.iter().find(|pv| pv.name == name) else {
            let source = self.raw(name)?;
            return Ok(Part::At(source, inside));
        };
        let end = len.div_ceil(group.extent).checked_add(extent);
        if end.is_none_or(|end| end > pv.extents) {
            return Ok(Part::Lost(format!("it reaches past the end of physical volume {name}").into()));
        }
        let Some(source) = self.devices.get(name) else {
            return Ok(Part::Lost(
                format!("physical volume {name} ({}, last seen as {}) is missing", pv.id, pv.device).into(),
            ));
        };
        Ok(Part::At(Arc::clone(source), pv.start.checked_add(inside).ok_or_else(overflow)?))
    }

    /// The images of a RAID segment in their order, those that are missing or behind as lost; and how many bytes of each are in
    /// step. `len`: how much of each image counts, 0 for all of it.
    fn raid_members(&mut self, segment: &Segment, len: u64) -> Result<(Vec<Part>, u64)> {
        let section = &segment.section;
        if section.number("delta_disks").is_some_and(|n| n != 0)
            || section.number("data_offset").is_some_and(|n| n > 1)
            || section.text("delta_disks").is_some()
        {
            return Err(Error::unsupported("a RAID volume in the middle of a change of its shape"));
        }
        let bare = section.names("raid0_lvs");
        let names = section.names("raids");
        let pairs: Vec<(Option<&str>, &str)> = if bare.is_empty() {
            names.as_chunks::<2>().0.iter().map(|[meta, image]| (Some(*meta), *image)).collect()
        } else {
            bare.into_iter().map(|image| (None, image)).collect()
        };
        let mut parts = Vec::with_capacity(pairs.len());
        let mut states = Vec::with_capacity(pairs.len());
        for (meta, image) in &pairs {
            let part = self.raw(image).map_or_else(|e| Part::Lost(e.what().into()), |s| Part::At(s, 0));
            parts.push(part);
            states.push(meta.and_then(|meta| self.raw(meta).ok()).and_then(|meta| raid::read(&*meta)));
        }
        let verdict = raid::judge(&states, len);
        for (i, why) in verdict.stale {
            let image = pairs.get(i).map_or("", |(_, image)| image);
            self.problems.push(format!("{image} is not used: {why}"));
            if let Some(part) = parts.get_mut(i) {
                *part = Part::Lost(why.into());
            }
        }
        Ok((parts, verdict.synced))
    }

    fn thin(&mut self, lv: &Logical, segment: &Segment) -> Result<Part> {
        let wrong = |what: &str| Error::corrupt(format!("{}: {what}", lv.name));
        let section = &segment.section;
        let name = section.text("thin_pool").ok_or_else(|| wrong("a thin volume without a pool"))?;
        let pool = self.pool(name)?;
        let id = section.number("device_id").ok_or_else(|| wrong("a thin volume without a number"))?;
        let root = pool.device(id)?;
        let external = match section.text("external_origin") {
            Some(origin) => Some(self.raw(origin)?),
            None => None,
        };
        Ok(Part::At(Arc::new(Thin::new(self.name(&lv.name), segment.len, pool, root, external)), 0))
    }

    fn pool(&mut self, name: &str) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.get(name) {
            return Ok(Arc::clone(pool));
        }
        let group = self.group;
        let wrong = |what: &str| Error::corrupt(format!("thin pool {}/{name}: {what}", group.name));
        let segment = group
            .find(name)
            .and_then(|lv| lv.segments.first())
            .filter(|segment| segment.kind == "thin-pool")
            .ok_or_else(|| wrong("there is none of that name"))?;
        let part = |key: &str| segment.section.text(key).ok_or_else(|| wrong("it lacks one of its parts"));
        let (metadata, data) = (part("metadata")?, part("pool")?);
        let metadata: Source = Arc::new(Cached::new(self.raw(metadata)?, &self.options.cache));
        let data = self.raw(data)?;
        let mut pool = Pool::new(metadata, data)?;
        self.problems.append(&mut pool.problems);
        let said = segment.section.number("transaction_id").unwrap_or(0);
        if said != pool.transaction {
            self.problems.push(format!(
                "the thin pool is at transaction {}, the group says {said}: one of them is older",
                pool.transaction
            ));
        }
        let pool = Arc::new(pool);
        self.pools.insert(name.to_owned(), Arc::clone(&pool));
        Ok(pool)
    }
}

/// Members as one source over the whole of a segment.
fn array(name: Arc<str>, segment: &Segment, parts: Vec<Part>, shape: Shape, synced: u64) -> Result<Part> {
    let chunk = if matches!(shape, Shape::Mirror) {
        segment.len
    } else {
        segment.section.number("stripe_size").unwrap_or(0).saturating_mul(SECTOR)
    };
    Ok(Part::At(Arc::new(Array::new(name, segment.len, chunk, parts, shape, synced)?), 0))
}
