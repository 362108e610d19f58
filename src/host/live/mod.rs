//! The live instance: suspended, read and resumed, whatever happens in between.
//!
//! [`open`] looks at the instance, writes the intent into a journal, starts the watchdog and has it take the steps before
//! reading. [`Live::disks`] says where the bytes are; [`Live::finish`] has everything put back and tells what happened.
//!
//! Three processes can end at any moment without harm. The *reader* (this program) does nothing to the instance
//! itself. The *watchdog* does, holding the journal's lock, and puts everything back when the reader is gone, a deadline or a limit
//! is reached, or it is asked to. *virsh* runs for the watchdog with an inherited handle on that lock. When the watchdog
//! is lost, the reader kills what is left of it, takes the lock and puts everything back; when both are lost,
//! `live restore` does.
//!
//! A step that has an undo is written down and synced before it is taken. What is owed follows from the journal alone, what
//! is done from the state of the domain, so that a restore can be repeated. A journal that belongs to another boot, another
//! start of the domain or another QEMU process is closed without acting.

mod arm;
mod guard;
mod journal;
mod link;
mod open;
mod overview;
mod process;
mod restore;
mod run;
mod scratch;
mod steps;
mod takeover;
mod view;
mod wire;

pub use guard::watch;
pub use journal::default_dir;
pub use open::{Live, LiveDisk, LiveSpec, Report, Way, open};
pub use overview::{Row, overview};
pub use steps::Mode;
pub use takeover::{Restored, Unfinished, restore_all, status};
pub use view::PathMap;
