//! `find`: files by name, type, size, time, owner, mode and attribute.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use coldread::error::Result;
use coldread::evidence::find::{self, Amount, Perm, Query, Size, Timestamp};
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

    /// Where to start
    #[arg(value_name = "PATH", default_value = "/")]
    path: OsString,

    /// A pattern of the name: `*.log`
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,

    /// As --name, upper and lower case equal
    #[arg(long, value_name = "GLOB")]
    iname: Option<String>,

    /// A regular expression for the whole path
    #[arg(long, value_name = "RE")]
    regex: Option<String>,

    /// Types by find's letters, separated by commas: f, d, l, c, b, p, s
    #[arg(long = "type", value_name = "T")]
    kind: Option<String>,

    /// The size: `N`, `+N` or `-N`, with c, k, M, G, as for find
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<Size>,

    /// Content changed after this: a date, RFC 3339, or @seconds
    #[arg(long, value_name = "TIME")]
    newer: Option<Timestamp>,

    /// Content changed before this
    #[arg(long, value_name = "TIME")]
    older: Option<Timestamp>,

    /// The owner's number
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    uid: Option<Amount>,

    /// The group's number
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    gid: Option<Amount>,

    /// Permission bits: `644` exactly, `-4000` all of them, `/022` any of them
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    perm: Option<Perm>,

    /// A pattern of an extended attribute's name
    #[arg(long, value_name = "GLOB")]
    xattr: Option<String>,

    /// As `ls -l`
    #[arg(short, long)]
    long: bool,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let query = self.query()?;
        let path = self.path.clone().into_vec();
        let act =
            Act { command: "find", verbs: vec![Verb::List], paths: vec![path.clone()], whole_disk: false };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let shape = Shape { long: self.long, human: false, full: true, top: true };
            let mut lines = Lines::new(context, shape);
            let found = opened.view::<List, _>(context, |view| {
                find::find(view, &path, &query, &mut |item| lines.item(item))
            });
            done.results.insert("entries".into(), lines.entries().into());
            found?;
            lines.end()
        })
    }

    fn query(&self) -> Result<Query> {
        let glob = |pattern: &Option<String>, fold| {
            pattern.iter().map(|p| find::glob(p, fold)).collect::<Result<Vec<_>>>()
        };
        Ok(Query {
            names: [glob(&self.name, false)?, glob(&self.iname, true)?].concat(),
            path: self.regex.as_deref().map(find::regex).transpose()?,
            kinds: self.kind.as_deref().map(find::kinds).transpose()?.unwrap_or_default(),
            size: self.size,
            newer: self.newer,
            older: self.older,
            uid: self.uid,
            gid: self.gid,
            perm: self.perm,
            xattr: self.xattr.as_deref().map(|p| find::glob(p, false)).transpose()?,
        })
    }
}
