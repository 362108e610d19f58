//! `cat`: the content of one file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use coldread::error::Result;
use coldread::evidence::cat::{self, Part};
use coldread::permit::{Read, Verb};

use super::Context;
use super::act::{self, Act};
use super::leave::LeaveOptions;
use super::out::{Exit, Stdout};
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// The file; links are followed
    #[arg(value_name = "PATH")]
    path: OsString,

    /// Start at this byte
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u64,

    /// At most this many bytes
    #[arg(long, value_name = "N")]
    length: Option<u64>,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let path = self.path.clone().into_vec();
        let act =
            Act { command: "cat", verbs: vec![Verb::Read], paths: vec![path.clone()], whole_disk: false };
        let part = Part { offset: self.offset, length: self.length };
        act::run(context, &self.source, &self.leave, act, |opened, _| {
            let mut out = Stdout::lock();
            let gaps = opened.view::<Read, _>(context, |view| cat::cat(view, &path, part, &mut out));
            if out.is_closed() {
                return Ok(Exit::Complete);
            }
            // What was read before an error belongs to the answer.
            let ended = out.end();
            let gaps = gaps?;
            ended?;
            for gap in &gaps {
                context.voice.note(&format!("gap: {} bytes at {}: {}", gap.len, gap.start, gap.error));
            }
            Ok(if gaps.is_empty() { Exit::Complete } else { Exit::Gaps })
        })
    }
}
