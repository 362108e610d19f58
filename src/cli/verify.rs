//! `verify`: re-reads what was extracted against its manifest.

use std::path::PathBuf;

use coldread::error::Result;

use super::Context;
use super::out::Exit;
