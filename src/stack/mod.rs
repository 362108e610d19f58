//! Floor 6: a Spec becomes a Stack of disks and volumes, and with a permit a View of content.
//!
//! The one public door to content. What belongs to the operator (layers, partitions, what a filesystem says of itself) is
//! shown by a [`Stack`] to whoever can read the files; names and bytes of the guest come from a [`View`], which holds a
//! [`Permit`] and asks it about every path.

mod guest;
mod quiet;
mod select;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::block::trace::Leaf;
pub use crate::block::{BlockSource, Run, Source, State};
pub use crate::chain::extents::{DiskExtent, Held};
pub use crate::chain::gate::{Admitted, Gate, Root};
pub use crate::chain::{Chain, Format, FormatFrom, Link};
pub use crate::fs::{
    Attribute, Entry, Facts, FileType, InodeState, NameState, Node, NodeId, Stream, StreamInfo, Time,
};
pub use crate::image::qcow2::snapshot::Snapshot;
pub use crate::volume::luks::Key;
pub use crate::volume::{Content, Scheme, Volume};
pub(crate) use guest::Guest;
#[cfg(test)]
pub(crate) use guest::Refusals;
pub use quiet::Writer;
pub use view::View;

use crate::block::cache::{BUDGET, Cache};
use crate::block::nbd::Client;
use crate::effort::Effort;
use crate::error::{Error, Result};
use crate::permit::{self, Act, Permit};
use crate::{chain, fs, volume};

/// What to open. Plain data, filled by who knows the host.
pub struct Spec {
    /// The disks, the one that was asked for first.
    pub disks: Vec<DiskSpec>,
    /// Whether journals are applied, in memory.
    pub replay: bool,
    /// Passphrases and key files, tried on every encrypted volume.
    pub keys: Vec<Key>,
}

/// One disk of a [`Spec`].
pub struct DiskSpec {
    /// Nova's name for it, or the device that the guest sees: `disk`, `disk.eph0`, `vda`.
    pub name: String,
    /// Where its bytes are.
    pub from: From,
}

/// Where a disk's bytes are.
pub enum From {
    /// An image file and what it stands on.
    Image(ImageSpec),
    /// An export of an NBD server.
    Nbd(NbdSpec),
    /// A source that the hypervisor's own tools serve.
    Served(Source),
}

/// An image file and what it may refer to.
pub struct ImageSpec {
    /// The file.
    pub path: PathBuf,
    /// Its format, if somebody trustworthy says it.
    pub format: Option<Format>,
    /// Which host files its chain may pull in.
    pub gate: Gate,
    /// Read this internal snapshot instead of the present state: its ID or name.
    pub snapshot: Option<String>,
}

/// An export of an NBD server on a Unix socket.
pub struct NbdSpec {
    /// The socket.
    pub socket: PathBuf,
    /// The export's name; empty for the server's default.
    pub export: String,
    /// How long an answer may take.
    pub deadline: Duration,
}

impl ImageSpec {
    fn open(&self, cache: &Arc<Cache>, effort: &Effort) -> Result<Chain> {
        chain::open(&self.path, self.format, &self.gate, cache, effort)
    }
}

/// The layers of an image alone: headers and tables, which belong to the operator.
pub fn layers(image: &ImageSpec, effort: &Effort) -> Result<Chain> {
    image.open(&Cache::new(BUDGET), effort)
}

/// Opened disks with their layers and volumes.
pub struct Stack {
    disks: Vec<Disk>,
    options: fs::Options,
}

/// One opened disk.
pub struct Disk {
    /// Nova's name for it.
    pub name: String,
    /// Its layers, where it is an image file.
    pub chain: Option<Chain>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// What is wrong with its tables, a sentence each.
    pub problems: Vec<String>,
    /// What is worth knowing about them and nobody's fault.
    pub notes: Vec<String>,
    source: Source,
}

impl Stack {
    /// Opens the disks and finds their volumes. Nothing of the guest's content is looked at beyond signatures.
    pub fn open(spec: Spec, effort: &Arc<Effort>) -> Result<Self> {
        let cache = Cache::new(BUDGET);
        let options = fs::Options { replay: spec.replay, cache, effort: Arc::clone(effort) };
        let open = |disk| Disk::open(disk, &options, &spec.keys);
        let disks = spec.disks.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { disks, options })
    }

    /// The disks, the one that was asked for first.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// What a filesystem says of itself; `None` where no reader knows the volume's content.
    pub fn facts(&self, volume: &Volume) -> Option<Result<Facts>> {
        Some(self.open_fs(volume)?.map(|fs| fs.facts().clone()))
    }

    /// Everything worth a word about the disks: formats that were taken from a magic, remapped paths, damaged tables.
    pub fn problems(&self) -> Vec<String> {
        let of = |disk: &Disk| {
            let layers = disk.chain.iter().flat_map(|chain| chain.problems.clone());
            layers.chain(disk.problems.clone()).collect::<Vec<_>>()
        };
        self.disks.iter().flat_map(of).collect()
    }

    /// The content of one volume (`None`: the only one with a readable filesystem), as far as the permit covers it.
    pub fn view<A: Act>(&self, permit: &Permit<A>, which: Option<&str>) -> Result<View<A>> {
        let disk = self.first()?;
        covered(permit, &disk.name)?;
        let volume = select::filesystem(&disk.volumes, which)?;
        named_volume(permit, &disk.volumes, volume)?;
        let fs = self.open_fs(volume).unwrap_or_else(|| Err(select::unreadable(volume)))?;
        Ok(View::new(fs, permit.clone(), Arc::clone(&self.options.effort), select::label(volume)))
    }

    /// All bytes of the first disk, or of one volume of it. Only for a permit that covers whole disks.
    pub fn whole<A: permit::Content>(&self, permit: &Permit<A>, which: Option<&str>) -> Result<Source> {
        let disk = self.covered_whole(permit)?;
        match which {
            None => Ok(Arc::clone(&disk.source)),
            Some(which) => {
                let volume = select::by_name(&disk.volumes, which)?;
                volume.source.clone().ok_or_else(|| select::unreadable(volume))
            }
        }
    }

    /// All bytes of each volume of the first disk with its name (`p1`, `vg/lv`) and what it holds. Only for a permit that covers
    /// whole disks.
    pub fn whole_volumes<A: permit::Content>(
        &self,
        permit: &Permit<A>,
    ) -> Result<Vec<(String, String, Source)>> {
        let volumes =
            self.covered_whole(permit)?.volumes.iter().filter(|volume| volume.scheme != Scheme::Whole);
        let content =
            |volume: &Volume| volume.content.as_ref().map_or(volume.kind.clone(), |c| c.kind.to_string());
        let one = |volume: &Volume| Some((select::label(volume), content(volume), volume.source.clone()?));
        Ok(volumes.filter_map(one).collect())
    }

    fn covered_whole<A: Act>(&self, permit: &Permit<A>) -> Result<&Disk> {
        let disk = self.first()?;
        covered(permit, &disk.name)?;
        if permit.scope().whole_disk() {
            return Ok(disk);
        }
        Err(Error::refused("the approval does not cover whole disks")
            .hint("ask for one with `coldread approval request --whole-disk`"))
    }

    fn first(&self) -> Result<&Disk> {
        self.disks.first().ok_or_else(|| Error::usage("no disk was named"))
    }

    fn open_fs(&self, volume: &Volume) -> Option<Result<Arc<dyn fs::FileSystem>>> {
        let kind = volume.content.as_ref()?.kind;
        let reader = fs::READERS.iter().find(|reader| reader.kinds.contains(&kind))?;
        let source = volume.source.clone()?;
        Some((reader.open)(&[source], &self.options))
    }
}

/// Globs are paths of the guest's root. On another volume the same paths are other files, so that an approval of some paths does
/// not hold there: only one for everything does.
fn named_volume<A: Act>(permit: &Permit<A>, volumes: &[Volume], volume: &Volume) -> Result<()> {
    let root = select::filesystem(volumes, None).is_ok_and(|root| root.index == volume.index);
    if root || permit.scope().whole_disk() || permit.covers(b"/") {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{}: the approval is for paths of the guest's root, and this is another volume",
        select::label(volume)
    ))
    .hint("ask for an approval with --whole-disk"))
}

fn covered<A: Act>(permit: &Permit<A>, disk: &str) -> Result<()> {
    if permit.scope().covers_disk(disk) {
        return Ok(());
    }
    Err(Error::refused(format!("the approval does not cover the disk {disk}")))
}

impl Disk {
    fn open(spec: DiskSpec, options: &fs::Options, keys: &[Key]) -> Result<Self> {
        let (chain, source) = match spec.from {
            From::Image(image) => {
                let chain = image.open(&options.cache, &options.effort)?;
                let source = match &image.snapshot {
                    None => chain.disk(spec.name.as_str())?,
                    Some(snapshot) => chain.snapshot_disk(spec.name.as_str(), snapshot)?,
                };
                (Some(chain), source)
            }
            From::Nbd(nbd) => {
                let client: Source = Client::connect(&nbd.socket, &nbd.export, nbd.deadline)?;
                (None, client)
            }
            From::Served(source) => (None, source),
        };
        let how =
            volume::Options { keys: keys.to_vec(), ..volume::Options::new(&options.cache, &options.effort) };
        let scan = volume::scan(&source, &how)?;
        Ok(Self {
            name: spec.name,
            chain,
            volumes: scan.volumes,
            problems: scan.problems,
            notes: scan.notes,
            source,
        })
    }
}
