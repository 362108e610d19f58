//! What a volume is a part or a wrapping of: LVM, LUKS, DRBD, BitLocker and others.

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: "ceph_bluestore",
        usage: Usage::Other,
        magics: &[(0, b"bluestore block device")],
        parse: super::plain,
    },
    Row { kind: "drbd", usage: Usage::Raid, magics: &[], parse: drbd },
    Row {
        kind: "LVM2_member",
        usage: Usage::Raid,
        magics: &[(0x018, b"LVM2 001"), (0x218, b"LVM2 001"), (0x418, b"LVM2 001"), (0x618, b"LVM2 001")],
        parse: lvm2,
    },
    Row { kind: "DM_snapshot_cow", usage: Usage::Other, magics: &[(0, b"SnAp")], parse: super::plain },
    Row {
        kind: "DM_verity_hash",
        usage: Usage::Crypto,
        magics: &[(0, b"verity\0\0")],
        parse: |p, _| Some(Content { uuid: text::uuid_set(&p.array(16)?), ..Content::default() }),
    },
    Row { kind: "DM_integrity", usage: Usage::Crypto, magics: &[(0, b"integrt\0")], parse: super::plain },
    Row { kind: "crypto_LUKS", usage: Usage::Crypto, magics: &[], parse: luks },
    Row {
        kind: "VMFS_volume_member",
        usage: Usage::Raid,
        magics: &[(0x10_0000, b"\x0d\xd0\x01\xc0")],
        parse: |p, _| Some(Content { uuid: text::label(&p.array::<35>(0x10_0214)?), ..Content::default() }),
    },
    Row { kind: "vdo", usage: Usage::Other, magics: &[(0, b"dmvdo001")], parse: vdo },
    Row {
        kind: "stratis",
        usage: Usage::Raid,
        magics: &[(0x204, STRATIS), (0x1204, STRATIS)],
        parse: super::plain,
    },
    Row {
        kind: "BitLocker",
        usage: Usage::Crypto,
        magics: &[(3, b"-FVE-FS-"), (3, b"MSWIN4.1")],
        parse: bitlocker,
    },
    Row { kind: "cs_fvault2", usage: Usage::Crypto, magics: &[(0x58, b"CS")], parse: fvault },
];

const STRATIS: &[u8] = b"!Stra0tis\x86\xff\x02\x5e\x41\x72\x68";

/// `struct label_header`, lib/label/label.h of LVM2: in one of the first four sectors, and it says in which.
fn lvm2(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let sector = place as u64;
    let at = sector.checked_mul(512)?;
    let data = probe.bytes(at, 512)?;
    let label = view(&data);
    (label.slice(0, 8, "id").ok()? == b"LABELONE" && label.le64(8, "sector_xl").ok()? == sector)
        .then_some(())?;
    let header = usize::try_from(label.le32(20, "offset_xl").ok()?).ok()?;
    let id = label.slice(header, 32, "pv_uuid").ok()?;
    Some(Content { uuid: lvm_uuid(id), version: Some("LVM2 001".to_owned()), ..Content::default() })
}

/// LVM's 32 characters in their usual groups.
fn lvm_uuid(id: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(id).ok().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    let mut out = String::with_capacity(38);
    for (i, c) in id.chars().enumerate() {
        if matches!(i, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(c);
    }
    Some(out)
}

/// LUKS, the first header or the second of LUKS2 (LUKS2 On-Disk Format Specification, section 2.1): at one of a few places.
fn luks(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let at = if probe.has(0, b"LUKS\xba\xbe") {
        0
    } else {
        (14..=22u32).map(|bit| 1u64 << bit).find(|at| {
            probe.has(*at, b"SKUL\xba\xbe")
                && probe.array(at.saturating_add(256)).map(u64::from_be_bytes) == Some(*at)
        })?
    };
    let data = probe.bytes(at, 512)?;
    let header = view(&data);
    let version = header.be16(6, "version").ok()?;
    matches!(version, 1 | 2).then_some(())?;
    let label = if version == 2 { text::label(header.slice(24, 48, "label").ok()?) } else { None };
    Some(Content {
        label,
        uuid: text::label(header.slice(168, 40, "uuid").ok()?),
        version: Some(version.to_string()),
        ..Content::default()
    })
}

/// DRBD's metadata in the last 4 KiB of its device (`struct meta_data_on_disk`, drivers/block/drbd).
fn drbd(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let data = probe.bytes(probe.len().checked_sub(4096)?, 64)?;
    let sb = view(&data);
    let (uuid, version) = match sb.be32(60, "magic").ok()? {
        0x8374_026b | 0x8374_026c => (40, "v08"),
        0x8374_026d => (48, "v09"),
        _ => return None,
    };
    let uuid = sb.slice(uuid, 8, "device_uuid").ok()?;
    Some(Content { uuid: Some(text::hex(uuid)), version: Some(version.to_owned()), ..Content::default() })
}

/// A UUID as VMware writes them: two words and a half-word with their bytes turned round, then six bytes.
pub(super) fn vmware_uuid(probe: &Probe<'_>, at: u64) -> Option<String> {
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = probe.array::<16>(at)?;
    let groups = [text::hex(&[d, c, b, a]), text::hex(&[h, g, f, e]), text::hex(&[j, i]), text::hex(&rest)];
    Some(groups.join("-"))
}

fn vdo(probe: &Probe<'_>, _: usize) -> Option<Content> {
    Some(Content { uuid: text::uuid_set(&probe.array(0x28)?), ..Content::default() })
}

/// BitLocker's volume header: with its own OEM name, or as "to go" inside what looks like FAT, told by its identifier.
fn bitlocker(probe: &Probe<'_>, place: usize) -> Option<Content> {
    const IDENTIFIER: [u8; 16] =
        [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];
    let at = if place == 0 { 160u64 } else { 424 };
    if probe.array(at)? != IDENTIFIER {
        // Windows Vista's has no identifier.
        return (place == 0).then(Content::default);
    }
    let metadata = [16u64, 24, 32].into_iter().find_map(|pointer| {
        let at = probe.array(at.checked_add(pointer)?).map(u64::from_le_bytes)?;
        probe.has(at, b"-FVE-FS-").then_some(at)
    });
    let named = metadata.and_then(|at| bitlocker_metadata(probe, at)).unwrap_or_default();
    Some(Content { version: Some("2".to_owned()), ..named })
}

/// Volume GUID and description from an FVE metadata block: a block header, a header, then entries with a size each.
fn bitlocker_metadata(probe: &Probe<'_>, at: u64) -> Option<Content> {
    const BLOCK_HEADER: u64 = 64;
    const DESCRIPTION: u16 = 7;
    let header = at.checked_add(BLOCK_HEADER)?;
    let len = usize::try_from(probe.le32(header)?).ok()?.min(64 << 10);
    let data = probe.bytes(header, len)?;
    let metadata = view(&data);
    let mut content =
        Content { uuid: Some(text::guid(&metadata.array(16, "volume GUID").ok()?)), ..Content::default() };
    let mut next = 48usize;
    while let Ok(size) = metadata.le16(next, "entry size") {
        let entry = metadata.part(next, usize::from(size), "entry").ok()?;
        let Ok(kind) = entry.le16(2, "entry type") else { break };
        if kind == DESCRIPTION {
            content.label = text::trimmed(&text::utf16_le(entry.rest(8, "description").ok()?));
            break;
        }
        next = next.checked_add(usize::from(size))?;
    }
    Some(content)
}

/// A physical volume of Apple's Core Storage: a header with a checksum and a type beside the two letters.
fn fvault(probe: &Probe<'_>, _: usize) -> Option<Content> {
    (probe.le16(8)? == 1 && probe.le16(10)? == 0x10 && probe.le32(0x30)? == 0x200).then_some(())?;
    Some(Content {
        uuid: text::uuid_set(&probe.array(0x130)?),
        version: Some("1".to_owned()),
        ..Content::default()
    })
}
