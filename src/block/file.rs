//! A host file, opened for reading and never otherwise.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{BlockSource, Run, State, within};
use crate::error::{Error, Result};

/// The end of every way down. Its length is the one it had when it was opened.
pub struct HostFile {
    name: Arc<str>,
    file: File,
    len: u64,
    /// The stretch of data that was found last. Finding its end costs a walk over the host file's extents, and a file
    /// without holes is one stretch. What is a hole is always asked anew.
    data: Mutex<Range<u64>>,
}

impl HostFile {
    /// Wraps a descriptor that the gate has opened and checked. `name` is its path, for people.
    pub fn new(name: impl Into<Arc<str>>, file: File) -> Result<Self> {
        let name = name.into();
        let failed = |error| Error::io(format!("{name}: cannot tell its size"), error);
        let meta = file.metadata().map_err(failed)?;
        // A block device has no size in its inode; its end can be sought.
        let len =
            if meta.is_file() { meta.size() } else { seek(file.as_fd(), 0, Whence::SeekEnd).unwrap_or(0) };
        Ok(Self { name, file, len, data: Mutex::new(0..0) })
    }

    /// The descriptor, for `fstat` and lock queries.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn seek(fd: BorrowedFd<'_>, offset: u64, whence: Whence) -> std::result::Result<u64, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    lseek(fd, offset, whence).map(i64::unsigned_abs)
}

impl BlockSource for HostFile {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = within(self, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|error| {
            Error::io(format!("{}: cannot read {} bytes at {offset:#x}", self.name, buf.len()), error)
                .with_range(offset..end)
        })
    }

    /// Data and holes as the host's filesystem reports them; one that reports none has only data.
    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let left = self.len.saturating_sub(offset);
        let mut known = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&offset) {
            return Ok(Run::own(known.end.saturating_sub(offset).clamp(1, left), State::Data));
        }
        let data = seek(self.file.as_fd(), offset, Whence::SeekData);
        let (state, end) = match data {
            Ok(start) if start > offset => (State::Hole, start),
            Ok(_) => (State::Data, seek(self.file.as_fd(), offset, Whence::SeekHole).unwrap_or(self.len)),
            Err(Errno::ENXIO) => (State::Hole, self.len),
            Err(_) => (State::Data, self.len),
        };
        if state == State::Data {
            *known = offset..end;
        }
        Ok(Run::own(end.saturating_sub(offset).clamp(1, left), state))
    }
}
