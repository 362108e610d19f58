//! Directories from their first block to the last, whatever their index says.

use std::sync::Arc;

use super::content::Content;
use super::dirent::{self, DirEntry, HEAD, Layout, TAIL_LEN, TAIL_TYPE};
use super::disk::Disk;
use super::hash::Hasher;
use super::inode::Inode;
use super::map::What;
use super::records::Names;
use super::{encrypt, flags, htree, inline};
use crate::block::{self, Locate};
use crate::effort::Fuel;
use crate::error::{Error, Result};
use crate::fs::{Entry, FileType, NameState, NodeId};

/// The entries of a directory, one after another.
pub(super) struct Listing<'a> {
    disk: &'a Disk,
    chunks: Chunks,
    layout: Layout,
    encrypted: bool,
    /// For the shown names of an encrypted directory.
    hasher: Option<Hasher>,
    indexed: bool,
    /// The chunk under the hand, where it lies on the volume, and the place in it.
    buf: Vec<u8>,
    offset: u64,
    at: usize,
    /// What a fast commit linked, once the blocks are through.
    linked: Option<<&'a Names as IntoIterator>::IntoIter>,
    ino: u32,
}

/// Where the entries lie.
enum Chunks {
    /// In blocks.
    Blocks(Box<Blocks>),
    /// In the inode, and in its attribute.
    Inline(std::vec::IntoIter<(u64, Vec<u8>)>),
}

/// The blocks of a directory, in order.
pub(super) struct Blocks {
    content: Content,
    inode: Inode,
    next: u64,
    end: u64,
    fuel: Fuel,
}

impl Blocks {
    /// All blocks of `inode`.
    pub(super) fn new(disk: &Arc<Disk>, inode: &Inode) -> Result<Self> {
        let made = disk.records.made(inode.ino);
        let end = if made { 0 } else { inode.size.div_ceil(disk.sb.block_size.into()) };
        Ok(Self {
            content: Content::new(Arc::clone(disk), inode.clone(), inode.size)?,
            inode: inode.clone(),
            next: 0,
            end,
            // Blocks that are listed twice and more would make a directory larger than the volume.
            fuel: Fuel::new("ext4 directory", disk.sb.blocks_count.saturating_add(64)),
        })
    }

    /// Reads block `block` of the directory into `buf`; gives where it lies in bytes.
    pub(super) fn read(&self, disk: &Disk, block: u64, buf: &mut Vec<u8>) -> Result<u64> {
        let ino = self.inode.ino;
        match self.content.block_at(block) {
            (range, Some(What::At(start))) => {
                let there = start.saturating_add(block.saturating_sub(range.start));
                disk.read_block(there, buf)?;
                Ok(disk.sb.offset(there))
            }
            (_, Some(What::Lost(why))) => Err(Error::corrupt(&*why)),
            (range, _) => Err(Error::corrupt(format!(
                "ext4 directory inode {ino}: no blocks for its blocks {:#x} to {:#x}",
                block,
                range.end.min(self.end).saturating_sub(1)
            ))),
        }
    }

    /// Reads the next block. After a failure the one after the damage is next.
    fn advance(&mut self, disk: &Disk, buf: &mut Vec<u8>) -> Option<Result<u64>> {
        let block = self.next;
        if block >= self.end {
            return None;
        }
        if let Err(error) = disk.effort.check().and_then(|()| self.fuel.burn(1)) {
            self.next = self.end;
            return Some(Err(error));
        }
        self.next = block.saturating_add(1);
        let read = self.read(disk, block, buf);
        if read.is_err() {
            let (range, what) = self.content.block_at(block);
            if !matches!(what, Some(What::At(_))) {
                self.next = range.end.max(self.next);
            }
        } else if disk.sb.metadata_csum()
            && let Ok(offset) = read
            && let Some(fault) = htree::bad_checksum(disk, &self.inode, block, buf)
        {
            let what = format!("ext4 directory inode {}: block {block:#x}: {fault}", self.inode.ino);
            disk.effort.find(what, block::site(&*disk.raw, offset));
        }
        Some(read)
    }
}

impl<'a> Listing<'a> {
    /// All entries of directory `inode`.
    pub(super) fn new(disk: &'a Arc<Disk>, inode: &Inode) -> Result<Self> {
        if inode.kind() != FileType::Dir {
            return Err(Error::usage(format!("ext4 inode {} is no directory", inode.ino)));
        }
        let chunks = if inode.has(flags::INLINE_DATA) {
            Chunks::Inline(inline::directory(disk, inode)?.into_iter())
        } else {
            Chunks::Blocks(Box::new(Blocks::new(disk, inode)?))
        };
        let encrypted = inode.has(flags::ENCRYPT);
        Ok(Self {
            disk,
            chunks,
            layout: Layout::new(disk, encrypted && inode.has(flags::CASEFOLD)),
            encrypted,
            hasher: if encrypted { Hasher::new(disk, disk.sb.hash_version) } else { None },
            indexed: inode.has(flags::INDEX),
            buf: Vec::new(),
            offset: 0,
            at: 0,
            linked: disk.records.names(inode.ino).map(IntoIterator::into_iter),
            ino: inode.ino,
        })
    }

    /// The entry under the hand, in use or not; moves on. `None` at the end of the chunk.
    fn step(&mut self) -> Option<Result<DirEntry<'_>>> {
        let at = self.at;
        if at >= self.buf.len() {
            return None;
        }
        match self.layout.entry(&self.buf, at) {
            Ok(entry) => {
                self.at = at.saturating_add(entry.rec_len);
                Some(Ok(entry))
            }
            Err(error) => {
                // Nothing tells where the next entry starts; the next block does.
                self.at = self.buf.len();
                let here = self.offset.saturating_add(at as u64);
                let context = format!("ext4 directory inode {}", self.ino);
                Some(Err(error.context(context).found_at(&*self.disk.raw, here)))
            }
        }
    }

    /// Loads the next chunk; `None` when there is none.
    fn chunk(&mut self) -> Option<Result<()>> {
        self.at = 0;
        let loaded = match &mut self.chunks {
            Chunks::Blocks(blocks) => blocks.advance(self.disk, &mut self.buf)?,
            Chunks::Inline(parts) => {
                let (offset, data) = parts.next()?;
                self.buf = data;
                Ok(offset)
            }
        };
        Some(match loaded {
            Ok(offset) => {
                self.offset = offset;
                if self.encrypted && self.indexed && std::mem::take(&mut self.indexed) {
                    let version = htree::Root::parse(&self.buf).map_or(u8::MAX, |root| root.hash_version);
                    self.hasher = Hasher::new(self.disk, version);
                }
                Ok(())
            }
            Err(error) => {
                self.buf.clear();
                Err(error)
            }
        })
    }

    /// The entry under the hand, as it is handed out; `None` for what is not in use or was unlinked in the log.
    fn shown(&mut self) -> Option<Result<Option<Entry>>> {
        let (disk, ino, encrypted, hasher) = (self.disk, self.ino, self.encrypted, self.hasher);
        let raw = match self.step()? {
            Ok(raw) => raw,
            Err(error) => return Some(Err(error)),
        };
        let gone = raw.ino == 0 || raw.is_dot();
        if gone || disk.records.names(ino).is_some_and(|names| names.contains_key(raw.name)) {
            return Some(Ok(None));
        }
        let name = if encrypted { encrypt::shown(hasher.as_ref(), &raw) } else { raw.name.to_vec() };
        Some(handed_out(disk, ino, name, &raw).map(Some))
    }
}

/// `raw` under the name that is shown.
fn handed_out(disk: &Disk, dir: u32, name: Vec<u8>, raw: &DirEntry<'_>) -> Result<Entry> {
    dirent::check(disk, raw.ino, &name).map_err(|e| e.context(format!("ext4 directory inode {dir}")))?;
    Ok(Entry { kind: raw.kind(), id: NodeId::new(raw.ino.into()), state: NameState::Live, name })
}

impl Iterator for Listing<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.shown() {
                Some(Ok(None)) => {}
                Some(Ok(Some(entry))) => return Some(Ok(entry)),
                Some(Err(error)) => return Some(Err(error)),
                None => match self.chunk() {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Some(Err(error)),
                    None => break,
                },
            }
        }
        for (name, link) in self.linked.as_mut()? {
            if let Some((target, kind)) = link {
                let raw = DirEntry { ino: *target, rec_len: 0, name, file_type: Some(*kind), hash: None };
                let shown =
                    if self.encrypted { encrypt::shown(self.hasher.as_ref(), &raw) } else { name.clone() };
                return Some(handed_out(self.disk, self.ino, shown, &raw));
            }
        }
        None
    }
}

/// Finds the first name that `matches` by going through all entries. Damage is an error only when the name is not found
/// elsewhere.
pub(super) fn scan(
    disk: &Arc<Disk>,
    inode: &Inode,
    matches: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Entry>> {
    let mut fault = None;
    for entry in Listing::new(disk, inode)? {
        match entry {
            Ok(entry) if matches(&entry.name) => return Ok(Some(entry)),
            Ok(_) => {}
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    fault.map_or(Ok(None), Err)
}

/// Finds a name in one block, all of which has to be sound.
pub(super) fn find_in(
    disk: &Disk,
    inode: &Inode,
    layout: Layout,
    block: &[u8],
    matches: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Entry>> {
    let mut at = 0;
    let mut found = None;
    while at < block.len() {
        let raw = layout.entry(block, at)?;
        if raw.ino != 0 && found.is_none() && matches(raw.name) {
            found = Some(handed_out(disk, inode.ino, raw.name.to_vec(), &raw)?);
        }
        at = at.saturating_add(raw.rec_len);
    }
    Ok(found)
}

/// The false entry at the end of a block that carries its checksum: where it lies, and the checksum.
pub(super) fn tail(block: &[u8]) -> Option<(usize, u32)> {
    let at = block.len().checked_sub(TAIL_LEN)?;
    let tail = block.get(at..)?;
    let (head, checksum) = tail.split_at_checked(HEAD)?;
    (*head == [0, 0, 0, 0, 12, 0, 0, TAIL_TYPE])
        .then(|| checksum.try_into().map(u32::from_le_bytes).ok().map(|c| (at, c)))
        .flatten()
}
