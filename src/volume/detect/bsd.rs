//! ZFS and UFS.

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[
    Row { kind: "zfs_member", usage: Usage::Filesystem, magics: &[], parse: zfs },
    Row {
        kind: "ufs",
        usage: Usage::Filesystem,
        magics: &[
            (0x1_055c, b"\x19\x01\x54\x19"),
            (0x255c, b"\x19\x01\x54\x19"),
            (0x1_055c, b"\x19\x54\x01\x19"),
            (0x255c, b"\x19\x54\x01\x19"),
            (0x1_055c, b"\0\x01\x19\x54"),
            (0x255c, b"\0\x01\x19\x54"),
            (0x1_055c, b"\x54\x19\x01\0"),
            (0x255c, b"\x54\x19\x01\0"),
        ],
        parse: ufs,
    },
];

/// The uberblock ring and the name-value list of a vdev label, from its start; and the label's size.
const RING: u64 = 128 << 10;
const LIST: u64 = 16 << 10;
const LABEL: u64 = 256 << 10;
/// Bytes of the list that are read: no pool's is larger.
const LIST_MAX: usize = 112 << 10;

/// A ZFS vdev by its labels (ZFS On-Disk Specification, section 1.2): two at the start and two at the end.
fn zfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let end = probe.len() & !LABEL.checked_sub(1)?;
    let labels = [Some(0), Some(LABEL), end.checked_sub(LABEL.checked_mul(2)?), end.checked_sub(LABEL)];
    let label = labels.into_iter().flatten().find(|at| {
        (0..128u64).any(|n| {
            let slot = at.saturating_add(RING).saturating_add(n << 10);
            probe.has(slot, b"\x0c\xb1\xba\0\0\0\0\0") || probe.has(slot, b"\0\0\0\0\0\xba\xb1\x0c")
        })
    })?;
    Some(pool(probe, label.checked_add(LIST)?).unwrap_or_default())
}

/// Name and GUID of the pool, from pairs in XDR form.
fn pool(probe: &Probe<'_>, at: u64) -> Option<Content> {
    let data = probe.bytes(at, LIST_MAX)?;
    let list = view(&data);
    let mut content = Content::default();
    let mut next = 12usize;
    loop {
        let size = usize::try_from(list.be32(next, "encoded size").ok()?).ok()?;
        if size < 20 {
            return Some(content);
        }
        let pair = list.part(next, size, "name-value pair").ok()?;
        let len = usize::try_from(pair.be32(8, "name length").ok()?).ok()?;
        let name = pair.slice(12, len, "name").ok()?;
        let value = len.checked_next_multiple_of(4)?.checked_add(12)?;
        let body = value.checked_add(8)?;
        match (name, pair.be32(value, "type").ok()?) {
            (b"name", 9) => {
                let len = usize::try_from(pair.be32(body, "length").ok()?).ok()?;
                content.label = text::label(pair.slice(body.checked_add(4)?, len, "value").ok()?);
            }
            (b"pool_guid", 8) => content.uuid = Some(pair.be64(body, "value").ok()?.to_string()),
            (b"version", 8) => content.version = Some(pair.be64(body, "value").ok()?.to_string()),
            _ => {}
        }
        next = next.checked_add(size)?;
    }
}

/// UFS 1 and 2 in both byte orders; the superblock ends in its magic.
fn ufs(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let at = if place.is_multiple_of(2) { 0x1_0000u64 } else { 0x2000 };
    let second = place < 4;
    let big = matches!(place, 2..=5);
    let id = probe.array::<8>(at.checked_add(144)?)?;
    let (id, word) = id.split_at_checked(4)?;
    let read = |raw: &[u8]| {
        let raw: [u8; 4] = raw.try_into().unwrap_or_default();
        if big { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) }
    };
    let (high, low) = (read(id), read(word));
    Some(Content {
        label: if second { text::label(&probe.bytes(at.checked_add(680)?, 32)?) } else { None },
        uuid: (high != 0 || low != 0).then(|| format!("{high:08x}{low:08x}")),
        version: Some(if second { "2" } else { "1" }.to_owned()),
        ..Content::default()
    })
}
