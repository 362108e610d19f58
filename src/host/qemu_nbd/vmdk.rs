//! VMDK: which files an image is made of. Parsed here, before QEMU sees any of it, because a descriptor can name any
//! file of the host.
//!
//! Layout: VMware's "Virtual Disk Format 1.1"; QEMU's `block/vmdk.c` for what it opens.

use std::sync::Arc;

use crate::block::join::{Join, Part, Piece};
use crate::block::memory::Memory;
use crate::block::{BlockSource, Source, read_vec};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// The longest descriptor that is read, in bytes; QEMU's own limit is lower.
const DESCRIPTOR_MAX: u64 = 64 << 10;
/// Extents of one image at most: each sparse one needs a qemu-nbd.
const EXTENTS_MAX: usize = 64;
const SECTOR: u64 = 512;
/// Header flag: the redundant grain directory is to be used.
const FLAG_RGD: u32 = 1 << 1;

/// One extent of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

/// What an extent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a file as they are, from an offset in bytes.
    Flat(String, u64),
    /// A sparse extent file.
    Sparse(String),
    /// Zeros.
    Zero,
}

/// What a VMDK file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Vmdk {
    /// One file that holds all.
    Whole,
    /// A descriptor that names others.
    Split(Vec<Extent>),
}

/// Looks at a VMDK file. Refused: a parent, and extents that only QEMU would look up.
pub fn look(file: &Source) -> Result<Vmdk> {
    let name = file.name();
    let head = read_vec(&**file, 0, usize::try_from(file.len().min(512)).unwrap_or(0))?;
    if head.starts_with(b"KDMV") {
        let header = Bytes::new(&head, "VMDK header");
        let (capacity, at, len) = (
            header.le64(12, "capacity")?,
            header.le64(28, "descriptorOffset")?,
            header.le64(36, "descriptorSize")?,
        );
        if capacity == 0 {
            return Err(Error::unsupported(format!(
                "{name}: a VMDK whose header leaves its size to a descriptor"
            )));
        }
        if at != 0 {
            let len = len.saturating_mul(SECTOR).min(DESCRIPTOR_MAX);
            let text = text(&**file, at.saturating_mul(SECTOR), len)?;
            refuse_parent(name, &text)?;
        }
        return Ok(Vmdk::Whole);
    }
    if head.starts_with(b"COWD") {
        return Err(Error::unsupported(format!("{name}: a COWD extent")));
    }
    if file.len() > DESCRIPTOR_MAX {
        return Err(Error::corrupt(format!("{name}: no VMDK header, and too long for a descriptor")));
    }
    let text = text(&**file, 0, file.len())?;
    refuse_parent(name, &text)?;
    let extents = text.lines().filter_map(extent).collect::<Result<Vec<_>>>()?;
    if extents.is_empty() || extents.len() > EXTENTS_MAX {
        return Err(Error::unsupported(format!("{name}: a descriptor of {} extents", extents.len())));
    }
    Ok(Vmdk::Split(extents))
}

/// A sparse extent of a split image as an image of its own. QEMU wants a descriptor with a CID in sector 1 of whatever
/// it opens by itself (`vmdk_open`, `vmdk_read_cid`). There lies an unused descriptor, or the redundant grain directory,
/// which QEMU does not need once the header's flag for it is cleared.
pub fn alone(file: &Source) -> Result<Source> {
    let name = Arc::clone(file.name());
    let head = read_vec(&**file, 0, usize::try_from(file.len().min(SECTOR)).unwrap_or(0))?;
    if !head.starts_with(b"KDMV") || file.len() < 2 * SECTOR {
        return Err(Error::unsupported(format!("{name}: a sparse extent without a VMDK header")));
    }
    let header = Bytes::new(&head, "VMDK header");
    if header.le64(56, "gdOffset")? < 2 {
        return Err(Error::unsupported(format!(
            "{name}: a sparse extent whose grain directory is in sector 1"
        )));
    }
    let flags = header.le32(8, "flags")? & !FLAG_RGD;
    let mut descriptor = b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n".to_vec();
    descriptor.resize(512, 0);
    let own = |bytes: Vec<u8>| Part::At(Arc::new(Memory::new("descriptor", bytes)), 0);
    let theirs =
        |start: u64, end: u64| Piece { start, len: end - start, what: Part::At(Arc::clone(file), start) };
    let pieces = vec![
        theirs(0, 8),
        Piece { start: 8, len: 4, what: own(flags.to_le_bytes().to_vec()) },
        theirs(12, SECTOR),
        Piece { start: SECTOR, len: SECTOR, what: own(descriptor) },
        theirs(2 * SECTOR, file.len()),
    ];
    Ok(Arc::new(Join::new(name, file.len(), pieces)?))
}

fn text(file: &dyn BlockSource, offset: u64, len: u64) -> Result<String> {
    let raw = read_vec(file, offset, usize::try_from(len).unwrap_or(usize::MAX))?;
    let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    String::from_utf8(raw[..end].to_vec())
        .map_err(|_| Error::unsupported(format!("{}: a descriptor that is not UTF-8", file.name())))
}

/// A delta disk: its parent would be found by QEMU, by a path from the image.
fn refuse_parent(name: &str, text: &str) -> Result<()> {
    let parent = text.lines().filter_map(|line| line.split_once('=')).any(|(key, value)| {
        let (key, value) = (key.trim(), value.trim());
        key.eq_ignore_ascii_case("parentFileNameHint")
            || key.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case("ffffffff")
    });
    if parent {
        return Err(Error::unsupported(format!("{name}: a VMDK with a parent"))
            .hint("convert the chain with `qemu-img convert` where it was made"));
    }
    Ok(())
}

/// A line such as `RW 4192256 SPARSE "disk-s001.vmdk"`; none where it is no extent.
fn extent(line: &str) -> Option<Result<Extent>> {
    let line = line.trim();
    let mut words = line.splitn(4, ' ');
    let access = words.next()?;
    if !["RW", "RDONLY", "NOACCESS"].contains(&access) {
        return None;
    }
    let wrong = || Error::corrupt(format!("VMDK extent {line:?}"));
    let parse = || -> Option<Extent> {
        let len = words.next()?.parse::<u64>().ok()?.checked_mul(SECTOR)?;
        let (sort, rest) = (words.next()?, words.next().unwrap_or_default().trim());
        let quoted = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let kind = match (sort, quoted) {
            ("ZERO", None) => Kind::Zero,
            ("FLAT" | "VMFS", Some((name, offset))) => {
                let offset = offset.trim();
                let sectors = if offset.is_empty() { 0 } else { offset.parse::<u64>().ok()? };
                Kind::Flat(name.to_owned(), sectors.checked_mul(SECTOR)?)
            }
            ("SPARSE", Some((name, _))) => Kind::Sparse(name.to_owned()),
            _ => return None,
        };
        Some(Extent { len, kind })
    };
    let mut parse = parse;
    Some(parse().filter(|_| access != "NOACCESS").ok_or_else(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vmdk> {
        let source: Source = Arc::new(Memory::new("x.vmdk", text.as_bytes().to_vec()));
        look(&source)
    }

    #[test]
    fn a_descriptor_is_its_extents() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\
            RW 2 FLAT \"a b.vmdk\" 3\nRW 4 SPARSE \"s.vmdk\"\nRW 5 ZERO\nRW 1 VMFS \"v.vmdk\"\nddb.x = \"RW 1\"\n";
        let kinds = [
            (2, Kind::Flat("a b.vmdk".into(), 1536)),
            (4, Kind::Sparse("s.vmdk".into())),
            (5, Kind::Zero),
            (1, Kind::Flat("v.vmdk".into(), 0)),
        ];
        let expect = kinds.into_iter().map(|(n, kind)| Extent { len: n * 512, kind }).collect();
        assert_eq!(of(text).unwrap(), Vmdk::Split(expect));
    }

    #[test]
    fn parents_and_nonsense_are_refused() {
        for text in [
            "parentCID=12345678\nRW 1 FLAT \"a\" 0\n",
            "parentFileNameHint=\"/etc/shadow\"\nRW 1 FLAT \"a\" 0\n",
            "RW 1 FLAT a 0\n",
            "RW 99999999999999999999 ZERO\n",
            "RW 1 CUSTOM \"x\"\n",
            "nothing\n",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
