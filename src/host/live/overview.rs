//! What `live list` shows: every domain, and what is going on with it.

use serde::Serialize;

use crate::error::{Kind, Result};
use crate::host::libvirt::{Disk, Host, State};
use crate::host::openstack::Servers;

/// A domain in the list.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// libvirt's number; none where it does not run.
    pub id: Option<u32>,
    /// The domain's name.
    pub name: String,
    /// The UUID.
    pub uuid: String,
    /// The server's name: as OpenStack gives it, else from Nova's metadata.
    pub server: Option<String>,
    /// The project: OpenStack's id of it, else the name in Nova's metadata.
    pub project: Option<String>,
    /// Nova's status, where OpenStack was asked.
    pub status: Option<String>,
    /// State.
    pub state: String,
    /// And its reason.
    pub reason: String,
    /// Jobs: of the domain, and of its disks as `vda: Block Commit`.
    pub jobs: Vec<String>,
    /// The disks with their chains.
    pub disks: Vec<Disk>,
    /// What an operator should know, sentences.
    pub problems: Vec<String>,
}

/// All domains, sorted by name. One that vanishes in the middle is left out; one that cannot be read has its problem said.
pub fn overview(host: &mut dyn Host, servers: Option<&Servers>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for uuid in host.list()? {
        match row(host, &uuid, servers) {
            Ok(row) => rows.push(row),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => rows.push(unread(uuid, e.to_string())),
        }
    }
    rows.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
    Ok(rows)
}

fn row(host: &mut dyn Host, uuid: &str, servers: Option<&Servers>) -> Result<Row> {
    let domain = host.describe(uuid)?;
    let State { state, reason } = host.state(uuid)?;
    let state = State { state, reason };
    let (jobs, mut problems) =
        if state.is_active() { jobs(host, uuid, &domain.disks) } else { Default::default() };
    let server = servers.and_then(|servers| servers.get(uuid));
    problems.extend(server.and_then(|server| server.disagreement(&state)));
    if servers.is_some() && server.is_none() {
        problems.push("OpenStack does not list it".to_owned());
    }
    Ok(Row {
        id: domain.id,
        name: domain.name,
        uuid: domain.uuid,
        server: server.map(|s| s.name.clone()).or(domain.server),
        project: server.and_then(|s| s.project.clone()).or(domain.project),
        status: server.and_then(|s| s.status.clone()),
        state: state.state,
        reason: state.reason,
        jobs,
        disks: domain.disks,
        problems,
    })
}

/// The jobs of a running domain, and what could not be asked.
pub(super) fn jobs(host: &mut dyn Host, uuid: &str, disks: &[Disk]) -> (Vec<String>, Vec<String>) {
    let (mut jobs, mut problems) = (Vec::new(), Vec::new());
    match host.job(uuid) {
        Ok(job) => jobs.extend(job),
        Err(e) => problems.push(e.to_string()),
    }
    for disk in disks.iter().filter(|disk| disk.is_viewable()) {
        match host.block_job(uuid, &disk.target) {
            Ok(Some(job)) => jobs.push(format!("{}: {job}", disk.target)),
            Ok(None) if disk.mirrored => jobs.push(format!("{}: mirror", disk.target)),
            Ok(None) => {}
            Err(e) => problems.push(e.to_string()),
        }
    }
    (jobs, problems)
}

fn unread(uuid: String, problem: String) -> Row {
    Row {
        id: None,
        name: String::new(),
        uuid,
        server: None,
        project: None,
        status: None,
        state: String::new(),
        reason: String::new(),
        jobs: Vec::new(),
        disks: Vec::new(),
        problems: vec![problem],
    }
}
