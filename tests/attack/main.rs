//! What somebody would try: against the log, against approvals, against the paths they name, against the report.
//! Each row of the tables is one attempt with its own message.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]
#![allow(clippy::unnecessary_debug_formatting, reason = "paths in TOML and JSON stand in quotes")]

#[path = "../support/mod.rs"]
mod support;

mod approvals;
mod crash;
mod house;
mod log;
mod report;
mod tree;
