//! What the verbs of this floor see of a guest: its tree, what of it they may touch, and when to stop.

use crate::effort::Effort;
use crate::error::Result;
use crate::fs::path::{Resolved, resolve};
use crate::fs::walk::Walk;
use crate::fs::{Spot, Tree};

/// A guest's tree under a permit. `stack::View` makes it.
pub struct Guest<'a> {
    tree: Tree<'a>,
    covers: &'a (dyn Fn(&[u8]) -> bool + Sync),
    effort: &'a Effort,
}

impl<'a> Guest<'a> {
    /// `covers` says whether an absolute, resolved path lies within the permit.
    pub fn new(tree: Tree<'a>, covers: &'a (dyn Fn(&[u8]) -> bool + Sync), effort: &'a Effort) -> Self {
        Self { tree, covers, effort }
    }

    /// Whether the permit covers the path.
    pub fn covers(&self, path: &[u8]) -> bool {
        (self.covers)(path)
    }

    /// When to stop.
    pub fn effort(&self) -> &'a Effort {
        self.effort
    }

    /// From a path to a node; the last component is followed if `follow` is set.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved<'a>> {
        resolve(&self.tree, path, follow)
    }

    /// Everything at and below a node.
    pub fn walk(&self, spot: Spot<'a>, path: &[u8]) -> Walk<'a> {
        Walk::new(&self.tree, spot, path, self.effort)
    }

    /// Bytes of all its filesystems.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }
}
