//! Appending: one lock, one write, one sync, and O(log n) hashes whatever the length of the log.
//!
//! To know the root of all lines, the roots of whole subtrees *before the last line* are kept beside the log
//! (`audit.jsonl.tree`). They are believed only if they fold to the root that the last line itself carries, and are
//! made anew from the log if they do not. They are never synced: they can be lost without loss.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::line::{self, Head, Kind};
use super::merkle::{self, Frontier, from_hex, hex};
use crate::error::{Error, Result};

/// A log that can be appended to. The file is locked for one append at a time.
pub struct Log {
    path: PathBuf,
    file: File,
}

/// What an append left behind.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The number of the line.
    pub seq: u64,
    /// The tree with the line in it.
    pub tree: Frontier,
}

/// Where a log ends.
struct End {
    /// All lines but the last.
    before_last: Frontier,
    /// Where the last line starts, in bytes.
    last_at: u64,
    /// All lines.
    all: Frontier,
    /// Where the last whole line ends, in bytes.
    whole: u64,
    /// The file's length in bytes; more than `whole` if a crash tore the last line.
    len: u64,
    last_kind: Option<Kind>,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    size: u64,
    offset: u64,
    peaks: Vec<String>,
}

impl Log {
    /// Opens a log that is there.
    ///
    /// # Errors
    /// Refused: it is missing, or cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| cannot(path, &e))?;
        let regular = file.metadata().is_ok_and(|m| m.is_file());
        if !regular {
            return Err(cannot(path, &"not a regular file"));
        }
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Makes a log whose first line says `body` and gives it a name that no other log has. An existing file is an error.
    pub fn create(path: &Path, name: &str, body: Map<String, Value>) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| cannot(path, &e))?;
        let log = Self { path: path.to_path_buf(), file };
        log.begin(name, body)?;
        Ok(log)
    }

    /// Opens a log, or makes it with its directory.
    pub fn open_or_create(path: &Path, name: &str) -> Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| cannot(path, &e))?;
        }
        if let Err(e) = std::fs::symlink_metadata(path)
            && e.kind() == std::io::ErrorKind::NotFound
        {
            match Self::create(path, name, Map::new()) {
                // Somebody else was first.
                Err(_) if path.exists() => {}
                made => return made,
            }
        }
        let log = Self::open(path)?;
        log.begin(name, Map::new())?;
        Ok(log)
    }

    /// Writes the first line, unless it is there.
    fn begin(&self, name: &str, mut body: Map<String, Value>) -> Result<()> {
        let _lock = self.lock()?;
        let mut end = self.end()?;
        if end.all.size() > 0 {
            return Ok(());
        }
        body.insert("origin".into(), json!(format!("coldread/{name}/{}", hex(&line::random::<8>()?))));
        // Nothing came before it, so a torn one need not be kept.
        self.write(&mut end, Kind::Opened, "", &body)?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| cannot(&self.path, &e))
    }

    fn lock(&self) -> Result<Flock<File>> {
        let handle = self.file.try_clone().map_err(|e| cannot(&self.path, &e))?;
        Flock::lock(handle, FlockArg::LockExclusive).map_err(|(_, e)| cannot(&self.path, &e))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line and syncs it. When this returns, the line is on disk.
    ///
    /// # Errors
    /// Refused: the line cannot be written, the log is closed, or its lines do not fit together.
    pub fn append(&self, kind: Kind, run: &str, body: &impl Serialize) -> Result<Appended> {
        let _lock = self.lock()?;
        self.is_still_there()?;
        let mut end = self.end()?;
        if end.last_kind == Some(Kind::Closed) {
            return Err(Error::refused(format!("audit log {}: the case is closed", self.path.display()))
                .hint("open another case; what this one holds can still be read and verified"));
        }
        if end.len > end.whole {
            self.set_aside(&mut end)?;
        }
        self.write(&mut end, kind, run, body)
    }

    /// Writes a line at the end, over whatever a crash left there.
    fn write(&self, end: &mut End, kind: Kind, run: &str, body: &impl Serialize) -> Result<Appended> {
        let bytes = line::write(&end.all, kind, run, body)?;
        let written = self.file.write_all_at(&bytes, end.whole).and_then(|()| {
            let new = end.whole + bytes.len() as u64;
            if end.len > new {
                self.file.set_len(new)?;
            }
            self.file.sync_data()
        });
        if let Err(e) = written {
            // A line that was not acknowledged need not stay; if it has to, the next append sets it aside.
            if end.len == end.whole {
                let _ = self.file.set_len(end.whole);
            }
            return Err(cannot(&self.path, &e));
        }
        let seq = end.all.size();
        end.before_last = end.all.clone();
        end.last_at = end.whole;
        end.all.push(merkle::leaf(&bytes[..bytes.len() - 1]));
        end.whole += bytes.len() as u64;
        end.len = end.whole;
        self.keep(end);
        Ok(Appended { seq, tree: end.all.clone() })
    }

    /// Copies a torn last line to a file of its own and records that in its place.
    fn set_aside(&self, end: &mut End) -> Result<()> {
        let length = end.len - end.whole;
        let aside = beside(&self.path, &format!(".torn-{}", end.all.size()));
        let mut torn = File::open(&self.path).map_err(|e| cannot(&self.path, &e))?;
        torn.seek(SeekFrom::Start(end.whole)).map_err(|e| cannot(&self.path, &e))?;
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&aside)
            .map_err(|e| cannot(&aside, &e))?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 65536];
        loop {
            let n = std::io::Read::read(&mut torn, &mut buffer).map_err(|e| cannot(&self.path, &e))?;
            if n == 0 {
                break;
            }
            digest.update(&buffer[..n]);
            std::io::Write::write_all(&mut copy, &buffer[..n]).map_err(|e| cannot(&aside, &e))?;
        }
        copy.sync_all().map_err(|e| cannot(&aside, &e))?;
        let name = aside.file_name().map(|n| n.to_string_lossy().into_owned());
        let body = json!({ "bytes": length, "sha256": hex(&digest.finalize()), "kept": name });
        self.write(end, Kind::Torn, "", &body).map(|_| ())
    }

    /// Finds the end from what is kept beside the log, or else from its first line.
    fn end(&self) -> Result<End> {
        let len = self.file.metadata().map_err(|e| cannot(&self.path, &e))?.len();
        if let Some((before, offset)) = self.kept().filter(|(_, offset)| *offset < len)
            && let Ok(end) = self.end_from(before, offset, len)
        {
            return Ok(end);
        }
        self.end_from(Frontier::default(), 0, len)
    }

    /// Reads the lines from `offset`, before which there are those of `before`.
    fn end_from(&self, before: Frontier, offset: u64, len: u64) -> Result<End> {
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        reader.seek(SeekFrom::Start(offset)).map_err(|e| cannot(&self.path, &e))?;
        let mut end = End {
            before_last: before.clone(),
            last_at: offset,
            all: before,
            whole: offset,
            len,
            last_kind: None,
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(|e| cannot(&self.path, &e))?;
            let Some(text) = line.strip_suffix(b"\n") else { return Ok(end) };
            let at = end.whole + line.len() as u64;
            let head = match Head::read(text) {
                Ok(head) => head,
                // A crash may leave the length of a line and not its bytes. It was never acknowledged.
                Err(_) if at == len => return Ok(end),
                Err(why) => return Err(self.damaged(end.all.size(), &why)),
            };
            head.follows(&end.all).map_err(|why| self.damaged(end.all.size(), &why))?;
            end.before_last = end.all.clone();
            end.last_at = end.whole;
            end.all.push(merkle::leaf(text));
            end.whole = at;
            end.last_kind = Some(head.kind);
        }
    }

    fn kept(&self) -> Option<(Frontier, u64)> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(beside(&self.path, ".tree")).ok()?).ok()?;
        let peaks = kept.peaks.iter().map(|peak| from_hex(peak)).collect::<Option<Vec<_>>>()?;
        Some((Frontier::new(kept.size, peaks)?, kept.offset))
    }

    /// Keeps the subtrees for the next append. A failure costs that append time and nothing else.
    fn keep(&self, end: &End) {
        let kept = Kept {
            size: end.before_last.size(),
            offset: end.last_at,
            peaks: end.before_last.peaks().iter().map(|peak| hex(peak)).collect(),
        };
        let path = beside(&self.path, ".tree");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        if let (Ok(mut file), Ok(bytes)) = (options.open(path), serde_json::to_vec(&kept)) {
            let _ = std::io::Write::write_all(&mut file, &bytes);
        }
    }

    /// A log that was deleted or replaced under our hands is not the one people will look into.
    fn is_still_there(&self) -> Result<()> {
        let ours = self.file.metadata().map_err(|e| cannot(&self.path, &e))?;
        let there = std::fs::symlink_metadata(&self.path).map_err(|e| cannot(&self.path, &e))?;
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Err(cannot(&self.path, &"the file was replaced while it was in use"));
        }
        Ok(())
    }

    fn damaged(&self, seq: u64, why: &str) -> Error {
        Error::refused(format!("audit log {}: line {seq}: {why}", self.path.display()))
            .hint("it was changed; `coldread log verify` says more, and nothing is added to it")
    }
}

/// A path with a suffix to its file name.
pub(in crate::case) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn cannot(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::refused(format!("audit log {}: {why}", path.display()))
        .hint("nothing is read that cannot be recorded: make the log writable, or name another place in the policy (log.dir) or with --case")
}
