//! A case on disk: `case.toml`, `approvals/`, `audit.jsonl`, `evidence/NNNN-<verb>/`.
//!
//! What `case.toml` says is also in the first line of the log, and the case is closed by a line of the log, so that
//! changing either file alone is found.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approval::{Document, signature_files};
use super::audit::checkpoint::Checkpoint;
use super::audit::{Kind, Log};
use super::policy::Policy;
use super::record::{self, Record};
use super::{Operator, lines};
use crate::error::{Error, Result};

/// What `case.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What the case is called.
    pub id: String,
    /// Where the work is tracked.
    pub ticket: String,
    /// Why.
    pub reason: String,
    /// Who investigates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub investigator: Option<String>,
    /// Who is said to have approved, for all acts in the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it was opened.
    pub opened: Timestamp,
}

/// A case directory.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it is.
    pub dir: PathBuf,
    /// What `case.toml` says.
    pub facts: Facts,
}

impl Case {
    /// Opens a case: makes the directory and starts its log.
    ///
    /// # Errors
    /// Refused: the directory exists and is not empty, or cannot be written.
    pub fn create(dir: &Path, facts: &Facts) -> Result<Self> {
        for (field, value) in [("--id", &facts.id), ("--ticket", &facts.ticket), ("--reason", &facts.reason)]
        {
            if value.trim().is_empty() {
                return Err(Error::usage(format!("case open: {field} is empty")));
            }
        }
        let cannot = |e: &dyn std::fmt::Display| Error::refused(format!("case {}: {e}", dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| cannot(&e))?;
        if std::fs::read_dir(dir).map_err(|e| cannot(&e))?.next().is_some() {
            return Err(Error::usage(format!("case {}: the directory is not empty", dir.display())));
        }
        for part in ["approvals", "evidence"] {
            DirBuilder::new().mode(0o700).create(dir.join(part)).map_err(|e| cannot(&e))?;
        }
        let text = toml::to_string(facts).map_err(|e| cannot(&e))?;
        let mut file = new_file(&dir.join("case.toml")).map_err(|e| cannot(&e))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| cannot(&e))?;
        let mut body = serde_json::Map::new();
        body.insert("case".into(), json!(facts));
        body.insert("operator".into(), json!(Operator::now()));
        Log::create(&dir.join("audit.jsonl"), &name_of(&facts.id), body)?;
        Self::load(dir)
    }

    /// Looks at a case that is there.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("case.toml");
        let wrong = |e: &dyn std::fmt::Display| {
            Error::refused(format!("case {}: {e}", path.display()))
                .hint("`coldread case open DIR` makes a case")
        };
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(&e))?;
        let facts = toml::from_str(&text).map_err(|e| wrong(&e))?;
        let dir = std::path::absolute(dir).map_err(|e| wrong(&e))?;
        Ok(Self { dir, facts })
    }

    /// Where its log lies.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("audit.jsonl")
    }

    /// The approvals that lie in it, by name.
    pub fn approvals(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.dir.join("approvals"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        files.sort();
        files
    }

    /// Copies an approval and its signatures into the case, under the document's digest. Gives the document's new path.
    pub fn keep_approval(&self, file: &Path) -> Result<PathBuf> {
        let signed = Document::load(file)?;
        let kept = self.dir.join("approvals").join(format!("{}.json", &signed.digest[..16]));
        let cannot = |e: std::io::Error| Error::refused(format!("case {}: {e}", kept.display()));
        if file.parent().and_then(|dir| dir.canonicalize().ok())
            == self.dir.join("approvals").canonicalize().ok()
        {
            return Ok(file.to_path_buf());
        }
        if !kept.exists() {
            new_file(&kept).and_then(|mut to| to.write_all(&signed.bytes)).map_err(cannot)?;
        }
        for signature in signature_files(file)? {
            let bytes = std::fs::read(&signature).map_err(cannot)?;
            let name = super::audit::merkle::hex(&super::audit::merkle::leaf(&bytes)[..8]);
            let to = super::audit::beside(&kept, &format!(".{name}.sig"));
            if !to.exists() {
                new_file(&to).and_then(|mut to| to.write_all(&bytes)).map_err(cannot)?;
            }
        }
        Ok(kept)
    }

    /// Makes the directory for one run's evidence: the next number and the command.
    pub fn evidence_dir(&self, command: &str) -> Result<PathBuf> {
        let parent = self.dir.join("evidence");
        let cannot = |e: std::io::Error| Error::refused(format!("case {}: {e}", parent.display()));
        let highest = std::fs::read_dir(&parent)
            .map_err(cannot)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.split_once('-')?.0.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        // Another process may take a number first; then the next one is ours.
        for number in highest.saturating_add(1)..=highest.saturating_add(1000) {
            let claim = parent.join(format!(".{number:04}"));
            match DirBuilder::new().mode(0o700).create(&claim) {
                Ok(()) => {
                    let dir = parent.join(format!("{number:04}-{command}"));
                    std::fs::rename(&claim, &dir).map_err(cannot)?;
                    return Ok(dir);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(cannot(e)),
            }
        }
        Err(Error::refused(format!("case {}: no free number", parent.display())))
    }

    /// Whether the log says that the case is closed.
    pub fn is_closed(&self) -> Result<bool> {
        Ok(lines::last_kind(&self.log_path())? == Some(Kind::Closed))
    }

    /// Closes the case: no run is added to it afterwards, and the approvals it used are used up on this host.
    pub fn close(&self, policy: &Policy) -> Result<Checkpoint> {
        let closed = || Error::refused(format!("case {} is closed already", self.dir.display()));
        if self.is_closed()? {
            return Err(closed());
        }
        // Used up first: a crash in between leaves a case that can be closed again, not an approval that can be reused.
        let nonces = lines::nonces(&self.log_path())?;
        if !nonces.is_empty() {
            let dir = record::host_log_dir(policy)?;
            let log = Log::open_or_create(&dir.join("audit.jsonl"), "host")?;
            let cannot = |e: std::io::Error| Error::refused(format!("{}: {e}", dir.display()));
            DirBuilder::new().recursive(true).mode(0o700).create(dir.join("consumed")).map_err(cannot)?;
            for nonce in &nonces {
                std::fs::write(record::consumed_mark(&dir, nonce), &self.facts.id).map_err(cannot)?;
            }
            log.append(Kind::Consumed, "", &json!({ "case": self.facts.id, "nonces": nonces }))?;
        }
        let mut record = Record::new(Log::open(&self.log_path())?, policy)?;
        let body = json!({ "case": self.facts.id, "operator": Operator::now(), "nonces": nonces });
        let checkpoint = record.last(Kind::Closed, &body)?;
        let cannot = |e: std::io::Error| Error::refused(format!("case {}: {e}", self.dir.display()));
        let mut file = new_file(&self.dir.join("closed.checkpoint")).map_err(cannot)?;
        file.write_all(checkpoint.to_string().as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
        Ok(checkpoint)
    }
}

fn new_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What of a case's id can stand in a log's name: no blanks, no plus, as signed notes want it.
fn name_of(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
