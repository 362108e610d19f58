//! The names of a whole guest: one filesystem, and others mounted in it.

use super::{FileSystem, NodeId};

/// A node of one of the filesystems of a [`Tree`].
#[derive(Clone, Copy)]
pub struct Spot<'a> {
    /// The filesystem it is in.
    pub fs: &'a dyn FileSystem,
    /// Which of the tree's filesystems that is: 0 is the root, 1 the first mount. Tells equal node numbers apart.
    pub mount: u32,
    /// Its number there.
    pub id: NodeId,
}

impl Spot<'_> {
    /// A key under which the same node always comes, and no other.
    pub fn key(&self) -> (u32, NodeId) {
        (self.mount, self.id)
    }
}

impl std::fmt::Debug for Spot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mount {} node {}:{}", self.mount, self.id.tree, self.id.ino)
    }
}

/// A root filesystem with others mounted at absolute, resolved paths.
#[derive(Clone)]
pub struct Tree<'a> {
    root: Spot<'a>,
    mounts: Vec<(&'a [u8], Spot<'a>)>,
}

impl<'a> Tree<'a> {
    /// A tree of one filesystem.
    pub fn new(fs: &'a dyn FileSystem) -> Self {
        Self::rooted(fs, fs.root())
    }

    /// A tree that starts at a node other than the filesystem's own root (a subvolume).
    pub fn rooted(fs: &'a dyn FileSystem, root: NodeId) -> Self {
        Self { root: Spot { fs, mount: 0, id: root }, mounts: Vec::new() }
    }

    /// Mounts `fs` from its node `root` on at `path`: absolute, without `.`, `..`, symbolic links and a slash at the end. A later
    /// mount at the same path hides an earlier one. A mount at `/` replaces the root.
    #[must_use]
    pub fn mount(mut self, path: &'a [u8], fs: &'a dyn FileSystem, root: NodeId) -> Self {
        let mount = u32::try_from(self.mounts.len().saturating_add(1)).unwrap_or(u32::MAX);
        let spot = Spot { fs, mount, id: root };
        if path == b"/" {
            self.root = spot;
        } else {
            self.mounts.push((path, spot));
        }
        self
    }

    /// Where everything hangs from.
    pub fn root(&self) -> Spot<'a> {
        self.root
    }

    /// Bytes of all filesystems together.
    pub fn size(&self) -> u64 {
        let mounted = self.mounts.iter().map(|(_, spot)| spot.fs.facts().size);
        mounted.fold(self.root.fs.facts().size, u64::saturating_add)
    }

    /// What is seen at `path`, if the tree below has `spot` there: the mounted root, or `spot` itself.
    pub fn seen(&self, path: &[u8], spot: Spot<'a>) -> Spot<'a> {
        self.mounts.iter().rev().find(|(at, _)| *at == path).map_or(spot, |(_, mounted)| *mounted)
    }
}
