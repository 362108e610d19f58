//! Master boot records with extended and logical partitions, numbered as the kernel numbers them
//! (`block/partitions/msdos.c`).

use std::collections::HashSet;

use crate::block::{BlockSource, read_array};
use crate::effort::Effort;
use crate::error::Result;

/// Logical partitions listed at most; the kernel stops at 256 partitions of a disk.
const LOGICAL_MAX: u32 = 1024;

/// The partition type of the protective entry of a GPT.
pub(super) const PROTECTIVE: u8 = 0xee;

/// One used entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// 1 to 4 for the record's own entries, from 5 for logical partitions.
    pub(super) number: u32,
    pub(super) kind: u8,
    /// In sectors from the start of the disk.
    pub(super) start: u64,
    /// In sectors; never 0.
    pub(super) len: u64,
}

impl Entry {
    /// Whether it is a box for logical partitions.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// What the first sector says.
pub(super) struct Table {
    /// The disk signature at byte 440.
    pub(super) signature: u32,
    /// Primary entries in their order, then the logical partitions in theirs.
    pub(super) entries: Vec<Entry>,
    /// What is wrong, a sentence each.
    pub(super) problems: Vec<String>,
}

impl Table {
    /// The protective entry of a GPT, if there is one.
    pub(super) fn protective(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == PROTECTIVE)
    }
}

/// The four entries of a boot record, each with its boot indicator; `None` without the signature 55 AA.
fn record(raw: &[u8; 512]) -> Option<[(u8, Entry); 4]> {
    (raw.get(510..512)? == [0x55, 0xaa]).then_some(())?;
    let entry = |i: usize| {
        let at = i.checked_mul(16)?.checked_add(446)?;
        let e: &[u8; 16] = raw.get(at..)?.first_chunk()?;
        let [boot, _, _, _, kind, _, _, _, s0, s1, s2, s3, l0, l1, l2, l3] = *e;
        Some((
            boot,
            Entry {
                number: u32::try_from(i).ok()?.checked_add(1)?,
                kind,
                start: u32::from_le_bytes([s0, s1, s2, s3]).into(),
                len: u32::from_le_bytes([l0, l1, l2, l3]).into(),
            },
        ))
    };
    Some([entry(0)?, entry(1)?, entry(2)?, entry(3)?])
}

/// The table of `disk` in sectors of `sector` bytes; `None` where the first sector is no boot record. A boot sector of a
/// filesystem ends in 55 AA as well: its boot indicators are not those of a table.
pub(super) fn read(disk: &dyn BlockSource, sector: u32, effort: &Effort) -> Result<Option<Table>> {
    let Ok(raw) = read_array::<512>(disk, 0) else { return Ok(None) };
    let Some(record) = record(&raw) else { return Ok(None) };
    if record.iter().any(|(boot, _)| boot & 0x7f != 0) {
        return Ok(None);
    }
    let signature = raw.get(440..).and_then(|r| r.first_chunk()).map_or(0, |r| u32::from_le_bytes(*r));
    let mut table = Table { signature, entries: Vec::new(), problems: Vec::new() };
    table.entries.extend(record.into_iter().map(|(_, entry)| entry).filter(|e| e.kind != 0 && e.len != 0));
    let extended: Vec<Entry> = table.entries.iter().filter(|e| e.is_extended()).cloned().collect();
    let mut seen = HashSet::new();
    let mut next = 5;
    for outer in extended {
        logical(disk, sector, &outer, &mut next, &mut seen, &mut table, effort)?;
    }
    Ok(Some(table))
}

/// Follows the chain of boot records inside one extended partition. Each names its logical partition relative to itself
/// and the next record relative to the extended partition.
fn logical(
    disk: &dyn BlockSource,
    sector: u32,
    outer: &Entry,
    next: &mut u32,
    seen: &mut HashSet<u64>,
    table: &mut Table,
    effort: &Effort,
) -> Result<()> {
    let mut here = outer.start;
    loop {
        effort.check()?;
        if !seen.insert(here) {
            table.problems.push(format!(
                "MBR: the chain of logical partitions comes back to sector {here}; it was followed no further"
            ));
            return Ok(());
        }
        if *next >= LOGICAL_MAX {
            table.problems.push(format!("MBR: more than {LOGICAL_MAX} partitions; the rest is not listed"));
            return Ok(());
        }
        let record = here
            .checked_mul(u64::from(sector))
            .and_then(|at| read_array::<512>(disk, at).ok())
            .and_then(|raw| record(&raw));
        let Some(record) = record else {
            table.problems.push(format!(
                "MBR: sector {here} should hold a record of logical partitions and does not; later ones are not listed"
            ));
            return Ok(());
        };
        let mut link = None;
        for (i, (_, entry)) in record.into_iter().enumerate() {
            if entry.kind == 0 || entry.len == 0 {
                continue;
            }
            if entry.is_extended() {
                link = link.or_else(|| Some(outer.start.saturating_add(entry.start)));
                continue;
            }
            let start = here.saturating_add(entry.start);
            let end = start.saturating_add(entry.len);
            // The third and fourth entries are of no use in a sound record; some tools leave rubbish there.
            let inside = start >= outer.start && end <= outer.start.saturating_add(outer.len);
            if i >= 2 && !inside {
                continue;
            }
            if !inside {
                table.problems.push(format!(
                    "MBR: logical partition {next} reaches out of the extended partition {}",
                    outer.number
                ));
            }
            table.entries.push(Entry { number: *next, start, ..entry });
            *next = next.saturating_add(1);
        }
        match link {
            Some(link) => here = link,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "the numbers of a test are known")]
mod tests {
    use super::*;
    use crate::block::memory::Memory;

    /// A boot record: its sector, and its entries.
    type Record<'a> = (usize, &'a [(u8, u32, u32)]);

    /// A disk of 64 sectors with boot records: where, and their entries as type, start, length.
    fn disk(records: &[Record<'_>]) -> Memory {
        let mut data = vec![0; 64 * 512];
        for (sector, entries) in records {
            let record = &mut data[sector * 512..][..512];
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            for (entry, (kind, start, len)) in record[446..510].chunks_mut(16).zip(*entries) {
                entry[4] = *kind;
                entry[8..12].copy_from_slice(&start.to_le_bytes());
                entry[12..].copy_from_slice(&len.to_le_bytes());
            }
        }
        Memory::new("disk", data)
    }

    fn read(disk: &Memory) -> Table {
        super::read(disk, 512, &Effort::default()).unwrap().unwrap()
    }

    #[test]
    fn a_chain_that_comes_back_to_itself_ends() {
        let table = read(&disk(&[
            (0, &[(0x05, 8, 40)]),
            (8, &[(0x83, 1, 2), (0x05, 8, 8)]),
            (16, &[(0x83, 1, 2), (0x05, 0, 8)]),
        ]));
        let logical: Vec<_> = table.entries.iter().map(|e| (e.number, e.start)).collect();
        assert_eq!(logical, [(1, 8), (5, 9), (6, 17)]);
        assert!(table.problems[0].contains("comes back to sector 8"), "{:?}", table.problems);
    }

    #[test]
    fn two_extended_partitions_do_not_share_a_chain() {
        let table = read(&disk(&[(0, &[(0x05, 8, 40), (0x0f, 8, 40)]), (8, &[(0x83, 1, 2)])]));
        assert_eq!(table.entries.iter().filter(|e| e.number > 4).count(), 1);
        assert!(table.problems[0].contains("comes back"), "{:?}", table.problems);
    }

    #[test]
    fn a_chain_that_leads_nowhere_is_said_and_what_came_before_it_is_shown() {
        let table = read(&disk(&[(0, &[(0x05, 8, 40)]), (8, &[(0x83, 1, 90), (0x05, 20, 8)])]));
        assert_eq!(table.entries.len(), 2);
        assert!(
            table.problems[0].contains("reaches out of the extended partition 1"),
            "{:?}",
            table.problems
        );
        assert!(table.problems[1].contains("sector 28 should hold a record"), "{:?}", table.problems);
        let table = read(&disk(&[(0, &[(0x05, 8, 40)]), (8, &[(0x83, 1, 2), (0x05, u32::MAX, 8)])]));
        assert!(table.problems[0].contains("should hold a record"), "{:?}", table.problems);
    }

    #[test]
    fn what_has_no_signature_or_no_boot_indicators_is_no_table() {
        assert!(super::read(&Memory::new("disk", vec![0; 512]), 512, &Effort::default()).unwrap().is_none());
        assert!(super::read(&Memory::new("disk", vec![0; 100]), 512, &Effort::default()).unwrap().is_none());
        let mut sector = vec![0x41; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(super::read(&Memory::new("disk", sector), 512, &Effort::default()).unwrap().is_none());
    }
}
