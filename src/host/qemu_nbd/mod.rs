//! The fallback for what is not read here: a read-only qemu-nbd, read over NBD.
//!
//! VHDX, VDI, VMDK, QED and the like, encrypted qcow2, RBD. QEMU opens no file of the host: every file was let in by the
//! gate, and reaches it from our own NBD server, so that QEMU takes no locks either, and can follow no path that an
//! image names. Formats are said for every layer; nothing is probed. The caller shows [`Opened::note`]: the fallback is never silent.

mod foreign;
mod sandbox;
pub mod spec;
mod vmdk;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use self::sandbox::Sandbox;
use self::spec::{Rbd, Spec};
use self::vmdk::{Kind, Vmdk};
use crate::block::cache::{BUDGET, Cache};
use crate::block::file::HostFile;
use crate::block::join::{self, Join};
use crate::block::nbd::Client;
use crate::block::{BlockSource, Run, Source, State};
use crate::chain::gate::{Admitted, Gate};
use crate::chain::{self, Format};
use crate::effort::Effort;
use crate::error::{Error, Result};
use crate::evidence::export::{Export, Server};
use crate::image::qcow2::header::Encryption;

/// How a source is opened through qemu-nbd.
pub struct Options {
    /// The program.
    pub program: String,
    /// The driver, where the operator says it; else the file's magic decides.
    pub format: Option<String>,
    /// The passphrase of an encrypted image, its bytes as they are.
    pub passphrase: Option<Vec<u8>>,
    /// How long qemu-nbd may take to start, and then over each reply.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { program: "qemu-nbd".into(), format: None, passphrase: None, deadline: Duration::from_secs(30) }
    }
}

/// A source that qemu-nbd serves. It ends with the source.
pub struct Opened {
    /// The disk.
    pub source: Source,
    /// What the output has to say: that QEMU read it, as which format, and how confined.
    pub note: String,
    /// The host files that were let in.
    pub files: Vec<Admitted>,
}

/// Opens `spec` (what follows `qemu:`). Only files that `gate` lets in are read.
pub fn open(spec: &Spec, gate: &Gate, options: &Options, effort: &Effort) -> Result<Opened> {
    match spec {
        Spec::Rbd(rbd) => open_rbd(rbd, options),
        Spec::File(path) => open_file(path, gate, options, effort),
    }
}

fn open_rbd(rbd: &Rbd, options: &Options) -> Result<Opened> {
    let mut driver = json!({"driver": "rbd", "pool": rbd.pool, "image": rbd.image});
    let extras = [
        ("namespace", &rbd.namespace),
        ("snapshot", &rbd.snapshot),
        ("user", &rbd.user),
        ("conf", &rbd.conf),
    ];
    for (key, value) in extras {
        if let Some(value) = value {
            driver[key] = json!(value);
        }
    }
    let image = json!({"driver": "raw", "read-only": true, "force-share": true, "file": driver});
    let name = format!("rbd:{}/{}", rbd.pool, rbd.image);
    // It needs Ceph's configuration, its keys and the network, so that it runs as we do.
    let source = Arc::new(Served::start(&name, &image, Vec::new(), options, false)?);
    let note = format!("{name}: read by qemu-nbd (raw, rbd), with this user's rights");
    Ok(Opened { source, note, files: Vec::new() })
}

fn open_file(path: &Path, gate: &Gate, options: &Options, effort: &Effort) -> Result<Opened> {
    let top = gate.named(path)?;
    let file = source_of(&top);
    let driver = match &options.format {
        Some(format) => foreign::DRIVERS
            .iter()
            .find(|driver| **driver == format.as_str())
            .copied()
            .ok_or_else(|| Error::unsupported(format!("the image format {format:?}")))?,
        None => foreign::driver(&file)?,
    };
    foreign::refuse_backing(driver, &file)?;
    let name = top.path.display().to_string();
    let note = |how: &str| {
        let rights = match (how.starts_with("by qemu-nbd"), nix::unistd::geteuid().is_root()) {
            (false, _) => "",
            (true, true) => ", which runs without privileges",
            (true, false) => ", which runs with this user's rights",
        };
        format!("{name}: read {how}{rights}")
    };
    match driver {
        "qcow2" => {
            let (source, files, drivers) = open_qcow2(path, gate, options, effort)?;
            Ok(Opened { source, note: note(&format!("by qemu-nbd ({drivers})")), files })
        }
        "vmdk" => {
            let (source, files, how) = open_vmdk(&top, gate, options, effort)?;
            Ok(Opened { source, note: note(how), files })
        }
        driver => {
            let image = image(driver, 0);
            let source = Arc::new(Served::start(&name, &image, vec![file], options, true)?);
            Ok(Opened { source, note: note(&format!("by qemu-nbd ({driver})")), files: vec![top] })
        }
    }
}

/// A qcow2 chain, layers that are encrypted included, as `chain` finds it.
fn open_qcow2(
    path: &Path,
    gate: &Gate,
    options: &Options,
    effort: &Effort,
) -> Result<(Source, Vec<Admitted>, String)> {
    let chain = chain::open(path, Some(Format::Qcow2), gate, &Cache::new(BUDGET), effort)?;
    let (mut sources, mut files, mut below) = (Vec::new(), Vec::new(), Value::Null);
    // From the bottom up: each layer holds the one below.
    for link in chain.links.iter().rev() {
        let mut layer = image(link.format.word(), sources.len());
        let file = source_of(&link.file);
        sources.push(if link.format == Format::Qcow2 { nameless(&file)? } else { file });
        files.push(link.file.clone());
        if let Some(data) = &link.data_file {
            layer["data-file"] = json!({"driver": "raw", "file": remote(sources.len())});
            sources.push(source_of(data));
            files.push(data.clone());
        }
        if link.format == Format::Qcow2 {
            layer["backing"] = below;
        }
        let encryption = match link.header().map_or(Encryption::None, |header| header.encryption) {
            Encryption::None => None,
            Encryption::Aes => Some("aes"),
            Encryption::Luks => Some("luks"),
        };
        if let Some(format) = encryption {
            if options.passphrase.is_none() {
                return Err(Error::refused(format!("{}: encrypted ({format})", link.file.path.display()))
                    .hint("--passphrase-file F opens it"));
            }
            layer["encrypt"] = json!({"format": format, "key-secret": "passphrase"});
        }
        below = layer;
    }
    let drivers: Vec<_> = chain.links.iter().map(|link| link.format.word()).collect();
    let name = path.display().to_string();
    let source: Source = Arc::new(Served::start(&name, &below, sources, options, true)?);
    Ok((source, files, drivers.join(" on ")))
}

/// A VMDK: one file, or extents of which each was let in by itself. Gives how it is read, too.
fn open_vmdk(
    top: &Admitted,
    gate: &Gate,
    options: &Options,
    effort: &Effort,
) -> Result<(Source, Vec<Admitted>, &'static str)> {
    let name = top.path.display().to_string();
    let serve = |source: Source| -> Result<Source> {
        let name = source.name().to_string();
        Ok(Arc::new(Served::start(&name, &image("vmdk", 0), vec![source], options, true)?))
    };
    let extents = match vmdk::look(&source_of(top))? {
        Vmdk::Whole => return Ok((serve(source_of(top))?, vec![top.clone()], "by qemu-nbd (vmdk)")),
        Vmdk::Split(extents) => extents,
    };
    let (mut files, mut pieces, mut at) = (vec![top.clone()], Vec::new(), 0_u64);
    let mut how = "as flat extents, without QEMU (vmdk)";
    for extent in extents {
        let what = match extent.kind {
            Kind::Zero => join::Part::Zeros(State::Zero),
            Kind::Flat(name, offset) => {
                let file = chain::refer(gate, name.as_bytes(), top, effort)?;
                let source = source_of(&file);
                files.push(file);
                join::Part::At(source, offset)
            }
            Kind::Sparse(name) => {
                let file = chain::refer(gate, name.as_bytes(), top, effort)?;
                let source = serve(vmdk::alone(&source_of(&file))?)?;
                files.push(file);
                how = "by qemu-nbd (vmdk)";
                join::Part::At(source, 0)
            }
        };
        pieces.push(join::Piece { start: at, len: extent.len, what });
        at = at
            .checked_add(extent.len)
            .ok_or_else(|| Error::corrupt(format!("{name}: extents of more than 2^64 bytes")))?;
    }
    Ok((Arc::new(Join::new(name, at, pieces)?), files, how))
}

/// A qcow2 file without the name of its backing file, which is `backing_file_offset` and `backing_file_size` in the
/// header (docs/interop/qcow2.txt): QEMU mixes a name that it finds with the file that it is given.
fn nameless(file: &Source) -> Result<Source> {
    let name = Arc::clone(file.name());
    let whole = |start: u64, end: u64| join::Piece {
        start,
        len: end - start,
        what: join::Part::At(Arc::clone(file), start),
    };
    if file.len() < 20 {
        return Err(Error::corrupt(format!("{name}: too short for a qcow2 header")));
    }
    let blank = join::Piece { start: 8, len: 12, what: join::Part::Zeros(State::Zero) };
    Ok(Arc::new(Join::new(name, file.len(), vec![whole(0, 8), blank, whole(20, file.len())])?))
}

fn source_of(file: &Admitted) -> Source {
    Arc::<HostFile>::clone(&file.file)
}

/// QEMU's options for an image of `driver` in our export number `file`, standing on nothing.
fn image(driver: &str, file: usize) -> Value {
    let mut image = json!({"driver": driver, "read-only": true, "force-share": true, "file": remote(file)});
    // These drivers would look a backing file up by the name in the image.
    if ["qcow2", "qcow", "qed", "vmdk"].contains(&driver) {
        image["backing"] = Value::Null;
    }
    image
}

/// Our export number `file`; the socket's path is filled in when it is known.
fn remote(file: usize) -> Value {
    json!({"driver": "nbd", "export": file.to_string(), "server": {"type": "unix", "path": FILES}})
}

/// Names in the directory that we share with qemu-nbd.
const FILES: &str = "files";
const DISK: &str = "disk";
const PASSPHRASE: &str = "passphrase";

/// A disk that qemu-nbd serves from files that we serve. The fields end in this order: the client, qemu-nbd, our server.
struct Served {
    client: Arc<Client>,
    _sandbox: Sandbox,
    _files: Option<Files>,
}

impl Served {
    /// Starts our server of `files`, qemu-nbd on `image`, and our client of it.
    fn start(
        name: &str,
        image: &Value,
        files: Vec<Source>,
        options: &Options,
        confined: bool,
    ) -> Result<Self> {
        let mut sandbox = Sandbox::new(confined)?;
        let files = if files.is_empty() { None } else { Some(Files::serve(files, &sandbox)?) };
        let path = sandbox.inside(FILES);
        let image = image.to_string().replace(
            &json!(FILES).to_string(),
            &json!(path.to_str().ok_or_else(|| Error::unsupported("a private directory that is not UTF-8"))?)
                .to_string(),
        );
        let mut args: Vec<OsString> =
            ["--read-only", "--persistent", "--shared=4", "--socket"].map(OsString::from).to_vec();
        args.push(sandbox.inside(DISK).into());
        if let Some(passphrase) = &options.passphrase {
            let path = sandbox.secret(PASSPHRASE, passphrase)?;
            args.push("--object".into());
            let mut object = OsString::from("secret,id=passphrase,file=");
            object.push(path);
            args.push(object);
        }
        args.push(format!("json:{image}").into());
        sandbox.start(&options.program, &args)?;
        sandbox.listening(DISK, options.deadline).map_err(|error| error.context(name))?;
        let client = Client::connect(&sandbox.share().join(DISK), "", options.deadline);
        sandbox.forget(PASSPHRASE);
        let client = client.map_err(|error| error.context(format!("{name}{}", sandbox.said())))?;
        Ok(Self { client, _sandbox: sandbox, _files: files })
    }
}

impl BlockSource for Served {
    fn name(&self) -> &Arc<str> {
        self.client.name()
    }

    fn len(&self) -> u64 {
        self.client.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.client.read_at(offset, buf)
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        self.client.run_at(offset)
    }
}

/// Our server of the admitted files, for as long as it is kept.
struct Files {
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Files {
    fn serve(files: Vec<Source>, sandbox: &Sandbox) -> Result<Self> {
        let exports = files.into_iter().enumerate().map(|(i, source)| Export {
            name: i.to_string(),
            source,
            description: String::new(),
        });
        let path = sandbox.share().join(FILES);
        let server = Server::bind(&path, exports.collect())?;
        sandbox.give(&path).map_err(|error| Error::io("cannot hand the socket over", error))?;
        let cancel = Arc::new(AtomicBool::new(false));
        let effort = Effort::new(Arc::clone(&cancel));
        let thread = std::thread::Builder::new()
            .name("nbd-files".into())
            .spawn(move || {
                // A server that fails is noticed by its client.
                let _ = server.run(&effort);
            })
            .map_err(|error| Error::io("cannot start a thread", error))?;
        Ok(Self { cancel, thread: Some(thread) })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
