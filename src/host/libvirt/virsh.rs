//! [`Host`] by libvirt's client.
//!
//! Only what virsh prints for programs is read: `domstate`, `domjobinfo`, `blockjob --raw`, `domstats`, and XML.

use std::path::Path;
use std::time::Duration;

use super::events::Listener;
use super::session::{Client, Patience, Session};
use super::{Counters, Domain, Events, Host, State, xml};
use crate::error::{Error, Kind, Result};

/// The longest a call may take unless told otherwise. libvirt itself waits 30 s for a job that holds the domain.
pub const WITHIN: Duration = Duration::from_secs(10);

/// libvirt by virsh.
pub struct Virsh {
    client: Client,
    session: Option<Session>,
    within: Duration,
    patience: Patience,
}

impl Virsh {
    /// A host that starts virsh when it is first asked.
    pub fn new(client: Client) -> Self {
        Self { client, session: None, within: WITHIN, patience: Patience::default() }
    }

    /// One command in the session; a session that broke is replaced with the next call.
    fn run(&mut self, line: &str) -> Result<Result<String, String>> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.client)?,
        };
        let answer = session.call(line, self.within, &self.patience)?;
        // After a lost connection virsh goes on and says so with every answer until it has a new one.
        let lost = answer.as_ref().is_err_and(|text| is_lost(text));
        if !lost {
            self.session = Some(session);
        }
        Ok(answer)
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        let answer = match self.run(line)? {
            Err(text) if is_lost(&text) => self.run(line)?,
            answer => answer,
        };
        answer.map_err(|text| failure(line, &text))
    }

    /// For a command that changes something: never twice.
    fn tell(&mut self, line: &str) -> Result<String> {
        self.run(line)?.map_err(|text| failure(line, &text))
    }
}

fn is_lost(text: &str) -> bool {
    ["Disconnected from", "client socket is closed", "Broken pipe", "Connection reset", "end of file"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn failure(line: &str, text: &str) -> Error {
    let verb = line.split(' ').next().unwrap_or(line);
    let unknown = text.contains("failed to get domain") || text.contains("Domain not found");
    let kind = if unknown { Kind::NotFound } else { Kind::Io };
    let error = Error::new(kind, format!("virsh {verb}: {text}"));
    if text.contains("failed to connect") {
        return error.hint("is libvirtd running here? --connect URI, or --virsh 'podman exec nova_libvirt virsh' where it is in a container");
    }
    error
}

/// A word for virsh's own parser. Names that would need more than quotes are not taken.
fn quoted(word: &str) -> Result<String> {
    if word.is_empty() || word.starts_with('-') || word.contains(['\'', '\n', '\r', '\0']) {
        return Err(Error::usage(format!("{word:?} cannot be said to virsh")));
    }
    Ok(format!("'{word}'"))
}

impl Host for Virsh {
    fn list(&mut self) -> Result<Vec<String>> {
        let text = self.ask("list --all --uuid")?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn describe(&mut self, domain: &str) -> Result<Domain> {
        let line = format!("dumpxml {}", quoted(domain)?);
        xml::domain(&self.ask(&line)?)
    }

    fn state(&mut self, uuid: &str) -> Result<State> {
        let text = self.ask(&format!("domstate --reason {}", quoted(uuid)?))?;
        parse_state(&text)
            .ok_or_else(|| Error::new(Kind::Io, format!("virsh domstate: {text:?} is no state")))
    }

    fn job(&mut self, uuid: &str) -> Result<Option<String>> {
        let text = match self.ask(&format!("domjobinfo {}", quoted(uuid)?)) {
            Ok(text) => text,
            Err(e) if e.what().contains("domain is not running") => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(parse_job(&text))
    }

    fn block_job(&mut self, uuid: &str, target: &str) -> Result<Option<String>> {
        let text = self.ask(&format!("blockjob {} {} --raw", quoted(uuid)?, quoted(target)?))?;
        Ok(text.lines().find_map(|line| line.trim().strip_prefix("type=")).map(str::to_owned))
    }

    fn backup(&mut self, uuid: &str) -> Result<Option<String>> {
        match self.ask(&format!("backup-dumpxml {}", quoted(uuid)?)) {
            Ok(text) => Ok(Some(text)),
            Err(e)
                if ["no domain backup", "no backup", "not running"].iter().any(|s| e.what().contains(s)) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn counters(&mut self, uuid: &str) -> Result<Counters> {
        Ok(parse_counters(&self.ask(&format!("domstats --block {}", quoted(uuid)?))?))
    }

    fn suspend(&mut self, uuid: &str) -> Result<State> {
        let uuid = quoted(uuid)?;
        let text = self.tell(&format!("domstate --reason {uuid}; suspend {uuid}"))?;
        parse_state(&text).ok_or_else(|| no_state(&text))
    }

    fn resume(&mut self, uuid: &str) -> Result<()> {
        self.tell(&format!("resume {}", quoted(uuid)?)).map(drop)
    }

    fn backup_begin(&mut self, uuid: &str, xml: &Path) -> Result<()> {
        let path = xml.to_str().ok_or_else(|| Error::usage(format!("{} is not UTF-8", xml.display())))?;
        self.tell(&format!("backup-begin {} {}", quoted(uuid)?, quoted(path)?)).map(drop)
    }

    fn job_abort(&mut self, uuid: &str) -> Result<()> {
        self.tell(&format!("domjobabort {}", quoted(uuid)?)).map(drop)
    }

    fn events(&mut self, uuid: &str, longest: Duration) -> Result<Box<dyn Events>> {
        Ok(Box::new(Listener::start(&self.client, uuid, longest, self.within)?))
    }

    fn set_limits(&mut self, within: Duration, patience: &Patience) {
        self.within = within;
        self.patience = patience.clone();
    }
}

fn no_state(text: &str) -> Error {
    Error::new(Kind::Io, format!("virsh domstate: {text:?} is no state"))
}

/// `running (booted)`, or the state alone.
fn parse_state(text: &str) -> Option<State> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let (state, reason) = line.split_once(" (").unwrap_or((line, ""));
    Some(State { state: state.to_owned(), reason: reason.trim_end_matches(')').to_owned() })
}

fn parse_job(text: &str) -> Option<String> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| Some(line.trim().strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    };
    match field("Job type") {
        Some(kind) if !matches!(kind.as_str(), "None" | "Completed" | "") => {
            Some(field("Operation").unwrap_or(kind))
        }
        _ => None,
    }
}

/// `block.0.wr.reqs=12` and `block.0.fl.reqs=3`, summed over the disks. Lines of backing images have other names.
fn parse_counters(text: &str) -> Counters {
    let mut counters = Counters::default();
    let mut target = "";
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once('=') else { continue };
        // `block.0.wr.reqs`: what the disk counts comes after its number.
        let Some((_, name)) = name.strip_prefix("block.").and_then(|name| name.split_once('.')) else {
            continue;
        };
        if name == "name" {
            target = value;
        }
        let Ok(value) = value.parse::<u64>() else { continue };
        match name {
            "wr.reqs" => counters.writes = counters.writes.saturating_add(value),
            "fl.reqs" => counters.flushes = counters.flushes.saturating_add(value),
            "capacity" => {
                counters.sizes.insert(target.to_owned(), value);
            }
            _ => {}
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let state = parse_state("\npaused (I/O error)\n\n").unwrap();
        assert_eq!((state.state.as_str(), state.reason.as_str()), ("paused", "I/O error"));
        assert!(state.is_paused() && state.is_active());
        assert!(!parse_state("shut off (destroyed)").unwrap().is_active());
        assert_eq!(parse_state(" \n"), None);
    }

    #[test]
    fn jobs() {
        assert_eq!(parse_job("Job type:         None        \n"), None);
        let text = "Job type:         Unbounded   \nOperation:        Backup      \nTime elapsed: 1 ms\n";
        assert_eq!(parse_job(text).as_deref(), Some("Backup"));
    }

    #[test]
    fn counters_of_all_disks() {
        let text = "Domain: 'x'\n  block.count=2\n  block.0.name=vda\n  block.0.wr.reqs=12\n  block.0.fl.reqs=3\n  \
                    block.0.capacity=2147483648\n  block.1.name=vdb\n  block.1.wr.reqs=1\n";
        let sizes = [("vda".to_owned(), 2 << 30)].into();
        assert_eq!(parse_counters(text), Counters { writes: 13, flushes: 3, sizes });
    }

    #[test]
    fn words_that_virsh_would_read_otherwise_are_not_said() {
        assert_eq!(quoted("web 1; destroy x").unwrap(), "'web 1; destroy x'");
        for bad in ["", "--all", "a'b", "a\nb"] {
            assert!(quoted(bad).is_err(), "{bad:?}");
        }
    }
}
