//! Sectors decrypted as dm-crypt does: a cipher, a mode, and how the sector's number becomes its start value.

use aes::cipher::{
    Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16,
};
use aes::{Aes128, Aes192, Aes256};
use serpent::Serpent;
use sha2::Digest;
use twofish::Twofish;
use xts_mode::{Xts128, get_tweak_default};

use crate::error::{Error, Result};

/// Bytes that start values are counted in, whatever the sector size is.
const UNIT: u64 = 512;

/// Decrypts whole sectors in place.
pub(super) trait Sectors: Send + Sync {
    /// `data` is whole sectors of `size` bytes; the first one's start value is that of unit `first` of 512 bytes.
    fn decrypt(&self, first: u64, size: usize, data: &mut [u8]);
}

/// How a number of a sector becomes a start value.
enum Start {
    /// 32 bits of it, little-endian.
    Plain,
    /// All 64 bits, little-endian.
    Plain64,
    /// All 64 bits, big-endian, at the end.
    Plain64Be,
    /// Encrypted with a digest of the key.
    Essiv(Box<Aes256>),
}

impl Start {
    fn value(&self, number: u64) -> Array<u8, U16> {
        let number = if matches!(self, Self::Plain) { number & 0xffff_ffff } else { number };
        if let Self::Plain64Be = self {
            return u128::from(number).to_be_bytes().into();
        }
        let mut value = get_tweak_default(number.into());
        if let Self::Essiv(cipher) = self {
            cipher.encrypt_block(&mut value);
        }
        value
    }
}

/// The number of the next sector's first unit.
fn after(unit: u64, size: usize) -> u64 {
    unit.wrapping_add((size as u64).checked_div(UNIT).unwrap_or(1))
}

struct Xts<C> {
    cipher: Xts128<C>,
    start: Start,
}

impl<C> Sectors for Xts<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn decrypt(&self, first: u64, size: usize, data: &mut [u8]) {
        let mut unit = first;
        for sector in data.chunks_exact_mut(size.max(16)) {
            self.cipher.decrypt_sector(sector, self.start.value(unit));
            unit = after(unit, size);
        }
    }
}

struct Cbc<C> {
    cipher: C,
    start: Start,
}

impl<C> Sectors for Cbc<C>
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn decrypt(&self, first: u64, size: usize, data: &mut [u8]) {
        let mut unit = first;
        for sector in data.chunks_exact_mut(size.max(16)) {
            let mut previous = self.start.value(unit);
            for piece in sector.as_chunks_mut::<16>().0 {
                let sealed: Block<C> = Array::from(*piece);
                let mut block = sealed;
                self.cipher.decrypt_block(&mut block);
                piece.iter_mut().zip(block.iter().zip(&previous)).for_each(|(out, (a, b))| *out = a ^ b);
                previous = sealed;
            }
            unit = after(unit, size);
        }
    }
}

/// Makes what decrypts `spec` (`aes-xts-plain64`) with `key`.
pub(super) fn new(spec: &str, key: &[u8]) -> Result<Box<dyn Sectors>> {
    let unknown = || {
        Error::unsupported(format!(
            "LUKS: the cipher {spec:?} with a key of {} bytes is not known here",
            key.len()
        ))
    };
    let mut words = spec.splitn(3, '-');
    let (name, mode, start) = (words.next(), words.next(), words.next());
    let start = match start {
        Some("plain") => Start::Plain,
        Some("plain64") => Start::Plain64,
        Some("plain64be") => Start::Plain64Be,
        Some("essiv:sha256") => {
            let digest = sha2::Sha256::digest(key);
            Start::Essiv(Box::new(Aes256::new_from_slice(&digest).map_err(|_| unknown())?))
        }
        _ => return Err(unknown()),
    };
    let essiv = matches!(start, Start::Essiv(_));
    match (name, mode) {
        // The digest of the key is a key of the same cipher, which is the one that is known here.
        (Some(name), _) if essiv && name != "aes" => Err(unknown()),
        (Some("aes"), Some("xts")) => match key.len() {
            32 => xts::<Aes128>(key, start),
            64 => xts::<Aes256>(key, start),
            _ => None,
        }
        .ok_or_else(unknown),
        (Some("serpent"), Some("xts")) => xts::<Serpent>(key, start).ok_or_else(unknown),
        (Some("twofish"), Some("xts")) => xts::<Twofish>(key, start).ok_or_else(unknown),
        (Some("aes"), Some("cbc")) => match key.len() {
            16 => cbc::<Aes128>(key, start),
            24 => cbc::<Aes192>(key, start),
            32 => cbc::<Aes256>(key, start),
            _ => None,
        }
        .ok_or_else(unknown),
        (Some("serpent"), Some("cbc")) => cbc::<Serpent>(key, start).ok_or_else(unknown),
        (Some("twofish"), Some("cbc")) => cbc::<Twofish>(key, start).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

fn xts<C>(key: &[u8], start: Start) -> Option<Box<dyn Sectors>>
where
    C: KeyInit
        + BlockCipherEncrypt
        + BlockCipherDecrypt
        + BlockSizeUser<BlockSize = U16>
        + Send
        + Sync
        + 'static,
{
    let (first, second) = key.split_at_checked(key.len() >> 1).filter(|(a, b)| a.len() == b.len())?;
    let cipher = Xts128::new(C::new_from_slice(first).ok()?, C::new_from_slice(second).ok()?);
    Some(Box::new(Xts { cipher, start }))
}

fn cbc<C>(key: &[u8], start: Start) -> Option<Box<dyn Sectors>>
where
    C: KeyInit + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync + 'static,
{
    Some(Box::new(Cbc { cipher: C::new_from_slice(key).ok()?, start }))
}
