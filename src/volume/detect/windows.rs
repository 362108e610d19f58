//! NTFS, exFAT, ReFS and HPFS.

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[
    Row { kind: "ntfs", usage: Usage::Filesystem, magics: &[(3, b"NTFS    ")], parse: |p, _| ntfs(p, 0) },
    Row { kind: "ReFS", usage: Usage::Filesystem, magics: &[(0, b"\0\0\0ReFS\0")], parse: super::plain },
    Row { kind: "exfat", usage: Usage::Filesystem, magics: &[(3, b"EXFAT   ")], parse: exfat },
    Row { kind: "hpfs", usage: Usage::Filesystem, magics: &[(0x2000, b"\x49\xe8\x95\xf9")], parse: hpfs },
];

/// The attribute of `$Volume` that holds the label.
const VOLUME_NAME: u32 = 0x60;

/// The boot sector at `at`; the label is in record 3 of the master file table.
fn ntfs(probe: &Probe<'_>, at: u64) -> Option<Content> {
    let raw = probe.bytes(at, 512)?;
    let b = view(&raw);
    let sector = u64::from(b.le16(11, "bytes per sector").ok()?);
    (sector.is_power_of_two() && (256..=4096).contains(&sector)).then_some(())?;
    let per_cluster = match b.u8(13, "sectors per cluster").ok()? {
        n @ 0..=0x80 => u64::from(n),
        // A negative power of two.
        n => 1u64.checked_shl(u32::from(n.wrapping_neg()))?,
    };
    let cluster = sector.checked_mul(per_cluster)?;
    cluster.is_power_of_two().then_some(())?;
    let record = match b.u8(64, "clusters per record").ok()? {
        n @ 0..=0x7f => cluster.checked_mul(u64::from(n))?,
        n => 1u64.checked_shl(u32::from(n.wrapping_neg()))?,
    };
    let serial = b.le64(72, "serial number").ok()?;
    let table = b.le64(48, "$MFT").ok()?.checked_mul(cluster)?;
    let volume = record.checked_mul(3).and_then(|n| table.checked_add(n));
    Some(Content {
        label: volume.and_then(|at| volume_name(probe, at, usize::try_from(record).ok()?.min(64 << 10))),
        uuid: (serial != 0).then(|| format!("{serial:016X}")),
        ..Content::default()
    })
}

fn volume_name(probe: &Probe<'_>, at: u64, len: usize) -> Option<String> {
    let mut raw = probe.bytes(at, len)?;
    (raw.get(..4)? == b"FILE").then_some(())?;
    fixup(&mut raw)?;
    let b = view(&raw);
    let mut next = usize::from(b.le16(20, "first attribute").ok()?);
    loop {
        let kind = b.le32(next, "type").ok()?;
        let len = usize::try_from(b.le32(next.checked_add(4)?, "length").ok()?).ok()?;
        if kind == VOLUME_NAME {
            let value = usize::try_from(b.le32(next.checked_add(16)?, "value length").ok()?).ok()?;
            let from = usize::from(b.le16(next.checked_add(20)?, "value offset").ok()?);
            let name = b.slice(next.checked_add(from)?, value, "$VOLUME_NAME").ok()?;
            return text::trimmed(&text::utf16_le(name));
        }
        // An attribute of no length would be looked at for ever.
        (kind < VOLUME_NAME && len >= 16).then_some(())?;
        next = next.checked_add(len)?;
    }
}

/// Puts back the last two bytes of each 512, which the update sequence array holds.
fn fixup(raw: &mut [u8]) -> Option<()> {
    let b = view(raw);
    let from = usize::from(b.le16(4, "update sequence").ok()?);
    let count = usize::from(b.le16(6, "update sequence count").ok()?);
    let array = b.slice(from, count.checked_mul(2)?, "update sequence").ok()?.to_vec();
    for (sector, saved) in
        raw.as_chunks_mut::<512>().0.iter_mut().zip(array.as_chunks::<2>().0.iter().skip(1))
    {
        sector.last_chunk_mut::<2>()?.copy_from_slice(saved);
    }
    Some(())
}

/// The copy of NTFS' boot sector in the last sector.
pub(super) fn ntfs_spare(probe: &Probe<'_>) -> Option<(Content, u64)> {
    let at = (probe.len() & !511).checked_sub(512)?;
    (probe.has(at.checked_add(3)?, b"NTFS    ") && probe.has(at.checked_add(510)?, b"\x55\xaa"))
        .then_some(())?;
    Some((Content { kind: "ntfs", ..ntfs(probe, at)? }, at))
}

/// Entries of an exFAT root directory that are searched for the label.
const EXFAT_ENTRIES: u32 = 10_000;

/// Microsoft's exFAT specification, sections 3.1 and 7.3.
fn exfat(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let raw = probe.array::<512>(0)?;
    let b = view(&raw);
    let sector_shift = u32::from(b.u8(108, "BytesPerSectorShift").ok()?);
    let cluster_shift = u32::from(b.u8(109, "SectorsPerClusterShift").ok()?);
    let shift = sector_shift.checked_add(cluster_shift)?;
    ((9..=12).contains(&sector_shift) && shift <= 25).then_some(())?;
    let revision = b.le16(104, "FileSystemRevision").ok()?;
    let serial = b.le32(100, "VolumeSerialNumber").ok()?;
    let table = u64::from(b.le32(80, "FatOffset").ok()?).checked_shl(sector_shift)?;
    let heap = u64::from(b.le32(88, "ClusterHeapOffset").ok()?).checked_shl(sector_shift)?;
    let clusters = u64::from(b.le32(92, "ClusterCount").ok()?);
    let root = u64::from(b.le32(96, "FirstClusterOfRootDirectory").ok()?);
    let at = |cluster: u64| {
        let number = cluster.checked_sub(2).filter(|n| *n < clusters)?;
        heap.checked_add(number.checked_shl(shift)?)
    };
    let name = (|| {
        let (mut cluster, mut inside, size) = (root, 0u64, 1u64.checked_shl(shift)?);
        for _ in 0..EXFAT_ENTRIES {
            let entry = probe.array::<32>(at(cluster)?.checked_add(inside)?)?;
            match entry {
                [0, ..] => return None,
                [0x83, count, rest @ ..] => {
                    let units = usize::from(count).checked_mul(2)?;
                    return text::trimmed(&text::utf16_le(rest.get(..units)?));
                }
                _ => {}
            }
            inside = inside.checked_add(32)?;
            if inside >= size {
                inside = 0;
                cluster = u64::from(probe.le32(table.checked_add(cluster.checked_mul(4)?)?)?);
            }
        }
        None
    })();
    Some(Content {
        label: name,
        uuid: (serial != 0).then(|| super::fat::serial(serial)),
        version: Some(format!("{}.{}", revision >> 8, revision & 0xff)),
        ..Content::default()
    })
}

fn hpfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let boot = probe.has(510, b"\x55\xaa") && probe.has(0x36, b"HPFS");
    Some(Content {
        label: if boot { text::label(&probe.array::<11>(43)?) } else { None },
        uuid: if boot { Some(super::fat::serial(probe.le32(39)?)) } else { None },
        version: Some(probe.array::<1>(0x2008)?[0].to_string()),
        ..Content::default()
    })
}
