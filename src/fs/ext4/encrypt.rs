//! Encrypted directories: their names are shown as the kernel shows them without the key, and nothing is decoded.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::dirent::DirEntry;
use super::hash::Hasher;
use crate::error::Error;

/// Bytes of ciphertext that a shown name carries whole (`struct fscrypt_nokey_name`); the rest is a SHA-256.
const WHOLE: usize = 149;

/// The name as it is listed: base64url of the directory hash, the ciphertext and, beyond 149 bytes, a SHA-256 of the rest.
/// The hash is the one that the entry carries, or the one that `hasher` computes as for an index.
pub(super) fn shown(hasher: Option<&Hasher>, entry: &DirEntry<'_>) -> Vec<u8> {
    let (hash, minor) = entry.hash.or_else(|| Some(hasher?.hash(entry.name))).unwrap_or((0, 0));
    nokey_name(hash, minor, entry.name).into_bytes()
}

/// `fscrypt_fname_disk_to_usr` without a key.
fn nokey_name(hash: u32, minor: u32, name: &[u8]) -> String {
    let mut raw = Vec::with_capacity(8 + WHOLE + 32);
    raw.extend(hash.to_le_bytes());
    raw.extend(minor.to_le_bytes());
    match name.split_at_checked(WHOLE) {
        Some((head, rest)) if !rest.is_empty() => {
            raw.extend(head);
            raw.extend(Sha256::digest(rest));
        }
        _ => raw.extend(name),
    }
    URL_SAFE_NO_PAD.encode(raw)
}

/// What is said instead of ciphertext.
pub(super) fn refusal(ino: u32, what: &str) -> Error {
    Error::unsupported(format!("ext4 inode {ino}: its {what} is encrypted (fscrypt)"))
        .hint("the key is not on the disk; ciphertext is not handed out as content")
}
