//! One run on one instance: the steps, and what its events say of them.

use std::time::{Duration, Instant};

use super::journal::{Header, Journal, Note, now, xml_path};
use super::restore::{self, Outcome};
use super::steps::{Owed, Step};
use super::view;
use super::wire::Summary;
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::session::Patience;
use crate::host::libvirt::{Counters, Event, Events, Host};

/// The longest that a call may take, unless the pause's deadline is nearer.
pub const CALL: Duration = Duration::from_secs(10);
/// How long the event that answers a call is waited for. It comes within milliseconds.
const ANSWERS: Duration = Duration::from_secs(3);
/// How long the event of our resume is waited for; only its time is wanted.
const CONFIRMS: Duration = Duration::from_millis(500);

/// Whose pause it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// There is none.
    None,
    /// We called for one at this time; nothing says yet whether it is ours.
    Called(i64),
    /// Ours.
    Ours,
    /// We called for its end.
    Ending,
    /// There was one, and it is no longer ours.
    NotOurs,
}

/// A run as the watchdog drives it.
pub struct Run<'a> {
    host: &'a mut dyn Host,
    journal: Journal,
    events: Option<Box<dyn Events>>,
    pause: Pause,
    summary: Summary,
    /// When the pause, and when the view has to end.
    pause_until: Option<Instant>,
    view_until: Option<Instant>,
    counters: Option<Counters>,
    gone: Option<String>,
    /// A call ended without an answer: it may still be at work.
    unsure: bool,
    closed: bool,
}

impl<'a> Run<'a> {
    /// A run by its journal.
    pub fn new(host: &'a mut dyn Host, journal: Journal) -> Self {
        Self {
            host,
            journal,
            events: None,
            pause: Pause::None,
            summary: Summary::default(),
            pause_until: None,
            view_until: None,
            counters: None,
            gone: None,
            unsure: false,
            closed: false,
        }
    }

    /// What the run is.
    pub fn header(&self) -> &Header {
        self.journal.header()
    }

    /// What happened so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Starts to listen. Without events nobody could tell whose a pause is, so nothing is paused before this succeeded.
    pub fn listen(&mut self) -> Result<()> {
        let header = self.journal.header();
        let longest = Duration::from_millis(header.max_pause_ms.saturating_add(header.max_view_ms));
        let events = self.host.events(&header.uuid, longest + Duration::from_secs(60));
        self.events = Some(events.map_err(|e| e.context("the events of the instance"))?);
        Ok(())
    }

    /// Takes the steps before reading. A failure leaves what was done to be undone.
    pub fn before(&mut self, patience: &Patience) -> Result<()> {
        self.prepare_view()?;
        let steps = self.header().mode.before();
        // All that will be owed an undo is written and synced before the first step: a pause waits for no disk.
        for step in steps.iter().filter(|step| step.undo().is_some()) {
            let noted = self.journal.note(Note::Begin(*step));
            noted.map_err(|e| e.hint("nothing is done to an instance that is not written down first"))?;
        }
        for step in steps {
            self.limit(patience);
            let answer = match step {
                Step::Suspend => self.suspend(),
                Step::StartView => self.start_view(),
                Step::Resume => self.resume(),
                Step::DropView => Ok(()),
            };
            // A refusal of libvirt is an answer; a call that was left is none.
            self.unsure |= answer.is_err();
            answer?;
            // Only for whoever comes after us: what is done can be done again.
            let _ = self.journal.jot(Note::Done(*step));
        }
        Ok(())
    }

    fn limit(&mut self, patience: &Patience) {
        let left = self.pause_until.map_or(CALL, |until| until.saturating_duration_since(Instant::now()));
        self.host.set_limits(left.clamp(Duration::from_millis(200), CALL), patience);
    }

    fn suspend(&mut self) -> Result<()> {
        let uuid = self.header().uuid.clone();
        self.counters = self.host.counters(&uuid).ok();
        self.drain();
        self.pause_until = Some(Instant::now() + Duration::from_millis(self.header().max_pause_ms));
        // Events carry whole milliseconds.
        self.pause = Pause::Called(now() / 1000 * 1000);
        let before = self.host.suspend(&uuid)?;
        if before.is_paused() {
            return Err(self.foreign(&format!("it was {before} when our pause was due")));
        }
        if !before.is_running() {
            self.disown(format!("it was {before}"));
            return Err(Error::refused(format!("{} is {before} by now", self.header().name)));
        }
        if self.header().mode == super::Mode::Hold {
            self.own()?;
            self.counters = self.host.counters(&uuid).ok();
        }
        Ok(())
    }

    /// Finds out whether the pause answers our call.
    fn own(&mut self) -> Result<()> {
        let deadline = Instant::now() + ANSWERS;
        while matches!(self.pause, Pause::Called(_)) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_event(left) {
                Some(event) => self.hear(event),
                // Nobody listens any more: it ran the moment before our call, so the pause is taken for ours.
                None if self.events.is_none() => self.pause = Pause::Ours,
                None if left.is_zero() => {
                    return Err(self.foreign("no event answered our call, so it was paused already"));
                }
                None => {}
            }
        }
        match (self.pause, &self.gone) {
            (_, Some(why)) => Err(Error::new(Kind::Io, why.clone())),
            (Pause::NotOurs, None) => {
                Err(Error::new(Kind::Io, format!("{}: its pause did not stay ours", self.header().name)))
            }
            _ => Ok(()),
        }
    }

    /// The pause is someone else's, from the same moment as ours.
    fn foreign(&mut self, why: &str) -> Error {
        let name = self.header().name.clone();
        let text = format!("someone else paused {name} in the same moment as we: {why}; it was left paused");
        self.disown(why.to_owned());
        self.summary.left = Some(text.clone());
        Error::new(Kind::Unrestored, text)
            .hint(format!("if nobody else wants it paused, {}", restore::by_hand(self.header())))
    }

    fn disown(&mut self, why: String) {
        self.pause = Pause::NotOurs;
        let _ = self.journal.note(Note::NotOurs(why));
    }

    /// Makes what the view needs, before the pause.
    fn prepare_view(&mut self) -> Result<()> {
        let header = self.journal.header();
        let Some(plan) = &header.view else { return Ok(()) };
        let xml = xml_path(self.journal.path());
        plan.make(header.qemu)?;
        std::fs::write(&xml, plan.xml()?).map_err(|e| Error::io(format!("{}", xml.display()), e))
    }

    fn start_view(&mut self) -> Result<()> {
        let header = self.journal.header();
        self.view_until = Some(Instant::now() + Duration::from_millis(header.max_view_ms));
        let (uuid, xml) = (header.uuid.clone(), xml_path(self.journal.path()));
        let begun = self.host.backup_begin(&uuid, &xml);
        let header = self.journal.header();
        begun.map_err(|e| match &header.view {
            Some(plan) if !e.what().starts_with("the run") => {
                view::explain(&e, plan, &header.name, header.qemu)
            }
            _ => e,
        })
    }

    fn resume(&mut self) -> Result<()> {
        self.own()?;
        let uuid = self.header().uuid.clone();
        self.pause = Pause::Ending;
        self.host.resume(&uuid)?;
        self.pause_until = None;
        self.confirm();
        Ok(())
    }

    /// Waits for the event of our resume, for the sake of its time.
    fn confirm(&mut self) {
        let deadline = Instant::now() + CONFIRMS;
        while self.pause == Pause::Ending && self.events.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_event(left) {
                Some(event) => self.hear(event),
                None if left.is_zero() => self.pause = Pause::None,
                None => {}
            }
        }
        self.pause = Pause::None;
    }

    fn next_event(&mut self, wait: Duration) -> Option<Event> {
        let heard = self.events.as_mut()?.next(wait);
        if heard.is_err() {
            self.events = None;
        }
        heard.unwrap_or_default()
    }

    /// Hears all events that are there.
    pub fn drain(&mut self) {
        while let Some(event) = self.next_event(Duration::ZERO) {
            self.hear(event);
        }
    }

    /// Listens again where the listener was lost, as when libvirtd is restarted. What happened meanwhile shows in the state.
    pub fn keep_listening(&mut self) {
        if self.events.is_some() || self.gone.is_some() {
            return;
        }
        self.host.set_limits(Duration::from_secs(2), &Patience::default());
        if self.listen().is_err() {
            return;
        }
        let text = "libvirt's events were not heard for a time: libvirtd was restarted, or virsh event ended";
        self.summary.notes.push(text.to_owned());
        let uuid = self.header().uuid.clone();
        if self.pause == Pause::Ours && self.host.state(&uuid).is_ok_and(|state| state.is_running()) {
            self.resumed_by_another("meanwhile");
        }
    }

    fn hear(&mut self, event: Event) {
        let at = event.at;
        match (event.what.as_str(), self.pause) {
            ("Suspended", _) if event.detail.contains("I/O") => self.io_error(),
            ("Suspended", Pause::Called(since)) if at >= since => {
                self.pause = Pause::Ours;
                self.summary.suspended = Some(at);
            }
            ("Suspended", Pause::Called(_)) => {
                let _ = self.foreign("its event came before our call");
            }
            ("Suspended", Pause::NotOurs) => {
                let text = format!("{} was paused by someone else and was left so", self.header().name);
                self.summary.left = Some(text);
            }
            ("Suspended", _) => {
                let text = format!("{} was paused by someone else while it was read", self.header().name);
                self.summary.notes.push(text);
            }
            ("Resumed", Pause::Ending) => {
                self.pause = Pause::None;
                self.summary.resumed = Some(at);
            }
            ("Resumed", Pause::Called(_) | Pause::Ours) => self.resumed_by_another("by an event"),
            ("Resumed", Pause::NotOurs) => self.summary.left = None,
            ("Stopped" | "Crashed" | "Shutdown" | "PMSuspended", _) => {
                self.gone = Some(format!(
                    "{} is gone: {} {}",
                    self.header().name,
                    event.what.to_lowercase(),
                    event.detail.to_lowercase()
                ));
            }
            _ => {}
        }
        self.summary.events.push(event);
    }

    fn resumed_by_another(&mut self, how: &str) {
        self.disown(format!("resumed by someone else, seen {how}"));
        let text = format!("{} was resumed by someone else while it was held", self.header().name);
        self.summary.marks.push(format!("{text}: what was read is not of one moment"));
    }

    fn io_error(&mut self) {
        let full = self
            .journal
            .header()
            .view
            .as_ref()
            .is_some_and(|plan| plan.is_full() || plan.exhausted().is_some());
        if full && self.view_until.is_some() {
            let _ = self.journal.note(Note::ScratchFull);
            self.gone = Some("the scratch files could not grow, and QEMU paused the guest for it".to_owned());
        } else {
            let name = &self.journal.header().name;
            self.summary.left =
                Some(format!("{name} was paused by QEMU for an I/O error; that is not ours to resume"));
        }
    }

    /// Why the run has to end now, if it has to: a deadline, a limit, the instance's end.
    pub fn must_end(&mut self) -> Option<String> {
        self.drain();
        let now = Instant::now();
        let header = self.journal.header();
        if let Some(why) = &self.gone {
            return Some(why.clone());
        }
        if self.pause_until.is_some_and(|until| now >= until) {
            return Some(format!(
                "the longest pause of {} s was over",
                Duration::from_millis(header.max_pause_ms).as_secs_f64()
            ));
        }
        if self.view_until.is_some_and(|until| now >= until) {
            return Some(format!(
                "the longest view of {} s was over",
                Duration::from_millis(header.max_view_ms).as_secs_f64()
            ));
        }
        header.view.as_ref().filter(|_| self.view_until.is_some()).and_then(view::Plan::exhausted)
    }

    /// Puts everything back and closes the journal. Done again after a failure it goes on where it was.
    pub fn put_back(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.host.set_limits(CALL, &Patience::default());
        self.drain();
        let answered = self.journal.notes().contains(&Note::Done(Step::Suspend));
        if answered && matches!(self.pause, Pause::Called(_)) {
            // Whose it is decides; that it failed is in the notes by now.
            let _ = self.own();
        }
        self.compare();
        let owed = Owed::from_notes(self.journal.notes());
        let ours = matches!(self.pause, Pause::Called(_) | Pause::Ours | Pause::Ending);
        if ours && owed.resume {
            self.pause = Pause::Ending;
        }
        let header = self.journal.header().clone();
        let journal = &mut self.journal;
        let outcome = restore::restore(self.host, &header, owed, self.unsure, &mut |step| {
            // Written for whoever comes after us; not needed for what we do.
            let _ = journal.note(Note::Done(step));
        });
        match outcome {
            Ok(Outcome::Back) => {}
            Ok(Outcome::Gone(why)) => self.summary.marks.push(format!("{why}; nothing was done to it")),
            Err(e) => {
                let _ = self.journal.note(Note::Failed(e.to_string()));
                return Err(e);
            }
        }
        (self.pause_until, self.view_until) = (None, None);
        if self.pause == Pause::Ending {
            self.confirm();
        }
        self.drain();
        self.closed = true;
        self.journal.close();
        Ok(())
    }

    /// Marks the run where the guest wrote although it was held.
    fn compare(&mut self) {
        if self.header().mode != super::Mode::Hold || self.pause != Pause::Ours {
            return;
        }
        let uuid = self.header().uuid.clone();
        if let (Some(before), Ok(after)) = (&self.counters, self.host.counters(&uuid))
            && (before.writes, before.flushes) != (after.writes, after.flushes)
        {
            let text = format!(
                "the guest wrote while it was held: {} requests",
                after.writes.abs_diff(before.writes)
            );
            self.summary.marks.push(text);
        }
        // Its state now is asked by the restore itself.
        self.counters = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::tests::{dir, header};
    use super::super::scratch::Limits;
    use super::super::view::{PathMap, Plan};
    use super::*;
    use crate::host::libvirt::sim::{Failing, Sim};
    use crate::host::live::Mode;

    const MODES: [Mode; 3] = [Mode::Brief, Mode::Hold, Mode::NoPause];

    struct Bench {
        dir: tempfile::TempDir,
        sim: Sim,
    }

    impl Bench {
        fn new() -> Self {
            Self { dir: dir(), sim: Sim::new() }
        }

        fn journal(&self, mode: Mode) -> Journal {
            let view = mode.has_view().then(|| Plan {
                made: None,
                socket: self.dir.path().join("nbd.sock"),
                disks: vec![("vda".into(), self.dir.path().join("vda.scratch"))],
                left_out: Vec::new(),
                limits: Limits { most: u64::MAX, floor: 0 },
                map: PathMap::default(),
            });
            Journal::create(self.dir.path(), Header { view, ..header(mode) }).unwrap()
        }

        /// The whole of a run: listen, before, put back.
        fn run(&self, mode: Mode) -> (Result<()>, Result<()>, Summary) {
            let mut host = self.sim.clone();
            let mut run = Run::new(&mut host, self.journal(mode));
            let before = run.listen().and_then(|()| run.before(&Patience::default()));
            let back = run.put_back();
            (before, back, run.summary().clone())
        }

        fn is_as_found(&self) -> bool {
            let world = self.sim.world();
            world.state.is_running() && world.backup.is_none()
        }

        fn is_closed(&self) -> bool {
            super::super::journal::all(self.dir.path()).unwrap().is_empty()
        }
    }

    #[test]
    fn a_run_leaves_the_instance_as_it_was() {
        for mode in MODES {
            let bench = Bench::new();
            let (before, back, summary) = bench.run(mode);
            before.unwrap();
            back.unwrap();
            assert!(bench.is_as_found() && bench.is_closed(), "{mode:?}");
            assert_eq!((summary.marks.len(), summary.left), (0, None), "{mode:?}");
            let heard: Vec<_> = summary.events.iter().map(|event| event.what.as_str()).collect();
            let wanted: &[&str] = if mode == Mode::NoPause { &[] } else { &["Suspended", "Resumed"] };
            assert_eq!(heard, wanted, "{mode:?}");
            assert_eq!(summary.resumed.is_some(), mode != Mode::NoPause);
        }
    }

    /// Each call of each sequence fails, before and after it took effect; and from each call on everything fails, until the
    /// host is well again. The second attempt stands for the watchdog's further ones.
    #[test]
    fn a_failure_at_any_call_is_put_back() {
        for mode in MODES {
            let clean = Bench::new();
            clean.run(mode).0.unwrap();
            let calls = clean.sim.world().calls.len();
            for at in 0..calls {
                for how in [Failing::Before, Failing::After] {
                    let bench = Bench::new();
                    bench.sim.world().fail = Some((at, how));
                    let mut host = bench.sim.clone();
                    let mut run = Run::new(&mut host, bench.journal(mode));
                    let _ = run.listen().and_then(|()| run.before(&Patience::default()));
                    if run.put_back().is_err() {
                        run.put_back().unwrap();
                    }
                    let calls = bench.sim.world().calls.clone();
                    assert!(bench.is_as_found() && bench.is_closed(), "{mode:?} {at} {how:?} {calls:?}");
                }
                let bench = Bench::new();
                bench.sim.world().dead_from = Some(at);
                let mut host = bench.sim.clone();
                let mut run = Run::new(&mut host, bench.journal(mode));
                let _ = run.listen().and_then(|()| run.before(&Patience::default()));
                if run.put_back().is_err() {
                    assert!(!bench.is_closed(), "{mode:?} {at}: closed although it failed");
                    bench.sim.world().dead_from = None;
                    run.put_back().unwrap();
                }
                assert!(bench.is_as_found() && bench.is_closed(), "{mode:?} dead from {at}");
            }
        }
    }

    /// Both processes are killed at any call, before or after it took effect: the journal alone has to suffice.
    #[test]
    fn the_journal_alone_suffices() {
        for mode in MODES {
            let clean = Bench::new();
            clean.run(mode).0.unwrap();
            let calls = clean.sim.world().calls.len();
            for at in 0..calls {
                let bench = Bench::new();
                bench.sim.world().dead_from = Some(at);
                let mut host = bench.sim.clone();
                let mut run = Run::new(&mut host, bench.journal(mode));
                let _ = run.listen().and_then(|()| run.before(&Patience::default()));
                drop(run);
                bench.sim.world().dead_from = None;
                for (_, journal) in super::super::journal::all(bench.dir.path()).unwrap() {
                    let journal = journal.unwrap();
                    let owed = Owed::from_notes(journal.notes());
                    let outcome = restore::restore(&mut host, journal.header(), owed, true, &mut |_| {});
                    assert_eq!(outcome.unwrap(), Outcome::Back);
                }
                assert!(bench.is_as_found(), "{mode:?} {at}");
            }
        }
    }

    #[test]
    fn a_pause_of_someone_else_is_not_ended() {
        for mode in [Mode::Brief, Mode::Hold] {
            let bench = Bench::new();
            let clean = Bench::new();
            clean.run(mode).0.unwrap();
            let at = clean.sim.world().calls.iter().position(|call| *call == "suspend").unwrap();
            bench.sim.world().foreign = Some((at, "suspend"));
            let (before, back, summary) = bench.run(mode);
            assert_eq!(before.unwrap_err().kind(), Kind::Unrestored);
            back.unwrap();
            assert!(summary.left.is_some());
            let world = bench.sim.world();
            assert!(world.state.is_paused() && world.backup.is_none());
            assert!(!world.calls.contains(&"resume"));
        }
    }

    #[test]
    fn a_resume_by_someone_else_marks_a_held_read_and_a_pause_after_it_stays() {
        let bench = Bench::new();
        let mut host = bench.sim.clone();
        let mut run = Run::new(&mut host, bench.journal(Mode::Hold));
        run.listen().and_then(|()| run.before(&Patience::default())).unwrap();
        bench.sim.world().act("resume").unwrap();
        assert_eq!(run.must_end(), None);
        bench.sim.world().act("suspend").unwrap();
        run.put_back().unwrap();
        assert!(run.summary().marks[0].contains("resumed by someone else"));
        assert!(run.summary().left.is_some());
        assert!(bench.sim.world().state.is_paused() && bench.is_closed());
    }

    #[test]
    fn an_instance_that_ended_or_was_started_anew_is_left_alone() {
        let bench = Bench::new();
        let mut host = bench.sim.clone();
        let mut run = Run::new(&mut host, bench.journal(Mode::Hold));
        run.listen().and_then(|()| run.before(&Patience::default())).unwrap();
        bench.sim.world().act("destroy").unwrap();
        assert!(run.must_end().unwrap().contains("gone"));
        {
            // Started again by someone, and paused by them.
            let mut world = bench.sim.world();
            world.id = Some(2);
            world.state = State { state: "paused".into(), reason: "user".into() };
        }
        run.put_back().unwrap();
        assert!(bench.sim.world().state.is_paused());
        assert!(!bench.sim.world().calls.contains(&"resume"));
    }

    #[test]
    fn without_events_nothing_is_paused_and_a_pause_that_lost_them_is_ended() {
        let bench = Bench::new();
        let listening = bench.sim.world().calls.len();
        bench.sim.world().fail = Some((listening, Failing::Before));
        let (before, back, _) = bench.run(Mode::Brief);
        assert!(before.unwrap_err().to_string().contains("events"));
        back.unwrap();
        assert!(!bench.sim.world().calls.contains(&"suspend"));

        let bench = Bench::new();
        bench.sim.world().deaf = true;
        let (before, back, _) = bench.run(Mode::Brief);
        before.unwrap();
        back.unwrap();
        assert!(bench.is_as_found());
    }
    use crate::host::libvirt::State;
}
