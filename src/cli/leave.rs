//! By whose leave: the options of every command that shows what belongs to a tenant, and the record around the act.

use std::path::PathBuf;

use clap::Args;
use coldread::case::{self, Leave, Member, Outcome, Request, Session};
use coldread::error::Result;
use coldread::permit::{self, Verb};
use coldread::stack::{Time, View};
use serde_json::{Map, Value, json};

use super::out::{Exit, rfc3339};
use super::source::Opened;

/// Approval options.
#[derive(Args, Clone)]
#[command(next_help_heading = "Approval options")]
pub struct LeaveOptions {
    /// The case that the act belongs to, with its approvals and its log
    #[arg(long, value_name = "DIR", env = "COLDREAD_CASE")]
    case: Option<PathBuf>,

    /// A signed approval
    #[arg(long, value_name = "FILE")]
    approval: Option<PathBuf>,

    /// The ticket that the approval was given under
    #[arg(long, value_name = "T")]
    ticket: Option<String>,

    /// Who approved
    #[arg(long, value_name = "WHO")]
    approved_by: Option<String>,

    /// Why it is read
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// An emergency without an approval, where the policy allows it
    #[arg(long, value_name = "REASON")]
    break_glass: Option<String>,

    /// A policy that makes the house's stricter
    #[arg(long, value_name = "FILE", env = "COLDREAD_POLICY")]
    policy: Option<PathBuf>,
}

/// What a command is about to do.
pub struct Act<'a> {
    /// The command's name.
    pub command: &'static str,
    /// Its acts.
    pub verbs: Vec<Verb>,
    /// Paths of the guest, as they were asked for.
    pub paths: Vec<Vec<u8>>,
    /// Whether it reads the disk as a whole.
    pub whole_disk: bool,
    /// The source.
    pub opened: &'a Opened,
}

impl LeaveOptions {
    /// Asks for leave. When it returns, the intent is on disk.
    pub fn begin(&self, act: Act<'_>) -> Result<Session> {
        let opened = act.opened;
        let options = &opened.options;
        let leave = Leave {
            case: self.case.clone(),
            approval: self.approval.clone(),
            ticket: self.ticket.clone(),
            approved_by: self.approved_by.clone(),
            reason: self.reason.clone(),
            break_glass: self.break_glass.clone(),
            policy: self.policy.clone(),
            ..Leave::default()
        };
        let request = Request {
            command: act.command.into(),
            verbs: act.verbs,
            instance: opened.instance.as_ref().and_then(|i| i.uuid.clone()),
            source: opened.source.clone(),
            disks: opened.stack.disks().iter().map(|disk| disk.name.clone()).collect(),
            volumes: options.volume.iter().cloned().collect(),
            snapshot: options.snapshot.clone(),
            paths: act.paths,
            whole_disk: act.whole_disk,
            members: members(opened),
            argv: std::env::args_os().collect(),
            consistency: Some(opened.consistency().to_string()),
            max_pause: None,
        };
        case::begin(request, &leave)
    }
}

/// The image files as they are now.
fn members(opened: &Opened) -> Vec<Member> {
    let files = opened.stack.disks().iter().flat_map(|disk| &disk.chain.links).flat_map(|link| link.files());
    files.filter_map(|file| Some(Member::of(&file.path, &file.file.file().metadata().ok()?))).collect()
}

/// Hands the paths that were refused to the log.
pub fn refusals<A: permit::Act>(session: &Session, view: &View<A>) {
    for path in view.refusals() {
        session.refused(&path, "outside the approval");
    }
}

/// What an act did, for the log.
#[derive(Default)]
pub struct Done {
    /// Numbers of the command's own.
    pub results: Map<String, Value>,
    /// The manifest that was written.
    pub manifest: Option<PathBuf>,
    /// Digests of what was shown or written, by name.
    pub digests: Vec<(String, String)>,
}

/// Writes the outcome of an act and gives its exit, whether it went well or not.
pub fn finish(session: Session, opened: &Opened, done: Done, result: Result<Exit>) -> Result<Exit> {
    let exit = match &result {
        Ok(exit) => *exit,
        Err(error) => Exit::of(error),
    };
    let outcome = Outcome {
        exit: exit.code().into(),
        results: done.results,
        manifest: done.manifest.filter(|path| path.exists()),
        digests: done.digests,
        members: members(opened),
        error: result.as_ref().err().map(|error| error.what().to_string()),
        ..Outcome::default()
    };
    let logged = session.finish(&outcome);
    let exit = result?;
    logged?;
    Ok(exit)
}

/// What a manifest's summary says of the source and of the leave.
pub fn about<A: permit::Act>(opened: &Opened, session: &Session, view: &View<A>) -> Map<String, Value> {
    let chain: Vec<_> = opened.stack.files().map(|file| json!({
        "path": file.path.display().to_string(), "size": file.identity.size, "mtime": time(file.identity.mtime),
        "inode": file.identity.inode,
    })).collect();
    let facts = view.facts();
    let pairs = [
        ("source", json!(opened.source)),
        ("instance", json!(opened.instance.as_ref().map(|i| i.id()))),
        ("disk", json!(opened.stack.disks().first().map(|disk| &disk.name))),
        ("volume", json!(view.volume())),
        ("snapshot", json!(opened.options.snapshot)),
        ("replay", json!(facts.replay)),
        ("consistency", json!(opened.consistency())),
        ("approval", json!(session.approval())),
        ("chain", json!(chain)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn time((seconds, nanoseconds): (i64, i64)) -> String {
    rfc3339(Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) })
}
