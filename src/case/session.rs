//! One command between its intent and its outcome.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::approval::{self, Grant, Granted, Question};
use super::audit::{Kind, Log};
use super::policy::Policy;
use super::record::{self, IntentOnDisk, Record};
use super::tool::{self, Tool};
use super::{Case, Leave, Member, Operator, Outcome, Request};
use crate::error::{Error, Result};
use crate::permit::{Act, Permit};

/// Refusals written out one by one; those beyond are counted.
const REFUSALS_KEPT: usize = 10_000;

/// A command whose intent is on disk.
pub struct Session {
    record: Record,
    intent: IntentOnDisk,
    granted: Granted,
    policy: Policy,
    request: Request,
    case: Option<Case>,
    evidence: Mutex<Option<PathBuf>>,
    refusals: Mutex<(Vec<Value>, u64)>,
    finished: bool,
}

/// Asks for leave and writes the intent. When it returns, the intent is on disk.
///
/// # Errors
/// Refused: the policy, the approval or the log stands against it. The refusal is in the log, if that can be written.
pub fn begin(request: Request, leave: &Leave) -> Result<Session> {
    let policy = Policy::load(&leave.system_policy, leave.policy.as_deref())?;
    let operator = Operator::now();
    let case = leave.case.as_deref().map(Case::load).transpose()?;
    let host_dir = record::host_log_dir(&policy);
    let log = match &case {
        Some(case) => Log::open(&case.log_path())?,
        None => Log::open_or_create(&host_dir.as_ref().map_err(copy)?.join("audit.jsonl"), "host")?,
    };
    let mut record = Record::new(log, &policy)?;
    let body = who_and_what(&request, leave, &policy, &operator, case.as_ref(), record.path());
    let question = Question {
        request: &request,
        leave,
        policy: &policy,
        operator: &operator,
        case: case.as_ref().map(|case| &case.facts),
        kept: case.as_ref().map(Case::approvals).unwrap_or_default(),
        consumed: &|nonce| {
            let mark = record::consumed_mark(host_dir.as_ref().ok()?, nonce);
            std::fs::read_to_string(mark).ok()
        },
        now: Timestamp::now(),
    };
    let granted = limits(&request, &policy, case.as_ref()).and_then(|()| approval::judge(&question));
    let granted = match granted {
        Ok(granted) => granted,
        Err(e) => return Err(record_refusal(&mut record, body, e)),
    };
    let mut body = body;
    body.insert("grant".into(), json!(granted.grant));
    let intent = record.intent(&body)?;
    let mut session = Session {
        record,
        intent,
        granted,
        policy,
        request,
        case,
        evidence: Mutex::default(),
        refusals: Mutex::default(),
        finished: false,
    };
    if let Err(e) = session.keep_approval().and_then(|()| session.check_source()) {
        session.write_outcome(&Outcome { exit: 3, error: Some(e.what().into()), ..Outcome::default() })?;
        return Err(e);
    }
    Ok(session)
}

impl Session {
    /// Leave for one of the acts that the request named.
    ///
    /// # Errors
    /// Refused: the approval does not cover it.
    pub fn permit<A: Act>(&self) -> Result<Permit<A>> {
        if !self.request.verbs.contains(&A::VERB) {
            return Err(Error::refused(format!("`{}` was not asked for at the start", A::VERB.word())));
        }
        self.granted.permit(&self.intent)
    }

    /// Leave for an act that turns out to need the disk as a whole: slack, carving, unallocated space.
    pub fn whole_disk(&self) -> Result<()> {
        if self.granted.covers_whole_disk() {
            return Ok(());
        }
        Err(Error::refused("this reads the disk as a whole, and the approval does not cover that"))
    }

    /// Where this run's evidence goes, made when it is first asked for. `None`: there is no case.
    pub fn evidence_dir(&self) -> Result<Option<PathBuf>> {
        let Some(case) = &self.case else { return Ok(None) };
        let mut evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        if evidence.is_none() {
            *evidence = Some(case.evidence_dir(&self.request.command)?);
        }
        Ok(evidence.clone())
    }

    /// What the act rests on, for the manifest.
    pub fn approval(&self) -> &Grant {
        &self.granted.grant
    }

    /// Whether this is an emergency that nobody has approved.
    pub fn is_break_glass(&self) -> bool {
        matches!(self.granted.grant, Grant::BreakGlass { .. })
    }

    /// The longest that policy and approval let the instance be paused. `None`: neither says.
    pub fn max_pause(&self) -> Option<Duration> {
        match (self.policy.max_pause, self.granted.max_pause) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The longest that the policy lets a view be kept. `None`: it does not say.
    pub fn max_view(&self) -> Option<Duration> {
        self.policy.max_view
    }

    /// The run's name in the log.
    pub fn run(&self) -> &str {
        self.record.run()
    }

    /// Where the log lies.
    pub fn log(&self) -> &Path {
        self.record.path()
    }

    /// Notes that a path was refused, and why. It goes into the outcome.
    pub fn refused(&self, path: &[u8], why: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.0.len() < REFUSALS_KEPT {
            refusals.0.push(json!({ "path": path_text(path), "why": why }));
        } else {
            refusals.1 = refusals.1.saturating_add(1);
        }
    }

    /// Whether anything was refused.
    pub fn has_refusals(&self) -> bool {
        !self.refusals.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    /// Writes what was done, syncs it, and sends the checkpoint where the policy says.
    ///
    /// # Errors
    /// Refused: the log or the checkpoint cannot be written.
    pub fn finish(mut self, outcome: &Outcome) -> Result<()> {
        self.write_outcome(outcome)
    }

    fn write_outcome(&mut self, outcome: &Outcome) -> Result<()> {
        self.finished = true;
        let mut body = Map::new();
        let mut add = |key: &str, value: Value| {
            let empty = value.is_null()
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(Map::is_empty);
            if !empty {
                body.insert(key.into(), value);
            }
        };
        add("intent", json!(self.intent.seq));
        add("exit", json!(outcome.exit));
        add("results", Value::Object(outcome.results.clone()));
        let digests: Vec<Value> =
            outcome.digests.iter().map(|(name, sha256)| json!({ "name": name, "sha256": sha256 })).collect();
        add("digests", Value::Array(digests));
        add("manifest", outcome.manifest.as_deref().map_or(Value::Null, |path| self.manifest(path)));
        let (refusals, more) =
            std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        add("refused", Value::Array(refusals));
        add("refused_more", if more > 0 { json!(more) } else { Value::Null });
        add("gaps", json!(outcome.gaps));
        add("members", json!(outcome.members));
        add("pauses", json!(outcome.pauses));
        add("changed", json!(outcome.changed));
        add("error", json!(outcome.error));
        add(
            "evidence",
            json!(
                self.evidence
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_deref()
                    .map(|dir| self.relative(dir))
            ),
        );
        self.record.last(Kind::Outcome, &body).map(|_| ())
    }

    /// A manifest's path, as seen from the case, and its digest.
    fn manifest(&self, path: &Path) -> Value {
        let digest = std::fs::File::open(path).and_then(|mut file| tool::file_digest(&mut file));
        match digest {
            Ok(sha256) => json!({ "path": self.relative(path), "sha256": sha256 }),
            Err(e) => json!({ "path": self.relative(path), "error": e.to_string() }),
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        match &self.case {
            Some(case) => whole.strip_prefix(&case.dir).map(Path::to_path_buf).unwrap_or(whole),
            None => whole,
        }
    }

    /// Copies the approval into the case, where those who review it look.
    fn keep_approval(&self) -> Result<()> {
        match (&self.case, &self.granted.file) {
            (Some(case), Some(file)) => case.keep_approval(file).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Holds the top image against the digest that the approval names. Reads content, so it comes after the intent.
    fn check_source(&self) -> Result<()> {
        let Some(wanted) = &self.granted.source_digest else { return Ok(()) };
        let Some(top) = self.request.members.first() else {
            return Err(Error::refused(
                "the approval names the source's digest, and this source has no image file to hash",
            ));
        };
        let cannot = |e: std::io::Error| Error::refused(format!("{}: {e}", top.path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(&top.path)
            .map_err(cannot)?;
        let meta = file.metadata().map_err(cannot)?;
        let now = Member::of(&top.path, &meta);
        if (now.dev, now.inode) != (top.dev, top.inode) {
            return Err(Error::refused(format!(
                "{} was replaced while it was looked at",
                top.path.display()
            )));
        }
        let found = tool::file_digest(&mut file).map_err(cannot)?;
        if found != *wanted {
            return Err(Error::refused(format!(
                "the approval is for a source with the digest {wanted}, and {} has {found}",
                top.path.display()
            )));
        }
        Ok(())
    }
}

impl Drop for Session {
    /// A session that nobody finished still leaves an outcome, if it can.
    fn drop(&mut self) {
        if !self.finished {
            let outcome =
                Outcome { exit: 2, error: Some("it ended without an outcome".into()), ..Outcome::default() };
            let _ = self.write_outcome(&outcome);
        }
    }
}

/// What the policy says apart from approvals.
fn limits(request: &Request, policy: &Policy, case: Option<&Case>) -> Result<()> {
    if policy.require_case && case.is_none() {
        return Err(Error::refused("the policy wants every act to belong to a case")
            .hint("`coldread case open DIR --id … --ticket … --reason …`, then --case DIR"));
    }
    if let (Some(asked), Some(longest)) = (request.max_pause, policy.max_pause)
        && asked > longest
    {
        return Err(Error::refused(format!(
            "the policy allows a pause of {}, and {} is asked for",
            super::span::show(longest),
            super::span::show(asked)
        )));
    }
    Ok(())
}

/// Writes down that something was refused. The refusal stays a refusal if that fails.
fn record_refusal(record: &mut Record, mut body: Map<String, Value>, why: Error) -> Error {
    body.insert("why".into(), json!(why.what()));
    match record.last(Kind::Refused, &body) {
        Ok(_) => why,
        Err(e) => why.context(format!("(and not recorded: {})", e.what())),
    }
}

fn who_and_what(
    request: &Request,
    leave: &Leave,
    policy: &Policy,
    operator: &Operator,
    case: Option<&Case>,
    log: &Path,
) -> Map<String, Value> {
    let mut body = Map::new();
    let tool = Tool::now(&super::audit::beside(log, ".tool"));
    for (key, value) in [
        ("command", json!(request.command)),
        ("verbs", request.verbs.iter().map(|verb| verb.word()).collect()),
        ("argv", request.argv.iter().map(|arg| arg.to_string_lossy()).collect()),
        ("operator", json!(operator)),
        ("principals", json!(operator.principals(policy))),
        ("tool", json!(tool)),
        ("case", json!(case.map(|case| &case.facts.id))),
        ("ticket", json!(leave.ticket.as_ref().or(case.map(|case| &case.facts.ticket)))),
        ("policy", json!(policy.files)),
        ("source", json!(request.source)),
        ("instance", json!(request.instance)),
        ("disks", json!(request.disks)),
        ("volumes", json!(request.volumes)),
        ("snapshot", json!(request.snapshot)),
        ("paths", request.paths.iter().map(|path| path_text(path)).collect()),
        ("whole_disk", json!(request.whole_disk)),
        ("members", json!(request.members)),
        ("consistency", json!(request.consistency)),
        ("max_pause", json!(request.max_pause.map(super::span::show))),
    ] {
        body.insert(key.into(), value);
    }
    body
}

/// Bytes that are not UTF-8 as `\xNN`, a backslash as `\\`: the form of `path` in all outputs.
fn path_text(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The same error again, for one that is kept.
fn copy(error: &Error) -> Error {
    Error::new(error.kind(), error.what())
}
