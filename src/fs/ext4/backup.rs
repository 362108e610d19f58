//! Finds the superblock: the primary, or a backup when the primary cannot be right.

use super::superblock::{LEN, PRIMARY, Superblock, ro_compat};
use crate::block::{self, BlockSource, Locate, Source};
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};

/// The copy to go by. A backup is taken when the primary does not parse, or when its checksum is wrong and a sound
/// backup is there; either is a finding.
pub(super) fn superblock(raw: &Source, effort: &Effort) -> Result<Superblock> {
    let primary = read(raw, PRIMARY);
    match primary {
        Ok(sb) if sb.bad_checksum.is_none() => Ok(sb),
        Ok(sb) => {
            let (stored, computed) = sb.bad_checksum.unwrap_or_default();
            let what = format!("ext4 superblock: checksum {stored:#010x}, its bytes have {computed:#010x}");
            if let Some((offset, backup)) = backup(raw, Some(&sb)) {
                effort.find(format!("{what}; read from the backup at {offset:#x}"), site(raw, PRIMARY));
                return Ok(backup);
            }
            effort.find(what, site(raw, PRIMARY));
            Ok(sb)
        }
        Err(error) => match backup(raw, None) {
            Some((offset, backup)) => {
                let what = format!("{}; read from the backup superblock at {offset:#x}", error.what());
                effort.find(what, site(raw, PRIMARY));
                Ok(backup)
            }
            None if error.kind() == Kind::Io => Err(error),
            None => Err(error.hint("no backup superblock was found either")),
        },
    }
}

fn site(raw: &Source, offset: u64) -> Vec<crate::error::Place> {
    block::site(&**raw, offset)
}

fn read(raw: &Source, offset: u64) -> Result<Superblock> {
    let data = block::read_array::<LEN>(&**raw, offset)?;
    Superblock::parse(&data).found_at(&**raw, offset)
}

/// Looks where mke2fs puts backups: at the start of groups 1, 3, 5 and so on, for every block size and cluster size that
/// it can choose, and where the geometry of a primary that still parses says.
fn backup(raw: &Source, primary: Option<&Superblock>) -> Option<(u64, Superblock)> {
    const GROUPS: [u64; 9] = [1, 3, 5, 7, 9, 25, 27, 49, 81];
    let mut places: Vec<(u32, u64)> = Vec::new();
    if let Some(sb) = primary {
        let groups = GROUPS.iter().chain(&[2, 4]);
        places.extend(groups.map(|g| (sb.block_size, sb.offset(sb.group_start(*g)))));
    }
    for log_block in 0..=6u32 {
        let block_size = 1024u64.wrapping_shl(log_block);
        let per_group = block_size.saturating_mul(block_size).saturating_mul(8);
        for log_ratio in 0..=12u32 {
            let step = per_group.saturating_mul(1u64.wrapping_shl(log_ratio));
            for group in GROUPS {
                // With blocks of 1 KiB the first group starts at block 1, unless there are clusters.
                let first = if log_block == 0 && log_ratio == 0 { 1024 } else { 0 };
                let size = u32::try_from(block_size).unwrap_or(0);
                places.push((size, step.saturating_mul(group).saturating_add(first)));
            }
        }
    }
    places.into_iter().find_map(|(block_size, offset)| {
        if offset.checked_add(LEN as u64)? > raw.len() {
            return None;
        }
        let sb = read(raw, offset).ok()?;
        // A file's content may look like a superblock; a backup knows where it lies.
        let own = sb.offset(sb.group_start(sb.group.into()));
        (sb.group != 0 && sb.block_size == block_size && own == offset && sb.bad_checksum.is_none())
            .then_some((offset, sb))
    })
}

/// The group a backup of group 0's descriptors can be had from, in the order of trying.
pub(super) fn descriptor_copies(sb: &Superblock) -> impl Iterator<Item = u64> + '_ {
    let all = [1u64, 3, 5, 7, 9, 25, 27, 49, 81].into_iter().chain(sb.backup_bgs.iter().map(|g| (*g).into()));
    let sparse = sb.has_ro_compat(ro_compat::SPARSE_SUPER);
    all.filter(move |g| *g != 0 && *g < sb.groups() && (!sparse || sb.has_super(*g)))
}

/// A volume that ends before its filesystem does: said once, and what is there is read.
pub(super) fn check_size(sb: &Superblock, raw: &dyn BlockSource, effort: &Effort) -> Result<()> {
    if raw.len() < PRIMARY.saturating_add(LEN as u64) {
        return Err(Error::corrupt(format!("ext4: a volume of {} bytes", raw.len())));
    }
    if sb.size() > raw.len() {
        effort.find(
            format!("ext4: the filesystem has {} bytes, the volume {}", sb.size(), raw.len()),
            Vec::new(),
        );
    }
    Ok(())
}
