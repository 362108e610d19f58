//! A batch of names: content copied, lines written.

use super::sequence::{Event, Finished};
use super::{Job, Run, What};
use crate::block::Source;
use crate::error::{Error, Kind, Result};
use crate::evidence::chunks::Gap;
use crate::evidence::copy::{set_len, stream, write_sparse};
use crate::evidence::hash::{Hasher, NOT_HASHED, SparseHasher};
use crate::evidence::json::Json;
use crate::evidence::manifest::{SUM_PATH_MAX, Stored, sum_line};
use crate::evidence::record::{Extras, Record};
use crate::evidence::sink::{Dir, join};
use crate::fs::{NameState, Node};

/// Runs that a line of the manifest lists at most.
const RUNS: usize = 256;

/// Deals with every job of a batch: content in the order of the nodes' numbers, which is about that of the disk; lines in the
/// order of the walk.
pub(super) fn batch(run: &Run<'_>, jobs: Vec<Job<'_>>, scratch: &mut Vec<u8>) -> Result<Finished> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|i| match &jobs[*i].what {
        What::Copy { spot, .. } => (1, spot.key()),
        _ => (0, (0, crate::fs::NodeId::default())),
    });
    let mut stored: Vec<Option<(Extras, Stored)>> = jobs.iter().map(|_| None).collect();
    for i in order {
        if let What::Copy { spot, node, dir, hash, .. } = &jobs[i].what {
            run.guest.effort().check()?;
            let mut extras = Extras::read(*spot, node);
            let content = extras.content.take();
            let done = match &content {
                Some(content) => copy(run, content, dir, name(&jobs[i].path), *hash, scratch)?,
                None => Stored::unread(node.size, &extras.problems),
            };
            extras.content = content;
            stored[i] = Some((extras, done));
        }
    }
    let mut out = Finished::default();
    for (job, stored) in jobs.into_iter().zip(stored) {
        job_lines(job, stored, &mut out);
    }
    Ok(out)
}

fn name(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1)..]
}

fn job_lines(job: Job<'_>, stored: Option<(Extras, Stored)>, out: &mut Finished) {
    match job.what {
        What::Line { line, refused } => {
            let count = if refused { &mut out.outcome.refused } else { &mut out.outcome.gaps };
            *count += 1;
            out.lines.extend_from_slice(&line);
            out.lines.push(b'\n');
        }
        What::Record { spot, node, state, output } => {
            let extras = Extras::read(spot, &node);
            out.outcome.files += 1;
            let done = Stored { output, ..Stored::default() };
            line(&job.path, &node, state, &extras, Some(&done), out);
        }
        What::Link { spot, node } => {
            let extras = Extras::read(spot, &node);
            out.outcome.files += 1;
            line(&job.path, &node, NameState::Live, &extras, None, out);
            let at = out.lines.len();
            out.events.push((at, Event::Link(spot.key())));
        }
        What::Copy { spot, node, names, .. } => {
            let Some((extras, done)) = stored else { return };
            out.outcome.files += 1;
            out.outcome.gaps += done.gaps.len() as u64 + u64::from(done.note.is_some());
            if done.output.is_some() {
                out.outcome.bytes = out.outcome.bytes.saturating_add(node.size);
            }
            line(&job.path, &node, NameState::Live, &extras, Some(&done), out);
            if let (Some(sum), Some(output)) = (&done.sum, &done.output)
                && output.len() <= SUM_PATH_MAX
            {
                sum_line(&mut out.sums, sum, output);
            }
            if names > 0 {
                let at = out.lines.len();
                out.events.push((at, Event::First(spot.key(), names, done)));
            }
        }
    }
}

/// A line, whole if it is known what was stored; else open for the sequencer.
fn line(
    path: &[u8],
    node: &Node,
    state: NameState,
    extras: &Extras,
    stored: Option<&Stored>,
    out: &mut Finished,
) {
    // What could not be read beside the content is a gap in the answer too; content has its own.
    let content_failed = extras.content.is_none() && node.kind == crate::fs::FileType::File;
    let problems = extras.problems.len().saturating_sub(usize::from(content_failed));
    out.outcome.gaps += problems as u64;
    let mut json = Json::object(&mut out.lines);
    Record { path, state, node, target: extras.target.as_deref() }.members(&mut json);
    extras.members(node, RUNS, &mut json);
    if let Some(stored) = stored {
        stored.members(&mut json);
        json.end();
        out.lines.push(b'\n');
    }
}

/// Copies one content into the output. A failure that concerns this file alone is in what is returned.
fn copy(
    run: &Run<'_>,
    content: &Source,
    dir: &Dir,
    name: &[u8],
    hash: bool,
    scratch: &mut Vec<u8>,
) -> Result<Stored> {
    let effort = run.guest.effort();
    let (file, held) = match run.sink.file(dir, name) {
        Ok(made) => made,
        Err(error) => return whole_gap(content, error),
    };
    let (mut hasher, mut sparse) = (Hasher::default(), SparseHasher::default());
    let mut in_order = |piece: &crate::evidence::copy::Piece<'_>| {
        if hash { hasher.piece(piece, effort) } else { sparse.piece(piece) }
    };
    let copied = stream(&**content, effort, scratch, &|piece| write_sparse(&file, piece), &mut in_order)
        .and_then(|gaps| finish_len(&file, content).map(|()| gaps));
    let gaps = match copied {
        Ok(gaps) => gaps,
        Err(error) => {
            drop(file);
            dir.remove(&held);
            return whole_gap(content, error);
        }
    };
    let mut stored = Stored { output: Some(join(dir.path(), &held)), gaps, ..Stored::default() };
    if hash {
        stored.sum = Some(hasher.finish());
    } else {
        stored.sparse = Some(sparse.finish(content.len()));
        stored.note = Some(NOT_HASHED);
    }
    Ok(stored)
}

/// Sets the length where writing alone did not.
fn finish_len(file: &std::fs::File, content: &Source) -> Result<()> {
    set_len(file, content.len())
}

fn whole_gap(content: &Source, error: Error) -> Result<Stored> {
    if error.kind() != Kind::Unsupported {
        return Err(error);
    }
    let gap = Gap { start: 0, len: content.len(), error: error.to_string() };
    Ok(Stored { gaps: vec![gap], ..Stored::default() })
}
