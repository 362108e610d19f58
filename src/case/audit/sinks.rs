//! Where checkpoints go at the end of every run, so that they leave the log they speak of.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use crate::case::policy::Policy;
use crate::error::{Error, Result};

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";

/// Facility authpriv (10), severity info (6): RFC 5424, section 6.2.1.
const PRIORITY: u8 = 10 * 8 + 6;

/// The places a policy names. They are opened before the act, so that a missing one stops it.
pub struct Sinks {
    files: Vec<(PathBuf, File)>,
    syslog: Option<UnixDatagram>,
}

impl Sinks {
    /// Opens what the policy names.
    pub fn open(policy: &Policy) -> Result<Self> {
        let syslog = policy.log_syslog.then_some(Path::new(SYSLOG));
        Self::to(&policy.log_checkpoint_to, syslog)
    }

    fn to(files: &[PathBuf], syslog: Option<&Path>) -> Result<Self> {
        let mut opened = Vec::new();
        for path in files {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(path)
                .map_err(|e| cannot(&path.display().to_string(), &e))?;
            opened.push((path.clone(), file));
        }
        let syslog = match syslog {
            Some(path) => {
                let socket = UnixDatagram::unbound().map_err(|e| cannot("syslog", &e))?;
                socket.connect(path).map_err(|e| cannot(&format!("syslog ({})", path.display()), &e))?;
                Some(socket)
            }
            None => None,
        };
        Ok(Self { files: opened, syslog })
    }

    /// Sends a checkpoint to all of them. Every one is tried; the first failure is reported.
    pub fn send(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut first = Ok(());
        for (path, file) in &mut self.files {
            // One write, so that lines of two processes do not mix. Checkpoints are set apart by an empty line.
            let sent = file.write_all(format!("{checkpoint}\n").as_bytes());
            first = first.and(sent.map_err(|e| cannot(&path.display().to_string(), &e)));
        }
        if let Some(socket) = &self.syslog {
            let line = format!(
                "<{PRIORITY}>coldread[{}]: checkpoint {}",
                std::process::id(),
                checkpoint.to_string().trim_end().replace('\n', " ")
            );
            first = first.and(socket.send(line.as_bytes()).map(|_| ()).map_err(|e| cannot("syslog", &e)));
        }
        first
    }
}

fn cannot(place: &str, why: &dyn std::fmt::Display) -> Error {
    Error::refused(format!("checkpoint to {place}: {why}"))
        .hint("the policy wants the log's checkpoints kept there; make it writable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::audit::merkle::Frontier;

    #[test]
    fn checkpoints_reach_the_file_and_syslog() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("kept"), dir.path().join("log"));
        assert!(Sinks::to(&[], Some(&socket)).is_err(), "nobody listens");
        let syslog = UnixDatagram::bind(&socket).unwrap();
        let mut sinks = Sinks::to(std::slice::from_ref(&file), Some(&socket)).unwrap();
        let checkpoint = Checkpoint::of("coldread/x/1", &Frontier::default());
        sinks.send(&checkpoint).unwrap();
        sinks.send(&checkpoint).unwrap();
        let text = "coldread/x/1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{text}\n{text}\n"));
        let mut got = [0; 200];
        let n = syslog.recv(&mut got).unwrap();
        let line = String::from_utf8_lossy(&got[..n]).into_owned();
        assert!(line.starts_with("<86>coldread["));
        assert!(line.ends_with("checkpoint coldread/x/1 0 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
    }
}
