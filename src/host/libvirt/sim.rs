//! A simulated host that can fail at every call, before or after the call took effect.
#![allow(clippy::new_without_default, clippy::missing_panics_doc, reason = "for tests alone")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::session::Patience;
use super::{Counters, Disk, Domain, Event, Events, Host, Layer, Place, State};
use crate::error::{Error, Kind, Result};

/// The domain's UUID.
pub const UUID: &str = "c01dc01d-2b7d-4a54-9d3c-0f5e7a1bc01d";

/// Where in a call the failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// libvirt says no.
    Before,
    /// It is done, and the answer is lost.
    After,
}

/// All there is.
pub struct World {
    /// The domain's state.
    pub state: State,
    /// libvirt's number of its start.
    pub id: Option<u32>,
    /// The backup job's XML.
    pub backup: Option<String>,
    /// What was called, in order.
    pub calls: Vec<&'static str>,
    /// The number of the call that fails, counted from 0, and how.
    pub fail: Option<(usize, Failing)>,
    /// From this call on, everything fails.
    pub dead_from: Option<usize>,
    /// Someone else's act, done before the call with this number.
    pub foreign: Option<(usize, &'static str)>,
    /// Whether events are heard.
    pub deaf: bool,
    queue: VecDeque<Event>,
}

/// A handle on the world; as many as are wanted.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<World>>);

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Sim {
    /// A domain that runs.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            state: State { state: "running".into(), reason: "booted".into() },
            id: Some(1),
            backup: None,
            calls: Vec::new(),
            fail: None,
            dead_from: None,
            foreign: None,
            deaf: false,
            queue: VecDeque::new(),
        })))
    }

    /// The world itself.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn call<T>(&self, name: &'static str, act: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let mut world = self.world();
        let n = world.calls.len();
        world.calls.push(name);
        if let Some((at, what)) = world.foreign
            && at == n
        {
            world.act(what).unwrap();
        }
        let lost = || Error::new(Kind::Io, "simulated failure");
        match world.fail {
            _ if world.dead_from.is_some_and(|from| n >= from) => Err(lost()),
            Some((at, Failing::Before)) if at == n => Err(lost()),
            Some((at, Failing::After)) if at == n => act(&mut world).and_then(|_| Err(lost())),
            _ => act(&mut world),
        }
    }
}

impl World {
    /// `suspend` or `resume`, whoever asks.
    pub fn act(&mut self, what: &str) -> Result<()> {
        let (state, event, detail) = match what {
            "suspend" if self.state.is_paused() => return Ok(()),
            "suspend" => ("paused", "Suspended", "Paused"),
            "resume" if self.state.is_running() => {
                return Err(Error::new(Kind::Io, "domain is already running"));
            }
            "resume" => ("running", "Resumed", "Unpaused"),
            _ => ("shut off", "Stopped", "Destroyed"),
        };
        if state == "shut off" {
            (self.id, self.backup) = (None, None);
        }
        self.state = State { state: state.into(), reason: "user".into() };
        let at = jiff::Timestamp::now().as_microsecond();
        self.queue.push_back(Event { at, what: event.into(), detail: detail.into() });
        Ok(())
    }
}

impl Host for Sim {
    fn list(&mut self) -> Result<Vec<String>> {
        self.call("list", |_| Ok(vec![UUID.to_owned()]))
    }

    fn describe(&mut self, _: &str) -> Result<Domain> {
        self.call("describe", |world| {
            Ok(Domain {
                id: world.id,
                name: "instance-0000c01d".into(),
                uuid: UUID.into(),
                disks: vec![Disk {
                    target: "vda".into(),
                    device: "disk".into(),
                    readonly: false,
                    mirrored: false,
                    chain: vec![Layer { format: Some("qcow2".into()), place: Place::File("/i/disk".into()) }],
                }],
                ..Domain::default()
            })
        })
    }

    fn state(&mut self, _: &str) -> Result<State> {
        self.call("state", |world| Ok(world.state.clone()))
    }

    fn job(&mut self, _: &str) -> Result<Option<String>> {
        self.call("job", |world| Ok(world.backup.as_ref().map(|_| "Backup".to_owned())))
    }

    fn block_job(&mut self, _: &str, _: &str) -> Result<Option<String>> {
        self.call("block_job", |_| Ok(None))
    }

    fn backup(&mut self, _: &str) -> Result<Option<String>> {
        self.call("backup", |world| Ok(world.backup.clone()))
    }

    fn counters(&mut self, _: &str) -> Result<Counters> {
        self.call("counters", |_| Ok(Counters::default()))
    }

    fn suspend(&mut self, _: &str) -> Result<State> {
        self.call("suspend", |world| {
            let before = world.state.clone();
            world.act("suspend").map(|()| before)
        })
    }

    fn resume(&mut self, _: &str) -> Result<()> {
        self.call("resume", |world| world.act("resume"))
    }

    fn backup_begin(&mut self, _: &str, xml: &Path) -> Result<()> {
        let text = std::fs::read_to_string(xml).unwrap();
        self.call("backup_begin", |world| {
            world.backup = Some(text);
            Ok(())
        })
    }

    fn job_abort(&mut self, _: &str) -> Result<()> {
        self.call("job_abort", |world| {
            world.backup = None;
            Ok(())
        })
    }

    fn events(&mut self, _: &str, _: Duration) -> Result<Box<dyn Events>> {
        self.call("events", |_| Ok(()))?;
        Ok(Box::new(Heard(self.clone())))
    }

    fn set_limits(&mut self, _: Duration, _: &Patience) {}
}

struct Heard(Sim);

impl Events for Heard {
    fn next(&mut self, _: Duration) -> Result<Option<Event>> {
        let mut world = self.0.world();
        if world.deaf {
            return Err(Error::new(Kind::Io, "simulated deafness"));
        }
        Ok(world.queue.pop_front())
    }
}
