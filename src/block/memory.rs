//! Bytes made here: inline files, short symlinks, test images.

use std::sync::Arc;

use super::{BlockSource, Run, State, within};
use crate::error::{Error, Result};

/// A source that holds its bytes itself.
pub struct Memory {
    name: Arc<str>,
    data: Arc<[u8]>,
}

impl Memory {
    /// `data` under the name `name`.
    pub fn new(name: impl Into<Arc<str>>, data: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), data: data.into() }
    }
}

impl BlockSource for Memory {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = within(self, offset, buf.len() as u64)?;
        let bytes = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(a, b)| self.data.get(a..b));
        buf.copy_from_slice(bytes.ok_or_else(|| Error::corrupt("memory: range"))?);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        within(self, offset, 1)?;
        Ok(Run::own(self.len().saturating_sub(offset), State::Data))
    }
}
