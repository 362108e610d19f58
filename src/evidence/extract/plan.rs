//! The walk: what is there, what of it may be taken, and in which directory it goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::{BATCH_BYTES, BATCH_NAMES, Batch, Job, Key, Run, Wanted, What};
use crate::error::{Error, Kind, Result};
use crate::evidence::chunks::Gap;
use crate::evidence::hash::Allowance;
use crate::evidence::json::Json;
use crate::evidence::manifest::gaps;
use crate::evidence::record::unreadable;
use crate::evidence::sink::{Dir, join};
use crate::fs::path::Resolved;
use crate::fs::walk::Step;
use crate::fs::{FileType, NameState, Node, Spot};

/// Bytes spent on remembering files with several names. Beyond that, a further name is a further copy.
const LINKS_BYTES: usize = 8 << 20;

/// Directories that are kept open.
const OPEN_DIRS: usize = 128;

pub(super) struct Plan<'r, 'a> {
    run: &'r Run<'a>,
    sender: SyncSender<Batch<'a>>,
    batch: Vec<Job<'a>>,
    bytes: u64,
    number: u64,
    allowance: Allowance,
    /// Files with names still to come: how many.
    links: HashMap<Key, u32>,
    links_bytes: usize,
    /// Output paths of the directories above what was asked for, by their guest paths.
    parents: HashMap<Vec<u8>, Vec<u8>>,
    dirs: Vec<Held>,
}

/// A directory of the output that is being filled.
struct Held {
    /// Its own name there; for the first one the whole path.
    name: Vec<u8>,
    dir: Option<Arc<Dir>>,
}

impl<'r, 'a> Plan<'r, 'a> {
    pub fn new(run: &'r Run<'a>, sender: SyncSender<Batch<'a>>) -> Result<Self> {
        let files = run.sink.dir(run.sink.top(), b"files")?;
        Ok(Self {
            run,
            sender,
            batch: Vec::new(),
            bytes: 0,
            number: 0,
            allowance: Allowance::new(run.guest.size()),
            links: HashMap::new(),
            links_bytes: 0,
            parents: HashMap::from([(Vec::new(), files.path().to_vec())]),
            dirs: Vec::new(),
        })
    }

    /// Everything that was asked for.
    pub fn all(&mut self, wanted: Wanted<'a>) -> Result<()> {
        for (path, error) in wanted.missing {
            let refused = error.kind() == Kind::Refused;
            self.line(&path, refused, |json| {
                if refused {
                    json.flag("refused", true);
                }
                json.text("error", &error.to_string());
                if !refused {
                    gaps(json, &[Gap { start: 0, len: 0, error: error.to_string() }]);
                }
            })?;
        }
        for resolved in wanted.found {
            self.tree(&resolved)?;
        }
        self.send()
    }

    fn tree(&mut self, start: &Resolved<'a>) -> Result<()> {
        self.dirs.clear();
        let cut = start.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let parent =
            if self.run.guest.covers(&start.path) { self.parent(&start.path[..cut])? } else { Vec::new() };
        let mut walk = self.run.guest.walk(start.spot, &start.path);
        while let Some(step) = walk.next()? {
            if self.run.is_stopped() {
                break;
            }
            match step {
                Step::Gap { path, spot, error } => self.gap(path, spot, &error)?,
                Step::Entry { path, depth, spot, state, kind, node } => {
                    if !self.run.guest.covers(path) {
                        self.line(path, true, |json| {
                            json.word("type", kind.word());
                            json.flag("refused", true);
                            json.text("error", "not covered by the approval");
                        })?;
                        walk.skip();
                        continue;
                    }
                    match node {
                        Ok(node) => {
                            if depth == 0 {
                                let root = Held { name: parent.clone(), dir: None };
                                self.dirs.push(root);
                            }
                            self.entry(path, depth, spot, state, node)?;
                        }
                        Err(error) => self.unreadable(path, spot, kind, &error)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The output directory for what lies directly in the guest's directory `path`; made with those above it if it is not there.
    fn parent(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        if let Some(output) = self.parents.get(path) {
            return Ok(output.clone());
        }
        let mut output = self.parents.get(&b""[..]).cloned().unwrap_or_default();
        let mut end = 0;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            end += 1 + part.len();
            let key = &path[..end.min(path.len())];
            output = if let Some(output) = self.parents.get(key) {
                output.clone()
            } else {
                let above = self.run.sink.reopen(&output)?;
                let made = self.run.sink.dir(&above, part)?.path().to_vec();
                self.parents.insert(key.to_vec(), made.clone());
                made
            };
        }
        Ok(output)
    }

    fn entry(
        &mut self,
        path: &[u8],
        depth: usize,
        spot: Spot<'a>,
        state: NameState,
        node: Node,
    ) -> Result<()> {
        // The first directory held is the one above the start.
        self.dirs.truncate(depth + 1);
        let name = &path[path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1)..];
        let (what, bytes) = match node.kind {
            FileType::Dir if state == NameState::Live => {
                let output = self.enter(name)?;
                (What::Record { spot, node, state, output: Some(output) }, 0)
            }
            FileType::File if state == NameState::Live => self.file(path, spot, node)?,
            _ => (What::Record { spot, node, state, output: None }, 0),
        };
        self.push(Job { path: path.to_vec(), what }, bytes)
    }

    fn file(&mut self, path: &[u8], spot: Spot<'a>, node: Node) -> Result<(What<'a>, u64)> {
        let key = spot.key();
        if let Some(names) = self.links.get_mut(&key) {
            *names -= 1;
            if *names == 0 {
                self.links.remove(&key);
                self.links_bytes = self.links_bytes.saturating_sub(link_cost(path));
            }
            return Ok((What::Link { spot, node }, 0));
        }
        let mut names = node.nlink.saturating_sub(1);
        if names > 0 && self.links_bytes < LINKS_BYTES {
            self.links_bytes += link_cost(path);
            self.links.insert(key, names);
        } else {
            names = 0;
        }
        let (dir, hash, size) = (self.current()?, self.allowance.take(node.size), node.size);
        Ok((What::Copy { spot, node, dir, hash, names }, size))
    }

    /// The output directory that is being filled.
    fn current(&mut self) -> Result<Arc<Dir>> {
        let at = self.dirs.len().saturating_sub(1);
        if let Some(dir) = self.dirs.get(at).and_then(|held| held.dir.clone()) {
            return Ok(dir);
        }
        let path = self.dirs.iter().fold(Vec::new(), |path, held| join(&path, &held.name));
        let dir = self.run.sink.reopen(&path)?;
        if let Some(held) = self.dirs.get_mut(at) {
            held.dir = Some(Arc::clone(&dir));
        }
        Ok(dir)
    }

    /// Makes a directory in the current one and goes there; gives its path in the output.
    fn enter(&mut self, name: &[u8]) -> Result<Vec<u8>> {
        // The guest's root is `files` itself.
        if name.is_empty() {
            let dir = self.current()?;
            let output = dir.path().to_vec();
            self.dirs.push(Held { name: Vec::new(), dir: Some(dir) });
            return Ok(output);
        }
        let parent = self.current()?;
        let dir = self.run.sink.dir(&parent, name)?;
        let output = dir.path().to_vec();
        let own = output[output.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1)..].to_vec();
        self.dirs.push(Held { name: own, dir: Some(dir) });
        if let Some(far) = self.dirs.len().checked_sub(OPEN_DIRS + 1) {
            self.dirs[far].dir = None;
        }
        Ok(output)
    }

    fn gap(&mut self, path: &[u8], spot: Spot<'_>, error: &Error) -> Result<()> {
        self.line(path, false, |json| {
            json.word("type", FileType::Dir.word());
            json.number("inode", spot.id.ino);
            json.text("error", &error.to_string());
            gaps(json, &[Gap { start: 0, len: 0, error: error.to_string() }]);
        })
    }

    fn unreadable(&mut self, path: &[u8], spot: Spot<'_>, kind: FileType, error: &Error) -> Result<()> {
        let mut line = Vec::new();
        unreadable(&mut line, path, &spot, kind, error);
        self.push(Job { path: path.to_vec(), what: What::Line { line, refused: false } }, 0)
    }

    fn line(&mut self, path: &[u8], refused: bool, members: impl FnOnce(&mut Json<'_>)) -> Result<()> {
        let mut line = Vec::new();
        let mut json = Json::object(&mut line);
        json.path("path", path);
        members(&mut json);
        json.end();
        let what = What::Line { line, refused };
        self.push(Job { path: path.to_vec(), what }, 0)
    }

    fn push(&mut self, job: Job<'a>, bytes: u64) -> Result<()> {
        // The lines of what is finished soon are not to wait for a large file.
        if bytes >= BATCH_BYTES {
            self.send()?;
        }
        self.batch.push(job);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.batch.len() >= BATCH_NAMES || self.bytes >= BATCH_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let jobs = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let batch = Batch { number: self.number, jobs };
        self.number += 1;
        self.sender
            .send(batch)
            .map_err(|_| Error::new(crate::error::Kind::Io, "the copying threads are gone"))
    }
}

fn link_cost(path: &[u8]) -> usize {
    path.len() + 256
}
