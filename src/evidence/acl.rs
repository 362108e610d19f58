//! POSIX ACLs as text.
//!
//! The layout is that of the attribute as getxattr(2) gives it: `struct posix_acl_xattr_header` and
//! `struct posix_acl_xattr_entry` in include/uapi/linux/posix_acl_xattr.h.

use std::fmt::Write;

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::fs::{Attribute, Node};

/// The attribute that holds the ACL of a file.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The attribute that holds the ACL which files made in a directory inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

/// One entry: `ACL_USER` and so on, three bits, a user's or group's number.
struct Ace {
    tag: u16,
    perm: u16,
    id: u32,
}

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

fn parse(value: &[u8]) -> Result<Vec<Ace>> {
    let bytes = Bytes::new(value, "ACL");
    let version = bytes.le32(0, "a_version")?;
    if version != VERSION {
        return Err(Error::unsupported(format!("ACL: a_version {version}, wanted {VERSION}")));
    }
    let mut entries = Vec::with_capacity(value.len() / 8);
    for at in (4..value.len()).step_by(8) {
        entries.push(Ace {
            tag: bytes.le16(at, "e_tag")?,
            perm: bytes.le16(at + 2, "e_perm")?,
            id: bytes.le32(at + 4, "e_id")?,
        });
    }
    Ok(entries)
}

fn bits(perm: u16) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')].iter().map(|(bit, c)| if perm & bit != 0 { *c } else { '-' }).collect()
}

/// One line an entry, each with `prefix` before it. With `effective`, what a mask takes away is said behind the entry.
fn lines(out: &mut String, entries: &[Ace], prefix: &str, effective: bool) -> Result<()> {
    let mask = entries.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| entry.perm);
    for entry in entries {
        // Writing to a String cannot fail.
        let _ = match entry.tag {
            USER_OBJ => write!(out, "{prefix}user::{}", bits(entry.perm)),
            USER => write!(out, "{prefix}user:{}:{}", entry.id, bits(entry.perm)),
            GROUP_OBJ => write!(out, "{prefix}group::{}", bits(entry.perm)),
            GROUP => write!(out, "{prefix}group:{}:{}", entry.id, bits(entry.perm)),
            MASK => write!(out, "{prefix}mask::{}", bits(entry.perm)),
            OTHER => write!(out, "{prefix}other::{}", bits(entry.perm)),
            tag => return Err(Error::corrupt(format!("ACL: e_tag {tag:#x} is none of the known ones"))),
        };
        let masked = matches!(entry.tag, USER | GROUP_OBJ | GROUP) && entry.perm & !mask & 7 != 0;
        if effective && masked {
            let _ = write!(out, "\t#effective:{}", bits(entry.perm & mask));
        }
        out.push('\n');
    }
    Ok(())
}

/// The ACL as `getfacl --numeric --omit-header` prints it: for a file that has none, what its mode says. The text ends in a newline.
pub fn text(node: &Node, attributes: &[Attribute]) -> Result<String> {
    let mut out = String::new();
    let value = |name: &[u8]| attributes.iter().find(|a| a.name == name).map(|a| &a.value[..]);
    if let Some(value) = value(ACCESS) {
        lines(&mut out, &parse(value)?, "", true)?;
    } else {
        let class = |tag, shift: u16| Ace { tag, perm: node.mode >> shift & 7, id: 0 };
        lines(&mut out, &[class(USER_OBJ, 6), class(GROUP_OBJ, 3), class(OTHER, 0)], "", false)?;
    }
    if let Some(value) = value(DEFAULT) {
        lines(&mut out, &parse(value)?, "default:", true)?;
    }
    Ok(out)
}

/// One ACL in the form that tar keeps in `SCHILY.acl.access` and `SCHILY.acl.default`: numeric, without comments.
pub fn plain(value: &[u8]) -> Result<String> {
    let mut out = String::new();
    lines(&mut out, &parse(value)?, "", false)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_of_another_version_or_cut_short_is_an_error() {
        assert!(plain(&[1, 0, 0, 0]).is_err());
        assert!(plain(&[2, 0, 0, 0, 1, 0, 7]).is_err());
        assert!(plain(&[2, 0, 0, 0, 0x40, 0, 7, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(plain(&[2, 0, 0, 0]).unwrap(), "");
    }
}
