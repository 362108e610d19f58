//! Filesystems of Linux with a superblock at one place.

use super::super::text;
use super::{Content, Probe, Row, Usage, plain, view};

const BTRFS_MAGIC: &[u8] = b"_BHRfS_M";

pub(super) const ROWS: &[Row] = &[
    Row { kind: "xfs", usage: Usage::Filesystem, magics: &[(0, b"XFSB")], parse: xfs },
    Row {
        kind: "btrfs",
        usage: Usage::Filesystem,
        magics: &[(0x10040, BTRFS_MAGIC)],
        parse: |p, _| btrfs(p, 0x10000),
    },
    Row {
        kind: "squashfs",
        usage: Usage::Filesystem,
        magics: &[(0, b"hsqs"), (0, b"sqsh")],
        parse: squashfs,
    },
    Row {
        kind: "erofs",
        usage: Usage::Filesystem,
        magics: &[(0x400, b"\xe2\xe1\xf5\xe0")],
        parse: |p, _| labelled(p, 0x400, 48, 64, 16),
    },
    Row { kind: "f2fs", usage: Usage::Filesystem, magics: &[(0x400, b"\x10\x20\xf5\xf2")], parse: f2fs },
    Row { kind: "jfs", usage: Usage::Filesystem, magics: &[(0x8000, b"JFS1")], parse: jfs },
    Row {
        kind: "reiserfs",
        usage: Usage::Filesystem,
        magics: &[
            (0x10034, b"ReIsEr2Fs"),
            (0x10034, b"ReIsEr3Fs"),
            (0x10034, b"ReIsErFs"),
            (0x2034, b"ReIsErFs"),
            (0x2014, b"ReIsErFs"),
        ],
        parse: reiserfs,
    },
    Row {
        kind: "reiser4",
        usage: Usage::Filesystem,
        magics: &[(0x10000, b"ReIsEr4")],
        parse: |p, _| labelled(p, 0x10000, 20, 36, 16),
    },
    Row { kind: "nilfs2", usage: Usage::Filesystem, magics: &[(0x406, b"\x34\x34")], parse: nilfs2 },
    Row {
        kind: "bcachefs",
        usage: Usage::Filesystem,
        magics: &[(0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")],
        parse: |p, _| labelled(p, 0x1000, 56, 72, 32),
    },
    Row {
        kind: "cramfs",
        usage: Usage::Filesystem,
        magics: &[(0, b"\x45\x3d\xcd\x28"), (0, b"\x28\xcd\x3d\x45")],
        parse: |p, _| named(p, 48, 16),
    },
    Row {
        kind: "romfs",
        usage: Usage::Filesystem,
        magics: &[(0, b"-rom1fs-")],
        parse: |p, _| named(p, 16, 16),
    },
    Row { kind: "ubi", usage: Usage::Other, magics: &[(0, b"UBI#")], parse: ubi },
    Row { kind: "ubifs", usage: Usage::Filesystem, magics: &[(0, b"\x31\x18\x10\x06")], parse: ubifs },
    Row { kind: "zonefs", usage: Usage::Filesystem, magics: &[(0, b"SFOZ")], parse: plain },
];

/// A superblock at `at` with a UUID and a label at fixed places in it.
pub(super) fn labelled(probe: &Probe<'_>, at: u64, uuid: u64, label: u64, len: usize) -> Option<Content> {
    Some(Content {
        label: text::label(&probe.bytes(at.checked_add(label)?, len)?),
        uuid: text::uuid_set(&probe.array(at.checked_add(uuid)?)?),
        ..Content::default()
    })
}

/// Nothing but a label.
fn named(probe: &Probe<'_>, label: u64, len: usize) -> Option<Content> {
    Some(Content { label: text::label(&probe.bytes(label, len)?), ..Content::default() })
}

/// `struct xfs_dsb`, fs/xfs/libxfs/xfs_format.h.
fn xfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let log = u32::from(probe.array::<1>(120)?[0]);
    // sb_blocklog belongs to sb_blocksize: four bytes of text are little.
    (probe.be32(4)? == 1u32.checked_shl(log)?).then_some(())?;
    labelled(probe, 0, 32, 108, 12)
}

/// `struct btrfs_super_block` at `at`.
fn btrfs(probe: &Probe<'_>, at: u64) -> Option<Content> {
    labelled(probe, at, 0x20, 0x12b, 256)
}

/// The second copy of btrfs' superblock, at 64 MiB.
pub(super) fn btrfs_spare(probe: &Probe<'_>) -> Option<(Content, u64)> {
    const AT: u64 = 64 << 20;
    (probe.has(AT.checked_add(0x40)?, BTRFS_MAGIC) && probe.le64(AT.checked_add(0x30)?)? == AT)
        .then_some(())?;
    Some((Content { kind: "btrfs", ..btrfs(probe, AT)? }, AT))
}

fn squashfs(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let (major, minor) =
        if place == 0 { (probe.le16(28)?, probe.le16(30)?) } else { (probe.be16(28)?, probe.be16(30)?) };
    let kind = if major >= 4 { "squashfs" } else { "squashfs3" };
    Some(Content { kind, version: Some(format!("{major}.{minor}")), ..Content::default() })
}

/// `struct f2fs_super_block`, include/linux/f2fs_fs.h.
fn f2fs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content {
        label: text::trimmed(&text::utf16_le(&probe.bytes(0x400 + 124, 1024)?)),
        uuid: text::uuid_set(&probe.array(0x400 + 108)?),
        version: Some(format!("{}.{}", probe.le16(0x404)?, probe.le16(0x406)?)),
        ..Content::default()
    })
}

fn jfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let log = u32::from(probe.le16(0x8000 + 20)?);
    (probe.le32(0x8000 + 16)? == 1u32.checked_shl(log)?).then_some(())?;
    labelled(probe, 0x8000, 136, 152, 16)
}

fn reiserfs(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let (at, version) = match place {
        0 => (0x10000, "3.6"),
        1 => (0x10000, "JR"),
        2 => (0x10000, "3.5"),
        _ => (0x2000, "3.5"),
    };
    // Version 3.5 had neither.
    let mut content = if place < 2 { labelled(probe, at, 84, 100, 16)? } else { Content::default() };
    content.version = Some(version.to_owned());
    Some(content)
}

/// `struct nilfs_super_block`; its two bytes of magic need the checksum to back them.
fn nilfs2(probe: &Probe<'_>, _: usize) -> Option<Content> {
    const AT: u64 = 0x400;
    let len = usize::from(probe.le16(AT + 8)?);
    (len <= 0x400).then_some(())?;
    let data = probe.bytes(AT, len)?;
    let sb = view(&data);
    let mut crc = libdeflater::Crc::with_initial(!sb.le32(12, "s_crc_seed").ok()?);
    crc.update(sb.slice(0, 16, "superblock").ok()?);
    crc.update(&[0; 4]);
    crc.update(sb.rest(20, "superblock").ok()?);
    (!crc.sum() == sb.le32(16, "s_sum").ok()?).then_some(())?;
    labelled(probe, AT, 152, 168, 80)
}

fn ubi(probe: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content { uuid: Some(probe.be32(24)?.to_string()), ..Content::default() })
}

fn ubifs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content { uuid: text::uuid_set(&probe.array(108)?), ..Content::default() })
}
