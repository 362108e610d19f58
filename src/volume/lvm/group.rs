//! A volume group as its metadata text describes it.

use super::text::Section;
use crate::error::{Error, Result};

const SECTOR: u64 = 512;

/// Logical volumes, or physical ones, of a group at most.
const MEMBERS_MAX: usize = 16_384;

/// A volume group.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) seqno: u64,
    /// Bytes in an extent.
    pub(super) extent: u64,
    pub(super) physical: Vec<Physical>,
    pub(super) logical: Vec<Logical>,
}

/// A physical volume as the group knows it.
pub(super) struct Physical {
    /// `pv0`: how segments call it.
    pub(super) name: String,
    /// 32 characters, without the hyphens.
    pub(super) id: String,
    /// Where its first extent starts, in bytes.
    pub(super) start: u64,
    /// How many extents it has.
    pub(super) extents: u64,
    /// The device it was last seen as.
    pub(super) device: String,
}

/// A logical volume.
pub(super) struct Logical {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) visible: bool,
    /// Bytes in all its segments.
    pub(super) size: u64,
    pub(super) segments: Vec<Segment>,
}

/// A stretch of a logical volume.
pub(super) struct Segment {
    /// Where it starts and how long it is, in bytes.
    pub(super) start: u64,
    pub(super) len: u64,
    /// `striped`, `thin`, `raid5_ls`…; its flags after a `+` are cut.
    pub(super) kind: String,
    /// Everything else it says.
    pub(super) section: Section,
}

/// LVM's UUIDs without their hyphens: as labels have them.
pub(super) fn plain(id: &str) -> String {
    id.chars().filter(|c| *c != '-').collect()
}

impl Group {
    /// The group that `root` describes: its one section with physical volumes.
    pub(super) fn new(root: &Section) -> Result<Self> {
        let vg = root
            .sections
            .iter()
            .find(|section| section.number("extent_size").is_some())
            .ok_or_else(|| Error::corrupt("LVM text: no volume group in it"))?;
        let wrong = |what: &str| Error::corrupt(format!("volume group {}: {what}", vg.name));
        let extent = vg
            .number("extent_size")
            .and_then(|n| n.checked_mul(SECTOR))
            .filter(|n| *n > 0)
            .ok_or_else(|| wrong("no extent_size"))?;
        let physical = vg.section("physical_volumes").map(|s| s.sections.as_slice()).unwrap_or_default();
        let logical = vg.section("logical_volumes").map(|s| s.sections.as_slice()).unwrap_or_default();
        if physical.len() > MEMBERS_MAX || logical.len() > MEMBERS_MAX {
            return Err(wrong("more members than a group can have"));
        }
        Ok(Self {
            name: vg.name.clone(),
            id: vg.text("id").unwrap_or_default().to_owned(),
            seqno: vg.number("seqno").unwrap_or(0),
            extent,
            physical: physical.iter().map(physical_volume).collect(),
            logical: logical.iter().map(|lv| logical_volume(lv, extent)).collect::<Result<_>>()?,
        })
    }

    /// The logical volume of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Logical> {
        self.logical.iter().find(|lv| lv.name == name)
    }
}

fn physical_volume(pv: &Section) -> Physical {
    Physical {
        name: pv.name.clone(),
        id: plain(pv.text("id").unwrap_or_default()),
        start: pv.number("pe_start").unwrap_or(0).saturating_mul(SECTOR),
        extents: pv.number("pe_count").unwrap_or(0),
        device: pv.text("device").unwrap_or("unknown").to_owned(),
    }
}

fn logical_volume(lv: &Section, extent: u64) -> Result<Logical> {
    let wrong = |what: &str| Error::corrupt(format!("logical volume {}: {what}", lv.name));
    let mut segments = Vec::new();
    for section in lv.sections.iter().filter(|s| s.number("extent_count").is_some()) {
        let bytes = |key: &str| section.number(key)?.checked_mul(extent);
        let start = bytes("start_extent").ok_or_else(|| wrong("a segment without a start"))?;
        let len = bytes("extent_count").ok_or_else(|| wrong("a segment without a length"))?;
        start.checked_add(len).ok_or_else(|| wrong("a segment that overflows"))?;
        let kind = section.text("type").unwrap_or("striped");
        segments.push(Segment {
            start,
            len,
            kind: kind.split('+').next().unwrap_or_default().to_owned(),
            section: section.clone(),
        });
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(Logical {
        name: lv.name.clone(),
        id: lv.text("id").unwrap_or_default().to_owned(),
        visible: lv.has("status", "VISIBLE"),
        size: segments.iter().map(|s| s.start.saturating_add(s.len)).max().unwrap_or(0),
        segments,
    })
}
