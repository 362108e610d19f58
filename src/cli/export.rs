//! `export`: a read-only NBD server for the disk and each of its volumes.

use std::path::PathBuf;

use coldread::error::Result;
use coldread::evidence::export::{Export, Server};
use coldread::permit::{Read, Verb};

use super::Context;
use super::act::{self, Act, Opened};
use super::leave::LeaveOptions;
use super::out::{Exit, printable, size};
use super::source::Source;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// The Unix socket to listen on; nothing may be there yet
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    #[command(flatten)]
    leave: LeaveOptions,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let act = Act { command: "export", verbs: vec![Verb::Read], paths: Vec::new(), whole_disk: true };
        act::run(context, &self.source, &self.leave, act, |opened, done| {
            let exports = exports(opened)?;
            for export in &exports {
                context.voice.note(&format!(
                    "export {}: {}, {}",
                    printable(&export.name),
                    size(export.source.len()),
                    export.description
                ));
            }
            let server = Server::bind(&self.socket, exports)?;
            context.voice.note(&format!("serving on {}; Ctrl-C ends it", self.socket.display()));
            let served = server.run(&context.effort)?;
            done.results.insert("clients".into(), served.clients.into());
            done.results.insert("bytes".into(), served.bytes.into());
            Ok(Exit::Complete)
        })
    }
}

/// The disk, which is the default export too, and its volumes under the names by which `--volume` knows them.
fn exports(opened: &Opened) -> Result<Vec<Export>> {
    let permit = opened.permit::<Read>()?;
    let mut exports = vec![Export {
        name: "disk".into(),
        source: opened.stack.whole(&permit, None)?,
        description: "the whole disk".into(),
    }];
    for (name, kind, source) in opened.stack.whole_volumes(&permit)? {
        exports.push(Export { name, source, description: kind });
    }
    Ok(exports)
}
