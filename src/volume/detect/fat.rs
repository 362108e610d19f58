//! FAT12, FAT16 and FAT32 (Microsoft's FAT specification, version 1.03).

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[Row {
    kind: "vfat",
    usage: Usage::Filesystem,
    magics: &[
        (0x52, b"MSWIN"),
        (0x52, b"FAT32   "),
        (0x36, b"MSDOS"),
        (0x36, b"FAT16   "),
        (0x36, b"FAT12   "),
        (0x36, b"FAT     "),
        (0, b"\xeb"),
        (0, b"\xe9"),
        (0x1fe, b"\x55\xaa"),
    ],
    parse: vfat,
}];

/// Places in the table from which on the magic alone says next to nothing.
const WEAK: usize = 6;

/// Clusters at most, by the width of a table entry.
const FAT12_MAX: u64 = 0xff4;
const FAT16_MAX: u64 = 0xfff4;
const FAT32_MAX: u64 = 0x0fff_fff6;

/// Clusters of a FAT32 root directory that are searched for the label.
const ROOT_CLUSTERS: u32 = 100;

const VOLUME_ID: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;

/// The BIOS parameter block, as far as it is needed here.
struct Layout {
    sector: u64,
    cluster_sectors: u64,
    reserved: u64,
    root_entries: u64,
    fat_sectors: u64,
    root_start: u64,
    data_start: u64,
    clusters: u64,
    wide: bool,
}

fn layout(raw: &[u8]) -> Option<Layout> {
    let b = view(raw);
    let sector = u64::from(b.le16(11, "BPB_BytsPerSec").ok()?);
    let cluster_sectors = u64::from(b.u8(13, "BPB_SecPerClus").ok()?);
    let reserved = u64::from(b.le16(14, "BPB_RsvdSecCnt").ok()?);
    let fats = u64::from(b.u8(16, "BPB_NumFATs").ok()?);
    let root_entries = u64::from(b.le16(17, "BPB_RootEntCnt").ok()?);
    let media = b.u8(21, "BPB_Media").ok()?;
    let sound = (512..=4096).contains(&sector)
        && sector.is_power_of_two()
        && cluster_sectors.is_power_of_two()
        && reserved > 0
        && fats > 0
        && (media >= 0xf8 || media == 0xf0);
    sound.then_some(())?;
    let sectors = match b.le16(19, "BPB_TotSec16").ok()? {
        0 => u64::from(b.le32(32, "BPB_TotSec32").ok()?),
        n => u64::from(n),
    };
    let fat16 = u64::from(b.le16(22, "BPB_FATSz16").ok()?);
    let fat_sectors = if fat16 == 0 { u64::from(b.le32(36, "BPB_FATSz32").ok()?) } else { fat16 };
    let root_sectors = root_entries.checked_mul(32)?.div_ceil(sector);
    let root_start = reserved.checked_add(fats.checked_mul(fat_sectors)?)?;
    let data_start = root_start.checked_add(root_sectors)?;
    let clusters = sectors.checked_sub(data_start)?.checked_div(cluster_sectors)?;
    let wide = fat16 == 0 && fat_sectors != 0;
    let max = match (wide, clusters > FAT12_MAX) {
        (true, _) => FAT32_MAX,
        (false, true) => FAT16_MAX,
        (false, false) => FAT12_MAX,
    };
    (fat_sectors > 0 && clusters <= max).then_some(Layout {
        sector,
        cluster_sectors,
        reserved,
        root_entries,
        fat_sectors,
        root_start,
        data_start,
        clusters,
        wide,
    })
}

fn vfat(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let raw = probe.array::<512>(0)?;
    let b = view(&raw);
    // NTFS and HPFS have boot sectors of this shape; a weak magic needs the signature of a boot sector beside it.
    let foreign = matches!(raw.get(3..11)?, b"NTFS    " | b"EXFAT   " | b"-FVE-FS-");
    let weak = place >= WEAK && raw.get(510..512)? != [0x55, 0xaa] && raw.first() != Some(&0xeb);
    (!foreign && !weak && raw.get(0x36..0x3e)? != b"HPFS    " && raw.get(0x36..0x3e)? != b"JFS     ")
        .then_some(())?;
    let layout = layout(&raw)?;
    let version = match (layout.wide, layout.clusters < FAT12_MAX) {
        (true, _) => "FAT32",
        (false, true) => "FAT12",
        (false, false) => "FAT16",
    };
    let signature = if layout.wide { 66 } else { 38 };
    let serial = matches!(b.u8(signature, "BS_BootSig").ok()?, 0x28 | 0x29)
        .then(|| b.le32(signature.wrapping_add(1), "BS_VolID"))
        .transpose()
        .ok()?
        .filter(|serial| *serial != 0);
    let name = if layout.wide {
        wide_label(probe, &layout, b.le32(44, "BPB_RootClus").ok()?)
    } else {
        let start = layout.root_start.checked_mul(layout.sector)?;
        let len = usize::try_from(layout.root_entries.checked_mul(32)?).ok()?;
        probe.bytes(start, len).and_then(|dir| label(&dir).found())
    };
    Some(Content {
        label: name.and_then(|name| text::label(&name)),
        uuid: serial.map(self::serial),
        version: Some(version.to_owned()),
        ..Content::default()
    })
}

/// A serial number as blkid prints it.
pub(super) fn serial(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}

/// What looking through a piece of a directory gave.
enum Search {
    Found([u8; 11]),
    /// The directory ends here.
    End,
    /// It goes on.
    More,
}

impl Search {
    fn found(self) -> Option<[u8; 11]> {
        if let Self::Found(name) = self { Some(name) } else { None }
    }
}

/// The volume label among directory entries.
fn label(dir: &[u8]) -> Search {
    for entry in dir.as_chunks::<32>().0 {
        let [first, ..] = *entry;
        if first == 0 {
            return Search::End;
        }
        let attributes = entry.get(11).copied().unwrap_or(0);
        let kind = attributes & (VOLUME_ID | DIRECTORY);
        let cluster = entry.get(26..28) == Some(&[0, 0]) && entry.get(20..22) == Some(&[0, 0]);
        if first == 0xe5 || attributes & 0x3f == LONG_NAME || kind != VOLUME_ID || !cluster {
            continue;
        }
        let mut name = [0; 11];
        name.copy_from_slice(entry.get(..11).unwrap_or(&[0; 11]));
        // A first byte of 0xe5 would mean "deleted" and is written as 0x05.
        if let Some(first) = name.first_mut().filter(|first| **first == 0x05) {
            *first = 0xe5;
        }
        return Search::Found(name);
    }
    Search::More
}

/// Follows the root directory's chain of clusters.
fn wide_label(probe: &Probe<'_>, layout: &Layout, root: u32) -> Option<[u8; 11]> {
    let size = layout.cluster_sectors.checked_mul(layout.sector)?;
    let fat = layout.reserved.checked_mul(layout.sector)?;
    let fat_bytes = layout.fat_sectors.checked_mul(layout.sector)?;
    let mut cluster = u64::from(root);
    for _ in 0..ROOT_CLUSTERS {
        let at = cluster
            .checked_sub(2)
            .filter(|n| *n < layout.clusters)?
            .checked_mul(size)?
            .checked_add(layout.data_start.checked_mul(layout.sector)?)?;
        let dir = probe.bytes(at, usize::try_from(size).ok()?)?;
        match label(&dir) {
            Search::Found(name) => return Some(name),
            Search::End => return None,
            Search::More => {}
        }
        let entry = cluster.checked_mul(4).filter(|at| *at < fat_bytes)?;
        cluster = u64::from(probe.le32(fat.checked_add(entry)?)? & 0x0fff_ffff);
    }
    None
}
