//! Putting an instance back: by what is owed and by what is there, so that it can be done twice.

use std::time::Duration;

use super::journal::Header;
use super::process::{self, boot_id};
use super::steps::{Owed, Step};
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::{Host, State, xml};

/// How often, and how far apart, the end of a job is looked for.
const LOOKS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(100);
/// How long a call that was cut off may still be at work in libvirt.
const AFTERMATH: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 500 });

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The instance is as the run found it, as far as the run changed it.
    Back,
    /// The instance that the run was about is no more, for this reason; nothing was done to the one that is there now.
    Gone(String),
}

/// Undoes what is owed. `done` hears of each step as it is done. `unsure`: a call may have been cut off before its answer,
/// so a second look follows.
pub fn restore(
    host: &mut dyn Host,
    header: &Header,
    owed: Owed,
    unsure: bool,
    done: &mut dyn FnMut(Step),
) -> Result<Outcome> {
    let mut outcome = pass(host, header, owed, done)?;
    if unsure && owed.anything() && outcome == Outcome::Back {
        std::thread::sleep(AFTERMATH);
        outcome = pass(host, header, owed, done)?;
    }
    if let Some(plan) = &header.view {
        plan.clean();
    }
    Ok(outcome)
}

fn pass(host: &mut dyn Host, header: &Header, owed: Owed, done: &mut dyn FnMut(Step)) -> Result<Outcome> {
    if let Some(why) = gone(host, header)? {
        return Ok(Outcome::Gone(why));
    }
    // A pause is worse than a job: it goes first, and its failure does not keep the job from being ended. A full scratch file
    // would only pause the guest again.
    let mut paused = owed.resume;
    if paused && !owed.scratch_full && resume(host, header, owed).is_ok() {
        done(Step::Resume);
        paused = false;
    }
    let dropped = if owed.drop_view { drop_view(host, header) } else { Ok(()) };
    if owed.drop_view && dropped.is_ok() {
        done(Step::DropView);
    }
    if paused {
        resume(host, header, owed)?;
        done(Step::Resume);
    }
    dropped.map(|()| Outcome::Back)
}

/// Why the instance is not the one that the run was about any more.
fn gone(host: &mut dyn Host, header: &Header) -> Result<Option<String>> {
    if boot_id()? != header.boot {
        return Ok(Some("the host was booted since".to_owned()));
    }
    let domain = match host.describe(&header.uuid) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(Some(format!("{} is no more", header.name))),
        domain => domain?,
    };
    if domain.id != Some(header.id) {
        return Ok(Some(match domain.id {
            Some(id) => format!("{} was started anew: its id is {id}, it was {}", header.name, header.id),
            None => format!("{} does not run any more", header.name),
        }));
    }
    if let Some(qemu) = header.qemu
        && !qemu.running.is_alive()
        && let Some(now) = process::qemu(&header.uuid)
    {
        return Ok(Some(format!("{} runs in another process now, pid {}", header.name, now.running.pid)));
    }
    Ok(None)
}

/// Lets the vCPUs run where they are paused as we pause them.
fn resume(host: &mut dyn Host, header: &Header, owed: Owed) -> Result<()> {
    let state = host.state(&header.uuid)?;
    if !state.is_paused() {
        return Ok(());
    }
    // A pause with any other reason came after ours and has its own cure.
    let ours = state.reason == "user" || (owed.scratch_full && state.reason == "I/O error");
    if !ours {
        return Err(unrestored(header, &state, "paused for another reason than ours"));
    }
    let answer = host.resume(&header.uuid);
    // Between the question and the call someone else may have resumed it.
    let state = host.state(&header.uuid)?;
    match answer {
        _ if state.is_running() => Ok(()),
        Ok(()) => Err(unrestored(header, &state, "libvirt resumed it and yet it does not run")),
        Err(e) => Err(unrestored(header, &state, e.what())),
    }
}

/// Ends the backup job, if it is the one with our socket.
fn drop_view(host: &mut dyn Host, header: &Header) -> Result<()> {
    let Some(plan) = &header.view else { return Ok(()) };
    for look in 0..LOOKS {
        let ours = host
            .backup(&header.uuid)?
            .is_some_and(|text| xml::backup_socket(&text).is_some_and(|socket| socket == plan.socket));
        if !ours {
            return Ok(());
        }
        if look == 0 || look % 10 == 0 {
            // Its failure shows in the next look; a job that ends just now is none.
            let _ = host.job_abort(&header.uuid);
        } else {
            std::thread::sleep(BETWEEN);
        }
    }
    Err(Error::new(Kind::Unrestored, format!("{}: its backup job does not end", header.name))
        .hint(header.client.by_hand(&format!("domjobabort {}", header.uuid))))
}

/// The failure that says how to put it back by hand.
pub fn unrestored(header: &Header, state: &State, why: &str) -> Error {
    Error::new(Kind::Unrestored, format!("{} ({}) is {state}: {why}", header.name, header.uuid))
        .hint(by_hand(header))
}

/// The command that resumes the instance.
pub fn by_hand(header: &Header) -> String {
    let plain = header.name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let name = if plain { &header.name } else { &header.uuid };
    format!("put it back with: {}", header.client.by_hand(&format!("resume {name}")))
}
