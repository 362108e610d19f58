//! Files by what is known of them, with the predicates of find(1).

mod predicate;

pub use predicate::{Amount, Perm, Size, Timestamp, glob, kinds, regex};

use regex::bytes::Regex;

use super::list::{Item, Visit};
use super::record::Record;
use super::tour::{Left, Met, tour};
use crate::error::Result;
use crate::fs::{FileType, NameState, Node, Spot};
use crate::permit::Act;
use crate::stack::View;

/// What a file has to be; everything that is given has to hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Patterns of the last component ([`glob`]); each has to match.
    pub names: Vec<Regex>,
    /// An expression for the whole path ([`regex()`]).
    pub path: Option<Regex>,
    /// One of these types ([`kinds`]).
    pub kinds: Vec<FileType>,
    /// The size.
    pub size: Option<Size>,
    /// Content changed after this.
    pub newer: Option<Timestamp>,
    /// Content changed before this.
    pub older: Option<Timestamp>,
    /// The owner's number.
    pub uid: Option<Amount>,
    /// The group's number.
    pub gid: Option<Amount>,
    /// Permission bits.
    pub perm: Option<Perm>,
    /// A pattern of an extended attribute's name ([`glob`]); one has to match.
    pub xattr: Option<Regex>,
}

impl Query {
    /// Whether a file is what is looked for. Attributes are read last, and only if they are asked for.
    fn holds(&self, path: &[u8], spot: Spot<'_>, node: &Node) -> Result<bool> {
        let name = match path.iter().rposition(|b| *b == b'/') {
            Some(at) if path.len() > 1 => &path[at + 1..],
            _ => path,
        };
        let mtime = |holds: &dyn Fn(crate::fs::Time) -> bool| node.mtime.is_some_and(holds);
        let known = self.names.iter().all(|pattern| pattern.is_match(name))
            && self.path.as_ref().is_none_or(|path_is| path_is.is_match(path))
            && (self.kinds.is_empty() || self.kinds.contains(&node.kind))
            && self.size.is_none_or(|size| size.holds(node.size))
            && self.newer.is_none_or(|than| mtime(&|time| time > than.0))
            && self.older.is_none_or(|than| mtime(&|time| time < than.0))
            && self.uid.is_none_or(|uid| uid.holds(node.uid.into()))
            && self.gid.is_none_or(|gid| gid.holds(node.gid.into()))
            && self.perm.is_none_or(|perm| perm.holds(node.mode));
        match &self.xattr {
            Some(pattern) if known => {
                let attributes = spot.fs.attributes(spot.id)?;
                Ok(attributes.iter().any(|attribute| pattern.is_match(&attribute.name)))
            }
            _ => Ok(known),
        }
    }
}

/// Gives `visit` everything at and below `path` for which `query` holds, and what could not be read or is not covered.
pub fn find<A: Act>(view: &View<A>, path: &[u8], query: &Query, visit: &mut Visit<'_>) -> Result<()> {
    let guest = view.guest();
    let visit = std::cell::RefCell::new(visit);
    tour(
        &guest,
        &[path],
        &mut |Met { path, spot, node }| {
            let visit = &mut *visit.borrow_mut();
            match query.holds(path, spot, node) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error) => return visit(Item::Gap { path, error: error.context("extended attributes") }),
            }
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
            let record = Record { path, state: NameState::Live, node, target: target.as_deref() };
            visit(Item::Entry { record, depth: 0 })
        },
        &mut |Left { path, refused, error, .. }| {
            let visit = &mut *visit.borrow_mut();
            if refused { visit(Item::Refused { path }) } else { visit(Item::Gap { path, error }) }
        },
    )
}
