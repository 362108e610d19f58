//! `qemu:SPEC`, as it is typed.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// What `qemu:SPEC` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// An image file: `qemu:disk.vmdk`.
    File(PathBuf),
    /// An RBD image: `qemu:rbd:pool/volume`.
    Rbd(Rbd),
}

/// An RBD image, as in QEMU's `rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:id=USER][:conf=FILE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rbd {
    /// The pool.
    pub pool: String,
    /// The namespace in it.
    pub namespace: Option<String>,
    /// The image.
    pub image: String,
    /// A snapshot of it.
    pub snapshot: Option<String>,
    /// The Ceph user, without `client.`.
    pub user: Option<String>,
    /// The configuration file; Ceph's own default without.
    pub conf: Option<String>,
}

impl Spec {
    /// From what follows `qemu:`.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rbd) = text.strip_prefix("rbd:") {
            return Rbd::parse(rbd).map(Self::Rbd);
        }
        let file = text.strip_prefix("file:").unwrap_or(text);
        if file.is_empty() {
            return Err(Error::usage("qemu: names nothing"));
        }
        // As QEMU's `path_has_protocol`: a colon before any slash.
        if file.find([':', '/']).is_some_and(|at| file[at..].starts_with(':')) {
            return Err(Error::unsupported(format!("qemu:{text}: of QEMU's protocols only rbd is opened"))
                .hint(format!("for a file of that name: qemu:./{file}")));
        }
        Ok(Self::File(file.into()))
    }
}

impl Rbd {
    fn parse(text: &str) -> Result<Self> {
        let usage = || {
            Error::usage(format!("qemu:rbd:{text}: wanted rbd:POOL/IMAGE[@SNAPSHOT][:id=USER][:conf=FILE]"))
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let (name, snapshot) = match name.split_once('@') {
            Some((name, snapshot)) => (name, Some(snapshot.to_owned())),
            None => (name, None),
        };
        let names: Vec<_> = name.split('/').map(str::to_owned).collect();
        let (pool, namespace, image) = match names.as_slice() {
            [pool, image] => (pool, None, image),
            [pool, namespace, image] => (pool, Some(namespace.clone()), image),
            _ => return Err(usage()),
        };
        if pool.is_empty() || image.is_empty() || snapshot.as_deref() == Some("") {
            return Err(usage());
        }
        let mut rbd =
            Self { pool: pool.clone(), namespace, image: image.clone(), snapshot, user: None, conf: None };
        for option in parts {
            match option.split_once('=') {
                Some(("id", user)) => rbd.user = Some(user.to_owned()),
                Some(("conf", conf)) => rbd.conf = Some(conf.to_owned()),
                _ => return Err(usage()),
            }
        }
        Ok(rbd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_rbd_images_are_told_apart() {
        assert_eq!(Spec::parse("a/disk.vmdk").unwrap(), Spec::File("a/disk.vmdk".into()));
        assert_eq!(Spec::parse("/a:b").unwrap(), Spec::File("/a:b".into()));
        for refused in
            ["", "nbd:unix:/s", "http://host/x", "json:{}", "fat:/etc", "rbd:pool", "rbd:/x", "rbd:a/b:key=x"]
        {
            assert!(Spec::parse(refused).is_err(), "{refused}");
        }
        let Spec::Rbd(rbd) = Spec::parse("rbd:vms/ns/0f_disk@snap:id=nova:conf=/etc/ceph/c.conf").unwrap()
        else {
            panic!("no RBD image")
        };
        assert_eq!(
            (rbd.pool.as_str(), rbd.namespace.as_deref(), rbd.image.as_str()),
            ("vms", Some("ns"), "0f_disk")
        );
        assert_eq!((rbd.snapshot.as_deref(), rbd.user.as_deref()), (Some("snap"), Some("nova")));
        assert_eq!(rbd.conf.as_deref(), Some("/etc/ceph/c.conf"));
    }
}
