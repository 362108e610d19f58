//! The space that a view takes: QEMU pauses a guest whose scratch file cannot grow, so the job ends before that.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The least room a view begins with, in bytes, above the floor.
const LEAST: u64 = 64 << 20;
/// A filesystem with less than this left is full for a guest that writes.
const AS_GOOD_AS_FULL: u64 = 4 << 20;

/// At which point a job has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most that all scratch files together may take, in bytes.
    pub most: u64,
    /// The least that has to stay free on their filesystem, in bytes.
    pub floor: u64,
}

impl Limits {
    /// The limits for a directory, which has to have room now.
    pub fn choose(dir: &Path, most: Option<u64>, floor: u64) -> Result<Self> {
        let free = free(dir)?;
        let room = free.saturating_sub(floor);
        let needed = most.unwrap_or(LEAST).min(LEAST);
        if room < needed {
            return Err(super::view::no_view(format!(
                "{} has {free} bytes free; {floor} have to stay free, {needed} more are needed to begin",
                dir.display()
            ))
            .hint("--scratch DIR names another place; --hold reads without a view"));
        }
        Ok(Self { most: most.unwrap_or(room).min(room), floor })
    }

    /// Which limit the scratch files have reached, as a sentence.
    pub fn exhausted(&self, files: &[PathBuf]) -> Option<String> {
        let used: u64 = files
            .iter()
            .filter_map(|file| file.metadata().ok())
            .map(|meta| meta.blocks().saturating_mul(512))
            .sum();
        if used > self.most {
            return Some(format!("the scratch files have {used} bytes, {} is the most", self.most));
        }
        let free = free(files.first()?.parent()?).ok()?;
        (free < self.floor)
            .then(|| format!("{free} bytes are free beside the scratch files, {} have to stay", self.floor))
    }
}

/// Whether nothing more fits beside this file.
pub fn is_full(file: &Path) -> bool {
    file.parent().and_then(|dir| free(dir).ok()).is_some_and(|free| free < AS_GOOD_AS_FULL)
}

/// The bytes that are free for others than root: QEMU does not run as root.
fn free(dir: &Path) -> Result<u64> {
    let stat = statvfs(dir).map_err(|e| Error::io(format!("the free space of {}", dir.display()), e))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_ends_at_its_own_size_or_at_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits::choose(dir.path(), Some(1 << 20), 0).unwrap();
        assert_eq!(limits.most, 1 << 20);
        let file = dir.path().join("vda.scratch");
        std::fs::write(&file, vec![1; 512 << 10]).unwrap();
        assert_eq!(limits.exhausted(std::slice::from_ref(&file)), None);
        std::fs::write(&file, vec![1; 2 << 20]).unwrap();
        std::fs::File::open(&file).unwrap().sync_all().unwrap();
        assert!(limits.exhausted(std::slice::from_ref(&file)).unwrap().contains("is the most"));
        let floor = Limits { most: u64::MAX, floor: u64::MAX };
        assert!(floor.exhausted(&[file]).unwrap().contains("have to stay"));
        assert!(Limits::choose(dir.path(), None, u64::MAX).unwrap_err().to_string().contains("--scratch"));
    }
}
