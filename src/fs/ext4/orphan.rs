//! Nodes that were deleted while open: the list through `i_dtime`, and the orphan file.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::checksum::crc32c_parts;
use super::content::Content;
use super::disk::Disk;
use super::superblock::compat;
use crate::block::{self, BlockSource, Source};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// `EXT4_ORPHAN_BLOCK_MAGIC`.
const MAGIC: u32 = 0x0b10_ca04;
/// Bytes of the tail of a block of the orphan file.
const TAIL: usize = 8;
/// Bytes of the orphan file that are read; mke2fs makes at most 512 blocks.
const FILE_MAX: u64 = 64 << 20;

/// The inodes that are marked for deletion or truncation, in ascending order; those with names left are only truncated.
pub(super) fn marked(disk: &Arc<Disk>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    if let Err(error) = list(disk, &mut found) {
        disk.effort.find(format!("ext4 orphan list: {}", error.what()), error.site().to_vec());
    }
    if disk.sb.has_compat(compat::ORPHAN_FILE)
        && let Err(error) = file(disk, &mut found)
    {
        disk.effort.find(format!("ext4 orphan file: {}", error.what()), error.site().to_vec());
    }
    found
}

/// Follows the list from `s_last_orphan` through `i_dtime`.
fn list(disk: &Disk, found: &mut BTreeSet<u32>) -> Result<()> {
    let mut next = disk.sb.last_orphan;
    while next != 0 {
        disk.effort.check()?;
        if next < disk.sb.first_ino || next > disk.sb.inodes_count {
            return Err(Error::corrupt(format!("it names inode {next}")));
        }
        if !found.insert(next) {
            return Err(Error::corrupt(format!("it comes back to inode {next}")));
        }
        next = disk.inode(next)?.dtime;
    }
    Ok(())
}

/// Reads the orphan file: blocks of inode numbers, each with a magic and a checksum at its end.
fn file(disk: &Arc<Disk>, found: &mut BTreeSet<u32>) -> Result<()> {
    let inode = disk.inode(disk.sb.orphan_file_inum)?;
    let seed = inode.csum_seed(&disk.sb);
    let size = inode.size.min(FILE_MAX);
    let source: Source = Arc::new(Content::new(Arc::clone(disk), inode, size)?);
    let len = disk.block_len();
    let mut buf = vec![0; len];
    let mut at = 0u64;
    while at.saturating_add(len as u64) <= size {
        disk.effort.check()?;
        source.read_at(at, &mut buf)?;
        let body = len.saturating_sub(TAIL);
        let b = Bytes::new(&buf, "orphan file");
        let magic = b.le32(body, "ob_magic")?;
        if magic != MAGIC {
            return Err(Error::corrupt(format!("magic {magic:#010x}, wanted {MAGIC:#010x}"))
                .with_site(block::site(&*source, at)));
        }
        let numbers = b.slice(0, body, "inodes")?;
        if disk.sb.metadata_csum() {
            check(disk, &*source, at, seed, numbers, b.le32(body.saturating_add(4), "ob_checksum")?)?;
        }
        let (words, _) = numbers.as_chunks::<4>();
        let inodes = words.iter().map(|word| u32::from_le_bytes(*word));
        found.extend(inodes.filter(|ino| *ino >= disk.sb.first_ino && *ino <= disk.sb.inodes_count));
        at = at.saturating_add(len as u64);
    }
    Ok(())
}

/// `ext4_orphan_file_block_csum`: over the block's number on the volume and its inode numbers.
fn check(
    disk: &Disk,
    source: &dyn BlockSource,
    at: u64,
    seed: u32,
    numbers: &[u8],
    stored: u32,
) -> Result<()> {
    let block::Origin::At { offset: place, .. } = source.run_at(at)?.origin else { return Ok(()) };
    let number = place.checked_div(disk.sb.block_size.into()).unwrap_or(0);
    let computed = crc32c_parts(seed, &[&number.to_le_bytes(), numbers]);
    if stored != computed {
        let what = format!("ext4 orphan file: checksum {stored:#010x}, its bytes have {computed:#010x}");
        disk.effort.find(what, block::site(source, at));
    }
    Ok(())
}

impl Disk {
    /// The orphans; read once.
    pub(super) fn orphans(self: &Arc<Self>) -> &BTreeSet<u32> {
        self.orphans.get_or_init(|| {
            let mut all = marked(self);
            // A file that is only being truncated has names.
            all.retain(|ino| self.inode(*ino).is_ok_and(|inode| inode.links == 0));
            all
        })
    }
}
