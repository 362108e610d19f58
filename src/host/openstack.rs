//! What OpenStack says of its servers: `openstack server list --all-projects --long -f json`.
//!
//! It is the operator's own data and the source of names; the UUID of a server is that of its domain in libvirt and the
//! name of its directory. The power state is a number (`nova/compute/power_state.py`).

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::libvirt::State;
use crate::error::{Error, Kind, Result};

/// The longest list that is read, in bytes: some 100,000 servers.
const LONGEST: u64 = 64 << 20;
/// How long the `openstack` command may take.
const WITHIN: Duration = Duration::from_secs(120);

/// A server as Nova tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Server {
    /// The UUID.
    #[serde(rename(deserialize = "ID"))]
    pub id: String,
    /// The name that its owner gave it; not unique.
    #[serde(rename(deserialize = "Name"), default)]
    pub name: String,
    /// `ACTIVE`, `SHUTOFF`, `PAUSED`, …
    #[serde(rename(deserialize = "Status"), default)]
    pub status: Option<String>,
    /// What Nova is doing with it just now.
    #[serde(rename(deserialize = "Task State"), default)]
    pub task: Option<String>,
    /// Nova's idea of the power state, a number or its name.
    #[serde(rename(deserialize = "Power State"), default)]
    power: serde_json::Value,
    /// The hypervisor.
    #[serde(rename(deserialize = "Host"), default)]
    pub host: Option<String>,
    /// The project's id.
    #[serde(rename(deserialize = "Project ID"), alias = "Project", default)]
    pub project: Option<String>,
}

impl Server {
    /// Nova's power state as a word, none where it says none that is known.
    pub fn power(&self) -> Option<&str> {
        match &self.power {
            serde_json::Value::Number(number) => match number.as_u64()? {
                0 => Some("no state"),
                1 => Some("running"),
                3 => Some("paused"),
                4 => Some("shut down"),
                6 => Some("crashed"),
                7 => Some("suspended"),
                _ => None,
            },
            serde_json::Value::String(word) => Some(word),
            _ => None,
        }
    }

    /// A sentence where Nova's and libvirt's idea of the state differ.
    pub fn disagreement(&self, state: &State) -> Option<String> {
        let power = self.power()?.to_ascii_lowercase();
        let agrees = match power.as_str() {
            "running" => state.is_running(),
            "paused" => state.is_paused(),
            "shut down" | "shutdown" => state.state == "shut off",
            "crashed" => state.state == "crashed",
            // Suspended by Nova is a saved image without a process.
            "suspended" => state.state == "shut off" || state.state == "pmsuspended",
            _ => true,
        };
        (!agrees).then(|| format!("Nova says {power}, libvirt says {state}"))
    }
}

/// All servers, found by UUID.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    by_id: HashMap<String, Server>,
}

impl Servers {
    /// From the JSON text.
    pub fn parse(text: &str) -> Result<Self> {
        let list: Vec<Server> = serde_json::from_str(text).map_err(|e| {
            Error::io("the list of servers is not that of openstack server list -f json", e)
                .hint("openstack server list --all-projects --long -f json > servers.json")
        })?;
        Ok(Self { by_id: list.into_iter().map(|s| (s.id.to_ascii_lowercase(), s)).collect() })
    }

    /// From a file that holds the output of `openstack server list --all-projects --long -f json`.
    pub fn read(path: &Path) -> Result<Self> {
        let at = |e| Error::io(format!("{}", path.display()), e);
        let mut text = String::new();
        std::fs::File::open(path).map_err(at)?.take(LONGEST).read_to_string(&mut text).map_err(at)?;
        Self::parse(&text).map_err(|e| e.context(path.display()))
    }

    /// Asks the OpenStack client, with the credentials of the environment.
    pub fn ask() -> Result<Self> {
        let mut child = Command::new("openstack")
            .args(["server", "list", "--all-projects", "--long", "-f", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| {
                Error::io("openstack cannot be started", e).hint("or give its output with --servers FILE")
            })?;
        let out = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            out.map(|out| out.take(LONGEST).read_to_string(&mut text));
            text
        });
        let deadline = Instant::now() + WITHIN;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Error::new(
                        Kind::Io,
                        format!("openstack gave no answer within {} s", WITHIN.as_secs()),
                    ));
                }
            }
        };
        if !status.success() {
            return Err(Error::new(Kind::Io, format!("openstack server list failed: {status}"))
                .hint("are the OS_* variables of an administrator set?"));
        }
        Self::parse(&reader.join().unwrap_or_default())
    }

    /// The server with this UUID.
    pub fn get(&self, uuid: &str) -> Option<&Server> {
        self.by_id.get(&uuid.to_ascii_lowercase())
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Server> {
        self.by_id.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[{"ID": "6F3C1F0E-2b7d-4a54-9d3c-0f5e7a1b0981", "Name": "web-1", "Status": "ACTIVE",
      "Task State": null, "Power State": 1, "Networks": {"net": ["10.0.0.3"]}, "Image Name": "cirros",
      "Flavor Name": "m1.tiny", "Availability Zone": "nova", "Host": "hv1", "Properties": {},
      "Project ID": "a1b2c3d4e5f60718293a4b5c6d7e8f90"}]"#;

    #[test]
    fn servers_are_found_by_uuid() {
        let servers = Servers::parse(LIST).unwrap();
        let server = servers.get("6f3c1f0e-2b7d-4a54-9d3c-0f5e7a1b0981").unwrap();
        assert_eq!((server.name.as_str(), server.power()), ("web-1", Some("running")));
        let state = |state: &str| State { state: state.into(), reason: "user".into() };
        assert_eq!(server.disagreement(&state("running")), None);
        assert_eq!(
            server.disagreement(&state("paused")).as_deref(),
            Some("Nova says running, libvirt says paused (user)")
        );
        assert_eq!(servers.iter().count(), 1);
    }

    #[test]
    fn what_is_no_list_is_said() {
        assert!(Servers::parse("{}").unwrap_err().to_string().contains("server list"));
    }
}
