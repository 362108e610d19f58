//! Headers: the ustar block, and before it a pax header for everything that does not fit.
//!
//! POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block".

use std::io::Write;

use crate::evidence::acl;
use crate::evidence::json::decimal;
use crate::evidence::record::Extras;
use crate::fs::{FileType, Node, Time};

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    File,
    /// A file with a map before its data; its real size.
    Sparse(u64),
    Hardlink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

impl What {
    /// The plain form of a type; sockets have none and are not asked for.
    pub fn of(kind: FileType) -> Self {
        match kind {
            FileType::Symlink => Self::Symlink,
            FileType::Char => Self::Char,
            FileType::Block => Self::Block,
            FileType::Dir => Self::Dir,
            FileType::Fifo => Self::Fifo,
            FileType::File | FileType::Socket | FileType::Unknown => Self::File,
        }
    }

    fn flag(self) -> u8 {
        match self {
            Self::File | Self::Sparse(_) => b'0',
            Self::Hardlink => b'1',
            Self::Symlink => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Dir => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// One member of the archive.
pub(super) struct Member<'m> {
    pub name: &'m [u8],
    pub link: &'m [u8],
    pub node: &'m Node,
    pub extras: &'m Extras,
    pub what: What,
    /// Bytes that follow the header.
    pub size: u64,
}

/// The largest number in a field of eight and of twelve bytes: octal digits and a NUL.
const MAX_7: u64 = 0o7_777_777;
const MAX_11: u64 = 0o77_777_777_777;

impl Member<'_> {
    /// All header blocks.
    pub fn header(&self) -> Vec<u8> {
        let records = self.records();
        let mut out = Vec::with_capacity(1024 + records.len());
        if !records.is_empty() {
            // Some readers unpack a pax header as a file; this is the name it would get.
            let name = [&b"PaxHeaders/"[..], self.name.get(..60).unwrap_or(self.name)].concat();
            self.block(&mut out, &name, b"", b'x', records.len() as u64);
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        let sparse;
        let name = if let What::Sparse(_) = self.what {
            let cut = self.name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
            sparse = [&self.name[..cut], b"GNUSparseFile.0/", &self.name[cut..]].concat();
            &sparse
        } else {
            self.name
        };
        self.block(&mut out, name, self.link, self.what.flag(), self.size);
        out
    }

    /// The records of the pax header.
    fn records(&self) -> Vec<u8> {
        let (node, mut out) = (self.node, Vec::new());
        let text = |name: &[u8]| std::str::from_utf8(name).is_ok();
        let (long_name, long_link) = (self.name.len() > 100, self.link.len() > 100);
        let sparse = matches!(self.what, What::Sparse(_));
        if ((long_name || sparse) && !text(self.name)) || (long_link && !text(self.link)) {
            record(&mut out, b"hdrcharset", b"BINARY");
        }
        if let What::Sparse(size) = self.what {
            record(&mut out, b"GNU.sparse.major", b"1");
            record(&mut out, b"GNU.sparse.minor", b"0");
            record(&mut out, b"GNU.sparse.name", self.name);
            record(&mut out, b"GNU.sparse.realsize", size.to_string().as_bytes());
        } else if long_name {
            record(&mut out, b"path", self.name);
        }
        if long_link {
            record(&mut out, b"linkpath", self.link);
        }
        for (key, number, max) in
            [("size", self.size, MAX_11), ("uid", node.uid.into(), MAX_7), ("gid", node.gid.into(), MAX_7)]
        {
            if number > max {
                record(&mut out, key.as_bytes(), number.to_string().as_bytes());
            }
        }
        for (key, time) in [("mtime", node.mtime), ("atime", node.atime), ("ctime", node.ctime)] {
            if let Some(time) = time {
                record(&mut out, key.as_bytes(), stamp(time).as_bytes());
            }
        }
        if self.what != What::Hardlink {
            self.attributes(&mut out);
        }
        out
    }

    fn attributes(&self, out: &mut Vec<u8>) {
        for attribute in &self.extras.attributes {
            let value = &attribute.value;
            match &attribute.name[..] {
                acl::ACCESS => acl_record(out, b"SCHILY.acl.access", value),
                acl::DEFAULT => acl_record(out, b"SCHILY.acl.default", value),
                name => {
                    if name == b"security.selinux" {
                        let label = value.strip_suffix(b"\0").unwrap_or(value);
                        record(out, b"RHT.security.selinux", label);
                    }
                    // As GNU tar writes names that hold the mark which ends them.
                    let mut key = b"SCHILY.xattr.".to_vec();
                    for byte in name {
                        match byte {
                            b'%' => key.extend_from_slice(b"%25"),
                            b'=' => key.extend_from_slice(b"%3D"),
                            byte => key.push(*byte),
                        }
                    }
                    record(out, &key, value);
                }
            }
        }
    }

    /// One ustar block. What does not fit is cut here and whole in the pax header.
    fn block(&self, out: &mut Vec<u8>, name: &[u8], link: &[u8], flag: u8, size: u64) {
        let node = self.node;
        let mut block = [0_u8; 512];
        let mut put = |at: usize, len: usize, bytes: &[u8]| {
            let len = len.min(bytes.len());
            block[at..at + len].copy_from_slice(&bytes[..len]);
        };
        put(0, 100, name);
        put(100, 8, &octal(node.mode.into(), 7));
        put(108, 8, &octal(if u64::from(node.uid) > MAX_7 { 0 } else { node.uid.into() }, 7));
        put(116, 8, &octal(if u64::from(node.gid) > MAX_7 { 0 } else { node.gid.into() }, 7));
        put(124, 12, &octal(size.min(MAX_11), 11));
        let seconds = node.mtime.and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or(0);
        put(136, 12, &octal(seconds.min(MAX_11), 11));
        put(156, 1, &[flag]);
        put(157, 100, link);
        put(257, 8, b"ustar\x0000");
        if matches!(flag, b'3' | b'4') {
            let (major, minor) = node.rdev.unwrap_or_default();
            put(329, 8, &octal(u64::from(major).min(MAX_7), 7));
            put(337, 8, &octal(u64::from(minor).min(MAX_7), 7));
        }
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..154].copy_from_slice(&octal(sum, 6));
        block[154] = 0;
        out.extend_from_slice(&block);
    }
}

/// An ACL as text. One that makes no sense is left to the manifest, which says so.
fn acl_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if let Ok(text) = acl::plain(value) {
        record(out, key, text.as_bytes());
    }
}

/// `width` octal digits.
fn octal(number: u64, width: usize) -> Vec<u8> {
    format!("{number:0width$o}").into_bytes()
}

/// Seconds with what is behind the point, as pax writes times. Before 1970 the number as a whole is negative.
fn stamp(time: Time) -> String {
    let (seconds, nanoseconds) = (time.seconds, time.nanoseconds);
    match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, n) => format!("{seconds}.{n:09}"),
        (true, n) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - n),
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    decimal(out, len as u64);
    // Writing to a Vec cannot fail.
    let _ = out.write_all(&[b" ", key, b"=", value, b"\n"].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        for len in [0, 1, 83, 84, 85, 86, 90, 980, 985, 986, 990, 9980, 9985] {
            let mut out = Vec::new();
            record(&mut out, b"key", &vec![b'v'; len]);
            let space = out.iter().position(|b| *b == b' ').unwrap();
            let said: usize = std::str::from_utf8(&out[..space]).unwrap().parse().unwrap();
            assert_eq!(said, out.len());
        }
    }

    #[test]
    fn times_before_1970_are_negative_as_a_whole() {
        let at = |seconds, nanoseconds| stamp(Time { seconds, nanoseconds });
        assert_eq!(at(-1, 0), "-1");
        assert_eq!(at(-1, 250_000_000), "-0.750000000");
        assert_eq!(at(-315_619_200, 1), "-315619199.999999999");
        assert_eq!(at(7, 5), "7.000000005");
    }
}
