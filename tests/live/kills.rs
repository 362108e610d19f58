//! kill -9 at every step: of the reader, of its process group, of the watchdog, of both.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::Case;
use crate::guest::Guest;
use crate::reader::{Place, Reader, ended, signal};
use crate::support::full;

pub const CASES: &[Case] = &[
    ("kill_brief", |guest| kill(guest, "brief", &["dumpxml", "; suspend", "backup-begin", "; resume"])),
    ("kill_brief_after", |guest| kill_after(guest, "brief", &["backup-dumpxml", "domjobabort"])),
    ("kill_hold", |guest| kill(guest, "hold", &["domstats", "; suspend"])),
    ("kill_hold_after", |guest| kill_after(guest, "hold", &["dumpxml", "; resume"])),
    ("kill_no_pause", |guest| kill(guest, "no-pause", &["backup-begin"])),
    ("kill_no_pause_after", |guest| kill_after(guest, "no-pause", &["domjobabort"])),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Reader,
    Group,
    Watchdog,
    Both,
}

fn whom(first: bool) -> &'static [Whom] {
    if first || full() {
        &[Whom::Reader, Whom::Group, Whom::Watchdog, Whom::Both]
    } else {
        &[Whom::Reader, Whom::Watchdog, Whom::Both]
    }
}

/// Killed while virsh is held before each of these commands, on the way to reading.
fn kill(guest: &Guest, mode: &str, stops: &[&str]) {
    for (n, stop) in stops.iter().enumerate() {
        for whom in whom(n == 1) {
            let place = Place::new(guest);
            place.hold_at(stop);
            let mut reader = place.start(mode, json!({}));
            place.wait_held();
            strike(&place, &mut reader, *whom, &format!("{mode}, {whom:?} killed before {stop:?}"));
        }
    }
    guest.counts_on();
}

/// Killed while it reads, and while virsh is held before each of these commands on the way back.
fn kill_after(guest: &Guest, mode: &str, stops: &[&str]) {
    for whom in whom(true) {
        let place = Place::new(guest);
        let (mut reader, _) = place.open(mode, json!({}));
        strike(&place, &mut reader, *whom, &format!("{mode}, {whom:?} killed while reading"));
    }
    for stop in stops {
        for whom in whom(false) {
            let place = Place::new(guest);
            let (mut reader, _) = place.open(mode, json!({}));
            place.hold_at(stop);
            reader.done_reading();
            place.wait_held();
            strike(
                &place,
                &mut reader,
                *whom,
                &format!("{mode}, {whom:?} killed before {stop:?} on the way back"),
            );
        }
    }
    guest.counts_on();
}

/// Kills, and looks at what is left: nothing by itself, or after `live restore` where nobody is left to do it.
fn strike(place: &Place<'_>, reader: &mut Reader, whom: Whom, context: &str) {
    let watchdog = place.watchdog();
    match whom {
        Whom::Reader => signal(reader.pid(), Signal::SIGKILL),
        Whom::Group => signal(-reader.pid(), Signal::SIGKILL),
        Whom::Watchdog => {
            if let Some(pid) = watchdog {
                signal(pid, Signal::SIGKILL);
            }
        }
        Whom::Both => {
            // The watchdog stopped first, so that it sees nothing of the other's end.
            if let Some(pid) = watchdog {
                signal(pid, Signal::SIGSTOP);
            }
            signal(reader.pid(), Signal::SIGKILL);
            ended(reader.pid());
            if let Some(pid) = watchdog {
                signal(pid, Signal::SIGKILL);
                ended(pid);
            }
        }
    }
    place.let_go();
    match whom {
        Whom::Watchdog => {
            let end = reader.finish();
            // One that was killed before it was there, or after it was needed, changes nothing.
            assert!(matches!(end.code, Some(0..=2)), "{context}: {:?} {}", end.code, end.said);
        }
        Whom::Both => {
            for _ in 0..2 {
                let out = place.live("restore");
                assert!(
                    out.status.success(),
                    "{context}: live restore: {}{}",
                    String::from_utf8_lossy(&out.stdout),
                    String::from_utf8_lossy(&out.stderr)
                );
            }
        }
        Whom::Reader | Whom::Group => {
            reader.wait();
        }
    }
    place.is_clean(context);
}
