//! The architecture as a test: a floor imports only from floors above it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules at the root of the crate and the floor they stand on.
const FLOORS: &[(&str, u32)] = &[
    ("error", 0),
    ("bytes", 0),
    ("effort", 0),
    ("permit", 0),
    ("block", 1),
    ("image", 2),
    ("chain", 3),
    ("volume", 4),
    ("fs", 5),
    ("stack", 6),
    ("evidence", 7),
    ("case", 8),
    ("host", 9),
];

fn floor(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The root modules that a file names as `crate::module`, test code left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        for part in line.split("crate::").skip(1) {
            if let Some(group) = part.strip_prefix('{') {
                found.extend(
                    group
                        .split(&[',', '}'][..])
                        .map(|m| m.split("::").next().unwrap_or("").trim().to_string()),
                );
            } else {
                found.push(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
    found
}

#[test]
fn a_floor_imports_only_from_floors_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let module = inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_string();
        let Some(here) = floor(&module) else {
            assert!(["lib", "main", "cli"].contains(&&*module), "{} stands on no floor", file.display());
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            seen += 1;
            match floor(&import) {
                Some(there) if there < here || (there == here && (import == module || here == 0)) => {}
                Some(there) => wrong
                    .push(format!("{} (floor {here}) imports {import} (floor {there})", inside.display())),
                None => wrong
                    .push(format!("{} imports crate::{import}, which stands on no floor", inside.display())),
            }
        }
    }
    assert!(seen > 20, "the test sees no imports any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_approval_mints_permits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let minting: Vec<_> = files
        .into_iter()
        .filter(|file| {
            let text = fs::read_to_string(file).unwrap();
            text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("::mint("))
        })
        .map(|file| file.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(minting, ["case/approval.rs"]);
}
