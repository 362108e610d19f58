//! What is known of an export's allocation: extents of `base:allocation`, kept within a bound.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::wire::{STATE_HOLE, STATE_ZERO};
use crate::block::State;

/// Extents by their start. An export is read as it is at one moment, so that an answer stays right.
#[derive(Default)]
pub struct Extents {
    known: Mutex<BTreeMap<u64, (u64, State)>>,
}

/// Extents kept; when there are more, all are forgotten and asked for again.
const KEPT_MAX: usize = 16384;

impl Extents {
    /// How long the extent goes on from `offset`, and its state.
    pub fn get(&self, offset: u64) -> Option<(u64, State)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, (len, state)) = known.range(..=offset).next_back()?;
        let left = start.saturating_add(*len).checked_sub(offset).filter(|left| *left > 0)?;
        Some((left, *state))
    }

    /// Keeps a server's answer for `start`: lengths and flags, up to `end` at most. Neighbours of one state become one.
    pub fn keep(&self, start: u64, end: u64, extents: &[(u32, u32)]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len().saturating_add(extents.len()) > KEPT_MAX {
            known.clear();
        }
        let mut at = start;
        let mut open: Option<(u64, u64, State)> = None;
        for (len, flags) in extents {
            let len = u64::from(*len).min(end.saturating_sub(at));
            if len == 0 {
                break;
            }
            let state = state(*flags);
            open = match open {
                Some((from, have, same)) if same == state => Some((from, have.saturating_add(len), same)),
                Some((from, have, other)) => {
                    known.insert(from, (have, other));
                    Some((at, len, state))
                }
                None => Some((at, len, state)),
            };
            at = at.saturating_add(len);
        }
        if let Some((from, len, state)) = open {
            known.insert(from, (len, state));
        }
    }
}

/// What reads as zeros is zeros; a hole that is not said to read as zeros may hold anything, so it is data.
fn state(flags: u32) -> State {
    match (flags & STATE_ZERO != 0, flags & STATE_HOLE != 0) {
        (true, true) => State::Hole,
        (true, false) => State::Zero,
        (false, _) => State::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_joined_and_cut_at_the_end() {
        let extents = Extents::default();
        assert_eq!(extents.get(0), None);
        extents.keep(1000, 5000, &[(1000, 0), (500, 1), (500, 3), (9000, 2), (1, 0)]);
        assert_eq!(extents.get(999), None);
        assert_eq!(
            extents.get(1000),
            Some((1500, State::Data)),
            "a hole that may hold anything joins the data"
        );
        assert_eq!(extents.get(2499), Some((1, State::Data)));
        assert_eq!(extents.get(2500), Some((500, State::Hole)));
        assert_eq!(extents.get(3000), Some((2000, State::Zero)));
        assert_eq!(extents.get(5000), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let extents = Extents::default();
        for i in 0..3 * KEPT_MAX as u64 {
            extents.keep(i * 10, u64::MAX, &[(5, 0)]);
        }
        assert!(extents.known.lock().unwrap().len() <= KEPT_MAX);
    }
}
