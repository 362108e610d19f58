//! What a run writes: intent before, outcome after, and the checkpoint that leaves.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::audit::checkpoint::Checkpoint;
use super::audit::{Appended, Kind, Log, Sinks, merkle};
use super::policy::Policy;
use crate::error::{Error, Result};

/// Proof that a run's intent is on disk. Only [`Record::intent`] makes one.
pub(super) struct IntentOnDisk {
    /// The number of its line.
    pub(super) seq: u64,
}

/// One run's hand on a log.
pub(super) struct Record {
    log: Log,
    sinks: Sinks,
    origin: String,
    run: String,
}

impl Record {
    /// Of a new run, to this log. Everything the policy wants written to is opened now, before the act.
    pub(super) fn new(log: Log, policy: &Policy) -> Result<Self> {
        let origin = origin(log.path())?;
        Ok(Self { log, sinks: Sinks::open(policy)?, origin, run: super::audit::random_hex()? })
    }

    /// The run's name in the log.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Where the log lies.
    pub(super) fn path(&self) -> &Path {
        self.log.path()
    }

    /// Writes and syncs what is about to be done.
    pub(super) fn intent(&self, body: &impl Serialize) -> Result<IntentOnDisk> {
        self.log.append(Kind::Intent, &self.run, body).map(|line| IntentOnDisk { seq: line.seq })
    }

    /// Writes and syncs a line that ends something, and sends the checkpoint.
    pub(super) fn last(&mut self, kind: Kind, body: &impl Serialize) -> Result<Checkpoint> {
        let Appended { tree, .. } = self.log.append(kind, &self.run, body)?;
        let checkpoint = Checkpoint::of(&self.origin, &tree);
        self.sinks.send(&checkpoint)?;
        Ok(checkpoint)
    }
}

/// A log's name, from its first line.
pub(super) fn origin(path: &Path) -> Result<String> {
    let cannot = |why: &dyn std::fmt::Display| Error::refused(format!("audit log {}: {why}", path.display()));
    let mut line = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| cannot(&e))?;
    BufReader::new(file).read_until(b'\n', &mut line).map_err(|e| cannot(&e))?;
    super::audit::verify::origin_of(line.strip_suffix(b"\n").unwrap_or(&line)).map_err(|why| cannot(&why))
}

/// Where the log lies when there is no case: the policy's directory, else the system's for root and the user's own.
pub(super) fn host_log_dir(policy: &Policy) -> Result<PathBuf> {
    if let Some(dir) = &policy.log_dir {
        return Ok(dir.clone());
    }
    if nix::unistd::Uid::effective().is_root() {
        return Ok("/var/log/coldread".into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("coldread"))
        .ok_or_else(|| {
            Error::refused("there is no place for the audit log: neither HOME nor XDG_STATE_HOME is set")
                .hint("name one in a policy: [log] dir = \"/…\"")
        })
}

/// The mark that a case which is closed has used up the approval with this nonce.
pub(super) fn consumed_mark(dir: &Path, nonce: &str) -> PathBuf {
    dir.join("consumed").join(merkle::hex(&merkle::leaf(nonce.as_bytes())))
}
