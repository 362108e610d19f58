//! `extract`: copies files out, with checksums and a manifest.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use coldread::bytes::escape;
use coldread::error::{Error, Result};
use coldread::evidence::manifest::Outcome;
use coldread::evidence::{extract, tar};
use coldread::permit::{Extract, Verb};
use coldread::stack::View;
use serde_json::{Map, Value, json};

use super::Context;
use super::act::{self, Act, Done, Opened};
use super::leave::{self, LeaveOptions};
use super::out::{Exit, size};
use super::progress::Progress;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Files and directories, with everything below them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,

    /// Write files, manifest.jsonl and SHA256SUMS into this directory: new, or empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["tar", "case"], conflicts_with = "tar")]
    to: Option<PathBuf>,

    /// Write a pax tar; `-` is standard output
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let paths: Vec<Vec<u8>> = self.paths.iter().map(|path| path.clone().into_vec()).collect();
        let act =
            Act { command: "extract", verbs: vec![Verb::Extract], paths: paths.clone(), whole_disk: false };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            opened.view::<Extract, _>(context, |view| {
                let wanted: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
                let outcome = self.extract(opened, view, &wanted, done, context)?;
                done.results = json_of(&outcome);
                for path in view.refusals().iter().take(REFUSALS_SAID) {
                    context.voice.note(&format!("refused: {}: outside the approval", escape(path)));
                }
                if self.tar.as_deref() != Some(Path::new("-")) {
                    say(context, &outcome, done.manifest.as_deref());
                }
                Ok(exit(&outcome))
            })
        })
    }

    fn extract(
        &self,
        opened: &Opened,
        view: &View<Extract>,
        wanted: &[&[u8]],
        done: &mut Done,
        context: &Context,
    ) -> Result<Outcome> {
        let total = if Progress::is_shown(context) { extract::total(view, wanted).ok() } else { None };
        let _progress = Progress::start(context, total);
        let about = || leave::about(opened, view.volume(), view.facts().replay.as_deref());
        match &self.tar {
            Some(tar) if tar == Path::new("-") => {
                let mut out = std::io::stdout().lock();
                tar::to_tar(view, wanted, &mut out, None, &about)
            }
            Some(tar) => {
                done.manifest = Some(tar::manifest_path(tar));
                tar::to_file(view, wanted, tar, &about)
            }
            None => {
                let dir =
                    self.to.clone().map_or_else(|| opened.session()?.evidence_dir(), |dir| Ok(Some(dir)))?;
                let dir = dir.ok_or_else(|| Error::usage("--to DIR or --tar FILE is needed"))?;
                done.manifest = Some(dir.join("manifest.jsonl"));
                extract::to_dir(view, wanted, &dir, &about)
            }
        }
    }
}

/// Refused paths named one by one; the log has all.
const REFUSALS_SAID: usize = 20;

fn exit(outcome: &Outcome) -> Exit {
    let gaps = if outcome.gaps > 0 { Exit::Gaps } else { Exit::Complete };
    gaps.and(if outcome.refused > 0 { Exit::Refused } else { Exit::Complete })
}

fn json_of(outcome: &Outcome) -> Map<String, Value> {
    let numbers = [
        ("files", outcome.files),
        ("bytes", outcome.bytes),
        ("gaps", outcome.gaps),
        ("refused", outcome.refused),
    ];
    numbers.into_iter().map(|(name, number)| (name.to_string(), number.into())).collect()
}

/// What was done, in a sentence, or as one object.
fn say(context: &Context, outcome: &Outcome, manifest: Option<&Path>) {
    if context.voice.json {
        let mut summary = json_of(outcome);
        summary.insert(
            "manifest".into(),
            manifest.map_or(Value::Null, |path| json!(path.display().to_string())),
        );
        println!("{}", json!({"summary": summary}));
        return;
    }
    let mut text = format!("{} files, {}", outcome.files, size(outcome.bytes));
    if outcome.gaps > 0 {
        let _ = write!(text, ", {} gaps", outcome.gaps);
    }
    if outcome.refused > 0 {
        let _ = write!(text, ", {} refused", outcome.refused);
    }
    if let Some(path) = manifest {
        let _ = write!(text, "; manifest: {}", path.display());
    }
    context.voice.note(&text);
}
