//! `image`: the flattened disk or volume as a sparse raw file.

use std::path::{Path, PathBuf};

use coldread::error::{Error, Result};
use coldread::evidence::hash::hex;
use coldread::evidence::image::{self, Imaged, Options};
use coldread::permit::{Extract, Verb};
use serde_json::{Map, Value, json};

use super::Context;
use super::act::{self, Act, Opened};
use super::leave::LeaveOptions;
use super::out::{Exit, size};
use super::progress::Progress;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// The file to write: a new one; `-` is standard output
    #[arg(long, value_name = "FILE", required_unless_present = "case")]
    to: Option<PathBuf>,

    /// Do not hash what is written
    #[arg(long)]
    no_hash: bool,

    /// Wait until all of it is on the output's disk
    #[arg(long)]
    sync: bool,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let act = Act { command: "image", verbs: vec![Verb::Extract], paths: Vec::new(), whole_disk: true };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let source =
                opened.stack.whole(&opened.permit::<Extract>()?, opened.options.volume.as_deref())?;
            let options = Options { hash: !self.no_hash, sync: self.sync };
            let to = self.target(opened)?;
            let progress = Progress::start(context, Some(source.len()));
            let made = if to == Path::new("-") {
                image::stream_to(&source, &mut std::io::stdout().lock(), options, &context.effort)?
            } else {
                image::image(&source, &to, options, &context.effort)?
            };
            drop(progress);
            done.results = facts(&made);
            if let Some(sum) = made.output_sum {
                done.digests.push((to.display().to_string(), hex(&sum)));
            }
            say(context, &made, &to);
            Ok(if made.gaps.is_empty() { Exit::Complete } else { Exit::Gaps })
        })
    }

    fn target(&self, opened: &Opened) -> Result<PathBuf> {
        if let Some(to) = &self.to {
            return Ok(to.clone());
        }
        let dir = opened.session()?.evidence_dir()?;
        Ok(dir.ok_or_else(|| Error::usage("--to FILE is needed"))?.join("disk.raw"))
    }
}

fn facts(made: &Imaged) -> Map<String, Value> {
    let gap =
        |start: u64, length: u64, error: &str| json!({"start": start, "length": length, "error": error});
    let gaps: Vec<_> = made.gaps.iter().map(|g| gap(g.start, g.len, &g.error)).collect();
    let pairs = [
        ("bytes", json!(made.bytes)),
        ("sha256", json!(made.sum().map(|sum| hex(&sum)))),
        ("output_sha256", json!(made.output_sum.map(|sum| hex(&sum)))),
        ("gaps", json!(gaps)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn say(context: &Context, made: &Imaged, to: &Path) {
    for gap in &made.gaps {
        context.voice.note(&format!("gap: {} bytes at {:#x}: {}", gap.len, gap.start, gap.error));
    }
    if to == Path::new("-") {
        return;
    }
    if context.voice.json {
        let mut facts = facts(made);
        facts.insert("output".into(), json!(to.display().to_string()));
        println!("{}", Value::Object(facts));
        return;
    }
    match made.output_sum {
        // As sha256sum prints it, so that it can be checked with `sha256sum -c`.
        Some(sum) => println!("{}  {}", hex(&sum), to.display()),
        None => context.voice.note(&format!("{} in {}", size(made.bytes), to.display())),
    }
}
