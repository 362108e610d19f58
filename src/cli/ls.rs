//! `ls`: a directory listing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use coldread::bytes::escape;
use coldread::error::Result;
use coldread::evidence::list::{self, Item, Listing};
use coldread::evidence::record::{self, Record};
use coldread::permit::{List, Verb};
use coldread::stack::{FileType, NameState, Node};

use super::Context;
use super::act::{self, Act};
use super::leave::LeaveOptions;
use super::out::{Exit, Stdout, printable, rfc3339, size};
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
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let mut out = Lines {
                out: Stdout::lock(),
                args: &self,
                context,
                exit: Exit::Complete,
                line: Vec::new(),
                entries: 0,
            };
            let listed = opened.view::<List, _>(context, |view| {
                list::list(view, &path, listing, &mut |item| out.item(item))
            });
            done.results.insert("entries".into(), out.entries.into());
            listed?;
            out.out.end()?;
            Ok(out.exit)
        })
    }
}

/// Standard output, line by line.
struct Lines<'a> {
    out: Stdout,
    args: &'a Args,
    context: &'a Context,
    exit: Exit,
    line: Vec<u8>,
    entries: u64,
}

impl Lines<'_> {
    fn item(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Entry { record, depth } => {
                self.entries += 1;
                // As `ls` does: the directory that was named is not one of its own entries.
                if depth == 0
                    && record.node.kind == FileType::Dir
                    && !self.args.directory
                    && !self.context.voice.json
                {
                    return Ok(());
                }
                self.entry(&record)
            }
            Item::Unreadable { path, spot, kind, error } => {
                self.exit = self.exit.and(Exit::of_part(&error));
                if self.context.voice.json {
                    self.line.clear();
                    record::unreadable(&mut self.line, path, &spot, kind, &error);
                    self.line.push(b'\n');
                    return self.out.write(&self.line);
                }
                self.context.voice.error(&error.context(escape(path)));
                Ok(())
            }
            Item::Gap { path, error } => {
                self.exit = self.exit.and(Exit::of_part(&error));
                self.context.voice.error(&error.context(escape(path)));
                Ok(())
            }
            Item::Refused { path } => {
                self.exit = self.exit.and(Exit::Refused);
                self.context.voice.note(&format!("refused: {}: outside the approval", escape(path)));
                Ok(())
            }
        }
    }

    fn entry(&mut self, record: &Record<'_>) -> Result<()> {
        self.line.clear();
        if self.context.voice.json {
            record.ls(&mut self.line);
            self.line.push(b'\n');
            return self.out.write(&self.line);
        }
        let full = self.args.recursive || self.args.directory || self.args.deleted;
        let name =
            if full { record.path } else { record.path.rsplit(|b| *b == b'/').next().unwrap_or(record.path) };
        let mut text = printable(&escape(name));
        if record.state == NameState::Deleted {
            text.push_str(" (deleted)");
        }
        if !self.args.long {
            return self.out.line(&text);
        }
        if let Some(target) = record.target {
            text.push_str(" -> ");
            text.push_str(&printable(&escape(target)));
        }
        self.out.line(&format!("{} {text}", self.columns(record.node)))
    }

    /// What stands before the name: as in `ls -ln --time-style=full-iso`.
    fn columns(&self, node: &Node) -> String {
        let size = match node.rdev {
            Some((major, minor)) => format!("{major}, {minor}"),
            None if self.args.human_readable => size(node.size),
            None => node.size.to_string(),
        };
        let time = node.mtime.map_or("-".to_string(), rfc3339);
        format!(
            "{} {:>3} {:>5} {:>5} {size:>10} {time:<30}",
            permissions(node),
            node.nlink,
            node.uid,
            node.gid
        )
    }
}

/// `-rwxr-xr-x`, with setuid, setgid and sticky as `ls` shows them.
pub fn permissions(node: &Node) -> String {
    let bit = |bit: u16| node.mode & bit != 0;
    let mut text = String::from(node.kind.letter());
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        text.push(if bit(0o4 << shift) { 'r' } else { '-' });
        text.push(if bit(0o2 << shift) { 'w' } else { '-' });
        text.push(match (bit(0o1 << shift), bit(special)) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
