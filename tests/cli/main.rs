//! The program as its users meet it: command lines in, text, JSON, files and exit codes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(
    clippy::new_without_default,
    clippy::cast_possible_wrap,
    reason = "no interface of others; small numbers"
)]

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod nova;
mod untouched;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

/// What every act needs, as an operator would state it.
pub const LEAVE: [&str; 6] = ["--ticket", "T-1", "--approved-by", "alice", "--reason", "a test"];

/// A place where the program may write: its log goes there, and what it extracts.
pub struct Desk {
    dir: tempfile::TempDir,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// An empty one, with a policy that keeps the log in it.
    pub fn new() -> Self {
        let dir = support::temp();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let policy = format!("require = \"stated\"\n[log]\ndir = \"{}\"\n", dir.path().join("log").display());
        std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
        Self { dir }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        let mut command = support::coldread();
        command.args(args).env("COLDREAD_POLICY", self.path("policy.toml"));
        command.output().expect("coldread runs")
    }

    /// Runs it with leave.
    pub fn act(&self, args: &[&str]) -> Output {
        self.run(&[args, &LEAVE].concat())
    }

    /// Runs it with leave and `--json`; it has to exit with 0. Gives the lines.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        let out = self.act(&[&["--json"], args].concat());
        assert_eq!(code(&out), 0, "{args:?}: {}", stderr(&out));
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
    }
}

/// The exit code.
pub fn code(out: &Output) -> i32 {
    out.status.code().expect("an exit code")
}

/// Standard error as text.
pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The sample tree.
pub fn sample() -> String {
    text(&support::repository("testdata/nova/instances"))
}

/// An instance of the sample tree: 1 with the dirty journal, 2 with libvirt's XML.
pub fn sample_instance(which: u32) -> String {
    let uuid = match which {
        1 => "5d0c7c2e-8f0b-4f3d-9a51-6b1d2f3a4c01",
        _ => "9a7e1b44-2c6d-4c58-8f0e-3e5b7d9f1a02",
    };
    format!("{}/{uuid}", sample())
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_string()
}
