//! From a domain's name to its disks, and back to the instance as it was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::arm::arm;
use super::journal::{self, Header, Journal, now, socket_path};
use super::link::{Finish, Link};
use super::overview::jobs;
use super::process::{self, Running, boot_id};
use super::steps::Mode;
use super::view::{PathMap, Plan, Wish};
use super::wire::Summary;
use super::{restore, takeover};
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::Client;
use crate::host::libvirt::virsh::Virsh;
use crate::host::libvirt::{Disk, Domain, Event, Host, Layer, Place, State};

/// How a live instance is to be read.
#[derive(Clone, Debug)]
pub struct LiveSpec {
    /// The domain: a name, an id or a UUID.
    pub target: String,
    /// How virsh is run.
    pub client: Client,
    /// Which sequence; `AsIs` is never asked for, it follows from `as_is` and the state.
    pub mode: Mode,
    /// The longest pause; 30 s, with [`Mode::Hold`] 10 min if none.
    pub max_pause: Option<Duration>,
    /// The longest life of the view; an hour if none.
    pub max_view: Option<Duration>,
    /// Where the scratch files go, as QEMU knows the directory; libvirt's directory of the domain if none.
    pub scratch: Option<PathBuf>,
    /// The most that the scratch files may take, in bytes.
    pub scratch_limit: Option<u64>,
    /// The space in bytes that has to stay free beside them; 1 GiB if none.
    pub floor: Option<u64>,
    /// Whether an instance that is not running, or has a job, is read as it is found.
    pub as_is: bool,
    /// Prefixes of QEMU's paths, and what stands for them here.
    pub map: Vec<(PathBuf, PathBuf)>,
    /// Whether QEMU's paths are opened below `/proc/PID/root` where no prefix fits.
    pub through_proc: bool,
    /// The directory for journals; [`super::default_dir`] if none.
    pub dir: Option<PathBuf>,
    /// The program that is started as the watchdog; this one if none.
    pub watchdog: Option<PathBuf>,
    /// How long putting back may take before it is called failed; 30 s if none.
    pub patience: Option<Duration>,
}

impl LiveSpec {
    /// The default way to read this domain.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            client: Client::default(),
            mode: Mode::Brief,
            max_pause: None,
            max_view: None,
            scratch: None,
            scratch_limit: None,
            floor: None,
            as_is: false,
            map: Vec::new(),
            through_proc: false,
            dir: None,
            watchdog: None,
            patience: None,
        }
    }
}

/// A disk of a live instance and the way to its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveDisk {
    /// `vda`.
    pub target: String,
    /// `disk`, `cdrom`, …
    pub device: String,
    /// Its size in bytes, where libvirt says it.
    pub size: Option<u64>,
    /// How it is read.
    pub way: Way,
}

/// The way to a disk's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Files or block devices, top first, by our paths; each with the format that libvirt knows.
    Files(Vec<(PathBuf, Option<String>)>),
    /// An export of an NBD server.
    Nbd {
        /// The Unix socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
    /// None: what it is, for a message.
    Nowhere(String),
}

/// What happened to the instance while it was read.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// The sequence.
    pub mode: &'static str,
    /// The state it was found in.
    pub found: State,
    /// Between libvirt's suspended and resumed events, in microseconds; none without a pause.
    pub pause_us: Option<i64>,
    /// Its lifecycle events meanwhile.
    pub events: Vec<Event>,
    /// Why what was read may not be of one moment. Any makes the answer one with gaps.
    pub marks: Vec<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// What the outputs say of their consistency.
    pub consistency: &'static str,
}

/// A live instance that can be read.
pub struct Live {
    domain: Domain,
    found: State,
    mode: Mode,
    disks: Vec<LiveDisk>,
    run: Option<(Link, Header)>,
    stamps: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
}

/// Looks at the instance, starts the watchdog and takes the steps before reading. When it fails, everything is as it was, or
/// the error is `Unrestored`.
pub fn open(spec: &LiveSpec, effort: &Effort) -> Result<Live> {
    let mut host = Virsh::new(spec.client.clone());
    let domain = host.describe(&spec.target)?;
    effort.check()?;
    let found = host.state(&domain.uuid)?;
    let sizes = host.counters(&domain.uuid).map(|counters| counters.sizes).unwrap_or_default();
    let qemu = process::qemu(&domain.uuid);
    let map = PathMap {
        prefixes: spec.map.clone(),
        root_of: qemu.filter(|_| spec.through_proc).map(|qemu| qemu.running.pid),
    };
    let busy = busy(&mut host, &domain, &found)?;
    let mode = match busy {
        None => spec.mode,
        Some(_) if spec.as_is => Mode::AsIs,
        Some(why) => {
            let hint = if found.is_active() {
                "it is not touched as it is; --as-is reads it nevertheless, without pausing or resuming anything"
            } else {
                "read its directory instead, or --as-is"
            };
            return Err(Error::refused(format!("{} is not touched: {why}", domain.name)).hint(hint));
        }
    };
    let seconds = |given: Option<Duration>, default: u64| given.unwrap_or(Duration::from_secs(default));
    let max_pause = seconds(spec.max_pause, if mode == Mode::Hold { 600 } else { 30 });
    let max_view = seconds(spec.max_view, 3600);
    let patience = seconds(spec.patience, 30);
    let mut plan = None;
    let mut run = None;
    if mode != Mode::AsIs {
        let started = now();
        let run_name = format!("{:x}-{}", started, std::process::id());
        if mode.has_view() {
            plan = Some(Plan::new(&Wish {
                run: &run_name,
                domain: &domain,
                scratch: spec.scratch.as_deref(),
                scratch_limit: spec.scratch_limit,
                floor: spec.floor.unwrap_or(1 << 30),
                map: map.clone(),
            })?);
        }
        let header = Header {
            version: 1,
            run: run_name,
            started,
            parent: Running::me()?,
            boot: boot_id()?,
            uuid: domain.uuid.clone(),
            name: domain.name.clone(),
            id: domain.id.ok_or_else(|| Error::refused(format!("{} does not run", domain.name)))?,
            qemu,
            found: found.clone(),
            client: spec.client.clone(),
            mode,
            max_pause_ms: millis(max_pause),
            max_view_ms: millis(max_view),
            view: plan.clone(),
        };
        let latest = if mode == Mode::Hold { max_pause } else { max_pause + max_view };
        run = Some((start(spec, &header, latest, patience, effort)?, header));
    }
    let disks: Vec<LiveDisk> = domain
        .disks
        .iter()
        .filter(|disk| !disk.chain.is_empty())
        .map(|disk| LiveDisk {
            target: disk.target.clone(),
            device: disk.device.clone(),
            size: sizes.get(&disk.target).copied(),
            way: way(disk, plan.as_ref(), &map),
        })
        .collect();
    let stamps = if matches!(mode, Mode::Hold | Mode::AsIs) { stamps(&domain, &map) } else { Vec::new() };
    Ok(Live { domain, found, mode, disks, run, stamps })
}

/// Why the instance is left alone, if it is: it does not just run.
fn busy(host: &mut dyn Host, domain: &Domain, found: &State) -> Result<Option<String>> {
    if !found.is_running() {
        return Ok(Some(format!("it was found {found}")));
    }
    let (jobs, problems) = jobs(host, &domain.uuid, &domain.disks);
    if let Some(problem) = problems.first() {
        return Err(Error::new(
            Kind::Io,
            format!("whether {} has a job cannot be told: {problem}", domain.name),
        ));
    }
    Ok((!jobs.is_empty()).then(|| format!("it has a job: {}", jobs.join(", "))))
}

/// Writes the intent, arms, and has the steps before reading taken.
fn start(
    spec: &LiveSpec,
    header: &Header,
    latest: Duration,
    patience: Duration,
    effort: &Effort,
) -> Result<Link> {
    let dir = spec.dir.clone().unwrap_or_else(journal::default_dir);
    let path = intent(&dir, header)?;
    let socket = socket_path(&path);
    let armed = arm(&path, &socket, spec.watchdog.as_deref(), &header.run, effort);
    let armed = match armed {
        Ok(armed) => armed,
        Err(e) => {
            // No watchdog, no step: there is nothing to put back.
            let closed = takeover::take_over(&path, patience);
            return Err(closed.err().unwrap_or(e));
        }
    };
    // Beyond its own deadline a watchdog gets the time of the calls that it may be in.
    let latest = Instant::now() + latest + patience;
    let mut link = Link::new(armed, path, latest, patience)?;
    let begun = link.ready(effort).and_then(|()| link.begin(effort));
    match begun {
        Ok(()) => Ok(link),
        Err(Finish::Cancelled) => {
            link.finish().map_err(|finish| failure(header, finish))?;
            Err(effort.check().err().unwrap_or_else(|| Error::new(Kind::Io, "interrupted")))
        }
        Err(finish) => Err(failure(header, finish)),
    }
}

/// Creates the journal. One that an earlier run left without having begun anything makes room.
fn intent(dir: &Path, header: &Header) -> Result<PathBuf> {
    let created = Journal::create(dir, header.clone());
    let created = match created {
        Err(e) if e.kind() == Kind::Refused => {
            let old = journal::all(dir)?.into_iter().find_map(|(_, old)| {
                old.ok().filter(|old| old.header().uuid == header.uuid && takeover::is_void(old))
            });
            let Some(old) = old else { return Err(e) };
            old.close();
            Journal::create(dir, header.clone())?
        }
        created => created?,
    };
    Ok(created.path().to_owned())
}

/// The error for a run that did not end well.
fn failure(header: &Header, finish: Finish) -> Error {
    let text = match finish {
        Finish::Error(error) => return error,
        Finish::Late(trouble) => trouble.unwrap_or_else(|| "the watchdog does not answer".to_owned()),
        Finish::Cancelled => "interrupted".to_owned(),
    };
    let cause =
        Error::new(Kind::Io, format!("{text}; the watchdog goes on trying, coldread live status shows it"));
    takeover::uncertain(header, &cause)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn way(disk: &Disk, plan: Option<&Plan>, map: &PathMap) -> Way {
    if let Some(plan) = plan
        && plan.disks.iter().any(|(target, _)| *target == disk.target)
    {
        return Way::Nbd { socket: plan.socket_here(), export: disk.target.clone() };
    }
    let files: Option<Vec<_>> = disk
        .chain
        .iter()
        .map(|Layer { format, place }| match place {
            Place::File(path) | Place::Block(path) => Some((map.here(path), format.clone())),
            Place::Network(_) | Place::Other(_) => None,
        })
        .collect();
    files.map_or_else(
        || Way::Nowhere(disk.chain.first().map_or_else(String::new, |l| l.place.to_string())),
        Way::Files,
    )
}

/// The files that the guest writes, with their times and sizes.
fn stamps(domain: &Domain, map: &PathMap) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let tops = domain.disks.iter().filter(|disk| disk.is_viewable()).filter_map(|disk| disk.chain.first());
    tops.filter_map(|layer| match &layer.place {
        Place::File(path) => Some(map.here(path)),
        _ => None,
    })
    .map(|path| {
        let stamp = stamp(&path);
        (path, stamp)
    })
    .collect()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = path.metadata().ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Live {
    /// The domain as libvirt described it.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The state it was found in.
    pub fn found(&self) -> &State {
        &self.found
    }

    /// The sequence that is under way.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Its disks.
    pub fn disks(&self) -> &[LiveDisk] {
        &self.disks
    }

    /// Why what is read from now on may not be of the moment that was asked for, if there is a reason.
    pub fn over(&self) -> Option<String> {
        self.run.as_ref().and_then(|(link, _)| link.over())
    }

    /// Has everything put back. Fails with `Unrestored` where the instance is not, or may not be, as it was found.
    pub fn finish(mut self) -> Result<Report> {
        let changed: Vec<String> = self
            .stamps
            .iter()
            .filter(|(path, before)| stamp(path) != *before)
            .map(|(path, _)| format!("{} changed while it was read", path.display()))
            .collect();
        let mut summary = match self.run.take() {
            None => Summary::default(),
            Some((mut link, header)) => {
                let summary = link.finish().map_err(|finish| failure(&header, finish))?;
                if let Some(why) = &summary.left {
                    return Err(Error::new(Kind::Unrestored, why.clone())
                        .hint(format!("if nobody else wants it paused, {}", restore::by_hand(&header))));
                }
                summary
            }
        };
        summary.marks.extend(changed);
        let running = self.mode == Mode::AsIs && self.found.is_running();
        if running {
            summary.marks.push(format!("{} ran while its files were read", self.domain.name));
        }
        let consistency = match self.mode {
            _ if !summary.marks.is_empty() => "live and not consistent",
            Mode::Brief | Mode::NoPause => "point-in-time view",
            Mode::Hold => "held",
            Mode::AsIs if self.found.is_paused() => "found paused",
            Mode::AsIs => "shut off",
        };
        Ok(Report {
            name: self.domain.name.clone(),
            uuid: self.domain.uuid.clone(),
            mode: self.mode.word(),
            found: self.found.clone(),
            pause_us: summary.suspended.zip(summary.resumed).map(|(from, to)| to - from),
            events: summary.events,
            marks: summary.marks,
            notes: summary.notes,
            consistency,
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some((mut link, _)) = self.run.take() {
            // Nobody is there to be told; the watchdog goes on, and the journal stays until it is done.
            let _ = link.finish();
        }
    }
}
