//! A window on another source: a partition of a disk.

use std::sync::Arc;

use super::{BlockSource, Run, Source, within};
use crate::error::{Error, Result};

/// `len` bytes of `inner` from `start`. What of it lies past the end of `inner` reads as an error.
pub struct Slice {
    name: Arc<str>,
    inner: Source,
    start: u64,
    len: u64,
}

impl Slice {
    /// The window `start..start + len` of `inner`; the end must not overflow, and may lie past the end of `inner`
    /// (a partition table that promises more than the disk has).
    pub fn new(name: impl Into<Arc<str>>, inner: Source, start: u64, len: u64) -> Result<Self> {
        let name = name.into();
        if start.checked_add(len).is_none() {
            return Err(Error::corrupt(format!("{name}: {len} bytes from {start:#x} overflow")));
        }
        Ok(Self { name, inner, start, len })
    }

    /// How many bytes of it `inner` really has.
    fn present(&self) -> u64 {
        self.inner.len().saturating_sub(self.start).min(self.len)
    }

    fn cut(&self, offset: u64) -> Error {
        let missing = self.present().max(offset)..self.len;
        Error::corrupt(format!(
            "{} ends beyond {}, which has {} bytes",
            self.name,
            self.inner.name(),
            self.inner.len()
        ))
        .with_range(missing)
    }
}

impl BlockSource for Slice {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = within(self, offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        if end > self.present() {
            return Err(self.cut(offset));
        }
        self.inner.read_at(self.start.saturating_add(offset), buf).map_err(|error| match error.range() {
            Some(range) => {
                let shift = |at: u64| at.saturating_sub(self.start).min(self.len);
                error.with_range(shift(range.start)..shift(range.end))
            }
            None => error,
        })
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        let present = self.present();
        if offset >= present {
            return Ok(Run::own(self.len.saturating_sub(offset), super::State::Lost));
        }
        let there = self.start.saturating_add(offset);
        // One run below, so that the state is the one below: a hole of the disk is a hole of the partition.
        let below = self.inner.run_at(there)?;
        let len = below.len.min(present.saturating_sub(offset));
        Ok(Run { len, state: below.state, origin: super::Origin::At { source: &*self.inner, offset: there } })
    }
}
