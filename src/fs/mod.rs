//! Floor 5: a volume becomes names and contents.
//!
//! A reader is a file (or a folder) here and a row in [`READERS`]. A file's content is a [`BlockSource`] too: what copies,
//! hashes and traces disks does the same for files.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod ext4;
#[cfg(test)]
pub(crate) mod fake;
mod node;
pub mod path;
mod tree;
pub mod walk;

use std::ops::Range;
use std::sync::Arc;

pub use node::{Attribute, Entry, FileType, InodeState, NameState, Node, NodeId, Stream, StreamInfo, Time};
pub use tree::{Spot, Tree};

use crate::block::Source;
use crate::block::cache::Cache;
use crate::effort::Effort;
use crate::error::Result;

/// Things that come one by one. One that cannot be read is an `Err` in the stream and does not end it.
pub type Each<'a, T> = Box<dyn Iterator<Item = Result<T>> + Send + 'a>;

/// An opened filesystem.
pub trait FileSystem: Send + Sync {
    /// What it says of itself.
    fn facts(&self) -> &Facts;

    /// The directory that everything hangs from.
    fn root(&self) -> NodeId;

    /// The metadata of a node. A number that never held one is NotFound; one that breaks the format is Corrupt.
    fn node(&self, id: NodeId) -> Result<Node>;

    /// Finds one name by the directory's own rules (hashes, casefolding). `None` only from a sound directory.
    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Entry>>;

    /// The names in a directory, without `.` and `..`, in the order they lie.
    fn entries(&self, dir: NodeId) -> Result<Each<'_, Entry>>;

    /// The streams of a node: its content, named streams, the slack after its end.
    fn streams(&self, id: NodeId) -> Result<Vec<StreamInfo>>;

    /// The bytes of one stream.
    fn open(&self, id: NodeId, stream: Stream<'_>) -> Result<Source>;

    /// The target of a symbolic link, as it is stored.
    fn link(&self, id: NodeId) -> Result<Vec<u8>>;

    /// Extended attributes with their full names (`user.origin`), POSIX ACLs (`system.posix_acl_access`, in the form that
    /// getxattr(2) gives) and labels among them.
    fn attributes(&self, id: NodeId) -> Result<Vec<Attribute>>;

    /// Every range of the volume on which this node's metadata and content depend.
    fn footprint(&self, id: NodeId, visit: &mut dyn FnMut(Range<u64>, Role)) -> Result<()>;

    /// Nodes that were deleted while open and are still whole, in ascending order.
    fn orphans(&self) -> Result<Vec<NodeId>> {
        Ok(Vec::new())
    }
}

/// Why a node depends on a range of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The inode itself.
    Record,
    /// Extent tree or indirect blocks.
    Map,
    /// Directory blocks.
    Directory,
    /// Extended attributes outside the inode.
    Attribute,
    /// Content.
    Data,
}

/// What a filesystem says of itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `ext4`, `xfs`: the name that mount(8) uses.
    pub kind: &'static str,
    /// The volume label, as stored.
    pub label: Option<String>,
    /// The UUID or serial number, as blkid prints it.
    pub uuid: Option<String>,
    /// Bytes in a block.
    pub block_size: u32,
    /// Bytes in all.
    pub size: u64,
    /// Bytes free, where the filesystem counts them.
    pub free: Option<u64>,
    /// `clean`, `not clean`, `errors`: the state that was found on the disk.
    pub state: String,
    /// Whether a journal waits to be replayed.
    pub needs_replay: bool,
    /// What replay did, in one sentence; `None` when there was none.
    pub replay: Option<String>,
}

/// How to open a filesystem.
#[derive(Clone)]
pub struct Options {
    /// Apply the journal in memory; `false` shows the filesystem as it lies.
    pub replay: bool,
    /// Where metadata is kept.
    pub cache: Arc<Cache>,
    /// Cancellation and findings.
    pub effort: Arc<Effort>,
}

/// Opens a filesystem from its devices; the first is the one that was detected.
pub type Open = fn(&[Source], &Options) -> Result<Arc<dyn FileSystem>>;

/// A reader: the name that detection gives, and how to open it.
pub struct Reader {
    /// As in [`Facts::kind`]; several kinds may share a reader.
    pub kinds: &'static [&'static str],
    /// Opens it.
    pub open: Open,
}

/// Every filesystem that can be read. One row each.
pub const READERS: &[Reader] = &[Reader { kinds: &["ext2", "ext3", "ext4"], open: ext4::open }];
