//! By whose leave: the options of every command that shows what belongs to a tenant, and the record around the act.

use std::path::PathBuf;

use clap::Args;
use coldread::case::{Leave, Member, Session};
use coldread::stack::{Admitted, Time};
use serde_json::{Map, Value, json};

use super::act::Opened;
use super::out::rfc3339;

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

impl LeaveOptions {
    /// As the case floor takes it.
    pub fn leave(&self) -> Leave {
        Leave {
            case: self.case.clone(),
            approval: self.approval.clone(),
            ticket: self.ticket.clone(),
            approved_by: self.approved_by.clone(),
            reason: self.reason.clone(),
            break_glass: self.break_glass.clone(),
            policy: self.policy.clone(),
            ..Leave::default()
        }
    }
}

/// The image files as they are now.
pub fn members(opened: &Opened) -> Vec<Member> {
    let files = opened.stack.files();
    files.filter_map(|file| Some(Member::of(&file.path, &file.file.file().metadata().ok()?))).collect()
}

/// What a manifest's summary says of the source and of the leave.
pub fn about(opened: &Opened, volume: &str, replay: Option<&str>) -> Map<String, Value> {
    let member = |file: &Admitted| {
        json!({
            "path": file.path.display().to_string(), "size": file.identity.size, "mtime": time(file.identity.mtime),
            "inode": file.identity.inode,
        })
    };
    let chain: Vec<_> = opened.stack.files().map(member).collect();
    let instance = opened.uuid.clone().or_else(|| opened.instance.as_ref().map(|i| i.id()));
    let approval = opened.session().map(Session::approval).ok();
    let pairs = [
        ("source", json!(opened.source)),
        ("instance", json!(instance)),
        ("disk", json!(opened.stack.disks().first().map(|disk| &disk.name))),
        ("volume", json!(volume)),
        ("snapshot", json!(opened.options.snapshot)),
        ("replay", json!(replay)),
        ("consistency", json!(opened.consistency)),
        ("approval", json!(approval)),
        ("chain", json!(chain)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn time((seconds, nanoseconds): (i64, i64)) -> String {
    rfc3339(Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) })
}
