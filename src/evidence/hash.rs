//! Digests: SHA-256 of content, and what stands in for it where a file is mostly nothing.

use sha2::{Digest as _, Sha256};

use super::copy::{Piece, spans, zeros};
use crate::effort::Effort;
use crate::error::Result;

/// Bytes of a SHA-256 digest.
pub type Sum = [u8; 32];

/// SHA-256 of a stream of pieces.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// The next piece.
    pub fn piece(&mut self, piece: &Piece<'_>, effort: &Effort) -> Result<()> {
        if let Some(data) = piece.data {
            self.0.update(data);
            return Ok(());
        }
        zeros(piece.len, |part| {
            self.0.update(part);
            effort.check()
        })
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Sum {
        self.0.finalize().into()
    }
}

/// A digest for files that are too large to hash their zeros: SHA-256 over each block of 4096 bytes that is not all zeros, its
/// offset (64 bits, little-endian) before it, and at the end the file's length in the same form. Content decides it, not where holes lie.
#[derive(Default)]
pub struct SparseHasher(Sha256);

impl SparseHasher {
    /// The next piece; pieces begin at multiples of 4096 and come in order.
    pub fn piece(&mut self, piece: &Piece<'_>) -> Result<()> {
        let Some(data) = piece.data else { return Ok(()) };
        spans(piece.start, data, |start, span| {
            for (offset, block) in (start..).step_by(4096).zip(span.chunks(4096)) {
                self.0.update(offset.to_le_bytes());
                self.0.update(block);
            }
            Ok(())
        })
    }

    /// The digest; `len` is the file's length.
    pub fn finish(mut self, len: u64) -> Sum {
        self.0.update(len.to_le_bytes());
        self.0.finalize().into()
    }
}

/// Lower-case hex.
pub fn hex(sum: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sum.iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// How many bytes of file content one run hashes, so that sparse files cannot make it endless. A disk holds what it holds: the
/// lengths of its files sum up to more only by holes and shared blocks. Sixteen times the volumes' size and 64 GiB are
/// allowed for; a file that does not fit in what is left is copied without its zeros being hashed ([`SparseHasher`]).
#[derive(Clone, Copy, Debug)]
pub struct Allowance(u64);

impl Allowance {
    /// For volumes of `size` bytes together.
    pub fn new(size: u64) -> Self {
        Self(size.saturating_mul(16).saturating_add(64 << 30))
    }

    /// Takes `len` bytes if they are left.
    pub fn take(&mut self, len: u64) -> bool {
        match self.0.checked_sub(len) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

/// Why a file has no SHA-256, as the manifest says it.
pub const NOT_HASHED: &str = "not hashed: with this file the lengths of the files come to more than 16 times the volume's size and 64 GiB; \
     sparse_sha256 covers its blocks that are not zeros";
