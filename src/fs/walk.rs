//! Down a directory tree, depth first, one entry at a time. Written once for every filesystem.

use std::collections::HashMap;

use super::{Each, Entry, FileType, NameState, Node, NodeId, Spot, Tree};
use crate::effort::Effort;
use crate::error::{Error, Result};

/// Directories inside each other that are entered; `PATH_MAX` allows no more by an absolute path (`/a/a/a…`).
const DEPTH_MAX: usize = 2048;

/// What a walk meets.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum Step<'w, 'a> {
    /// A name, with the node behind it.
    Entry {
        /// The absolute path.
        path: &'w [u8],
        /// How many directories below the start it lies; the start itself is at 0.
        depth: usize,
        /// The node.
        spot: Spot<'a>,
        /// Whether the name is in use.
        state: NameState,
        /// The type that the directory gives, for when the node cannot be read.
        kind: FileType,
        /// Its metadata, or why there is none.
        node: Result<Node>,
    },
    /// Part of a directory could not be read or was not entered. What can be read of it comes all the same.
    Gap {
        /// The directory's absolute path.
        path: &'w [u8],
        /// The directory.
        spot: Spot<'a>,
        /// What is wrong there.
        error: Error,
    },
}

/// A walk: memory grows with the depth, not with the number of entries. Terminates on any disk: a directory
/// is entered once, a second way into it is a gap.
pub struct Walk<'a> {
    tree: Tree<'a>,
    effort: &'a Effort,
    path: Vec<u8>,
    frames: Vec<Frame<'a>>,
    /// What comes first, and what is entered next unless the caller says [`Walk::skip`].
    first: Option<(Spot<'a>, Result<Node>)>,
    enter: Option<Spot<'a>>,
    seen: Seen,
}

/// A path longer than this, in bytes, is not entered. Each level keeps its own.
const PATH_MAX: usize = 32 << 10;

struct Frame<'a> {
    spot: Spot<'a>,
    entries: Each<'a, Entry>,
    /// Length of the directory's path.
    path: usize,
}

impl<'a> Walk<'a> {
    /// Starts at `spot`, which lies at the absolute path `path`; the first step is `spot` itself.
    pub fn new(tree: &Tree<'a>, spot: Spot<'a>, path: &[u8], effort: &'a Effort) -> Self {
        let path = if path == b"/" { Vec::new() } else { path.to_vec() };
        Self {
            tree: tree.clone(),
            effort,
            path,
            frames: Vec::new(),
            first: Some((spot, spot.fs.node(spot.id))),
            enter: None,
            seen: Seen::default(),
        }
    }

    /// Does not enter the directory that the last step gave.
    pub fn skip(&mut self) {
        self.enter = None;
    }

    /// The next step; `None` at the end. An error is a cancelled effort and nothing else.
    #[expect(clippy::should_implement_trait, reason = "lends its path; an Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Step<'_, 'a>>> {
        self.effort.check()?;
        if let Some((spot, node)) = self.first.take() {
            let kind = node.as_ref().map_or(FileType::Unknown, |node| node.kind);
            self.enter = (kind == FileType::Dir).then_some(spot);
            return Ok(Some(self.entry(spot, NameState::Live, kind, node)));
        }
        if let Some(spot) = self.enter.take()
            && let Err(error) = self.descend(spot)
        {
            return Ok(Some(Step::Gap { path: whole(&self.path), spot, error }));
        }
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path);
            let spot = frame.spot;
            match frame.entries.next() {
                None => {
                    self.frames.pop();
                    self.effort.check()?;
                }
                Some(Err(error)) => {
                    return Ok(Some(Step::Gap { path: whole(&self.path), spot, error }));
                }
                Some(Ok(entry)) => return Ok(Some(self.step(spot, &entry))),
            }
        }
    }

    fn step(&mut self, dir: Spot<'a>, entry: &Entry) -> Step<'_, 'a> {
        self.path.push(b'/');
        self.path.extend_from_slice(&entry.name);
        let live = entry.state == NameState::Live;
        let below = Spot { id: entry.id, ..dir };
        let spot = if live { self.tree.seen(&self.path, below) } else { below };
        let node = spot.fs.node(spot.id);
        // The inode decides: what the directory says of the type may be wrong.
        let is_dir = node.as_ref().is_ok_and(|node| node.kind == FileType::Dir);
        self.enter = (live && is_dir).then_some(spot);
        self.entry(spot, entry.state, entry.kind, node)
    }

    fn entry(&self, spot: Spot<'a>, state: NameState, kind: FileType, node: Result<Node>) -> Step<'_, 'a> {
        let depth = self.frames.len();
        Step::Entry { path: whole(&self.path), depth, spot, state, kind, node }
    }

    fn descend(&mut self, spot: Spot<'a>) -> Result<()> {
        if self.frames.len() >= DEPTH_MAX || self.path.len() > PATH_MAX {
            return Err(Error::unsupported(format!(
                "more than {DEPTH_MAX} directories inside each other or a path of {PATH_MAX} bytes; what is below is left out"
            ))
            .hint("name the directory itself to start there"));
        }
        let inside_itself = self.frames.iter().any(|frame| frame.spot.key() == spot.key());
        if inside_itself || !self.seen.insert(spot)? {
            return Err(Error::corrupt(format!(
                "directory {} has a second name here{}; it is entered once",
                spot.id.ino,
                if inside_itself { ", inside itself" } else { "" }
            )));
        }
        let entries = spot.fs.entries(spot.id)?;
        self.frames.push(Frame { spot, entries, path: self.path.len() });
        Ok(())
    }
}

fn whole(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"/" } else { path }
}

/// The directories that were entered. Numbers lie close together, so they are kept as chunks of 512 bits.
#[derive(Default)]
struct Seen {
    chunks: HashMap<(u32, u64, u64), [u64; 8]>,
    beyond: u64,
}

/// Chunks kept, about 12 MiB. Only a disk with more than that many groups of directories comes beyond.
const CHUNKS_MAX: usize = 128 << 10;

/// Directories entered without memory of them, before the walk gives up on new ones.
const BEYOND_MAX: u64 = 1 << 26;

impl Seen {
    /// Whether `spot` is new.
    fn insert(&mut self, spot: Spot<'_>) -> Result<bool> {
        let NodeId { tree, ino } = spot.id;
        let key = (spot.mount, tree, ino >> 9);
        let (word, bit) = (usize::try_from(ino >> 6 & 7).unwrap_or(0), 1_u64 << (ino & 63));
        if !self.chunks.contains_key(&key) && self.chunks.len() >= CHUNKS_MAX {
            self.beyond = self.beyond.saturating_add(1);
            if self.beyond > BEYOND_MAX {
                return Err(Error::unsupported("too many directories to walk at once"));
            }
            return Ok(true);
        }
        let chunk = self.chunks.entry(key).or_default();
        let Some(word) = chunk.get_mut(word) else { return Ok(true) };
        let new = *word & bit == 0;
        *word |= bit;
        Ok(new)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "numbers of the test's own")]
mod tests {
    use super::*;
    use crate::fs::FileSystem;
    use crate::fs::fake::{Body, Fake};

    fn walked(tree: &Tree<'_>, effort: &Effort) -> Vec<String> {
        let mut walk = Walk::new(tree, tree.root(), b"/", effort);
        let mut out = Vec::new();
        while let Some(step) = walk.next().unwrap() {
            out.push(match step {
                Step::Entry { path, depth, node, spot, .. } => {
                    let mark = if node.is_ok() { "" } else { "!" };
                    format!("{}{mark} {depth} {}", String::from_utf8_lossy(path), spot.mount)
                }
                Step::Gap { path, .. } => format!("gap {}", String::from_utf8_lossy(path)),
            });
        }
        out
    }

    #[test]
    fn loops_second_names_and_damage_are_gaps_and_the_walk_goes_on() {
        let mut fake = Fake::new();
        fake.add(2, b"a", 10, Body::Dir(vec![]));
        fake.rot(2);
        fake.file(2, b"f", 11, b"");
        fake.name(2, b"gone", 999);
        fake.name(10, b"root", 2);
        fake.add(10, b"b", 12, Body::Dir(vec![]));
        fake.name(12, b"a", 10);
        fake.name(2, b"again", 12);
        let effort = Effort::default();
        let steps = walked(&Tree::new(&fake), &effort);
        let expected = [
            "/ 0 0",
            "/a 1 0",
            "/a/root 2 0",
            "gap /a/root",
            "/a/b 2 0",
            "/a/b/a 3 0",
            "gap /a/b/a",
            "gap /",
            "/f 1 0",
            "/gone! 1 0",
            "/again 1 0",
            "gap /again",
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn directories_that_share_their_children_do_not_multiply() {
        let mut fake = Fake::new();
        for i in 0..64 {
            fake.put(100 + i, Body::Dir(vec![]));
            if i > 0 {
                fake.name(99 + i, b"x", 100 + i);
                fake.name(99 + i, b"y", 100 + i);
            }
        }
        fake.name(2, b"top", 100);
        let effort = Effort::default();
        assert!(walked(&Tree::new(&fake), &effort).len() < 300);
    }

    #[test]
    fn depth_is_bounded_and_said() {
        let mut fake = Fake::new();
        let mut above = 2;
        for i in 0..5000 {
            fake.add(above, b"d", 100 + i, Body::Dir(vec![]));
            above = 100 + i;
        }
        let effort = Effort::default();
        let steps = walked(&Tree::new(&fake), &effort);
        assert!(steps.len() < 2100 && steps.last().unwrap().starts_with("gap "));
    }

    #[test]
    fn mounts_are_walked_in_place_and_a_cancelled_walk_ends() {
        let (mut outer, mut inner) = (Fake::new(), Fake::new());
        outer.add(2, b"mnt", 10, Body::Dir(vec![]));
        outer.file(10, b"hidden", 11, b"");
        inner.file(2, b"seen", 12, b"");
        let tree = Tree::new(&outer).mount(b"/mnt", &inner, inner.root());
        let effort = Effort::default();
        assert_eq!(walked(&tree, &effort), ["/ 0 0", "/mnt 1 1", "/mnt/seen 2 1"]);
        let cancelled = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let effort = Effort::new(cancelled);
        assert!(Walk::new(&tree, tree.root(), b"/", &effort).next().is_err());
    }
}
