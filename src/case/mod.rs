//! Floor 8: by whose leave, and the record of it.
//!
//! [`begin`] loads the policy, judges the approval, and writes the intent to the audit log; when it returns, the intent
//! is on disk, and the [`Session`] lends the permits that the stack and the verbs of evidence ask for.
//! [`Session::finish`] writes what was done. Where an instance has to be resumed, that waits for nothing here.
//!
//! ```no_run
//! use coldread::case::{self, Leave, Outcome, Request};
//! use coldread::permit::{List, Verb};
//!
//! # fn main() -> coldread::error::Result<()> {
//! let request = Request { command: "ls".into(), verbs: vec![Verb::List], ..Request::default() };
//! let session = case::begin(request, &Leave::default())?;
//! let permit = session.permit::<List>()?;
//! // … the listing …
//! session.refused(b"/home", "outside the approval");
//! session.finish(&Outcome { exit: 3, ..Outcome::default() })
//! # }
//! ```
//!
//! # What the log finds, and what it does not
//!
//! [`audit::verify`] finds lines changed, dropped, added or swapped in place. Whoever can write the log (the operator,
//! as a rule) can write all of it anew or cut its end, and it is sound in itself. Only a checkpoint that was kept out of
//! their reach finds that; so checkpoints go to syslog or another file, and have to under `require = "signed"`. An
//! approval that a closed case has used up is marked in the host's log directory; a host that never saw the case
//! does not know of it.

pub mod approval;
pub mod audit;
mod directory;
mod lines;
mod operator;
pub mod policy;
mod ratify;
mod record;
pub mod report;
mod session;
pub mod span;
mod story;
mod tool;
pub mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

pub use directory::{Case, Facts};
pub use operator::Operator;
pub use policy::{Policy, SYSTEM_POLICY};
pub use ratify::ratify;
pub use session::{Session, begin};
pub use story::summary;

use crate::permit::Verb;

/// By whose leave: what the command line says. The environment's part ($COLDREAD_CASE, $COLDREAD_POLICY) is already in.
#[derive(Clone, Debug)]
pub struct Leave {
    /// `--case`
    pub case: Option<PathBuf>,
    /// `--approval`
    pub approval: Option<PathBuf>,
    /// `--ticket`
    pub ticket: Option<String>,
    /// `--approved-by`
    pub approved_by: Option<String>,
    /// `--reason`
    pub reason: Option<String>,
    /// `--break-glass`
    pub break_glass: Option<String>,
    /// `--policy`
    pub policy: Option<PathBuf>,
    /// Where the house keeps its policy. No option sets this.
    pub system_policy: PathBuf,
}

impl Default for Leave {
    fn default() -> Self {
        Self {
            case: None,
            approval: None,
            ticket: None,
            approved_by: None,
            reason: None,
            break_glass: None,
            policy: None,
            system_policy: SYSTEM_POLICY.into(),
        }
    }
}

/// What is about to be done.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The command's name: `ls`, `extract`. Names the evidence directory.
    pub command: String,
    /// All acts of the command: listing a live instance is List and Suspend.
    pub verbs: Vec<Verb>,
    /// The instance's UUID, if operator data says it.
    pub instance: Option<String>,
    /// What the source was called on the command line.
    pub source: String,
    /// Disks by name.
    pub disks: Vec<String>,
    /// Volumes, if they were named.
    pub volumes: Vec<String>,
    /// The snapshot, if one was named.
    pub snapshot: Option<String>,
    /// Paths of the guest as they were asked for. They are judged once they are resolved, by the permit.
    pub paths: Vec<Vec<u8>>,
    /// Whether the act reads the disk as a whole.
    pub whole_disk: bool,
    /// The image files from the top down, as they are before the act.
    pub members: Vec<Member>,
    /// The command line, program included.
    pub argv: Vec<OsString>,
    /// What can be said of the source's consistency.
    pub consistency: Option<String>,
    /// The longest pause that is asked for.
    pub max_pause: Option<Duration>,
}

/// One file of a chain, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Where it is.
    pub path: PathBuf,
    /// The device it is on.
    pub dev: u64,
    /// Its inode number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its content: seconds and nanoseconds since 1970.
    pub mtime: (i64, i64),
    /// Last change of its inode.
    pub ctime: (i64, i64),
}

impl Member {
    /// From what stat(2) says.
    pub fn of(path: impl Into<PathBuf>, meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            path: path.into(),
            dev: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The exit code.
    pub exit: i32,
    /// Numbers and facts of the command's own: `files`, `bytes`, `entries`.
    pub results: Map<String, Value>,
    /// Digests of what was carried away or shown, by name: SHA-256 in lower-case hex.
    pub digests: Vec<(String, String)>,
    /// The manifest that was written. Its digest goes into the log.
    pub manifest: Option<PathBuf>,
    /// What could not be read, a sentence each.
    pub gaps: Vec<String>,
    /// The image files after the act.
    pub members: Vec<Member>,
    /// When the instance was paused.
    pub pauses: Vec<Pause>,
    /// What unavoidably changed, and why.
    pub changed: Vec<String>,
    /// Why it ended early.
    pub error: Option<String>,
}

/// One pause of an instance.
#[derive(Clone, Debug, Serialize)]
pub struct Pause {
    /// From.
    pub from: Timestamp,
    /// Until. `None`: it was not seen running again.
    pub until: Option<Timestamp>,
    /// What ended it: `resumed`, `watchdog`.
    pub ended_by: String,
}

/// Now, in RFC 3339 with nanoseconds.
pub(crate) fn now_text() -> String {
    format!("{:.9}", Timestamp::now())
}
