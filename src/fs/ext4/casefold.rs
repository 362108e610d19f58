//! Casefolded names, as fs/unicode of the kernel compares them: NFD, default ignorable characters left out, full casefolding.
//!
//! The kernel's tables are those of Unicode 12.1, the ones here are newer. What differs are characters that 12.1 does not
//! have; the kernel compares names with such characters byte by byte, and byte equality is tried first here.

use std::ops::RangeInclusive;

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

/// `Default_Ignorable_Code_Point` of Unicode's DerivedCoreProperties.
const IGNORABLE: [RangeInclusive<u32>; 17] = [
    0x00ad..=0x00ad,
    0x034f..=0x034f,
    0x061c..=0x061c,
    0x115f..=0x1160,
    0x17b4..=0x17b5,
    0x180b..=0x180f,
    0x200b..=0x200f,
    0x202a..=0x202e,
    0x2060..=0x206f,
    0x3164..=0x3164,
    0xfe00..=0xfe0f,
    0xfeff..=0xfeff,
    0xffa0..=0xffa0,
    0xfff0..=0xfff8,
    0x1_bca0..=0x1_bca3,
    0x1_d173..=0x1_d17a,
    0xe_0000..=0xe_0fff,
];

/// The form under which two names are one; `None` for a name that is not UTF-8, which is only itself.
pub(super) fn fold(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let kept = |c: &char| !IGNORABLE.iter().any(|range| range.contains(&u32::from(*c)));
    Some(name.nfd().default_case_fold().nfd().filter(kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of Documentation/admin-guide/ext4.rst and of tools/testing in the kernel's fs/unicode/utf8-selftest.c.
    #[test]
    fn names_that_differ_in_case_and_form_are_one() {
        for (a, b) in [
            ("HELLO", "hello"),
            ("\u{c4}pfel", "a\u{308}pfel"),
            ("stra\u{df}e", "STRASSE"),
            ("soft\u{ad}hyphen", "SoftHyphen"),
            ("\u{212b}", "\u{e5}"),
        ] {
            assert_eq!(fold(a.as_bytes()), fold(b.as_bytes()), "{a} {b}");
        }
        assert_ne!(fold(b"a"), fold(b"b"));
        assert_eq!(fold(b"\xff"), None);
    }
}
