//! `verify`: what was extracted, read again and held against its manifest.

use std::path::PathBuf;

use coldread::bytes::escape;
use coldread::error::Result;
use coldread::evidence::verify;
use serde_json::json;

use super::Context;
use super::out::{Exit, Stdout, printable, size};
use super::progress::Progress;

#[derive(clap::Args)]
pub struct Args {
    /// The directory that `extract --to` wrote
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<Exit> {
        let mut problems = Vec::new();
        let progress = Progress::start(context, None);
        let done = verify::verify(&self.dir, &context.effort, &mut |problem| problems.push(problem))?;
        drop(progress);
        let mut out = Stdout::lock();
        for problem in &problems {
            if context.voice.json {
                out.json(
                    &json!({"problem": problem.kind, "path": escape(&problem.path), "what": problem.what}),
                )?;
            } else {
                out.line(&printable(&problem.text()))?;
            }
        }
        if context.voice.json {
            let summary = json!({"files": done.files, "bytes": done.bytes, "problems": done.problems});
            out.json(&json!({"summary": summary}))?;
        } else {
            context.voice.note(&format!(
                "{} files, {} read, {} problems",
                done.files,
                size(done.bytes),
                done.problems
            ));
        }
        out.end()?;
        Ok(if done.problems == 0 { Exit::Complete } else { Exit::Gaps })
    }
}
