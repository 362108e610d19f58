//! Checking a log: every line follows from those before it, and they lead to a checkpoint.
//!
//! Without a checkpoint this finds what was changed in place. A log written anew from some line on, or cut at the end,
//! is sound in itself: only a checkpoint from elsewhere tells it from the one that was.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::line::{Head, Kind};
use super::merkle::{self, Frontier, Hash, hex};
use crate::error::{Error, Result};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether everything holds.
    pub sound: bool,
    /// The log's name, from its first line.
    pub origin: Option<String>,
    /// How many lines are sound.
    pub lines: u64,
    /// Their root, lower-case hex.
    pub root: String,
    /// The first line that is not sound.
    pub bad_line: Option<u64>,
    /// What is wrong with it, or with the log.
    pub problem: Option<String>,
    /// Bytes of a last line without an end, as a crash leaves it.
    pub torn: Option<u64>,
    /// The size of the checkpoint the log was held against.
    pub against: Option<u64>,
}

/// Calls `visit` with the number and the bytes of each whole line. An error of it ends the walk.
pub(in crate::case) fn each_line(
    path: &Path,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), String>,
) -> Result<()> {
    let cannot = |e| Error::io(format!("log {}", path.display()), e);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(cannot)?);
    let (mut line, mut seq) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            return Ok(());
        }
        if let Some(text) = line.strip_suffix(b"\n") {
            visit(seq, text)
                .map_err(|why| Error::corrupt(format!("log {}: line {seq}: {why}", path.display())))?;
        }
        seq += 1;
    }
}

/// The log's name, from its first line.
pub(in crate::case) fn origin_of(line: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct First {
        kind: Kind,
        origin: String,
    }
    let first: First = serde_json::from_slice(line).map_err(|e| format!("no origin: {e}"))?;
    if first.kind == Kind::Opened {
        Ok(first.origin)
    } else {
        Err("the first line does not open a log".into())
    }
}

/// Reads the log at `path` from its first line and holds it against `checkpoints`, the text of one or of a file of them.
///
/// # Errors
/// The file cannot be read, or the text holds no checkpoint of this log. A log that is not sound is a [`Verdict`].
pub fn verify(path: &Path, checkpoints: Option<&str>) -> Result<Verdict> {
    let cannot = |e| Error::io(format!("log {}", path.display()), e);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(cannot)?);
    let mut walk = Walk::default();
    let (mut origin, mut torn, mut bad_line, mut problem) = (None, None, None, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            break;
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            torn = Some(line.len() as u64);
            break;
        };
        if walk.tree.size() == 0
            && let Ok(name) = origin_of(text)
        {
            walk.wanted = checkpoints.map_or(Ok(Vec::new()), |text| Checkpoint::all_of(text, &name))?;
            origin = Some(name);
        }
        if let Err(why) = walk.step(text) {
            bad_line = Some(walk.tree.size());
            problem = Some(format!("line {}: {why}", walk.tree.size()));
            break;
        }
    }
    walk.look();
    let lines = walk.tree.size();
    if lines == 0 && problem.is_none() {
        problem = Some("the log has no whole line".into());
    }
    let problem = problem.or_else(|| walk.against_checkpoints()).or_else(|| {
        torn.map(|n| {
            format!("the last line has no end: {n} bytes, as a crash leaves it; the next run sets it aside")
        })
    });
    Ok(Verdict {
        sound: problem.is_none(),
        origin,
        lines,
        root: hex(&walk.tree.root()),
        bad_line,
        problem,
        torn,
        against: walk.wanted.last().map(|c| c.size),
    })
}

#[derive(Default)]
struct Walk {
    tree: Frontier,
    /// The smallest first.
    wanted: Vec<Checkpoint>,
    /// How many of them were looked at.
    seen: usize,
    /// The first that does not hold, and the root in its place.
    differs: Option<(u64, Hash, Hash)>,
    closed: bool,
}

impl Walk {
    fn step(&mut self, text: &[u8]) -> Result<(), String> {
        let head = Head::read(text)?;
        head.follows(&self.tree)?;
        if self.tree.size() == 0 {
            origin_of(text)?;
        }
        if self.closed {
            return Err("it comes after the line that closes the case".into());
        }
        self.closed = head.kind == Kind::Closed;
        self.look();
        self.tree.push(merkle::leaf(text));
        Ok(())
    }

    /// Compares the checkpoints of the size that the tree has now.
    fn look(&mut self) {
        while let Some(wanted) = self.wanted.get(self.seen).filter(|c| c.size == self.tree.size()) {
            let root = self.tree.root();
            if root != wanted.root {
                self.differs.get_or_insert((wanted.size, wanted.root, root));
            }
            self.seen += 1;
        }
    }

    fn against_checkpoints(&self) -> Option<String> {
        if let Some((size, wanted, root)) = &self.differs {
            return Some(format!(
                "the first {size} lines have the root {}, and a checkpoint says {}: they were changed after it was made",
                hex(root),
                hex(wanted)
            ));
        }
        let missing = self.wanted.get(self.seen)?;
        Some(format!(
            "the log has {} whole lines, and a checkpoint covers {}: its end was cut",
            self.tree.size(),
            missing.size
        ))
    }
}
