//! coldread: the command line.

fn main() {}
