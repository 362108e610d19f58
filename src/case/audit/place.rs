//! Which log is meant: a case's, a file, or the host's own.

use std::path::{Path, PathBuf};

use crate::case::{Policy, record};
use crate::error::Result;

/// The log in a case directory, or the file itself; without a name the host's log under this policy.
pub fn place(named: Option<&Path>, policy: &Policy) -> Result<PathBuf> {
    match named {
        Some(dir) if dir.is_dir() => Ok(dir.join("audit.jsonl")),
        Some(file) => Ok(file.to_path_buf()),
        None => Ok(record::host_log_dir(policy)?.join("audit.jsonl")),
    }
}
