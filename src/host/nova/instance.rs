//! One instance directory: whose it is, and which disks it has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::error::{Error, Result};
use crate::host::libvirt::{Disk, Domain, Place, xml};
use crate::stack::Format;

/// Whether the directory is the instance's present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The directory in use.
    Present,
    /// `*_resize`: the state before a resize or migration that was not yet confirmed.
    Resize,
    /// `*_del`: being deleted.
    Deleted,
}

/// One instance, as its directory and libvirt's XML describe it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its directory.
    pub dir: PathBuf,
    /// The tree that the directory lies in.
    pub tree: PathBuf,
    /// The server's UUID.
    pub uuid: Option<String>,
    /// libvirt's name for it: `instance-0000274a`.
    pub domain: Option<String>,
    /// The server's name: chosen by the tenant.
    pub name: Option<String>,
    /// The project: its name, else its UUID.
    pub project: Option<String>,
    /// The user: its name, else its UUID.
    pub user: Option<String>,
    /// The flavor's name.
    pub flavor: Option<String>,
    /// When it was created, RFC 3339 UTC.
    pub created: Option<String>,
    /// Nova's status of the server (`ACTIVE`, `SHUTOFF`), where OpenStack was asked.
    pub status: Option<String>,
    /// Disks that do not lie in the directory: Cinder volumes, RBD, as the XML names them.
    pub volumes: Vec<String>,
    /// Addresses of its network ports.
    pub ports: Vec<String>,
    /// The disks in its directory; `disk` first, then by name.
    pub disks: Vec<DiskFile>,
    /// Whether the directory is the present one.
    pub standing: Standing,
    /// What is wrong with the directory, a sentence each.
    pub problems: Vec<String>,
}

/// One image file of an instance.
#[derive(Clone, Debug)]
pub struct DiskFile {
    /// Nova's name for it: `disk`, `disk.eph0`, `disk.config`.
    pub name: String,
    /// The device that the guest sees, where the XML tells: `vda`.
    pub target: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// Its format, where somebody trustworthy says it, and who.
    pub format: Option<(Format, &'static str)>,
}

/// Domain definitions that lie beside the tree, by UUID and by name.
#[derive(Default)]
pub struct Domains {
    all: Vec<Domain>,
}

/// The largest text file that is read: `disk.info` and domain XML take a few KiB.
const TEXT_MAX: u64 = 4 << 20;

impl Domains {
    /// Reads every `*.xml` of these directories; what is no domain definition is passed over.
    pub fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Vec::new();
        for dir in dirs {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            let xml = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "xml"));
            all.extend(xml.filter_map(|path| xml::domain(&text(path).ok()?).ok()));
        }
        Self { all }
    }

    fn find(&self, uuid: Option<&str>, name: &str) -> Option<&Domain> {
        self.all.iter().find(|d| uuid.is_some_and(|uuid| d.uuid.eq_ignore_ascii_case(uuid)) || d.name == name)
    }
}

/// A small text file of the operator's, opened so that neither a link nor a FIFO can hold us up.
fn text(path: &Path) -> Result<String> {
    let failed = |error| Error::io(format!("{}: cannot be read", path.display()), error);
    let plain = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let open = |flags: OFlag| File::options().read(true).custom_flags(flags.bits()).open(path);
    // Only the owner and root may leave the time of access alone.
    let file = open(plain | OFlag::O_NOATIME).or_else(|_| open(plain)).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::refused(format!("{}: not a regular file", path.display())));
    }
    let mut out = String::new();
    file.take(TEXT_MAX).read_to_string(&mut out).map_err(failed)?;
    Ok(out)
}

impl Instance {
    /// Reads the directory `name` of `tree`; `None` when it is none of Nova's instance directories.
    pub fn read(tree: &Path, name: &str, domains: &Domains) -> Option<Self> {
        let (id, standing) = standing(name);
        let by_uuid = is_uuid(id);
        let disks = disk_names(&tree.join(name));
        // Other name templates are possible; such a directory is known by what Nova puts into it.
        let by_name = id.starts_with("instance-") || disks.iter().any(|n| n == "disk" || n == "disk.info");
        if name.starts_with('_') || (!by_uuid && !by_name) {
            return None;
        }
        let mut instance = Self {
            dir: tree.join(name),
            tree: tree.to_path_buf(),
            uuid: by_uuid.then(|| id.to_ascii_lowercase()),
            domain: (!by_uuid).then(|| id.to_string()),
            name: None,
            project: None,
            user: None,
            flavor: None,
            created: None,
            status: None,
            volumes: Vec::new(),
            ports: Vec::new(),
            disks: Vec::new(),
            standing,
            problems: Vec::new(),
        };
        let domain = instance.definition(domains, id);
        instance.find_disks(&disks, domain.as_ref());
        if let Some(domain) = domain {
            instance.describe(domain);
        }
        Some(instance)
    }

    /// An instance directory named by its path.
    pub fn at(dir: &Path, domains: &Domains) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let tree = dir.parent().filter(|tree| !tree.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::read(tree, name, domains)
    }

    /// The disk called `name`, or with the target `name`.
    pub fn disk(&self, name: &str) -> Result<&DiskFile> {
        let named = self.disks.iter().find(|disk| disk.name == name);
        named.or_else(|| self.disks.iter().find(|disk| disk.target.as_deref() == Some(name))).ok_or_else(
            || {
                let names: Vec<_> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
                let there = if names.is_empty() {
                    "it has no disk files".into()
                } else {
                    format!("it has {}", names.join(", "))
                };
                Error::not_found(format!("{}: no disk {name}", self.dir.display())).hint(there)
            },
        )
    }

    /// What to call it: the UUID, else the domain's name.
    pub fn id(&self) -> String {
        let directory = || self.dir.file_name().map(|n| n.to_string_lossy().into_owned());
        self.uuid.clone().or_else(|| self.domain.clone()).or_else(directory).unwrap_or_default()
    }

    /// The domain's definition: beside the disks (old trees), else among libvirt's own.
    fn definition(&mut self, domains: &Domains, id: &str) -> Option<Domain> {
        let beside = self.dir.join("libvirt.xml");
        if beside.symlink_metadata().is_ok() {
            match text(&beside).and_then(|text| xml::domain(&text)) {
                Ok(domain) => return Some(domain),
                Err(error) => self.problems.push(format!("libvirt.xml: {}", error.what())),
            }
        }
        domains.find(self.uuid.as_deref(), id).cloned()
    }

    fn describe(&mut self, domain: Domain) {
        if let (Some(uuid), false) = (&self.uuid, domain.uuid.is_empty())
            && !uuid.eq_ignore_ascii_case(&domain.uuid)
        {
            self.problems.push(format!("libvirt.xml names the instance {}", domain.uuid));
            return;
        }
        self.uuid = self.uuid.take().or(Some(domain.uuid).filter(|uuid| !uuid.is_empty()));
        self.domain = Some(domain.name).filter(|name| !name.is_empty()).or(self.domain.take());
        self.volumes = domain.disks.iter().filter_map(outside).collect();
        self.name = domain.server;
        self.project = domain.project;
        self.user = domain.user;
        self.flavor = domain.flavor;
        self.created = domain.created;
        self.ports = domain.ports;
    }

    fn find_disks(&mut self, names: &[String], domain: Option<&Domain>) {
        let info = self.disk_info();
        for name in names
            .iter()
            .filter(|name| *name != "disk.info")
            .filter(|name| !name.rsplit_once('.').is_some_and(|(_, end)| matches!(end, "tmp" | "part")))
        {
            let described = domain.and_then(|domain| {
                domain
                    .disks
                    .iter()
                    .find(|disk| file(disk).and_then(Path::file_name).is_some_and(|n| n == name.as_str()))
            });
            let format = info.get(name).map(|format| (format.clone(), "disk.info"));
            let format = format.or_else(|| Some((described?.chain.first()?.format.clone()?, "libvirt XML")));
            let mut known =
                format.as_ref().and_then(|(word, who)| Some((Format::from_word(word).ok()?, *who)));
            if let (Some((word, who)), None) = (&format, &known) {
                self.problems
                    .push(format!("{name}: {who} says the format is {word}, which is not read here"));
            }
            // The driver makes the config drive as a plain ISO 9660 or FAT image and never lists it (configdrive.py).
            if known.is_none() && format.is_none() && name.starts_with("disk.config") {
                known = Some((Format::Raw, "Nova's convention"));
            }
            let target = described.map(|disk| disk.target.clone()).filter(|target| !target.is_empty());
            self.disks.push(DiskFile {
                name: name.clone(),
                target,
                path: self.dir.join(name),
                format: known,
            });
        }
        if self.disks.is_empty() && domain.is_none_or(|d| d.disks.iter().all(|disk| outside(disk).is_none()))
        {
            self.problems.push("no disk files".to_string());
        }
    }

    /// `disk.info`: a JSON object, path on the original host to format (imagebackend.py `resolve_driver_format`).
    fn disk_info(&mut self) -> BTreeMap<String, String> {
        let path = self.dir.join("disk.info");
        if path.symlink_metadata().is_err() {
            return BTreeMap::new();
        }
        let parsed = text(&path).and_then(|json| {
            serde_json::from_str::<BTreeMap<String, String>>(&json)
                .map_err(|e| Error::corrupt(format!("no object of strings: {e}")))
        });
        match parsed {
            Ok(formats) => {
                let by_name = |(path, format): (String, String)| {
                    Some((Path::new(&path).file_name()?.to_str()?.to_string(), format))
                };
                formats.into_iter().filter_map(by_name).collect()
            }
            Err(error) => {
                self.problems.push(format!("disk.info: {}", error.what()));
                BTreeMap::new()
            }
        }
    }
}

/// The file of a disk, as the original host knows it.
fn file(disk: &Disk) -> Option<&Path> {
    match &disk.chain.first()?.place {
        Place::File(path) => Some(path),
        _ => None,
    }
}

/// The source of a disk that is no file: a Cinder volume, RBD, LVM.
fn outside(disk: &Disk) -> Option<String> {
    match &disk.chain.first()?.place {
        Place::File(_) => None,
        place => Some(place.to_string()),
    }
}

/// The names of image files in an instance directory: `disk` first, then sorted.
fn disk_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name == "disk" || name.starts_with("disk.")).collect();
    names.sort();
    names
}

/// The instance's own name in a directory name, and what its ending says.
fn standing(name: &str) -> (&str, Standing) {
    if let Some(id) = name.strip_suffix("_resize") {
        return (id, Standing::Resize);
    }
    if let Some(id) = name.strip_suffix("_del") {
        return (id, Standing::Deleted);
    }
    (name, Standing::Present)
}

/// Whether `text` is a UUID in its usual form.
pub fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if hyphens.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() })
}
