//! Nova's instances trees: `/var/lib/nova/instances` of a hypervisor, or a copy of one.
//!
//! Layouts as Nova writes them (nova/virt/libvirt/utils.py `get_instance_path`, imagebackend.py, imagecache.py): a directory an
//! instance, named by UUID, before 2012 by `instance_name_template` (`instance-0000274a`); beside them `_base`, `locks` and
//! other files of the driver. Nothing here looks into a disk: what is said comes from the operator's own files.

mod instance;
mod lookup;

use std::fs;
use std::path::{Path, PathBuf};

pub use instance::{DiskFile, Domains, Instance, Standing};
pub use lookup::{Found, find};

use crate::error::{Error, Result};

/// Where Nova keeps instances unless `instances_path` says otherwise.
pub const INSTANCES: &str = "/var/lib/nova/instances";

/// Every instance of a tree, by directory name.
pub fn scan(tree: &Path, domains: &Domains) -> Result<Vec<Instance>> {
    let names = directory_names(tree)?;
    Ok(names.into_iter().filter_map(|name| Instance::read(tree, &name, domains)).collect())
}

/// The names in `tree` that can be instances, sorted.
fn directory_names(tree: &Path) -> Result<Vec<String>> {
    let failed = |error| {
        Error::io(format!("{}: cannot list the instances tree", tree.display()), error)
            .hint("name the directory that holds `_base` and the instances with --instances DIR")
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(tree).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link in place of a directory could lead to another tree.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

/// Where domain definitions are for a tree that lies where Nova keeps it: with libvirt itself.
pub fn libvirt_directories(tree: &Path) -> Vec<PathBuf> {
    if tree == Path::new(INSTANCES) {
        // Running domains first: their XML is the live one.
        vec![PathBuf::from("/run/libvirt/qemu"), PathBuf::from("/etc/libvirt/qemu")]
    } else {
        Vec::new()
    }
}
