//! Volumes inside volumes: disk, partition, physical volume, logical volume, as far down as they go.

use std::sync::Arc;

use super::lvm::{self, Member};
use super::scan::{Options, Scan, table};
use crate::block::Source;
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
    for _ in 0..ROUNDS_MAX {
        let mut members = Vec::new();
        for (disk, (scan, done)) in scans.iter().zip(&mut done).enumerate() {
            for volume in scan.volumes.iter().skip(*done) {
                let kind = volume.content.as_ref().map(|content| content.kind);
                if let (Some("LVM2_member"), Some(source)) = (kind, &volume.source) {
                    members.push(Member { disk, index: volume.index, source: Arc::clone(source) });
                }
            }
            *done = scan.volumes.len();
        }
        if members.is_empty() {
            break;
        }
        let assembly = lvm::assemble(&members, options)?;
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
    }
    Ok(scans)
}

impl Scan {
    /// Adds a volume under the next free number.
    fn add(&mut self, mut volume: super::Volume) {
        let last = self.volumes.iter().map(|v| v.index).max().unwrap_or(0);
        volume.index = last.saturating_add(1);
        self.volumes.push(volume);
    }
}
