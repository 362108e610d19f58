//! One line of the log: what every line has, and the body of its kind.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::merkle::{Frontier, Hash, from_hex, hex};
use crate::error::{Error, Result};

/// What a line records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The first line: the log's name, and the case if there is one.
    Opened,
    /// What is about to be done, by whom and by whose leave.
    Intent,
    /// What was done.
    Outcome,
    /// What was asked for and not begun.
    Refused,
    /// A last line that a crash had torn, and where it is kept.
    Torn,
    /// Signatures given after an emergency.
    Ratified,
    /// The last line of a case.
    Closed,
    /// An approval that a closed case has used up.
    Consumed,
}

#[derive(Serialize)]
struct Written<'a, B: Serialize> {
    seq: u64,
    time: &'a str,
    kind: Kind,
    run: &'a str,
    salt: &'a str,
    tree: Tree<'a>,
    #[serde(flatten)]
    body: &'a B,
}

#[derive(Serialize)]
struct Tree<'a> {
    size: u64,
    root: &'a str,
}

/// What every line has, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the line, from 0.
    pub seq: u64,
    /// What it records.
    pub kind: Kind,
    /// The Merkle root of all lines before it.
    pub root: Hash,
}

#[derive(Deserialize)]
struct Read_<'a> {
    seq: u64,
    kind: Kind,
    #[serde(borrow)]
    salt: &'a str,
    #[serde(borrow)]
    tree: ReadTree<'a>,
}

#[derive(Deserialize)]
struct ReadTree<'a> {
    size: u64,
    root: &'a str,
}

impl Head {
    /// From the bytes of a line without its newline. The message says what is wrong with it.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let read: Read_<'_> =
            serde_json::from_slice(line).map_err(|e| format!("not a line of this log: {e}"))?;
        if read.seq != read.tree.size {
            return Err(format!("`seq` is {} and `tree.size` {}", read.seq, read.tree.size));
        }
        if read.salt.len() != 32 || !read.salt.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("`salt` is not 32 hex digits".into());
        }
        let root = from_hex(read.tree.root).ok_or("`tree.root` is not a SHA-256 digest in hex")?;
        Ok(Self { seq: read.seq, kind: read.kind, root })
    }

    /// Whether the line belongs after these lines; the message says what does not fit.
    pub fn follows(&self, before: &Frontier) -> Result<(), String> {
        if self.seq != before.size() {
            return Err(format!("`seq` is {}, and {} lines come before it", self.seq, before.size()));
        }
        let root = before.root();
        if self.root != root {
            return Err(format!(
                "`tree.root` is {}, and the lines before it have {}",
                hex(&self.root),
                hex(&root)
            ));
        }
        Ok(())
    }
}

/// A new line, newline included, to follow `before`.
pub(super) fn write(before: &Frontier, kind: Kind, run: &str, body: &impl Serialize) -> Result<Vec<u8>> {
    let line = Written {
        seq: before.size(),
        time: &crate::case::now_text(),
        kind,
        run,
        salt: &hex(&random::<16>()?),
        tree: Tree { size: before.size(), root: &hex(&before.root()) },
        body,
    };
    let mut bytes = serde_json::to_vec(&line).map_err(|e| Error::refused(format!("audit log: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Bytes from the system's random source.
pub(in crate::case) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).map_err(
        |e| {
            Error::refused(format!("/dev/urandom: {e}"))
                .hint("without random numbers no log line can be written")
        },
    )?;
    Ok(bytes)
}
