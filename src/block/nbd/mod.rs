//! The network block device protocol over Unix sockets: the client is a source, and the wire is shared with the server
//! of floor 7.
//!
//! Layouts and rules are those of the NBD project's `doc/proto.md`: fixed newstyle negotiation, structured replies, the
//! metadata context `base:allocation`. The server on the other side is not trusted: it may be a QEMU that runs a
//! hostile guest.

pub mod chunk;
pub mod client;
pub mod flight;
pub mod negotiate;
pub mod status;
pub mod wire;

pub use client::Client;
