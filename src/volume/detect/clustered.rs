//! Filesystems that several hosts share.

use super::super::text;
use super::{Content, Probe, Row, Usage};

pub(super) const ROWS: &[Row] = &[
    Row { kind: "gfs2", usage: Usage::Filesystem, magics: &[(0x1_0000, b"\x01\x16\x19\x70")], parse: gfs2 },
    Row {
        kind: "ocfs2",
        usage: Usage::Filesystem,
        magics: &[(0x400, b"OCFSV2"), (0x800, b"OCFSV2"), (0x1000, b"OCFSV2"), (0x2000, b"OCFSV2")],
        parse: |p, place| {
            let at = 0x400u64.checked_shl(u32::try_from(place).ok()?)?;
            super::linux::labelled(p, at, 336, 272, 64)
        },
    },
    Row { kind: "VMFS", usage: Usage::Filesystem, magics: &[(0x20_0000, b"\x5e\xf1\xab\x2f")], parse: vmfs },
];

/// `struct gfs2_sb`, include/uapi/linux/gfs2_ondisk.h; the label is the lock table's name.
fn gfs2(probe: &Probe<'_>, _: usize) -> Option<Content> {
    matches!(probe.be32(0x1_0018)?, 1800..=1899).then_some(())?;
    super::linux::labelled(probe, 0x1_0000, 256, 160, 64)
}

fn vmfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content {
        label: text::label(&probe.bytes(0x20_0000 + 29, 128)?),
        uuid: super::members::vmware_uuid(probe, 0x20_0000 + 9),
        version: Some(probe.array::<1>(0x20_0000 + 8)?[0].to_string()),
        ..Content::default()
    })
}
