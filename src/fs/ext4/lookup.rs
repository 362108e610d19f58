//! From a directory and a name to an entry.

use std::sync::Arc;

use super::casefold;
use super::dir;
use super::dirent::{self, DirEntry};
use super::disk::Disk;
use super::flags;
use super::htree::{self, Answer};
use super::inode::Inode;
use crate::error::{Kind, Result};
use crate::fs::{Entry, NameState, NodeId};

/// Finds `name` in directory `inode`: in what the log says, through the index, or among all entries. `None` only when
/// everything that could hold the name is sound.
pub(super) fn lookup(disk: &Arc<Disk>, inode: &Inode, name: &[u8]) -> Result<Option<Entry>> {
    if let Some(link) = disk.records.names(inode.ino).and_then(|names| names.get(name)) {
        let Some((ino, kind)) = link else { return Ok(None) };
        dirent::check(disk, *ino, name)?;
        let raw = DirEntry { ino: *ino, rec_len: 0, name, file_type: Some(*kind), hash: None };
        let id = NodeId::new((*ino).into());
        return Ok(Some(Entry { name: name.to_vec(), id, kind: raw.kind(), state: NameState::Live }));
    }
    let folded = if inode.has(flags::CASEFOLD) { casefold::fold(name) } else { None };
    let matches = |found: &[u8]| {
        found == name || folded.is_some() && casefold::fold(found).as_deref() == folded.as_deref()
    };
    let dot = matches!(name, b"." | b"..");
    // The names of an encrypted directory are shown otherwise than they are hashed.
    if inode.has(flags::INDEX) && !inode.has(flags::ENCRYPT | flags::INLINE_DATA) && !dot {
        let hashed = folded.as_deref().map_or(name, str::as_bytes);
        let dir = format!("ext4 directory inode {}", inode.ino);
        match htree::lookup(disk, inode, hashed, &matches) {
            Ok(Answer::Found(entry)) => return Ok(unlinked(disk, inode, entry)),
            // Which names fold to one is a matter of the version of Unicode.
            Ok(Answer::Missing) if folded.is_none() => {
                let found = dir::scan(disk, inode, &matches)?;
                if found.is_some() {
                    disk.effort.find(format!("{dir}: its index leads past a name that is there"), Vec::new());
                }
                return Ok(found);
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Corrupt => {
                let what = format!("{dir}: {}; searched without its index", error.what());
                disk.effort.find(what, error.site().to_vec());
            }
            Err(error) => return Err(error),
        }
    }
    dir::scan(disk, inode, &matches)
}

/// An entry of the blocks, unless the log unlinked it: in a casefolded directory its name may differ from the one asked for.
fn unlinked(disk: &Disk, inode: &Inode, entry: Entry) -> Option<Entry> {
    let names = disk.records.names(inode.ino);
    (!names.is_some_and(|names| names.contains_key(&entry.name))).then_some(entry)
}
