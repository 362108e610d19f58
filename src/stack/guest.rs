//! What the verbs of evidence see of a guest: its tree, what of it they may touch, and when to stop.

use std::sync::{Mutex, PoisonError};

use crate::bytes::escape;
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};
use crate::fs::path::{Resolved, resolve};
use crate::fs::walk::Walk;
use crate::fs::{Spot, Tree};
use crate::permit::Scope;

/// A guest's tree under a permit's scope; a [`super::View`] makes it. Whoever shows or opens what it walks to asks
/// [`Guest::covers`] first.
pub(crate) struct Guest<'a> {
    tree: Tree<'a>,
    scope: &'a dyn Scope,
    effort: &'a Effort,
    refusals: &'a Refusals,
}

/// Paths that were asked for, or met, and that the permit does not cover: for the log.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Vec<Vec<u8>>>);

/// Refused paths that are kept.
const REFUSALS_KEPT: usize = 10_000;

impl Refusals {
    fn note(&self, path: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < REFUSALS_KEPT && kept.last().is_none_or(|last| last != path) {
            kept.push(path.to_vec());
        }
    }

    /// The paths so far.
    pub(crate) fn paths(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<'a> Guest<'a> {
    pub(crate) fn new(
        tree: Tree<'a>,
        scope: &'a dyn Scope,
        effort: &'a Effort,
        refusals: &'a Refusals,
    ) -> Self {
        Self { tree, scope, effort, refusals }
    }

    /// Whether the permit covers this absolute, resolved path. That it does not is noted.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let covered = self.scope.covers_path(path);
        if !covered {
            self.refusals.note(path);
        }
        covered
    }

    /// When to stop.
    pub(crate) fn effort(&self) -> &'a Effort {
        self.effort
    }

    /// Where everything hangs from.
    pub(crate) fn root(&self) -> Spot<'a> {
        self.tree.root()
    }

    /// From a path to a node; the last component is followed if `follow` is set. The permit is asked about where it ends up.
    pub(crate) fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved<'a>> {
        match resolve(&self.tree, path, follow) {
            Ok(found) if self.covers(&found.path) => Ok(found),
            Ok(found) => Err(not_covered(&found.path)),
            Err(error) => Err(self.unsaid(path, error)),
        }
    }

    /// Outside of the permit nobody is told what is there and what is not: the refusal is the same. What lies where the
    /// path stops leading on decides.
    fn unsaid(&self, path: &[u8], error: Error) -> Error {
        if error.kind() != Kind::NotFound {
            return error;
        }
        let mut end = path.len();
        loop {
            let cut = path.get(..end).unwrap_or(path);
            let here = if cut.is_empty() { &b"/"[..] } else { cut };
            if let Ok(found) = resolve(&self.tree, here, true) {
                let rest = path.get(end..).unwrap_or_default();
                let next = rest.split(|byte| *byte == b'/').find(|name| !name.is_empty() && *name != b".");
                let mut at = found.path;
                if let Some(name) = next {
                    if at.last() != Some(&b'/') {
                        at.push(b'/');
                    }
                    at.extend_from_slice(name);
                }
                if self.scope.covers_path(&at) || self.scope.leads_through(&at) {
                    return error;
                }
                self.refusals.note(&at);
                return not_covered(&at);
            }
            match cut.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => end = slash,
                None => return error,
            }
        }
    }

    /// What is seen at `path`: `spot`, or what is mounted over it.
    pub(crate) fn seen(&self, path: &[u8], spot: Spot<'a>) -> Spot<'a> {
        self.tree.seen(path, spot)
    }

    /// Everything at and below a node.
    pub(crate) fn walk(&self, spot: Spot<'a>, path: &[u8]) -> Walk<'a> {
        Walk::new(&self.tree, spot, path, self.effort)
    }

    /// Bytes of all its filesystems.
    pub(crate) fn size(&self) -> u64 {
        self.tree.size()
    }
}

fn not_covered(path: &[u8]) -> Error {
    Error::refused(format!("{}: the approval does not cover this path", escape(path)))
}
