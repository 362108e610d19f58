//! From a passphrase to a key, with bounds on what a header may ask for.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// Memory that Argon2 may take, in KiB. cryptsetup asks for 1 GiB at most unless it is told otherwise.
const MEMORY_MAX: u32 = 2 << 20;
/// Passes over that memory, and lanes.
const TIME_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
/// KiB times passes: what cryptsetup's two seconds can be on the fastest machines, with room.
const WORK_MAX: u64 = 64 << 20;
/// Rounds of PBKDF2 in one derivation. cryptsetup's two seconds are some millions.
const ROUNDS_MAX: u32 = 50_000_000;

/// The hashes that headers name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

impl Hash {
    pub(super) fn by_name(name: &str) -> Result<Self> {
        Ok(match name {
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "ripemd160" => Self::Ripemd160,
            _ => return Err(Error::unsupported(format!("LUKS: the hash {name:?} is not known here"))),
        })
    }

    /// The digest of the pieces one after another.
    pub(super) fn digest(self, pieces: &[&[u8]]) -> Vec<u8> {
        fn of<D: sha2::Digest>(pieces: &[&[u8]]) -> Vec<u8> {
            let mut digest = D::new();
            for piece in pieces {
                digest.update(piece);
            }
            digest.finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<sha1::Sha1>(pieces),
            Self::Sha224 => of::<sha2::Sha224>(pieces),
            Self::Sha256 => of::<sha2::Sha256>(pieces),
            Self::Sha384 => of::<sha2::Sha384>(pieces),
            Self::Sha512 => of::<sha2::Sha512>(pieces),
            Self::Ripemd160 => of::<ripemd::Ripemd160>(pieces),
        }
    }

    /// PBKDF2 with HMAC of this hash, `len` bytes of it.
    pub(super) fn pbkdf2(
        self,
        secret: &[u8],
        salt: &[u8],
        rounds: u32,
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>> {
        if rounds == 0 || rounds > ROUNDS_MAX {
            return Err(Error::refused(format!(
                "LUKS: the header asks for {rounds} rounds of PBKDF2; at most {ROUNDS_MAX} are done"
            )));
        }
        let mut out = Zeroizing::new(vec![0; len]);
        match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<sha1::Sha1>(secret, salt, rounds, &mut out),
            Self::Sha224 => pbkdf2::pbkdf2_hmac::<sha2::Sha224>(secret, salt, rounds, &mut out),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>(secret, salt, rounds, &mut out),
            Self::Sha384 => pbkdf2::pbkdf2_hmac::<sha2::Sha384>(secret, salt, rounds, &mut out),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>(secret, salt, rounds, &mut out),
            Self::Ripemd160 => pbkdf2::pbkdf2_hmac::<ripemd::Ripemd160>(secret, salt, rounds, &mut out),
        }
        Ok(out)
    }
}

/// What a header asks of Argon2.
pub(super) struct Cost {
    /// Without side channels in the first half of the first pass: `argon2id` rather than `argon2i`.
    pub(super) hybrid: bool,
    pub(super) time: u32,
    /// In KiB.
    pub(super) memory: u32,
    pub(super) lanes: u32,
}

/// Argon2, `len` bytes of it.
pub(super) fn argon2(secret: &[u8], salt: &[u8], cost: &Cost, len: usize) -> Result<Zeroizing<Vec<u8>>> {
    let work = u64::from(cost.memory).saturating_mul(cost.time.into());
    if cost.memory > MEMORY_MAX || cost.time > TIME_MAX || cost.lanes > LANES_MAX || work > WORK_MAX {
        return Err(Error::refused(format!(
            "LUKS: the header asks for {} passes over {} KiB in {} lanes of Argon2, which is more than a sound one does",
            cost.time, cost.memory, cost.lanes
        )));
    }
    let wrong = |error: argon2::Error| Error::corrupt(format!("LUKS: Argon2 with these parameters: {error}"));
    let params = Params::new(cost.memory, cost.time, cost.lanes, Some(len)).map_err(wrong)?;
    let mut memory: Vec<Block> = Vec::new();
    let blocks = params.block_count();
    if memory.try_reserve_exact(blocks).is_err() {
        return Err(Error::unsupported(format!(
            "LUKS: not enough memory here for Argon2's {} KiB",
            cost.memory
        )));
    }
    memory.resize_with(blocks, Block::default);
    let algorithm = if cost.hybrid { Algorithm::Argon2id } else { Algorithm::Argon2i };
    let mut out = Zeroizing::new(vec![0; len]);
    let done = Argon2::new(algorithm, Version::V0x13, params).hash_password_into_with_memory(
        secret,
        salt,
        &mut out,
        &mut memory,
    );
    memory.iter_mut().for_each(Zeroize::zeroize);
    done.map_err(wrong)?;
    Ok(out)
}
