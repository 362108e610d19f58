//! Floor 7: what is carried away.
//!
//! Every verb takes a [`guest::Guest`] (a tree under a permit) and callbacks or outputs; nothing here prints.

pub mod acl;
mod chunks;
mod copy;
pub mod extract;
pub mod guest;
pub mod hash;
pub mod json;
pub mod manifest;
pub mod record;
mod sink;
