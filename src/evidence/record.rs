//! One file as JSON: the object of `ls`, and what `stat` and the manifest add to it.

use super::acl;
use super::json::{self, Json};
use crate::block::{Locate, Source, State, trace};
use crate::error::{Error, Result};
use crate::fs::{Attribute, FileType, InodeState, NameState, Node, Spot, Stream};

/// A name and what is behind it.
pub struct Record<'r> {
    /// The absolute path.
    pub path: &'r [u8],
    /// Whether the name is in use.
    pub state: NameState,
    /// The metadata.
    pub node: &'r Node,
    /// Where a symbolic link points.
    pub target: Option<&'r [u8]>,
}

impl Record<'_> {
    /// The object of `ls` and `find` at the end of `out`, without a newline.
    pub fn ls(&self, out: &mut Vec<u8>) {
        let mut json = Json::object(out);
        self.members(&mut json);
        json.end();
    }

    /// The members of that object.
    pub fn members(&self, json: &mut Json<'_>) {
        let node = self.node;
        json.path("path", self.path);
        json.word("type", node.kind.word());
        if node.id.tree != 0 {
            json.number("tree", node.id.tree);
        }
        json.number("inode", node.id.ino);
        let digit = |shift: u16| b'0' + (node.mode >> shift & 7) as u8;
        json.key("mode").extend_from_slice(&[b'"', digit(9), digit(6), digit(3), digit(0), b'"']);
        json.number("nlink", node.nlink.into());
        json.number("uid", node.uid.into());
        json.number("gid", node.gid.into());
        json.number("size", node.size);
        json.time("atime", node.atime);
        json.time("mtime", node.mtime);
        json.time("ctime", node.ctime);
        json.time("crtime", node.crtime);
        json.time("dtime", node.dtime);
        match self.target {
            Some(target) => json.path("target", target),
            None => json.null("target"),
        }
        match node.rdev {
            Some((major, minor)) => {
                let out = json.key("rdev");
                out.push(b'"');
                json::decimal(out, major.into());
                out.push(b':');
                json::decimal(out, minor.into());
                out.push(b'"');
            }
            None => json.null("rdev"),
        }
        json.word("name_state", name_state(self.state));
        json.word("inode_state", inode_state(node.state));
    }
}

/// The word in JSON.
pub fn name_state(state: NameState) -> &'static str {
    match state {
        NameState::Live => "live",
        NameState::Deleted => "deleted",
    }
}

/// The word in JSON.
pub fn inode_state(state: InodeState) -> &'static str {
    match state {
        InodeState::Live => "live",
        InodeState::Orphan => "orphan",
        InodeState::Deleted => "deleted",
    }
}

/// The object of an entry whose node cannot be read, at the end of `out`: its path, its type as the directory has it, the error.
pub fn unreadable(out: &mut Vec<u8>, path: &[u8], spot: &Spot<'_>, kind: FileType, error: &Error) {
    let mut json = Json::object(out);
    json.path("path", path);
    json.word("type", kind.word());
    json.number("inode", spot.id.ino);
    json.text("error", &error.to_string());
    json.end();
}

/// What a node has beside its metadata.
pub struct Extras {
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
    /// Extended attributes.
    pub attributes: Vec<Attribute>,
    /// The content of a regular file. Crate-private: who may list may not read.
    pub(crate) content: Option<Source>,
    /// What could not be read of these, a sentence each.
    pub problems: Vec<Error>,
}

impl Extras {
    /// Reads them; what fails is in `problems`.
    pub fn read(spot: Spot<'_>, node: &Node) -> Self {
        let mut problems = Vec::new();
        let target = match node.kind {
            FileType::Symlink => keep(&mut problems, "target", spot.fs.link(spot.id)),
            _ => None,
        };
        let attributes =
            keep(&mut problems, "extended attributes", spot.fs.attributes(spot.id)).unwrap_or_default();
        let content = match node.kind {
            FileType::File => keep(&mut problems, "content", spot.fs.open(spot.id, Stream::Content)),
            _ => None,
        };
        Self { target, attributes, content, problems }
    }

    /// Where the content lies, run by run, down to the host files, in order, until `visit` fails. None is read.
    pub fn runs(&self, visit: &mut dyn FnMut(trace::Leaf) -> Result<()>) -> Result<()> {
        match &self.content {
            Some(content) => trace::walk(&**content, 0..content.len(), visit),
            None => Ok(()),
        }
    }

    /// What `stat` adds to the object of `ls`. At most `runs` runs are listed; if there are more, `runs_complete` is false.
    pub fn members(&self, node: &Node, runs: usize, json: &mut Json<'_>) {
        let out = json.key("xattrs");
        let mut xattrs = Json::object(out);
        for attribute in &self.attributes {
            let name = crate::bytes::escape(&attribute.name);
            // A name from the disk may hold anything, so it is written as a string and not as a key of ours.
            let out = xattrs.raw_key();
            json::string(out, &name);
            out.push(b':');
            json::base64(out, &attribute.value);
        }
        xattrs.end();
        match node.kind {
            FileType::Symlink => json.null("acl"),
            _ => match acl::text(node, &self.attributes) {
                Ok(text) => json.text("acl", &text),
                Err(error) => {
                    json.null("acl");
                    json.text("acl_error", &error.to_string());
                }
            },
        }
        json.list("flags", &node.flags, |out, flag| json::string(out, flag));
        match node.generation {
            Some(generation) => json.number("generation", generation),
            None => json.null("generation"),
        }
        match &self.content {
            Some(content) => {
                let complete = list_runs(content, runs, json.key("runs"));
                json.flag("runs_complete", complete);
            }
            None => json.key("runs").extend_from_slice(b"[]"),
        }
        if !self.problems.is_empty() {
            json.list("problems", &self.problems, |out, error| json::string(out, &error.to_string()));
        }
    }
}

fn keep<T>(problems: &mut Vec<Error>, what: &str, result: Result<T>) -> Option<T> {
    result.map_err(|error| problems.push(error.context(what))).ok()
}

/// The runs of `source` as an array: `{start, length, state, trail}`, and `how` and `inputs` where the bytes are made. Neighbours
/// that go on in every coordinate system are one run. Gives whether the list is whole.
fn list_runs(source: &Source, max: usize, out: &mut Vec<u8>) -> bool {
    out.push(b'[');
    let (mut offset, mut count) = (0, 0);
    let mut open: Option<trace::Leaf> = None;
    let mut complete = true;
    while offset < source.len() {
        let leaf = match trace::step(&**source, offset, source.len() - offset) {
            Ok(leaf) if leaf.len > 0 => leaf,
            _ => {
                complete = false;
                break;
            }
        };
        offset = offset.saturating_add(leaf.len);
        match &mut open {
            Some(before) if follows(before, &leaf) => before.len = before.len.saturating_add(leaf.len),
            _ => {
                if let Some(done) = open.replace(leaf) {
                    run(out, &done, &mut count);
                }
                if count >= max {
                    complete = false;
                    break;
                }
            }
        }
    }
    if let Some(done) = open.filter(|_| count < max) {
        run(out, &done, &mut count);
    }
    out.push(b']');
    complete
}

/// Whether `next` goes on where `leaf` ends, in every coordinate system.
fn follows(leaf: &trace::Leaf, next: &trace::Leaf) -> bool {
    leaf.state == next.state
        && leaf.how.is_none()
        && next.how.is_none()
        && leaf.trail.len() == next.trail.len()
        && leaf
            .trail
            .iter()
            .zip(&next.trail)
            .all(|(a, b)| a.source == b.source && a.offset.checked_add(leaf.len) == Some(b.offset))
}

fn run(out: &mut Vec<u8>, leaf: &trace::Leaf, count: &mut usize) {
    if *count > 0 {
        out.push(b',');
    }
    *count += 1;
    let mut json = Json::object(out);
    json.number("start", leaf.start);
    json.number("length", leaf.len);
    json.word("state", run_state(leaf.state));
    // The first place is the file itself.
    json.list("trail", leaf.trail.iter().skip(1), |out, place| {
        let mut json = Json::object(out);
        json.text("image", &place.source);
        json.number("offset", place.offset);
        json.end();
    });
    if let Some(how) = leaf.how {
        let how = match how {
            crate::block::How::Compressed(name) => format!("compressed: {name}"),
            crate::block::How::Encrypted(name) => format!("encrypted: {name}"),
            crate::block::How::Parity => "parity".into(),
        };
        json.text("how", &how);
        json.list("inputs", &leaf.inputs, |out, (source, range)| {
            let mut json = Json::object(out);
            json.text("image", source);
            json.number("offset", range.start);
            json.number("length", range.end.saturating_sub(range.start));
            json.end();
        });
    }
    json.end();
}

/// The word in JSON.
pub fn run_state(state: State) -> &'static str {
    match state {
        State::Data => "data",
        State::Zero => "zero",
        State::Hole => "hole",
        State::Lost => "lost",
    }
}

/// Runs that `stat` lists at most: a file of as many pieces still has its line.
pub const STAT_RUNS: usize = 1 << 16;

/// The object of `stat` for a name, at the end of `out`, without a newline. What could not be read is in `problems` there.
pub fn stat(out: &mut Vec<u8>, record: &Record<'_>, extras: &Extras) {
    let mut json = Json::object(out);
    record.members(&mut json);
    extras.members(record.node, STAT_RUNS, &mut json);
    json.end();
}

/// An error with its place in the file's content, for gaps.
pub fn located(error: Error, source: &Source, offset: u64) -> Error {
    error.found_at(&**source, offset)
}
