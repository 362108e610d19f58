//! Domains as libvirt tells of them, and the few things that are done to them.
//!
//! [`Host`] is all that the live instance needs of a hypervisor. [`virsh::Virsh`] drives libvirt's own client, so that no
//! library has to match the daemon and a client inside a container serves as well; a simulated host that can fail
//! at every call stands in for it in the unit tests.

pub mod events;
pub mod session;
#[cfg(test)]
pub mod sim;
pub mod virsh;
pub mod xml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A hypervisor, as far as reading a live instance needs one. Domains are named by UUID.
pub trait Host: Send {
    /// The UUIDs of all domains, running or not.
    fn list(&mut self) -> Result<Vec<String>>;

    /// The domain as its live XML describes it. `domain` is a name, an id or a UUID. Fails with `NotFound` where there is
    /// none.
    fn describe(&mut self, domain: &str) -> Result<Domain>;

    /// The state with its reason.
    fn state(&mut self, uuid: &str) -> Result<State>;

    /// The operation of the job that runs on the domain (`Backup`, `Outgoing migration`), if there is one.
    fn job(&mut self, uuid: &str) -> Result<Option<String>>;

    /// The block job of one disk (`Backup`, `Block Commit`), if there is one.
    fn block_job(&mut self, uuid: &str, target: &str) -> Result<Option<String>>;

    /// The XML of the backup job that runs; none where none does.
    fn backup(&mut self, uuid: &str) -> Result<Option<String>>;

    /// What was written and flushed so far.
    fn counters(&mut self, uuid: &str) -> Result<Counters>;

    /// Pauses the vCPUs and gives the state just before, asked in the same breath: the pause can only be ours where that was
    /// running, since pausing succeeds as well where they are paused already.
    fn suspend(&mut self, uuid: &str) -> Result<State>;

    /// Lets the vCPUs run. Fails where they run already.
    fn resume(&mut self, uuid: &str) -> Result<()>;

    /// Starts the backup job that the XML file describes.
    fn backup_begin(&mut self, uuid: &str, xml: &std::path::Path) -> Result<()>;

    /// Ends the job that runs on the domain.
    fn job_abort(&mut self, uuid: &str) -> Result<()>;

    /// Starts to listen to the domain's lifecycle. What happens after this returns is told, for `longest` at most.
    fn events(&mut self, uuid: &str, longest: Duration) -> Result<Box<dyn Events>>;

    /// The longest that each further call may take, and what else ends the wait for its answer.
    fn set_limits(&mut self, within: Duration, patience: &session::Patience);
}

/// Lifecycle events of one domain.
pub trait Events: Send {
    /// The next event, if one comes within `wait`. An error says that no further one will be heard.
    fn next(&mut self, wait: Duration) -> Result<Option<Event>>;
}

/// A lifecycle event as libvirt words it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was heard: microseconds since 1970, UTC.
    pub at: i64,
    /// `Suspended`, `Resumed`, `Stopped`, `Started`, `Crashed`, `Shutdown`, …
    pub what: String,
    /// `Paused`, `Unpaused`, `Destroyed`, `I/O Error`, …
    pub detail: String,
}

/// The state of a domain, in virsh's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `running`, `paused`, `shut off`, `crashed`, `in shutdown`, `pmsuspended`, …
    pub state: String,
    /// `booted`, `unpaused`, `user`, `I/O error`, `migrating`, …
    pub reason: String,
}

impl State {
    /// Whether its vCPUs run.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Whether its vCPUs are stopped.
    pub fn is_paused(&self) -> bool {
        self.state == "paused"
    }

    /// Whether a QEMU process is there.
    pub fn is_active(&self) -> bool {
        !matches!(self.state.as_str(), "shut off" | "crashed" | "no state" | "")
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.reason.is_empty() {
            return f.write_str(&self.state);
        }
        write!(f, "{} ({})", self.state, self.reason)
    }
}

/// What the guest has done to its disks so far, from `domstats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Write requests, all disks together.
    pub writes: u64,
    /// Flush requests, all disks together.
    pub flushes: u64,
    /// The sizes of the disks in bytes, by target.
    pub sizes: BTreeMap<String, u64>,
}

/// A domain as its live XML describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// libvirt's number; none where it does not run.
    pub id: Option<u32>,
    /// The name: `instance-0000274a`.
    pub name: String,
    /// The UUID, lower case.
    pub uuid: String,
    /// The server's name in Nova's metadata.
    pub server: Option<String>,
    /// The project's name in Nova's metadata.
    pub project: Option<String>,
    /// The user's name in Nova's metadata.
    pub user: Option<String>,
    /// The flavor's name in Nova's metadata.
    pub flavor: Option<String>,
    /// When Nova made the definition, RFC 3339 UTC.
    pub created: Option<String>,
    /// Addresses of the network ports in Nova's metadata.
    pub ports: Vec<String>,
    /// The disks, floppies and optical drives, in the order of the XML.
    pub disks: Vec<Disk>,
    /// Uid and gid that QEMU runs as, where the XML says so.
    pub owner: Option<(u32, u32)>,
    /// The models of the security labels: `dac`, `selinux`, `apparmor`.
    pub labels: Vec<String>,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `floppy`, `lun`.
    pub device: String,
    /// Whether the guest may not write it.
    pub readonly: bool,
    /// Whether a copy or commit job mirrors it.
    pub mirrored: bool,
    /// The image, top first, then what backs it.
    pub chain: Vec<Layer>,
}

/// An image of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `qcow2`, `raw`; none where the XML is silent.
    pub format: Option<String>,
    /// Where the bytes are.
    pub place: Place,
}

/// Where an image of a live instance lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A file, by the path that QEMU knows.
    File(PathBuf),
    /// A block device, by the path that QEMU knows.
    Block(PathBuf),
    /// Over the network: `rbd:volumes/volume-…`.
    Network(String),
    /// Anything else; the word is the type in the XML.
    Other(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) | Self::Block(path) => write!(f, "{}", path.display()),
            Self::Network(name) => f.write_str(name),
            Self::Other(kind) => write!(f, "({kind})"),
        }
    }
}

impl Disk {
    /// Whether a view of a moment can hold it: a disk that the guest writes.
    pub fn is_viewable(&self) -> bool {
        self.device == "disk" && !self.readonly && !self.chain.is_empty()
    }
}

impl Domain {
    /// The disk at this target.
    pub fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}
