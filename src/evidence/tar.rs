//! Files out of a guest as a tar stream, with everything that a tar can carry.
//!
//! The form is pax (POSIX.1-2001): modes, owners, nanoseconds, `SCHILY.xattr.*`, `SCHILY.acl.*` and `RHT.security.selinux` as
//! GNU tar and star write them, sparse files in GNU's form 1.0. `tar --xattrs --acls` restores all of it.

mod header;
mod sparse;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::copy::{Piece, sink_error, stream, zeros};
use super::hash::{Allowance, Hasher, NOT_HASHED, SparseHasher};
use super::image::create;
use super::json::Json;
use super::manifest::{Lines, Outcome, Stored, now, summary};
use super::record::{Extras, Record};
use super::sink::tar_name;
use super::tour::{Met, tour};
use crate::block::Source;
use crate::error::{Error, Result};
use crate::fs::{FileType, NameState, Node, NodeId};
use crate::permit::Content;
use crate::stack::{Guest, View};
use header::{Member, What};

/// Bytes spent on remembering files with several names; beyond that a further name is a further copy.
const LINKS_BYTES: usize = 8 << 20;

/// The size of a record of the stream, as tar(1) pads it.
const RECORD: u64 = 10240;

/// Runs that a line of the manifest lists at most.
const RUNS: usize = 256;

/// Writes everything at and below `paths` to `out` as a pax tar, and if there is somewhere to write it a manifest as
/// [`super::extract::to_dir`] does; `output` is the name in the tar. Sockets have no form in a tar and are in the manifest
/// alone. A closed pipe is an error like any other.
pub fn to_tar<A: Content>(
    view: &View<A>,
    paths: &[&[u8]],
    out: &mut dyn Write,
    manifest: Option<Box<dyn Write + Send>>,
    about: &dyn Fn() -> Map<String, Value>,
) -> Result<Outcome> {
    guest_to_tar(&view.guest(), paths, out, manifest, about)
}

/// Writes the tar to the new file `to` and the manifest to another beside it, [`manifest_path`]. If the run ends early, what there
/// is of both stays; the manifest then has no summary.
pub fn to_file<A: Content>(
    view: &View<A>,
    paths: &[&[u8]],
    to: &Path,
    about: &dyn Fn() -> Map<String, Value>,
) -> Result<Outcome> {
    let mut tar = create(to)?;
    let manifest = create(&manifest_path(to))?;
    let twin = manifest.try_clone().map_err(sink_error)?;
    let outcome = to_tar(view, paths, &mut tar, Some(Box::new(manifest)), about)?;
    twin.sync_all().map_err(sink_error)?;
    Ok(outcome)
}

/// `FILE.manifest.jsonl`.
pub fn manifest_path(tar: &Path) -> PathBuf {
    let mut name = tar.as_os_str().to_os_string();
    name.push(".manifest.jsonl");
    name.into()
}

fn guest_to_tar(
    guest: &Guest<'_>,
    paths: &[&[u8]],
    out: &mut dyn Write,
    manifest: Option<Box<dyn Write + Send>>,
    about: &dyn Fn() -> Map<String, Value>,
) -> Result<Outcome> {
    let started = now();
    let archive = std::cell::RefCell::new(Archive {
        guest,
        out: Counted { out: BufWriter::with_capacity(256 << 10, out), written: 0 },
        lines: manifest.map(Lines::new),
        outcome: Outcome::default(),
        allowance: Allowance::new(guest.size()),
        links: HashMap::new(),
        links_bytes: 0,
        scratch: Vec::new(),
    });
    tour(guest, paths, &mut |met| archive.borrow_mut().member(&met), &mut |left| {
        let mut archive = archive.borrow_mut();
        let count = if left.refused { &mut archive.outcome.refused } else { &mut archive.outcome.gaps };
        *count += 1;
        archive.line(left.line)
    })?;
    let mut archive = archive.into_inner();
    archive.out.end()?;
    let outcome = archive.outcome;
    if let Some(mut lines) = archive.lines {
        lines.push(&summary(&outcome, &about(), started))?;
        lines.flush()?;
    }
    Ok(outcome)
}

struct Counted<'o> {
    out: BufWriter<&'o mut dyn Write>,
    written: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(sink_error)
    }

    /// Zeros up to a multiple of `unit`.
    fn pad(&mut self, unit: u64) -> Result<()> {
        zeros(self.written.next_multiple_of(unit) - self.written, |part| self.put(part))
    }

    fn end(&mut self) -> Result<()> {
        self.put(&[0; 1024])?;
        self.pad(RECORD)?;
        self.out.flush().map_err(sink_error)
    }
}

struct Archive<'r, 'a, 'o> {
    guest: &'r Guest<'a>,
    out: Counted<'o>,
    lines: Option<Lines>,
    outcome: Outcome,
    allowance: Allowance,
    /// Nodes with names still to come: how many, and what was stored.
    links: HashMap<(u32, NodeId), (u32, Stored)>,
    links_bytes: usize,
    scratch: Vec<u8>,
}

impl Archive<'_, '_, '_> {
    fn line(&mut self, mut line: Vec<u8>) -> Result<()> {
        line.push(b'\n');
        self.lines.as_mut().map_or(Ok(()), |lines| lines.push(&line))
    }

    fn member(&mut self, met: &Met<'_, '_>) -> Result<()> {
        let Met { path, spot, node } = *met;
        let mut extras = Extras::read(spot, node);
        let name = tar_name(path, node.kind == FileType::Dir);
        self.outcome.files += 1;
        let content_failed = node.kind == FileType::File && extras.content.is_none();
        self.outcome.gaps += extras.problems.len().saturating_sub(usize::from(content_failed)) as u64;
        if let Some((names, stored)) = self.links.get_mut(&spot.key()) {
            *names -= 1;
            let (last, stored) = (*names == 0, stored.clone());
            if last {
                self.links.remove(&spot.key());
                self.links_bytes = self.links_bytes.saturating_sub(cost(&stored));
            }
            if let Some(first) = &stored.output {
                let member =
                    Member { name: &name, link: first, node, extras: &extras, what: What::Hardlink, size: 0 };
                self.out.put(&member.header())?;
            }
            return self.record(path, node, &extras, &stored);
        }
        let target = extras.target.clone().unwrap_or_default();
        let plain = |what| Member { name: &name, link: &target, node, extras: &extras, what, size: 0 };
        let stored = match node.kind {
            FileType::File => {
                let content = extras.content.take();
                let stored = match &content {
                    Some(content) => self.file(&name, node, &extras, content)?,
                    None => Stored::unread(node.size, &extras.problems),
                };
                extras.content = content;
                stored
            }
            FileType::Socket | FileType::Unknown => {
                Stored { note: Some("a tar has no form for this"), ..Stored::default() }
            }
            FileType::Symlink if extras.target.is_none() => Stored::default(),
            kind => {
                let header = plain(What::of(kind)).header();
                self.out.put(&header)?;
                Stored { output: Some(name.clone()), ..Stored::default() }
            }
        };
        self.outcome.gaps += stored.gaps.len() as u64;
        let names = node.nlink.saturating_sub(1);
        let several = names > 0 && node.kind != FileType::Dir && stored.output.is_some();
        if several && self.links_bytes < LINKS_BYTES {
            self.links_bytes += cost(&stored);
            self.links.insert(spot.key(), (names, stored.clone()));
        }
        self.record(path, node, &extras, &stored)
    }

    fn record(&mut self, path: &[u8], node: &Node, extras: &Extras, stored: &Stored) -> Result<()> {
        if self.lines.is_none() {
            return Ok(());
        }
        let mut line = Vec::new();
        let mut json = Json::object(&mut line);
        let target = extras.target.as_deref();
        Record { path, state: NameState::Live, node, target }.members(&mut json);
        extras.members(node, RUNS, &mut json);
        stored.members(&mut json);
        json.end();
        self.line(line)
    }

    /// A regular file: header, map if it has holes, content.
    fn file(&mut self, name: &[u8], node: &Node, extras: &Extras, content: &Source) -> Result<Stored> {
        let effort = self.guest.effort();
        let len = content.len();
        let map = sparse::Map::of(content);
        let text = map.as_ref().map(sparse::Map::text).unwrap_or_default();
        let size = text.len() as u64 + map.as_ref().map_or(len, sparse::Map::data_len);
        let what = if map.is_some() { What::Sparse(len) } else { What::File };
        let member = Member { name, link: b"", node, extras, what, size };
        self.out.put(&member.header())?;
        self.out.put(&text)?;
        let hash = self.allowance.take(len);
        let (mut hasher, mut sparse) = (Hasher::default(), SparseHasher::default());
        let out = &mut self.out;
        let begin = out.written;
        let mut in_order = |piece: &Piece<'_>| {
            match (piece.data, &map) {
                (Some(data), _) => out.put(data)?,
                (None, Some(map)) if !map.holds(piece.start) => {}
                (None, _) => zeros(piece.len, |part| {
                    effort.check()?;
                    out.put(part)
                })?,
            }
            if hash { hasher.piece(piece, effort) } else { sparse.piece(piece) }
        };
        let gaps = stream(&**content, effort, &mut self.scratch, &|_| Ok(()), &mut in_order)?;
        if self.out.written - begin != size - text.len() as u64 {
            return Err(Error::corrupt("a file's holes changed while it was read; the tar is not usable"));
        }
        self.out.pad(512)?;
        self.outcome.bytes = self.outcome.bytes.saturating_add(len);
        let mut stored = Stored { output: Some(name.to_vec()), gaps, ..Stored::default() };
        if hash {
            stored.sum = Some(hasher.finish());
        } else {
            stored.sparse = Some(sparse.finish(len));
            stored.note = Some(NOT_HASHED);
            self.outcome.gaps += 1;
        }
        Ok(stored)
    }
}

fn cost(stored: &Stored) -> usize {
    256 + stored.output.as_ref().map_or(0, Vec::len) + stored.gaps.len() * 128
}
