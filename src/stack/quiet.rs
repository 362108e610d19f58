//! Whether the sources lie still: who has them open for writing, and whether they changed while they were read.

use super::Stack;
use crate::block::locks;
use crate::chain::gate::{Admitted, Identity};
use crate::error::Result;

/// Somebody who may write a source while we read it.
pub struct Writer {
    /// The image file.
    pub path: String,
    /// Who, in a few words.
    pub who: String,
    /// libvirt's name for the domain, where its QEMU can be seen from here.
    pub domain: Option<String>,
}

impl Stack {
    /// The image files of all disks.
    pub fn files(&self) -> impl Iterator<Item = &Admitted> {
        self.disks
            .iter()
            .flat_map(|disk| &disk.chain)
            .flat_map(|chain| &chain.links)
            .flat_map(crate::chain::Link::files)
    }

    /// Who has one of the images open for writing now, by QEMU's own locks. A host filesystem without such locks says nobody.
    pub fn writers(&self) -> Vec<Writer> {
        let mut writers = Vec::new();
        for file in self.files() {
            if let Ok(locks) = locks::inspect(file.file.file())
                && locks.writer()
            {
                let domain =
                    locks.owners.iter().filter(|owner| owner.writer).find_map(|owner| owner.domain.clone());
                writers.push(Writer { path: file.path.display().to_string(), who: locks.who(), domain });
            }
        }
        writers
    }

    /// The image files whose size, times or inode are no longer what they were when they were opened.
    pub fn changed(&self) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for file in self.files() {
            if Identity::of(file.file.file())? != file.identity {
                changed.push(file.path.display().to_string());
            }
        }
        Ok(changed)
    }
}
