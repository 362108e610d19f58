//! Names and content of the guest, as far as a permit goes.

use std::sync::Arc;

use super::guest::{Guest, Refusals};
use crate::effort::Effort;
use crate::fs::{Facts, FileSystem, Tree};
use crate::permit::{Act, Permit};

/// The guest under a permit for one act. The verbs of [`crate::evidence`] take it; those that give content ask for an act that
/// does ([`crate::permit::Content`]). Paths are judged after resolution: neither symbolic links nor `..` lead around the
/// permit.
pub struct View<A: Act> {
    fs: Arc<dyn FileSystem>,
    permit: Permit<A>,
    effort: Arc<Effort>,
    volume: String,
    refusals: Refusals,
}

impl<A: Act> View<A> {
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        permit: Permit<A>,
        effort: Arc<Effort>,
        volume: String,
    ) -> Self {
        Self { fs, permit, effort, volume, refusals: Refusals::default() }
    }

    /// What the filesystem says of itself.
    pub fn facts(&self) -> &Facts {
        self.fs.facts()
    }

    /// What the volume is called in messages and manifests.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// Paths that were asked for, or met, and that the permit does not cover.
    pub fn refusals(&self) -> Vec<Vec<u8>> {
        self.refusals.paths()
    }

    /// Its tree and scope.
    pub(crate) fn guest(&self) -> Guest<'_> {
        Guest::new(Tree::new(&*self.fs), self.permit.scope(), &self.effort, &self.refusals)
    }
}
