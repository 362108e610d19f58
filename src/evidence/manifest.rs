//! `manifest.jsonl` and `SHA256SUMS`: whole lines only, written as the work goes.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::chunks::Gap;
use super::copy::sink_error;
use super::hash::{Sum, hex};
use super::json::{self, Json};
use crate::error::{Error, Result};
use crate::fs::Time;

/// What a run did, for its summary line and its exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Names that were dealt with, directories and links among them.
    pub files: u64,
    /// Bytes of content, each stored file once.
    pub bytes: u64,
    /// Ranges that could not be read, and files, parts of directories and attributes.
    pub gaps: u64,
    /// Paths that the approval does not cover.
    pub refused: u64,
}

/// Written lines that may be lost when the run is killed.
const HELD_BYTES: usize = 256 << 10;

/// How long a line is held back at most while others come, so that a killed run has nearly all of its lines.
pub const HELD_TIME: Duration = Duration::from_millis(250);

/// A file of lines. Lines reach it whole.
pub struct Lines {
    file: Box<dyn Write + Send>,
    held: Vec<u8>,
    since: Instant,
}

impl Lines {
    /// Lines that go to `file`.
    pub fn new(file: Box<dyn Write + Send>) -> Self {
        Self { file, held: Vec::new(), since: Instant::now() }
    }

    /// Where to put whole lines, before [`Lines::put`].
    pub fn push(&mut self, lines: &[u8]) -> Result<()> {
        self.held.extend_from_slice(lines);
        if self.held.len() >= HELD_BYTES || self.since.elapsed() >= HELD_TIME { self.flush() } else { Ok(()) }
    }

    /// Writes what is held.
    pub fn flush(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.held).and_then(|()| self.file.flush()).map_err(sink_error)?;
        self.held.clear();
        self.since = Instant::now();
        Ok(())
    }
}

/// The two files of an extraction.
pub struct Manifest {
    lines: Lines,
    sums: Lines,
    files: Vec<File>,
}

impl Manifest {
    /// Writes to these.
    pub fn new(lines: File, sums: File) -> Result<Self> {
        let twin = |file: &File| file.try_clone().map_err(sink_error);
        let files = vec![twin(&lines)?, twin(&sums)?];
        Ok(Self { lines: Lines::new(Box::new(lines)), sums: Lines::new(Box::new(sums)), files })
    }

    /// Adds whole lines.
    pub fn push(&mut self, lines: &[u8], sums: &[u8]) -> Result<()> {
        self.lines.push(lines)?;
        self.sums.push(sums)
    }

    /// Writes what is held.
    pub fn flush(&mut self) -> Result<()> {
        self.lines.flush()?;
        self.sums.flush()
    }

    /// The summary, and everything on disk.
    pub fn finish(mut self, summary: &[u8]) -> Result<()> {
        self.lines.push(summary)?;
        self.flush()?;
        self.files.iter().try_for_each(|file| file.sync_all().map_err(sink_error))
    }
}

/// The longest path, in bytes, that `SHA256SUMS` lists: other programs cannot open a longer one by name.
pub const SUM_PATH_MAX: usize = 4095;

/// One line of `SHA256SUMS`, as sha256sum(1) writes it: with a backslash before it if the name has a backslash or a line's end.
pub fn sum_line(out: &mut Vec<u8>, sum: &Sum, path: &[u8]) {
    if path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        out.push(b'\\');
    }
    out.extend_from_slice(hex(sum).as_bytes());
    out.extend_from_slice(b"  ");
    for byte in path {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\n');
}

/// The digests of a file, as they stand in its line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Path in the output, where there is one.
    pub output: Option<Vec<u8>>,
    /// SHA-256 of the output.
    pub sum: Option<Sum>,
    /// The sparse digest, where there is no other.
    pub sparse: Option<Sum>,
    /// What could not be read. With any, the content's own digest is not known.
    pub gaps: Vec<Gap>,
    /// Why there is no digest although nothing is missing.
    pub note: Option<&'static str>,
}

impl Stored {
    /// Nothing, of content that could not be opened.
    pub fn unread(size: u64, problems: &[Error]) -> Self {
        let error = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Self { gaps: vec![Gap { start: 0, len: size, error }], ..Self::default() }
    }

    /// The members that the manifest adds to the object of `stat`.
    pub fn members(&self, json: &mut Json<'_>) {
        let digest = |json: &mut Json<'_>, name, sum: Option<&Sum>| match sum {
            Some(sum) => json.word(name, &hex(sum)),
            None => json.null(name),
        };
        digest(json, "sha256", self.sum.as_ref().filter(|_| self.gaps.is_empty()));
        match &self.output {
            Some(output) => json.path("output", output),
            None => json.null("output"),
        }
        digest(json, "output_sha256", self.sum.as_ref());
        gaps(json, &self.gaps);
        if let Some(sum) = &self.sparse {
            json.word("sparse_sha256", &hex(sum));
        }
        if let Some(note) = self.note {
            json.text("note", note);
        }
    }
}

/// `gaps: [{start, length, error}]`.
pub fn gaps(json: &mut Json<'_>, gaps: &[Gap]) {
    json.list("gaps", gaps, |out, gap| {
        let mut json = Json::object(out);
        json.number("start", gap.start);
        json.number("length", gap.len);
        json.text("error", &gap.error);
        json.end();
    });
}

/// The last line: what was done, then what the caller says about the source (`about`), then when.
pub fn summary(outcome: &Outcome, about: &Map<String, Value>, started: Time) -> Vec<u8> {
    let mut line = Vec::new();
    let mut outer = Json::object(&mut line);
    let mut json = Json::object(outer.key("summary"));
    json.number("files", outcome.files);
    json.number("bytes", outcome.bytes);
    json.number("gaps", outcome.gaps);
    json.number("refused", outcome.refused);
    for (name, value) in about {
        let out = json.raw_key();
        json::string(out, name);
        out.push(b':');
        out.extend_from_slice(value.to_string().as_bytes());
    }
    json.time("started", Some(started));
    json.time("finished", Some(now()));
    json.word("tool", env!("CARGO_PKG_NAME"));
    json.word("version", env!("CARGO_PKG_VERSION"));
    json.end();
    outer.end();
    line.push(b'\n');
    line
}

/// The time.
pub fn now() -> Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() }
}
