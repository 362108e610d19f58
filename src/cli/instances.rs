//! `instances`: every instance of a tree, from the operator's own files.

use std::path::PathBuf;

use coldread::error::Result;
use coldread::host::nova::{self, DiskFile, Domains, Instance, Standing};
use coldread::host::openstack::Servers;
use coldread::stack::{self, Gate, ImageSpec, Link};
use serde_json::{Value, json};

use super::Context;
use super::out::{Align, Exit, Stdout, Table, size};

#[derive(clap::Args)]
pub struct Args {
    /// The tree, several if named again [default: /var/lib/nova/instances]
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,

    /// Trees, as for the other commands
    #[arg(long, value_name = "DIR", env = "COLDREAD_INSTANCES", value_delimiter = ':')]
    instances: Vec<PathBuf>,

    /// Directories with libvirt domain XML, for names of copied trees
    #[arg(long, value_name = "DIR")]
    domains: Vec<PathBuf>,

    /// Where base images may be, besides the tree
    #[arg(long, value_name = "DIR")]
    base: Vec<PathBuf>,

    /// Names from a file with `openstack server list --all-projects --long -f json`
    #[arg(long, value_name = "FILE", conflicts_with = "openstack")]
    servers: Option<PathBuf>,

    /// Run the openstack command for the names
    #[arg(long)]
    openstack: bool,
}

/// An instance with what its images say.
struct Row {
    instance: Instance,
    disks: Vec<Disk>,
}

/// An image of an instance.
struct Disk {
    file: DiskFile,
    virtual_size: Option<u64>,
    allocated: Option<u64>,
    backing: Vec<String>,
    problems: Vec<String>,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<Exit> {
        let mut trees: Vec<PathBuf> = self.dirs.iter().chain(&self.instances).cloned().collect();
        if trees.is_empty() {
            trees.push(nova::INSTANCES.into());
        }
        let servers = match (&self.servers, self.openstack) {
            (Some(file), _) => Some(Servers::read(file)?),
            (None, true) => Some(Servers::ask()?),
            (None, false) => None,
        };
        let mut rows = Vec::new();
        for tree in &trees {
            let mut definitions = self.domains.clone();
            definitions.extend(nova::libvirt_directories(tree));
            for instance in nova::scan(tree, &Domains::read(&definitions))? {
                context.effort.check()?;
                rows.push(self.look(joined(instance, servers.as_ref()), context));
            }
        }
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&Value::Array(rows.iter().map(Row::json).collect()))?;
        } else if rows.is_empty() {
            let shown: Vec<_> = trees.iter().map(|tree| tree.display().to_string()).collect();
            context.voice.note(&format!("no instances in {}", shown.join(", ")));
        } else {
            table(&rows).print(&mut out, context.voice.color)?;
            for row in &rows {
                row.note_problems(context);
            }
        }
        out.end()?;
        Ok(if rows.iter().any(Row::has_problems) { Exit::Gaps } else { Exit::Complete })
    }

    fn look(&self, instance: Instance, context: &Context) -> Row {
        let disks = instance.disks.iter().map(|file| self.look_at(file, context)).collect();
        Row { instance, disks }
    }

    /// Opens the image and what it stands on: headers only.
    fn look_at(&self, file: &DiskFile, context: &Context) -> Disk {
        let opened = Gate::around(&file.path, &self.base).and_then(|gate| {
            let format = file.format.map(|(format, _)| format);
            stack::layers(
                &ImageSpec { path: file.path.clone(), format, gate, snapshot: None },
                &context.effort,
            )
        });
        match opened {
            Ok(chain) => {
                let top = chain.links.first();
                Disk {
                    file: file.clone(),
                    virtual_size: top.map(Link::virtual_size),
                    allocated: top.map(|link| link.file.allocated()),
                    backing: chain
                        .links
                        .iter()
                        .skip(1)
                        .map(|link| link.file.path.display().to_string())
                        .collect(),
                    problems: chain.problems,
                }
            }
            Err(error) => Disk {
                file: file.clone(),
                virtual_size: None,
                allocated: None,
                backing: Vec::new(),
                problems: vec![format!("{}: {}", error.kind().word(), error.what())],
            },
        }
    }
}

/// The instance with what Nova itself says of the server: its name goes above the one in libvirt's XML, which may be older.
fn joined(mut instance: Instance, servers: Option<&Servers>) -> Instance {
    let server = instance.uuid.as_deref().and_then(|uuid| servers?.get(uuid));
    if let Some(server) = server {
        instance.name = Some(server.name.clone());
        instance.status.clone_from(&server.status);
        instance.project = instance.project.or_else(|| server.project.clone());
    } else if servers.is_some() && instance.uuid.is_some() {
        instance.problems.push("OpenStack knows no server of this UUID".to_string());
    }
    instance
}

impl Row {
    fn has_problems(&self) -> bool {
        !self.instance.problems.is_empty() || self.disks.iter().any(|disk| disk.virtual_size.is_none())
    }

    fn note_problems(&self, context: &Context) {
        let dir = self.instance.dir.display();
        for problem in &self.instance.problems {
            context.voice.note(&format!("{dir}: {problem}"));
        }
        for disk in &self.disks {
            for problem in &disk.problems {
                let text = format!("{}: {problem}", disk.file.path.display());
                if disk.virtual_size.is_none() {
                    context.voice.note(&text);
                } else {
                    context.voice.detail(&text);
                }
            }
        }
    }

    fn json(&self) -> Value {
        let i = &self.instance;
        let disks: Vec<_> = self.disks.iter().map(Disk::json).collect();
        json!({
            "dir": i.dir.display().to_string(), "uuid": i.uuid, "domain": i.domain, "name": i.name, "project": i.project,
            "user": i.user, "flavor": i.flavor, "created": i.created, "volumes": i.volumes, "ports": i.ports,
            "standing": standing(i.standing), "status": i.status, "disks": disks, "problems": i.problems,
        })
    }
}

impl Disk {
    fn json(&self) -> Value {
        json!({
            "name": self.file.name, "path": self.file.path.display().to_string(), "target": self.file.target,
            "format": self.file.format.map(|(format, _)| format.word()), "format_from": self.file.format.map(|(_, who)| who),
            "virtual_size": self.virtual_size, "allocated": self.allocated, "backing": self.backing, "problems": self.problems,
        })
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Present => "present",
        Standing::Resize => "resize",
        Standing::Deleted => "deleted",
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("INSTANCE", Align::Left),
        ("DOMAIN", Align::Left),
        ("NAME", Align::Left),
        ("PROJECT", Align::Left),
        ("FLAVOR", Align::Left),
        ("STATUS", Align::Left),
        ("STATE", Align::Left),
        ("DISK", Align::Left),
        ("FORMAT", Align::Left),
        ("SIZE", Align::Right),
        ("ON DISK", Align::Right),
        ("BASE", Align::Left),
    ]);
    for row in rows {
        let i = &row.instance;
        let state =
            if i.standing == Standing::Present { String::new() } else { standing(i.standing).to_string() };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut cells = vec![
            i.id(),
            text(&i.domain),
            text(&i.name),
            text(&i.project),
            text(&i.flavor),
            text(&i.status),
            state,
        ];
        if row.disks.is_empty() {
            table.row(cells);
            continue;
        }
        for disk in &row.disks {
            let base = disk.backing.last().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
            cells.extend([
                disk.file.name.clone(),
                disk.file.format.map_or(String::new(), |(format, _)| format.word().to_string()),
                disk.virtual_size.map_or("?".into(), size),
                disk.allocated.map_or("?".into(), size),
                base.to_string(),
            ]);
            table.row(cells);
            cells = vec![String::new(); 7];
        }
    }
    table
}
