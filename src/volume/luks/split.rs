//! The anti-forensic splitter (LUKS1 On-Disk Format Specification 1.2.3, section 2.4): a key spread over thousands of stripes, so that losing
//! one of them loses the key.

use zeroize::Zeroizing;

use super::kdf::Hash;
use crate::error::{Error, Result};

/// Stripes at most; everything writes 4,000.
const STRIPES_MAX: u64 = 16_384;

/// Bytes that a key of `key` bytes takes in `stripes` stripes.
pub(super) fn material(key: usize, stripes: u64) -> Result<usize> {
    let len = (stripes > 0 && stripes <= STRIPES_MAX)
        .then(|| usize::try_from(stripes).ok()?.checked_mul(key))
        .flatten();
    len.ok_or_else(|| Error::corrupt(format!("LUKS: a key in {stripes} stripes")))
}

/// Puts a key of `len` bytes together from its stripes.
pub(super) fn merge(hash: Hash, stripes: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0; len]);
    let last = stripes.len().checked_div(len).unwrap_or(0).saturating_sub(1);
    for (i, stripe) in stripes.chunks_exact(len.max(1)).enumerate() {
        sum.iter_mut().zip(stripe).for_each(|(sum, byte)| *sum ^= *byte);
        if i < last {
            diffuse(hash, &mut sum);
        }
    }
    sum
}

/// Replaces each digest's worth of bytes by its digest, together with its number.
fn diffuse(hash: Hash, data: &mut [u8]) {
    let size = hash.digest(&[]).len();
    for (number, piece) in (0u32..).zip(data.chunks_mut(size.max(1))) {
        let digest = Zeroizing::new(hash.digest(&[&number.to_be_bytes(), piece]));
        piece.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    }
}
