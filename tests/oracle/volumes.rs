//! Partition tables and signatures against sfdisk, sgdisk, mmls, blkid and the crate `gpt`.

#[path = "volumes/luks.rs"]
mod luks;
#[path = "volumes/lvm.rs"]
mod lvm;
#[path = "volumes/signatures.rs"]
mod signatures;
#[path = "volumes/tables.rs"]
mod tables;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::Cache;
use coldread::block::file::HostFile;
use coldread::effort::Effort;
use coldread::volume::{Options, Scan, scan};

/// An image as a disk.
pub fn disk(path: &Path) -> Source {
    Arc::new(HostFile::new(path.display().to_string(), File::open(path).unwrap()).unwrap())
}

/// The plain options.
pub fn options() -> Options {
    Options::new(&Cache::new(4 << 20), &Arc::new(Effort::default()))
}

/// What coldread sees on an image.
pub fn look(path: &Path) -> Scan {
    scan(&disk(path), &options()).unwrap()
}
