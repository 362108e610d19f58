//! Words out: where text goes, how it is escaped, how tables look, when a closed pipe is no fault.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use coldread::effort::Effort;
use coldread::error::{Error, Kind, Result};
use coldread::stack::Time;
use jiff::Timestamp;
use serde_json::{Value, json};

/// How a command ended. The order is the order of precedence: what is worse comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: answered in full.
    Complete,
    /// 1: answered, with gaps; or a check that failed.
    Gaps,
    /// 2: no answer.
    Failed,
    /// 3: something was refused.
    Refused,
    /// 4: an instance may not be as it was found.
    Unrestored,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Gaps => 1,
            Self::Failed => 2,
            Self::Refused => 3,
            Self::Unrestored => 4,
        }
    }

    /// The code that an error stands for when it ends a command.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Refused => Self::Refused,
            Kind::Unrestored => Self::Unrestored,
            _ => Self::Failed,
        }
    }

    /// The code that an error stands for when the rest was answered.
    pub fn of_part(error: &Error) -> Self {
        match error.kind() {
            Kind::Refused => Self::Refused,
            Kind::Unrestored => Self::Unrestored,
            _ => Self::Gaps,
        }
    }

    /// The graver of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

/// How to speak: the global options.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// JSON instead of tables.
    pub json: bool,
    /// Messages below errors are left out.
    pub quiet: bool,
    /// More is said.
    pub verbose: bool,
    /// Whether standard output takes colours.
    pub color: bool,
    /// Whether a progress bar may be drawn.
    pub progress: bool,
}

impl Voice {
    /// Says something beside the answer, on standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("coldread: {}", printable(text));
        }
    }

    /// Says something only to who asked for more.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            eprintln!("coldread: {}", printable(text));
        }
    }

    /// Shows an error on standard error, in the form that was asked for.
    pub fn error(&self, error: &Error) {
        if self.json {
            eprintln!("{}", error_json(error));
        } else {
            let mut lines = error.to_string();
            if let Some(rest) = lines.strip_prefix("usage: ") {
                lines = rest.to_string();
            }
            let shown: Vec<_> = lines.lines().map(printable).collect();
            eprintln!("coldread: {}", shown.join("\n"));
        }
    }

    /// Shows the findings that reading made, and how many more there were.
    pub fn findings(&self, effort: &Effort) {
        let (findings, more) = effort.findings();
        let shown = if self.verbose { findings.len() } else { findings.len().min(10) };
        for finding in findings.iter().take(shown) {
            let mut text = format!("finding: {}", finding.what);
            for (i, place) in finding.site.iter().enumerate() {
                let lead = if i == 0 { "\n  at " } else { " = " };
                let _ = write!(text, "{lead}{}+{:#x}", place.source, place.offset);
            }
            for line in text.lines() {
                self.note(line);
            }
        }
        let left = more.saturating_add(findings.len() as u64).saturating_sub(shown as u64);
        if left > 0 {
            self.note(&format!("{left} more findings (-v shows those that were kept)"));
        }
    }
}

/// An error as one JSON object.
fn error_json(error: &Error) -> Value {
    let site: Vec<_> =
        error.site().iter().map(|p| json!({"source": &*p.source, "offset": p.offset})).collect();
    let full = error.to_string();
    let first = full.lines().next().unwrap_or_default();
    let what = first.split_once(": ").map_or(first, |(_, what)| what);
    json!({"error": {"kind": error.kind().word(), "what": what, "site": site, "hint": error.hint_text()}})
}

/// Standard output, buffered. A reader that goes away ends a listing quietly.
pub struct Stdout {
    inner: BufWriter<io::StdoutLock<'static>>,
    closed: bool,
}

impl Stdout {
    /// Takes standard output.
    pub fn lock() -> Self {
        Self { inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()), closed: false }
    }

    /// Writes a line of text.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// Writes one JSON value on a line of its own.
    pub fn json(&mut self, value: &Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(closed)
    }

    /// Whether whoever wrote through [`Write`] found the reader gone.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes what is held; what could not be written is an error.
    pub fn end(&mut self) -> Result<()> {
        self.inner.flush().map_err(closed)
    }
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf).inspect_err(|error| self.closed |= error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().inspect_err(|error| self.closed |= error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The message by which [`is_closed_pipe`] knows a reader that went away.
const CLOSED: &str = "standard output was closed";

fn closed(error: io::Error) -> Error {
    let what =
        if error.kind() == io::ErrorKind::BrokenPipe { CLOSED } else { "cannot write to standard output" };
    Error::io(what, error)
}

/// Whether the error only says that nobody reads on.
pub fn is_closed_pipe(error: &Error) -> bool {
    error.kind() == Kind::Io && error.what() == CLOSED
}

/// Whether standard output is a terminal.
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Text from anywhere made safe for a terminal: control characters of both sets and the characters that turn the
/// direction of writing are shown escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else if turns || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A size as people read it: `512 B`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths % 10 == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A time, RFC 3339 UTC with nanoseconds; beyond the years 0 to 9999 `@seconds.nanoseconds`.
pub fn rfc3339(time: Time) -> String {
    let stamp = i32::try_from(time.nanoseconds).ok().and_then(|ns| Timestamp::new(time.seconds, ns).ok());
    match stamp.map(|stamp| format!("{stamp:.9}")) {
        Some(text) if !text.starts_with(['-', '+']) => text,
        _ => format!("@{}.{:09}", time.seconds, time.nanoseconds),
    }
}

/// A table for people: the columns as wide as they need to be, numbers to the right.
pub struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: &[(&'static str, Align)]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; every cell is made safe for the terminal.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Writes it. Columns that are empty in every row are left out.
    pub fn print(&self, out: &mut Stdout, color: bool) -> Result<()> {
        let used: Vec<usize> = (0..self.head.len())
            .filter(|&i| self.rows.iter().any(|row| row.get(i).is_some_and(|c| !c.is_empty())))
            .collect();
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(self.head[i].0.len())
        };
        let widths: Vec<usize> = used.iter().map(|&i| width(i)).collect();
        let head: Vec<String> = self.head.iter().map(|(name, _)| (*name).to_string()).collect();
        let line = |row: &[String]| {
            let mut text = String::new();
            for (n, (&i, &width)) in used.iter().zip(&widths).enumerate() {
                let cell = row.get(i).map_or("", String::as_str);
                let _ = match self.head[i].1 {
                    Align::Right => write!(text, "{cell:>width$}"),
                    Align::Left if n + 1 == used.len() => write!(text, "{cell}"),
                    Align::Left => write!(text, "{cell:<width$}"),
                };
                if n + 1 < used.len() {
                    text.push_str("  ");
                }
            }
            text
        };
        let head = line(&head);
        out.line(&if color { format!("\x1b[1m{head}\x1b[0m") } else { head })?;
        for row in &self.rows {
            out.line(line(row).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_shown_escaped() {
        assert_eq!(printable("a\x1b[31m\u{9b}\u{202e}b\n"), "a\\x1b[31m\\x9b\\u{202e}b\\x0a");
        assert_eq!(printable("größe 日本"), "größe 日本");
    }

    #[test]
    fn sizes_as_people_read_them() {
        assert_eq!([0, 1023, 1024, 1536, 6 << 30].map(size), ["0 B", "1023 B", "1 KiB", "1.5 KiB", "6 GiB"]);
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    /// Expected values from `date -u -d @SECONDS`.
    #[test]
    fn times_as_rfc_3339() {
        let text = |seconds, nanoseconds| rfc3339(Time { seconds, nanoseconds });
        assert_eq!(text(0, 1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(-315_619_200, 0), "1960-01-01T00:00:00.000000000Z");
        assert_eq!(text(-1, 500_000_000), "1969-12-31T23:59:59.500000000Z");
        assert_eq!(text(253_402_300_800, 7), "@253402300800.000000007");
    }

    #[test]
    fn the_graver_exit_wins() {
        assert_eq!(Exit::Gaps.and(Exit::Refused).code(), 3);
        assert_eq!(Exit::Unrestored.and(Exit::Refused).code(), 4);
    }
}
