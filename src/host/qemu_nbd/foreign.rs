//! Formats that only QEMU reads here: how they are recognised, and what they would pull in.

use crate::block::{Source, read_vec};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// QEMU drivers that are used; anything else is refused.
pub const DRIVERS: [&str; 10] =
    ["vmdk", "vhdx", "vdi", "vpc", "qed", "qcow", "parallels", "qcow2", "raw", "dmg"];

/// The driver for a file that the operator named, by its magic. Raw where it has none.
pub fn driver(file: &Source) -> Result<&'static str> {
    let len = file.len();
    let head = read_vec(&**file, 0, usize::try_from(len.min(512)).unwrap_or(0))?;
    let foot = read_vec(&**file, len.saturating_sub(512), usize::try_from(len.min(512)).unwrap_or(0))?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    Ok(match () {
        () if starts(b"QFI\xfb\0\0\0\x01") => "qcow",
        () if starts(b"QFI\xfb") => "qcow2",
        () if starts(b"QED\0") => "qed",
        () if starts(b"KDMV") || starts(b"COWD") || starts(b"# Disk DescriptorFile") => "vmdk",
        () if starts(b"vhdxfile") => "vhdx",
        () if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) => "vdi",
        () if starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt") => "parallels",
        () if starts(b"conectix") || foot.starts_with(b"conectix") => "vpc",
        () if foot.starts_with(b"koly") => "dmg",
        () => "raw",
    })
}

/// Refuses an image that stands on another one: QEMU is told of no backing file, and would read zeros in its place.
pub fn refuse_backing(driver: &str, file: &Source) -> Result<()> {
    let head = read_vec(&**file, 0, usize::try_from(file.len().min(512)).unwrap_or(0))?;
    let stands_on = match driver {
        // QED: features at 16, of which bit 0 is QED_F_BACKING_FILE (QEMU's docs/interop/qed_spec.txt).
        "qed" => Bytes::new(&head, "QED header").le64(16, "features")? & 1 != 0,
        // Version 1: backing_file_offset at 8 (block/qcow.c).
        "qcow" => Bytes::new(&head, "qcow header").be64(8, "backing_file_offset")? != 0,
        // The footer's disk type at 60; 4 is a differencing disk ("Virtual Hard Disk Image Format Specification").
        "vpc" => {
            let at = file.len().saturating_sub(512);
            let foot = read_vec(&**file, at, usize::try_from(file.len().min(512)).unwrap_or(0))?;
            let footer = if head.starts_with(b"conectix") { &head } else { &foot };
            Bytes::new(footer, "VHD footer").be32(60, "Disk Type")? == 4
        }
        _ => false,
    };
    if stands_on {
        return Err(Error::unsupported(format!(
            "{}: a {driver} image that stands on another one",
            file.name()
        ))
        .hint("convert the chain with `qemu-img convert` where it was made"));
    }
    Ok(())
}
