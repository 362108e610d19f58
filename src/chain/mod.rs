//! Floor 3: layers become one disk.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod disk;
pub mod extents;
mod find;
mod format;
pub mod gate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::disk::Disk;
use self::find::Found;
pub use self::format::{Format, FormatFrom};
use self::gate::{Admitted, Gate};
use crate::block::Source;
use crate::block::cache::Cache;
use crate::effort::Effort;
use crate::error::{Error, Result};
use crate::image::Layer;
use crate::image::qcow2::Qcow2;
use crate::image::qcow2::header::{Encryption, Header};
use crate::image::qcow2::snapshot::Snapshot;
use crate::image::raw::Raw;

/// An image and all that it stands on.
pub struct Chain {
    /// The layers, the top one first; never empty.
    pub links: Vec<Link>,
    /// What is wrong with them beside the data, one sentence each.
    pub problems: Vec<String>,
    cache: Arc<Cache>,
}

/// One layer of a chain and the file that it is.
pub struct Link {
    /// The file.
    pub file: Admitted,
    /// Its external data file, if it has one.
    pub data_file: Option<Admitted>,
    /// The layer itself.
    pub layer: Arc<dyn Layer>,
    /// Its format.
    pub format: Format,
    /// How that is known.
    pub format_from: FormatFrom,
    /// The name that the overlay records for it; none for the top.
    pub recorded_path: Option<Vec<u8>>,
    /// It was found at another place than that name says.
    pub remapped: bool,
    /// The snapshots in it.
    pub snapshots: Vec<Snapshot>,
    qcow2: Option<Qcow2>,
}

impl Link {
    /// The header of a qcow2 layer.
    pub fn header(&self) -> Option<&Header> {
        self.qcow2.as_ref().map(Qcow2::header)
    }

    /// The size of the disk that it describes, in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.layer.size()
    }

    /// Whether its data are encrypted.
    pub fn encrypted(&self) -> bool {
        self.header().is_some_and(|header| header.encryption != Encryption::None)
    }

    /// `compat` as `qemu-img` writes it: `0.10` or `1.1`.
    pub fn compat(&self) -> Option<&'static str> {
        self.header().map(|header| if header.version < 3 { "0.10" } else { "1.1" })
    }

    /// The files of this link: the image, and its external data file.
    pub fn files(&self) -> impl Iterator<Item = &Admitted> {
        std::iter::once(&self.file).chain(&self.data_file)
    }
}

/// Opens `top` and, through the gate, what it stands on.
///
/// `format` is what something trustworthy says of `top`; without it the file's magic decides, as the operator named
/// it. Refused: a name that leads out of the gate. NotFound: a base that is not there. An encrypted layer opens, so that
/// its facts can be shown; [`Chain::disk`] then fails.
pub fn open(
    top: &Path,
    format: Option<Format>,
    gate: &Gate,
    cache: &Arc<Cache>,
    effort: &Effort,
) -> Result<Chain> {
    let mut chain = Chain { links: Vec::new(), problems: Vec::new(), cache: Arc::clone(cache) };
    let file = gate.named(top)?;
    let (format, format_from) = format::top(gate, &file, format)?;
    let mut next =
        Some(Step { found: Found { admitted: file, remapped: false }, format, format_from, recorded: None });
    while let Some(step) = next {
        effort.check()?;
        if chain.links.len() >= gate.depth {
            return Err(Error::refused(format!(
                "{}: a chain of more than {} images",
                step.found.admitted.path.display(),
                gate.depth
            )));
        }
        chain.refuse_loop(&step.found.admitted)?;
        let link = chain.link(step, gate, effort)?;
        next = backing(&link, gate, effort)?;
        chain.links.push(link);
    }
    Ok(chain)
}

/// The file that `name` means in the image `of`: for what reads formats of its own and names other files, as VMDK does.
pub fn refer(gate: &Gate, name: &[u8], of: &Admitted, effort: &Effort) -> Result<Admitted> {
    let directory = of.path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    find::find(gate, name, &directory, &of.identity, effort)
        .map(|found| found.admitted)
        .map_err(|error| error.context(format!("named by {}", of.path.display())))
}

/// A file on its way to becoming a link.
struct Step {
    found: Found,
    format: Format,
    format_from: FormatFrom,
    recorded: Option<Vec<u8>>,
}

/// The file that `link` stands on.
fn backing(link: &Link, gate: &Gate, effort: &Effort) -> Result<Option<Step>> {
    let Some(refers) = link.header().map(|header| &header.refers) else { return Ok(None) };
    let Some(name) = &refers.backing else { return Ok(None) };
    let found = beside(link, |beside| find::find(gate, name, beside, &link.file.identity, effort))?;
    let (format, format_from) = format::backing(gate, &found.admitted, refers.backing_format.as_deref())?;
    Ok(Some(Step { found, format, format_from, recorded: Some(name.clone()) }))
}

/// Finds something that `link` names, with its path before the message.
fn beside<T>(link: &Link, find: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = &link.file.path;
    let directory = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    find(&directory).map_err(|error| error.context(format!("backing file of {}", path.display())))
}

impl Chain {
    fn link(&mut self, step: Step, gate: &Gate, effort: &Effort) -> Result<Link> {
        let Step { found: Found { admitted: file, remapped }, format, format_from, recorded } = step;
        if file.atime_may_move {
            self.problems.push(format!(
                "{}: reading it may move its access time (not ours to leave alone)",
                file.path.display()
            ));
        }
        let source: Source = Arc::<crate::block::file::HostFile>::clone(&file.file);
        let mut link = Link {
            layer: Arc::new(Raw::open(Arc::clone(&source))),
            data_file: None,
            format,
            format_from,
            recorded_path: recorded,
            remapped,
            snapshots: Vec::new(),
            qcow2: None,
            file,
        };
        if format == Format::Raw {
            return Ok(link);
        }
        let mut qcow2 = Qcow2::open(source, &self.cache)?;
        if let Some(name) = qcow2.refers().data_file.clone() {
            let directory = link.file.path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
            let found = find::find(gate, &name, &directory, &link.file.identity, effort)
                .map_err(|error| error.context(format!("data file of {}", link.file.path.display())))?;
            self.refuse_loop(&found.admitted)?;
            if found.admitted.identity.is_same(&link.file.identity) {
                return Err(Error::corrupt(format!(
                    "{}: its own data file, a loop",
                    link.file.path.display()
                )));
            }
            qcow2 = qcow2.with_data_file(Arc::<crate::block::file::HostFile>::clone(&found.admitted.file));
            link.data_file = Some(found.admitted);
        }
        let (snapshots, damage) = qcow2.snapshots();
        link.snapshots = snapshots;
        self.note(&link, qcow2.header(), damage);
        link.layer = Arc::new(qcow2.clone());
        link.qcow2 = Some(qcow2);
        Ok(link)
    }

    fn note(&mut self, link: &Link, header: &Header, snapshots: Option<Error>) {
        let path = link.file.path.display();
        let mut say = |what: &str| self.problems.push(format!("{path}: {what}"));
        if header.dirty {
            say("marked dirty: it was not closed cleanly; its data are read as they are");
        }
        if header.corrupt {
            say("marked corrupt: a program found its tables damaged; what they still say is read");
        }
        if header.encryption != Encryption::None {
            say("encrypted: its data cannot be read");
        }
        if let Some(error) = snapshots {
            self.problems.push(error.to_string());
        }
    }

    fn refuse_loop(&self, file: &Admitted) -> Result<()> {
        let seen = self.links.iter().flat_map(Link::files).any(|f| f.identity.is_same(&file.identity));
        if seen {
            return Err(Error::corrupt(format!(
                "{}: the chain comes back to it, a loop",
                file.path.display()
            )));
        }
        Ok(())
    }

    /// The disk that the whole chain describes, under the name `name`.
    pub fn disk(&self, name: impl Into<Arc<str>>) -> Result<Source> {
        self.stack(name, None)
    }

    /// The disk as it was when the top layer's snapshot `wanted` was taken: by its id, or else by its name.
    pub fn snapshot_disk(&self, name: impl Into<Arc<str>>, wanted: &str) -> Result<Source> {
        let top = self.links.first().and_then(|link| Some((link, link.qcow2.as_ref()?)));
        let (link, qcow2) = top.ok_or_else(|| Error::not_found("a raw image has no snapshots"))?;
        let is = |field: &[u8]| field == wanted.as_bytes();
        let by_name: Vec<_> = link.snapshots.iter().filter(|s| is(&s.name)).collect();
        let snapshot = match (link.snapshots.iter().find(|s| is(&s.id)), by_name.as_slice()) {
            (Some(by_id), _) => by_id,
            (None, [one]) => one,
            (None, []) => {
                return Err(Error::not_found(format!(
                    "{}: no snapshot {wanted:?}",
                    link.file.path.display()
                ))
                .hint("`chain` lists the snapshots"));
            }
            (None, _) => {
                return Err(Error::new(
                    crate::error::Kind::Usage,
                    format!("{}: several snapshots are called {wanted:?}", link.file.path.display()),
                )
                .hint("name it by its id"));
            }
        };
        self.stack(name, Some(Arc::new(qcow2.at_snapshot(snapshot)?)))
    }

    fn stack(&self, name: impl Into<Arc<str>>, top: Option<Arc<dyn Layer>>) -> Result<Source> {
        for qcow2 in self.links.iter().filter_map(|link| link.qcow2.as_ref()) {
            qcow2.readable()?;
        }
        let mut layers: Vec<_> = self.links.iter().map(|link| Arc::clone(&link.layer)).collect();
        if let (Some(top), Some(first)) = (top, layers.first_mut()) {
            *first = top;
        }
        Ok(Arc::new(Disk::new(name, layers, &self.cache)?))
    }
}
