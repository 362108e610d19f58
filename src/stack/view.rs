//! Names and content of the guest, each path asked of the permit first.

use std::sync::Arc;

use crate::bytes::escape;
use crate::effort::Effort;
use crate::error::{Error, Result};
use crate::fs::path::{self, Resolved};
use crate::fs::walk::Walk;
use crate::fs::{Facts, FileSystem, Tree, Spot};
use crate::permit::{Act, Permit};

/// The guest's names and, for acts that give content, bytes. Paths are judged after resolution: neither symbolic links nor `..`
/// lead around the permit.
pub struct View<A: Act> {
    fs: Arc<dyn FileSystem>,
    permit: Permit<A>,
    effort: Arc<Effort>,
    volume: String,
}

impl<A: Act> View<A> {
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        permit: Permit<A>,
        effort: Arc<Effort>,
        volume: String,
    ) -> Self {
        Self { fs, permit, effort, volume }
    }

    /// What the filesystem says of itself.
    pub fn facts(&self) -> &Facts {
        self.fs.facts()
    }

    /// What the volume is called in messages and manifests.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The effort that the stack was opened with.
    pub fn effort(&self) -> &Arc<Effort> {
        &self.effort
    }

    /// Whether the permit covers this resolved path.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.permit.covers(path)
    }

    /// An error unless the permit covers this resolved path.
    pub fn check(&self, path: &[u8]) -> Result<()> {
        if self.permit.covers(path) {
            return Ok(());
        }
        Err(Error::refused(format!("{}: the approval does not cover this path", escape(path))))
    }

    /// The namespace. Whoever walks it asks [`View::covers`] of every path that is shown or opened.
    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree::new(&*self.fs)
    }

    /// What `path` leads to, if the permit covers where it ends up. The last link is followed if `follow` is set.
    pub(crate) fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved<'_>> {
        let tree = self.tree();
        let found = path::resolve(&tree, path, follow)?;
        self.check(&found.path)?;
        Ok(found)
    }

    /// What is seen at `path`: `spot`, or what is mounted over it.
    pub(crate) fn seen<'a>(&'a self, path: &[u8], spot: Spot<'a>) -> Spot<'a> {
        self.tree().seen(path, spot)
    }

    /// Everything at and below a node that was resolved.
    pub(crate) fn walk<'a>(&'a self, spot: Spot<'a>, path: &[u8]) -> Walk<'a> {
        Walk::new(&self.tree(), spot, path, &self.effort)
    }

    /// Bytes of all its filesystems.
    pub(crate) fn size(&self) -> u64 {
        self.tree().size()
    }
}
