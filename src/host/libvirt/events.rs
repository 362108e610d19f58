//! The lifecycle of a domain as it happens: a `virsh event` that runs beside everything else.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::session::{Client, Process};
use super::{Event, Events};
use crate::error::{Error, Kind, Result};

/// The time that `virsh event` is given between its first answer and having registered. It is one call on a connection
/// that answered already: about a millisecond.
const SETTLE: Duration = Duration::from_millis(150);

/// A `virsh event` for one domain.
pub struct Listener {
    lines: Receiver<String>,
    _process: Process,
}

impl Listener {
    /// Starts to listen. virsh does not say when it has registered; it first answers `domstate` on the same connection.
    /// It ends by itself after `longest`, should nobody be left to end it.
    pub fn start(client: &Client, uuid: &str, longest: Duration, within: Duration) -> Result<Self> {
        let line = format!(
            "domstate '{uuid}'; event --domain '{uuid}' --event lifecycle --loop --timestamp --timeout {}",
            longest.as_secs().max(1)
        );
        let mut process = client.spawn(&[&line], Stdio::null())?;
        let out =
            process.child.stdout.take().ok_or_else(|| Error::new(Kind::Io, "virsh event: no output"))?;
        drop(process.child.stderr.take());
        let (sender, lines) = channel();
        // Ends with the process: its output closes.
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                for line in BufReader::<ChildStdout>::new(out).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            })
            .map_err(|e| Error::io("a thread for events", e))?;
        let listener = Self { lines, _process: process };
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match listener.lines.recv_timeout(left) {
                Ok(text) if !text.trim().is_empty() => break,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::new(Kind::Io, "virsh event gave no sign within its time"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Kind::Io, "virsh event ended at once"));
                }
            }
        }
        std::thread::sleep(SETTLE);
        Ok(listener)
    }
}

impl Events for Listener {
    fn next(&mut self, wait: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(event) = parse(&line) {
                        return Ok(Some(event));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Kind::Io, "virsh event ended: no further event will be heard"));
                }
            }
        }
    }
}

/// `2026-11-22 20:24:56.492+0000: event 'lifecycle' for domain 'x': Suspended Paused`. A domain's name can hold anything
/// but a slash, so the line is read from both ends.
fn parse(line: &str) -> Option<Event> {
    let (time, rest) = line.split_once(": event 'lifecycle' for domain ")?;
    let (_, words) = rest.rsplit_once("': ")?;
    let (what, detail) = words.trim().split_once(' ').unwrap_or((words.trim(), ""));
    let at = jiff::Timestamp::strptime("%Y-%m-%d %H:%M:%S%.f%z", time.trim()).ok()?;
    Some(Event { at: at.as_microsecond(), what: what.to_owned(), detail: detail.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_virsh_event() {
        let line =
            "2026-11-22 20:24:56.492+0000: event 'lifecycle' for domain 'it's: x': Suspended I/O Error";
        let event = parse(line).unwrap();
        assert_eq!((event.what.as_str(), event.detail.as_str()), ("Suspended", "I/O Error"));
        // date -u -d '2026-11-22 20:24:56' +%s
        assert_eq!(event.at, 1_795_379_096_492_000);
        assert_eq!(parse("events received: 1"), None);
    }
}
