//! `struct ext4_dir_entry_2`: the entries of one directory block, parsed where they lie.

use super::disk::Disk;
use super::superblock::incompat;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::fs::FileType;

/// Bytes before the name.
pub(super) const HEAD: usize = 8;
/// The type of the false entry at the end of a block that carries the checksum (`EXT4_FT_DIR_CSUM`).
pub(super) const TAIL_TYPE: u8 = 0xde;
/// Bytes of that false entry.
pub(super) const TAIL_LEN: usize = 12;

/// One entry as it lies, in use or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirEntry<'a> {
    /// 0 for an entry that is not in use.
    pub(super) ino: u32,
    pub(super) rec_len: usize,
    pub(super) name: &'a [u8],
    /// `None` without the filetype feature.
    pub(super) file_type: Option<u8>,
    /// `hash` and `minor_hash`, which entries of directories that are both casefolded and encrypted carry.
    pub(super) hash: Option<(u32, u32)>,
}

impl DirEntry<'_> {
    /// Whether it is `.` or `..`.
    pub(super) fn is_dot(&self) -> bool {
        matches!(self.name, b"." | b"..")
    }

    /// The type it gives.
    pub(super) fn kind(&self) -> FileType {
        match self.file_type {
            Some(1) => FileType::File,
            Some(2) => FileType::Dir,
            Some(3) => FileType::Char,
            Some(4) => FileType::Block,
            Some(5) => FileType::Fifo,
            Some(6) => FileType::Socket,
            Some(7) => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }
}

/// How the entries of one directory are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    filetype: bool,
    hashed: bool,
    /// Bytes in a block: 64 KiB do not fit into `rec_len` as they are.
    block: usize,
}

impl Layout {
    /// For a directory; `hashed` when it is both casefolded and encrypted.
    pub(super) fn new(disk: &Disk, hashed: bool) -> Self {
        Self { filetype: disk.sb.has_incompat(incompat::FILETYPE), hashed, block: disk.block_len() }
    }

    /// `ext4_rec_len_from_disk`.
    fn rec_len(self, stored: u16) -> usize {
        let len = usize::from(stored);
        if self.block < 65536 {
            len
        } else if stored == 0xffff || stored == 0 {
            self.block
        } else {
            len & 0xfffc | (len & 3) << 16
        }
    }

    /// The entry at byte `at` of `block`. An error means that nothing after it in this block can be found.
    pub(super) fn entry(self, block: &[u8], at: usize) -> Result<DirEntry<'_>> {
        let b = Bytes::new(block, "ext4 directory block");
        let rec_len = self.rec_len(b.le16(at.saturating_add(4), "rec_len")?);
        // Without filetype the length has 16 bits, of which the upper eight are 0 (names have 255 bytes at most).
        let name_len = usize::from(b.u8(at.saturating_add(6), "name_len")?);
        let room = block.len().saturating_sub(at);
        let least = HEAD.saturating_add(name_len).next_multiple_of(4).max(TAIL_LEN);
        if !rec_len.is_multiple_of(4) || rec_len < least || rec_len > room {
            return Err(Error::corrupt(format!(
                "rec_len {rec_len} with a name of {name_len} bytes and {room} bytes left in the block"
            )));
        }
        let after = at.saturating_add(HEAD);
        let name = b.slice(after, name_len, "name")?;
        let padded = after.saturating_add(name_len.next_multiple_of(4));
        let ino = b.le32(at, "inode")?;
        let hash = if self.hashed && ino != 0 {
            b.le32(padded, "hash").ok().zip(b.le32(padded.saturating_add(4), "minor_hash").ok())
        } else {
            None
        };
        let file_type = if self.filetype { Some(b.u8(at.saturating_add(7), "file_type")?) } else { None };
        Ok(DirEntry { ino, rec_len, name, file_type, hash })
    }
}

/// Whether an entry in use can be handed out: a node of the filesystem, and a name that can be part of a path.
pub(super) fn check(disk: &Disk, ino: u32, name: &[u8]) -> Result<()> {
    if ino > disk.sb.inodes_count {
        return Err(Error::corrupt(format!(
            "entry `{}` names inode {ino}, the filesystem has {}",
            name.escape_ascii(),
            disk.sb.inodes_count
        )));
    }
    if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'/')) {
        return Err(Error::corrupt(format!(
            "the name `{}` of inode {ino} is none that a path can have",
            name.escape_ascii()
        )));
    }
    Ok(())
}
