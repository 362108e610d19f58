//! `hash`: digests of files, without copying them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::ValueEnum;
use coldread::bytes::escape;
use coldread::error::Result;
use coldread::evidence::digest::{self, Hashed};
use coldread::evidence::extract;
use coldread::evidence::hash::hex;
use coldread::permit::{Read, Verb};
use serde_json::json;

use super::Context;
use super::act::{self, Act};
use super::leave::LeaveOptions;
use super::out::{Exit, Stdout};
use super::progress::Progress;
use super::source::Source;

#[derive(clap::Args)]
#[command(mut_arg("image_format", |arg| arg.long("image-format")))]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Files and directories, with everything below them
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<OsString>,

    /// How digests are written
    #[arg(long, value_name = "F", default_value = "sha256sum")]
    format: Form,

    #[command(flatten)]
    leave: LeaveOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As sha256sum writes them; paths relative to the guest's root
    Sha256sum,
    /// As hashdeep writes them
    Hashdeep,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let paths: Vec<Vec<u8>> = self.paths.iter().map(|path| path.clone().into_vec()).collect();
        let act = Act { command: "hash", verbs: vec![Verb::Read], paths: paths.clone(), whole_disk: false };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let mut lines = Lines {
                out: Stdout::lock(),
                args: &self,
                context,
                line: Vec::new(),
                files: 0,
                exit: Exit::Complete,
            };
            lines.head()?;
            let hashed = opened.view::<Read, _>(context, |view| {
                let wanted: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
                let total =
                    if Progress::is_shown(context) { extract::total(view, &wanted).ok() } else { None };
                let _progress = Progress::start(context, total);
                digest::digests(view, &wanted, &mut |hashed| lines.show(hashed))
            });
            done.results.insert("files".into(), lines.files.into());
            hashed?;
            lines.out.end()?;
            Ok(lines.exit)
        })
    }
}

struct Lines<'a> {
    out: Stdout,
    args: &'a Args,
    context: &'a Context,
    line: Vec<u8>,
    files: u64,
    exit: Exit,
}

impl Lines<'_> {
    fn head(&mut self) -> Result<()> {
        if self.args.format == Form::Hashdeep && !self.context.voice.json {
            digest::hashdeep_header(&mut self.line);
            self.out.write(&self.line)?;
        }
        Ok(())
    }

    fn show(&mut self, hashed: Hashed) -> Result<()> {
        let voice = &self.context.voice;
        match hashed {
            Hashed::Sum { path, size, sum } => {
                self.files += 1;
                if voice.json {
                    return self.out.json(&json!({"path": escape(&path), "size": size, "sha256": hex(&sum)}));
                }
                self.line.clear();
                match self.args.format {
                    Form::Sha256sum => digest::sha256sum(&mut self.line, &path, &sum),
                    Form::Hashdeep => digest::hashdeep(&mut self.line, &path, size, &sum),
                }
                self.out.write(&self.line)
            }
            Hashed::Gaps { path, gaps } => {
                self.exit = self.exit.and(Exit::Gaps);
                if voice.json {
                    let gaps: Vec<_> = gaps
                        .iter()
                        .map(|g| json!({"start": g.start, "length": g.len, "error": g.error}))
                        .collect();
                    return self.out.json(&json!({"path": escape(&path), "sha256": null, "gaps": gaps}));
                }
                for gap in gaps {
                    let path = escape(&path);
                    voice.note(&format!(
                        "{path}: no digest: {} bytes at {}: {}",
                        gap.len, gap.start, gap.error
                    ));
                }
                Ok(())
            }
            Hashed::Left { path, error } => {
                self.exit = self.exit.and(Exit::of_part(&error));
                voice.error(&error.context(escape(&path)));
                Ok(())
            }
        }
    }
}
