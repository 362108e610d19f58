//! The log's lines put together to runs: what was asked, by whose leave, and what came of it.

use std::path::Path;

use serde_json::{Value, json};

use super::{Case, lines};
use crate::error::Result;

/// One run: an intent, its outcome, and its ratification if it was an emergency.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) intent: Value,
    /// `None`: it was killed, or goes on.
    pub(super) outcome: Option<Value>,
    pub(super) ratified: Option<Value>,
}

/// A log as a story.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// The first line.
    pub(super) opened: Value,
    pub(super) runs: Vec<Run>,
    /// What was asked for and refused before it began.
    pub(super) refused: Vec<Value>,
    /// Last lines that a crash had torn.
    pub(super) torn: Vec<Value>,
    pub(super) closed: Option<Value>,
}

impl Story {
    /// Reads the log. Lines of a kind that tells nothing are passed over.
    pub(super) fn read(log: &Path) -> Result<Self> {
        let mut story = Self::default();
        for line in lines::all(log)? {
            match text(&line, "/kind") {
                "opened" => story.opened = line,
                "intent" => story.runs.push(Run { intent: line, outcome: None, ratified: None }),
                "outcome" => {
                    if let Some(run) = story.run_mut(text(&line, "/run")) {
                        run.outcome = Some(line);
                    }
                }
                "ratified" => {
                    if let Some(run) = story.run_mut(text(&line, "/ratifies")) {
                        run.ratified = Some(line);
                    }
                }
                "refused" => story.refused.push(line),
                "torn" => story.torn.push(line),
                "closed" => story.closed = Some(line),
                _ => {}
            }
        }
        Ok(story)
    }

    fn run_mut(&mut self, name: &str) -> Option<&mut Run> {
        self.runs.iter_mut().rev().find(|run| run.name() == name)
    }
}

/// What a person wants to know of a case at a glance, as JSON: `{id, …, state, runs: […], refused: […]}`.
pub fn summary(case: &Case) -> Result<Value> {
    let story = Story::read(&case.log_path())?;
    let runs: Vec<Value> = story.runs.iter().map(Run::summary).collect();
    let refused: Vec<Value> = story
        .refused
        .iter()
        .map(|line| json!({ "seq": line["seq"], "time": line["time"], "command": line["command"], "why": line["why"] }))
        .collect();
    Ok(json!({
        "id": case.facts.id,
        "ticket": case.facts.ticket,
        "reason": case.facts.reason,
        "investigator": case.facts.investigator,
        "approved_by": case.facts.approved_by,
        "opened": case.facts.opened,
        "dir": case.dir,
        "origin": story.opened["origin"],
        "state": if story.closed.is_some() { "closed" } else { "open" },
        "closed": story.closed.as_ref().map(|line| line["time"].clone()),
        "runs": runs,
        "refused": refused,
    }))
}

impl Run {
    fn summary(&self) -> Value {
        let outcome = self.outcome.as_ref();
        json!({
            "run": self.name(),
            "seq": self.intent["seq"],
            "time": self.intent["time"],
            "command": self.intent["command"],
            "verbs": self.intent["verbs"],
            "source": self.intent["source"],
            "instance": self.intent["instance"],
            "paths": self.intent["paths"],
            "approval": self.intent["grant"]["kind"],
            "ratified": self.is_break_glass().then(|| self.ratified.is_some()),
            "ended": outcome.map(|line| line["time"].clone()),
            "exit": outcome.map(|line| line["exit"].clone()),
            "refused": outcome.map(|line| list(line, "/refused").len()),
            "evidence": outcome.map(|line| line["evidence"].clone()),
        })
    }

    /// Its name in the log.
    pub(super) fn name(&self) -> &str {
        text(&self.intent, "/run")
    }

    /// Whether nobody had approved it when it was done.
    pub(super) fn is_break_glass(&self) -> bool {
        text(&self.intent, "/grant/kind") == "break-glass"
    }
}

/// The text at a JSON pointer, or nothing.
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The list at a JSON pointer, or an empty one.
pub(super) fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
