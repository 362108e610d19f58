//! Checking a case: its log, its approvals as of when they were used, every manifest, and every digest again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::approval::{self, Document};
use super::audit::{self, verify::Verdict};
use super::ratify::runs_it;
use super::story::{Run, Story, list, text};
use super::{Case, Policy, tool};
use crate::error::{Error, Result};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// Whether everything holds.
    pub sound: bool,
    /// The log's own verdict.
    pub log: Verdict,
    /// What was looked at and holds: how many.
    pub checked: Checked,
    /// What does not hold, a sentence each.
    pub problems: Vec<String>,
    /// What is worth knowing and is no fault.
    pub notes: Vec<String>,
}

/// How much was looked at.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// Runs in the log.
    pub runs: u64,
    /// Approvals whose signatures were verified again.
    pub approvals: u64,
    /// Manifests whose digest is in the log.
    pub manifests: u64,
    /// Files whose digest is in a manifest.
    pub files: u64,
}

/// Checks the case. `checkpoint`: the text of one that was kept elsewhere.
///
/// # Errors
/// The case cannot be read. What is wrong with it is in the [`Findings`].
pub fn verify(case: &Case, policy: &Policy, checkpoint: Option<&str>) -> Result<Findings> {
    let path = case.log_path();
    let log = audit::verify::verify(&path, checkpoint)?;
    let mut check =
        Check { case, policy, problems: Vec::new(), notes: Vec::new(), checked: Checked::default() };
    if let Some(problem) = &log.problem {
        check.problems.push(format!("log: {problem}"));
    }
    check.kept_checkpoints(&path, &log);
    match Story::read(&path) {
        Ok(story) => check.story(&story),
        Err(e) => check.problems.push(e.what().to_string()),
    }
    let Check { problems, notes, checked, .. } = check;
    Ok(Findings { sound: problems.is_empty(), log, checked, problems, notes })
}

struct Check<'a> {
    case: &'a Case,
    policy: &'a Policy,
    problems: Vec<String>,
    notes: Vec<String>,
    checked: Checked,
}

impl Check<'_> {
    /// The checkpoints that the policy had sent to files here, and the one that closing left.
    fn kept_checkpoints(&mut self, log: &Path, verdict: &Verdict) {
        let own = self.case.dir.join("closed.checkpoint");
        let Some(origin) = &verdict.origin else { return };
        for file in self.policy.log_checkpoint_to.iter().chain([&own]) {
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            // A file that other logs share may say nothing of this one.
            if !text.lines().any(|line| line == origin) {
                continue;
            }
            match audit::verify::verify(log, Some(&text)) {
                Ok(Verdict { problem: Some(problem), .. }) if verdict.problem.is_none() => {
                    self.problems.push(format!("log, against {}: {problem}", file.display()));
                }
                Ok(_) => {}
                Err(e) => self.problems.push(format!("{}: {}", file.display(), e.what())),
            }
        }
    }

    fn story(&mut self, story: &Story) {
        let facts = serde_json::to_value(&self.case.facts).unwrap_or_default();
        if story.opened["case"] != facts {
            self.problems.push("case.toml is not what the first line of the log says".into());
        }
        let mut evidence: BTreeSet<PathBuf> = BTreeSet::new();
        for run in &story.runs {
            self.checked.runs += 1;
            self.run(run);
            if let Some(outcome) = &run.outcome {
                evidence.insert(self.case.dir.join(text(outcome, "/evidence")));
                self.manifest(run, outcome);
            } else {
                self.notes.push(format!(
                    "run {} ({}) has no outcome: it was killed, or goes on",
                    run.name(),
                    text(&run.intent, "/command")
                ));
            }
        }
        for line in &story.torn {
            let kept = self.case.dir.join(text(line, "/kept"));
            self.file_holds(&kept, text(line, "/sha256"), "a torn line that was set aside");
        }
        let there = std::fs::read_dir(self.case.dir.join("evidence")).into_iter().flatten().flatten();
        for dir in there.map(|entry| entry.path()).filter(|dir| !evidence.contains(dir)) {
            self.problems.push(format!("{}: no outcome in the log speaks of it", self.relative(&dir)));
        }
    }

    fn run(&mut self, run: &Run) {
        if run.is_break_glass() {
            match &run.ratified {
                Some(line) => self.approval(run, line),
                None => self.problems.push(format!(
                    "run {} ({}) went through as an emergency and is not ratified: {}",
                    run.name(),
                    text(&run.intent, "/command"),
                    text(&run.intent, "/grant/reason")
                )),
            }
        } else if text(&run.intent, "/grant/kind") == "signed" {
            self.approval(run, &run.intent);
        }
    }

    /// The approval that `line` rests on: its document, and the signatures as of that line's time.
    fn approval(&mut self, run: &Run, line: &Value) {
        let digest = text(line, "/grant/document");
        let found = self.case.approvals().into_iter().find_map(|file| {
            Document::load(&file).ok().filter(|signed| signed.digest == digest).map(|signed| (file, signed))
        });
        let Some((file, signed)) = found else {
            self.problems.push(format!(
                "run {}: the approval it rests on (sha256 {digest}) is not in the case",
                run.name()
            ));
            return;
        };
        let judged = text(line, "/time")
            .parse::<Timestamp>()
            .map_err(|e| Error::corrupt(format!("its time: {e}")))
            .and_then(|at| approval::examine(self.policy, &runs_it(run), &signed, &file, at));
        let wanted: BTreeSet<&str> =
            list(line, "/grant/signers").iter().map(|s| text(s, "/principal")).collect();
        match judged {
            Ok(opinion) => {
                let stand: BTreeSet<&str> = opinion.signers.iter().map(|s| s.principal.as_str()).collect();
                let missing: Vec<_> = wanted.difference(&stand).copied().collect();
                if missing.is_empty() {
                    self.checked.approvals += 1;
                } else {
                    let why: Vec<_> =
                        opinion.rejected.iter().map(|r| format!("{}: {}", r.file, r.why)).collect();
                    self.problems.push(format!(
                        "run {}: the signature of {} does not stand ({})",
                        run.name(),
                        missing.join(", "),
                        why.join("; ")
                    ));
                }
            }
            Err(e) => self.problems.push(format!(
                "run {}: approval {}: {}",
                run.name(),
                self.relative(&file),
                e.what()
            )),
        }
    }

    /// A run's manifest against the log, and what it lists against the files.
    fn manifest(&mut self, run: &Run, outcome: &Value) {
        let path = text(outcome, "/manifest/path");
        if path.is_empty() {
            return;
        }
        let path = self.case.dir.join(path);
        if !self.file_holds(
            &path,
            text(outcome, "/manifest/sha256"),
            &format!("the manifest of run {}", run.name()),
        ) {
            return;
        }
        self.checked.manifests += 1;
        let dir = path.parent().unwrap_or(&self.case.dir).to_path_buf();
        if let Err(e) = self.listed(&path, &dir) {
            self.problems.push(format!("{}: {e}", self.relative(&path)));
        }
    }

    fn listed(&mut self, manifest: &Path, dir: &Path) -> std::io::Result<()> {
        for line in BufReader::new(File::open(manifest)?).lines() {
            let line: Value = serde_json::from_str(&line?)?;
            let (Some(output), Some(sha256)) = (output_of(&line), line["output_sha256"].as_str()) else {
                continue;
            };
            if self.file_holds(&dir.join(output), sha256, "a file of the manifest") {
                self.checked.files += 1;
            }
        }
        Ok(())
    }

    fn file_holds(&mut self, path: &Path, wanted: &str, what: &str) -> bool {
        match File::open(path).and_then(|mut file| tool::file_digest(&mut file)) {
            Ok(found) if found == wanted => return true,
            Ok(found) => self.problems.push(format!(
                "{}: {what} has the digest {found}, and {wanted} is written down",
                self.relative(path)
            )),
            Err(e) => self.problems.push(format!("{}: {what}: {e}", self.relative(path))),
        }
        false
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.case.dir).unwrap_or(path).display().to_string()
    }
}

/// Where a manifest's line says that the copy is: its bytes if it gives them, else its text with `\\` undone.
fn output_of(line: &Value) -> Option<PathBuf> {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use std::os::unix::ffi::OsStringExt;
    if let Some(bytes) = line["output_bytes"].as_str() {
        return BASE64.decode(bytes).ok().map(|bytes| std::ffi::OsString::from_vec(bytes).into());
    }
    line["output"].as_str().map(|text| text.replace(r"\\", r"\").into())
}
