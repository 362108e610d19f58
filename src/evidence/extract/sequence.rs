//! Lines of batches, put in the order of the walk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Key;
use crate::error::Result;
use crate::evidence::json::Json;
use crate::evidence::manifest::{HELD_TIME, Manifest, Outcome, Stored};

/// What a batch gave.
#[derive(Default)]
pub(super) struct Finished {
    /// Lines of the manifest, whole except at the places of [`Event::Link`].
    pub lines: Vec<u8>,
    /// Lines of `SHA256SUMS`.
    pub sums: Vec<u8>,
    /// What has to be done at which length of `lines`.
    pub events: Vec<(usize, Event)>,
    /// What was done.
    pub outcome: Outcome,
}

pub(super) enum Event {
    /// A file with this many other names was stored.
    First(Key, u32, Stored),
    /// Here the line of another name is to be completed.
    Link(Key),
}

/// Bytes of lines that may wait for a batch before them.
const WAITING_MAX: usize = 8 << 20;

pub(super) struct Sequence {
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    manifest: Manifest,
    next: u64,
    waiting: BTreeMap<u64, Finished>,
    waiting_bytes: usize,
    stored: HashMap<Key, (u32, Stored)>,
    outcome: Outcome,
    stopped: bool,
}

impl Sequence {
    pub fn new(manifest: Manifest) -> Self {
        let state = State {
            manifest,
            next: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            stored: HashMap::new(),
            outcome: Outcome::default(),
            stopped: false,
        };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Takes what batch `number` gave and writes all that is in order by now. Waits while too much waits for a batch before it,
    /// so that one huge file cannot make the lines of all others pile up.
    pub fn put(&self, number: u64, finished: Finished) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting_bytes += finished.lines.len() + finished.sums.len();
        state.waiting.insert(number, finished);
        state.write()?;
        self.moved.notify_all();
        while state.waiting_bytes > WAITING_MAX && !state.stopped {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Writes held lines while a large file keeps new ones from coming. Returns after [`Sequence::stop`].
    pub fn keep_flushed(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.stopped {
            let (next, waited) =
                self.moved.wait_timeout(state, HELD_TIME).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() {
                state.manifest.flush()?;
            }
        }
        Ok(())
    }

    /// Lets go whoever waits.
    pub fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.moved.notify_all();
    }

    /// The manifest with every line that is in order, and what was done.
    pub fn finish(self) -> (Manifest, Outcome) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.manifest, state.outcome)
    }
}

impl State {
    fn write(&mut self) -> Result<()> {
        while let Some(finished) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.waiting_bytes -= finished.lines.len() + finished.sums.len();
            let total = &mut self.outcome;
            total.files += finished.outcome.files;
            total.bytes = total.bytes.saturating_add(finished.outcome.bytes);
            total.gaps += finished.outcome.gaps;
            total.refused += finished.outcome.refused;
            if finished.events.is_empty() {
                self.manifest.push(&finished.lines, &finished.sums)?;
                continue;
            }
            let lines = self.complete(&finished.lines, finished.events);
            self.manifest.push(&lines, &finished.sums)?;
        }
        Ok(())
    }

    /// The lines with those of further names completed.
    fn complete(&mut self, lines: &[u8], events: Vec<(usize, Event)>) -> Vec<u8> {
        let mut out = Vec::with_capacity(lines.len() + events.len() * 256);
        let mut from = 0;
        for (at, event) in events {
            match event {
                Event::First(key, names, stored) => {
                    self.stored.insert(key, (names, stored));
                }
                Event::Link(key) => {
                    out.extend_from_slice(&lines[from..at]);
                    from = at;
                    let mut members = Vec::new();
                    let mut json = Json::object(&mut members);
                    if let Some((names, stored)) = self.stored.get_mut(&key) {
                        stored.members(&mut json);
                        *names -= 1;
                        if *names == 0 {
                            self.stored.remove(&key);
                        }
                    } else {
                        Stored::default().members(&mut json);
                    }
                    json.end();
                    members[0] = b',';
                    out.extend_from_slice(&members);
                    out.push(b'\n');
                }
            }
        }
        out.extend_from_slice(&lines[from..]);
        out
    }
}
