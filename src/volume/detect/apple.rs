//! HFS, HFS+ and APFS.

use super::super::text;
use super::{Content, Probe, Row, Usage};

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: "apfs",
        usage: Usage::Filesystem,
        magics: &[(32, b"NXSB")],
        parse: |p, _| Some(Content { uuid: text::uuid_set(&p.array(72)?), ..Content::default() }),
    },
    Row {
        kind: "hfsplus",
        usage: Usage::Filesystem,
        magics: &[(0x400, b"H+"), (0x400, b"HX"), (0x400, b"BD")],
        parse: hfsplus,
    },
    Row { kind: "hfs", usage: Usage::Filesystem, magics: &[(0x400, b"BD")], parse: hfs },
];

/// HFS+, by itself or inside an HFS wrapper (Apple's Technical Note 1150).
fn hfsplus(probe: &Probe<'_>, place: usize) -> Option<Content> {
    let start = if place == 2 {
        matches!(&probe.array::<2>(0x47c)?, b"H+" | b"HX").then_some(())?;
        let block = u64::from(probe.be32(0x414)?);
        let first = u64::from(probe.be16(0x41c)?).checked_mul(512)?;
        first.checked_add(block.checked_mul(u64::from(probe.be16(0x47e)?))?)?
    } else {
        0
    };
    let header = start.checked_add(0x400)?;
    (probe.be32(header.checked_add(40)?)?.is_power_of_two()).then_some(())?;
    Some(Content { label: root_name(probe, start), ..Content::default() })
}

/// The name of the root folder: the first record of the catalog's first leaf.
fn root_name(probe: &Probe<'_>, start: u64) -> Option<String> {
    let header = start.checked_add(0x400)?;
    let block = u64::from(probe.be32(header.checked_add(40)?)?);
    let catalog = start.checked_add(u64::from(probe.be32(header.checked_add(288)?)?).checked_mul(block)?)?;
    let extent = u64::from(probe.be32(header.checked_add(292)?)?).checked_mul(block)?;
    let leaf = u64::from(probe.be32(catalog.checked_add(24)?)?);
    let node = u64::from(probe.be16(catalog.checked_add(32)?)?);
    let inside = leaf.checked_mul(node).filter(|at| *at < extent)?;
    let at = catalog.checked_add(inside)?;
    // Node kind -1, and a key whose parent is the root's parent.
    (probe.array::<1>(at.checked_add(8)?)?[0] == 0xff && probe.be32(at.checked_add(16)?)? == 1)
        .then_some(())?;
    let units = usize::from(probe.be16(at.checked_add(20)?)?.min(255));
    text::trimmed(&text::utf16_be(&probe.bytes(at.checked_add(22)?, units.checked_mul(2)?)?))
}

fn hfs(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let [len, name @ ..] = probe.array::<28>(0x424)?;
    let block = probe.be32(0x414)?;
    (block > 0 && block.is_multiple_of(512)).then_some(())?;
    Some(Content { label: text::label(name.get(..usize::from(len))?), ..Content::default() })
}
