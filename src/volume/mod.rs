//! Floor 4: a disk becomes volumes.
//!
//! [`scan`] reads the partition table (`gpt`, `mbr`) and asks `detect` what each volume holds. A damaged table is no
//! error: what can be read is shown, and what is wrong is said beside it.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod detect;
mod gpt;
pub mod luks;
pub mod lvm;
mod mbr;
mod scan;
mod text;
mod tree;
mod types;

use crate::block::Source;

pub use detect::Usage;
pub use luks::Key;
pub use scan::{Options, Scan};
pub use tree::{scan, scan_all};

/// By what a volume was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A GUID partition table.
    Gpt,
    /// A master boot record, or a logical partition below one.
    Mbr,
    /// A logical volume.
    Lvm,
    /// An opened LUKS volume.
    Luks,
    /// A software RAID.
    Md,
    /// The whole disk.
    Whole,
    /// A subvolume of a filesystem.
    Subvolume,
}

impl Scheme {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Mbr => "mbr",
            Self::Lvm => "lvm",
            Self::Luks => "luks",
            Self::Md => "md",
            Self::Whole => "whole",
            Self::Subvolume => "subvolume",
        }
    }
}

/// One volume of a disk.
#[derive(Clone)]
pub struct Volume {
    /// The partition's number, as in `nbd0p1`; 0 for the whole disk; beyond the partitions' numbers for all others.
    pub index: u32,
    /// The index of the volume that it lies in, if it is not the disk itself.
    pub parent: Option<u32>,
    /// By what it was found.
    pub scheme: Scheme,
    /// Where it starts in its parent, in bytes.
    pub start: u64,
    /// Its size in bytes, as its table says.
    pub size: u64,
    /// The partition type in words, with its GUID or number where there is no word.
    pub kind: String,
    /// The partition's name; `vg/lv` for a logical volume.
    pub name: Option<String>,
    /// The partition's UUID.
    pub uuid: Option<String>,
    /// What it holds.
    pub content: Option<Content>,
    /// Its bytes, where they can be had.
    pub source: Option<Source>,
    /// What is wrong with it, a sentence each.
    pub problems: Vec<String>,
}

/// What a volume holds, by its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// `ext4`, `xfs`, `LVM2_member`, `crypto_LUKS`, `swap`…: the TYPE that blkid(8) prints.
    pub kind: &'static str,
    /// The label, as blkid prints it.
    pub label: Option<String>,
    /// The UUID, as blkid prints it.
    pub uuid: Option<String>,
    /// The format's version where one matters: `2` of LUKS, `FAT32`, `1.2` of a RAID member.
    pub version: Option<String>,
    /// What sort of thing it is.
    pub usage: Usage,
}
