//! Names and metadata, as `ls` shows them.

use super::record::{Extras, Record};
use crate::error::{Error, Result};
use crate::fs::walk::Step;
use crate::fs::{Entry, FileType, NameState, Node, Spot};
use crate::permit::Act;
use crate::stack::{Guest, View};

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// Directories below the one that was named.
    pub recursive: bool,
    /// The path itself, not what is in it.
    pub itself: bool,
    /// What is deleted, instead of what is there: orphans, under `/$OrphanFiles/`.
    pub deleted: bool,
}

/// One thing to show.
pub enum Item<'i> {
    /// A name with its metadata.
    Entry {
        /// Its path and metadata.
        record: Record<'i>,
        /// How many directories below the start it lies; the start itself is at 0.
        depth: usize,
    },
    /// A name whose metadata cannot be read.
    Unreadable {
        /// The absolute path.
        path: &'i [u8],
        /// The node that the directory names.
        spot: Spot<'i>,
        /// The type that the directory gives.
        kind: FileType,
        /// Why not.
        error: Error,
    },
    /// A part of a directory that cannot be read.
    Gap {
        /// The directory.
        path: &'i [u8],
        /// Why not.
        error: Error,
    },
    /// A path that the permit does not cover.
    Refused {
        /// The absolute path.
        path: &'i [u8],
    },
}

/// How a listing shows its items; an error ends it.
pub type Visit<'v> = dyn FnMut(Item<'_>) -> Result<()> + 'v;

/// Entries of one directory that are sorted by name; in a larger directory they come as they lie.
const SORTED_MAX: usize = 100_000;

/// Lists `path`: a directory's entries sorted by name, or the one file. With [`Listing::recursive`] everything below, in the order
/// in which it lies. The last link of `path` is followed where it leads to a directory.
pub fn list<A: Act>(view: &View<A>, path: &[u8], how: Listing, visit: &mut Visit<'_>) -> Result<()> {
    let guest = &view.guest();
    if how.deleted {
        return orphans(guest, visit);
    }
    let found = guest.resolve(path, !how.itself)?;
    if how.recursive {
        return recursive(guest, found.spot, &found.path, visit);
    }
    if found.node.kind != FileType::Dir || how.itself {
        return entry(&found.path, 0, found.spot, NameState::Live, FileType::Unknown, Ok(found.node), visit);
    }
    let (entries, problems) = directory(found.spot)?;
    for Entry { name, id, kind, state } in entries {
        guest.effort().check()?;
        let mut path = if found.path == b"/" { Vec::new() } else { found.path.clone() };
        path.push(b'/');
        path.extend_from_slice(&name);
        if !guest.covers(&path) {
            visit(Item::Refused { path: &path })?;
            continue;
        }
        let spot = guest.seen(&path, Spot { id, ..found.spot });
        entry(&path, 1, spot, state, kind, spot.fs.node(spot.id), visit)?;
    }
    for error in problems {
        visit(Item::Gap { path: &found.path, error })?;
    }
    Ok(())
}

/// All metadata of one name: `visit` gets its record and what else it has. The last link is followed if `follow` is set.
pub fn stat<A: Act>(
    view: &View<A>,
    path: &[u8],
    follow: bool,
    visit: &mut dyn FnMut(&Record<'_>, &Extras) -> Result<()>,
) -> Result<()> {
    let found = view.guest().resolve(path, follow)?;
    let extras = Extras::read(found.spot, &found.node);
    let target = extras.target.as_deref();
    visit(&Record { path: &found.path, state: NameState::Live, node: &found.node, target }, &extras)
}

/// The entries of a directory, and what of it cannot be read.
fn directory(dir: Spot<'_>) -> Result<(Vec<Entry>, Vec<Error>)> {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for item in dir.fs.entries(dir.id)? {
        match item {
            Ok(entry) => entries.push(entry),
            Err(error) => problems.push(error),
        }
    }
    if entries.len() <= SORTED_MAX {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok((entries, problems))
}

fn recursive(guest: &Guest<'_>, spot: Spot<'_>, path: &[u8], visit: &mut Visit<'_>) -> Result<()> {
    let mut walk = guest.walk(spot, path);
    loop {
        let covered = match walk.next()? {
            None => return Ok(()),
            Some(Step::Gap { path, error, .. }) => {
                visit(Item::Gap { path, error })?;
                true
            }
            Some(Step::Entry { path, depth, spot, state, kind, node }) => {
                let covered = guest.covers(path);
                if covered {
                    entry(path, depth, spot, state, kind, node, visit)?;
                } else {
                    visit(Item::Refused { path })?;
                }
                covered
            }
        };
        if !covered {
            walk.skip();
        }
    }
}

fn entry(
    path: &[u8],
    depth: usize,
    spot: Spot<'_>,
    state: NameState,
    kind: FileType,
    node: Result<Node>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let node = match node {
        Ok(node) => node,
        Err(error) => return visit(Item::Unreadable { path, spot, kind, error }),
    };
    let target = match node.kind {
        FileType::Symlink => match spot.fs.link(spot.id) {
            Ok(target) => Some(target),
            Err(error) => {
                visit(Item::Gap { path, error: error.context("target") })?;
                None
            }
        },
        _ => None,
    };
    visit(Item::Entry { record: Record { path, state, node: &node, target: target.as_deref() }, depth })
}

/// Files that were deleted while they were open: whole, and without a name. They are shown as sleuthkit shows them.
fn orphans(guest: &Guest<'_>, visit: &mut Visit<'_>) -> Result<()> {
    let root = guest.root();
    for id in root.fs.orphans()? {
        guest.effort().check()?;
        let path = format!("/$OrphanFiles/OrphanFile-{}", id.ino).into_bytes();
        if guest.covers(&path) {
            let spot = Spot { id, ..root };
            entry(&path, 1, spot, NameState::Deleted, FileType::Unknown, spot.fs.node(id), visit)?;
        } else {
            visit(Item::Refused { path: &path })?;
        }
    }
    Ok(())
}
