//! `case`: open one, look at it, verify it, report on it, close it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use coldread::case::{self, Case, Facts, report, verify};
use coldread::error::{Error, Result};
use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use super::log::PolicyOption;
use super::out::{Align, Exit, Stdout, Table, printable};

/// `case …`
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open a case: a directory with its approvals, its log and its evidence
    Open(Open),
    /// Show what was done in a case
    Show(Dir),
    /// Check the log, the approvals, every manifest and every digest
    Verify(Verify),
    /// Write the case up as one HTML page
    Report(Report),
    /// Close a case: seal its log, use its approvals up
    Close(Close),
}

#[derive(ClapArgs)]
struct Open {
    /// The directory to make
    dir: PathBuf,

    /// What the case is called
    #[arg(long)]
    id: String,

    /// Where the work is tracked
    #[arg(long, value_name = "T")]
    ticket: String,

    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Who investigates
    #[arg(long, value_name = "WHO")]
    investigator: Option<String>,

    /// Who approved all acts of the case, where the policy is content with a statement
    #[arg(long, value_name = "WHO")]
    approved_by: Option<String>,
}

#[derive(ClapArgs)]
struct Dir {
    /// The case
    dir: PathBuf,
}

#[derive(ClapArgs)]
struct Verify {
    /// The case
    dir: PathBuf,

    /// A checkpoint of its log that was kept elsewhere, or a file of them
    #[arg(long, value_name = "CHECKPOINT")]
    against: Option<PathBuf>,

    #[command(flatten)]
    policy: PolicyOption,
}

#[derive(ClapArgs)]
struct Report {
    /// The case
    dir: PathBuf,

    /// Where to write the page; left out: DIR/report.html
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct Close {
    /// The case
    dir: PathBuf,

    #[command(flatten)]
    policy: PolicyOption,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<Exit> {
        match self.command {
            Command::Open(args) => args.run(context),
            Command::Show(args) => args.run(context),
            Command::Verify(args) => args.run(context),
            Command::Report(args) => args.run(context),
            Command::Close(args) => args.run(context),
        }
    }
}

impl Open {
    fn run(self, context: &Context) -> Result<Exit> {
        let facts = Facts {
            id: self.id,
            ticket: self.ticket,
            reason: self.reason,
            investigator: self.investigator,
            approved_by: self.approved_by,
            opened: Timestamp::now(),
        };
        let case = Case::create(&self.dir, &facts)?;
        if context.voice.json {
            let mut out = Stdout::lock();
            out.json(&case::summary(&case)?)?;
            out.end()?;
        } else {
            context.voice.note(&format!("case {} is open: --case {}", case.facts.id, self.dir.display()));
        }
        Ok(Exit::Complete)
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(word).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

impl Dir {
    fn run(self, context: &Context) -> Result<Exit> {
        let summary = case::summary(&Case::load(&self.dir)?)?;
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&summary)?;
            out.end()?;
            return Ok(Exit::Complete);
        }
        for key in
            ["id", "state", "ticket", "reason", "investigator", "approved_by", "opened", "closed", "origin"]
        {
            let value = word(&summary[key]);
            if !value.is_empty() {
                out.line(&format!("{key:<14}{}", printable(&value)))?;
            }
        }
        let mut table = Table::new(&[
            ("SEQ", Align::Right),
            ("TIME", Align::Left),
            ("COMMAND", Align::Left),
            ("SOURCE", Align::Left),
            ("PATHS", Align::Left),
            ("APPROVAL", Align::Left),
            ("EXIT", Align::Right),
            ("EVIDENCE", Align::Left),
        ]);
        let list = |key: &str| summary[key].as_array().cloned().unwrap_or_default();
        for run in list("runs") {
            let mut approval = word(&run["approval"]);
            if run["ratified"] == false {
                approval.push_str(", not ratified");
            }
            table.row(vec![
                word(&run["seq"]),
                word(&run["time"]),
                word(&run["command"]),
                word(&run["source"]),
                word(&run["paths"]),
                approval,
                word(&run["exit"]),
                word(&run["evidence"]),
            ]);
        }
        table.print(&mut out, context.voice.color)?;
        for refused in list("refused") {
            let (command, why) = (word(&refused["command"]), word(&refused["why"]));
            out.line(&printable(&format!("refused {} {command}: {why}", word(&refused["time"]))))?;
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}

impl Verify {
    fn run(self, context: &Context) -> Result<Exit> {
        let case = Case::load(&self.dir)?;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|e| Error::io(path.display().to_string(), e))
        };
        let checkpoint = self.against.as_ref().map(read).transpose()?;
        let found = verify::verify(&case, &self.policy.load()?, checkpoint.as_deref())?;
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&serde_json::to_value(&found).map_err(|e| Error::usage(e.to_string()))?)?;
        } else {
            for problem in &found.problems {
                out.line(&printable(&format!("problem: {problem}")))?;
            }
            for note in &found.notes {
                context.voice.note(note);
            }
            let checked = &found.checked;
            out.line(&format!(
                "{}: {} lines of log, {} runs, {} approvals, {} manifests, {} files checked",
                if found.sound { "sound" } else { "not sound" },
                found.log.lines,
                checked.runs,
                checked.approvals,
                checked.manifests,
                checked.files
            ))?;
        }
        out.end()?;
        Ok(if found.sound { Exit::Complete } else { Exit::Gaps })
    }
}

impl Report {
    fn run(self, context: &Context) -> Result<Exit> {
        let case = Case::load(&self.dir)?;
        let model = report::Model::of(&case)?;
        if context.voice.json {
            let mut out = Stdout::lock();
            out.json(&model.to_json())?;
            out.end()?;
            return Ok(Exit::Complete);
        }
        let path = self.to.unwrap_or_else(|| case.dir.join("report.html"));
        let cannot = |e| Error::io(format!("cannot write {}", path.display()), e);
        let mut options = OpenOptions::new();
        let mut to =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(cannot)?;
        to.write_all(model.to_html().as_bytes()).map_err(cannot)?;
        context.voice.note(&format!("the report is {}", path.display()));
        Ok(Exit::Complete)
    }
}

impl Close {
    fn run(self, context: &Context) -> Result<Exit> {
        let case = Case::load(&self.dir)?;
        let checkpoint = case.close(&self.policy.load()?)?;
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&case::summary(&case)?)?;
        } else {
            out.write(checkpoint.to_string().as_bytes())?;
            context.voice.note(&format!("case {} is closed; keep this checkpoint elsewhere", case.facts.id));
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}
