//! A physical volume's own structures: its label, its areas, and the metadata ring (`lib/format_text/layout.h` and
//! `lib/label/label.h` of LVM2).

use crate::block::{BlockSource, Locate, read_array, read_vec};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

const SECTOR: u64 = 512;
/// Sectors of a device that may hold the label.
const LABEL_SECTORS: u64 = 4;
/// What LVM starts its checksums with.
const INITIAL_CRC: u32 = 0xf597_a6cf;
const MDA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const MDA_HEADER: u64 = 512;
/// A metadata text at most, in bytes; LVM's own default ring is one MiB.
const TEXT_MAX: u64 = 16 << 20;
/// Metadata areas of one device that are looked at.
const AREAS_MAX: usize = 8;
/// Older texts that are listed for each ring.
const OLDER_MAX: usize = 256;

/// The checksum that LVM takes: a CRC-32 with its own start and no inversion at the end.
fn checksum(data: &[u8]) -> u32 {
    let mut crc = libdeflater::Crc::with_initial(!INITIAL_CRC);
    crc.update(data);
    !crc.sum()
}

/// What a device says of itself.
pub(super) struct Label {
    /// 32 characters, without the hyphens.
    pub(super) id: String,
    /// Its metadata areas: offset and size in bytes.
    areas: Vec<(u64, u64)>,
    /// What is wrong, a sentence each.
    pub(super) problems: Vec<String>,
}

/// A metadata text with where it was found.
pub(super) struct Text {
    pub(super) data: Vec<u8>,
    /// Where the text starts, in bytes from the start of the device.
    pub(super) offset: u64,
    pub(super) sound: bool,
}

/// The label of `pv`.
pub(super) fn read(pv: &dyn BlockSource) -> Result<Label> {
    for sector in 0..LABEL_SECTORS {
        let at = sector.saturating_mul(SECTOR);
        let Ok(raw) = read_array::<512>(pv, at) else { break };
        let label = Bytes::new(&raw, "LVM label");
        if label.slice(0, 8, "id")? != b"LABELONE"
            || label.slice(24, 8, "type")? != b"LVM2 001"
            || label.le64(8, "sector_xl")? != sector
        {
            continue;
        }
        return parse(&label).found_at(pv, at);
    }
    Err(Error::corrupt(format!("{}: no LVM label in its first four sectors", pv.name())))
}

fn parse(label: &Bytes<'_>) -> Result<Label> {
    let mut problems = Vec::new();
    if checksum(label.rest(20, "label")?) != label.le32(16, "crc_xl")? {
        problems.push("LVM label: its checksum is wrong".to_owned());
    }
    let mut at = usize::try_from(label.le32(20, "offset_xl")?).unwrap_or(usize::MAX);
    let id = String::from_utf8_lossy(label.slice(at, 32, "pv_uuid")?).into_owned();
    at = at.saturating_add(40);
    // Two lists of areas, each ended by zeros: data, then metadata.
    let mut list = || -> Result<Vec<(u64, u64)>> {
        let mut areas = Vec::new();
        loop {
            let area =
                (label.le64(at, "disk_locn.offset")?, label.le64(at.saturating_add(8), "disk_locn.size")?);
            at = at.saturating_add(16);
            if area.0 == 0 {
                return Ok(areas);
            }
            areas.push(area);
        }
    };
    let _data = list()?;
    let mut areas = list()?;
    areas.truncate(AREAS_MAX);
    Ok(Label { id, areas, problems })
}

impl Label {
    /// The metadata texts that its rings say are current; damaged ones with a problem, unreadable ones with only that.
    pub(super) fn texts(&mut self, pv: &dyn BlockSource) -> Vec<Text> {
        let mut texts = Vec::new();
        for (start, size) in &self.areas {
            match current(pv, *start, *size) {
                Ok(Some(text)) => {
                    if !text.sound {
                        self.problems
                            .push(format!("LVM metadata at byte {}: its checksum is wrong", text.offset));
                    }
                    texts.push(text);
                }
                Ok(None) => {}
                Err(error) => {
                    self.problems.push(format!("LVM metadata area at byte {start}: {}", error.what()));
                }
            }
        }
        texts
    }

    /// Every text that still lies in the rings, current and older, as they begin on a sector: offset, volume group, number.
    pub(super) fn older(&self, pv: &dyn BlockSource) -> Vec<super::OldText> {
        let mut found = Vec::new();
        for (start, size) in &self.areas {
            let end = start.saturating_add((*size).min(TEXT_MAX)).min(pv.len());
            let mut at = start.saturating_add(MDA_HEADER);
            while at < end && found.len() < OLDER_MAX {
                let len = usize::try_from(end.saturating_sub(at)).unwrap_or(0).min(4096);
                let Ok(head) = read_vec(pv, at, len) else { break };
                if let Some((group, seqno)) = beginning(&head) {
                    found.push(super::OldText { offset: at, group, seqno });
                }
                at = at.saturating_add(SECTOR);
            }
        }
        found
    }
}

/// A text's first lines, `name {`, `id = …`, `seqno = N`: the name and the number.
fn beginning(head: &[u8]) -> Option<(String, u64)> {
    let name_end = head.iter().position(|b| *b == b' ').filter(|n| (1..128).contains(n))?;
    let (name, rest) = head.split_at_checked(name_end)?;
    rest.starts_with(b" {\nid = \"").then_some(())?;
    let name = std::str::from_utf8(name).ok()?;
    let rest = rest.get(..200.min(rest.len()))?;
    let at = rest.windows(8).position(|w| w == b"seqno = ")?;
    let digits = rest.get(at.checked_add(8)?..)?;
    let end = digits.iter().position(|b| !b.is_ascii_digit())?;
    Some((name.to_owned(), std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()?))
}

/// The text that the ring at `start` points to; `None` where it has none or is ignored.
fn current(pv: &dyn BlockSource, start: u64, size: u64) -> Result<Option<Text>> {
    let raw = read_array::<512>(pv, start)?;
    let header = Bytes::new(&raw, "mda_header");
    if header.slice(4, 16, "magic")? != MDA_MAGIC {
        return Err(Error::corrupt("mda_header: no magic").found_at(pv, start));
    }
    let header_sound = checksum(header.rest(4, "mda_header")?) == header.le32(0, "checksum_xl")?;
    if header.le64(24, "start")? != start {
        return Err(Error::corrupt("mda_header: it belongs to another place").found_at(pv, start));
    }
    let size = size.min(header.le64(32, "size")?);
    let offset = header.le64(40, "raw_locn.offset")?;
    let len = header.le64(48, "raw_locn.size")?;
    let ignored = header.le32(60, "raw_locn.flags")? & 1 != 0;
    if offset == 0 || len == 0 || ignored {
        return Ok(None);
    }
    if offset < MDA_HEADER || offset >= size || len > size.saturating_sub(MDA_HEADER) || len > TEXT_MAX {
        return Err(Error::corrupt(format!(
            "mda_header: a text of {len} bytes at {offset} in a ring of {size}"
        ))
        .found_at(pv, start));
    }
    // The ring goes on after its header.
    let first = len.min(size.saturating_sub(offset));
    let at = start.saturating_add(offset);
    let mut data = read_vec(pv, at, usize::try_from(first).unwrap_or(0))?;
    let second = usize::try_from(len.saturating_sub(first)).unwrap_or(0);
    if second > 0 {
        data.extend(read_vec(pv, start.saturating_add(MDA_HEADER), second)?);
    }
    let sound = header_sound && checksum(&data) == header.le32(56, "raw_locn.checksum")?;
    Ok(Some(Text { data, offset: at, sound }))
}
