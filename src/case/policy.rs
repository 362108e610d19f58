//! What the house asks for before anybody's content is shown. TOML, strict: an unknown key, a wrong type or an
//! unreadable file is a refusal, never the default.
//!
//! `/etc/coldread/policy.toml` is read first. A second file (`--policy`, `$COLDREAD_POLICY`) can only make it stricter;
//! where both say something, the stricter holds:
//!
//! | field | default | stricter is |
//! |---|---|---|
//! | `require` | `"stated"` | `"signed"` |
//! | `approvers` | 1 | the larger number |
//! | `allowed_signers` | none | both: a signature has to stand against each file |
//! | `revoked_keys` | none | both: a key in either is revoked |
//! | `principals` | none | both: a login is everybody that either file says |
//! | `max_pause`, `max_view`, `max_age` | no limit | the shorter |
//! | `require_case` | false | true |
//! | `log.dir` | see below | no order: the second file may set it only where the first does not |
//! | `log.syslog` | false | true |
//! | `log.checkpoint_to` | none | both files are written |
//! | `break_glass` | false | false |
//!
//! With no file at all the policy is the column of defaults. Paths in a policy are absolute. `log.dir` is
//! `/var/log/coldread` for root, else `$XDG_STATE_HOME/coldread`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::approval::signers;
use super::span;
use crate::error::{Error, Result};

/// Where the house keeps its policy.
pub const SYSTEM_POLICY: &str = "/etc/coldread/policy.toml";

/// How an approval has to be given. The order is the order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Ticket, approver and reason are stated and recorded.
    #[default]
    Stated,
    /// People have signed a document.
    Signed,
}

/// One policy file, field by field as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    require: Option<Require>,
    approvers: Option<u32>,
    allowed_signers: Option<PathBuf>,
    revoked_keys: Option<PathBuf>,
    #[serde(default)]
    principals: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "span::as_text::deserialize")]
    max_pause: Option<Duration>,
    #[serde(default, deserialize_with = "span::as_text::deserialize")]
    max_view: Option<Duration>,
    #[serde(default, deserialize_with = "span::as_text::deserialize")]
    max_age: Option<Duration>,
    require_case: Option<bool>,
    break_glass: Option<bool>,
    #[serde(default)]
    log: WrittenLog,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLog {
    dir: Option<PathBuf>,
    syslog: Option<bool>,
    checkpoint_to: Option<PathBuf>,
}

/// What holds: one file, or two merged to the stricter.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Policy {
    /// The files it was read from; none of them: the defaults.
    pub files: Vec<PathBuf>,
    /// How an approval has to be given.
    pub require: Require,
    /// How many distinct people have to sign.
    pub approvers: u32,
    /// Files in the form of ssh-keygen(1), ALLOWED SIGNERS. A signature has to stand against each.
    pub allowed_signers: Vec<PathBuf>,
    /// Revocation lists (KRL or public keys, one a line). A key in any of them is revoked.
    pub revoked_keys: Vec<PathBuf>,
    /// Which principals a login is, in lower case.
    pub principals: BTreeMap<String, BTreeSet<String>>,
    /// The longest that an instance may be paused.
    #[serde(serialize_with = "span::as_text::serialize")]
    pub max_pause: Option<Duration>,
    /// The longest that a view of a live instance may be kept.
    #[serde(serialize_with = "span::as_text::serialize")]
    pub max_view: Option<Duration>,
    /// The longest that an approval may run from its not-before to its expiry.
    #[serde(serialize_with = "span::as_text::serialize")]
    pub max_age: Option<Duration>,
    /// Whether every act belongs to a case.
    pub require_case: bool,
    /// Whether an emergency may go through without an approval, marked as such.
    pub break_glass: bool,
    /// Where the log lies when there is no case.
    pub log_dir: Option<PathBuf>,
    /// Whether checkpoints go to syslog.
    pub log_syslog: bool,
    /// Files that checkpoints are appended to.
    pub log_checkpoint_to: Vec<PathBuf>,
}

impl Policy {
    /// The system's policy if there is one, made stricter by `further`. Whatever it needs to work (an OpenSSH that can
    /// verify, the files it names) is looked for here.
    ///
    /// # Errors
    /// Refused: a file is unreadable or wrong, or the policy cannot work on this host.
    pub fn load(system: &Path, further: Option<&Path>) -> Result<Self> {
        let mut policy = Self { approvers: 1, ..Self::default() };
        match std::fs::symlink_metadata(system) {
            Ok(_) => policy = Self::from_file(system)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(unusable(system, &e)),
        }
        if let Some(further) = further {
            let other = Self::from_file(further)?;
            policy = if policy.files.is_empty() { other } else { policy.stricter(other)? };
        }
        policy.check()?;
        Ok(policy)
    }

    fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| unusable(path, &e))?;
        Self::from_text(&text, path)
    }

    fn from_text(text: &str, path: &Path) -> Result<Self> {
        let written: Written = toml::from_str(text).map_err(|e| unusable(path, &e.to_string().trim_end()))?;
        let files =
            [&written.allowed_signers, &written.revoked_keys, &written.log.dir, &written.log.checkpoint_to];
        if let Some(relative) = files.into_iter().flatten().find(|file| !file.is_absolute()) {
            return Err(unusable(path, &format!("`{}` is not an absolute path", relative.display())));
        }
        let require = written.require.unwrap_or_default();
        let approvers = written.approvers.unwrap_or(1);
        if approvers == 0 {
            return Err(unusable(path, &"`approvers` has to be at least 1"));
        }
        let lower = |(login, name): (String, String)| (login, BTreeSet::from([name.to_lowercase()]));
        Ok(Self {
            files: vec![path.to_path_buf()],
            require,
            approvers,
            allowed_signers: written.allowed_signers.into_iter().collect(),
            revoked_keys: written.revoked_keys.into_iter().collect(),
            principals: written.principals.into_iter().map(lower).collect(),
            max_pause: written.max_pause,
            max_view: written.max_view,
            max_age: written.max_age,
            require_case: written.require_case.unwrap_or(false),
            break_glass: written.break_glass.unwrap_or(false),
            log_dir: written.log.dir,
            log_syslog: written.log.syslog.unwrap_or(false),
            log_checkpoint_to: written.log.checkpoint_to.into_iter().collect(),
        })
    }

    /// Field by field the stricter of the two; the module's table says which that is.
    fn stricter(mut self, other: Self) -> Result<Self> {
        self.require = self.require.max(other.require);
        self.approvers = self.approvers.max(other.approvers);
        add(&mut self.allowed_signers, other.allowed_signers);
        add(&mut self.revoked_keys, other.revoked_keys);
        for (login, names) in other.principals {
            self.principals.entry(login).or_default().extend(names);
        }
        self.max_pause = shorter(self.max_pause, other.max_pause);
        self.max_view = shorter(self.max_view, other.max_view);
        self.max_age = shorter(self.max_age, other.max_age);
        self.require_case |= other.require_case;
        self.break_glass &= other.break_glass;
        self.log_syslog |= other.log_syslog;
        add(&mut self.log_checkpoint_to, other.log_checkpoint_to);
        self.log_dir = match (self.log_dir, other.log_dir) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                let file = other.files.first().map_or_else(PathBuf::new, Clone::clone);
                return Err(unusable(
                    &file,
                    &format!("`log.dir` is {} in the first policy and cannot be moved", ours.display()),
                ));
            }
            (ours, theirs) => ours.or(theirs),
        };
        self.files.extend(other.files);
        Ok(self)
    }

    /// Finds at once what would stop the policy from working in the middle.
    fn check(&self) -> Result<()> {
        let Some(file) = self.files.last() else { return Ok(()) };
        if self.require == Require::Stated && self.approvers > 1 {
            return Err(unusable(
                file,
                &format!("`approvers = {}` needs `require = \"signed\"`", self.approvers),
            ));
        }
        if self.require == Require::Signed && self.allowed_signers.is_empty() {
            return Err(unusable(file, &"`require = \"signed\"` needs `allowed_signers`"));
        }
        if self.require == Require::Signed && !self.log_syslog && self.log_checkpoint_to.is_empty() {
            return Err(unusable(
                file,
                &"`require = \"signed\"` needs `log.syslog = true` or `log.checkpoint_to`, so that the log can be checked",
            ));
        }
        for list in &self.revoked_keys {
            std::fs::File::open(list)
                .map_err(|e| unusable(file, &format!("revoked_keys {}: {e}", list.display())))?;
        }
        for list in &self.allowed_signers {
            signers::load(list)
                .map_err(|e| unusable(file, &format!("allowed_signers {}: {}", list.display(), e.what())))?;
        }
        if !self.allowed_signers.is_empty() {
            super::approval::signature::probe()?;
        }
        Ok(())
    }

    /// Every name a login approves under, in lower case: itself, and what the map says.
    pub fn names_of(&self, login: &str) -> BTreeSet<String> {
        let mut names = self.principals.get(login).cloned().unwrap_or_default();
        names.insert(login.to_lowercase());
        names
    }
}

fn add(to: &mut Vec<PathBuf>, more: Vec<PathBuf>) {
    for path in more {
        if !to.contains(&path) {
            to.push(path);
        }
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::refused(format!("policy {}: {why}", path.display()))
        .hint("nothing is read under a policy that cannot be kept; mend the file")
}
