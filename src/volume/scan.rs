//! The volumes of one disk: its table, its partitions, and what each of them holds.

use std::sync::Arc;

use super::detect::{Found, Usage, detect};
use super::luks::Key;
use super::{Content, Scheme, Volume, gpt, mbr, types};
use crate::block::Source;
use crate::block::cache::{Cache, Cached};
use crate::block::slice::Slice;
use crate::effort::Effort;
use crate::error::Result;

/// How to scan.
#[derive(Clone)]
pub struct Options {
    /// Where metadata is kept.
    pub cache: Arc<Cache>,
    /// Cancellation.
    pub effort: Arc<Effort>,
    /// Passphrases and key files, tried on every encrypted volume.
    pub keys: Vec<Key>,
    /// Detached LUKS headers, tried on volumes that have no signature.
    pub headers: Vec<Source>,
}

impl Options {
    /// Plain options: no keys.
    pub fn new(cache: &Arc<Cache>, effort: &Arc<Effort>) -> Self {
        Self { cache: Arc::clone(cache), effort: Arc::clone(effort), keys: Vec::new(), headers: Vec::new() }
    }
}

/// What a disk has.
#[derive(Default)]
pub struct Scan {
    /// The table that served: [`Scheme::Gpt`], [`Scheme::Mbr`], or none.
    pub table: Option<Scheme>,
    /// The table's own UUID or signature, as blkid's PTUUID.
    pub table_uuid: Option<String>,
    /// The sector size that the table counts in, in bytes.
    pub sector_size: u32,
    /// The volumes: by number; index 0, the whole disk, only where it holds something itself or no partition was found.
    pub volumes: Vec<Volume>,
    /// What is wrong with the table, a sentence each.
    pub problems: Vec<String>,
    /// What is worth knowing about it and nobody's fault.
    pub notes: Vec<String>,
}

/// Partitions whose overlaps are looked for; more of them are listed without.
const COMPARED_MAX: usize = 2048;

/// The table of `disk` and its partitions. Errors are those of cancellation alone: damage is told in the answer.
pub(super) fn table(disk: &Source, options: &Options) -> Result<Scan> {
    let cached: Source = Arc::new(Cached::new(Arc::clone(disk), &options.cache));
    let whole = detect(&*cached, &options.effort)?;
    let mut scan = Scan { sector_size: 512, ..Scan::default() };
    let record = mbr::read(&*cached, 512, &options.effort)?;
    let protective = record.as_ref().and_then(|r| r.protective().map(|p| p.start.saturating_add(p.len)));
    let guid = gpt::read(&*cached, protective, &options.effort)?;
    let used = record.as_ref().is_some_and(|r| !r.entries.is_empty());
    match (guid, record) {
        // Without a protective entry, a record with partitions of its own is what every system goes by.
        (Some(_), Some(record)) if used && protective.is_none() => {
            scan.notes.push(
                "a GPT is there as well, but the MBR has no protective entry for it: the MBR's partitions are shown".into(),
            );
            scan.take_mbr(record, &whole, disk, &cached, options)?;
        }
        (Some(table), record) => scan.take_gpt(table, record.as_ref(), disk, &cached, options)?,
        (None, Some(record)) => {
            if protective.is_some() {
                scan.problems
                    .push("GPT: the MBR announces one, and neither of its headers was found".to_owned());
            }
            scan.take_mbr(record, &whole, disk, &cached, options)?;
        }
        (None, None) => {}
    }
    scan.take_whole(whole, disk);
    Ok(scan)
}

impl Scan {
    fn take_gpt(
        &mut self,
        table: gpt::Table,
        record: Option<&mbr::Table>,
        disk: &Source,
        cached: &Source,
        options: &Options,
    ) -> Result<()> {
        self.table = Some(Scheme::Gpt);
        self.sector_size = table.sector;
        self.table_uuid = Some(table.disk_guid);
        self.problems.extend(table.problems);
        self.notes.extend(table.notes);
        let others = record.map_or(0, |r| r.entries.iter().filter(|e| e.kind != mbr::PROTECTIVE).count());
        match record {
            None => self.problems.push("GPT: there is no protective MBR".to_owned()),
            Some(r) if r.protective().is_none() => {
                self.problems.push("GPT: the MBR has no protective entry".to_owned());
            }
            Some(_) if others > 0 => self.notes.push(format!(
                "hybrid table: the MBR names {others} of the partitions as well; the GPT is shown"
            )),
            Some(_) => {}
        }
        let sector = u64::from(table.sector);
        for entry in table.entries {
            options.effort.check()?;
            let mut problems = Vec::new();
            let len = entry.last_lba.checked_sub(entry.first_lba).and_then(|n| n.checked_add(1));
            if len.is_none() {
                problems.push(format!(
                    "it ends at LBA {} before it starts at {}",
                    entry.last_lba, entry.first_lba
                ));
            } else if entry.first_lba < table.first_usable_lba || entry.last_lba > table.last_usable_lba {
                problems.push(format!(
                    "it lies outside the usable LBAs {} to {}",
                    table.first_usable_lba, table.last_usable_lba
                ));
            }
            let place = (entry.first_lba.checked_mul(sector), len.and_then(|n| n.checked_mul(sector)));
            let volume = Volume {
                index: entry.number,
                parent: None,
                scheme: Scheme::Gpt,
                start: 0,
                size: 0,
                kind: types::gpt(&entry.type_guid),
                name: (!entry.name.is_empty()).then_some(entry.name),
                uuid: Some(entry.guid),
                content: None,
                source: None,
                problems,
            };
            self.volumes.push(fill(volume, place, true, disk, cached, options)?);
        }
        self.overlaps(&[]);
        Ok(())
    }

    fn take_mbr(
        &mut self,
        record: mbr::Table,
        whole: &Found,
        disk: &Source,
        cached: &Source,
        options: &Options,
    ) -> Result<()> {
        // A filesystem whose first sector is its own boot sector leaves no room for a table there.
        let boot = matches!(whole.kind(), Some("vfat" | "ntfs" | "exfat" | "BitLocker"));
        if boot && record.protective().is_none() {
            return Ok(());
        }
        self.table = Some(Scheme::Mbr);
        self.table_uuid = (record.signature != 0).then(|| format!("{:08x}", record.signature));
        self.problems.extend(record.problems);
        let sector = u64::from(self.sector_size);
        let boxes: Vec<u32> = record.entries.iter().filter(|e| e.is_extended()).map(|e| e.number).collect();
        for entry in record.entries {
            options.effort.check()?;
            let volume = Volume {
                index: entry.number,
                parent: None,
                scheme: Scheme::Mbr,
                start: 0,
                size: 0,
                kind: types::mbr(entry.kind),
                name: None,
                uuid: Some(format!("{:08x}-{:02x}", record.signature, entry.number)),
                content: None,
                source: None,
                problems: Vec::new(),
            };
            let place = (entry.start.checked_mul(sector), entry.len.checked_mul(sector));
            let holds = !entry.is_extended() && entry.kind != mbr::PROTECTIVE;
            self.volumes.push(fill(volume, place, holds, disk, cached, options)?);
        }
        self.overlaps(&boxes);
        Ok(())
    }

    /// The disk itself as volume 0, where it holds something of its own or nothing else was found.
    fn take_whole(&mut self, found: Found, disk: &Source) {
        let kind = found.kind();
        let usage = found.content.as_ref().map(|c| c.usage);
        let partitions = !self.volumes.is_empty();
        // A hybrid CD image is one filesystem with a table over it. A RAID member shows the table of the array it is part
        // of. Everything else beside a table is what a former use left.
        let both = matches!(kind, Some("iso9660" | "udf")) || usage == Some(Usage::Raid);
        if partitions && !both {
            if let Some(kind) = kind {
                self.notes.push(format!(
                    "the disk as a whole carries the signature of {kind} as well, as a former use leaves it; the partitions are shown"
                ));
            }
            return;
        }
        if partitions && usage == Some(Usage::Raid) {
            self.problems.push(format!(
                "the disk is a {} as a whole: the partitions are those of the array, as far as this disk shows them",
                kind.unwrap_or("RAID member")
            ));
        }
        let whole = Volume {
            index: 0,
            parent: None,
            scheme: Scheme::Whole,
            start: 0,
            size: disk.len(),
            kind: "whole disk".to_owned(),
            name: None,
            uuid: None,
            content: found.content,
            source: Some(Arc::clone(disk)),
            problems: found.problems,
        };
        self.volumes.insert(0, whole);
    }

    /// Says which partitions hold the same bytes, those numbered in `boxes` aside: they hold others by their nature.
    fn overlaps(&mut self, boxes: &[u32]) {
        let end = |v: &Volume| v.start.saturating_add(v.size);
        let mut order: Vec<usize> = (0..self.volumes.len()).collect();
        order.sort_by_key(|i| self.volumes.get(*i).map_or(0, |v| v.start));
        order.retain(|i| self.volumes.get(*i).is_some_and(|v| v.size > 0 && !boxes.contains(&v.index)));
        order.truncate(COMPARED_MAX);
        let mut said = Vec::new();
        // The one that reaches furthest so far, in order of their starts.
        let mut reach: Option<usize> = None;
        for i in order {
            let Some(here) = self.volumes.get(i) else { continue };
            if let Some((j, before)) = reach.and_then(|j| Some((j, self.volumes.get(j)?)))
                && here.start < end(before)
            {
                said.push((i, before.index));
                said.push((j, here.index));
            }
            if reach.and_then(|j| self.volumes.get(j)).is_none_or(|before| end(here) > end(before)) {
                reach = Some(i);
            }
        }
        for (i, other) in said {
            if let Some(volume) = self.volumes.get_mut(i) {
                volume.problems.push(format!("it overlaps partition {other}"));
            }
        }
    }
}

/// Gives a partition its place, its bytes and its content.
fn fill(
    mut volume: Volume,
    place: (Option<u64>, Option<u64>),
    holds: bool,
    disk: &Source,
    cached: &Source,
    options: &Options,
) -> Result<Volume> {
    volume.start = place.0.unwrap_or(0);
    let (Some(start), Some(size)) = place else {
        if volume.problems.is_empty() {
            volume.problems.push("its place lies beyond what a disk can have".to_owned());
        }
        return Ok(volume);
    };
    volume.size = size;
    let end = start.saturating_add(size);
    if end > disk.len() {
        let missing = end.saturating_sub(disk.len().max(start));
        volume
            .problems
            .push(format!("its last {missing} bytes lie beyond the end of the disk at {}", disk.len()));
    }
    let name = format!("p{}", volume.index);
    let Ok(source) = Slice::new(name.as_str(), Arc::clone(disk), start, size) else { return Ok(volume) };
    volume.source = Some(Arc::new(source));
    if holds && let Ok(view) = Slice::new(name.as_str(), Arc::clone(cached), start, size) {
        let found = detect(&view, &options.effort)?;
        volume.content = found.content;
        volume.problems.extend(found.problems);
    }
    Ok(volume)
}

impl Found {
    fn kind(&self) -> Option<&'static str> {
        self.content.as_ref().map(|c: &Content| c.kind)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "the numbers of a test are known")]
mod tests {
    use super::*;
    use crate::block::memory::Memory;

    /// A disk with a protective MBR and a GPT at LBA 1: entries of `entry_size` bytes, given as first and last LBA.
    fn gpt(sectors: usize, entry_size: usize, entries: &[(u64, u64)]) -> Vec<u8> {
        let mut disk = vec![0; sectors * 512];
        disk[450] = 0xee;
        disk[454] = 1;
        disk[458..462].copy_from_slice(&u32::MAX.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut array = vec![0; entry_size * entries.len()];
        for (i, (entry, (first, last))) in array.chunks_mut(entry_size).zip(entries).enumerate() {
            entry[0] = 1;
            entry[16] = u8::try_from(i).unwrap();
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let header = &mut disk[512..604];
        header[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
        let words = [(12, 92), (80, entries.len()), (84, entry_size)];
        for (at, word) in words {
            header[at..at + 4].copy_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
        }
        let longs = [(24, 1), (32, sectors as u64 - 1), (40, 34), (48, sectors as u64 - 34), (72, 2)];
        for (at, long) in longs {
            header[at..at + 8].copy_from_slice(&u64::to_le_bytes(long));
        }
        header[88..92].copy_from_slice(&libdeflater::crc32(&array).to_le_bytes());
        let crc = libdeflater::crc32(header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk[1024..1024 + array.len()].copy_from_slice(&array);
        disk
    }

    fn look(disk: Vec<u8>) -> Scan {
        let options = Options::new(&Cache::new(1 << 20), &Arc::new(Effort::default()));
        let disk: Source = Arc::new(Memory::new("disk", disk));
        table(&disk, &options).unwrap()
    }

    #[test]
    fn entries_of_any_size_are_read() {
        for entry_size in [128, 256, 512, 4096] {
            let scan = look(gpt(4096, entry_size, &[(100, 199), (300, 399)]));
            assert_eq!(scan.table, Some(Scheme::Gpt));
            let places: Vec<_> = scan.volumes.iter().map(|v| (v.start / 512, v.size / 512)).collect();
            assert_eq!(places, [(100, 100), (300, 100)], "{entry_size}");
            assert_eq!(scan.problems, ["GPT: there is no backup table at LBA 4095"]);
        }
    }

    #[test]
    fn entries_that_overlap_or_lie_outside_or_run_backwards_are_shown_with_what_is_wrong() {
        let entries = [
            (100, 199),
            (150, 160),
            (170, 250),
            (1000, 1999),
            (60, 50),
            (500, u64::MAX),
            (u64::MAX, u64::MAX),
        ];
        let scan = look(gpt(1200, 128, &entries));
        let problems: Vec<_> = scan.volumes.iter().map(|v| v.problems.join("; ")).collect();
        assert_eq!(problems[0], "it overlaps partition 2; it overlaps partition 3");
        assert_eq!(problems[1], "it overlaps partition 1");
        assert!(problems[3].contains("its last 409600 bytes lie beyond the end of the disk"), "{problems:?}");
        assert!(problems[4].contains("before it starts"), "{problems:?}");
        assert!(problems[5].contains("outside the usable"), "{problems:?}");
        assert!(scan.volumes[4].source.is_none());
        let cut = scan.volumes[3].source.as_ref().unwrap();
        assert_eq!((&**cut.name(), cut.len()), ("p4", 512_000));
        let mut buf = [1; 512];
        cut.read_at(0, &mut buf).unwrap();
        assert_eq!(cut.read_at(cut.len() - 512, &mut buf).unwrap_err().range(), Some(511_488..512_000));
    }

    #[test]
    fn a_count_without_measure_costs_nothing() {
        let mut disk = gpt(200, 128, &[(100, 110)]);
        disk[512 + 80..512 + 84].copy_from_slice(&u32::MAX.to_le_bytes());
        let scan = look(disk);
        assert_eq!(scan.volumes.first().map(|v| (v.index, v.start)), Some((1, 51_200)));
        assert!(scan.problems[0].contains("both tables are damaged"), "{:?}", scan.problems);
    }

    #[test]
    fn tiny_disks_are_answered() {
        for len in [0, 1, 511, 512, 513, 1024, 4096, 9000] {
            let scan = look(vec![0xff; len]);
            assert_eq!((scan.volumes.len(), scan.volumes[0].size), (1, len as u64));
        }
    }
}
