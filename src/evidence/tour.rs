//! Everything at and below the paths that were asked for, as far as the permit goes.

use super::chunks::Gap;
use super::extract::wanted;
use super::json::Json;
use super::manifest::gaps;
use super::record::unreadable;
use crate::error::{Error, Result};
use crate::fs::walk::Step;
use crate::fs::{FileType, NameState, Node, Spot};
use crate::stack::Guest;

/// A name that can be dealt with.
pub struct Met<'m, 'a> {
    /// The absolute path.
    pub path: &'m [u8],
    /// The node.
    pub spot: Spot<'a>,
    /// Its metadata.
    pub node: &'m Node,
}

/// What cannot be dealt with, and its line in a manifest.
pub struct Left<'m> {
    /// The absolute path.
    pub path: &'m [u8],
    /// Whether the permit does not cover it; else it is a gap.
    pub refused: bool,
    /// The line, without its newline.
    pub line: Vec<u8>,
    /// Why.
    pub error: Error,
}

/// Walks. `met` gets every name that is in use, `left` what is refused or unreadable. An error of theirs ends it.
pub fn tour<'a>(
    guest: &Guest<'a>,
    paths: &[&[u8]],
    met: &mut dyn FnMut(Met<'_, 'a>) -> Result<()>,
    left: &mut dyn FnMut(Left<'_>) -> Result<()>,
) -> Result<()> {
    let wanted = wanted(guest, paths)?;
    for (path, error) in wanted.missing {
        let refused = error.kind() == crate::error::Kind::Refused;
        let line = gap_line(&path, None, refused, &error);
        left(Left { path: &path, refused, line, error })?;
    }
    for start in wanted.found {
        let mut walk = guest.walk(start.spot, &start.path);
        loop {
            let mut skip = false;
            match walk.next()? {
                None => break,
                Some(Step::Gap { path, spot, error }) => {
                    let line = gap_line(path, Some(spot), false, &error);
                    left(Left { path, refused: false, line, error })?;
                }
                Some(Step::Entry { path, .. }) if !guest.covers(path) => {
                    let error = Error::refused("not covered by the approval");
                    let line = gap_line(path, None, true, &error);
                    left(Left { path, refused: true, line, error })?;
                    skip = true;
                }
                Some(Step::Entry { path, spot, state, kind, node, .. }) => match node {
                    Ok(node) if state == NameState::Live => met(Met { path, spot, node: &node })?,
                    Ok(_) => {}
                    Err(error) => {
                        let mut line = Vec::new();
                        unreadable(&mut line, path, &spot, kind, &error);
                        left(Left { path, refused: false, line, error })?;
                    }
                },
            }
            if skip {
                walk.skip();
            }
        }
    }
    Ok(())
}

fn gap_line(path: &[u8], dir: Option<Spot<'_>>, refused: bool, error: &Error) -> Vec<u8> {
    let mut line = Vec::new();
    let mut json = Json::object(&mut line);
    json.path("path", path);
    if let Some(spot) = dir {
        json.word("type", FileType::Dir.word());
        json.number("inode", spot.id.ino);
    }
    if refused {
        json.flag("refused", true);
    }
    json.text("error", &error.to_string());
    if !refused {
        gaps(&mut json, &[Gap { start: 0, len: 0, error: error.to_string() }]);
    }
    json.end();
    line
}
