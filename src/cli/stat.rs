//! `stat`: all metadata of files, and where their bytes lie.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;

use coldread::bytes::escape;
use coldread::error::Result;
use coldread::evidence::record::{self, Extras, Record};
use coldread::evidence::{acl, list};
use coldread::permit::{List, Verb};
use coldread::stack::{Leaf, Time, View};

use super::Context;
use super::act::{self, Act};
use super::leave::LeaveOptions;
use super::listing::permissions;
use super::out::{Exit, Stdout, printable, rfc3339};
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// The files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,

    /// Follow a link at the end of the path
    #[arg(short = 'L', long)]
    dereference: bool,

    #[command(flatten)]
    leave: LeaveOptions,
}

/// Runs that are shown to people; JSON has more.
const RUNS_SHOWN: usize = 32;

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let paths: Vec<Vec<u8>> = self.paths.iter().map(|path| path.clone().into_vec()).collect();
        let act = Act { command: "stat", verbs: vec![Verb::List], paths: paths.clone(), whole_disk: false };
        act::run(context, &self.source, &self.leave, act, |opened, _| {
            opened.view::<List, _>(context, |view| self.show(view, &paths, context))
        })
    }

    fn show(&self, view: &View<List>, paths: &[Vec<u8>], context: &Context) -> Result<Exit> {
        let mut out = Stdout::lock();
        let mut exit = Exit::Complete;
        let mut shown = 0;
        for path in paths {
            let visit = &mut |record: &Record<'_>, extras: &Extras| {
                shown += 1;
                for problem in &extras.problems {
                    exit = exit.and(Exit::of_part(problem));
                    context.voice.error(problem);
                }
                if context.voice.json {
                    let mut line = Vec::new();
                    record::stat(&mut line, record, extras);
                    line.push(b'\n');
                    return out.write(&line);
                }
                out.line(&text(record, extras)?)
            };
            if let Err(error) = list::stat(view, path, self.dereference, visit) {
                if paths.len() == 1 {
                    return Err(error);
                }
                exit = exit.and(Exit::of_part(&error));
                context.voice.error(&error);
            }
        }
        out.end()?;
        Ok(if shown == 0 { exit.and(Exit::Failed) } else { exit })
    }
}

fn text(record: &Record<'_>, extras: &Extras) -> Result<String> {
    let node = record.node;
    let time = |time: Option<Time>| time.map_or("-".to_string(), rfc3339);
    let mut text = format!("  File: {}", printable(&escape(record.path)));
    if let Some(target) = record.target {
        let _ = write!(text, " -> {}", printable(&escape(target)));
    }
    let _ = write!(
        text,
        "\n  Type: {}  Size: {}  Inode: {}  Links: {}",
        node.kind.word(),
        node.size,
        node.id.ino,
        node.nlink
    );
    if let Some((major, minor)) = node.rdev {
        let _ = write!(text, "  Device: {major}:{minor}");
    }
    let _ = write!(
        text,
        "\n  Mode: {:04o} {}  Uid: {}  Gid: {}",
        node.mode,
        permissions(node),
        node.uid,
        node.gid
    );
    if !node.flags.is_empty() {
        let _ = write!(text, "\n Flags: {}", node.flags.join(" "));
    }
    let _ = write!(
        text,
        "\nAccess: {}\nModify: {}\nChange: {}",
        time(node.atime),
        time(node.mtime),
        time(node.ctime)
    );
    let _ = write!(text, "\n Birth: {}", time(node.crtime));
    if node.dtime.is_some() {
        let _ = write!(text, "\nDelete: {}", time(node.dtime));
    }
    for attribute in &extras.attributes {
        let _ = write!(
            text,
            "\n Xattr: {}={}",
            printable(&escape(&attribute.name)),
            printable(&escape(&attribute.value))
        );
    }
    if let Ok(acl) = acl::text(node, &extras.attributes) {
        for line in acl.lines().filter(|line| !line.is_empty()) {
            let _ = write!(text, "\n   ACL: {line}");
        }
    }
    let mut runs = 0;
    extras.runs(&mut |leaf| {
        runs += 1;
        if runs <= RUNS_SHOWN {
            let _ = write!(text, "\n   Run: {}", run(&leaf));
        }
        Ok(())
    })?;
    if runs > RUNS_SHOWN {
        let _ = write!(text, "\n   Run: {} more (--json lists them)", runs - RUNS_SHOWN);
    }
    Ok(text)
}

/// `0+4096 data = p1+0x8000 = disk+0x108000 = /…/disk+0x58000`
fn run(leaf: &Leaf) -> String {
    let mut text = format!("{}+{} {}", leaf.start, leaf.len, record::run_state(leaf.state));
    for place in leaf.trail.iter().skip(1) {
        let _ = write!(text, " = {}+{:#x}", printable(&place.source), place.offset);
    }
    if let Some((source, range)) = leaf.inputs.first() {
        let _ = write!(
            text,
            " from {}+{:#x} ({} bytes)",
            printable(source),
            range.start,
            range.end - range.start
        );
    }
    text
}
