//! `approval`: documents for people to sign, and what their signatures are worth.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use coldread::case::approval::document::TYPE;
use coldread::case::approval::{self, Document, NAMESPACE};
use coldread::case::{self, Case, Operator, span};
use coldread::error::{Error, Result};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::json;

use super::Context;
use super::log::PolicyOption;
use super::out::{Exit, Stdout};

/// `approval …`
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the document that people sign
    ///
    /// Each approver then signs it with `ssh-keygen -Y sign -n approval@coldread -f KEY FILE`, which gives FILE.sig;
    /// rename it to FILE.<name>.sig before the next one signs.
    Request(Box<Request>),
    /// Show what a document allows
    Show(Show),
    /// Say who signed, and whether that suffices
    Verify(Verify),
    /// Add the signatures for what went through with --break-glass
    Ratify(Ratify),
}

#[derive(ClapArgs)]
struct Request {
    /// The instance
    #[arg(long, value_name = "UUID")]
    instance: String,

    /// Disks by name; `*` is any
    #[arg(long = "disk", value_name = "NAME", default_value = "disk")]
    disks: Vec<String>,

    /// Globs over the guest's paths: `/etc/**` is /etc and all beneath it
    #[arg(long = "path", value_name = "GLOB")]
    paths: Vec<String>,

    /// What may be done: list, read, extract, recover, suspend
    #[arg(long = "verb", value_name = "VERB", required = true, value_delimiter = ',')]
    verbs: Vec<String>,

    /// Also what has no path: images, exports, slack, carving
    #[arg(long)]
    whole_disk: bool,

    /// SHA-256 of the disk's top image file: the only proof of which instance a copied disk is
    #[arg(long, value_name = "HEX")]
    source_digest: Option<String>,

    /// The longest that the instance may be paused
    #[arg(long, value_name = "T", value_parser = span_of)]
    max_pause: Option<Duration>,

    /// From when it holds: a date, an RFC 3339 time, or a length of time from now
    #[arg(long, value_name = "T", value_parser = time_of)]
    not_before: Option<Timestamp>,

    /// From when it holds no more: a date, an RFC 3339 time, or a length of time from now
    #[arg(long, value_name = "T", value_parser = time_of)]
    expires: Timestamp,

    /// Where the work is tracked
    #[arg(long, value_name = "T")]
    ticket: String,

    /// Why
    #[arg(long, value_name = "R")]
    reason: String,

    /// Who asks: they cannot approve it
    #[arg(long, value_name = "WHO")]
    requester: String,

    /// Where to write it; left out: standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct Show {
    /// The document
    file: PathBuf,
}

#[derive(ClapArgs)]
struct Verify {
    /// The document
    file: PathBuf,

    #[command(flatten)]
    policy: PolicyOption,
}

#[derive(ClapArgs)]
struct Ratify {
    /// The document, with its signatures beside it
    file: PathBuf,

    /// The case
    #[arg(long, value_name = "DIR", env = "COLDREAD_CASE")]
    case: PathBuf,

    /// Only this run; left out: all that the document covers
    #[arg(long, value_name = "RUN")]
    run: Option<String>,

    #[command(flatten)]
    policy: PolicyOption,
}

fn span_of(text: &str) -> Result<Duration, String> {
    span::parse(text).map_err(|e| e.what().to_string())
}

fn time_of(text: &str) -> Result<Timestamp, String> {
    if let Ok(span) = span::parse(text) {
        return Timestamp::now().checked_add(span).map_err(|e| e.to_string());
    }
    if let Ok(date) = text.parse::<Date>()
        && !text.contains(['T', ' '])
    {
        return date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|e| e.to_string());
    }
    text.parse()
        .map_err(|_| "a date, an RFC 3339 time with its zone, or a length of time from now: 8h".to_string())
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<Exit> {
        match self.command {
            Command::Request(args) => args.run(context),
            Command::Show(args) => args.run(context),
            Command::Verify(args) => args.run(context),
            Command::Ratify(args) => args.run(context),
        }
    }
}

impl Request {
    fn run(self, context: &Context) -> Result<Exit> {
        let mut paths = self.paths;
        if paths.is_empty() && self.whole_disk {
            // Whoever may read the whole disk may read every file of it; the document says so.
            paths.push("/**".into());
        }
        if paths.is_empty() && self.verbs.iter().any(|verb| verb != "suspend") {
            return Err(Error::usage("approval request: neither --path nor --whole-disk")
                .hint("name what may be read: --path '/var/log/**'"));
        }
        let document = Document {
            r#type: TYPE.into(),
            version: 1,
            instance: self.instance.to_lowercase(),
            source_digest: self.source_digest.map(|digest| digest.to_lowercase()),
            disks: self.disks,
            paths,
            verbs: self.verbs,
            whole_disk: self.whole_disk,
            max_pause: self.max_pause,
            not_before: self.not_before.unwrap_or_else(Timestamp::now),
            expires: self.expires,
            nonce: Document::new_nonce()?,
            reason: self.reason,
            ticket: self.ticket,
            requester: self.requester,
        };
        document.check().map_err(|why| Error::usage(format!("approval request: {why}")))?;
        let text = document.to_text()?;
        let Some(file) = self.to else {
            let mut out = Stdout::lock();
            out.write(text.as_bytes())?;
            out.end()?;
            return Ok(Exit::Complete);
        };
        let cannot = |e| Error::io(format!("cannot write {}", file.display()), e);
        let mut to =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&file).map_err(cannot)?;
        to.write_all(text.as_bytes()).and_then(|()| to.sync_all()).map_err(cannot)?;
        context.voice.note(&format!(
            "{} is written; each approver signs it: ssh-keygen -Y sign -n {NAMESPACE} -f KEY {}",
            file.display(),
            file.display()
        ));
        Ok(Exit::Complete)
    }
}

impl Show {
    fn run(self, context: &Context) -> Result<Exit> {
        let signed = Document::load(&self.file)?;
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&json!({ "sha256": signed.digest, "document": signed.document }))?;
        } else {
            show(&mut out, &signed.document)?;
            line(&mut out, "sha256", &signed.digest)?;
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}

fn show(out: &mut Stdout, document: &Document) -> Result<()> {
    line(out, "instance", &document.instance)?;
    line(out, "disks", &document.disks.join(", "))?;
    line(out, "paths", &document.paths.join("  "))?;
    line(out, "verbs", &document.verbs.join(", "))?;
    line(out, "whole disk", if document.whole_disk { "yes" } else { "no" })?;
    if let Some(digest) = &document.source_digest {
        line(out, "source", digest)?;
    }
    if let Some(pause) = document.max_pause {
        line(out, "pause up to", &span::show(pause))?;
    }
    line(out, "holds from", &document.not_before.to_string())?;
    line(out, "until", &document.expires.to_string())?;
    line(out, "ticket", &document.ticket)?;
    line(out, "reason", &document.reason)?;
    line(out, "asked for by", &document.requester)
}

fn line(out: &mut Stdout, name: &str, value: &str) -> Result<()> {
    out.line(&format!("{name:<14}{}", super::out::printable(value)))
}

impl Verify {
    fn run(self, context: &Context) -> Result<Exit> {
        let policy = self.policy.load()?;
        let signed = Document::load(&self.file)?;
        let now = Timestamp::now();
        let runs_it = Operator::now().principals(&policy);
        let opinion = approval::examine(&policy, &runs_it, &signed, &self.file, now)?;
        let in_time = signed.document.holds(&policy, now);
        let enough = opinion.signers.len() >= policy.approvers as usize;
        let suffices = enough && in_time.is_ok();
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&json!({
                "suffices": suffices,
                "approvers": policy.approvers,
                "signers": opinion.signers,
                "rejected": opinion.rejected,
                "problem": in_time.as_ref().err().map(Error::what),
                "sha256": signed.digest,
                "document": signed.document,
            }))?;
        } else {
            for signer in &opinion.signers {
                line(
                    &mut out,
                    "signed by",
                    &format!("{}  {} {}", signer.principal, signer.key_type, signer.fingerprint),
                )?;
            }
            for rejected in &opinion.rejected {
                line(&mut out, "does not count", &format!(" {}: {}", rejected.file, rejected.why))?;
            }
            if let Err(e) = &in_time {
                line(&mut out, "time", e.what())?;
            }
            let verdict = if suffices { "suffices" } else { "does not suffice" };
            out.line(&format!("{verdict}: {} of {} approvers", opinion.signers.len(), policy.approvers))?;
        }
        out.end()?;
        Ok(if suffices { Exit::Complete } else { Exit::Gaps })
    }
}

impl Ratify {
    fn run(self, context: &Context) -> Result<Exit> {
        let case = Case::load(&self.case)?;
        let runs = case::ratify(&case, &self.file, self.run.as_deref(), &self.policy.load()?)?;
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&json!({ "ratified": runs }))?;
        } else {
            for run in runs {
                out.line(&format!("ratified: run {run}"))?;
            }
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}
