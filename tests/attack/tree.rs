//! A second implementation of RFC 6962, written from section 2.1 alone: recursive, by definition. It shares no line with
//! the product's.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

fn sha(parts: &[&[u8]]) -> Hash {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().into()
}

/// MTH(D[n]).
pub fn head(entries: &[&[u8]]) -> Hash {
    match entries.len() {
        0 => sha(&[]),
        1 => sha(&[&[0], entries[0]]),
        n => {
            let k = split(n);
            sha(&[&[1], &head(&entries[..k]), &head(&entries[k..])])
        }
    }
}

/// The largest power of two smaller than n.
fn split(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// PATH(m, D[n]).
pub fn path(m: usize, entries: &[&[u8]]) -> Vec<Hash> {
    let n = entries.len();
    if n == 1 {
        return Vec::new();
    }
    let k = split(n);
    if m < k {
        let mut path = path(m, &entries[..k]);
        path.push(head(&entries[k..]));
        path
    } else {
        let mut path = path(m - k, &entries[k..]);
        path.push(head(&entries[..k]));
        path
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}
