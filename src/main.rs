//! coldread: the command line. Words in, words out; what happens in between is the library's.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
