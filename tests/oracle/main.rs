//! What coldread reads against what other programs read: the kernel, QEMU, the filesystems' own tools.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod corpus;
mod evidence;
mod ext4;
mod gate;
mod images;
mod journal;
mod locks;
mod nbd_client;
mod nbd_server;
mod qemu_nbd;
mod volumes;
