//! A checked view of untrusted bytes. Every read names its field, so that an error can name it too.

use std::borrow::Cow;
use std::fmt::Write;

use crate::error::{Error, Result};

/// Bytes of one on-disk structure. Offsets are relative to its start; nothing here can panic.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    data: &'a [u8],
    what: &'static str,
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $from:ident;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(&self, offset: usize, field: &'static str) -> Result<$type> {
                Ok(<$type>::$from(self.array(offset, field)?))
            }
        )*
    };
}

impl<'a> Bytes<'a> {
    /// Looks at `data`, which is called `what` in errors.
    pub fn new(data: &'a [u8], what: &'static str) -> Self {
        Self { data, what }
    }

    /// All of it.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// `len` bytes at `offset`.
    pub fn slice(&self, offset: usize, len: usize, field: &'static str) -> Result<&'a [u8]> {
        offset
            .checked_add(len)
            .and_then(|end| self.data.get(offset..end))
            .ok_or_else(|| self.short(offset, len, field))
    }

    /// Everything from `offset` on.
    pub fn rest(&self, offset: usize, field: &'static str) -> Result<&'a [u8]> {
        self.data.get(offset..).ok_or_else(|| self.short(offset, 0, field))
    }

    /// A structure of `len` bytes at `offset`, named `what` in its own errors.
    pub fn part(&self, offset: usize, len: usize, what: &'static str) -> Result<Bytes<'a>> {
        Ok(Bytes { data: self.slice(offset, len, what)?, what })
    }

    /// `N` bytes at `offset`.
    pub fn array<const N: usize>(&self, offset: usize, field: &'static str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N, field)?);
        Ok(out)
    }

    integers! {
        /// One byte.
        u8: u8, from_le_bytes;
        /// 16 bits, little-endian.
        le16: u16, from_le_bytes;
        /// 32 bits, little-endian.
        le32: u32, from_le_bytes;
        /// 64 bits, little-endian.
        le64: u64, from_le_bytes;
        /// 16 bits, big-endian.
        be16: u16, from_be_bytes;
        /// 32 bits, big-endian.
        be32: u32, from_be_bytes;
        /// 64 bits, big-endian.
        be64: u64, from_be_bytes;
    }

    fn short(&self, offset: usize, len: usize, field: &'static str) -> Error {
        let have = self.data.len();
        Error::corrupt(format!(
            "{}: {field} at byte {offset} needs {len} bytes, the structure has {have}",
            self.what
        ))
    }
}

/// A guest's name as text. UTF-8 stays as it is; of any other name the bytes that are not UTF-8 become `\xNN` and a backslash
/// becomes `\\`, so that the text can be turned back.
pub fn escape(name: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(name) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for (i, part) in chunk.valid().split('\\').enumerate() {
            out.push_str(if i == 0 { "" } else { "\\\\" });
            out.push_str(part);
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_within_and_refuses_beyond() {
        let bytes = Bytes::new(&[1, 2, 3, 4], "sample");
        assert_eq!(bytes.le16(0, "low").unwrap(), 0x0201);
        assert_eq!(bytes.be32(0, "all").unwrap(), 0x0102_0304);
        let error = bytes.le32(1, "s_magic").unwrap_err().to_string();
        assert!(error.contains("sample: s_magic at byte 1"), "{error}");
        assert!(bytes.slice(usize::MAX, 2, "wrap").is_err());
    }

    #[test]
    fn a_name_that_is_not_text_is_escaped_whole() {
        assert_eq!(escape("a\\ü\n".as_bytes()), "a\\ü\n");
        assert_eq!(escape(b"a\\\xff\xfe\xc3\xbc"), "a\\\\\\xff\\xfeü");
    }
}
