//! LVM2: physical volumes, of one disk or of many, become the logical volumes of their groups.
//!
//! `label` reads a device's own structures, `text` and `group` what the group is, `build` makes sources of it: `array`
//! for stripes, mirrors and parity, `snapshot` for classic snapshots, `thin` for thin pools. What lies on a device that is
//! not there is a gap with its place, not the end.

mod array;
mod btree;
mod build;
mod group;
mod label;
mod layout;
mod part;
mod raid;
mod snapshot;
mod text;
mod thin;

use std::collections::HashMap;
use std::sync::Arc;

use self::build::Builder;
use self::group::{Group, Logical, Segment};
use super::detect::detect;
use super::{Options, Scheme, Volume};
use crate::block::Source;
use crate::block::cache::Cached;
use crate::error::Result;

/// A volume that holds an LVM2 physical volume.
#[derive(Clone)]
pub struct Member {
    /// Which of the disks it belongs to; given back with what is found.
    pub disk: usize,
    /// The index of that volume: the parent of what is found.
    pub index: u32,
    /// Its bytes.
    pub source: Source,
}

/// A metadata text that still lies on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldText {
    /// Where it starts, in bytes from the start of the device.
    pub offset: u64,
    /// The group's name at that time.
    pub group: String,
    /// The text's number; each change adds one.
    pub seqno: u64,
}

/// What was put together.
#[derive(Default)]
pub struct Assembly {
    /// The visible logical volumes of all groups, each with the disk of its parent. They have no index yet.
    pub volumes: Vec<(usize, Volume)>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// What is worth knowing and nobody's fault.
    pub notes: Vec<String>,
    /// The texts that lie on each member, current and older, with the member's index.
    pub texts: Vec<(u32, OldText)>,
}

/// Logical volumes that are shown at most, over all groups.
const SHOWN_MAX: usize = 16_384;

/// A group with the number of its newest text, before its devices are looked for.
struct Found {
    group: Group,
    sound: bool,
}

/// Puts together the groups that `members` belong to. Fails only when cancelled.
pub fn assemble(members: &[Member], options: &Options) -> Result<Assembly> {
    let mut out = Assembly::default();
    let mut devices: HashMap<String, &Member> = HashMap::new();
    let mut groups: Vec<Found> = Vec::new();
    for member in members {
        options.effort.check()?;
        let source = &member.source;
        let pv: Source = Arc::new(Cached::new(Arc::clone(source), &options.cache));
        let mut label = match label::read(&*pv) {
            Ok(label) => label,
            Err(error) => {
                out.problems.push(error.what().to_owned());
                continue;
            }
        };
        let texts = label.texts(&*pv);
        out.texts.extend(label.older(&*pv).into_iter().map(|text| (member.index, text)));
        out.problems.extend(label.problems.drain(..).map(|p| format!("{}: {p}", source.name())));
        if let Some(other) = devices.get(&label.id) {
            out.problems.push(format!(
                "{} and {} are the same physical volume twice, {}; the first serves",
                other.source.name(),
                source.name(),
                label.id
            ));
            continue;
        }
        devices.insert(label.id, member);
        for text in texts {
            match text::parse(&text.data).and_then(|root| Group::new(&root)) {
                Ok(group) => keep(&mut groups, Found { group, sound: text.sound }),
                Err(error) => out.problems.push(format!("{}: {}", source.name(), error.what())),
            }
        }
    }
    for Found { group, .. } in &groups {
        show(group, &devices, options, &mut out)?;
    }
    Ok(out)
}

/// Keeps the newest text of each group; one with a right checksum rather than one without.
fn keep(groups: &mut Vec<Found>, found: Found) {
    match groups.iter_mut().find(|had| had.group.id == found.group.id) {
        None => groups.push(found),
        Some(had) if (found.sound, found.group.seqno) > (had.sound, had.group.seqno) => *had = found,
        Some(_) => {}
    }
}

/// Adds the visible volumes of one group.
fn show(
    group: &Group,
    devices: &HashMap<String, &Member>,
    options: &Options,
    out: &mut Assembly,
) -> Result<()> {
    let mut here = HashMap::new();
    let mut parents = HashMap::new();
    for pv in &group.physical {
        if let Some(member) = devices.get(&pv.id) {
            here.insert(pv.name.clone(), Arc::clone(&member.source));
            parents.insert(pv.name.as_str(), *member);
        } else {
            out.problems.push(format!(
                "volume group {}: physical volume {} ({}, last seen as {}) is missing",
                group.name, pv.name, pv.id, pv.device
            ));
        }
    }
    let older = out.texts.iter().filter(|(_, text)| text.group == group.name && text.seqno < group.seqno);
    let older: Vec<u64> = older.map(|(_, text)| text.seqno).collect();
    if let (Some(first), Some(last)) = (older.iter().min(), older.iter().max()) {
        out.notes.push(format!(
            "volume group {} is at number {}; {} older descriptions of it still lie there, numbers {first} to {last}",
            group.name,
            group.seqno,
            older.len()
        ));
    }
    // The first device that is there, for volumes without a place of their own on one.
    let first = group.physical.iter().find_map(|pv| parents.get(pv.name.as_str()).copied());
    let mut builder = Builder::new(group, &here, options);
    for lv in group.logical.iter().filter(|lv| shown(lv, group)) {
        options.effort.check()?;
        if out.volumes.len() >= SHOWN_MAX {
            out.problems.push(format!("more than {SHOWN_MAX} logical volumes; the rest is not listed"));
            break;
        }
        let (parent, start) =
            place(lv, group, &parents).map_or((first, 0), |(parent, start)| (Some(parent), start));
        let volume = Volume {
            index: 0,
            parent: parent.map(|member| member.index),
            scheme: Scheme::Lvm,
            start,
            size: lv.size,
            kind: kind(lv, group),
            name: Some(format!("{}/{}", group.name, lv.name)),
            uuid: Some(lv.id.clone()),
            content: None,
            source: None,
            problems: Vec::new(),
        };
        let volume = fill(volume, lv, &mut builder, options)?;
        out.volumes.push((parent.map_or(0, |member| member.disk), volume));
    }
    Ok(())
}

/// Gives a logical volume its bytes and its content.
fn fill(mut volume: Volume, lv: &Logical, builder: &mut Builder<'_>, options: &Options) -> Result<Volume> {
    // A pool is no volume: its volumes are.
    if volume.kind == "thin-pool" {
        return Ok(volume);
    }
    match builder.shown(lv) {
        Ok(source) => {
            let cached = Cached::new(Arc::clone(&source), &options.cache);
            let found = detect(&cached, &options.effort)?;
            volume.content = found.content;
            volume.size = source.len();
            volume.source = Some(source);
            volume.problems.append(&mut builder.problems);
            volume.problems.extend(found.problems);
        }
        Err(error) => {
            volume.problems.append(&mut builder.problems);
            volume.problems.push(error.what().to_owned());
        }
    }
    Ok(volume)
}

/// The snapshot segment whose changed chunks `lv` stores.
fn snapshot_of<'a>(lv: &Logical, group: &'a Group) -> Option<&'a Segment> {
    let mut segments = group.logical.iter().flat_map(|l| &l.segments);
    segments.find(|s| s.kind == "snapshot" && s.section.text("cow_store") == Some(&lv.name))
}

/// Whether people see the volume. A snapshot's store has no flag for that: it is seen when its origin is.
fn shown(lv: &Logical, group: &Group) -> bool {
    match snapshot_of(lv, group) {
        Some(segment) => {
            let origin = segment.section.text("origin").and_then(|name| group.find(name));
            origin.is_some_and(|origin| origin.visible)
        }
        None => lv.visible && !lv.segments.iter().any(|segment| segment.kind == "snapshot"),
    }
}

/// What sort of volume it is, in LVM's words.
fn kind(lv: &Logical, group: &Group) -> String {
    match lv.segments.first() {
        _ if snapshot_of(lv, group).is_some() => "snapshot".to_owned(),
        Some(segment) if segment.kind == "striped" && segment.section.pairs("stripes").len() < 2 => {
            "linear".to_owned()
        }
        Some(segment) => segment.kind.clone(),
        None => "empty".to_owned(),
    }
}

/// The device on which a plain volume starts, and where there.
fn place<'a>(lv: &Logical, group: &Group, parents: &HashMap<&str, &'a Member>) -> Option<(&'a Member, u64)> {
    let segment = lv.segments.first().filter(|segment| segment.kind == "striped")?;
    let (name, extent) = *segment.section.pairs("stripes").first()?;
    let pv = group.physical.iter().find(|pv| pv.name == name)?;
    let start = extent.checked_mul(group.extent)?.checked_add(pv.start)?;
    Some((*parents.get(pv.name.as_str())?, start))
}
