//! POSIX ACLs: stored short (fs/ext4/acl.h), given long (include/uapi/linux/posix_acl_xattr.h).

use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// `EXT4_ACL_VERSION`.
const STORED: u32 = 1;
/// `POSIX_ACL_XATTR_VERSION`.
const GIVEN: u32 = 2;
/// The id of entries that have none (`ACL_UNDEFINED_ID`).
const UNDEFINED: u32 = !0;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The value that getxattr(2) gives, from the stored one: an entry without an id has 4 bytes there and 8 here.
pub(super) fn given(stored: &[u8]) -> Result<Vec<u8>> {
    let b = Bytes::new(stored, "POSIX ACL");
    let version = b.le32(0, "a_version")?;
    if version != STORED {
        return Err(Error::corrupt(format!("POSIX ACL: version {version}, wanted {STORED}")));
    }
    let mut out = Vec::with_capacity(stored.len().saturating_mul(2));
    out.extend(GIVEN.to_le_bytes());
    let mut at = 4usize;
    while at < stored.len() {
        let (tag, perm) = (b.le16(at, "e_tag")?, b.le16(at.saturating_add(2), "e_perm")?);
        let (id, len) = match tag {
            USER | GROUP => (b.le32(at.saturating_add(4), "e_id")?, 8),
            USER_OBJ | GROUP_OBJ | MASK | OTHER => (UNDEFINED, 4),
            _ => return Err(Error::corrupt(format!("POSIX ACL: an entry of tag {tag:#x}"))),
        };
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
        at = at.saturating_add(len);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_entry_gets_the_undefined_id_and_a_long_one_keeps_its_own() {
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0];
        let given = given(&stored).unwrap();
        assert_eq!(given, [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xe8, 3, 0, 0]);
        assert!(super::given(&stored[..14]).is_err());
        assert!(super::given(&[2, 0, 0, 0]).is_err());
    }
}
