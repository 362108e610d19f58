//! What an approval covers, path by path.

use super::document::Document;
use super::glob::Glob;
use crate::permit::Scope;

/// Globs and disks of a signed document, or everything.
#[derive(Clone, Debug)]
pub enum Rules {
    /// Stated approvals and emergencies name no limits.
    Everything,
    /// What a document names.
    Limited {
        /// Over resolved paths.
        globs: Vec<Glob>,
        /// By name; `*` is any.
        disks: Vec<String>,
        /// Acts without a path.
        whole_disk: bool,
    },
}

impl Rules {
    /// From a document that was checked.
    pub fn of(document: &Document) -> Result<Self, String> {
        Ok(Self::Limited {
            globs: document.paths.iter().map(|glob| Glob::new(glob)).collect::<Result<_, _>>()?,
            disks: document.disks.clone(),
            whole_disk: document.whole_disk,
        })
    }
}

impl Scope for Rules {
    fn covers_path(&self, path: &[u8]) -> bool {
        match self {
            Self::Everything => true,
            Self::Limited { globs, .. } => globs.iter().any(|glob| glob.matches(path)),
        }
    }

    fn leads_through(&self, dir: &[u8]) -> bool {
        match self {
            Self::Everything => true,
            Self::Limited { globs, .. } => globs.iter().any(|glob| glob.leads_through(dir)),
        }
    }

    fn covers_disk(&self, disk: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Limited { disks, .. } => disks.iter().any(|covered| covered == "*" || covered == disk),
        }
    }

    fn whole_disk(&self) -> bool {
        match self {
            Self::Everything => true,
            Self::Limited { whole_disk, .. } => *whole_disk,
        }
    }
}
