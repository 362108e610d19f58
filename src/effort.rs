//! How much work is worth doing: cancellation, progress, findings, and fuel against structures made to cost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Kind, Place, Result};

/// What a long piece of work shares with whoever started it. One for each stack.
#[derive(Default)]
pub struct Effort {
    cancelled: Arc<AtomicBool>,
    bytes: AtomicU64,
    findings: Mutex<Findings>,
}

/// Something wrong beside the data: read all the same, and said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// One sentence: the structure and the rule it breaks.
    pub what: String,
    /// Where, innermost coordinate system first.
    pub site: Vec<Place>,
}

#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    more: u64,
}

/// Findings kept word for word; those beyond are only counted, so that a hostile disk cannot fill memory.
const FINDINGS_KEPT: usize = 1000;

impl Effort {
    /// An effort that `cancelled` can end, as a signal handler sets it.
    pub fn new(cancelled: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self { cancelled, ..Self::default() })
    }

    /// Fails once the work was cancelled. Call it in every loop that can be long.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Io, "interrupted"));
        }
        Ok(())
    }

    /// Whether the work was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Counts bytes of content that were dealt with, for a progress bar.
    pub fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of content dealt with so far.
    pub fn advanced(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Keeps a finding, once.
    pub fn find(&self, what: impl Into<String>, site: Vec<Place>) {
        let finding = Finding { what: what.into(), site };
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.kept.contains(&finding) {
            return;
        }
        if findings.kept.len() < FINDINGS_KEPT {
            findings.kept.push(finding);
        } else {
            findings.more = findings.more.saturating_add(1);
        }
    }

    /// The findings so far, and how many there were beyond those kept.
    pub fn findings(&self) -> (Vec<Finding>, u64) {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        (findings.kept.clone(), findings.more)
    }
}

/// A budget of steps for one structure. Bounds what shared children and loops can cost, without a clock.
#[derive(Debug)]
pub struct Fuel {
    left: u64,
    what: &'static str,
}

impl Fuel {
    /// `steps` steps for the structure called `what`.
    pub fn new(what: &'static str, steps: u64) -> Self {
        Self { left: steps, what }
    }

    /// Takes `steps` steps; fails when they are used up.
    pub fn burn(&mut self, steps: u64) -> Result<()> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Error::corrupt(format!(
                "{}: more parts than the volume can hold, a loop or shared parts",
                self.what
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuel_ends() {
        let mut fuel = Fuel::new("extent tree", 2);
        assert!(fuel.burn(1).is_ok() && fuel.burn(1).is_ok());
        assert_eq!(fuel.burn(1).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_finding_is_kept_once_and_their_number_is_bounded() {
        let effort = Effort::default();
        for i in 0..2 * FINDINGS_KEPT {
            effort.find(format!("finding {}", i / 2), Vec::new());
        }
        assert_eq!(effort.findings().0.len(), FINDINGS_KEPT);
    }
}
