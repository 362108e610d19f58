//! Nodes that were deleted while open: the list through `i_dtime`, and the orphan file.

use std::collections::BTreeSet;

/// The inodes that are marked for deletion or truncation.
pub(super) type Orphans = BTreeSet<u32>;
