//! What was extracted, read again and held against its manifest.

mod expected;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::copy::stream;
use super::hash::{Hasher, SparseHasher, hex};
use crate::block::BlockSource;
use crate::block::file::HostFile;
use crate::bytes::escape;
use crate::effort::Effort;
use crate::error::{Error, Result};
use expected::{Digest, Expected};

/// One thing that is not as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which sort: `missing`, `changed`, `extra`, `unreadable`, `manifest`, `sums`, `incomplete`.
    pub kind: &'static str,
    /// The path below the directory, as the bytes it is.
    pub path: Vec<u8>,
    /// One sentence.
    pub what: String,
}

impl Problem {
    fn new(kind: &'static str, path: &[u8], what: impl Into<String>) -> Self {
        Self { kind, path: path.to_vec(), what: what.into() }
    }

    /// Path and sentence, on one line.
    pub fn text(&self) -> String {
        format!("{}: {}", escape(&self.path), self.what)
    }
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files that were read.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Things that are not as the manifest says.
    pub problems: u64,
}

/// Reads every file that the manifest in `dir` covers, on all cores, and compares; looks for files that no line covers; holds
/// `SHA256SUMS` against the manifest; wants a summary that fits. `each` gets what is wrong. An error is a directory without a
/// manifest, or a cancelled effort.
pub fn verify(dir: &Path, effort: &Effort, each: &mut dyn FnMut(Problem)) -> Result<Verified> {
    let mut done = Verified::default();
    let mut tell = |problem: Problem| {
        done.problems += 1;
        each(problem);
    };
    let expected = expected::read(dir, effort, &mut tell)?;
    expected::sums(dir, &expected, effort, &mut tell)?;
    let list: Vec<(&Vec<u8>, &Expected)> = {
        let mut list: Vec<_> = expected.iter().collect();
        list.sort_by(|a, b| a.0.cmp(b.0));
        list
    };
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Vec::new(), 0_u64, 0_u64));
    let work = || -> Result<()> {
        let mut scratch = Vec::new();
        while let Some((path, expected)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            effort.check()?;
            let (problem, bytes) = one(dir, path, expected, effort, &mut scratch)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.0.extend(problem);
            found.1 += u64::from(bytes.is_some());
            found.2 += bytes.unwrap_or(0);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine = work();
        let theirs = other.join().unwrap_or_else(|_| Err(Error::corrupt("a thread that reads files failed")));
        mine.and(theirs)
    })?;
    let (mut problems, files, bytes) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    problems.sort_by(|a: &Problem, b: &Problem| a.path.cmp(&b.path));
    problems.into_iter().for_each(&mut tell);
    extra(dir, &expected, effort, &mut tell)?;
    (done.files, done.bytes) = (files, bytes);
    Ok(done)
}

/// Reads one file. Gives what is wrong with it, and its bytes if it was read.
fn one(
    dir: &Path,
    path: &[u8],
    expected: &Expected,
    effort: &Effort,
    scratch: &mut Vec<u8>,
) -> Result<(Option<Problem>, Option<u64>)> {
    let wrong = |kind, what: String| Ok((Some(Problem::new(kind, path, what)), None));
    let file = match expected::open(dir, path) {
        Ok(file) => file,
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {
            return wrong("missing", "is not there".into());
        }
        Err(error) => return wrong("unreadable", format!("cannot be opened: {error}")),
    };
    let meta = match file.metadata() {
        Ok(meta) if meta.is_file() => meta,
        _ => return wrong("changed", "is no regular file".into()),
    };
    if let Some(size) = expected.size
        && meta.len() != size
    {
        return wrong("changed", format!("has {} bytes, the manifest says {size}", meta.len()));
    }
    let (text, digest, len) = match read(file, expected, effort, scratch) {
        Ok(read) => read,
        Err(error) => {
            effort.check()?;
            return wrong("unreadable", error.to_string());
        }
    };
    if text == digest {
        return Ok((None, Some(len)));
    }
    let problem = Problem::new("changed", path, format!("has SHA-256 {text}, the manifest says {digest}"));
    Ok((Some(problem), Some(len)))
}

fn read<'e>(
    file: File,
    expected: &'e Expected,
    effort: &Effort,
    scratch: &mut Vec<u8>,
) -> Result<(String, &'e str, u64)> {
    let source = HostFile::new("output", file)?;
    let (mut whole, mut sparse) = (Hasher::default(), SparseHasher::default());
    let gaps = stream(&source, effort, scratch, &|_| Ok(()), &mut |piece| match &expected.digest {
        Digest::Whole(_) => whole.piece(piece, effort),
        Digest::Sparse(_) => sparse.piece(piece),
    })?;
    if let Some(gap) = gaps.first() {
        return Err(Error::corrupt(format!("cannot be read at {}: {}", gap.start, gap.error)));
    }
    let len = source.len();
    Ok(match &expected.digest {
        Digest::Whole(digest) => (hex(&whole.finish()), digest, len),
        Digest::Sparse(digest) => (hex(&sparse.finish(len)), digest, len),
    })
}

/// Names what lies in the directory and is in no line.
fn extra(
    dir: &Path,
    expected: &HashMap<Vec<u8>, Expected>,
    effort: &Effort,
    tell: &mut dyn FnMut(Problem),
) -> Result<()> {
    let mut pending = vec![Vec::new()];
    while let Some(below) = pending.pop() {
        let path = dir.join(std::ffi::OsStr::from_bytes(&below));
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                tell(Problem::new("unreadable", &below, format!("cannot be listed: {error}")));
                continue;
            }
        };
        let mut found: Vec<(Vec<u8>, bool)> = Vec::new();
        for entry in entries {
            effort.check()?;
            match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) {
                Ok((name, kind)) => {
                    found.push((super::sink::join(&below, name.as_bytes()), kind.is_dir()));
                }
                Err(error) => tell(Problem::new("unreadable", &below, format!("cannot be listed: {error}"))),
            }
        }
        found.sort();
        for (path, is_dir) in found {
            let own = below.is_empty() && (path == b"manifest.jsonl" || path == b"SHA256SUMS");
            if is_dir {
                pending.push(path);
            } else if !own && !expected.contains_key(&path) {
                tell(Problem::new("extra", &path, "no line of the manifest covers it"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
