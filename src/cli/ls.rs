//! `ls`: a directory listing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use coldread::error::Result;
use coldread::evidence::list::{self, Listing};
use coldread::permit::{List, Verb};

use super::Context;
use super::act::{self, Act};
use super::leave::LeaveOptions;
use super::listing::{Lines, Shape};
use super::out::Exit;
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// The directory or file
    #[arg(value_name = "PATH", default_value = "/")]
    path: OsString,

    /// Mode, links, owner, size and time too
    #[arg(short, long)]
    long: bool,

    /// Everything below as well
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The directory itself instead of what is in it; links are not followed
    #[arg(short, long)]
    directory: bool,

    /// What was deleted and is still whole: files that were open when they were deleted
    #[arg(long)]
    deleted: bool,

    /// Sizes in KiB, MiB, GiB
    #[arg(short = 'H', long)]
    human_readable: bool,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let path = self.path.clone().into_vec();
        let act =
            Act { command: "ls", verbs: vec![Verb::List], paths: vec![path.clone()], whole_disk: false };
        let listing = Listing { recursive: self.recursive, itself: self.directory, deleted: self.deleted };
        let shape = Shape {
            long: self.long,
            human: self.human_readable,
            full: self.recursive || self.directory || self.deleted,
            top: self.directory,
        };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let mut lines = Lines::new(context, shape);
            let listed = opened.view::<List, _>(context, |view| {
                list::list(view, &path, listing, &mut |item| lines.item(item))
            });
            done.results.insert("entries".into(), lines.entries().into());
            listed?;
            lines.end()
        })
    }
}
