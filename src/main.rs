//! coldread: the command line. Words in, words out; what happens in between is the library's.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
