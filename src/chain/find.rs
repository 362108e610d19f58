//! From a name in an image to the host file it means, in a tree that may have been copied from another host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::gate::{Admitted, Gate, Identity, Root, exists};
use crate::block::BlockSource;
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};

/// A file that a reference led to.
pub(super) struct Found {
    pub admitted: Admitted,
    /// It was found at another place than the name says.
    pub remapped: bool,
}

/// Finds the file that `name` means in an image that lies in the directory `beside`. `own` is that image itself.
///
/// An absolute path of the original host is looked up by its file name in the roots. A name that could mean two files
/// that differ means none.
pub(super) fn find(
    gate: &Gate,
    name: &[u8],
    beside: &Path,
    own: &Identity,
    effort: &Effort,
) -> Result<Found> {
    let shown = String::from_utf8_lossy(name).into_owned();
    if name.contains(&0) {
        return Err(Error::corrupt(format!("the file name {shown:?} has a zero byte")));
    }
    let recorded = Path::new(OsStr::from_bytes(name));
    if let Some(admitted) = mapped(gate, recorded, None)? {
        return Ok(Found { admitted, remapped: true });
    }
    if has_protocol(name) {
        return Err(Error::refused(format!("{shown:?} is no file of the host, but a protocol of QEMU's"))
            .hint(format!("--map '{shown}=PATH' names the file that stands for it")));
    }
    let literal = lexical(&beside.join(recorded))
        .ok_or_else(|| Error::refused(format!("{shown:?} leads above the root directory")))?;
    if let Some(admitted) = mapped(gate, &literal, Some(recorded))? {
        return Ok(Found { admitted, remapped: true });
    }

    let mut candidates: Vec<Found> = Vec::new();
    let mut refusal = None;
    let mut look = |root: &Root, relative: &Path, remapped: bool| -> Result<()> {
        match gate.beneath(root, relative) {
            // Not the image itself: `disk` of another instance is not this instance's `disk`.
            Ok(found) if remapped && found.identity.is_same(own) => {}
            Ok(found) if candidates.iter().any(|c| c.admitted.identity.is_same(&found.identity)) => {}
            Ok(admitted) => candidates.push(Found { admitted, remapped }),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) if error.kind() == Kind::Refused => {
                refusal.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let mut inside = false;
    for root in &gate.roots {
        if let Some(relative) = root.beneath(&literal) {
            inside = true;
            look(root, relative, false)?;
        }
    }
    let file_name = literal.file_name().map(Path::new);
    if let (Some(file_name), true) = (file_name, recorded.is_absolute() || inside) {
        for root in gate.roots.iter().filter(|root| root.looks_for(&literal)) {
            look(root, file_name, true)?;
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let mut candidates = candidates.into_iter();
    let Some(first) = candidates.next() else {
        return Err(missing(gate, &shown, &literal, inside, recorded.is_absolute()));
    };
    for other in candidates {
        if !same_content(&first.admitted, &other.admitted, effort)? {
            return Err(Error::refused(format!(
                "{shown:?} could be {} or {}, and they differ",
                first.admitted.path.display(),
                other.admitted.path.display()
            ))
            .hint(format!("--map '{shown}=PATH' says which")));
        }
    }
    Ok(first)
}

/// Why nothing was found: outside, or not there.
fn missing(gate: &Gate, shown: &str, literal: &Path, inside: bool, absolute: bool) -> Error {
    let roots: Vec<_> = gate.roots.iter().map(|root| root.path.display().to_string()).collect();
    let looked = if roots.is_empty() { "nowhere".into() } else { roots.join(", ") };
    let in_a_base = literal.parent().and_then(Path::file_name) == Some(OsStr::new("_base"));
    let error = if !inside && (!absolute || !in_a_base && exists(literal)) {
        Error::refused(format!("{shown:?} lies outside the directories that may be read ({looked})"))
    } else {
        Error::not_found(format!("{shown:?} is missing (looked in {looked})"))
    };
    error.hint(format!("--base DIR names another directory, --map '{shown}=PATH' the file itself"))
}

/// The file that a remap names, if one holds for `path`.
fn mapped(gate: &Gate, path: &Path, recorded: Option<&Path>) -> Result<Option<Admitted>> {
    for (from, to) in &gate.maps {
        // A whole name may be anything, a protocol too; a prefix ends between two parts of a path.
        let rest = if from.as_os_str() == path.as_os_str() {
            Some(Path::new(""))
        } else if path.is_absolute() {
            path.strip_prefix(from).ok()
        } else {
            None
        };
        let Some(rest) = rest else { continue };
        let shown = recorded.unwrap_or(path).display();
        if rest.as_os_str().is_empty() {
            return gate.named(to).map(Some).map_err(|error| error.context(format!("{shown} by --map")));
        }
        let rest =
            lexical(rest).ok_or_else(|| Error::refused(format!("{shown}: leads out of {}", to.display())))?;
        let root = Root::open(to)?;
        return gate
            .beneath(&root, &rest)
            .map(Some)
            .map_err(|error| error.context(format!("{shown} by --map")));
    }
    Ok(None)
}

/// As QEMU's `path_has_protocol`: a colon before any slash.
fn has_protocol(name: &[u8]) -> bool {
    name.iter().find(|b| matches!(b, b':' | b'/')) == Some(&b':')
}

/// `path` with `.` and `..` taken away, by its text alone; none where `..` leads above the start.
pub(super) fn lexical(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if out.file_name().is_none() || !out.pop() {
                    return None;
                }
            }
            part => out.push(part),
        }
    }
    Some(out)
}

/// Whether both files hold the same bytes.
fn same_content(a: &Admitted, b: &Admitted, effort: &Effort) -> Result<bool> {
    if a.file.len() != b.file.len() {
        return Ok(false);
    }
    let mut buffers = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < a.file.len() {
        effort.check()?;
        let take =
            usize::try_from(a.file.len().saturating_sub(at)).unwrap_or(usize::MAX).min(buffers.0.len());
        let (x, y) =
            (buffers.0.get_mut(..take).unwrap_or_default(), buffers.1.get_mut(..take).unwrap_or_default());
        a.file.read_at(at, x)?;
        b.file.read_at(at, y)?;
        if x != y {
            return Ok(false);
        }
        at = at.saturating_add(take as u64);
    }
    Ok(true)
}
