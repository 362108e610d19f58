//! Digests of files, without copying them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::chunks::Gap;
use super::copy::stream;
use super::hash::{Allowance, Hasher, NOT_HASHED, Sum, hex};
use super::manifest::sum_line;
use super::tour::{Left, Met, tour};
use crate::error::{Error, Result};
use crate::fs::{FileType, Spot, Stream};
use crate::permit::Content;
use crate::stack::{Guest, View};

/// What was found out about a name.
#[derive(Debug)]
pub enum Hashed {
    /// The digest of a file.
    Sum {
        /// The absolute path.
        path: Vec<u8>,
        /// Bytes.
        size: u64,
        /// SHA-256.
        sum: Sum,
    },
    /// No digest: what of it could not be read.
    Gaps {
        /// The absolute path.
        path: Vec<u8>,
        /// At least one.
        gaps: Vec<Gap>,
    },
    /// A path that the permit does not cover, or a part of the tree that cannot be read.
    Left {
        /// The absolute path.
        path: Vec<u8>,
        /// Refused if the permit does not cover it.
        error: Error,
    },
}

/// A job, until somebody takes it, and what came of it.
type Slot<'a> = (Mutex<Option<Job<'a>>>, Mutex<Option<Result<Hashed>>>);

/// Names that are dealt with at once.
const BATCH: usize = 512;

struct Job<'a> {
    path: Vec<u8>,
    /// The node, its size, and whether it may be hashed; an error for what is only passed on.
    what: Result<(Spot<'a>, u64, bool)>,
}

/// Hashes every regular file at and below `paths`, on all cores; `each` gets them in the order of the walk. A file of several
/// names comes once for each.
pub fn digests<A: Content>(
    view: &View<A>,
    paths: &[&[u8]],
    each: &mut dyn FnMut(Hashed) -> Result<()>,
) -> Result<()> {
    guest_digests(&view.guest(), paths, each)
}

fn guest_digests(
    guest: &Guest<'_>,
    paths: &[&[u8]],
    each: &mut dyn FnMut(Hashed) -> Result<()>,
) -> Result<()> {
    let state = std::cell::RefCell::new((Vec::new(), Allowance::new(guest.size()), each));
    tour(
        guest,
        paths,
        &mut |Met { path, spot, node }| {
            if node.kind != FileType::File {
                return Ok(());
            }
            let (jobs, allowance, each) = &mut *state.borrow_mut();
            jobs.push(Job { path: path.to_vec(), what: Ok((spot, node.size, allowance.take(node.size))) });
            if jobs.len() < BATCH { Ok(()) } else { batch(guest, jobs, &mut **each) }
        },
        &mut |Left { path, error, .. }| {
            let (jobs, _, each) = &mut *state.borrow_mut();
            jobs.push(Job { path: path.to_vec(), what: Err(error) });
            if jobs.len() < BATCH { Ok(()) } else { batch(guest, jobs, &mut **each) }
        },
    )?;
    let (mut jobs, _, each) = state.into_inner();
    batch(guest, &mut jobs, each)
}

fn batch(
    guest: &Guest<'_>,
    jobs: &mut Vec<Job<'_>>,
    each: &mut dyn FnMut(Hashed) -> Result<()>,
) -> Result<()> {
    let jobs = std::mem::take(jobs);
    let slots: Vec<Slot<'_>> =
        jobs.into_iter().map(|job| (Mutex::new(Some(job)), Mutex::new(None))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut scratch = Vec::new();
        while let Some((slot, done)) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
            let job = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            let result = job.map(|job| one(guest, job, &mut scratch));
            *done.lock().unwrap_or_else(PoisonError::into_inner) = result;
        }
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)) {
            scope.spawn(work);
        }
        work();
    });
    for (_, result) in slots {
        if let Some(result) = result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            each(result?)?;
        }
    }
    Ok(())
}

fn one(guest: &Guest<'_>, job: Job<'_>, scratch: &mut Vec<u8>) -> Result<Hashed> {
    let path = job.path;
    let (spot, size, hash) = match job.what {
        Ok(what) => what,
        Err(error) => return Ok(Hashed::Left { path, error }),
    };
    let whole = |error: String| vec![Gap { start: 0, len: size, error }];
    if !hash {
        return Ok(Hashed::Gaps { path, gaps: whole(NOT_HASHED.into()) });
    }
    let content = match spot.fs.open(spot.id, Stream::Content) {
        Ok(content) => content,
        Err(error) => return Ok(Hashed::Gaps { path, gaps: whole(error.to_string()) }),
    };
    let (effort, mut hasher) = (guest.effort(), Hasher::default());
    let gaps = stream(&*content, effort, scratch, &|_| Ok(()), &mut |piece| hasher.piece(piece, effort))?;
    if gaps.is_empty() {
        return Ok(Hashed::Sum { path, size: content.len(), sum: hasher.finish() });
    }
    Ok(Hashed::Gaps { path, gaps })
}

/// One line as sha256sum(1) writes it. The path is relative to the guest's root, so that `sha256sum -c` checks a copy or a mount
/// from there and never the host.
pub fn sha256sum(out: &mut Vec<u8>, path: &[u8], sum: &Sum) {
    sum_line(out, sum, path.strip_prefix(b"/").unwrap_or(path));
}

/// What hashdeep(1) wants at the start of a file.
pub fn hashdeep_header(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"%%%% HASHDEEP-1.0\n%%%% size,sha256,filename\n## Invoked from: /\n## $ coldread hash\n## \n",
    );
}

/// One line as hashdeep(1) writes it; it takes the rest of the line for the name, so a name with a line's end is escaped.
pub fn hashdeep(out: &mut Vec<u8>, path: &[u8], size: u64, sum: &Sum) {
    out.extend_from_slice(format!("{size},{},", hex(sum)).as_bytes());
    for byte in path {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\n');
}
