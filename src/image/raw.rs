//! A raw image: the disk's bytes as they are, and nothing that describes them.

use super::{Here, Layer, Mapped, Packed};
use crate::block::{Source, within};
use crate::error::{Error, Result};

/// A raw image. Its holes are the host file's, which the file itself reports.
pub struct Raw {
    file: Source,
}

impl Raw {
    /// `file` as a disk of its own length. Whatever its first bytes look like, they are the disk's.
    pub fn open(file: Source) -> Self {
        Self { file }
    }
}

impl Layer for Raw {
    fn file(&self) -> &Source {
        &self.file
    }

    fn size(&self) -> u64 {
        self.file.len()
    }

    fn map(&self, offset: u64, _want: u64) -> Result<Mapped<'_>> {
        within(&*self.file, offset, 1)?;
        let len = self.file.len().saturating_sub(offset);
        Ok(Mapped { len, here: Here::File { source: &*self.file, offset } })
    }

    fn unpack(&self, _packed: &Packed, _out: &mut [u8]) -> Result<()> {
        Err(Error::unsupported(format!("{}: a raw image has no compressed clusters", self.file.name())))
    }
}
