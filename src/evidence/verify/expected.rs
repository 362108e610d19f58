//! What a manifest and its `SHA256SUMS` say should be there. Both may have been tampered with.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_dir, openat};
use nix::sys::stat::Mode;
use serde::Deserialize;

use super::Problem;
use crate::effort::Effort;
use crate::error::{Error, Result};

/// One file of the output.
#[derive(PartialEq, Eq)]
pub(super) struct Expected {
    pub digest: Digest,
    /// Its length, where the manifest says it.
    pub size: Option<u64>,
}

#[derive(PartialEq, Eq)]
pub(super) enum Digest {
    Whole(String),
    Sparse(String),
}

/// What of a line is looked at.
#[derive(Deserialize)]
struct Line {
    path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    mode: Option<String>,
    size: Option<u64>,
    output: Option<String>,
    output_bytes: Option<String>,
    output_sha256: Option<String>,
    sparse_sha256: Option<String>,
    summary: Option<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    files: u64,
}

/// The longest line that is read, in bytes.
const LINE_MAX: u64 = 64 << 20;

const MANIFEST: &str = "manifest.jsonl";
const SUMS: &str = "SHA256SUMS";

/// Opens a path below `dir`, following no link on the way. `path` has no `..`.
pub(super) fn open(dir: &Path, path: &[u8]) -> std::result::Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut here: OwnedFd =
        open_dir(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut parts = path.split(|b| *b == b'/').peekable();
    while let Some(part) = parts.next() {
        let more = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
        here = openat(here.as_fd(), OsStr::from_bytes(part), flags | more, Mode::empty())?;
    }
    Ok(File::from(here))
}

/// The lines of a file, the last one also without its end (`false`).
fn lines(file: File, effort: &Effort, each: &mut dyn FnMut(usize, &[u8], bool)) -> Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    for number in 1.. {
        effort.check()?;
        line.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| Error::io("the manifest cannot be read", error))? == 0 {
            break;
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        each(number, &line, whole);
    }
    Ok(())
}

/// Reads the manifest; what is wrong with it goes to `tell`.
pub(super) fn read(
    dir: &Path,
    effort: &Effort,
    tell: &mut dyn FnMut(Problem),
) -> Result<HashMap<Vec<u8>, Expected>> {
    let file = open(dir, MANIFEST.as_bytes()).map_err(|error| {
        Error::io(format!("{}: cannot open it", dir.join(MANIFEST).display()), error)
            .hint("name a directory that extract has made")
    })?;
    let mut expected = HashMap::new();
    let (mut entries, mut summary) = (0, None);
    let mut wrong = |what: String| tell(Problem::new("manifest", MANIFEST.as_bytes(), what));
    lines(file, effort, &mut |number, line, whole| {
        if !whole {
            return wrong(format!("line {number} is cut off"));
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return wrong(format!("line {number} is no line of a manifest"));
        };
        if summary.is_some() {
            wrong(format!("line {number} comes after the summary"));
        }
        if let Some(said) = line.summary {
            summary = Some(said.files);
            return;
        }
        if line.path.is_none() {
            return wrong(format!("line {number} names no path"));
        }
        entries += u64::from(line.mode.is_some());
        if line.kind.as_deref() != Some("file") {
            return;
        }
        let Some(output) = &line.output else { return };
        let bytes = match &line.output_bytes {
            Some(encoded) => base64::engine::general_purpose::STANDARD.decode(encoded).ok(),
            None => Some(output.clone().into_bytes()),
        };
        let Some(path) = bytes.filter(|path| is_inside(path)) else {
            return wrong(format!("line {number}: its output is not below files/"));
        };
        let digest = match (line.output_sha256, line.sparse_sha256) {
            (Some(digest), _) => Digest::Whole(digest),
            (None, Some(digest)) => Digest::Sparse(digest),
            (None, None) => return wrong(format!("line {number} has an output and no digest of it")),
        };
        // Names of one file have one output; they have to agree.
        let this = Expected { digest, size: line.size };
        match expected.get(&path) {
            Some(other) if *other != this => {
                wrong(format!("line {number} disagrees with another about its output"));
            }
            Some(_) => {}
            None => {
                expected.insert(path, this);
            }
        }
    })?;
    match summary {
        None => tell(Problem::new(
            "incomplete",
            MANIFEST.as_bytes(),
            "has no summary: the run did not end, and what it did not finish is not here",
        )),
        Some(said) if said != entries => tell(Problem::new(
            "manifest",
            MANIFEST.as_bytes(),
            format!("has {entries} files, its summary says {said}"),
        )),
        Some(_) => {}
    }
    Ok(expected)
}

/// Whether a path from a manifest stays where outputs are.
fn is_inside(path: &[u8]) -> bool {
    let mut parts = path.split(|b| *b == b'/');
    parts.next() == Some(b"files")
        && parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

/// Holds `SHA256SUMS` against the manifest.
pub(super) fn sums(
    dir: &Path,
    expected: &HashMap<Vec<u8>, Expected>,
    effort: &Effort,
    tell: &mut dyn FnMut(Problem),
) -> Result<()> {
    let mut wrong = |path: &[u8], what: String| tell(Problem::new("sums", path, what));
    let file = match open(dir, SUMS.as_bytes()) {
        Ok(file) => file,
        Err(error) => {
            wrong(SUMS.as_bytes(), format!("cannot be opened: {error}"));
            return Ok(());
        }
    };
    let mut listed = 0;
    lines(file, effort, &mut |number, line, whole| {
        let Some((digest, path)) = sum_line(line).filter(|_| whole) else {
            return wrong(SUMS.as_bytes(), format!("line {number} is no line of sha256sum"));
        };
        match expected.get(&path).map(|expected| &expected.digest) {
            Some(Digest::Whole(said)) if said.as_bytes() == digest => listed += 1,
            Some(_) => wrong(&path, format!("{SUMS} and the manifest have different digests")),
            None => wrong(&path, format!("is in {SUMS} and not in the manifest")),
        }
    })?;
    let whole = |(path, expected): &(&Vec<u8>, &Expected)| {
        matches!(expected.digest, Digest::Whole(_)) && path.len() <= crate::evidence::manifest::SUM_PATH_MAX
    };
    let wanted = expected.iter().filter(whole).count();
    if listed != wanted {
        wrong(SUMS.as_bytes(), format!("has {listed} of the manifest's {wanted} files"));
    }
    Ok(())
}

/// Digest and path of a line, escapes undone.
fn sum_line(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |rest| (true, rest));
    let (digest, rest) = line.split_at_checked(64)?;
    let path = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
    if !escaped {
        return Some((digest, path.to_vec()));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some((digest, out))
}
