//! Floor 8: by whose leave, and the record of it.
