//! Labels and UUIDs as text, the way blkid(8) prints them.

use std::fmt::Write as _;

/// 16 bytes as a UUID in lower case.
pub(super) fn uuid(raw: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in raw.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A GUID as text: as a UUID, but its first three fields are little-endian (UEFI Specification, appendix A).
pub(super) fn guid(raw: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *raw;
    uuid(&[d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
}

/// The UUID, or none for one that is all zeros and so was never set.
pub(super) fn uuid_set(raw: &[u8; 16]) -> Option<String> {
    (*raw != [0; 16]).then(|| uuid(raw))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(raw: &[u8]) -> String {
    raw.iter().fold(String::with_capacity(raw.len().saturating_mul(2)), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A label in UTF-8 up to its first NUL, without white space at its end; bytes that are not UTF-8 as `\xNN`.
/// None when nothing is left.
pub(super) fn label(raw: &[u8]) -> Option<String> {
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    let text = raw.get(..end).unwrap_or_default().trim_ascii_end();
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    (!out.is_empty()).then_some(out)
}

/// UTF-16, little-endian, up to its first NUL.
pub(super) fn utf16_le(raw: &[u8]) -> String {
    utf16(raw, u16::from_le_bytes)
}

/// UTF-16, big-endian, up to its first NUL.
pub(super) fn utf16_be(raw: &[u8]) -> String {
    utf16(raw, u16::from_be_bytes)
}

fn utf16(raw: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = raw.as_chunks::<2>().0.iter().map(|pair| unit(*pair)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Text without white space at its end; none when nothing is left.
pub(super) fn trimmed(text: &str) -> Option<String> {
    let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_cut_trimmed_and_escaped() {
        assert_eq!(label(b"root  \0junk").as_deref(), Some("root"));
        assert_eq!(label(b"\xe5\xe5").as_deref(), Some("\\xe5\\xe5"));
        assert_eq!((label(b"\0x"), label(b"   ")), (None, None));
        assert_eq!(utf16_le(b"H\0i\0\0\0x\0"), "Hi");
        assert_eq!(utf16_be(b"\xd8\x3d"), "\u{fffd}");
    }
}
