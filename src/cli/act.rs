//! The course of every command that reads a SOURCE: find it, ask leave, open it, work, put everything back, write the outcome.

use coldread::case::{self, Outcome, Pause, Request, Session};
use coldread::error::{Error, Result};
use coldread::host::live::{self, Live, Report};
use coldread::host::nova::Instance;
use coldread::permit::{self, Permit, Verb};
use coldread::stack::{DiskSpec, Key, Spec, Stack, View};
use serde_json::{Map, Value, json};

use super::Context;
use super::leave::{LeaveOptions, members};
use super::out::Exit;
use super::source::{Given, Source, SourceOptions};

/// What a command is about to do.
pub struct Act {
    /// The command's name.
    pub command: &'static str,
    /// Its acts; none if it shows only what belongs to the operator.
    pub verbs: Vec<Verb>,
    /// Paths of the guest, as they were asked for.
    pub paths: Vec<Vec<u8>>,
    /// Whether it reads the disk as a whole.
    pub whole_disk: bool,
}

impl Act {
    /// An act that shows only what belongs to the operator.
    pub fn metadata(command: &'static str) -> Self {
        Self { command, verbs: Vec::new(), paths: Vec::new(), whole_disk: false }
    }
}

/// An opened source, and what is known of it.
pub struct Opened {
    /// Floors 1 to 5.
    pub stack: Stack,
    /// The instance, where the source is a directory of one.
    pub instance: Option<Box<Instance>>,
    /// SOURCE as it was typed.
    pub source: String,
    /// The options that it was opened with.
    pub options: SourceOptions,
    /// Who says what the format of the disk's top image is.
    pub format_from: Option<&'static str>,
    /// The instance's UUID, if operator data says it.
    pub uuid: Option<String>,
    /// What can be said of the source's consistency.
    pub consistency: &'static str,
    session: Option<Session>,
}

/// What an act did, for the log.
#[derive(Default)]
pub struct Done {
    /// Numbers of the command's own.
    pub results: Map<String, Value>,
    /// The manifest that was written.
    pub manifest: Option<std::path::PathBuf>,
    /// Digests of what was shown or written, by name.
    pub digests: Vec<(String, String)>,
}

impl Opened {
    /// The run's session with approval and log.
    pub fn session(&self) -> Result<&Session> {
        self.session.as_ref().ok_or_else(|| Error::refused("this act was begun without leave"))
    }

    /// Leave for one act.
    pub fn permit<A: permit::Act>(&self) -> Result<Permit<A>> {
        self.session()?.permit()
    }

    /// What the guest shows under a permit for one act; `work` gets it. What was refused meanwhile goes into the log.
    pub fn view<A: permit::Act, T>(
        &self,
        context: &Context,
        work: impl FnOnce(&View<A>) -> Result<T>,
    ) -> Result<T> {
        let view = self.stack.view(&self.permit::<A>()?, self.options.volume.as_deref())?;
        if let Some(done) = &view.facts().replay {
            context.voice.detail(&format!("{}: {done}", view.volume()));
        }
        let result = work(&view);
        for path in view.refusals() {
            self.session()?.refused(&path, "outside the approval");
        }
        result
    }
}

/// Runs `work` on the opened source, with everything around it: leave before, the instance put back and the outcome written after.
pub fn run(
    context: &Context,
    source: &Source,
    leave: &LeaveOptions,
    mut act: Act,
    work: impl FnOnce(&Opened, &mut Done) -> Result<Exit>,
) -> Result<Exit> {
    if source.options.passphrase_file.is_some() && !act.verbs.contains(&Verb::Read) {
        // A volume that needs a key shows more than the operator's own metadata.
        act.verbs.push(Verb::Read);
    }
    let given = source.find(context)?;
    let uuid = given.uuid();
    match given {
        Given::Disk { spec, format_from, instance } => {
            // Nothing is deciphered before there is leave to.
            let stack = open(source, spec, Vec::new(), context)?;
            let consistency = writers(&stack, source, context)?;
            let mut opened = Opened {
                stack,
                instance,
                source: source.source.clone(),
                options: source.options.clone(),
                format_from,
                uuid,
                consistency,
                session: None,
            };
            if !act.verbs.is_empty() {
                opened.session = Some(case::begin(request(&opened, act), &leave.leave())?);
            }
            if source.options.passphrase_file.is_some()
                && let Given::Disk { spec, .. } = source.find(context)?
            {
                opened.stack = open(source, spec, source.options.keys()?, context)?;
            }
            finish(opened, None, context, work)
        }
        Given::Domain(domain) => {
            act.verbs.push(Verb::Suspend);
            let mut spec = source.live.spec(&domain.uuid, &source.options.map);
            let request = Request {
                instance: uuid.clone(),
                source: source.source.clone(),
                disks: source.options.disk.iter().cloned().collect(),
                max_pause: spec.max_pause,
                ..plain(act)
            };
            let session = case::begin(request, &leave.leave())?;
            spec.max_pause = shorter(spec.max_pause, session.max_pause());
            spec.max_view = shorter(spec.max_view, session.max_view());
            let permit = session.permit::<permit::Suspend>();
            let live = permit.and_then(|_| live::open(&spec, &context.effort));
            let live = match live {
                Ok(live) => live,
                Err(error) => return Err(failed(session, error)),
            };
            let stack =
                source.live_disk(&live).and_then(|disk| open(source, disk, source.options.keys()?, context));
            let stack = match stack {
                Ok(stack) => stack,
                Err(error) => {
                    let back = live.finish();
                    let error = back.err().unwrap_or(error);
                    return Err(failed(session, error));
                }
            };
            let opened = Opened {
                stack,
                instance: None,
                source: source.source.clone(),
                options: source.options.clone(),
                format_from: Some("libvirt XML"),
                uuid,
                consistency: match live.mode() {
                    live::Mode::Hold => "held",
                    live::Mode::AsIs => "as it was found",
                    _ => "point-in-time view",
                },
                session: Some(session),
            };
            finish(opened, Some(live), context, work)
        }
    }
}

fn shorter(a: Option<std::time::Duration>, b: Option<std::time::Duration>) -> Option<std::time::Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn open(source: &Source, disk: DiskSpec, keys: Vec<Key>, context: &Context) -> Result<Stack> {
    let spec = Spec { disks: vec![disk], replay: !source.options.no_replay, keys };
    let stack = Stack::open(spec, &context.effort)?;
    for problem in stack.problems() {
        context.voice.note(&problem);
    }
    for note in stack.disks().iter().flat_map(|disk| &disk.notes) {
        context.voice.detail(note);
    }
    Ok(stack)
}

/// A disk that a running QEMU writes gives torn answers: it is refused, unless the analyst insists. Gives the consistency.
fn writers(stack: &Stack, source: &Source, context: &Context) -> Result<&'static str> {
    let writers = stack.writers();
    let Some(writer) = writers.first() else { return Ok("shut off") };
    if source.options.unsafe_live {
        context
            .voice
            .note(&format!("{} is being written by {}: live and not consistent", writer.path, writer.who));
        return Ok(NOT_CONSISTENT);
    }
    let domain = writer.domain.as_deref().unwrap_or("NAME");
    Err(Error::refused(format!("{} is being written by {}", writer.path, writer.who)).hint(format!(
        "read the live instance as domain:{domain}, or insist with --unsafe-live (what is read may not be consistent)"
    )))
}

/// What is said of a disk that somebody writes while it is read.
const NOT_CONSISTENT: &str = "live and not consistent";

fn plain(act: Act) -> Request {
    Request {
        command: act.command.into(),
        verbs: act.verbs,
        paths: act.paths,
        whole_disk: act.whole_disk,
        argv: std::env::args_os().collect(),
        ..Request::default()
    }
}

fn request(opened: &Opened, act: Act) -> Request {
    Request {
        instance: opened.uuid.clone(),
        source: opened.source.clone(),
        disks: opened.stack.disks().iter().map(|disk| disk.name.clone()).collect(),
        volumes: opened.options.volume.iter().cloned().collect(),
        snapshot: opened.options.snapshot.clone(),
        members: members(opened),
        consistency: Some(opened.consistency.to_string()),
        ..plain(act)
    }
}

/// Writes down that nothing came of the act. The failure is what is worth telling, also when the log cannot be written.
fn failed(session: Session, error: Error) -> Error {
    let exit = Exit::of(&error).code().into();
    let _ = session.finish(&Outcome { exit, error: Some(error.what().to_string()), ..Outcome::default() });
    error
}

fn finish(
    opened: Opened,
    live: Option<Live>,
    context: &Context,
    work: impl FnOnce(&Opened, &mut Done) -> Result<Exit>,
) -> Result<Exit> {
    let mut done = Done::default();
    let over = |live: &Option<Live>| live.as_ref().and_then(Live::over);
    let mut result = work(&opened, &mut done);
    if let (Some(why), Ok(exit)) = (over(&live), &result) {
        context.voice.note(&why);
        result = Ok(exit.and(Exit::Gaps));
    }
    // Before anything is written down: putting the instance back waits for no log.
    let report = live.map(Live::finish).transpose();
    let mut after = Vec::new();
    match &report {
        Ok(Some(report)) => {
            for text in report.marks.iter().chain(&report.notes) {
                context.voice.note(text);
            }
            if !report.marks.is_empty() {
                after.push(Exit::Gaps);
            }
            if let Some(us) = report.pause_us {
                context.voice.note(&format!(
                    "{} was paused for {}.{} ms",
                    report.name,
                    us / 1000,
                    us % 1000 / 100
                ));
            }
        }
        Ok(None) => after.push(settle(&opened, context)?),
        Err(_) => {}
    }
    let result = match (result, &report) {
        (_, Err(_)) => Ok(Exit::Unrestored),
        (Ok(exit), _) => Ok(after.into_iter().fold(exit, Exit::and)),
        (error, _) => error,
    };
    let logged = outcome(opened, done, &result, report.as_ref().ok().and_then(Option::as_ref));
    report?;
    let exit = result?;
    logged?;
    Ok(exit)
}

/// Whether the files lay still while they were read. If not, the answer has a gap.
fn settle(opened: &Opened, context: &Context) -> Result<Exit> {
    if opened.consistency == NOT_CONSISTENT {
        return Ok(Exit::Complete);
    }
    let mut exit = Exit::Complete;
    for path in opened.stack.changed()? {
        context
            .voice
            .note(&format!("{path} changed while it was read: what was shown may not be consistent"));
        exit = Exit::Gaps;
    }
    for writer in opened.stack.writers() {
        context.voice.note(&format!("{} was opened for writing meanwhile by {}", writer.path, writer.who));
        exit = Exit::Gaps;
    }
    Ok(exit)
}

fn outcome(mut opened: Opened, done: Done, result: &Result<Exit>, report: Option<&Report>) -> Result<()> {
    let Some(session) = opened.session.take() else { return Ok(()) };
    let exit = match result {
        Ok(exit) => *exit,
        Err(error) => Exit::of(error),
    };
    let mut results = done.results;
    if let Some(report) = report {
        results.insert("live".into(), json!(report));
    }
    session.finish(&Outcome {
        exit: exit.code().into(),
        results,
        manifest: done.manifest.filter(|path| path.exists()),
        digests: done.digests,
        members: members(&opened),
        pauses: report.map(pauses).unwrap_or_default(),
        changed: report.map(changed).unwrap_or_default(),
        error: result.as_ref().err().map(|error| error.what().to_string()),
        ..Outcome::default()
    })
}

/// The pause between libvirt's own events.
fn pauses(report: &Report) -> Vec<Pause> {
    let at = |what: &str| {
        let event = report.events.iter().find(|event| event.what == what)?;
        jiff::Timestamp::from_microsecond(event.at).ok()
    };
    match at("Suspended") {
        Some(from) if report.pause_us.is_some() => {
            vec![Pause { from, until: at("Resumed"), ended_by: "resumed".into() }]
        }
        _ => Vec::new(),
    }
}

fn changed(report: &Report) -> Vec<String> {
    let pause = report
        .pause_us
        .map(|us| format!("{} was paused for {us} microseconds so that its disk could be read", report.name));
    pause.into_iter().collect()
}
