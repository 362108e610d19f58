//! Bytes that somebody made to hurt. Each test runs in a child process with little memory and little time: no panic,
//! no hang, no more than 256 MiB, whatever the bytes.
//!
//! A new format is a module here: seeds that its own tools make, and a function that reads them in every way
//! there is. `harness::mutate` does the rest.
#![cfg(feature = "internals")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod ext4;
mod ext4_crafted;
mod harness;
mod journal;
mod nbd;
mod qcow2;
mod volumes;
