//! Inclusion proofs: that one line is in a log, without showing the others.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::merkle::{self, Hash, from_hex, hex};
use super::verify::each_line;
use crate::error::{Error, Result};

/// A proof as it is written. Digests are lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The log's name.
    pub origin: String,
    /// The number of the line, from 0: `leaf_index` of RFC 6962.
    pub leaf_index: u64,
    /// How many lines the root is over.
    pub tree_size: u64,
    /// Their root.
    pub root_hash: String,
    /// SHA-256 of 0x00 and the line.
    pub leaf_hash: String,
    /// Sibling hashes from the leaf upwards.
    pub audit_path: Vec<String>,
    /// The line itself, without its newline.
    pub line: String,
}

impl Proof {
    /// Of line `seq` in the log at `path`, for the whole log as it is now.
    pub fn of(path: &Path, seq: u64) -> Result<Self> {
        let mut leaves: Vec<Hash> = Vec::new();
        let (mut origin, mut line) = (None, None);
        each_line(path, |at, text| {
            if at == 0 {
                origin = Some(super::verify::origin_of(text)?);
            }
            if at == seq {
                line = Some(String::from_utf8(text.to_vec()).map_err(|_| "not UTF-8".to_string())?);
            }
            leaves.push(merkle::leaf(text));
            Ok(())
        })?;
        let none = || {
            Error::not_found(format!(
                "log {}: there is no line {seq}; it has {}",
                path.display(),
                leaves.len()
            ))
        };
        let index = usize::try_from(seq).map_err(|_| none())?;
        let audit = merkle::path(index, &leaves).ok_or_else(none)?;
        let (Some(origin), Some(line), Some(leaf)) = (origin, line, leaves.get(index)) else {
            return Err(none());
        };
        Ok(Self {
            origin,
            leaf_index: seq,
            tree_size: leaves.len() as u64,
            root_hash: hex(&merkle::root(&leaves)),
            leaf_hash: hex(leaf),
            audit_path: audit.iter().map(|hash| hex(hash)).collect(),
            line,
        })
    }

    /// Checks that the line leads to the root. The message says what does not hold.
    pub fn check(&self) -> Result<Checkpoint, String> {
        let leaf = merkle::leaf(self.line.as_bytes());
        if from_hex(&self.leaf_hash) != Some(leaf) {
            return Err("`leaf_hash` is not the hash of `line`".into());
        }
        let path = self.audit_path.iter().map(|hash| from_hex(hash)).collect::<Option<Vec<_>>>();
        let path = path.ok_or("`audit_path` holds something that is not a digest")?;
        let root = merkle::root_from_path(self.leaf_index, self.tree_size, &leaf, &path)
            .ok_or("`audit_path` does not fit `leaf_index` and `tree_size`")?;
        if from_hex(&self.root_hash) != Some(root) {
            return Err(format!("the path leads to {}, and `root_hash` is {}", hex(&root), self.root_hash));
        }
        Ok(Checkpoint { origin: self.origin.clone(), size: self.tree_size, root })
    }
}
