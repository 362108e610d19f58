//! Which volume is meant.

use crate::error::{Error, Result};
use crate::fs;
use crate::volume::{Scheme, Volume};

/// The volume called `which`: its number, label, UUID or name, in this order.
pub(super) fn by_name<'a>(volumes: &'a [Volume], which: &str) -> Result<&'a Volume> {
    let number = |v: &Volume| which.parse() == Ok(v.index);
    let label = |v: &Volume| v.content.as_ref().is_some_and(|c| c.label.as_deref() == Some(which));
    let uuid = |v: &Volume| {
        let same =
            |uuid: &Option<String>| uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(which));
        same(&v.uuid) || v.content.as_ref().is_some_and(|c| same(&c.uuid))
    };
    let name = |v: &Volume| v.name.as_deref() == Some(which);
    let ways: [&dyn Fn(&Volume) -> bool; 4] = [&number, &label, &uuid, &name];
    for way in ways {
        let hits: Vec<&Volume> = volumes.iter().filter(|v| way(v)).collect();
        match hits.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => {
                let numbers: Vec<_> = several.iter().map(|v| v.index.to_string()).collect();
                return Err(Error::usage(format!("--volume {which} means {} volumes", several.len()))
                    .hint(format!("name one by its number: {}", numbers.join(", "))));
            }
        }
    }
    Err(Error::not_found(format!("no volume {which}")).hint(listing(volumes)))
}

/// The volume called `which`; without a name the only one with a filesystem that can be read.
pub(super) fn filesystem<'a>(volumes: &'a [Volume], which: Option<&str>) -> Result<&'a Volume> {
    if let Some(which) = which {
        return by_name(volumes, which);
    }
    let readable: Vec<&Volume> = volumes.iter().filter(|v| is_readable(v)).collect();
    match readable.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::unsupported("no volume with a filesystem that can be read").hint(listing(volumes))),
        several => {
            Err(Error::usage(format!("{} volumes have a filesystem; name one with --volume", several.len()))
                .hint(listing(volumes)))
        }
    }
}

fn is_readable(volume: &Volume) -> bool {
    let kind = volume.content.as_ref().map(|content| content.kind);
    volume.source.is_some() && kind.is_some_and(|kind| fs::READERS.iter().any(|r| r.kinds.contains(&kind)))
}

/// Why a volume gives no filesystem.
pub(super) fn unreadable(volume: &Volume) -> Error {
    let what = label(volume);
    match &volume.content {
        None => Error::unsupported(format!("{what} holds nothing that is recognised")),
        Some(content) if volume.source.is_none() => {
            Error::unsupported(format!("{what} ({}) is not readable", content.kind))
        }
        Some(content) => Error::unsupported(format!("{what} holds {}, which is not read yet", content.kind)),
    }
}

/// What messages and manifests call a volume: `p1`, `vg/lv`, `whole`.
pub(super) fn label(volume: &Volume) -> String {
    match (volume.scheme, &volume.name) {
        (Scheme::Gpt | Scheme::Mbr, _) => format!("p{}", volume.index),
        (_, Some(name)) => name.clone(),
        (Scheme::Whole, None) => "whole disk".to_string(),
        (_, None) => format!("volume {}", volume.index),
    }
}

/// The volumes in a few words, as a hint.
fn listing(volumes: &[Volume]) -> String {
    if volumes.is_empty() {
        return "the disk has no partition table and no filesystem that is recognised".to_string();
    }
    let one = |v: &Volume| {
        let content = v.content.as_ref();
        let kind = content.map_or("unknown", |c| c.kind);
        let name = content.and_then(|c| c.label.as_deref()).or(v.name.as_deref());
        name.map_or_else(|| format!("{} {kind}", v.index), |name| format!("{} {kind} \"{name}\"", v.index))
    };
    format!("it has: {}", volumes.iter().map(one).collect::<Vec<_>>().join(", "))
}
