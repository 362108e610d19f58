//! LUKS1 and LUKS2: with a key, the bytes in clear. Key material is wiped after use and never printed.

mod cipher;
mod kdf;
mod plain;
mod split;
mod v1;
mod v2;

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use self::plain::{Parts, Plain};
use crate::block::{Locate, Source, read_array};
use crate::effort::Effort;
use crate::error::{Error, Result};

/// A passphrase, or what a key file holds: the bytes as they are, without any newline that is not part of it.
#[derive(Clone)]
pub struct Key(Arc<Zeroizing<Vec<u8>>>);

impl Key {
    /// Takes the bytes over; they are wiped with the last copy of the key.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Where the encrypted bytes lie and how.
struct Volume {
    start: u64,
    /// None: up to the device's end.
    len: Option<u64>,
    sector: usize,
    tweak: u64,
    spec: String,
}

enum Version {
    One(v1::Header),
    Two(v2::Header),
}

/// What a header says, before any key.
pub struct Luks {
    header: Source,
    version: Version,
}

/// Names of ciphers that a run can be said to be encrypted by.
const NAMES: &[&str] = &[
    "aes-xts-plain64",
    "aes-xts-plain",
    "aes-cbc-essiv:sha256",
    "aes-cbc-plain64",
    "aes-cbc-plain",
    "serpent-xts-plain64",
    "twofish-xts-plain64",
];

impl Luks {
    /// Reads the header at the start of `header`: the device itself, or a detached one.
    pub fn read(header: &Source) -> Result<Self> {
        let [magic @ .., _, version] = read_array::<8>(&**header, 0)?;
        let version = match (&magic, version) {
            (b"LUKS\xba\xbe", 1) => Version::One(v1::Header::read(&**header).found_at(&**header, 0)?),
            // The first copy may be gone.
            _ => Version::Two(v2::Header::read(&**header).found_at(&**header, 0)?),
        };
        Ok(Self { header: Arc::clone(header), version })
    }

    /// The cipher of the data: `aes-xts-plain64`.
    pub fn cipher(&self) -> &str {
        match &self.version {
            Version::One(header) => header.spec(),
            Version::Two(header) => header.spec(),
        }
    }

    /// What is wrong with the header, a sentence each.
    pub fn problems(&self) -> &[String] {
        match &self.version {
            Version::One(_) => &[],
            Version::Two(header) => &header.problems,
        }
    }

    /// Where the data lie on a device of `len` bytes: start and length in bytes.
    pub fn place(&self, len: u64) -> Result<(u64, u64)> {
        let volume = self.volume()?;
        let have = len.saturating_sub(volume.start);
        Ok((volume.start, volume.len.unwrap_or(have)))
    }

    fn volume(&self) -> Result<Volume> {
        match &self.version {
            Version::One(header) => Ok(header.volume()),
            Version::Two(header) => header.volume(),
        }
    }

    /// The bytes of `device` in clear, under the name `name`; `None` where no key fits.
    pub fn open(&self, name: &str, device: &Source, keys: &[Key], effort: &Effort) -> Result<Option<Source>> {
        let volume = self.volume()?;
        let header = &*self.header;
        let master = match &self.version {
            Version::One(one) => one.unlock(header, keys, effort)?,
            Version::Two(two) => two.unlock(header, keys, effort)?,
        };
        let Some(master) = master else { return Ok(None) };
        let cipher = cipher::new(&volume.spec, &master)?;
        let (start, len) = self.place(device.len())?;
        start.checked_add(len).ok_or_else(|| Error::corrupt("LUKS: data beyond all devices"))?;
        let how = NAMES.iter().find(|name| **name == volume.spec).copied().unwrap_or("LUKS");
        let parts = Parts { start, len, sector: volume.sector, tweak: volume.tweak, cipher, how };
        Ok(Some(Arc::new(Plain::new(name.into(), Arc::clone(device), parts))))
    }
}
