//! One virsh process that answers one command after the other.
//!
//! Commands go in by standard input, so that a command can depend on the answer before it and still need no new process
//! and no new connection: a suspend takes 5 ms this way instead of 30. Each command is put between two marks that virsh
//! itself prints; what lies between them is its answer. With quotes inside the marks the echo of the command line,
//! which virsh gives with some builds of readline, never looks like a mark.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Error, Kind, Result};

/// The longest answer that is kept, in bytes.
const LONGEST: usize = 16 << 20;

/// How virsh is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Client {
    /// The program and its first arguments: `virsh`, or `podman exec nova_libvirt virsh`.
    pub words: Vec<String>,
    /// The URI for `--connect`.
    pub connect: Option<String>,
}

impl Client {
    /// The words that start virsh, quiet and connected.
    pub fn line(&self) -> Vec<String> {
        let mut words = if self.words.is_empty() { vec!["virsh".to_owned()] } else { self.words.clone() };
        // Without -i a container's exec has no standard input.
        let engine = words.first().is_some_and(|w| matches!(w.rsplit('/').next(), Some("podman" | "docker")));
        if engine
            && words.get(1).is_some_and(|w| w == "exec")
            && !words.iter().any(|w| w == "-i" || w == "--interactive")
        {
            words.insert(2, "-i".to_owned());
        }
        words.push("--quiet".to_owned());
        if let Some(uri) = &self.connect {
            words.extend(["--connect".to_owned(), uri.clone()]);
        }
        words
    }

    /// The command a person types to do `act` by hand.
    pub fn by_hand(&self, act: &str) -> String {
        let mut words = if self.words.is_empty() { vec!["virsh".to_owned()] } else { self.words.clone() };
        if let Some(uri) = &self.connect {
            words.extend(["--connect".to_owned(), uri.clone()]);
        }
        words.push(act.to_owned());
        words.join(" ")
    }

    /// Starts it with `arguments`, in a process group of its own, so that all of it can be ended.
    pub(super) fn spawn(&self, arguments: &[&str], stdin: Stdio) -> Result<Process> {
        let words = self.line();
        let (program, first) =
            words.split_first().ok_or_else(|| Error::usage("the command for virsh is empty"))?;
        let child = Command::new(program)
            .args(first)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("TERM", "dumb")
            .env("VIRSH_HISTSIZE", "0")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| {
                Error::io(format!("{program} cannot be started"), e)
                    .hint("install libvirt-clients, or say how virsh is run, such as --virsh 'podman exec nova_libvirt virsh'")
            })?;
        Ok(Process { child })
    }
}

/// A child and its process group; killed and reaped when dropped.
pub(super) struct Process {
    pub(super) child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // Fails only where nothing of the group is left.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// A virsh that takes commands.
pub struct Session {
    process: Process,
    stdin: ChildStdin,
    out: ChildStdout,
    err: ChildStderr,
    calls: u64,
}

/// What ends a wait besides the answer.
#[derive(Clone, Default)]
pub struct Patience {
    /// The other end of this connection closed: nobody wants the answer any more.
    pub until_hangup: Option<Arc<UnixStream>>,
}

impl Session {
    /// Starts virsh. That it is connected shows with the first command.
    pub fn open(command: &Client) -> Result<Self> {
        let mut process = command.spawn(&[], Stdio::piped())?;
        let child = &mut process.child;
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(out), Some(err)) => Ok(Self { process, stdin, out, err, calls: 0 }),
            _ => Err(Error::new(Kind::Io, "virsh: its pipes are missing")),
        }
    }

    /// Runs one command and gives what it printed. `Ok(Err(text))` is virsh's own failure; an error says that the session
    /// is of no further use and drops with it the process.
    pub fn call(
        &mut self,
        line: &str,
        within: Duration,
        patience: &Patience,
    ) -> Result<Result<String, String>> {
        let deadline = Instant::now() + within;
        self.calls += 1;
        let n = self.calls;
        // A broken pipe here shows below as the end of the output, where its reason is known.
        let _ = self.stdin.write_all(format!("echo b''eg-{n}:; {line}; echo e''nd-{n}:\n").as_bytes());
        let (begin, end) = (format!("beg-{n}:"), format!("end-{n}:"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    Kind::Io,
                    format!("virsh gave no answer to {:?} within {} s", verb(line), within.as_secs_f32()),
                )
                .hint("libvirtd may hang, or another job holds the domain"));
            }
            let ready = wait(&self.out, &self.err, patience.until_hangup.as_deref(), left)?;
            if ready.err {
                fill(&mut self.err, &mut err)?;
            }
            if ready.out {
                let ended = fill(&mut self.out, &mut out)? == 0;
                if let Some(text) = between(&out, &begin, &end) {
                    // virsh wrote its errors before the mark, so they are in the pipe by now.
                    while wait(&self.out, &self.err, None, Duration::ZERO)?.err {
                        if fill(&mut self.err, &mut err)? == 0 {
                            break;
                        }
                    }
                    let complaint = complaint(&err);
                    return Ok(if complaint.is_empty() { Ok(text) } else { Err(complaint) });
                }
                if ended {
                    let _ = fill(&mut self.err, &mut err);
                    let complaint = complaint(&err);
                    let why = if complaint.is_empty() { "without a word".to_owned() } else { complaint };
                    return Err(Error::new(
                        Kind::Io,
                        format!("virsh ended before it answered {:?}: {why}", verb(line)),
                    ));
                }
            }
            if ready.hangup {
                return Err(Error::new(Kind::Io, "the run was given up"));
            }
        }
    }

    /// The process id, for messages.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

/// The first word: what is said of a command in a message.
fn verb(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

/// virsh's complaints, one line.
fn complaint(err: &[u8]) -> String {
    let text = String::from_utf8_lossy(err);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter_map(|line| line.strip_prefix("error:").or_else(|| line.contains("rror").then_some(line)))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

/// The answer between the marks, once both are there.
fn between(out: &[u8], begin: &str, end: &str) -> Option<String> {
    let text = String::from_utf8_lossy(out);
    let (_, rest) = text.split_once(begin)?;
    let (answer, _) = rest.split_once(end)?;
    Some(answer.trim_end_matches(['\r', '\n']).to_owned())
}

struct Ready {
    out: bool,
    err: bool,
    hangup: bool,
}

fn wait(out: &ChildStdout, err: &ChildStderr, peer: Option<&UnixStream>, left: Duration) -> Result<Ready> {
    let mut fds =
        vec![PollFd::new(out.as_fd(), PollFlags::POLLIN), PollFd::new(err.as_fd(), PollFlags::POLLIN)];
    if let Some(peer) = peer {
        fds.push(PollFd::new(peer.as_fd(), PollFlags::empty()));
    }
    poll_for(&mut fds, left)?;
    let hit = |i: usize| fds.get(i).is_some_and(|fd| fd.any().unwrap_or(false));
    Ok(Ready { out: hit(0), err: hit(1), hangup: hit(2) })
}

/// Waits for one of `fds`, `left` at most.
pub fn poll_for(fds: &mut [PollFd<'_>], left: Duration) -> Result<()> {
    // Rounded up, so that a wait of less than a millisecond does not spin.
    let ms = left.as_micros().div_ceil(1000).min(60_000);
    let timeout = PollTimeout::try_from(u32::try_from(ms).unwrap_or(60_000)).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(Error::io("poll", e)),
    }
}

/// Reads what is there; 0 at the end.
fn fill(from: &mut impl Read, into: &mut Vec<u8>) -> Result<usize> {
    let mut piece = [0; 16 << 10];
    if into.len() > LONGEST {
        return Err(Error::new(Kind::Io, format!("virsh: an answer of more than {LONGEST} bytes")));
    }
    match from.read(&mut piece) {
        Ok(n) => {
            into.extend_from_slice(piece.get(..n).unwrap_or_default());
            Ok(n)
        }
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(1),
        Err(e) => Err(Error::io("virsh: its output", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Session {
        Session::open(&Client { words: vec!["sh".into(), "-c".into(), script.into()], connect: None })
            .unwrap()
    }

    #[test]
    fn an_answer_lies_between_its_marks() {
        let out = b"virsh # echo b''eg-1:; domstate x; echo e''nd-1:\r\nbeg-1:running (booted)\n\nend-1:";
        assert_eq!(between(out, "beg-1:", "end-1:").as_deref(), Some("running (booted)"));
        assert_eq!(between(&out[..out.len() - 2], "beg-1:", "end-1:"), None);
    }

    #[test]
    fn a_program_that_hangs_is_left_at_the_deadline_and_reaped() {
        let mut session = shell("sleep 1000 & sleep 1000");
        let error = session.call("domstate x", Duration::from_millis(50), &Patience::default()).unwrap_err();
        assert!(error.to_string().contains("gave no answer to \"domstate\""), "{error}");
        let group = Pid::from_raw(i32::try_from(session.pid()).unwrap());
        drop(session);
        // The grandchild may need a moment to be reaped by init.
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            killpg(group, None).is_err()
        });
        assert!(gone);
    }

    #[test]
    fn a_program_that_ends_says_why() {
        let mut session = shell("echo 'error: failed to connect to the hypervisor' >&2");
        let error = session.call("domstate x", Duration::from_secs(20), &Patience::default()).unwrap_err();
        assert!(error.to_string().contains("failed to connect to the hypervisor"), "{error}");
    }

    #[test]
    fn a_hangup_ends_the_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let patience = Patience { until_hangup: Some(Arc::new(ours)) };
        let error = shell("sleep 1000").call("suspend x", Duration::from_secs(60), &patience).unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
    }

    #[test]
    fn a_container_is_entered_with_its_input() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        let command =
            Client { words: words("podman exec nova_libvirt virsh"), connect: Some("qemu:///system".into()) };
        assert_eq!(
            command.line().join(" "),
            "podman exec -i nova_libvirt virsh --quiet --connect qemu:///system"
        );
        assert_eq!(
            command.by_hand("resume web"),
            "podman exec nova_libvirt virsh --connect qemu:///system resume web"
        );
    }
}
