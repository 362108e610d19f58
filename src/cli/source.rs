//! SOURCE and the options that every command which takes one has; from them to an opened stack.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use coldread::error::{Error, Result};
use coldread::host::libvirt::virsh::Virsh;
use coldread::host::libvirt::{Domain, Host};
use coldread::host::live::{Live, LiveDisk, Way};
use coldread::host::nova::{self, Found, Instance};
use coldread::host::qemu_nbd;
use coldread::stack::{DiskSpec, Format, From, Gate, ImageSpec, Key, NbdSpec, Root};

use super::Context;
use super::live::LiveOptions;

/// What is read, and how it is opened.
#[derive(Args, Clone)]
pub struct Source {
    /// An image file, a Nova instance directory, an instance's UUID, domain name or server name; domain:NAME for a live
    /// instance; nbd+unix:///EXPORT?socket=PATH; qemu:SPEC for what QEMU reads
    #[arg(value_name = "SOURCE")]
    pub source: String,

    #[command(flatten)]
    pub options: SourceOptions,

    #[command(flatten)]
    pub live: LiveOptions,
}

/// The options of [`Source`].
#[derive(Args, Clone)]
#[command(next_help_heading = "Source options")]
pub struct SourceOptions {
    /// Instances trees to look names up in
    #[arg(long, value_name = "DIR", env = "COLDREAD_INSTANCES", value_delimiter = ':', default_value = nova::INSTANCES)]
    pub instances: Vec<PathBuf>,

    /// Directories with libvirt domain XML, for names of copied trees
    #[arg(long, value_name = "DIR")]
    pub domains: Vec<PathBuf>,

    /// Which disk of an instance: `disk`, `disk.eph0`, `disk.config`, or the target `vda`
    #[arg(long, value_name = "NAME")]
    pub disk: Option<String>,

    /// Which volume: a partition's number, a label, a UUID, or `vg/lv`
    #[arg(long, value_name = "V")]
    pub volume: Option<String>,

    /// An internal snapshot of the image, by ID or name
    #[arg(long, value_name = "ID|NAME")]
    pub snapshot: Option<String>,

    /// The image's format, raw or qcow2; with a path that of one file of the chain
    #[arg(long = "format", value_name = "F|PATH=F", value_parser = format)]
    pub image_format: Vec<Said>,

    /// Where base images may be, besides the instance's own tree
    #[arg(long, value_name = "DIR")]
    pub base: Vec<PathBuf>,

    /// Where a path of the original host is here: a prefix and what replaces it
    #[arg(long, value_name = "FROM=TO", value_parser = mapping)]
    pub map: Vec<(PathBuf, PathBuf)>,

    /// Read the filesystem as it lies, its journal not applied
    #[arg(long)]
    pub no_replay: bool,

    /// A passphrase or key file for LUKS volumes
    #[arg(long, value_name = "F")]
    pub passphrase_file: Option<PathBuf>,

    /// Read a disk although somebody writes it; what is read may not be consistent
    #[arg(long)]
    pub unsafe_live: bool,

    /// Allow SOURCE to be a block device
    #[arg(long)]
    pub allow_device: bool,
}

/// A format that the operator says: of the source itself, or of one file that it stands on.
#[derive(Clone, Debug)]
pub struct Said {
    path: Option<PathBuf>,
    format: Format,
}

fn format(text: &str) -> Result<Said, String> {
    let (path, word) = match text.rsplit_once('=') {
        Some((path, word)) => (Some(PathBuf::from(path)), word),
        None => (None, text),
    };
    let format = Format::from_word(word).map_err(|_| "raw and qcow2 are read".to_string())?;
    Ok(Said { path, format })
}

fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((from, to)) if from.starts_with('/') && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("wanted /PATH/ON/THE/ORIGINAL/HOST=PATH/HERE".to_string()),
    }
}

/// The disk that a command reads when none is named.
const ROOT_DISK: &str = "disk";

/// How long an NBD server may take for an answer.
const NBD_DEADLINE: Duration = Duration::from_secs(60);

/// What a SOURCE turned out to be, before anything of it is opened.
pub enum Given {
    /// One disk by its image file or NBD export: of an instance, if it is one's.
    Disk {
        /// Where its bytes are.
        spec: DiskSpec,
        /// Who says its format, if somebody does.
        format_from: Option<&'static str>,
        /// The instance.
        instance: Option<Box<Instance>>,
    },
    /// A live instance.
    Domain(Box<Domain>),
}

impl Given {
    /// The instance's UUID, if operator data says it.
    pub fn uuid(&self) -> Option<String> {
        match self {
            Self::Disk { instance, .. } => instance.as_ref()?.uuid.clone(),
            Self::Domain(domain) => Some(domain.uuid.clone()),
        }
    }
}

/// The largest key file, in bytes: cryptsetup's own limit.
const KEY_MAX: u64 = 8 << 20;

impl SourceOptions {
    /// The keys in the passphrase file: its bytes as they are and, if it ends a line, without that end.
    pub fn keys(&self) -> Result<Vec<Key>> {
        let Some(bytes) = self.key_file()? else { return Ok(Vec::new()) };
        let line = bytes.strip_suffix(b"\n").map(|line| Key::new(line.to_vec()));
        Ok(line.into_iter().chain([Key::new(bytes)]).collect())
    }

    /// The passphrase in the file: without the end of its line.
    fn passphrase(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.key_file()?.map(|bytes| bytes.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(bytes)))
    }

    fn key_file(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let failed = |error| Error::io(format!("{}: cannot be read", path.display()), error);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(KEY_MAX).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }
}

impl Source {
    /// Finds out what SOURCE is.
    pub fn find(&self, context: &Context) -> Result<Given> {
        if let Some(domain) = self.source.strip_prefix("domain:") {
            let domain = Virsh::new(self.live.client()).describe(domain)?;
            return Ok(Given::Domain(Box::new(domain)));
        }
        if self.source.starts_with("nbd") && self.source.contains("://") {
            let spec = DiskSpec { name: self.disk_name(), from: From::Nbd(nbd(&self.source)?) };
            return Ok(Given::Disk { spec, format_from: None, instance: None });
        }
        if self.source.starts_with("qemu:") {
            return self.through_qemu(context);
        }
        let options = &self.options;
        match nova::find(&self.source, &options.instances, &options.domains)? {
            Found::File(path) => self.of_file(&path),
            Found::Instance(instance) => self.of_instance(instance, context),
        }
    }

    /// What coldread does not read itself, through a confined qemu-nbd. Said, never silent.
    fn through_qemu(&self, context: &Context) -> Result<Given> {
        let spec = qemu_nbd::spec::Spec::parse(self.source.trim_start_matches("qemu:"))?;
        let gate = match &spec {
            qemu_nbd::spec::Spec::File(path) => self.gate(path)?,
            qemu_nbd::spec::Spec::Rbd(_) => Gate::default(),
        };
        let options =
            qemu_nbd::Options { passphrase: self.options.passphrase()?, ..qemu_nbd::Options::default() };
        let opened = qemu_nbd::open(&spec, &gate, &options, &context.effort)?;
        context.voice.note(&opened.note);
        let spec = DiskSpec { name: self.disk_name(), from: From::Served(opened.source) };
        Ok(Given::Disk { spec, format_from: Some("qemu-nbd"), instance: None })
    }

    /// An image named by its path. In an instance directory, what Nova says of the file holds for it too.
    fn of_file(&self, path: &Path) -> Result<Given> {
        if let Some(disk) = &self.options.disk {
            return Err(Error::usage(format!(
                "--disk {disk} needs an instance, and {} is one file",
                path.display()
            )));
        }
        let path = std::path::absolute(path)
            .map_err(|e| Error::io(format!("{}: no absolute path", path.display()), e))?;
        let instance = path.parent().and_then(|dir| Instance::at(dir, &nova::Domains::default()));
        let listed = instance.and_then(|i| i.disks.into_iter().find(|disk| disk.path == path));
        self.image("disk", &path, listed.and_then(|disk| disk.format), None)
    }

    fn of_instance(&self, instance: Box<Instance>, context: &Context) -> Result<Given> {
        for problem in &instance.problems {
            context.voice.note(&format!("{}: {problem}", instance.dir.display()));
        }
        let disk = instance.disk(&self.disk_name())?.clone();
        self.image(&disk.name, &disk.path, disk.format, Some(instance))
    }

    fn disk_name(&self) -> String {
        self.options.disk.clone().unwrap_or_else(|| ROOT_DISK.to_string())
    }

    /// `said` is what Nova's files say of the format, and who of them; `--format` goes above it.
    fn image(
        &self,
        name: &str,
        path: &Path,
        said: Option<(Format, &'static str)>,
        instance: Option<Box<Instance>>,
    ) -> Result<Given> {
        let given = self.options.image_format.iter().find(|said| said.path.is_none());
        let said = given.map(|said| (said.format, "--format")).or(said);
        let format = said.map(|(format, _)| format);
        let image = ImageSpec {
            path: path.to_path_buf(),
            format,
            gate: self.gate(path)?,
            snapshot: self.options.snapshot.clone(),
        };
        let spec = DiskSpec { name: name.to_string(), from: From::Image(image) };
        Ok(Given::Disk { spec, format_from: said.map(|(_, who)| who), instance })
    }

    fn gate(&self, path: &Path) -> Result<Gate> {
        let mut gate = Gate::around(path, &self.options.base)?;
        gate.maps.clone_from(&self.options.map);
        gate.allow_device = self.options.allow_device;
        for said in &self.options.image_format {
            if let Some(path) = &said.path {
                gate.formats.insert(path.clone(), said.format);
            }
        }
        Ok(gate)
    }

    /// The disk of a live instance that was asked for: by the device that the guest sees, by Nova's name for it, or the first.
    pub fn live_disk(&self, live: &Live) -> Result<DiskSpec> {
        let nova_name = |disk: &LiveDisk| match &disk.way {
            Way::Files(files) => {
                files.first().and_then(|(path, _)| path.file_name()).map(|n| n.to_string_lossy().into_owned())
            }
            Way::Nbd { .. } | Way::Nowhere(_) => None,
        };
        let disks = live.disks();
        let disk = match &self.options.disk {
            None => disks.iter().find(|disk| disk.device == "disk"),
            Some(name) => disks.iter().find(|d| d.target == *name || nova_name(d).as_deref() == Some(name)),
        };
        let names: Vec<_> = disks.iter().map(|disk| disk.target.as_str()).collect();
        let disk = disk.ok_or_else(|| {
            Error::not_found(format!("{}: no such disk", live.domain().name))
                .hint(format!("it has {}", names.join(", ")))
        })?;
        let from = match &disk.way {
            Way::Nbd { socket, export } => {
                From::Nbd(NbdSpec { socket: socket.clone(), export: export.clone(), deadline: NBD_DEADLINE })
            }
            Way::Files(files) => From::Image(self.live_image(files)?),
            Way::Nowhere(why) => return Err(Error::unsupported(format!("{}: {why}", disk.target))),
        };
        Ok(DiskSpec { name: disk.target.clone(), from })
    }

    /// A chain as libvirt describes it: every file of it, with its format.
    fn live_image(&self, files: &[(PathBuf, Option<String>)]) -> Result<ImageSpec> {
        let (path, format) = files.first().ok_or_else(|| Error::not_found("a disk without an image"))?;
        let mut gate = self.gate(path)?;
        gate.allow_device = true;
        for (file, format) in files {
            if let Some(dir) = file.parent() {
                gate.roots.push(Root::open(dir)?.exact());
            }
            if let Some(format) = format {
                gate.formats.insert(file.clone(), Format::from_word(format)?);
            }
        }
        let format = format.as_deref().map(Format::from_word).transpose()?;
        Ok(ImageSpec { path: path.clone(), format, gate, snapshot: self.options.snapshot.clone() })
    }
}

/// `nbd+unix:///EXPORT?socket=PATH`, as the NBD project defines it (doc/uri.md).
fn nbd(uri: &str) -> Result<NbdSpec> {
    let wrong = || {
        Error::usage(format!("{uri}: not an NBD source that is read here"))
            .hint("wanted nbd+unix:///EXPORT?socket=/PATH")
    };
    let rest = uri.strip_prefix("nbd+unix:///").ok_or_else(wrong)?;
    let (export, query) = rest.split_once('?').ok_or_else(wrong)?;
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket=")).ok_or_else(wrong)?;
    let export = percent(export).ok_or_else(wrong)?;
    let socket = PathBuf::from(percent(socket).ok_or_else(wrong)?);
    Ok(NbdSpec { socket, export, deadline: NBD_DEADLINE })
}

/// Percent-decoding (RFC 3986, section 2.1).
fn percent(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) =
                (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nbd_uri_names_export_and_socket() {
        let spec = nbd("nbd+unix:///vg%2Flv?socket=/run/a%20b.sock").unwrap();
        assert_eq!((spec.export.as_str(), spec.socket.to_str().unwrap()), ("vg/lv", "/run/a b.sock"));
        assert!(
            nbd("nbd://host/x").is_err()
                && nbd("nbd+unix:///x").is_err()
                && nbd("nbd+unix:///%zz?socket=/s").is_err()
        );
    }
}
