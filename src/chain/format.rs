//! Which format an image has. Said by something trustworthy, or refused; never guessed from what a tenant could write.

use std::path::Path;

use super::gate::{Admitted, Gate};
use crate::block::{BlockSource, read_vec};
use crate::error::{Error, Result};
use crate::image::qcow2::header::MAGIC;

/// A format that can be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

impl Format {
    /// As QEMU and Nova write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// From the word. Formats that QEMU reads and we do not are Unsupported.
    pub fn from_word(word: &str) -> Result<Self> {
        match word {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(Error::unsupported(format!("the image format {other:?}"))
                .hint("qemu:SPEC as the source reads it through qemu-nbd")),
        }
    }
}

/// How a link's format is known. The word is `format_from` in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatFrom {
    /// The caller said it: `--format`, `disk.info`, libvirt's XML.
    Given,
    /// The overlay's backing-format field.
    Overlay,
    /// The first bytes of the top image, which the operator named by its path.
    Magic,
    /// Nothing says it, and no image's magic is there: raw.
    NoMagic,
}

impl FormatFrom {
    /// As it stands in the output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Overlay => "overlay",
            Self::Magic => "magic",
            Self::NoMagic => "no magic",
        }
    }
}

/// Magics of image formats: where they are, what they are, and whose.
const MAGICS: [(u64, &[u8], &str); 14] = [
    (0, &MAGIC, "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "ewf"),
    (0, b"AFF10\x0d\x0a\0", "aff"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"Bochs Virtual HD Image", "bochs"),
];

/// The format whose magic the file carries.
fn magic(file: &dyn BlockSource) -> Result<Option<&'static str>> {
    let head = read_vec(file, 0, usize::try_from(file.len().min(512)).unwrap_or(0))?;
    for (at, bytes, name) in MAGICS {
        let at = usize::try_from(at).unwrap_or(0);
        if head.get(at..).is_some_and(|head| head.starts_with(bytes)) {
            // Version 1 shares its magic with its successors.
            let first = name == "qcow2" && head.get(4..8) == Some(&[0, 0, 0, 1]);
            return Ok(Some(if first { "qcow" } else { name }));
        }
    }
    Ok(None)
}

/// What is said of a backing file's format, strongest first.
pub(super) fn backing(gate: &Gate, file: &Admitted, recorded: Option<&str>) -> Result<(Format, FormatFrom)> {
    if let Some(format) = given(gate, &file.path) {
        return Ok((format, FormatFrom::Given));
    }
    if let Some(word) = recorded {
        return Ok((Format::from_word(word)?, FormatFrom::Overlay));
    }
    match magic(&*file.file)? {
        None => Ok((Format::Raw, FormatFrom::NoMagic)),
        Some(name) => {
            let path = file.path.display();
            Err(Error::refused(format!(
                "{path}: begins like {name}, and nothing says that it is: its bytes may be a tenant's"
            ))
            .hint(format!("--format '{path}=raw' or --format '{path}={name}' says which")))
        }
    }
}

/// The top image's format: as given, or by its magic, as the operator named the file.
pub(super) fn top(gate: &Gate, file: &Admitted, said: Option<Format>) -> Result<(Format, FormatFrom)> {
    if let Some(format) = said.or_else(|| given(gate, &file.path)) {
        return Ok((format, FormatFrom::Given));
    }
    match magic(&*file.file)? {
        // A raw disk that is encrypted as a whole begins with LUKS.
        None | Some("luks") => Ok((Format::Raw, FormatFrom::NoMagic)),
        Some(name) => Ok((
            Format::from_word(name).map_err(|error| error.context(file.path.display()))?,
            FormatFrom::Magic,
        )),
    }
}

fn given(gate: &Gate, path: &Path) -> Option<Format> {
    let real = || path.canonicalize().ok();
    gate.formats.get(path).copied().or_else(|| gate.formats.get(&real()?).copied())
}
