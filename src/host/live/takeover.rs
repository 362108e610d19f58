//! Finishing what others began: a run whose watchdog was killed, by the program that read, or by `live restore`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::journal::{self, Header, Journal, Note};
use super::process::{self, Running};
use super::restore::{self, Outcome};
use super::run::CALL;
use super::steps::Owed;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::Patience;
use crate::host::libvirt::virsh::Virsh;
use crate::host::libvirt::{Host, State};

/// How long a process that was killed may take to let go of the lock.
const LETS_GO: Duration = Duration::from_secs(5);

/// A run that is not closed.
#[derive(Clone, Debug, Serialize)]
pub struct Unfinished {
    /// The journal.
    pub journal: String,
    /// The domain's UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// `brief`, `hold`, `no-pause`.
    pub mode: String,
    /// When the run began: microseconds since 1970.
    pub started: i64,
    /// Whether a watchdog works on it.
    pub guarded: bool,
    /// The watchdog's pid, if it is alive.
    pub watchdog: Option<u32>,
    /// The pid of the program that began it, if it is alive.
    pub reader: Option<u32>,
    /// Whether a pause of ours may last.
    pub owes_resume: bool,
    /// Whether a view of ours may be there.
    pub owes_view: bool,
    /// The last failure to put it back.
    pub failed: Option<String>,
    /// The command that resumes it by hand.
    pub by_hand: String,
}

/// How the restore of one run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The domain's UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// What was done, or why nothing was; a sentence.
    pub what: String,
}

/// The runs in this directory that are not closed, and the journals that make no sense.
pub fn status(dir: &Path) -> Result<(Vec<Unfinished>, Vec<Error>)> {
    let (mut runs, mut unread) = (Vec::new(), Vec::new());
    for (path, journal) in journal::all(dir)? {
        match journal {
            Ok(journal) => runs.push(unfinished(&journal)),
            Err(_) if !path.exists() => {}
            Err(e) => unread.push(e),
        }
    }
    Ok((runs, unread))
}

fn unfinished(journal: &Journal) -> Unfinished {
    let header = journal.header();
    let owed = Owed::from_notes(journal.notes());
    let guard = guard(journal);
    Unfinished {
        journal: journal.path().display().to_string(),
        uuid: header.uuid.clone(),
        name: header.name.clone(),
        mode: header.mode.word().to_owned(),
        started: header.started,
        guarded: guard.is_some(),
        watchdog: guard.map(|guard| guard.pid),
        reader: header.parent.is_alive().then_some(header.parent.pid),
        owes_resume: owed.resume,
        owes_view: owed.drop_view,
        failed: journal.notes().iter().rev().find_map(|note| match note {
            Note::Failed(why) => Some(why.clone()),
            _ => None,
        }),
        by_hand: restore::by_hand(header),
    }
}

/// The watchdog of the run, if it is alive.
fn guard(journal: &Journal) -> Option<Running> {
    let last = journal.notes().iter().rev().find_map(|note| match note {
        Note::Guard(running) => Some(*running),
        _ => None,
    });
    last.filter(Running::is_alive)
}

/// Finishes every run in this directory that nobody works on, `within` for each. The journals of the others stay.
pub fn restore_all(dir: &Path, within: Duration) -> Result<Vec<Result<Restored>>> {
    let mut out = Vec::new();
    for (path, journal) in journal::all(dir)? {
        let journal = match journal {
            Ok(journal) => journal,
            Err(_) if !path.exists() => continue,
            Err(e) => {
                out.push(Err(e));
                continue;
            }
        };
        let Header { uuid, name, .. } = journal.header().clone();
        let said = |what: String| Ok(Restored { uuid: uuid.clone(), name: name.clone(), what });
        if let Some(guard) = guard(&journal) {
            out.push(said(format!("left alone: the watchdog with pid {} works on it", guard.pid)));
            continue;
        }
        if is_beginning(&journal) {
            let reader = journal.header().parent.pid;
            out.push(said(format!("left alone: pid {reader} is just beginning, and nothing was done yet")));
            continue;
        }
        out.push(take_over(&path, within).and_then(|gone| {
            said(match gone {
                None => "finished: everything is put back".to_owned(),
                Some(why) => format!("closed without acting: {why}"),
            })
        }));
    }
    Ok(out)
}

/// Whether the program that began it is alive and has not got as far as a watchdog.
fn is_beginning(journal: &Journal) -> bool {
    journal.notes().is_empty() && journal.header().parent.is_alive()
}

/// Whether nothing was begun and nobody is left who could: such a journal says nothing.
pub fn is_void(journal: &Journal) -> bool {
    let notes = journal.notes();
    let nothing = notes.iter().all(|note| matches!(note, Note::Guard(_)));
    nothing && !journal.header().parent.is_alive() && guard(journal).is_none()
}

/// Ends whoever of the run is left, takes its lock and puts everything back. Gives the reason where there was nothing to act
/// on any more; a journal that was closed meanwhile is one.
pub fn take_over(path: &Path, within: Duration) -> Result<Option<String>> {
    let until = Instant::now() + within;
    let lock_by = Instant::now() + LETS_GO;
    let journal = loop {
        if !path.exists() {
            return Ok(None);
        }
        // Everybody with the journal open is the watchdog or a virsh that it started.
        for left in process::holders(path) {
            left.kill();
        }
        let journal = match Journal::open(path) {
            Err(_) if !path.exists() => return Ok(None),
            journal => journal?,
        };
        if journal.try_lock()? {
            break journal;
        }
        if Instant::now() >= lock_by {
            return Err(Error::new(Kind::Unrestored, format!("{} stays locked", path.display()))
                .hint(restore::by_hand(journal.header())));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    put_back(journal, until)
}

/// Puts back what a journal owes, as the one who holds its lock. Tries until `until`.
fn put_back(mut journal: Journal, until: Instant) -> Result<Option<String>> {
    let header = journal.header().clone();
    let owed = Owed::from_notes(journal.notes());
    let mut apart = Duration::from_millis(200);
    loop {
        let mut host = Virsh::new(header.client.clone());
        host.set_limits(CALL, &Patience::default());
        let outcome = restore::restore(&mut host, &header, owed, true, &mut |step| {
            // For whoever comes after us; not needed for what we do.
            let _ = journal.note(Note::Done(step));
        });
        match outcome {
            Ok(outcome) => {
                journal.close();
                return Ok(match outcome {
                    Outcome::Back => None,
                    Outcome::Gone(why) => Some(why),
                });
            }
            Err(error) if Instant::now() + apart >= until => {
                let _ = journal.note(Note::Failed(error.to_string()));
                return Err(if error.kind() == Kind::Unrestored {
                    error
                } else {
                    uncertain(&header, &error)
                });
            }
            Err(_) => {}
        }
        std::thread::sleep(apart);
        apart = (apart * 2).min(Duration::from_secs(5));
    }
}

/// libvirt could not be asked or told: nobody knows how the instance is.
pub fn uncertain(header: &Header, error: &Error) -> Error {
    let unknown = State { state: "in an unknown state".into(), reason: String::new() };
    restore::unrestored(header, &unknown, error.what())
}
