//! `live`: instances as libvirt knows them, what of them is paused by us, and putting that back.
//!
//! None of these needs an approval: putting an instance back never waits for one.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use coldread::error::{Error, Kind, Result};
use coldread::host::libvirt::session::Client;
use coldread::host::libvirt::virsh::Virsh;
use coldread::host::live::{self, LiveSpec, Mode, Row};
use coldread::host::openstack::Servers;
use serde_json::{Value, json};

use super::Context;
use super::out::{Align, Exit, Stdout, Table};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the domains of this hypervisor with their state, disks and jobs
    List(List),
    /// Show what is paused or viewed by coldread, and what a run that was cut off left behind
    Status(Status),
    /// Finish runs that were cut off: resume what they paused, end their views
    Restore(Restore),
}

/// How libvirt is reached.
#[derive(clap::Args, Clone)]
pub struct Reach {
    /// The libvirt URI, as for virsh
    #[arg(long, value_name = "URI")]
    connect: Option<String>,

    /// How virsh is run, such as 'podman exec nova_libvirt virsh'
    #[arg(long, value_name = "COMMAND", env = "COLDREAD_VIRSH", default_value = "virsh")]
    virsh: String,
}

impl Reach {
    fn client(&self) -> Client {
        Client {
            words: self.virsh.split_whitespace().map(str::to_owned).collect(),
            connect: self.connect.clone(),
        }
    }
}

/// How a live instance is read: the options of a SOURCE that is `domain:`.
#[derive(clap::Args, Clone)]
pub struct LiveOptions {
    #[command(flatten)]
    reach: Reach,

    /// Pause the instance for as long as it is read, and read its files
    #[arg(long, conflicts_with = "no_pause", help_heading = "Live instances")]
    hold: bool,

    /// Do not pause the instance; read a view of one moment
    #[arg(long, help_heading = "Live instances")]
    no_pause: bool,

    /// The longest pause [default: 30s, with --hold 10m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Live instances")]
    max_pause: Option<Duration>,

    /// The longest life of the view [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Live instances")]
    max_view: Option<Duration>,

    /// Where the view's scratch files go, as QEMU knows the directory [default: libvirt's directory of the domain]
    #[arg(long, value_name = "DIR", help_heading = "Live instances")]
    scratch: Option<PathBuf>,

    /// The most that the scratch files may take, in MiB
    #[arg(long, value_name = "MIB", help_heading = "Live instances")]
    scratch_limit: Option<u64>,

    /// The space that has to stay free beside the scratch files, in MiB
    #[arg(long, value_name = "MIB", default_value = "1024", help_heading = "Live instances")]
    scratch_floor: u64,

    /// Read an instance that is not just running as it is found, without pausing or resuming anything
    #[arg(long, help_heading = "Live instances")]
    as_is: bool,

    /// Open the paths of the live XML below /proc/PID/root of QEMU, where it runs in a container
    #[arg(long, help_heading = "Live instances")]
    through_proc: bool,

    /// Where the journals of runs are kept
    #[arg(long, value_name = "DIR", env = "COLDREAD_RUN_DIR", hide = true)]
    run_dir: Option<PathBuf>,
}

impl LiveOptions {
    /// How libvirt is reached.
    pub fn client(&self) -> Client {
        self.reach.client()
    }

    /// The request for this domain. `map` holds prefixes of QEMU's paths with what stands for them here.
    pub fn spec(&self, target: &str, map: &[(PathBuf, PathBuf)]) -> LiveSpec {
        LiveSpec {
            client: self.reach.client(),
            mode: match (self.hold, self.no_pause) {
                (true, _) => Mode::Hold,
                (_, true) => Mode::NoPause,
                _ => Mode::Brief,
            },
            max_pause: self.max_pause,
            max_view: self.max_view,
            scratch: self.scratch.clone(),
            scratch_limit: self.scratch_limit.map(|mib| mib.saturating_mul(1 << 20)),
            floor: Some(self.scratch_floor.saturating_mul(1 << 20)),
            as_is: self.as_is,
            map: map.to_vec(),
            through_proc: self.through_proc,
            dir: self.run_dir.clone(),
            ..LiveSpec::new(target)
        }
    }
}

/// `30`, `30s`, `500ms`, `10m`, `1h`: a time, seconds where no unit is given.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time: 30s, 500ms, 10m, 1h"))?;
    let ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{unit:?} is no unit of time: ms, s, m, h")),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    reach: Reach,

    /// What `openstack server list --all-projects --long -f json` printed
    #[arg(long, value_name = "FILE", conflicts_with = "openstack")]
    servers: Option<PathBuf>,

    /// Run the openstack command for the names
    #[arg(long)]
    openstack: bool,
}

#[derive(clap::Args)]
struct Status {
    /// Where the journals of runs are kept
    #[arg(long, value_name = "DIR", env = "COLDREAD_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Restore {
    /// Where the journals of runs are kept
    #[arg(long, value_name = "DIR", env = "COLDREAD_RUN_DIR")]
    run_dir: Option<PathBuf>,

    /// How long to go on trying, for each run
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    within: Duration,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<Exit> {
        match &self.action {
            Action::List(args) => args.run(context),
            Action::Status(args) => args.run(context),
            Action::Restore(args) => args.run(context),
        }
    }
}

/// The watchdog of a run; started by coldread itself.
#[derive(clap::Args)]
pub struct Watchdog {
    /// The run's journal
    journal: PathBuf,
}

impl Watchdog {
    pub fn run(&self) -> Result<Exit> {
        live::watch(&self.journal)?;
        Ok(Exit::Complete)
    }
}

impl List {
    fn run(&self, context: &Context) -> Result<Exit> {
        let servers = match (&self.servers, self.openstack) {
            (Some(file), _) => Some(Servers::read(file)?),
            (None, true) => Some(Servers::ask()?),
            (None, false) => None,
        };
        let rows = live::overview(&mut Virsh::new(self.reach.client()), servers.as_ref())?;
        let mut out = Stdout::lock();
        if context.voice.json {
            let rows: Vec<_> = rows.iter().map(row_json).collect();
            out.json(&Value::Array(rows))?;
        } else {
            table(&rows).print(&mut out, context.voice.color)?;
            for row in &rows {
                for problem in &row.problems {
                    context.voice.note(&format!("{}: {problem}", row.name));
                }
            }
        }
        out.end()?;
        Ok(if rows.iter().any(|row| row.state.is_empty()) { Exit::Gaps } else { Exit::Complete })
    }
}

fn row_json(row: &Row) -> Value {
    let disks: Vec<_> = row
        .disks
        .iter()
        .map(|disk| {
            let chain: Vec<_> = disk
                .chain
                .iter()
                .map(|layer| json!({"path": layer.place.to_string(), "format": layer.format}))
                .collect();
            json!({"target": disk.target, "device": disk.device, "readonly": disk.readonly, "chain": chain})
        })
        .collect();
    json!({
        "id": row.id, "name": row.name, "uuid": row.uuid, "server": row.server, "project": row.project, "status": row.status,
        "state": row.state, "reason": row.reason, "jobs": row.jobs, "disks": disks, "problems": row.problems,
    })
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("DOMAIN", Align::Left),
        ("UUID", Align::Left),
        ("SERVER", Align::Left),
        ("PROJECT", Align::Left),
        ("STATUS", Align::Left),
        ("STATE", Align::Left),
        ("JOBS", Align::Left),
        ("DISK", Align::Left),
        ("FORMAT", Align::Left),
        ("WHERE", Align::Left),
    ]);
    for row in rows {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let state = match (row.state.as_str(), row.reason.as_str()) {
            (state, "") => state.to_owned(),
            (state, reason) => format!("{state} ({reason})"),
        };
        let mut cells = vec![
            row.id.map_or_else(String::new, |id| id.to_string()),
            row.name.clone(),
            row.uuid.clone(),
            text(&row.server),
            text(&row.project),
            text(&row.status),
            state,
            row.jobs.join(", "),
        ];
        if row.disks.is_empty() {
            table.row(cells);
            continue;
        }
        for disk in &row.disks {
            let top = disk.chain.first();
            cells.extend([
                disk.target.clone(),
                top.and_then(|layer| layer.format.clone()).unwrap_or_default(),
                top.map_or_else(|| "(empty)".to_owned(), |layer| layer.place.to_string()),
            ]);
            table.row(std::mem::replace(&mut cells, vec![String::new(); 8]));
        }
    }
    table
}

fn dir(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(live::default_dir)
}

impl Status {
    fn run(&self, context: &Context) -> Result<Exit> {
        let (runs, unread) = live::status(&dir(self.run_dir.as_ref()))?;
        let mut out = Stdout::lock();
        if context.voice.json {
            let runs = serde_json::to_value(&runs).map_err(|e| Error::io("the answer", e))?;
            out.json(&runs)?;
        } else {
            let mut table = Table::new(&[
                ("DOMAIN", Align::Left),
                ("UUID", Align::Left),
                ("MODE", Align::Left),
                ("PAUSED BY US", Align::Left),
                ("VIEW", Align::Left),
                ("WATCHDOG", Align::Left),
                ("READER", Align::Left),
                ("FAILED", Align::Left),
            ]);
            let pid = |pid: Option<u32>| pid.map_or_else(|| "gone".to_owned(), |pid| pid.to_string());
            for run in &runs {
                table.row(vec![
                    run.name.clone(),
                    run.uuid.clone(),
                    run.mode.clone(),
                    if run.owes_resume { "yes" } else { "no" }.to_owned(),
                    if run.owes_view { "yes" } else { "no" }.to_owned(),
                    pid(run.watchdog),
                    pid(run.reader),
                    run.failed.clone().unwrap_or_default(),
                ]);
            }
            if runs.is_empty() {
                context.voice.note("nothing is paused or viewed by coldread");
            } else {
                table.print(&mut out, context.voice.color)?;
            }
        }
        out.end()?;
        for error in &unread {
            context.voice.error(error);
        }
        let cut_off = runs.iter().any(|run| !run.guarded);
        Ok(if cut_off || !unread.is_empty() { Exit::Gaps } else { Exit::Complete })
    }
}

impl Restore {
    fn run(&self, context: &Context) -> Result<Exit> {
        let mut exit = Exit::Complete;
        let mut done = Vec::new();
        for outcome in live::restore_all(&dir(self.run_dir.as_ref()), self.within)? {
            match outcome {
                Ok(restored) => done.push(restored),
                Err(error) => {
                    context.voice.error(&error);
                    let grave = error.kind() == Kind::Unrestored;
                    exit = exit.and(if grave { Exit::Unrestored } else { Exit::Failed });
                }
            }
        }
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&serde_json::to_value(&done).map_err(|e| Error::io("the answer", e))?)?;
        } else {
            for run in &done {
                out.line(&super::out::printable(&format!("{} {}: {}", run.name, run.uuid, run.what)))?;
            }
            if done.is_empty() && exit == Exit::Complete {
                context.voice.note("nothing is left to put back");
            }
        }
        out.end()?;
        Ok(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "-1", "1d", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
