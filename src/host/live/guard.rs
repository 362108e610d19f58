//! The watchdog: the process that acts on the instance, and that outlives whoever asked for it.
//!
//! The program that reads only asks. The watchdog suspends, starts the view and resumes, so that no call of a program that
//! was killed can come after the restore; when the program goes away, is late or asks, it puts everything back. It waits for
//! no log, policy or approval. When it is killed itself, the program does the same by [`super::takeover`].

use std::io::{BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::setsid;

use super::journal::{Journal, Note, socket_path};
use super::process::Running;
use super::run::Run;
use super::wire::{self, Asked, Said};
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::{Patience, poll_for};
use crate::host::libvirt::virsh::Virsh;

/// How often limits are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long it goes on trying to put an instance back. After that the journal is left for `live restore`.
const TRIES: Duration = Duration::from_secs(3600);
/// The longest wait between two tries.
const APART: Duration = Duration::from_secs(15);

/// Why the watchdog stops waiting.
enum Wake {
    Asked(Asked),
    /// The program that reads is gone, or a signal ends the watchdog.
    Left(&'static str),
    Tick,
}

/// Owns the run in this journal until everything is put back.
pub fn watch(path: &Path) -> Result<()> {
    // Its own session: a terminal's hangup and a kill of the reader's process group pass it by. A leader has one already.
    let _ = setsid();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|e| Error::io("block signals", e))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| Error::io("signalfd", e))?;

    let mut journal = Journal::open(path)?;
    if !journal.try_lock()? {
        return Err(Error::refused(format!("{} belongs to another watchdog", path.display())));
    }
    journal.share_lock_with_children()?;
    let me = Running::me()?;
    let mut host = Virsh::new(journal.header().client.clone());
    let stream = UnixStream::connect(socket_path(path))
        .map_err(|e| Error::io("the program that reads is gone already", e));
    let stream = match stream {
        Ok(stream) => {
            // A reader that is stopped must not stop the watchdog.
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            Arc::new(stream)
        }
        Err(e) => {
            // Nothing was done yet.
            journal.close();
            return Err(e);
        }
    };
    if let Err(e) = journal.note(Note::Guard(me)) {
        let _ = wire::say(&stream, &Said::Failed((&e).into()));
        journal.close();
        return Err(e);
    }
    let mut guard = Guard { run: Run::new(&mut host, journal), stream, signals };
    guard.work(me);
    Ok(())
}

struct Guard<'a> {
    run: Run<'a>,
    stream: Arc<UnixStream>,
    signals: SignalFd,
}

impl Guard<'_> {
    fn work(&mut self, me: Running) {
        let patience = Patience { until_hangup: Some(Arc::clone(&self.stream)) };
        let armed = self.run.listen().and_then(|()| wire::say(&self.stream, &Said::Ready(me)));
        let begun =
            armed.and_then(|()| self.wait_for(Asked::Begin)).and_then(|()| self.run.before(&patience));
        if let Err(error) = begun {
            self.put_back();
            return self.say(&Said::Failed((&error).into()));
        }
        self.say(&Said::Reading);
        if let Some(why) = self.attend() {
            self.put_back();
            self.say(&Said::Ended(why));
            // The reader learns what happened when it asks.
            let _ = self.wait_for(Asked::Finish);
        } else {
            self.put_back();
        }
        self.say(&Said::Done(self.run.summary().clone()));
    }

    /// Nobody may listen any more; nothing depends on it.
    fn say(&self, message: &Said) {
        let _ = wire::say(&self.stream, message);
    }

    fn wait_for(&mut self, wanted: Asked) -> Result<()> {
        loop {
            match self.wake(TICK)? {
                Wake::Asked(asked) if asked == wanted => return Ok(()),
                Wake::Left(why) => return Err(Error::new(Kind::Io, why)),
                Wake::Asked(_) | Wake::Tick => {}
            }
        }
    }

    /// Watches while the instance is read. Gives the reason where it ends before it was asked to.
    fn attend(&mut self) -> Option<String> {
        let mut again = Instant::now();
        loop {
            match self.wake(TICK) {
                Ok(Wake::Asked(Asked::Finish)) | Err(_) => return None,
                Ok(Wake::Left(why)) => return Some(why.to_owned()),
                Ok(Wake::Asked(Asked::Begin) | Wake::Tick) => {}
            }
            if let Some(why) = self.run.must_end() {
                return Some(why);
            }
            if Instant::now() >= again {
                self.run.keep_listening();
                again = Instant::now() + Duration::from_secs(1);
            }
        }
    }

    fn wake(&mut self, within: Duration) -> Result<Wake> {
        let mut fds = [
            PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        poll_for(&mut fds, within)?;
        let (asked, signalled) = (fds[0].any().unwrap_or(true), fds[1].any().unwrap_or(true));
        if signalled && let Ok(Some(_)) = self.signals.read_signal() {
            return Ok(Wake::Left("the watchdog was told to end"));
        }
        if !asked {
            return Ok(Wake::Tick);
        }
        // Messages from the reader are one line and come one at a time, so nothing waits in a buffer.
        match wire::hear(&mut BufReader::with_capacity(64, Quiet(&self.stream))) {
            Ok(Some(asked)) => Ok(Wake::Asked(asked)),
            Ok(None) | Err(_) => Ok(Wake::Left("the program that reads is gone")),
        }
    }

    /// Puts everything back, again and again until it is done.
    fn put_back(&mut self) {
        let end = Instant::now() + TRIES;
        let mut apart = Duration::from_millis(200);
        while let Err(error) = self.run.put_back() {
            self.say(&Said::Trouble(error.to_string()));
            if Instant::now() >= end {
                return;
            }
            std::thread::sleep(apart);
            apart = (apart * 2).min(APART);
        }
    }
}

/// Reads a shared connection.
struct Quiet<'a>(&'a UnixStream);

impl Read for Quiet<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match (&mut &*self.0).read(buf) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }
}
