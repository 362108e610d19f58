//! Files out of a guest into a directory: read, hashed and written in one pass, each with its line in the manifest.
//!
//! One thread walks and makes directories; workers take batches of names, copy their content and write their lines; the
//! sequencer puts the lines in the order of the walk.

mod plan;
mod sequence;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Map, Value};

use super::manifest::{Manifest, Outcome, now, summary};
use super::sink::{Dir, Sink};
use crate::error::{Error, Result};
use crate::fs::path::Resolved;
use crate::fs::walk::Step;
use crate::fs::{FileType, NameState, Node, NodeId, Spot};
use crate::permit::Content;
use crate::stack::{Guest, View};
use plan::Plan;
use sequence::Sequence;

/// A node, wherever it is mounted.
type Key = (u32, NodeId);

/// One name that is to be dealt with.
struct Job<'a> {
    path: Vec<u8>,
    what: What<'a>,
}

enum What<'a> {
    /// A line that is ready, without its newline: of something refused, or of a gap.
    Line { line: Vec<u8>, refused: bool },
    /// Something that is recorded and not made; a directory has been made already, there.
    Record { spot: Spot<'a>, node: Node, state: NameState, output: Option<Vec<u8>> },
    /// Content to copy into a directory. `hash` is false for files whose zeros are too many; `names` counts the other names.
    Copy { spot: Spot<'a>, node: Node, dir: Arc<Dir>, hash: bool, names: u32 },
    /// Another name of a file that has been copied.
    Link { spot: Spot<'a>, node: Node },
}

/// Names in a batch, and bytes of content in it, at most (one name may have more).
const BATCH_NAMES: usize = 64;
const BATCH_BYTES: u64 = 8 << 20;

struct Batch<'a> {
    number: u64,
    jobs: Vec<Job<'a>>,
}

/// What all threads of one run share.
struct Run<'a> {
    guest: &'a Guest<'a>,
    sink: Sink,
    sequence: Sequence,
    /// The first failure that ends the run.
    failed: Mutex<Option<Error>>,
    stopped: AtomicBool,
}

impl Run<'_> {
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stopped.store(true, Ordering::Relaxed);
        self.sequence.stop();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// What becomes of the paths that were asked for.
pub(super) struct Wanted<'a> {
    /// Those that were found, each once, none below another, in order.
    pub found: Vec<Resolved<'a>>,
    /// Those that were not, with the reason.
    pub missing: Vec<(Vec<u8>, Error)>,
}

/// Resolves the paths. Links at their ends are taken themselves. If none is there, the first one's error.
pub(super) fn wanted<'a>(guest: &Guest<'a>, paths: &[&[u8]]) -> Result<Wanted<'a>> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for path in paths {
        match guest.resolve(path, false) {
            Ok(resolved) => found.push(resolved),
            Err(error) => missing.push((path.to_vec(), error)),
        }
    }
    if found.is_empty() && !missing.is_empty() {
        return Err(missing.swap_remove(0).1);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let mut tops: Vec<Resolved<'a>> = Vec::new();
    for resolved in found {
        let inside = |top: &Resolved<'_>| {
            let rest = resolved.path.strip_prefix(&top.path[..]);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || top.path == b"/")
        };
        if !tops.iter().any(inside) {
            tops.push(resolved);
        }
    }
    Ok(Wanted { found: tops, missing })
}

/// Copies everything at and below `paths` to `dir`, which is made or is empty: `files/<guest path>`, `manifest.jsonl`,
/// `SHA256SUMS`. `about` is asked at the end for what the summary says of the source.
///
/// What cannot be read becomes zeros and a gap, what the permit does not cover is refused, and both are recorded; see
/// [`Outcome`]. An error ends the run without a summary: the output cannot be written, or the work was cancelled. What was
/// finished until then has its lines.
pub fn to_dir<A: Content>(
    view: &View<A>,
    paths: &[&[u8]],
    dir: &Path,
    about: &dyn Fn() -> Map<String, Value>,
) -> Result<Outcome> {
    guest_to_dir(&view.guest(), paths, dir, about)
}

/// Bytes of content below `paths`, hard links counted each time: what a progress bar counts towards.
pub fn total<A: Content>(view: &View<A>, paths: &[&[u8]]) -> Result<u64> {
    let guest = view.guest();
    let mut total = 0_u64;
    for top in wanted(&guest, paths)?.found {
        let mut walk = guest.walk(top.spot, &top.path);
        while let Some(step) = walk.next()? {
            if let Step::Entry { node: Ok(node), .. } = step
                && node.kind == FileType::File
            {
                total = total.saturating_add(node.size);
            }
        }
    }
    Ok(total)
}

fn guest_to_dir(
    guest: &Guest<'_>,
    paths: &[&[u8]],
    dir: &Path,
    about: &dyn Fn() -> Map<String, Value>,
) -> Result<Outcome> {
    let started = now();
    let wanted = wanted(guest, paths)?;
    let sink = Sink::create(dir)?;
    let (lines, _) = sink.file(sink.top(), b"manifest.jsonl")?;
    let (sums, _) = sink.file(sink.top(), b"SHA256SUMS")?;
    let run = Run {
        guest,
        sink,
        sequence: Sequence::new(Manifest::new(lines, sums)?),
        failed: Mutex::new(None),
        stopped: AtomicBool::new(false),
    };
    let workers = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(workers);
        let receiver = Arc::new(Mutex::new(receiver));
        let clock = scope.spawn(|| run.sequence.keep_flushed().map_err(|error| run.fail(error)));
        let crew: Vec<_> = (0..workers)
            .map(|_| {
                let (run, receiver) = (&run, Arc::clone(&receiver));
                scope.spawn(move || labour(run, &receiver))
            })
            .collect();
        drop(receiver);
        let planned = Plan::new(&run, sender).and_then(|mut plan| plan.all(wanted));
        if let Err(error) = planned {
            run.fail(error);
        }
        for worker in crew {
            if worker.join().is_err() {
                run.fail(Error::corrupt("a thread that copies files failed"));
            }
        }
        run.sequence.stop();
        // What went wrong there is in `run.failed`.
        let _ = clock.join();
    });
    let failed = run.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut manifest, outcome) = run.sequence.finish();
    if let Some(error) = failed {
        // The failure is what is worth telling, also when the manifest cannot be written either.
        let _ = manifest.flush();
        return Err(error);
    }
    manifest.finish(&summary(&outcome, &about(), started))?;
    Ok(outcome)
}

fn labour<'a>(run: &Run<'a>, batches: &Mutex<Receiver<Batch<'a>>>) {
    let mut scratch = Vec::new();
    loop {
        let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return };
        if run.is_stopped() {
            // The walk may still be sending; it is not to wait for us.
            continue;
        }
        let finished = work::batch(run, batch.jobs, &mut scratch);
        let result = finished.and_then(|finished| run.sequence.put(batch.number, finished));
        if let Err(error) = result {
            run.fail(error);
        }
    }
}
