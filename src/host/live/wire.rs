//! What the watchdog and the program that reads say to each other: JSON, one object a line, over a Unix socket.

use std::io::{BufRead, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::process::Running;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::Event;

/// What the reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Take the steps before reading.
    Begin,
    /// Reading is over: put everything back.
    Finish,
}

/// What the watchdog says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It owns the run and listens to events.
    Ready(Running),
    /// The steps before reading are done.
    Reading,
    /// They failed, and what they had done was put back.
    Failed(Failure),
    /// It put everything back before it was asked to; the reason.
    Ended(String),
    /// It could not put everything back so far, and goes on trying.
    Trouble(String),
    /// Everything is put back.
    Done(Summary),
}

/// An error on its way from one process to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    kind: String,
    what: String,
    hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().word().to_owned(),
            what: error.what().to_owned(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kinds =
            [Kind::Corrupt, Kind::Unsupported, Kind::NotFound, Kind::Refused, Kind::Usage, Kind::Unrestored];
        let kind = kinds.into_iter().find(|kind| kind.word() == failure.kind).unwrap_or(Kind::Io);
        let error = Self::new(kind, failure.what);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What happened to the instance during a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its lifecycle events.
    pub events: Vec<Event>,
    /// When libvirt said that our pause began: microseconds since 1970.
    pub suspended: Option<i64>,
    /// When it said that it ended.
    pub resumed: Option<i64>,
    /// Why what was read may not be of one moment: the answer has gaps.
    pub marks: Vec<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// Why the instance is not as it was found, although nothing of ours is left to undo.
    pub left: Option<String>,
}

/// Sends one message.
pub fn say(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message).map_err(|e| Error::io("a message", e))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| Error::io("the other end of the run is gone", e))
}

/// The next message; none at the end.
pub fn hear<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(n) if n > 0 && line.ends_with('\n') => serde_json::from_str(&line)
            .map(Some)
            .map_err(|e| Error::io(format!("a message that makes no sense: {line:?}"), e)),
        // The end, or a peer that died: the same.
        _ => Ok(None),
    }
}
