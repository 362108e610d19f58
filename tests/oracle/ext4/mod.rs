//! ext2, ext3 and ext4 against the kernel's own mount, and against what mke2fs copied in where the kernel mounts nothing.

mod compare;
mod damage;
mod features;
mod matrix;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::{BUDGET, Cache};
use coldread::block::file::HostFile;
use coldread::effort::Effort;
use coldread::fs::{FileSystem, Options, READERS};

use crate::support::{repository, run};

/// An opened filesystem and what was found wrong with it.
pub struct Opened {
    pub fs: Arc<dyn FileSystem>,
    pub effort: Arc<Effort>,
}

impl Opened {
    /// Opens `image` as ext4.
    pub fn new(image: &Path) -> Self {
        Self::try_new(image, true).unwrap()
    }

    /// Opens `image`; `replay` as in [`Options`].
    pub fn try_new(image: &Path, replay: bool) -> coldread::error::Result<Self> {
        let file = std::fs::File::open(image).unwrap();
        let source: Source = Arc::new(HostFile::new("image", file)?);
        let effort = Arc::new(Effort::default());
        let options = Options { replay, cache: Cache::new(BUDGET), effort: Arc::clone(&effort) };
        let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).unwrap();
        let fs = (reader.open)(&[source], &options)?;
        Ok(Self { fs, effort })
    }

    /// What was found wrong, a sentence each.
    pub fn findings(&self) -> Vec<String> {
        self.effort.findings().0.into_iter().map(|finding| finding.what).collect()
    }
}

/// Makes an image of `size` bytes with mke2fs, with a fixed UUID and hash seed.
pub fn mkfs(dir: &Path, size: u64, options: &str) -> PathBuf {
    let image = dir.join("image");
    std::fs::File::create(&image).unwrap().set_len(size).unwrap();
    let mut args: Vec<&str> = options.split_whitespace().collect();
    args.extend(["-q", "-F", "-U", "6f6c6420-7265-6164-2065-787434210a0a"]);
    args.extend(["-E", "hash_seed=01020304-0506-0708-090a-0b0c0d0e0f10,lazy_itable_init=0"]);
    args.push(image.to_str().unwrap());
    run("mke2fs", &args);
    image
}

/// Fills `dir` with everything that a file can be; `small` for mke2fs to copy.
pub fn populate(dir: &Path, entries: u32, small: bool) {
    let script = repository("tests/oracle/ext4/populate.py");
    let size = if small { "small" } else { "all" };
    run("python3", &[script.as_os_str(), dir.as_os_str(), entries.to_string().as_ref(), size.as_ref()]);
}
