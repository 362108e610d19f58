//! Content of one file, to wherever the caller wants it.

use std::io::Write;
use std::sync::Arc;

use super::chunks::Gap;
use super::copy::{Piece, sink_error, stream, zeros};
use crate::block::slice::Slice;
use crate::error::{Error, Result};
use crate::fs::{FileType, Stream};
use crate::permit::Content;
use crate::stack::{Source, View};

/// Which bytes of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// The first one.
    pub offset: u64,
    /// How many; all that follow if there is no number, and fewer where the file ends before.
    pub length: Option<u64>,
}

/// Writes bytes of the regular file that `path` leads to, links followed. Gives what could not be read, in the file's coordinates; in
/// the output there are zeros. An `offset` past the end is an error.
pub fn cat<A: Content>(view: &View<A>, path: &[u8], part: Part, out: &mut dyn Write) -> Result<Vec<Gap>> {
    let guest = view.guest();
    let found = guest.resolve(path, true)?;
    let shown = crate::bytes::escape(&found.path).into_owned();
    if found.node.kind != FileType::File {
        let kind = found.node.kind.word();
        return Err(Error::usage(format!("{shown} is no regular file but a {kind}")));
    }
    let content = found.spot.fs.open(found.spot.id, Stream::Content)?;
    let left = content.len().checked_sub(part.offset).ok_or_else(|| {
        Error::usage(format!("{shown} has {} bytes; offset {} is past its end", content.len(), part.offset))
    })?;
    let len = part.length.unwrap_or(left).min(left);
    let whole = part.offset == 0 && len == content.len();
    let name = Arc::clone(content.name());
    let content: Source =
        if whole { content } else { Arc::new(Slice::new(name, content, part.offset, len)?) };
    let effort = guest.effort();
    let mut gaps =
        stream(&*content, effort, &mut Vec::new(), &|_| Ok(()), &mut |piece: &Piece<'_>| match piece.data {
            Some(data) => out.write_all(data).map_err(sink_error),
            None => zeros(piece.len, |part| {
                effort.check()?;
                out.write_all(part).map_err(sink_error)
            }),
        })?;
    out.flush().map_err(sink_error)?;
    for gap in &mut gaps {
        gap.start = gap.start.saturating_add(part.offset);
    }
    Ok(gaps)
}
