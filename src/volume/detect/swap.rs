//! Swap space, and memory images that were put there to sleep. Layout: `union swap_header`, include/linux/swap.h.

use super::super::text;
use super::{Content, Probe, Row, Usage};

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: "swsuspend",
        usage: Usage::Other,
        magics: &[
            (0, TUXONICE),
            (0xff6, b"S1SUSPEND\0"),
            (0xff6, b"S2SUSPEND\0"),
            (0xff6, b"ULSUSPEND\0"),
            (0xff6, TUXONICE),
            (0xff6, b"LINHIB0001"),
            (0x1ff6, b"S1SUSPEND\0"),
            (0x1ff6, b"S2SUSPEND\0"),
            (0x3ff6, b"S1SUSPEND\0"),
            (0x3ff6, b"S2SUSPEND\0"),
            (0x7ff6, b"S1SUSPEND\0"),
            (0x7ff6, b"S2SUSPEND\0"),
            (0xfff6, b"S1SUSPEND\0"),
            (0xfff6, b"S2SUSPEND\0"),
            (0xfff6, b"ULSUSPEND\0"),
            (0xfff6, b"LINHIB0001"),
        ],
        parse: suspended,
    },
    Row {
        kind: "swap",
        usage: Usage::Other,
        magics: &[
            (0xff6, b"SWAPSPACE2"),
            (0x1ff6, b"SWAPSPACE2"),
            (0x3ff6, b"SWAPSPACE2"),
            (0x7ff6, b"SWAPSPACE2"),
            (0xfff6, b"SWAPSPACE2"),
            (0xff6, b"SWAP-SPACE"),
            (0x1ff6, b"SWAP-SPACE"),
            (0x3ff6, b"SWAP-SPACE"),
            (0x7ff6, b"SWAP-SPACE"),
            (0xfff6, b"SWAP-SPACE"),
        ],
        parse: swap,
    },
];

const TUXONICE: &[u8] = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";

/// The first five places of the table are version 1, the others the old format without a header.
fn swap(probe: &Probe<'_>, place: usize) -> Option<Content> {
    if place >= 5 {
        return Some(Content { version: Some("0".to_owned()), ..Content::default() });
    }
    // The header's version is written in the byte order of its machine.
    (probe.le32(0x400)? == 1 || probe.be32(0x400)? == 1).then_some(())?;
    header(probe, "1")
}

fn suspended(probe: &Probe<'_>, _: usize) -> Option<Content> {
    header(probe, "suspended")
}

fn header(probe: &Probe<'_>, version: &str) -> Option<Content> {
    Some(Content {
        label: text::label(&probe.array::<16>(0x41c)?),
        uuid: text::uuid_set(&probe.array(0x40c)?),
        version: Some(version.to_owned()),
        ..Content::default()
    })
}
