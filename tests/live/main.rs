//! A real guest under libvirt and QEMU, read while it runs: one guest, its cases one after the other.
//!
//! The readers are processes of their own (`driver`), so that they can be killed; virsh runs for them through `hook.sh`, which
//! can hold it before any command, so that they can be killed at any step. Nothing in the product knows of that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test, with a main of its own")]

mod driver;
mod guest;
mod kills;
mod reader;
mod sequences;
#[path = "../support/mod.rs"]
mod support;
mod trouble;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use guest::Guest;

type Case = (&'static str, fn(&Guest));

const CASES: &[&[Case]] = &[sequences::CASES, kills::CASES, trouble::CASES, sequences::LAST, trouble::LAST];

const PROGRAMS: [&str; 12] = [
    "virsh",
    "libvirtd",
    "virtlogd",
    "qemu-system-x86_64",
    "qemu-img",
    "mkfs.ext4",
    "sfdisk",
    "cpio",
    "xz",
    "nbdcopy",
    "jq",
    "mount",
];

fn main() -> ExitCode {
    driver::run_if_asked();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        if !words.iter().any(|word| word == "--ignored") {
            println!("live: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = words.iter().find(|word| !word.starts_with('-') && *word != "live");
    let cases: Vec<Case> = CASES
        .concat()
        .into_iter()
        .filter(|(name, _)| filter.is_none_or(|f| name.contains(f.as_str())))
        .collect();
    if cases.is_empty() || !support::need(&PROGRAMS) || !support::need_root() {
        return ExitCode::SUCCESS;
    }
    let guest = Guest::up();
    let mut failed = Vec::new();
    for (name, case) in cases {
        let began = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| case(&guest))).is_ok();
        println!(
            "test {name} ... {} ({:.1} s)",
            if passed { "ok" } else { "FAILED" },
            began.elapsed().as_secs_f32()
        );
        if !passed {
            failed.push(name);
            // The next case shall not suffer from this one.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let _ = guest.virsh("domjobabort", &[]);
                let _ = guest.virsh("resume", &[]);
                guest.start_again();
            }));
        }
    }
    drop(guest);
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}
