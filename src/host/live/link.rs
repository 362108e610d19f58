//! The reader's end of a run: it asks the watchdog, hears what it says, and takes over when it is lost.

use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::arm::Armed;
use super::process::Running;
use super::takeover;
use super::wire::{self, Asked, Said, Summary};
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::poll_for;

/// What is known of the run.
#[derive(Default)]
struct Known {
    guard: Option<Running>,
    reading: bool,
    failed: Option<Error>,
    ended: Option<String>,
    trouble: Option<String>,
    done: Option<Summary>,
    /// The watchdog is lost, and this came of putting everything back without it.
    lost: Option<std::result::Result<Option<String>, Error>>,
}

struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

/// A run with its watchdog.
pub struct Link {
    stream: Arc<UnixStream>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    child: Option<Child>,
    patience: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Link {
    /// Listens to a watchdog. By `latest` it has ended the run by itself; one that has not is taken for lost.
    pub fn new(armed: Armed, journal: PathBuf, latest: Instant, patience: Duration) -> Result<Self> {
        let stream = Arc::new(armed.stream);
        let shared = Arc::new(Shared { known: Mutex::default(), changed: Condvar::new() });
        let (theirs, ours) = (Arc::clone(&shared), Arc::clone(&stream));
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || listen(&ours, &theirs, &journal, latest, patience))
            .map_err(|e| Error::io("a thread for the watchdog", e))?;
        Ok(Self { stream, shared, thread: Some(thread), child: armed.child, patience })
    }

    /// Waits until the watchdog is ready.
    pub fn ready(&self, effort: &Effort) -> Result<(), Finish> {
        self.wait(effort, |known| known.guard.is_some())
    }

    /// Asks for the steps before reading and waits for them.
    pub fn begin(&self, effort: &Effort) -> Result<(), Finish> {
        wire::say(&self.stream, &Asked::Begin).map_err(Finish::Error)?;
        self.wait(effort, |known| known.reading)
    }

    fn wait(&self, effort: &Effort, until: impl Fn(&Known) -> bool) -> Result<(), Finish> {
        let mut known = self.shared.lock();
        let mut trouble_until = None;
        loop {
            if let Some(error) = known.failed.take() {
                return Err(Finish::Error(error));
            }
            match known.lost.take() {
                Some(Ok(_)) => {
                    let text = "the watchdog was lost before anything was read; everything is put back";
                    return Err(Finish::Error(Error::new(Kind::Io, text)));
                }
                Some(Err(error)) => return Err(Finish::Error(error)),
                None => {}
            }
            if until(&known) {
                return Ok(());
            }
            // The steps failed, and so does putting back what they did.
            if known.trouble.is_some() {
                let until = *trouble_until.get_or_insert_with(|| Instant::now() + self.patience);
                if Instant::now() >= until {
                    return Err(Finish::Late(known.trouble.take()));
                }
            } else if effort.is_cancelled() {
                return Err(Finish::Cancelled);
            }
            (known, _) = self
                .shared
                .changed
                .wait_timeout(known, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why what is read now may not be of the moment that was asked for, if there is a reason.
    pub fn over(&self) -> Option<String> {
        let known = self.shared.lock();
        match (&known.ended, &known.lost) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(_)) => Some("the watchdog was lost".to_owned()),
            (None, None) => None,
        }
    }

    /// Asks for everything to be put back and waits for it. The watchdog goes on trying when this gives up.
    pub fn finish(&mut self) -> Result<Summary, Finish> {
        // A watchdog that cannot be asked is lost, and the thread acts on that.
        let _ = wire::say(&self.stream, &Asked::Finish);
        let deadline = Instant::now() + self.patience;
        let shared = Arc::clone(&self.shared);
        let mut known = shared.lock();
        loop {
            if let Some(mut summary) = known.done.take() {
                if let Some(why) = known.ended.take() {
                    summary
                        .marks
                        .insert(0, format!("{why}: everything was put back before reading was over"));
                }
                drop(known);
                self.reap();
                return Ok(summary);
            }
            if let Some(error) = known.failed.take() {
                return Err(Finish::Error(error));
            }
            if let Some(lost) = known.lost.take() {
                drop(known);
                self.reap();
                let gone = lost.map_err(Finish::Error)?;
                let mut summary = Summary::default();
                summary.marks.push("the watchdog was lost, and everything was put back at once".to_owned());
                summary.marks.extend(gone.map(|why| format!("{why}; nothing was done to it")));
                return Ok(summary);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Finish::Late(known.trouble.take()));
            }
            (known, _) = shared.changed.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Collects the thread and the child, both of which have ended or are about to.
    fn reap(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// Why a run did not end well.
pub enum Finish {
    /// This came of it.
    Error(Error),
    /// It did not end in time; the last trouble that the watchdog told of.
    Late(Option<String>),
    /// The work was cancelled, and the run is still to be finished.
    Cancelled,
}

fn listen(
    stream: &UnixStream,
    shared: &Shared,
    journal: &std::path::Path,
    latest: Instant,
    patience: Duration,
) {
    let mut from = BufReader::new(stream);
    loop {
        while from.buffer().is_empty() {
            let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            if poll_for(&mut fds, Duration::from_millis(200)).is_err() {
                break;
            }
            if fds[0].any().unwrap_or(true) {
                break;
            }
            let known = shared.lock();
            let late = Instant::now() >= latest && known.ended.is_none() && known.trouble.is_none();
            drop(known);
            if late {
                // It should have ended the run by now: it is stopped or stuck.
                return shared.update(|known| known.lost = Some(takeover::take_over(journal, patience)));
            }
        }
        match wire::hear::<Said>(&mut from) {
            Ok(Some(Said::Ready(guard))) => shared.update(|known| known.guard = Some(guard)),
            Ok(Some(Said::Reading)) => shared.update(|known| known.reading = true),
            Ok(Some(Said::Failed(failure))) => {
                return shared.update(|known| known.failed = Some(failure.into()));
            }
            Ok(Some(Said::Ended(why))) => shared.update(|known| known.ended = Some(why)),
            Ok(Some(Said::Trouble(why))) => shared.update(|known| known.trouble = Some(why)),
            Ok(Some(Said::Done(summary))) => return shared.update(|known| known.done = Some(summary)),
            Ok(None) | Err(_) => {
                let outcome = takeover::take_over(journal, patience);
                return shared.update(|known| known.lost = Some(outcome));
            }
        }
    }
}
