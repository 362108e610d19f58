//! Sources that are no plain files, as they are typed: `qemu:SPEC` and `nbd+unix:///EXPORT?socket=PATH`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
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

/// An export of an NBD server on a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// The export's name; empty for the default one.
    pub export: String,
    /// The server's socket.
    pub socket: PathBuf,
}

impl NbdUri {
    /// From `nbd+unix:///EXPORT?socket=PATH` (the NBD project's `doc/uri.md`); none where it is another sort of word.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let rest = text.strip_prefix("nbd+unix://")?;
        Some(
            Self::after_scheme(rest)
                .ok_or_else(|| Error::usage(format!("{text}: wanted nbd+unix:///EXPORT?socket=PATH"))),
        )
    }

    fn after_scheme(rest: &str) -> Option<Self> {
        let (path, query) = rest.split_once('?')?;
        // An authority has no meaning on a Unix socket.
        let export = String::from_utf8(unescape(path.strip_prefix('/')?)?).ok()?;
        let mut socket = None;
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if key == "socket" && socket.is_none() && !value.is_empty() {
                socket = Some(PathBuf::from(OsString::from_vec(unescape(value)?)));
            } else {
                return None;
            }
        }
        Some(Self { export, socket: socket? })
    }
}

/// Takes percent signs apart.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    (!out.contains(&0)).then_some(out)
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

    #[test]
    fn uris_are_taken_apart() {
        let parse = |text: &str| NbdUri::parse(text).map(Result::ok);
        let uri =
            |export: &str, socket: &str| Some(Some(NbdUri { export: export.into(), socket: socket.into() }));
        assert_eq!(parse("nbd+unix:///vda?socket=/run/s"), uri("vda", "/run/s"));
        assert_eq!(parse("nbd+unix:///?socket=/run/s"), uri("", "/run/s"));
        assert_eq!(parse("nbd+unix:///a%2fb?socket=/a%20b"), uri("a/b", "/a b"));
        for wrong in [
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/s",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?socket=/s&tls=1",
            "nbd+unix:///%zz?socket=/s",
        ] {
            assert_eq!(parse(wrong), Some(None), "{wrong}");
        }
        assert_eq!(parse("nbd://host/x"), None);
    }
}
