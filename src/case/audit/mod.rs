//! The audit log: one JSON object a line, written and synced before an act and again after it.
//!
//! Every line carries a random salt and `tree`: the number of lines before it and their Merkle root as in RFC 6962
//! (leaf data: the bytes of the line without its newline). [`verify`] finds lines that were changed, dropped, added or
//! swapped in place. Whoever can write the file can also write all of it anew, or cut its end: only a checkpoint that
//! was kept elsewhere finds that, and against one any edit of the lines it covers is found.

pub mod checkpoint;
mod line;
mod log;
pub mod merkle;
mod place;
pub mod proof;
mod sinks;
pub mod verify;

pub use line::{Head, Kind};
pub use log::{Appended, Log};
pub use place::place;
pub use sinks::Sinks;

use crate::error::Result;

/// 16 random bytes in hex: names a run, an approval.
pub(in crate::case) fn random_hex() -> Result<String> {
    line::random::<16>().map(|bytes| merkle::hex(&bytes))
}

pub(in crate::case) use log::beside;
