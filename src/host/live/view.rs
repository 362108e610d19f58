//! The view of a moment: a pull-mode backup job of libvirt (<https://libvirt.org/formatbackup.html>).
//!
//! QEMU serves every disk by NBD as it was when the job began. What the guest overwrites meanwhile, QEMU first copies into
//! a scratch file for each disk. There is no checkpoint, so nothing stays in the images.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Qemu;
use super::scratch::{self, Limits};
use crate::error::{Error, Kind, Result};
use crate::host::libvirt::Domain;

/// Where libvirt keeps a directory for each running domain, which QEMU can write whatever confines it.
const DOMAINS: &str = "/var/lib/libvirt/qemu";
/// The longest path of a Unix socket, without its closing 0.
const SOCKET_PATH: usize = 107;

/// The files of a view. Paths are those that QEMU knows; `map` says where they are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The directory made for this run, removed after it; none where libvirt's own serves.
    pub made: Option<PathBuf>,
    /// The socket that QEMU listens on.
    pub socket: PathBuf,
    /// The disks in the view with their scratch files.
    pub disks: Vec<(String, PathBuf)>,
    /// The targets that are not in it.
    pub left_out: Vec<String>,
    /// When the job has to end.
    pub limits: Limits,
    /// How QEMU's paths become ours.
    pub map: PathMap,
}

/// How a path inside QEMU's file system becomes one of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMap {
    /// Prefixes: of QEMU's path, and what stands for it here. The first that fits is taken.
    pub prefixes: Vec<(PathBuf, PathBuf)>,
    /// The process whose root directory QEMU's paths start from, where no prefix fits.
    pub root_of: Option<u32>,
}

impl PathMap {
    /// Our path for one of QEMU's.
    pub fn here(&self, path: &Path) -> PathBuf {
        for (from, to) in &self.prefixes {
            if let Ok(rest) = path.strip_prefix(from) {
                return if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            }
        }
        match (self.root_of, path.strip_prefix("/")) {
            (Some(pid), Ok(rest)) => Path::new(&format!("/proc/{pid}/root")).join(rest),
            _ => path.to_owned(),
        }
    }
}

/// What a plan is made from.
pub struct Wish<'a> {
    /// The name of the run.
    pub run: &'a str,
    /// The domain.
    pub domain: &'a Domain,
    /// The directory for scratch files, as QEMU knows it; libvirt's directory of the domain if none.
    pub scratch: Option<&'a Path>,
    /// The most that all scratch files together may take, in bytes; none: what the floor leaves.
    pub scratch_limit: Option<u64>,
    /// The space in bytes that has to stay free beside them.
    pub floor: u64,
    /// How QEMU's paths become ours.
    pub map: PathMap,
}

impl Plan {
    /// Chooses the files and checks the space for them. Makes nothing.
    pub fn new(wish: &Wish<'_>) -> Result<Self> {
        let own = domain_dir(wish);
        let (dir, made) = match (wish.scratch, &own) {
            (Some(dir), _) => {
                let made = dir.join(format!("coldread-{}", wish.run));
                (made.clone(), Some(made))
            }
            (None, Some(dir)) => (dir.clone(), None),
            (None, None) => {
                return Err(no_view(format!(
                    "libvirt's directory of {} is not to be seen",
                    wish.domain.name
                ))
                .hint("--scratch DIR names one that QEMU can write; --hold reads without a view"));
            }
        };
        // Confinement by AppArmor or SELinux lets QEMU make a socket in libvirt's directory rather than anywhere else.
        let mut socket = own.as_ref().unwrap_or(&dir).join(format!("coldread-{}.sock", wish.run));
        if wish.map.here(&socket).as_os_str().len() > SOCKET_PATH {
            socket = dir.join("nbd.sock");
        }
        let longest = socket.as_os_str().len().max(wish.map.here(&socket).as_os_str().len());
        if longest > SOCKET_PATH {
            return Err(no_view(format!(
                "the path of a socket would have {longest} bytes, {SOCKET_PATH} is the most"
            ))
            .hint("--scratch DIR with a shorter path; --hold reads without a view"));
        }
        let (viewed, left): (Vec<_>, Vec<_>) = wish.domain.disks.iter().partition(|disk| disk.is_viewable());
        if viewed.is_empty() {
            return Err(no_view(format!("{} has no disk that it writes", wish.domain.name)));
        }
        let disks: Vec<(String, PathBuf)> = viewed
            .iter()
            .map(|disk| {
                (disk.target.clone(), dir.join(format!("coldread-{}-{}.scratch", wish.run, disk.target)))
            })
            .collect();
        let parent = wish.scratch.unwrap_or(&dir);
        let limits = Limits::choose(&wish.map.here(parent), wish.scratch_limit, wish.floor)?;
        Ok(Self {
            made,
            socket,
            disks,
            left_out: left.iter().map(|disk| disk.target.clone()).collect(),
            limits,
            map: wish.map.clone(),
        })
    }

    /// Makes the run's directory, for QEMU's user alone.
    pub fn make(&self, qemu: Option<Qemu>) -> Result<()> {
        let Some(made) = &self.made else { return Ok(()) };
        let dir = self.map.here(made);
        let at = |e| {
            Error::io(format!("the directory for the view {}", dir.display()), e)
                .hint("--scratch DIR names another place; --hold reads without a view")
        };
        DirBuilder::new().mode(0o700).create(&dir).map_err(at)?;
        if let Some(qemu) = qemu {
            chown(&dir, Some(qemu.uid), Some(qemu.gid)).map_err(at)?;
        }
        Ok(())
    }

    /// The job as libvirt takes it.
    pub fn xml(&self) -> Result<String> {
        let mut text = String::from("<domainbackup mode='pull'>\n");
        let path = |path: &Path| {
            path.to_str()
                .map(escaped)
                .ok_or_else(|| Error::usage(format!("{}: the path is not UTF-8", path.display())))
        };
        let _ = writeln!(text, "  <server transport='unix' socket='{}'/>\n  <disks>", path(&self.socket)?);
        for (target, file) in &self.disks {
            let target = escaped(target);
            let _ = writeln!(
                text,
                "    <disk name='{target}' backup='yes' type='file' exportname='{target}'>\
                 <scratch file='{}'/></disk>",
                path(file)?
            );
        }
        for target in &self.left_out {
            let _ = writeln!(text, "    <disk name='{}' backup='no'/>", escaped(target));
        }
        text.push_str("  </disks>\n</domainbackup>\n");
        Ok(text)
    }

    /// Says at which limit the job has to end now, if at one.
    pub fn exhausted(&self) -> Option<String> {
        let files: Vec<PathBuf> = self.disks.iter().map(|(_, file)| self.map.here(file)).collect();
        self.limits.exhausted(&files)
    }

    /// Whether the scratch files' filesystem is full, or as good as full.
    pub fn is_full(&self) -> bool {
        self.disks.first().is_some_and(|(_, file)| scratch::is_full(&self.map.here(file)))
    }

    /// The socket by our path.
    pub fn socket_here(&self) -> PathBuf {
        self.map.here(&self.socket)
    }

    /// Removes what the job left; libvirt removes most of it.
    pub fn clean(&self) {
        for (_, file) in &self.disks {
            let _ = fs::remove_file(self.map.here(file));
        }
        let _ = fs::remove_file(self.socket_here());
        if let Some(made) = &self.made {
            // Only if it is empty: nothing else of ours is in it.
            let _ = fs::remove_dir(self.map.here(made));
        }
    }
}

/// `/var/lib/libvirt/qemu/domain-ID-NAME`, the name shortened by rules of libvirt's own.
fn domain_dir(wish: &Wish<'_>) -> Option<PathBuf> {
    let prefix = format!("domain-{}-", wish.domain.id?);
    let entries = fs::read_dir(wish.map.here(Path::new(DOMAINS))).ok()?;
    let name = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with(&prefix))?;
    Some(Path::new(DOMAINS).join(name))
}

/// No view can be had: nothing was answered, and there is another way.
pub fn no_view(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unsupported, format!("no view of the instance: {what}"))
        .hint("--hold pauses the instance and reads its files instead")
}

/// Why libvirt did not start the job, with what helps.
pub fn explain(error: &Error, plan: &Plan, domain: &str, qemu: Option<Qemu>) -> Error {
    let text = error.what();
    let out = no_view(text);
    let confined =
        ["Permission denied", "Operation not permitted", "apparmor", "AppArmor", "selinux", "SELinux"];
    if confined.iter().any(|sign| text.contains(sign)) {
        let user = qemu.map_or_else(String::new, |qemu| format!(" (uid {})", qemu.uid));
        return out.hint(format!(
            "QEMU{user} was refused {} or the scratch files beside it: by the rights of the directories above, or by AppArmor \
             or SELinux (see the host's audit log). --scratch DIR names a place that QEMU may write, such as one below {DOMAINS} or \
             beside the instance's own disk; --hold pauses {domain} and reads its files instead",
            plan.socket.display()
        ));
    }
    if text.contains("No such file or directory") {
        return out.hint(
            "the directory is not to be seen in QEMU's own file system, or the journal's directory not in that of virsh: name another \
             with --scratch DIR; --hold reads without a view",
        );
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_names_every_disk_and_survives_odd_paths() {
        let plan = Plan {
            made: None,
            socket: "/v/it's & <b>.sock".into(),
            disks: vec![("vda".into(), "/v/vda.scratch".into())],
            left_out: vec!["hda".into()],
            limits: Limits::default(),
            map: PathMap::default(),
        };
        let text = plan.xml().unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let disks: Vec<_> = document
            .descendants()
            .filter(|n| n.has_tag_name("disk"))
            .map(|n| {
                (n.attribute("name").unwrap(), n.attribute("backup").unwrap(), n.attribute("exportname"))
            })
            .collect();
        assert_eq!(disks, [("vda", "yes", Some("vda")), ("hda", "no", None)]);
        assert_eq!(crate::host::libvirt::xml::backup_socket(&text), Some(plan.socket));
    }

    #[test]
    fn paths_of_a_container() {
        let map = PathMap { prefixes: vec![("/var/lib/nova".into(), "/srv/nova".into())], root_of: Some(7) };
        assert_eq!(map.here(Path::new("/var/lib/nova/instances/x")), Path::new("/srv/nova/instances/x"));
        assert_eq!(map.here(Path::new("/var/lib/novax")), Path::new("/proc/7/root/var/lib/novax"));
        assert_eq!(map.here(Path::new("/var/lib/nova")), Path::new("/srv/nova"));
    }
}
