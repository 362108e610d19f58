//! Volumes inside volumes: disk, partition, physical volume, logical volume, as far down as they go.

use std::sync::Arc;

use super::detect::detect;
use super::luks::Luks;
use super::lvm::{self, Member};
use super::scan::{Options, Scan, table};
use super::{Scheme, Volume};
use crate::block::Source;
use crate::block::cache::Cached;
use crate::error::Result;

/// Volumes inside volumes at most. A group on an encrypted partition needs two.
const ROUNDS_MAX: usize = 8;

/// Finds the volumes of `disk`. Errors are those of cancellation alone: damage is told in the answer.
pub fn scan(disk: &Source, options: &Options) -> Result<Scan> {
    let mut scans = scan_all(std::slice::from_ref(disk), options)?;
    Ok(scans.pop().unwrap_or_default())
}

/// Finds the volumes of several disks of one system, whose groups may lie on more than one of them. One answer for each disk, in
/// their order; a logical volume is listed with the disk of its parent.
pub fn scan_all(disks: &[Source], options: &Options) -> Result<Vec<Scan>> {
    let mut scans = disks.iter().map(|disk| table(disk, options)).collect::<Result<Vec<_>>>()?;
    // How many volumes of each disk were looked at.
    let mut done = vec![0; scans.len()];
    // A group may need a member that is encrypted: everything is opened before groups are put together.
    let mut members = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let mut opened = false;
        for (disk, (scan, done)) in scans.iter_mut().zip(&mut done).enumerate() {
            let fresh: Vec<Volume> = scan.volumes.iter().skip(*done).cloned().collect();
            *done = scan.volumes.len();
            for volume in fresh {
                let kind = volume.content.as_ref().map(|content| content.kind);
                if let (Some("LVM2_member"), Some(source)) = (kind, &volume.source) {
                    members.push(Member { disk, index: volume.index, source: Arc::clone(source) });
                } else if let Some(inner) = unlock(&volume, options)? {
                    scan.add(inner);
                    opened = true;
                }
            }
        }
        if opened {
            continue;
        }
        if members.is_empty() {
            break;
        }
        assemble(&std::mem::take(&mut members), &mut scans, options)?;
    }
    Ok(scans)
}

/// Adds the logical volumes of the groups that `members` belong to.
fn assemble(members: &[Member], scans: &mut [Scan], options: &Options) -> Result<()> {
    let assembly = lvm::assemble(members, options)?;
    for (disk, volume) in assembly.volumes {
        if let Some(scan) = scans.get_mut(disk) {
            scan.add(volume);
        }
    }
    // What concerns a group is said with the first disk that has a part of it.
    let first = members.first().and_then(|member| scans.get_mut(member.disk));
    if let Some(scan) = first {
        scan.problems.extend(assembly.problems);
        scan.notes.extend(assembly.notes);
    }
    Ok(())
}

/// What is inside a LUKS volume, in clear where a key fits; `None` for a volume that is no LUKS volume. A volume without any
/// signature may be the data of a detached header.
fn unlock(volume: &Volume, options: &Options) -> Result<Option<Volume>> {
    let Some(device) = &volume.source else { return Ok(None) };
    let header = match &volume.content {
        Some(content) if content.kind == "crypto_LUKS" => Luks::read(device),
        None if !options.headers.is_empty() && !options.keys.is_empty() => {
            return detached(volume, device, options);
        }
        _ => return Ok(None),
    };
    let content = volume.content.as_ref();
    let mut inner = Volume {
        index: 0,
        parent: Some(volume.index),
        scheme: Scheme::Luks,
        start: 0,
        size: 0,
        kind: "encrypted".to_owned(),
        name: content.and_then(|c| c.uuid.as_ref()).map(|uuid| format!("luks-{uuid}")),
        uuid: content.and_then(|c| c.uuid.clone()),
        content: None,
        source: None,
        problems: Vec::new(),
    };
    match header {
        Ok(header) => open(&mut inner, &header, device, options)?,
        Err(error) => inner.problems.push(error.what().to_owned()),
    }
    Ok(Some(inner))
}

/// Tries the detached headers on a volume; only one that a key opens counts, since nothing else tells that it belongs there.
fn detached(volume: &Volume, device: &Source, options: &Options) -> Result<Option<Volume>> {
    for header in &options.headers {
        let Ok(header) = Luks::read(header) else { continue };
        let mut inner = Volume {
            index: 0,
            parent: Some(volume.index),
            scheme: Scheme::Luks,
            name: Some("luks-detached".to_owned()),
            content: None,
            source: None,
            problems: Vec::new(),
            ..volume.clone()
        };
        open(&mut inner, &header, device, options)?;
        if inner.content.is_some() {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}

fn open(inner: &mut Volume, header: &Luks, device: &Source, options: &Options) -> Result<()> {
    header.cipher().clone_into(&mut inner.kind);
    inner.problems.extend(header.problems().iter().cloned());
    match header.place(device.len()) {
        Ok((start, len)) => (inner.start, inner.size) = (start, len),
        Err(error) => inner.problems.push(error.what().to_owned()),
    }
    if options.keys.is_empty() {
        inner.problems.push("it is encrypted: a passphrase or key file is needed".to_owned());
        return Ok(());
    }
    let name = inner.name.clone().unwrap_or_default();
    match header.open(&name, device, &options.keys, &options.effort) {
        Ok(Some(source)) => {
            let found = detect(&Cached::new(Arc::clone(&source), &options.cache), &options.effort)?;
            inner.size = source.len();
            inner.content = found.content;
            inner.problems.extend(found.problems);
            inner.source = Some(source);
        }
        Ok(None) => inner.problems.push("it is encrypted, and no key that was given opens it".to_owned()),
        Err(error) => {
            options.effort.check()?;
            inner.problems.push(error.what().to_owned());
        }
    }
    Ok(())
}

impl Scan {
    /// Adds a volume under the next free number.
    fn add(&mut self, mut volume: Volume) {
        let last = self.volumes.iter().map(|v| v.index).max().unwrap_or(0);
        volume.index = last.saturating_add(1);
        self.volumes.push(volume);
    }
}
