//! Members of RAID arrays.

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[
    Row { kind: "linux_raid_member", usage: Usage::Raid, magics: &[], parse: md },
    Row { kind: "ddf_raid_member", usage: Usage::Raid, magics: &[], parse: ddf },
    Row {
        kind: "isw_raid_member",
        usage: Usage::Raid,
        magics: &[],
        parse: |p, _| at_end(p, 1024, b"Intel Raid ISM Cfg Sig. "),
    },
    Row {
        kind: "lsi_mega_raid_member",
        usage: Usage::Raid,
        magics: &[],
        parse: |p, _| at_end(p, 512, b"$XIDE$"),
    },
    Row {
        kind: "nvidia_raid_member",
        usage: Usage::Raid,
        magics: &[],
        parse: |p, _| at_end(p, 1024, b"NVIDIA"),
    },
    Row {
        kind: "bcache",
        usage: Usage::Other,
        magics: &[(0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")],
        parse: bcache,
    },
];

const MD_MAGIC: u32 = 0xa92b_4efc;

/// A magic that lies `back` bytes before the last whole sector's end.
fn at_end(probe: &Probe<'_>, back: u64, magic: &[u8]) -> Option<Content> {
    let end = probe.len() & !511;
    probe.has(end.checked_sub(back)?, magic).then(Content::default)
}

/// SNIA's Common RAID Disk Data Format: an anchor in the last sector, with the controller's text for a GUID.
fn ddf(probe: &Probe<'_>, _: usize) -> Option<Content> {
    at_end(probe, 512, b"\xde\x11\xde\x11")?;
    let guid = probe.array::<24>((probe.len() & !511).checked_sub(504)?)?;
    Some(Content { uuid: text::label(&guid), ..Content::default() })
}

/// Linux MD, both formats (include/uapi/linux/raid/md_p.h). Version 0.90 lies in the last 64 KiB block but one; version 1 near the end (1.0), at
/// the start (1.1) or at 4 KiB (1.2).
fn md(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let end = probe.len();
    let old = (end & !0xffff).checked_sub(0x10000).and_then(|at| version0(probe, at));
    old.or_else(|| version1(probe, ((end >> 9).checked_sub(16)? & !7) << 9, "1.0"))
        .or_else(|| version1(probe, 0, "1.1"))
        .or_else(|| version1(probe, 0x1000, "1.2"))
}

fn version0(probe: &Probe<'_>, at: u64) -> Option<Content> {
    let data = probe.bytes(at, 256)?;
    let sb = view(&data);
    let little = sb.le32(0, "md_magic").ok()? == MD_MAGIC;
    (little || sb.be32(0, "md_magic").ok()? == MD_MAGIC).then_some(())?;
    let word = |at: usize| if little { sb.le32(at, "word") } else { sb.be32(at, "word") };
    // A whole disk whose last partition is a member has the same superblock near its end: `size` tells whose it is.
    let size = u64::from(word(32).ok()?).checked_mul(1024)?;
    let room = at;
    (size <= room && room.saturating_sub(size) < 1 << 20 || word(28).ok()? != 1).then_some(())?;
    let mut uuid = [0; 16];
    for (out, from) in uuid.as_chunks_mut::<4>().0.iter_mut().zip([20usize, 52, 56, 60]) {
        *out = word(from).ok()?.to_be_bytes();
    }
    Some(Content {
        uuid: text::uuid_set(&uuid),
        version: Some(format!("{}.{}.{}", word(4).ok()?, word(8).ok()?, word(12).ok()?)),
        ..Content::default()
    })
}

fn version1(probe: &Probe<'_>, at: u64, version: &str) -> Option<Content> {
    let data = probe.bytes(at, 256)?;
    let sb = view(&data);
    let here = sb.le32(0, "magic").ok()? == MD_MAGIC
        && sb.le32(4, "major_version").ok()? == 1
        && sb.le64(144, "super_offset").ok()?.checked_mul(512)? == at;
    here.then_some(())?;
    Some(Content {
        label: text::label(sb.slice(32, 32, "set_name").ok()?),
        uuid: text::uuid_set(&sb.array(16, "set_uuid").ok()?),
        version: Some(version.to_owned()),
        ..Content::default()
    })
}

/// `struct cache_sb`, include/trace/events/bcache.h and drivers/md/bcache/bcache_ondisk.h.
fn bcache(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let mut content = super::linux::labelled(probe, 0x1000, 40, 72, 32)?;
    let version = probe.le64(0x1010)?;
    if version >= 10 {
        // bcachefs began with the magic of bcache.
        content = super::linux::labelled(probe, 0x1000, 56, 72, 32)?;
        content.kind = "bcachefs";
    } else {
        content.version = Some(version.to_string());
    }
    Some(content)
}
