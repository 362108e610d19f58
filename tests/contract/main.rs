//! The laws of DESIGN section 2 for every source. Each area adds its own with `support::laws::laws`.
#![cfg(feature = "internals")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod block;
mod ext4;
mod images;
mod nbd;
