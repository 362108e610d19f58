//! The live instance: suspended, read and resumed, whatever happens in between.

mod overview;

pub use overview::{Row, overview};
