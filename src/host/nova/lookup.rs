//! From what a person typed to an instance: a directory, a UUID, a domain's name, a server's name, in this order.

use std::path::{Path, PathBuf};

use super::{Domains, Instance, Standing, libvirt_directories, scan};
use crate::error::{Error, Result};

/// What a SOURCE that is no URL turned out to be.
pub enum Found {
    /// An image file or device.
    File(PathBuf),
    /// An instance.
    Instance(Box<Instance>),
}

/// Finds `text`: an existing path first, then in the trees. `definitions` are further directories with domain XML.
pub fn find(text: &str, trees: &[PathBuf], definitions: &[PathBuf]) -> Result<Found> {
    let path = Path::new(text);
    if let Ok(meta) = path.metadata() {
        if !meta.is_dir() {
            return Ok(Found::File(path.to_path_buf()));
        }
        let dir = path.canonicalize().map_err(|e| Error::io(format!("{text}: cannot be reached"), e))?;
        let domains = dir.parent().map(|tree| domains_of(tree, definitions)).unwrap_or_default();
        return match Instance::at(&dir, &domains) {
            Some(instance) => Ok(Found::Instance(Box::new(instance))),
            None => Err(Error::usage(format!("{text}: a directory that is no Nova instance"))
                .hint(format!("`coldread instances {text}` lists the instances of a whole tree"))),
        };
    }
    if text.contains('/') {
        return Err(Error::not_found(format!("{text}: no such file or directory")));
    }
    by_name(text, trees, definitions)
}

fn domains_of(tree: &Path, definitions: &[PathBuf]) -> Domains {
    let mut dirs = definitions.to_vec();
    dirs.extend(libvirt_directories(tree));
    Domains::read(&dirs)
}

fn by_name(text: &str, trees: &[PathBuf], definitions: &[PathBuf]) -> Result<Found> {
    let mut all = Vec::new();
    let mut failed = None;
    for tree in trees {
        match scan(tree, &domains_of(tree, definitions)) {
            Ok(instances) => all.extend(instances),
            Err(error) => failed = Some(error),
        }
    }
    let directory = |i: &Instance| i.dir.file_name().is_some_and(|name| name == text);
    let uuid = |i: &Instance| i.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(text));
    let domain = |i: &Instance| i.domain.as_deref() == Some(text);
    let server = |i: &Instance| i.name.as_deref() == Some(text);
    let ways: [&dyn Fn(&Instance) -> bool; 4] = [&directory, &uuid, &domain, &server];
    for way in ways {
        let (present, other): (Vec<_>, Vec<_>) =
            all.iter().filter(|i| way(i)).partition(|i| i.standing == Standing::Present);
        let hits = if present.is_empty() { other } else { present };
        match hits.as_slice() {
            [] => {}
            [one] => return Ok(Found::Instance(Box::new((*one).clone()))),
            several => {
                let list: Vec<_> = several.iter().map(|i| i.dir.display().to_string()).collect();
                return Err(Error::usage(format!(
                    "{text} is ambiguous: {} instances are called that",
                    several.len()
                ))
                .hint(format!("name one of {}", list.join(", "))));
            }
        }
    }
    let names: Vec<_> = trees.iter().map(|tree| tree.display().to_string()).collect();
    let what = match failed {
        Some(error) => format!("{text}: no file of that name; {}", error.what()),
        None => format!("{text}: no file of that name, and no instance in {}", names.join(", ")),
    };
    Err(Error::not_found(what).hint("`coldread instances DIR` lists a tree; --instances DIR names another"))
}
