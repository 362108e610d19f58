//! Floor 7: what is carried away.
//!
//! Every verb takes a [`View`](crate::stack::View), which holds the permit, and callbacks or outputs; nothing here prints.

pub mod acl;
pub mod cat;
pub mod chunks;
mod copy;
pub mod digest;
pub mod export;
pub mod extract;
pub mod find;
pub mod hash;
pub mod image;
pub mod json;
pub mod list;
pub mod manifest;
pub mod record;
mod sink;
pub mod tar;
mod tour;
pub mod verify;
