//! Floor 3: layers become one disk.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
