//! `volumes`: partitions, logical volumes and filesystems, and what each says of itself.

use coldread::error::Result;
use coldread::stack::{Disk, Facts, Stack, Volume};
use serde_json::{Value, json};

use super::Context;
use super::act::{self, Act, Opened};
use super::leave::LeaveOptions;
use super::out::{Align, Exit, Stdout, Table, size};
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    leave: LeaveOptions,
}

/// A volume with what its filesystem says.
struct Row<'a> {
    volume: &'a Volume,
    facts: Option<Facts>,
    problems: Vec<String>,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<Exit> {
        act::run(context, &self.source, &self.leave, Act::metadata("volumes"), |opened, _| {
            show(opened, context)
        })
    }
}

fn show(opened: &Opened, context: &Context) -> Result<Exit> {
    let mut out = Stdout::lock();
    let mut all = Vec::new();
    for disk in opened.stack.disks() {
        let rows: Vec<_> = disk.volumes.iter().map(|volume| look(&opened.stack, volume)).collect();
        if context.voice.json {
            all.extend(rows.iter().map(|row| row.json(disk)));
        } else {
            table(&rows).print(&mut out, context.voice.color)?;
            for row in &rows {
                for problem in &row.problems {
                    context.voice.note(&format!("volume {}: {problem}", row.volume.index));
                }
                if let Some(done) = row.facts.as_ref().and_then(|facts| facts.replay.as_deref()) {
                    context.voice.note(&format!("volume {}: {done}", row.volume.index));
                }
            }
            if rows.is_empty() {
                context
                    .voice
                    .note(&format!("{}: no partition table and no filesystem that is recognised", disk.name));
            }
        }
    }
    if context.voice.json {
        out.json(&Value::Array(all))?;
    }
    out.end()?;
    Ok(Exit::Complete)
}

fn look<'a>(stack: &Stack, volume: &'a Volume) -> Row<'a> {
    let mut problems = volume.problems.clone();
    let facts = match stack.facts(volume) {
        None => None,
        Some(Ok(facts)) => Some(facts),
        Some(Err(error)) => {
            problems.push(format!("{}: {}", error.kind().word(), error.what()));
            None
        }
    };
    Row { volume, facts, problems }
}

impl Row<'_> {
    fn json(&self, disk: &Disk) -> Value {
        let v = self.volume;
        json!({
            "disk": disk.name, "index": v.index, "parent": v.parent, "scheme": v.scheme.word(), "start": v.start, "size": v.size,
            "type": v.kind, "name": v.name, "uuid": v.uuid, "filesystem": self.filesystem(), "problems": self.problems,
        })
    }

    /// What the filesystem says; where it has no reader, what its signature says.
    fn filesystem(&self) -> Value {
        let Some(content) = &self.volume.content else { return Value::Null };
        match &self.facts {
            Some(f) => json!({
                "kind": f.kind, "label": f.label, "uuid": f.uuid, "block_size": f.block_size, "size": f.size, "free": f.free,
                "state": f.state, "needs_replay": f.needs_replay, "replay": f.replay, "readable": true,
            }),
            None => json!({
                "kind": content.kind, "label": content.label, "uuid": content.uuid, "block_size": null, "size": null,
                "free": null, "state": null, "needs_replay": null, "replay": null, "readable": false,
            }),
        }
    }
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        ("VOLUME", Align::Left),
        ("SCHEME", Align::Left),
        ("START", Align::Right),
        ("SIZE", Align::Right),
        ("TYPE", Align::Left),
        ("NAME", Align::Left),
        ("FILESYSTEM", Align::Left),
        ("LABEL", Align::Left),
        ("FREE", Align::Right),
        ("STATE", Align::Left),
        ("UUID", Align::Left),
    ]);
    for row in rows {
        let v = row.volume;
        let content = v.content.as_ref();
        let state = row.facts.as_ref().map_or(String::new(), |f| {
            if f.needs_replay { format!("{}, journal to replay", f.state) } else { f.state.clone() }
        });
        table.row(vec![
            format!("{}{}", "  ".repeat(depth(rows, v)), v.index),
            v.scheme.word().to_string(),
            v.start.to_string(),
            size(v.size),
            v.kind.clone(),
            v.name.clone().unwrap_or_default(),
            content.map_or(String::new(), |c| c.kind.to_string()),
            content.and_then(|c| c.label.clone()).unwrap_or_default(),
            row.facts.as_ref().and_then(|f| f.free).map_or(String::new(), size),
            state,
            content.and_then(|c| c.uuid.clone()).or_else(|| v.uuid.clone()).unwrap_or_default(),
        ]);
    }
    table
}

/// How many volumes this one lies in. Parents come before their children, so this ends.
fn depth(rows: &[Row<'_>], volume: &Volume) -> usize {
    let mut depth = 0;
    let mut parent = volume.parent;
    while let Some(index) = parent
        && depth < rows.len()
    {
        depth += 1;
        parent = rows.iter().find(|row| row.volume.index == index).and_then(|row| row.volume.parent);
    }
    depth
}
