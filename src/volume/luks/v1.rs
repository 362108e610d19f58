//! LUKS1 (LUKS1 On-Disk Format Specification 1.2.3).

use zeroize::Zeroizing;

use super::kdf::Hash;
use super::{Key, Volume, cipher, split};
use crate::block::{BlockSource, read_array, read_vec};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::{Error, Result};

const HEADER: usize = 592;
const SLOTS: usize = 8;
const ACTIVE: u32 = 0x00ac_71f3;
const SECTOR: u64 = 512;
/// Bytes of a key at most: the specification's ciphers need 64.
const KEY_MAX: usize = 128;

/// The header, field names as in the specification.
pub(super) struct Header {
    spec: String,
    hash: String,
    payload: u64,
    key_bytes: usize,
    digest: [u8; 20],
    digest_salt: [u8; 32],
    digest_rounds: u32,
    slots: Vec<Slot>,
}

struct Slot {
    rounds: u32,
    salt: [u8; 32],
    offset: u64,
    stripes: u32,
}

fn word(raw: &[u8]) -> String {
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(raw.get(..end).unwrap_or_default()).into_owned()
}

impl Header {
    pub(super) fn read(source: &dyn BlockSource) -> Result<Self> {
        let raw = read_array::<HEADER>(source, 0)?;
        let b = Bytes::new(&raw, "LUKS1 header");
        let key_bytes = usize::try_from(b.be32(108, "key-bytes")?).unwrap_or(usize::MAX);
        if key_bytes == 0 || key_bytes > KEY_MAX {
            return Err(Error::corrupt(format!("LUKS1 header: a key of {key_bytes} bytes")));
        }
        let mut slots = Vec::new();
        for i in 0..SLOTS {
            let slot = b.part(i.saturating_mul(48).saturating_add(208), 48, "key slot")?;
            if slot.be32(0, "active")? == ACTIVE {
                slots.push(Slot {
                    rounds: slot.be32(4, "iterations")?,
                    salt: slot.array(8, "salt")?,
                    offset: u64::from(slot.be32(40, "key-material-offset")?).saturating_mul(SECTOR),
                    stripes: slot.be32(44, "stripes")?,
                });
            }
        }
        let (name, mode) = (word(b.slice(8, 32, "cipher-name")?), word(b.slice(40, 32, "cipher-mode")?));
        Ok(Self {
            spec: format!("{name}-{mode}"),
            hash: word(b.slice(72, 32, "hash-spec")?),
            payload: u64::from(b.be32(104, "payload-offset")?).saturating_mul(SECTOR),
            key_bytes,
            digest: b.array(112, "mk-digest")?,
            digest_salt: b.array(132, "mk-digest-salt")?,
            digest_rounds: b.be32(164, "mk-digest-iter")?,
            slots,
        })
    }

    pub(super) fn spec(&self) -> &str {
        &self.spec
    }

    /// Where the encrypted bytes lie.
    pub(super) fn volume(&self) -> Volume {
        Volume { start: self.payload, len: None, sector: 512, tweak: 0, spec: self.spec.clone() }
    }

    /// The volume's key, if one of `keys` opens one of the slots.
    pub(super) fn unlock(
        &self,
        source: &dyn BlockSource,
        keys: &[Key],
        effort: &Effort,
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let hash = Hash::by_name(&self.hash)?;
        for slot in &self.slots {
            let len = split::material(self.key_bytes, slot.stripes.into())?;
            for key in keys {
                effort.check()?;
                let derived = hash.pbkdf2(key.bytes(), &slot.salt, slot.rounds, self.key_bytes)?;
                let mut stripes = Zeroizing::new(read_vec(source, slot.offset, len.next_multiple_of(512))?);
                cipher::new(&self.spec, &derived)?.decrypt(0, 512, &mut stripes);
                stripes.truncate(len);
                let master = split::merge(hash, &stripes, self.key_bytes);
                let digest =
                    hash.pbkdf2(&master, &self.digest_salt, self.digest_rounds, self.digest.len())?;
                if **digest == self.digest {
                    return Ok(Some(master));
                }
            }
        }
        Ok(None)
    }
}
