//! The three sequences, and what each step owes until it is undone.

use serde::{Deserialize, Serialize};

use super::journal::Note;

/// How the instance is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Paused while a view of that moment is started; read through the view.
    #[default]
    Brief,
    /// Paused while its files are read.
    Hold,
    /// Not paused; read through a view.
    NoPause,
    /// Left as it is; its files are read.
    AsIs,
}

/// Something done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Its vCPUs are paused.
    Suspend,
    /// The backup job starts.
    StartView,
    /// Its vCPUs run again.
    Resume,
    /// The backup job ends.
    DropView,
}

impl Mode {
    /// The steps before reading.
    pub fn before(self) -> &'static [Step] {
        match self {
            Self::Brief => &[Step::Suspend, Step::StartView, Step::Resume],
            Self::Hold => &[Step::Suspend],
            Self::NoPause => &[Step::StartView],
            Self::AsIs => &[],
        }
    }

    /// Whether it reads through a view.
    pub fn has_view(self) -> bool {
        matches!(self, Self::Brief | Self::NoPause)
    }

    /// As it is said to people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Brief => "brief",
            Self::Hold => "hold",
            Self::NoPause => "no-pause",
            Self::AsIs => "as-is",
        }
    }
}

impl Step {
    /// The step that takes this one back. Undoing is never refused for want of a log.
    pub fn undo(self) -> Option<Self> {
        match self {
            Self::Suspend => Some(Self::Resume),
            Self::StartView => Some(Self::DropView),
            Self::Resume | Self::DropView => None,
        }
    }
}

/// What is still to be undone, in the order in which it is done: the pause first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// A pause of ours may last.
    pub resume: bool,
    /// A view of ours may be there.
    pub drop_view: bool,
    /// QEMU paused the guest because the scratch files of our view could not grow. Ours to resume, after the view is gone.
    pub scratch_full: bool,
}

impl Owed {
    /// From the notes: a step that was begun is owed its undo until that is done.
    pub fn from_notes(notes: &[Note]) -> Self {
        let mut owed = Self::default();
        for note in notes {
            match note {
                Note::Begin(step) => owed.mark(step.undo(), true),
                Note::Done(step) => owed.mark(Some(*step), false),
                Note::NotOurs(_) => owed.resume = false,
                Note::ScratchFull => (owed.resume, owed.scratch_full) = (true, true),
                Note::Guard(_) | Note::Failed(_) => {}
            }
        }
        owed
    }

    fn mark(&mut self, undo: Option<Step>, value: bool) {
        match undo {
            Some(Step::Resume) => self.resume = value,
            Some(Step::DropView) => self.drop_view = value,
            _ => {}
        }
    }

    /// Whether anything is.
    pub fn anything(self) -> bool {
        self.resume || self.drop_view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_owed_its_undo_from_before_it_happens() {
        let mut notes = vec![Note::Begin(Step::Suspend)];
        assert_eq!(Owed::from_notes(&notes), Owed { resume: true, ..Owed::default() });
        notes.extend([Note::Done(Step::Suspend), Note::Begin(Step::StartView), Note::Begin(Step::Resume)]);
        assert_eq!(Owed::from_notes(&notes), Owed { resume: true, drop_view: true, scratch_full: false });
        notes.push(Note::Done(Step::Resume));
        assert_eq!(Owed::from_notes(&notes), Owed { drop_view: true, ..Owed::default() });
        notes.push(Note::Done(Step::DropView));
        assert!(!Owed::from_notes(&notes).anything());
    }

    #[test]
    fn what_is_not_ours_is_not_resumed() {
        let notes = [Note::Begin(Step::Suspend), Note::NotOurs("resumed by someone else".into())];
        assert!(!Owed::from_notes(&notes).resume);
    }
}
