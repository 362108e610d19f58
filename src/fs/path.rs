//! From a path to a node: components, `.` and `..`, symbolic links. Written once for every filesystem.

use super::{FileType, Node, Spot, Tree};
use crate::error::{Error, Result};

/// Symbolic links followed in one path, as in the kernel (`MAXSYMLINKS`, include/linux/namei.h).
const LINKS_MAX: usize = 40;

/// The longest target that is followed, in bytes: the kernel's `PATH_MAX`.
const TARGET_MAX: usize = 4096;

/// What a path leads to.
#[derive(Debug)]
pub struct Resolved<'a> {
    /// The absolute path without `.`, `..` and links (the last one aside, when it is not followed); `/` for the root.
    pub path: Vec<u8>,
    /// The node.
    pub spot: Spot<'a>,
    /// Its metadata.
    pub node: Node,
}

/// Resolves `path` from the root of `tree`; a path without a leading slash starts there too. `..` at the root stays at the
/// root, and so does every symbolic link: no path leaves the tree. The last component is followed if `follow` is set or the
/// path ends in a slash (then it has to be a directory).
///
/// NotFound if a sound directory lacks a name or a component is not a directory; Corrupt for more than 40 links.
pub fn resolve<'a>(tree: &Tree<'a>, path: &[u8], follow: bool) -> Result<Resolved<'a>> {
    let must_be_dir = path.ends_with(b"/") || path.ends_with(b"/.") || path.ends_with(b"/..");
    let mut pending = components(path);
    let mut links = 0_usize;
    // The way down: each directory with the length of its path, so that `..` goes back the way it came.
    let root = tree.seen(b"/", tree.root());
    let root_node = root.fs.node(root.id)?;
    let mut way: Vec<(Spot<'a>, Node, usize)> = Vec::new();
    let mut here = (root, root_node);
    let mut text: Vec<u8> = Vec::new();
    while let Some(name) = pending.pop() {
        if here.1.kind != FileType::Dir {
            return Err(Error::not_found(format!("{} is not a directory", show(&text))));
        }
        if name == b".." {
            if let Some((spot, node, len)) = way.pop() {
                here = (spot, node);
                text.truncate(len);
            }
            continue;
        }
        let parent_len = text.len();
        text.push(b'/');
        text.extend_from_slice(&name);
        let entry = here
            .0
            .fs
            .lookup(here.0.id, &name)?
            .ok_or_else(|| Error::not_found(format!("{}: no such file or directory", show(&text))))?;
        let spot = tree.seen(&text, Spot { id: entry.id, ..here.0 });
        let node = spot.fs.node(spot.id).map_err(|error| error.context(show(&text)))?;
        let last = pending.is_empty();
        if node.kind == FileType::Symlink && (!last || follow || must_be_dir) {
            links = links.saturating_add(1);
            if links > LINKS_MAX {
                return Err(Error::corrupt(format!(
                    "{}: more than {LINKS_MAX} symbolic links in one path",
                    show(path)
                )));
            }
            let target = spot.fs.link(spot.id).map_err(|error| error.context(show(&text)))?;
            if target.is_empty() || target.len() > TARGET_MAX {
                return Err(Error::corrupt(format!(
                    "{}: a symbolic link with a target of {} bytes",
                    show(&text),
                    target.len()
                )));
            }
            text.truncate(parent_len);
            if target.starts_with(b"/") {
                way.clear();
                text.clear();
                here = (root, root.fs.node(root.id)?);
            }
            pending.extend(components(&target));
            continue;
        }
        way.push((here.0, here.1, parent_len));
        here = (spot, node);
    }
    if must_be_dir && here.1.kind != FileType::Dir {
        return Err(Error::not_found(format!("{} is not a directory", show(&text))));
    }
    if text.is_empty() {
        text.push(b'/');
    }
    Ok(Resolved { path: text, spot: here.0, node: here.1 })
}

/// The components of `path`, the first one last; without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect();
    parts.reverse();
    parts
}

/// `path` as it stands in messages.
fn show(path: &[u8]) -> std::borrow::Cow<'_, str> {
    if path.is_empty() { "/".into() } else { crate::bytes::escape(path) }
}
