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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "numbers of the test's own")]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::fs::FileSystem;
    use crate::fs::fake::{Body, Fake};

    fn sample() -> Fake {
        let mut fake = Fake::new();
        fake.add(2, b"etc", 10, Body::Dir(vec![]));
        fake.file(10, b"passwd", 11, b"root");
        fake.add(2, b"var", 20, Body::Dir(vec![]));
        for (i, (name, target)) in [
            (&b"up"[..], &b"../../../etc/passwd"[..]),
            (b"abs", b"/etc"),
            (b"chain", b"abs/passwd"),
            (b"loop", b"loop"),
            (b"dangling", b"/nowhere"),
            (b"rel", b"./../etc/./"),
        ]
        .into_iter()
        .enumerate()
        {
            fake.add(20, name, 30 + i as u64, Body::Link(target.to_vec()));
        }
        fake
    }

    fn path(fake: &Fake, path: &[u8], follow: bool) -> Result<String> {
        let tree = Tree::new(fake);
        resolve(&tree, path, follow).map(|r| String::from_utf8(r.path).unwrap())
    }

    #[test]
    fn paths_resolve_and_never_leave_the_root() {
        let fake = sample();
        for (asked, follow, got) in [
            ("/", true, "/"),
            ("", true, "/"),
            ("../../..", true, "/"),
            ("etc/passwd", false, "/etc/passwd"),
            ("//etc/./../etc//passwd", false, "/etc/passwd"),
            ("/var/up", true, "/etc/passwd"),
            ("/var/up", false, "/var/up"),
            ("/var/abs/passwd", false, "/etc/passwd"),
            ("/var/abs", false, "/var/abs"),
            ("/var/abs/", false, "/etc"),
            ("/var/abs/..", false, "/"),
            ("/var/chain", true, "/etc/passwd"),
            ("/var/rel/../etc", true, "/etc"),
        ] {
            assert_eq!(path(&fake, asked.as_bytes(), follow).unwrap(), got, "{asked}");
        }
        for (asked, kind) in [
            ("/var/loop", Kind::Corrupt),
            ("/var/dangling", Kind::NotFound),
            ("/etc/shadow", Kind::NotFound),
            ("/etc/passwd/x", Kind::NotFound),
            ("/etc/passwd/", Kind::NotFound),
            ("/etc/passwd/..", Kind::NotFound),
        ] {
            assert_eq!(path(&fake, asked.as_bytes(), true).unwrap_err().kind(), kind, "{asked}");
        }
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let mut fake = sample();
        for i in 0..60_u64 {
            let target = if i == 0 { "/etc/passwd".to_string() } else { format!("/l{}", i - 1) };
            fake.add(2, format!("l{i}").as_bytes(), 100 + i, Body::Link(target.into_bytes()));
        }
        assert_eq!(path(&fake, b"/l39", true).unwrap(), "/etc/passwd");
        assert_eq!(path(&fake, b"/l40", true).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_mount_is_entered_and_left_through_its_own_name() {
        let (mut outer, mut inner) = (sample(), Fake::new());
        outer.file(10, b"hidden", 12, b"");
        inner.file(2, b"seen", 11, b"");
        inner.add(2, b"out", 12, Body::Link(b"/var".to_vec()));
        inner.add(2, b"back", 13, Body::Link(b"../var".to_vec()));
        let tree = Tree::new(&outer).mount(b"/etc", &inner, inner.root());
        let get = |path: &[u8]| resolve(&tree, path, true).map(|r| (r.path, r.spot.mount, r.spot.id.ino));
        assert_eq!(get(b"/etc/seen").unwrap(), (b"/etc/seen".to_vec(), 1, 11));
        assert!(get(b"/etc/hidden").is_err());
        assert_eq!(get(b"/var/abs/seen").unwrap(), (b"/etc/seen".to_vec(), 1, 11));
        assert_eq!(get(b"/etc/out").unwrap(), (b"/var".to_vec(), 0, 20));
        assert_eq!(get(b"/etc/back").unwrap(), (b"/var".to_vec(), 0, 20));
        assert_eq!(get(b"/etc/..").unwrap().1, 0);
    }
}
