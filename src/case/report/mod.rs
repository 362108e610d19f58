//! The case written up for those who approve and review: one page that loads nothing, or JSON.

mod escape;
mod html;
mod svg;

use std::fs::File;
use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use super::audit::{self, verify::Verdict};
use super::story::{Story, text};
use super::{Case, story};
use crate::error::Result;

/// Files listed one by one for a run; the manifest has the rest.
const FILES_LISTED: usize = 1000;

/// All that a report says.
pub struct Model {
    case: Case,
    story: Story,
    log: Verdict,
    files: Vec<Files>,
}

/// What a run's manifest lists.
#[derive(Default)]
struct Files {
    listed: Vec<Value>,
    more: u64,
}

impl Model {
    /// Gathers it from the case.
    pub fn of(case: &Case) -> Result<Self> {
        let story = Story::read(&case.log_path())?;
        let files = story
            .runs
            .iter()
            .map(|run| {
                let manifest = run.outcome.as_ref().map_or("", |outcome| text(outcome, "/manifest/path"));
                if manifest.is_empty() { Files::default() } else { Files::read(case, manifest) }
            })
            .collect();
        Ok(Self { case: case.clone(), story, log: audit::verify::verify(&case.log_path(), None)?, files })
    }

    /// As JSON: `{case, log, lines…}`, with the log's own lines under `runs`.
    pub fn to_json(&self) -> Value {
        let runs: Vec<Value> = self
            .story
            .runs
            .iter()
            .zip(&self.files)
            .map(|(run, files)| {
                json!({
                    "intent": run.intent,
                    "outcome": run.outcome,
                    "ratified": run.ratified,
                    "files": files.listed,
                    "files_more": files.more,
                })
            })
            .collect();
        json!({
            "case": self.case.facts,
            "state": if self.story.closed.is_some() { "closed" } else { "open" },
            "closed": self.story.closed,
            "log": self.log,
            "runs": runs,
            "refused": self.story.refused,
            "torn": self.story.torn,
        })
    }

    /// As one HTML page.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// All pauses, with the number of their run.
    fn pauses(&self) -> impl Iterator<Item = (usize, &Value)> {
        let runs = self.story.runs.iter().enumerate();
        runs.flat_map(|(n, run)| {
            run.outcome.iter().flat_map(move |o| story::list(o, "/pauses").iter().map(move |p| (n, p)))
        })
    }
}

impl Files {
    /// The lines of a manifest that have a digest. One that cannot be read lists nothing; `case verify` says why.
    fn read(case: &Case, manifest: &str) -> Self {
        let mut files = Self::default();
        let Ok(file) = File::open(case.dir.join(manifest)) else { return files };
        for line in BufReader::new(file).lines().map_while(std::result::Result::ok) {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            if line["output_sha256"].is_null() && line["sha256"].is_null() {
                continue;
            }
            if files.listed.len() < FILES_LISTED {
                let of = |key: &str| line[key].clone();
                files.listed.push(json!({
                    "path": of("path"),
                    "size": of("size"),
                    "nlink": of("nlink"),
                    "sha256": of("sha256"),
                    "output_sha256": of("output_sha256"),
                    "gaps": of("gaps"),
                }));
            } else {
                files.more = files.more.saturating_add(1);
            }
        }
        files
    }
}
