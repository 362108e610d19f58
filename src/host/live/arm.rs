//! Starting the watchdog so that it outlives us.
//!
//! Where systemd runs it becomes a transient unit, outside our control group; else it is a child that makes itself a session of
//! its own. It is the file that this program runs from (`/proc/PID/exe`), also when that was replaced or removed meanwhile.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::unistd::geteuid;

use crate::effort::Effort;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::poll_for;

/// How long the watchdog may take to connect.
const CONNECTS: Duration = Duration::from_secs(15);

/// A watchdog that was started.
pub struct Armed {
    /// The connection to it.
    pub stream: UnixStream,
    /// The process, where it is our child.
    pub child: Option<Child>,
}

/// Starts the watchdog for a journal and waits for it to connect.
pub fn arm(
    journal: &Path,
    socket: &Path,
    program: Option<&Path>,
    run: &str,
    effort: &Effort,
) -> Result<Armed> {
    let at = |e| Error::io(format!("the socket {}", socket.display()), e);
    let listener = UnixListener::bind(socket).map_err(at)?;
    listener.set_nonblocking(true).map_err(at)?;
    let by_systemd = has_systemd() && by_systemd(journal, program, run);
    let mut child = if by_systemd { None } else { Some(spawn(journal, program)?) };
    let connected = connect(&listener, child.as_mut(), effort);
    // Both ends are there, or never will be.
    let _ = std::fs::remove_file(socket);
    match connected {
        Ok(stream) => Ok(Armed { stream, child }),
        Err(e) => {
            if let Some(child) = &mut child {
                let _ = child.kill();
                let _ = child.wait();
            }
            Err(e)
        }
    }
}

fn connect(listener: &UnixListener, mut child: Option<&mut Child>, effort: &Effort) -> Result<UnixStream> {
    let deadline = Instant::now() + CONNECTS;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(|e| Error::io("the watchdog's connection", e))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("the watchdog's connection", e)),
        }
        effort.check()?;
        if let Some(Ok(Some(status))) = child.as_mut().map(|child| child.try_wait()) {
            return Err(Error::new(Kind::Io, format!("the watchdog ended at once: {status}")));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::Io, "the watchdog did not come up"));
        }
        poll_for(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], Duration::from_millis(50))?;
    }
}

/// As `sd_booted(3)` tells it. A unit of the system manager needs root.
fn has_systemd() -> bool {
    geteuid().is_root() && Path::new("/run/systemd/system").is_dir()
}

fn by_systemd(journal: &Path, program: Option<&Path>, run: &str) -> bool {
    // The manager starts it, so our own /proc/self means nothing to it.
    let program =
        program.map_or_else(|| PathBuf::from(format!("/proc/{}/exe", std::process::id())), Path::to_owned);
    let status = Command::new("systemd-run")
        .args(["--quiet", "--collect", "--no-ask-password", "--service-type=exec"])
        .arg(format!("--unit=coldread-watchdog-{run}"))
        .args(["--description=coldread: puts an instance back", "--property=KillMode=process"])
        .arg("--")
        .arg(program)
        .arg("watchdog")
        .arg(journal)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn spawn(journal: &Path, program: Option<&Path>) -> Result<Child> {
    let program = program.unwrap_or(Path::new("/proc/self/exe"));
    Command::new(program)
        .arg0("coldread")
        .arg("watchdog")
        .arg(journal)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io("the watchdog cannot be started", e))
}
