//! What a run is about to do to an instance, on disk before it does it.
//!
//! One file a domain, `<uuid>.run` in a directory of mode 0700, made with `O_EXCL`: two runs on one instance exclude
//! each other by it. JSON, one object a line: first the [`Header`], then the [`Note`]s, those that announce a step synced
//! before it. Whoever acts for the run holds the file's flock: the watchdog, and with it every virsh that it started, since
//! they inherit the descriptor. So the lock is free only when nobody is left who could still do something.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::process::{Qemu, Running};
use super::steps::{Mode, Step};
use super::view::Plan;
use crate::error::{Error, Result};
use crate::host::libvirt::State;
use crate::host::libvirt::session::Client;

/// The end of a journal's file name.
const SUFFIX: &str = ".run";
/// The longest journal that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// All that somebody else needs to know to put the instance back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the journal.
    pub version: u32,
    /// A name of this run, unique on this host.
    pub run: String,
    /// When it began: microseconds since 1970, UTC.
    pub started: i64,
    /// The program that began it.
    pub parent: Running,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The domain's UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// libvirt's number of this start of it.
    pub id: u32,
    /// The QEMU process, where it can be seen from here.
    pub qemu: Option<Qemu>,
    /// The state that it was found in.
    pub found: State,
    /// How virsh is run.
    pub client: Client,
    /// Which sequence.
    pub mode: Mode,
    /// The longest pause, in milliseconds.
    pub max_pause_ms: u64,
    /// The longest life of the view, in milliseconds.
    pub max_view_ms: u64,
    /// The view's files and limits, in modes that have a view.
    pub view: Option<Plan>,
}

/// A line of the journal after the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The watchdog that owns the run now.
    Guard(Running),
    /// This step is about to happen.
    Begin(Step),
    /// It has happened.
    Done(Step),
    /// The instance's pause is not ours, or no longer: it is not resumed by us.
    NotOurs(String),
    /// QEMU paused the guest with an I/O error because our scratch files could not grow.
    ScratchFull,
    /// It could not be put back so far.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Line {
    at: i64,
    #[serde(flatten)]
    note: Note,
}

/// A journal that is open for the one who acts.
pub struct Journal {
    file: File,
    path: PathBuf,
    header: Header,
    notes: Vec<Note>,
}

/// The directory for journals: `/run/coldread`, for others than root below `XDG_RUNTIME_DIR`.
pub fn default_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !geteuid().is_root() => Path::new(&dir).join("coldread"),
        _ => PathBuf::from("/run/coldread"),
    }
}

/// Makes the directory where it is missing, and checks that nobody else can reach into it.
pub fn prepare_dir(dir: &Path) -> Result<()> {
    let at = |e| Error::io(format!("the directory for journals {}", dir.display()), e);
    if let Err(e) = DirBuilder::new().mode(0o700).create(dir)
        && e.kind() != ErrorKind::AlreadyExists
    {
        return Err(at(e));
    }
    let meta = fs::symlink_metadata(dir).map_err(at)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(Error::refused(format!("{} is not a directory of ours with mode 0700", dir.display()))
            .hint("the journal in it decides what is resumed: nobody else may write there"));
    }
    Ok(())
}

/// Now, in microseconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

impl Journal {
    /// Begins a run. Fails with `Refused` where another run has this instance.
    pub fn create(dir: &Path, header: Header) -> Result<Self> {
        prepare_dir(dir)?;
        let path = dir.join(format!("{}{SUFFIX}", header.uuid));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::refused(format!(
                "another run works on {} or was cut off: {} exists",
                header.name,
                path.display()
            ))
            .hint("coldread live status shows it, coldread live restore finishes one that was cut off"),
            _ => Error::io(format!("the journal {}", path.display()), e),
        })?;
        let mut journal = Self { file, path, header, notes: Vec::new() };
        let text = journal.header_line();
        if let Err(e) = text
            .and_then(|text| journal.append(&text))
            .and_then(|()| journal.sync())
            .and_then(|()| sync_dir(dir))
        {
            journal.close();
            return Err(e);
        }
        Ok(journal)
    }

    fn header_line(&self) -> Result<String> {
        serde_json::to_string(&self.header).map_err(|e| Error::io("the journal's header", e))
    }

    /// Opens what another process began. The last line may be cut off.
    pub fn open(path: &Path) -> Result<Self> {
        let at = |e| Error::io(format!("the journal {}", path.display()), e);
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(at)?;
        let mut lines = BufReader::new((&file).take(LONGEST)).lines();
        let first = lines.next().transpose().map_err(at)?.unwrap_or_default();
        let header: Header = serde_json::from_str(&first).map_err(|e| {
            Error::corrupt(format!("the journal {}: {e}", path.display()))
                .hint("it was cut off before anything was done to an instance; remove the file")
        })?;
        let notes = lines
            .map_while(|line| serde_json::from_str::<Line>(&line.ok()?).ok())
            .map(|line| line.note)
            .collect();
        Ok(Self { file, path: path.to_owned(), header, notes })
    }

    /// Takes the lock. False where somebody holds it.
    pub fn try_lock(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(format!("lock {}", self.path.display()), e)),
        }
    }

    /// Lets the children inherit the lock.
    pub fn share_lock_with_children(&self) -> Result<()> {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| Error::io("F_SETFD", e))?;
        Ok(())
    }

    /// Writes a note and syncs it.
    pub fn note(&mut self, note: Note) -> Result<()> {
        self.jot(note)?;
        self.sync()
    }

    /// Writes a note that need not be on the disk before what comes next.
    pub fn jot(&mut self, note: Note) -> Result<()> {
        self.notes.push(note.clone());
        let line = Line { at: now(), note };
        let text = serde_json::to_string(&line).map_err(|e| Error::io("a line of the journal", e))?;
        self.append(&text)
    }

    fn append(&mut self, text: &str) -> Result<()> {
        self.file.write_all(format!("{text}\n").as_bytes()).map_err(|e| self.failed(e))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.failed(e))
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(format!("the journal {}", self.path.display()), e)
    }

    /// What the run is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The notes so far.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the run: nothing is left to do.
    pub fn close(&self) {
        remove_files(&self.path);
    }
}

/// The file with the backup's XML, beside the journal.
pub fn xml_path(journal: &Path) -> PathBuf {
    journal.with_extension("xml")
}

/// The socket on which the watchdog reports, beside the journal.
pub fn socket_path(journal: &Path) -> PathBuf {
    journal.with_extension("sock")
}

fn remove_files(journal: &Path) {
    let _ = fs::remove_file(xml_path(journal));
    let _ = fs::remove_file(socket_path(journal));
    let _ = fs::remove_file(journal);
    if let Some(dir) = journal.parent() {
        let _ = sync_dir(dir);
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(format!("the directory {}", dir.display()), e))
}

/// All journals in the directory, with what could not be read. A directory that is missing has none.
pub fn all(dir: &Path) -> Result<Vec<(PathBuf, Result<Journal>)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(format!("{}", dir.display()), e))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == &SUFFIX[1..]))
        .collect();
    paths.sort();
    // One that vanished in the meantime was closed.
    paths.retain(|path| path.exists());
    Ok(paths
        .into_iter()
        .map(|path| {
            let journal = Journal::open(&path);
            (path, journal)
        })
        .collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Kind;

    /// A run on the simulated host's domain.
    pub(in crate::host::live) fn header(mode: Mode) -> Header {
        Header {
            version: 1,
            run: "r1".into(),
            started: 1,
            parent: Running::me().unwrap(),
            boot: super::super::process::boot_id().unwrap(),
            uuid: "c01dc01d-2b7d-4a54-9d3c-0f5e7a1bc01d".into(),
            name: "instance-0000c01d".into(),
            id: 1,
            qemu: None,
            found: State { state: "running".into(), reason: "booted".into() },
            client: Client::default(),
            mode,
            max_pause_ms: 2_000,
            max_view_ms: 2_000,
            view: None,
        }
    }

    pub(in crate::host::live) fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        dir
    }

    #[test]
    fn a_journal_tells_what_was_begun_and_is_exclusive() {
        let dir = dir();
        let mut journal = Journal::create(dir.path(), header(Mode::Brief)).unwrap();
        journal.note(Note::Begin(Step::Suspend)).unwrap();
        assert!(journal.try_lock().unwrap());
        let again = Journal::create(dir.path(), header(Mode::Brief)).err().unwrap();
        assert_eq!(again.kind(), Kind::Refused);
        // A line that was cut off counts for nothing.
        journal.file.write_all(b"{\"at\":1,\"done\":").unwrap();
        let other = Journal::open(journal.path()).unwrap();
        assert_eq!(other.notes(), [Note::Begin(Step::Suspend)]);
        assert!(!other.try_lock().unwrap());
        assert_eq!(all(dir.path()).unwrap().len(), 1);
        journal.close();
        assert!(all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn others_cannot_reach_into_the_directory() {
        let dir = dir();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = Journal::create(dir.path(), header(Mode::Hold)).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
    }
}
