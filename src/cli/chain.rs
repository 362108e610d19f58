//! `chain`: an image's layers, down to the base.

use coldread::bytes::escape;
use coldread::error::{Error, Result};
use coldread::stack::{Chain, Link, Snapshot, Time};
use serde_json::{Value, json};

use super::Context;
use super::act::{self, Act, Opened};
use super::leave::LeaveOptions;
use super::out::{Align, Exit, Stdout, Table, rfc3339, size};
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Show every extent with its layer and host offset, as `qemu-img map --output=json` does
    #[arg(long)]
    map_extents: bool,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<Exit> {
        act::run(context, &self.source, &self.leave, Act::metadata("chain"), |opened, _| {
            self.show(opened, context)
        })
    }

    fn show(&self, opened: &Opened, context: &Context) -> Result<Exit> {
        let mut out = Stdout::lock();
        for disk in opened.stack.disks() {
            let Some(chain) = &disk.chain else {
                return Err(Error::unsupported(format!(
                    "{} is read through a server, which shows no layers",
                    disk.name
                )));
            };
            if self.map_extents {
                chain.extents(&context.effort, &mut |extent| {
                    let mut line = json!({
                        "start": extent.start, "length": extent.length, "depth": extent.depth, "present": extent.present,
                        "zero": extent.zero, "data": extent.data, "compressed": extent.compressed,
                    });
                    if let Some(offset) = extent.offset {
                        line["offset"] = offset.into();
                    }
                    if extent.lost {
                        line["lost"] = true.into();
                    }
                    out.json(&line)
                })?;
            } else if context.voice.json {
                out.json(&self.json(&disk.name, chain, opened.format_from, context)?)?;
            } else {
                table(chain, context)?.print(&mut out, context.voice.color)?;
            }
        }
        out.end()?;
        Ok(Exit::Complete)
    }

    fn json(&self, disk: &str, chain: &Chain, format_from: Option<&str>, context: &Context) -> Result<Value> {
        let mut layers: Vec<Value> =
            chain.links.iter().enumerate().map(|(i, link)| layer(i, link, context)).collect::<Result<_>>()?;
        if let (Some(who), Some(top)) = (format_from, layers.first_mut()) {
            top["format_from"] = who.into();
        }
        let top = chain.links.first();
        Ok(json!({
            "source": self.source.source, "disk": disk, "virtual_size": top.map(Link::virtual_size),
            "layers": layers, "problems": chain.problems,
        }))
    }
}

fn layer(depth: usize, link: &Link, context: &Context) -> Result<Value> {
    let held = link.held(&context.effort)?;
    let header = link.header();
    let text = |bytes: &[u8]| escape(bytes).into_owned();
    let snapshot = |s: &Snapshot| json!({"id": text(&s.id), "name": text(&s.name), "date": date(s.date), "disk_size": s.disk_size});
    Ok(json!({
        "depth": depth, "path": link.file.path.display().to_string(), "format": link.format.word(),
        "format_from": link.format_from.word(), "recorded_path": link.recorded_path.as_deref().map(text),
        "remapped": link.remapped, "file_size": link.file.identity.size, "virtual_size": link.virtual_size(),
        "cluster_size": header.map(|h| 1_u64 << h.cluster_bits), "compat": link.compat(),
        "compression": header.map(|h| h.compression.word()), "extended_l2": header.map(|h| h.extended_l2),
        "encrypted": link.encrypted(), "dirty": header.is_some_and(|h| h.dirty), "corrupt": header.is_some_and(|h| h.corrupt),
        "data_file": link.data_file.as_ref().map(|file| file.path.display().to_string()),
        "snapshots": link.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        "bytes": {
            "data": held.data, "zero": held.zero, "compressed": held.compressed, "unallocated": held.unallocated,
            "lost": held.lost,
        },
    }))
}

/// A snapshot's date, RFC 3339 UTC.
fn date((seconds, nanoseconds): (u32, u32)) -> String {
    rfc3339(Time { seconds: seconds.into(), nanoseconds })
}

fn table(chain: &Chain, context: &Context) -> Result<Table> {
    let mut table = Table::new(&[
        ("DEPTH", Align::Right),
        ("FORMAT", Align::Left),
        ("SIZE", Align::Right),
        ("DATA", Align::Right),
        ("ZERO", Align::Right),
        ("COMPRESSED", Align::Right),
        ("LOST", Align::Right),
        ("CLUSTER", Align::Right),
        ("FLAGS", Align::Left),
        ("SNAPSHOTS", Align::Right),
        ("PATH", Align::Left),
    ]);
    for (depth, link) in chain.links.iter().enumerate() {
        let held = link.held(&context.effort)?;
        let some = |n: u64| if n == 0 { String::new() } else { size(n) };
        let header = link.header();
        let flags = [
            ("dirty", header.is_some_and(|h| h.dirty)),
            ("corrupt", header.is_some_and(|h| h.corrupt)),
            ("encrypted", link.encrypted()),
            ("extended-l2", header.is_some_and(|h| h.extended_l2)),
            ("remapped", link.remapped),
        ];
        let flags: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        table.row(vec![
            depth.to_string(),
            link.format.word().to_string(),
            size(link.virtual_size()),
            size(held.data),
            some(held.zero),
            some(held.compressed),
            some(held.lost),
            header.map_or(String::new(), |h| size(1 << h.cluster_bits)),
            flags.join(","),
            if link.snapshots.is_empty() { String::new() } else { link.snapshots.len().to_string() },
            link.file.path.display().to_string(),
        ]);
    }
    Ok(table)
}
