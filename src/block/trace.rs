//! Follows runs down to the host files. The only place that composes them.

use std::ops::Range;
use std::sync::Arc;

use super::{BlockSource, How, Origin, Run, State};
use crate::error::{Error, Place, Result};

/// A stretch of a source, followed all the way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it starts in the source that was traced.
    pub start: u64,
    /// Its length in bytes; never 0.
    pub len: u64,
    /// What a read gives.
    pub state: State,
    /// One place in every coordinate system, the traced source first. It ends at the host file, or where the bytes are
    /// made: there `how` says by what, and `inputs` of what.
    pub trail: Vec<Place>,
    /// The transformation at which the trail ends, if it ends at one.
    pub how: Option<How>,
    /// The inputs of that transformation: in which source, which bytes.
    pub inputs: Vec<(Arc<str>, Range<u64>)>,
}

/// Levels beyond which a stack of sources is taken for a mistake.
const DEPTH_MAX: usize = 512;

/// Follows `offset` of `source` down, for at most `max` bytes.
pub fn step(source: &dyn BlockSource, offset: u64, max: u64) -> Result<Leaf> {
    let mut trail = Vec::with_capacity(6);
    let (mut here, mut at, mut len) = (source, offset, max);
    for _ in 0..DEPTH_MAX {
        let run = here.run_at(at)?;
        // A replayed journal or a cache keeps the name and the coordinates of what it covers.
        if trail.last().is_none_or(|last: &Place| last.offset != at || last.source != *here.name()) {
            trail.push(Place { source: Arc::clone(here.name()), offset: at });
        }
        len = len.min(run.len);
        match run.origin {
            Origin::At { source: below, offset: there } => (here, at) = (below, there),
            Origin::From { inputs, how } => {
                let inputs = inputs
                    .as_slice()
                    .iter()
                    .map(|e| (Arc::clone(e.source.name()), e.range.clone()))
                    .collect();
                return Ok(Leaf { start: offset, len, state: run.state, trail, how: Some(how), inputs });
            }
            Origin::Own => {
                return Ok(Leaf {
                    start: offset,
                    len,
                    state: run.state,
                    trail,
                    how: None,
                    inputs: Vec::new(),
                });
            }
        }
    }
    Err(Error::unsupported(format!("{}: more than {DEPTH_MAX} sources on top of each other", source.name())))
}

/// Follows all of `range` down, leaf by leaf, until `visit` fails.
pub fn walk(
    source: &dyn BlockSource,
    range: Range<u64>,
    visit: &mut dyn FnMut(Leaf) -> Result<()>,
) -> Result<()> {
    let (mut offset, end) = (range.start, range.end.min(source.len()));
    while offset < end {
        let leaf = step(source, offset, end.saturating_sub(offset))?;
        offset = offset.saturating_add(leaf.len);
        visit(leaf)?;
    }
    Ok(())
}

/// The state and length of the run at `offset` as seen from the host files: a hole of the host file below a data run
/// is a hole here too. Without allocation.
pub fn state_at(source: &dyn BlockSource, offset: u64) -> Result<(State, u64)> {
    let (mut here, mut at, mut len) = (source, offset, u64::MAX);
    for _ in 0..DEPTH_MAX {
        let Run { len: here_len, state, origin } = here.run_at(at)?;
        len = len.min(here_len);
        match origin {
            Origin::At { source: below, offset: there } if state == State::Data => {
                (here, at) = (below, there);
            }
            _ => return Ok((state, len)),
        }
    }
    Err(Error::unsupported(format!("{}: more than {DEPTH_MAX} sources on top of each other", source.name())))
}
