//! ext2, ext3 and ext4.
//!
//! Names are those of the kernel's `fs/ext4/ext4.h` and of `Documentation/filesystems/ext4`. The way of one byte: the
//! superblock gives the geometry, a group descriptor the inode table, the inode an extent tree or a block map, and
//! those the blocks of the volume.

mod acl;
mod backup;
mod casefold;
mod checksum;
mod content;
mod dir;
mod dirent;
mod disk;
mod ea_inode;
mod encrypt;
mod extents;
mod flags;
mod footprint;
mod group;
mod hash;
mod htree;
mod indirect;
mod inline;
mod inode;
pub mod journal;
mod lookup;
mod map;
mod orphan;
mod records;
mod superblock;
mod xattr;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use self::content::Content;
use self::dir::Listing;
use self::disk::Disk;
use self::inode::Inode;
use self::journal::Replayed;
use self::records::Records;
use self::superblock::Superblock;
use super::{
    Attribute, Each, Entry, Facts, FileSystem, FileType, InodeState, Node, NodeId, Options, Role, Stream,
    StreamInfo, Time,
};
use crate::block::Source;
use crate::block::cache::Cached;
use crate::block::memory::Memory;
use crate::block::slice::Slice;
use crate::error::{Error, Result};

/// `EXT4_ROOT_INO`.
const ROOT: u64 = 2;

/// An opened ext2, ext3 or ext4.
pub struct Ext4 {
    disk: Arc<Disk>,
    facts: Facts,
}

/// Opens the filesystem on the first of `sources`.
pub fn open(sources: &[Source], options: &Options) -> Result<Arc<dyn FileSystem>> {
    let raw = sources.first().ok_or_else(|| Error::usage("ext4: no volume to open"))?;
    let sb = backup::superblock(raw, &options.effort)?;
    sb.admit()?;
    backup::check_size(&sb, &**raw, &options.effort)?;
    let mut facts = facts(&sb);
    let waits = sb.needs_recovery();
    let mut disk = Arc::new(Disk::new(sb, Arc::clone(raw), Records::default(), options));
    if waits && options.replay {
        let (summary, replayed) = replay(&disk)?;
        facts.replay = Some(summary);
        if let Some(replayed) = replayed {
            let opened = |records| -> Result<Arc<Disk>> {
                let sb = backup::superblock(&replayed.source, &options.effort)?;
                sb.admit()?;
                Ok(Arc::new(Disk::new(sb, Arc::clone(&replayed.source), records, options)))
            };
            disk = opened(Records::default())?;
            if !replayed.fast_commits.is_empty() {
                let records = journal::logical::apply(&disk, replayed.fast_commits)?;
                disk = opened(records)?;
            }
        }
    }
    facts.free = disk.free();
    Ok(Arc::new(Ext4 { disk, facts }))
}

/// What replay did, in one sentence, and what comes of it where there is something to replay.
fn replay(disk: &Arc<Disk>) -> Result<(String, Option<Replayed>)> {
    let sb = &disk.sb;
    if sb.journal_inum == 0 {
        let uuid = superblock::uuid_text(&sb.journal_uuid).unwrap_or_default();
        let what =
            format!("not replayed: the journal is on another device ({:#x}, UUID {uuid})", sb.journal_dev);
        disk.effort.find(format!("ext4: {what}"), Vec::new());
        return Ok((what, None));
    }
    let volume = journal::Volume { block_size: sb.block_size, blocks: sb.blocks_count, needs_recovery: true };
    let inode = journal_inode(disk)?;
    let size = inode.size;
    let journal: Source = Arc::new(Content::new(Arc::clone(disk), inode, size)?);
    let mut replayed = journal::replay(&disk.raw, &volume, &journal, &disk.effort)?;
    let changed = replayed.changed || !replayed.fast_commits.is_empty();
    Ok((std::mem::take(&mut replayed.summary), changed.then_some(replayed)))
}

/// The journal's inode, or what the superblock keeps of it (`s_jnl_blocks`) when the inode is damaged.
fn journal_inode(disk: &Disk) -> Result<Inode> {
    let found = disk.inode(disk.sb.journal_inum);
    match &found {
        Ok(inode) if inode.kind() == FileType::File && inode.size > 0 => found,
        _ => match disk.sb.journal_backup() {
            Some(inode) => {
                let what = format!(
                    "ext4 inode {}: the journal's inode is damaged; its map is taken from the superblock",
                    disk.sb.journal_inum
                );
                disk.effort.find(what, Vec::new());
                Ok(inode)
            }
            None => found,
        },
    }
}

/// What the superblock on the disk says, before any replay.
fn facts(sb: &Superblock) -> Facts {
    Facts {
        kind: sb.kind(),
        label: superblock::text(&sb.label),
        uuid: superblock::uuid_text(&sb.uuid),
        block_size: sb.block_size,
        size: sb.size(),
        free: None,
        state: sb.state_word().into(),
        needs_replay: sb.needs_recovery(),
        replay: None,
    }
}

impl Disk {
    fn new(sb: Superblock, raw: Source, records: Records, options: &Options) -> Self {
        let meta = Cached::new(Arc::clone(&raw), &options.cache);
        let effort = Arc::clone(&options.effort);
        Self { sb, raw, meta, records, effort, orphans: OnceLock::new() }
    }
}

impl Ext4 {
    fn inode(&self, id: NodeId) -> Result<Inode> {
        let ino = u32::try_from(id.ino).ok().filter(|_| id.tree == 0);
        let ino = ino.ok_or_else(|| Error::not_found(format!("ext4 has no inode {}", id.ino)))?;
        self.disk.inode(ino)
    }

    fn directory(&self, id: NodeId) -> Result<Inode> {
        let inode = self.inode(id)?;
        if inode.kind() == FileType::Dir {
            return Ok(inode);
        }
        Err(Error::usage(format!("ext4 inode {} is no directory", id.ino)))
    }

    /// Bytes of the last block after the end of the content.
    fn slack(&self, inode: &Inode) -> u64 {
        if inode.has(flags::INLINE_DATA) || inode.is_fast_symlink() || !inode.maps_blocks() {
            return 0;
        }
        let size = u64::from(self.disk.sb.block_size);
        inode.size.checked_next_multiple_of(size).map_or(0, |end| end.saturating_sub(inode.size))
    }
}

impl FileSystem for Ext4 {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId::new(ROOT)
    }

    fn node(&self, id: NodeId) -> Result<Node> {
        let inode = self.inode(id)?;
        let kind = inode.kind();
        let device = matches!(kind, FileType::Char | FileType::Block);
        let state = match inode.links {
            0 if self.disk.orphans().contains(&inode.ino) => InodeState::Orphan,
            0 => InodeState::Deleted,
            _ => InodeState::Live,
        };
        let gone = state == InodeState::Deleted && inode.dtime != 0;
        Ok(Node {
            id,
            kind,
            mode: inode.mode & 0o7777,
            nlink: inode.links.into(),
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            atime: Some(inode.atime),
            mtime: Some(inode.mtime),
            ctime: Some(inode.ctime),
            crtime: inode.crtime,
            dtime: gone.then(|| Time { seconds: inode.dtime.into(), nanoseconds: 0 }),
            rdev: device.then(|| inode.rdev()),
            generation: Some(inode.generation.into()),
            flags: flags::names(inode.flags),
            state,
        })
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Entry>> {
        let inode = self.directory(dir)?;
        lookup::lookup(&self.disk, &inode, name)
    }

    fn entries(&self, dir: NodeId) -> Result<Each<'_, Entry>> {
        let inode = self.directory(dir)?;
        Ok(Box::new(Listing::new(&self.disk, &inode)?))
    }

    fn streams(&self, id: NodeId) -> Result<Vec<StreamInfo>> {
        let inode = self.inode(id)?;
        let mut streams = Vec::new();
        if matches!(inode.kind(), FileType::File | FileType::Symlink) {
            streams.push(StreamInfo::Content(inode.size));
        }
        match self.slack(&inode) {
            0 => {}
            slack => streams.push(StreamInfo::Slack(slack)),
        }
        Ok(streams)
    }

    fn open(&self, id: NodeId, stream: Stream<'_>) -> Result<Source> {
        let inode = self.inode(id)?;
        if !inode.maps_blocks() {
            return Err(Error::usage(format!("ext4 inode {} has no content", id.ino)));
        }
        if inode.has(flags::ENCRYPT) && inode.kind() != FileType::Dir {
            return Err(encrypt::refusal(inode.ino, "content"));
        }
        match stream {
            Stream::Content if inode.is_fast_symlink() => {
                let data = inode.block.get(..usize::try_from(inode.size).unwrap_or(0)).unwrap_or_default();
                Ok(Arc::new(Memory::new(format!("inode {}", id.ino), data)))
            }
            Stream::Content if inode.has(flags::INLINE_DATA) => {
                let data = inline::content(&self.disk, &inode)?;
                Ok(Arc::new(Memory::new(format!("inode {}", id.ino), data)))
            }
            Stream::Content => {
                let size = inode.size;
                Ok(Arc::new(Content::new(Arc::clone(&self.disk), inode, size)?))
            }
            Stream::Slack => {
                let (size, slack) = (inode.size, self.slack(&inode));
                let whole = Content::new(Arc::clone(&self.disk), inode, size.saturating_add(slack))?;
                Ok(Arc::new(Slice::new(format!("slack of inode {}", id.ino), Arc::new(whole), size, slack)?))
            }
            Stream::Named(_) => Err(Error::not_found("ext4 has no named streams")),
        }
    }

    fn link(&self, id: NodeId) -> Result<Vec<u8>> {
        /// `PATH_MAX`: the kernel makes no longer target.
        const TARGET_MAX: u64 = 4096;
        let inode = self.inode(id)?;
        if inode.kind() != FileType::Symlink {
            return Err(Error::usage(format!("ext4 inode {} is no symbolic link", id.ino)));
        }
        if inode.has(flags::ENCRYPT) {
            return Err(encrypt::refusal(inode.ino, "target"));
        }
        if inode.size > TARGET_MAX {
            return Err(Error::corrupt(format!("ext4 inode {}: a target of {} bytes", id.ino, inode.size)));
        }
        let source = self.open(id, Stream::Content)?;
        crate::block::read_vec(&*source, 0, usize::try_from(source.len()).unwrap_or(0))
    }

    fn attributes(&self, id: NodeId) -> Result<Vec<Attribute>> {
        xattr::attributes(&self.disk, &self.inode(id)?)
    }

    fn footprint(&self, id: NodeId, visit: &mut dyn FnMut(Range<u64>, Role)) -> Result<()> {
        footprint::footprint(&self.disk, &self.inode(id)?, visit)
    }

    fn orphans(&self) -> Result<Vec<NodeId>> {
        Ok(self.disk.orphans().iter().map(|ino| NodeId::new((*ino).into())).collect())
    }
}
