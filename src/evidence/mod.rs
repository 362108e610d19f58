//! Floor 7: what is carried away.
