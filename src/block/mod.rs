//! Floor 1: bytes at offsets.
//!
//! Everything that holds bytes, from the host file to a guest's file, is a [`BlockSource`]: it reads at an offset,
//! and it says of every range where the bytes come from. Nothing here has a cursor and nothing here can write.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod cache;
pub mod file;
pub mod join;
pub mod locks;
pub mod memory;
pub mod nbd;
pub mod overlay;
pub mod slice;
pub mod trace;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Place, Result};

/// A shared source.
pub type Source = Arc<dyn BlockSource>;

/// Bytes at offsets. Never a cursor, never a write.
pub trait BlockSource: Send + Sync {
    /// What errors and traces call it: `p1`, `disk`, a path.
    fn name(&self) -> &Arc<str>;

    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills all of `buf` or fails; never short. A failure carries the unreadable range in this source's
    /// coordinates where it is known, so that nobody has to bisect around a gap.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The run that starts at `offset`, one level down. Never empty, never past the end; an `offset` at or past the end
    /// is an error. No allocation per call on the common ways.
    fn run_at(&self, offset: u64) -> Result<Run<'_>>;
}

/// A stretch of a source that has one state and one origin.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Bytes from the offset asked for; never 0.
    pub len: u64,
    /// What a read gives.
    pub state: State,
    /// Where the bytes come from.
    pub origin: Origin<'a>,
}

/// What reading a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Bytes.
    Data,
    /// Zeros that somebody asked for: zero clusters, unwritten extents.
    Zero,
    /// Zeros because nothing was ever put there.
    Hole,
    /// Nothing: the read fails and says why.
    Lost,
}

impl State {
    /// Whether a read gives zeros without looking.
    pub fn reads_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Hole)
    }
}

/// Where a run's bytes come from.
#[derive(Clone, Debug)]
pub enum Origin<'a> {
    /// The same bytes, one level down.
    At {
        /// The source one level down.
        source: &'a dyn BlockSource,
        /// Where in it.
        offset: u64,
    },
    /// Made of these bytes and no others.
    From {
        /// All that the bytes depend on.
        inputs: Inputs<'a>,
        /// By which transformation.
        how: How,
    },
    /// Made here: zeros, replayed records, inline data.
    Own,
}

/// The inputs of a transformation.
#[derive(Clone, Debug)]
pub enum Inputs<'a> {
    /// The usual case, without an allocation.
    One(Extent<'a>),
    /// Parity, erasure: several.
    Many(Vec<Extent<'a>>),
}

impl<'a> Inputs<'a> {
    /// The inputs one by one.
    pub fn as_slice(&self) -> &[Extent<'a>] {
        match self {
            Self::One(extent) => std::slice::from_ref(extent),
            Self::Many(extents) => extents,
        }
    }
}

/// A range of a source.
#[derive(Clone)]
pub struct Extent<'a> {
    /// The source.
    pub source: &'a dyn BlockSource,
    /// Bytes of it.
    pub range: Range<u64>,
}

impl std::fmt::Debug for Extent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{:#x}..{:#x}]", self.source.name(), self.range.start, self.range.end)
    }
}

impl std::fmt::Debug for dyn BlockSource + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name(), self.len())
    }
}

/// A transformation between the inputs of a run and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// Compressed by this algorithm (`deflate`, `zstd`, `zlib`, `lzo`); the run may start in the middle of what unpacks.
    Compressed(&'static str),
    /// Encrypted by this cipher.
    Encrypted(&'static str),
    /// Computed from parity.
    Parity,
}

impl<'a> Run<'a> {
    /// Bytes that lie in `source` at `offset`.
    pub fn at(len: u64, source: &'a dyn BlockSource, offset: u64) -> Self {
        Self { len, state: State::Data, origin: Origin::At { source, offset } }
    }

    /// A run made here.
    pub fn own(len: u64, state: State) -> Self {
        Self { len, state, origin: Origin::Own }
    }

    /// The same run, at most `len` bytes of it.
    #[must_use]
    pub fn clip(mut self, len: u64) -> Self {
        self.len = self.len.min(len);
        self
    }
}

/// Checks that `offset..offset + len` lies in `source`; gives the end.
pub fn within(source: &dyn BlockSource, offset: u64, len: u64) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= source.len()).ok_or_else(|| {
        Error::corrupt(format!(
            "{len} bytes at {offset:#x} reach past the end of {} at {:#x}",
            source.name(),
            source.len()
        ))
    })
}

/// Reads `len` bytes at `offset` into a fresh buffer. `len` is checked against the source before anything is allocated.
pub fn read_vec(source: &dyn BlockSource, offset: u64, len: usize) -> Result<Vec<u8>> {
    within(source, offset, len as u64)?;
    let mut out = vec![0; len];
    source.read_at(offset, &mut out)?;
    Ok(out)
}

/// Reads `N` bytes at `offset`.
pub fn read_array<const N: usize>(source: &dyn BlockSource, offset: u64) -> Result<[u8; N]> {
    within(source, offset, N as u64)?;
    let mut out = [0; N];
    source.read_at(offset, &mut out)?;
    Ok(out)
}

/// `offset` of `source` in every coordinate system down to the host file, innermost first.
pub fn site(source: &dyn BlockSource, offset: u64) -> Vec<Place> {
    trace::step(source, offset, 1).map(|leaf| leaf.trail).unwrap_or_default()
}

/// Adds to errors where their bytes lie, in every coordinate system.
pub trait Locate {
    /// The error happened over the bytes at `offset` of `source`.
    #[must_use]
    fn found_at(self, source: &dyn BlockSource, offset: u64) -> Self;
}

impl Locate for Error {
    fn found_at(self, source: &dyn BlockSource, offset: u64) -> Self {
        if self.site().is_empty() { self.with_site(site(source, offset)) } else { self }
    }
}

impl<T> Locate for Result<T> {
    fn found_at(self, source: &dyn BlockSource, offset: u64) -> Self {
        self.map_err(|error| error.found_at(source, offset))
    }
}
