//! The document that people sign: what may be done, to which instance, by when, and why. JSON, strict.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::case::audit::merkle::hex;
use crate::case::span;
use crate::error::{Error, Result};
use crate::permit::Verb;

/// What `type` says in every approval.
pub const TYPE: &str = "coldread approval";

/// The longest document that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// An approval as it is written and signed. The signatures are over the file's bytes, so nothing about its form matters
/// to them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`TYPE`].
    pub r#type: String,
    /// 1.
    pub version: u32,
    /// The instance's UUID.
    pub instance: String,
    /// SHA-256 of the disk's top image file, as sha256sum prints it: a copied disk proves its UUID by nothing else.
    #[serde(default)]
    pub source_digest: Option<String>,
    /// Disks by the name given with `--disk`; `*` is any.
    pub disks: Vec<String>,
    /// Globs over the guest's paths, judged after links are resolved.
    pub paths: Vec<String>,
    /// `list`, `read`, `extract`, `recover`, `suspend`.
    pub verbs: Vec<String>,
    /// Whether acts without a path are covered: images, exports, slack, carving.
    pub whole_disk: bool,
    /// The longest that the instance may be paused.
    #[serde(default, with = "span::as_text")]
    pub max_pause: Option<Duration>,
    /// From when it holds.
    pub not_before: Timestamp,
    /// From when it holds no more.
    pub expires: Timestamp,
    /// Makes it one of a kind.
    pub nonce: String,
    /// Why.
    pub reason: String,
    /// Where the work is tracked.
    pub ticket: String,
    /// Who asks for it.
    pub requester: String,
}

/// A document with the bytes that were signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// What the bytes say.
    pub document: Document,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Their SHA-256, lower-case hex.
    pub digest: String,
}

impl Document {
    /// Reads a document file.
    ///
    /// # Errors
    /// Refused: unreadable, not an approval, or one that contradicts itself.
    pub fn load(path: &Path) -> Result<Signed> {
        let cannot =
            |why: &dyn std::fmt::Display| Error::refused(format!("approval {}: {why}", path.display()));
        let meta = std::fs::metadata(path).map_err(|e| cannot(&e))?;
        if !meta.is_file() || meta.len() > LONGEST {
            return Err(cannot(&"not a regular file of at most 1 MiB"));
        }
        let bytes = std::fs::read(path).map_err(|e| cannot(&e))?;
        let document: Self =
            serde_json::from_slice(&bytes).map_err(|e| cannot(&format!("not an approval: {e}")))?;
        document.check().map_err(|why| cannot(&why))?;
        let digest = hex(&<sha2::Sha256 as sha2::Digest>::digest(&bytes));
        Ok(Signed { document, bytes, digest })
    }

    /// What a new document has to fulfil, and one that is read.
    pub fn check(&self) -> Result<(), String> {
        if self.r#type != TYPE || self.version != 1 {
            return Err(format!(
                "`type` is `{}` version {}, wanted `{TYPE}` version 1",
                self.r#type, self.version
            ));
        }
        for (field, value) in [
            ("instance", &self.instance),
            ("nonce", &self.nonce),
            ("reason", &self.reason),
            ("ticket", &self.ticket),
            ("requester", &self.requester),
        ] {
            if value.trim().is_empty() {
                return Err(format!("`{field}` is empty"));
            }
        }
        if self.verbs.is_empty() {
            return Err("`verbs` is empty".into());
        }
        if let Some(verb) = self.verbs.iter().find(|verb| Verb::from_word(verb).is_none()) {
            return Err(format!("`{verb}` is no verb; there are list, read, extract, recover, suspend"));
        }
        if self.disks.is_empty() {
            return Err("`disks` is empty".into());
        }
        for glob in &self.paths {
            super::glob::Glob::new(glob)?;
        }
        if self.source_digest.as_ref().is_some_and(|d| crate::case::audit::merkle::from_hex(d).is_none()) {
            return Err("`source_digest` is not a SHA-256 digest in lower-case hex".into());
        }
        if self.expires <= self.not_before {
            return Err(format!("it expires at {}, before it holds at {}", self.expires, self.not_before));
        }
        Ok(())
    }

    /// As it is written for signing: indented JSON and a newline.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|e| Error::usage(format!("approval: {e}")))
    }

    /// A name no other approval has.
    pub fn new_nonce() -> Result<String> {
        crate::case::audit::random_hex()
    }
}
