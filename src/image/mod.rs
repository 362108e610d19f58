//! Floor 2: one image file is one layer. A layer says what it refers to; it opens nothing.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod qcow2;
pub mod raw;

use crate::block::{BlockSource, How, Source};
use crate::error::{Error, Result};

/// One image file as one layer of a disk. Answers for itself alone: what it does not hold is [`Here::Below`].
pub trait Layer: Send + Sync {
    /// The file that holds its tables.
    fn file(&self) -> &Source;

    /// The size of the disk that it describes, in bytes; any number, not only multiples of a cluster.
    fn size(&self) -> u64;

    /// The stretch at `offset` (below [`Layer::size`], else an error) and how long it goes on. Looks no further
    /// than about `want` bytes, so that a small read costs little. A damaged table is [`Here::Lost`], no error.
    fn map(&self, offset: u64, want: u64) -> Result<Mapped<'_>>;

    /// Unpacks a whole compressed cluster into `out`, which has [`Packed::unpacked`] bytes.
    fn unpack(&self, packed: &Packed, out: &mut [u8]) -> Result<()>;
}

/// A stretch of a layer.
#[derive(Debug)]
pub struct Mapped<'a> {
    /// Bytes from the offset asked for; never 0, and never past the layer's size.
    pub len: u64,
    /// What is there.
    pub here: Here<'a>,
}

/// What a layer has at an offset.
#[derive(Debug)]
pub enum Here<'a> {
    /// The same bytes at `offset` of `source`: the image file or its external data file.
    File {
        /// Which file.
        source: &'a dyn BlockSource,
        /// Where in it.
        offset: u64,
    },
    /// A compressed cluster.
    Packed(Packed),
    /// Zeros, whatever lies below.
    Zero {
        /// Where the host cluster lies that is kept for it, if one is.
        kept: Option<u64>,
    },
    /// Not here: ask the next layer, or it is a hole.
    Below {
        /// Where the host cluster lies that is kept for it, if one is (extended L2 entries alone have these).
        kept: Option<u64>,
    },
    /// Nothing can be said: a damaged table, or data past the end of the file. Never guessed to be zeros.
    Lost(Error),
}

/// A compressed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Where the compressed bytes start in [`Layer::file`].
    pub offset: u64,
    /// How many bytes at most they take there; never past the end of the file.
    pub len: u64,
    /// Where in the disk the unpacked cluster starts.
    pub start: u64,
    /// How many bytes it unpacks to; the last one of a disk may reach past its end.
    pub unpacked: u64,
    /// By what it was packed.
    pub how: How,
}
