//! A whole disk or volume as a sparse raw file, hashed in the same pass.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::chunks::Gap;
use super::copy::{Piece, set_len, sink_error, stream, write_sparse, zeros};
use super::hash::{Hasher, Sum};
use crate::effort::Effort;
use crate::error::{Error, Result};
use crate::stack::Source;

/// How to make an image.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether to hash it.
    pub hash: bool,
    /// Whether to wait until all of it is on the output's disk.
    pub sync: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imaged {
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the output: with gaps, of the zeros that fill them.
    pub output_sum: Option<Sum>,
    /// What could not be read; zeros in the output.
    pub gaps: Vec<Gap>,
}

impl Imaged {
    /// SHA-256 of the source, known when all of it was read.
    pub fn sum(&self) -> Option<Sum> {
        self.output_sum.filter(|_| self.gaps.is_empty())
    }
}

/// The largest source that is hashed, in bytes: zeros have to be hashed too, and this many take most of a day.
const HASHED_MAX: u64 = 64 << 40;

/// Writes all of `source` to the new file `to` (an existing one is an error), mode 0600. Holes and zeros become holes. The file
/// is removed again if the output cannot be written or the work is cancelled.
pub fn image(source: &Source, to: &Path, options: Options, effort: &Effort) -> Result<Imaged> {
    if options.hash && source.len() > HASHED_MAX {
        return Err(Error::usage(format!("{} bytes, mostly holes, are too many to hash", source.len()))
            .hint("add --no-hash"));
    }
    let file = create(to)?;
    let made = fill(source, &file, options, effort);
    if made.is_err() {
        // It is ours and not whole; the failure is what is worth telling.
        let _ = std::fs::remove_file(to);
    }
    made.map_err(|error| error.context(to.display()))
}

/// Writes all of `source` to a pipe, zeros and all.
pub fn stream_to(source: &Source, out: &mut dyn Write, options: Options, effort: &Effort) -> Result<Imaged> {
    let mut hasher = Hasher::default();
    let mut write = |piece: &Piece<'_>| {
        match piece.data {
            Some(data) => out.write_all(data).map_err(sink_error)?,
            None => zeros(piece.len, |data| {
                effort.check()?;
                out.write_all(data).map_err(sink_error)
            })?,
        }
        if options.hash { hasher.piece(piece, effort) } else { Ok(()) }
    };
    let gaps = stream(&**source, effort, &mut Vec::new(), &|_| Ok(()), &mut write)?;
    out.flush().map_err(sink_error)?;
    let output_sum = options.hash.then(|| hasher.finish());
    Ok(Imaged { bytes: source.len(), output_sum, gaps })
}

/// A new file of mode 0600; one that is there is an error.
pub(super) fn create(to: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|error| {
        let there = error.kind() == std::io::ErrorKind::AlreadyExists;
        let error = Error::io(format!("{}: cannot make the file", to.display()), error);
        if there { error.hint("name a file that does not exist yet") } else { error }
    })
}

fn fill(source: &Source, file: &File, options: Options, effort: &Effort) -> Result<Imaged> {
    set_len(file, source.len())?;
    let mut hasher = Hasher::default();
    let gaps =
        stream(&**source, effort, &mut Vec::new(), &|piece| write_sparse(file, piece), &mut |piece| {
            if options.hash { hasher.piece(piece, effort) } else { Ok(()) }
        })?;
    if options.sync {
        file.sync_all().map_err(sink_error)?;
    }
    let output_sum = options.hash.then(|| hasher.finish());
    Ok(Imaged { bytes: source.len(), output_sum, gaps })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::sync::Arc;

    use super::*;
    use crate::block::join::{Join, Part, Piece};
    use crate::block::memory::Memory;
    use crate::evidence::hash::hex;

    #[test]
    fn an_image_is_the_source_with_its_holes_and_its_digest_that_of_the_file() {
        let mib = 1_u64 << 20;
        let bytes: Arc<[u8]> = (0..5 * mib).map(|i| ((i * 7) >> 9).to_le_bytes()[0]).collect();
        let data: Source = Arc::new(Memory::new("data", bytes));
        let at = |start, len, from| Piece { start, len, what: Part::At(Arc::clone(&data), from) };
        let lost = Piece { start: 40 * mib, len: 4096, what: Part::Lost("bad".into()) };
        for (pieces, gaps) in [
            (vec![at(512, 5 * mib, 0), at(20 * mib, 700, 3)], 0),
            (vec![at(0, mib, 0), lost, at(50 * mib - 10, 10, 5)], 1),
        ] {
            let source: Source = Arc::new(Join::new("disk", 50 * mib, pieces).unwrap());
            let temp = tempfile::tempdir().unwrap();
            let to = temp.path().join("image");
            let options = Options { hash: true, sync: true };
            let made = image(&source, &to, options, &Effort::default()).unwrap();
            let out = Command::new("sha256sum").arg(&to).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap()[..64], hex(&made.output_sum.unwrap()));
            assert_eq!((made.gaps.len(), made.sum().is_none()), (gaps, gaps > 0));
            let meta = std::fs::metadata(&to).unwrap();
            assert!(meta.len() == 50 * mib && meta.blocks() * 512 < 8 * mib && meta.mode() & 0o777 == 0o600);
            let written = std::fs::read(&to).unwrap();
            let mut want = vec![0; 4096];
            for at in (0..50 * mib).step_by(4096).filter(|at| gaps == 0 || *at != 40 * mib) {
                source.read_at(at, &mut want).unwrap();
                assert_eq!(written[usize::try_from(at).unwrap()..][..4096], want, "{at:#x}");
            }
            assert!(image(&source, &to, options, &Effort::default()).is_err());
        }
    }

    #[test]
    fn a_cancelled_image_leaves_nothing() {
        let source: Source = Arc::new(Memory::new("data", vec![1; 9 << 20]));
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("image");
        let effort = Effort::new(Arc::new(true.into()));
        assert!(image(&source, &to, Options { hash: true, sync: false }, &effort).is_err());
        assert!(!to.exists());
    }
}
