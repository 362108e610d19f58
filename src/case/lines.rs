//! Reading a log's bodies, for those who look at a case afterwards.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::audit::{Head, Kind, verify::each_line};
use crate::error::Result;

/// What the last whole line records.
pub(super) fn last_kind(log: &Path) -> Result<Option<Kind>> {
    let mut kind = None;
    each_line(log, |_, line| {
        kind = Head::read(line).ok().map(|head| head.kind);
        Ok(())
    })?;
    Ok(kind)
}

/// The nonces of all approvals that were used.
pub(super) fn nonces(log: &Path) -> Result<BTreeSet<String>> {
    let mut nonces = BTreeSet::new();
    for line in all(log)? {
        if let Some(nonce) = line.pointer("/grant/nonce").and_then(Value::as_str) {
            nonces.insert(nonce.to_string());
        }
    }
    Ok(nonces)
}

/// Every line, parsed. A case's log; the host's may be long.
pub(super) fn all(log: &Path) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    each_line(log, |_, line| {
        lines.push(serde_json::from_slice(line).map_err(|e| e.to_string())?);
        Ok(())
    })?;
    Ok(lines)
}
