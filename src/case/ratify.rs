//! Signatures after an emergency: the approval that break-glass went without.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::approval::{self, Document, Rules};
use super::audit::{Kind, Log};
use super::record::Record;
use super::story::{Run, Story, list, text};
use super::{Case, Operator, Policy};
use crate::error::{Error, Result};
use crate::permit::{Scope, Verb};

/// Ratifies the case's emergencies that the approval `file` covers; with `only`, that one run. Gives the runs' names.
///
/// # Errors
/// Refused: it covers none of them, or too few people have signed it.
pub fn ratify(case: &Case, file: &Path, only: Option<&str>, policy: &Policy) -> Result<Vec<String>> {
    let signed = Document::load(file)?;
    let story = Story::read(&case.log_path())?;
    let now = Timestamp::now();
    if now >= signed.document.expires {
        return Err(Error::refused(format!(
            "approval {}: it expired at {}",
            file.display(),
            signed.document.expires
        )));
    }
    let waiting = story.runs.iter().filter(|run| run.is_break_glass() && run.ratified.is_none());
    let waiting: Vec<_> = waiting.filter(|run| only.is_none_or(|only| run.name() == only)).collect();
    if waiting.is_empty() {
        return Err(Error::not_found("no emergency of this case waits to be ratified"));
    }
    let mut done = Vec::new();
    let mut reasons = Vec::new();
    for run in waiting {
        let judged = covers(&signed.document, run).map_err(Error::refused).and_then(|()| {
            approval::examine(policy, &runs_it(run), &signed, file, now)?.enough(policy.approvers)
        });
        match judged {
            Ok(signers) => {
                let kept = case.keep_approval(file)?;
                let body = json!({
                    "ratifies": run.name(),
                    "intent": run.intent["seq"],
                    "operator": Operator::now(),
                    "approval": kept.file_name().map(|name| name.to_string_lossy()),
                    "grant": signed.grant(signers),
                });
                Record::new(Log::open(&case.log_path())?, policy)?.last(Kind::Ratified, &body)?;
                done.push(run.name().to_string());
            }
            Err(e) => reasons.push(format!("run {}: {}", run.name(), e.what())),
        }
    }
    if done.is_empty() {
        return Err(Error::refused(format!("approval {}: {}", file.display(), reasons.join("; "))));
    }
    Ok(done)
}

/// Everybody that whoever did the run may sign as, as the log has it.
pub(super) fn runs_it(run: &Run) -> BTreeSet<String> {
    list(&run.intent, "/principals").iter().filter_map(|name| Some(name.as_str()?.to_string())).collect()
}

/// Whether the document covers what the run asked for.
fn covers(document: &Document, run: &Run) -> Result<(), String> {
    let intent = &run.intent;
    let instance = text(intent, "/instance");
    if !instance.eq_ignore_ascii_case(&document.instance) {
        return Err(format!("it is for instance {}, and this was {instance}", document.instance));
    }
    let rules = Rules::of(document)?;
    for verb in list(intent, "/verbs").iter().filter_map(|verb| Verb::from_word(verb.as_str()?)) {
        if !document.verbs.iter().any(|covered| covered == verb.word()) {
            return Err(format!("it does not cover `{}`", verb.word()));
        }
    }
    for disk in list(intent, "/disks").iter().filter_map(|disk| disk.as_str()) {
        if !rules.covers_disk(disk) {
            return Err(format!("it does not cover the disk `{disk}`"));
        }
    }
    if intent["whole_disk"] == true && !document.whole_disk {
        return Err("it does not cover the disk as a whole".into());
    }
    // The paths as they were asked for. Escapes in the log are the globs' own.
    for path in list(intent, "/paths").iter().filter_map(|path| path.as_str()) {
        if !rules.covers_path(path.as_bytes()) {
            return Err(format!("it does not cover {path}"));
        }
    }
    Ok(())
}
