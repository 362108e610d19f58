//! GUID partition tables (UEFI Specification 2.10, section 5.3), read tolerantly: whichever of the two copies is sound
//! serves, and what is wrong with the other is said.

use super::text;
use crate::block::{BlockSource, read_vec};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::Result;

/// Sector sizes under which a header is looked for, in bytes.
const SECTORS: [u32; 2] = [512, 4096];

/// Bytes of an entry array that are read at most: 128 times what tools make.
const ARRAY_MAX: u64 = 2 << 20;

/// The smallest header and entry that the specification allows, in bytes.
const HEADER_MIN: u32 = 92;
const ENTRY_MIN: u32 = 128;

/// The header, field names as in the specification.
#[derive(Clone, Debug)]
struct Header {
    my_lba: u64,
    alternate_lba: u64,
    first_usable_lba: u64,
    last_usable_lba: u64,
    disk_guid: String,
    partition_entry_lba: u64,
    entries: u32,
    entry_size: u32,
    array_crc: u32,
    crc_ok: bool,
}

/// One used entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place in the array, from 1: the partition's number.
    pub(super) number: u32,
    pub(super) type_guid: String,
    pub(super) guid: String,
    pub(super) first_lba: u64,
    pub(super) last_lba: u64,
    pub(super) name: String,
}

/// The table that serves.
pub(super) struct Table {
    pub(super) sector: u32,
    pub(super) disk_guid: String,
    pub(super) first_usable_lba: u64,
    pub(super) last_usable_lba: u64,
    pub(super) entries: Vec<Entry>,
    /// What is wrong, a sentence each.
    pub(super) problems: Vec<String>,
    /// What is worth knowing and nobody's fault.
    pub(super) notes: Vec<String>,
}

/// A header with its entries.
struct Copy {
    header: Header,
    entries: Vec<Entry>,
    array_ok: bool,
}

impl Copy {
    fn sound(&self) -> bool {
        self.header.crc_ok && self.array_ok
    }

    fn fault(&self) -> &'static str {
        match (self.header.crc_ok, self.array_ok) {
            (false, _) => "the header's checksum is wrong",
            (true, false) => "the checksum of its partition entries is wrong",
            (true, true) => "sound",
        }
    }
}

/// The table of `disk`, if it has one or the remains of one. `protective_end` is the sector after the last one that the
/// protective MBR covers.
pub(super) fn read(
    disk: &dyn BlockSource,
    protective_end: Option<u64>,
    effort: &Effort,
) -> Result<Option<Table>> {
    let mut best: Option<(u8, Table)> = None;
    for sector in SECTORS {
        let Some((rank, table)) = read_as(disk, sector, protective_end, effort)? else { continue };
        if best.as_ref().is_none_or(|(had, _)| rank > *had) {
            best = Some((rank, table));
        }
    }
    Ok(best.map(|(_, table)| table))
}

/// The table under one sector size, with a rank: 3 the primary serves, 2 the backup, 1 neither is sound.
fn read_as(
    disk: &dyn BlockSource,
    sector: u32,
    protective_end: Option<u64>,
    effort: &Effort,
) -> Result<Option<(u8, Table)>> {
    let last = disk.len().checked_div(u64::from(sector)).unwrap_or(0).saturating_sub(1);
    let primary = copy(disk, sector, 1, effort)?;

    // Where the backup may be, the likeliest first: where the primary says, at the disk's end, and where the disk ended when
    // the protective MBR was written.
    let mut places = Vec::with_capacity(3);
    let said = primary.as_ref().map(|p| p.header.alternate_lba);
    for place in [said, Some(last), protective_end.and_then(|end| end.checked_sub(1))].into_iter().flatten() {
        if place > 1 && place <= last && !places.contains(&place) {
            places.push(place);
        }
    }
    let mut backup: Option<Copy> = None;
    for place in places {
        if let Some(found) = copy(disk, sector, place, effort)?
            && backup.as_ref().is_none_or(|had| !had.sound() && found.sound())
        {
            backup = Some(found);
        }
    }

    let mut problems = Vec::new();
    let mut notes = Vec::new();
    let (rank, serving) = match (primary, backup) {
        (None, None) => return Ok(None),
        (Some(primary), backup) if primary.sound() => {
            compare(&primary, backup.as_ref(), last, &mut problems, &mut notes);
            (3, primary)
        }
        (primary, Some(backup)) if backup.sound() => {
            let fault = primary.as_ref().map_or("there is no header at LBA 1", Copy::fault);
            problems.push(format!(
                "GPT: the primary table is damaged ({fault}); the backup at LBA {} serves",
                backup.header.my_lba
            ));
            if backup.header.my_lba != last {
                notes.push(grown(backup.header.my_lba, last));
            }
            (2, backup)
        }
        (Some(primary), backup) => {
            let other = backup.as_ref().map_or("not found", Copy::fault);
            problems.push(format!(
                "GPT: both tables are damaged (primary: {}; backup: {other}); the primary's entries are shown as they lie",
                primary.fault()
            ));
            (1, primary)
        }
        (None, Some(backup)) => {
            problems.push(format!(
                "GPT: there is no header at LBA 1 and the backup is damaged ({}); its entries are shown as they lie",
                backup.fault()
            ));
            (1, backup)
        }
    };
    let Copy { header, entries, .. } = serving;
    Ok(Some((
        rank,
        Table {
            sector,
            disk_guid: header.disk_guid,
            first_usable_lba: header.first_usable_lba,
            last_usable_lba: header.last_usable_lba,
            entries,
            problems,
            notes,
        },
    )))
}

fn grown(backup: u64, last: u64) -> String {
    format!(
        "GPT: the backup table is at LBA {backup}, the disk ends at LBA {last}: the disk was enlarged after it was partitioned"
    )
}

/// What the backup says beside a sound primary.
fn compare(
    primary: &Copy,
    backup: Option<&Copy>,
    last: u64,
    problems: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let promised = primary.header.alternate_lba;
    match backup {
        _ if promised > last => problems.push(format!(
            "GPT: the backup table should be at LBA {promised}, the disk ends at LBA {last}: the disk was cut"
        )),
        None => problems.push(format!("GPT: there is no backup table at LBA {promised}")),
        Some(backup) if !backup.sound() => problems.push(format!(
            "GPT: the backup table at LBA {} is damaged ({})",
            backup.header.my_lba,
            backup.fault()
        )),
        Some(backup) => {
            if backup.header.disk_guid != primary.header.disk_guid || backup.entries != primary.entries {
                problems.push(format!(
                    "GPT: the backup table at LBA {} differs from the primary, which serves",
                    backup.header.my_lba
                ));
            } else if backup.header.my_lba != last {
                notes.push(grown(backup.header.my_lba, last));
            }
        }
    }
}

/// The header at `lba` with its entries; `None` where there is no signature, or nothing that can be made sense of.
fn copy(disk: &dyn BlockSource, sector: u32, lba: u64, effort: &Effort) -> Result<Option<Copy>> {
    effort.check()?;
    let Some(at) = lba.checked_mul(u64::from(sector)) else { return Ok(None) };
    if at.checked_add(u64::from(sector)).is_none_or(|end| end > disk.len()) {
        return Ok(None);
    }
    // A sector that cannot be read is a header that is not there: the other one may serve.
    let Ok(raw) = read_vec(disk, at, usize::try_from(sector).unwrap_or(512)) else { return Ok(None) };
    let Some(header) = header(&raw, lba) else { return Ok(None) };
    let len = u64::from(header.entries).saturating_mul(u64::from(header.entry_size));
    let start = header.partition_entry_lba.saturating_mul(u64::from(sector));
    let have = disk.len().saturating_sub(start).min(len).min(ARRAY_MAX);
    let array = read_vec(disk, start.min(disk.len()), usize::try_from(have).unwrap_or(0)).unwrap_or_default();
    let array_ok = array.len() as u64 == len && libdeflater::crc32(&array) == header.array_crc;
    let entries = entries(&array, header.entry_size);
    Ok(Some(Copy { header, entries, array_ok }))
}

fn header(raw: &[u8], lba: u64) -> Option<Header> {
    let bytes = Bytes::new(raw, "GPT header");
    if bytes.slice(0, 8, "Signature").ok()? != b"EFI PART" {
        return None;
    }
    let size = bytes.le32(12, "HeaderSize").ok()?;
    let entry_size = bytes.le32(84, "SizeOfPartitionEntry").ok()?;
    if entry_size < ENTRY_MIN || !entry_size.is_multiple_of(8) {
        return None;
    }
    let my_lba = bytes.le64(24, "MyLBA").ok()?;
    Some(Header {
        my_lba: lba,
        alternate_lba: bytes.le64(32, "AlternateLBA").ok()?,
        first_usable_lba: bytes.le64(40, "FirstUsableLBA").ok()?,
        last_usable_lba: bytes.le64(48, "LastUsableLBA").ok()?,
        disk_guid: text::guid(&bytes.array(56, "DiskGUID").ok()?),
        partition_entry_lba: bytes.le64(72, "PartitionEntryLBA").ok()?,
        entries: bytes.le32(80, "NumberOfPartitionEntries").ok()?,
        entry_size,
        array_crc: bytes.le32(88, "PartitionEntryArrayCRC32").ok()?,
        // A header that calls itself another sector was copied here; its checksum says nothing about this place.
        crc_ok: my_lba == lba && header_crc(raw, size) == bytes.le32(16, "HeaderCRC32").ok(),
    })
}

/// The header's checksum, taken with its own field as zeros.
fn header_crc(raw: &[u8], size: u32) -> Option<u32> {
    let covered = raw.get(..usize::try_from(size).ok().filter(|_| size >= HEADER_MIN)?)?;
    let mut crc = libdeflater::Crc::new();
    crc.update(covered.get(..16)?);
    crc.update(&[0; 4]);
    crc.update(covered.get(20..)?);
    Some(crc.sum())
}

fn entries(array: &[u8], entry_size: u32) -> Vec<Entry> {
    let size = usize::try_from(entry_size).unwrap_or(usize::MAX).max(1);
    array
        .chunks_exact(size)
        .zip(1u32..)
        .filter_map(|(raw, number)| {
            let bytes = Bytes::new(raw, "GPT entry");
            let type_guid: [u8; 16] = bytes.array(0, "PartitionTypeGUID").ok()?;
            if type_guid == [0; 16] {
                return None;
            }
            Some(Entry {
                number,
                type_guid: text::guid(&type_guid),
                guid: text::guid(&bytes.array(16, "UniquePartitionGUID").ok()?),
                first_lba: bytes.le64(32, "StartingLBA").ok()?,
                last_lba: bytes.le64(40, "EndingLBA").ok()?,
                name: text::utf16_le(bytes.slice(56, 72, "PartitionName").ok()?),
            })
        })
        .collect()
}
