//! SOURCE and the options that every command which takes one has; from them to an opened stack.

use std::path::{Path, PathBuf};

use clap::Args;
use coldread::error::{Error, Result};
use coldread::host::nova::{self, Found, Instance};
use coldread::permit::Permit;
use coldread::stack::{DiskSpec, Format, Gate, ImageSpec, Spec, Stack, View};

use super::Context;
use super::out::Exit;

/// What is read, and how it is opened.
#[derive(Args, Clone)]
pub struct Source {
    /// An image file, a Nova instance directory, or an instance's UUID, domain name or server name
    #[arg(value_name = "SOURCE")]
    pub source: String,

    #[command(flatten)]
    pub options: SourceOptions,
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

    /// The image's format: raw or qcow2
    #[arg(long = "format", value_name = "F", value_parser = format)]
    pub image_format: Option<Format>,

    /// Where base images may be, besides the instance's own tree
    #[arg(long, value_name = "DIR")]
    pub base: Vec<PathBuf>,

    /// Where a path of the original host is here: a prefix and what replaces it
    #[arg(long, value_name = "FROM=TO", value_parser = mapping)]
    pub map: Vec<(PathBuf, PathBuf)>,

    /// Read the filesystem as it lies, its journal not applied
    #[arg(long)]
    pub no_replay: bool,

    /// Read a disk although somebody writes it; what is read may not be consistent
    #[arg(long)]
    pub unsafe_live: bool,

    /// Allow SOURCE to be a block device
    #[arg(long)]
    pub allow_device: bool,
}

fn format(word: &str) -> Result<Format, String> {
    Format::from_word(word).map_err(|_| "raw and qcow2 are read".to_string())
}

fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((from, to)) if from.starts_with('/') && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("wanted /PATH/ON/THE/ORIGINAL/HOST=PATH/HERE".to_string()),
    }
}

/// An opened source, and what is known of it.
pub struct Opened {
    /// Floors 1 to 5.
    pub stack: Stack,
    /// The instance, where the source is one.
    pub instance: Option<Instance>,
    /// SOURCE as it was typed.
    pub source: String,
    /// The options that it was opened with.
    pub options: SourceOptions,
    /// Who says what the format of the first disk's top image is.
    pub format_from: Option<&'static str>,
    /// Whether somebody may write it while it is read.
    live: bool,
}

/// The disk that a command reads when none is named.
const ROOT_DISK: &str = "disk";

impl Source {
    /// Finds the source and opens it.
    pub fn open(&self, context: &Context) -> Result<Opened> {
        let options = &self.options;
        let found = nova::find(&self.source, &options.instances, &options.domains)?;
        let ((disk, format_from), instance) = match found {
            Found::File(path) => (self.of_file(&path)?, None),
            Found::Instance(instance) => (self.of_instance(&instance, context)?, Some(*instance)),
        };
        let spec = Spec { disks: vec![disk], replay: !options.no_replay };
        let stack = Stack::open(spec, &context.effort)?;
        for problem in stack.problems() {
            context.voice.note(&problem);
        }
        for note in stack.disks().iter().flat_map(|disk| &disk.notes) {
            context.voice.detail(note);
        }
        let options = options.clone();
        let mut opened =
            Opened { stack, instance, source: self.source.clone(), options, format_from, live: false };
        opened.look_for_writers(context)?;
        Ok(opened)
    }

    /// An image named by its path. In an instance directory, what Nova says of the file holds for it too.
    fn of_file(&self, path: &Path) -> Result<(DiskSpec, Option<&'static str>)> {
        if let Some(disk) = &self.options.disk {
            return Err(Error::usage(format!(
                "--disk {disk} needs an instance, and {} is one file",
                path.display()
            )));
        }
        let path = std::path::absolute(path)
            .map_err(|e| Error::io(format!("{}: no absolute path", path.display()), e))?;
        let instance = path.parent().and_then(|dir| Instance::at(dir, &nova::Domains::default()));
        let listed = instance.as_ref().and_then(|i| i.disks.iter().find(|disk| disk.path == path));
        self.disk_spec("disk", &path, listed.and_then(|disk| disk.format))
    }

    fn of_instance(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(DiskSpec, Option<&'static str>)> {
        for problem in &instance.problems {
            context.voice.note(&format!("{}: {problem}", instance.dir.display()));
        }
        let disk = instance.disk(self.options.disk.as_deref().unwrap_or(ROOT_DISK))?;
        self.disk_spec(&disk.name, &disk.path, disk.format)
    }

    /// `said` is what Nova's files say of the format, and who of them; `--format` goes above it.
    fn disk_spec(
        &self,
        name: &str,
        path: &Path,
        said: Option<(Format, &'static str)>,
    ) -> Result<(DiskSpec, Option<&'static str>)> {
        let mut gate = Gate::around(path, &self.options.base)?;
        gate.maps.clone_from(&self.options.map);
        gate.allow_device = self.options.allow_device;
        let said = self.options.image_format.map(|format| (format, "--format")).or(said);
        let format = said.map(|(format, _)| format);
        let image =
            ImageSpec { path: path.to_path_buf(), format, gate, snapshot: self.options.snapshot.clone() };
        Ok((DiskSpec { name: name.to_string(), image }, said.map(|(_, who)| who)))
    }
}

impl Opened {
    /// A disk that a running QEMU writes gives torn answers: it is refused, unless the analyst insists.
    fn look_for_writers(&mut self, context: &Context) -> Result<()> {
        let writers = self.stack.writers();
        let Some(writer) = writers.first() else { return Ok(()) };
        if self.options.unsafe_live {
            self.live = true;
            context.voice.note(&format!(
                "{} is being written by {}: live and not consistent",
                writer.path, writer.who
            ));
            return Ok(());
        }
        let source = writer.domain.as_deref().unwrap_or("NAME");
        Err(Error::refused(format!("{} is being written by {}", writer.path, writer.who)).hint(format!(
            "read the live instance as domain:{source}, or insist with --unsafe-live (what is read may not be consistent)"
        )))
    }

    /// What can be said of the source's consistency, for the log and the manifest.
    pub fn consistency(&self) -> &'static str {
        if self.live { "live and not consistent" } else { "shut off" }
    }

    /// The guest's names and content, as far as the permit goes. Says what replay did.
    pub fn view<A: coldread::permit::Act>(&self, permit: &Permit<A>, context: &Context) -> Result<View<A>> {
        let view = self.stack.view(permit, self.options.volume.as_deref())?;
        if let Some(done) = &view.facts().replay {
            context.voice.detail(&format!("{}: {done}", view.volume()));
        }
        Ok(view)
    }

    /// To be asked when everything was read: whether the source lay still meanwhile. If not, the answer has a gap.
    pub fn settle(&self, context: &Context) -> Result<Exit> {
        let mut exit = Exit::Complete;
        for path in self.stack.changed()? {
            context
                .voice
                .note(&format!("{path} changed while it was read: what was shown may not be consistent"));
            exit = Exit::Gaps;
        }
        for writer in self.stack.writers() {
            if !self.live {
                context
                    .voice
                    .note(&format!("{} was opened for writing meanwhile by {}", writer.path, writer.who));
                exit = Exit::Gaps;
            }
        }
        Ok(exit)
    }
}
