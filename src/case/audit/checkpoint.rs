//! Checkpoints: a log's name, size and root in the form of C2SP tlog-checkpoint, alone or as a signed note
//! (<https://c2sp.org/tlog-checkpoint>, <https://c2sp.org/signed-note>).
//!
//! A key for signing is an Ed25519 key in PKCS#8, as `openssl genpkey -algorithm ed25519` makes it. The signature's
//! key name is the log's origin.

use std::fmt;
use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::merkle::{Frontier, Hash, hex};
use crate::error::{Error, Result};

/// The state of a log: what it is called, how many lines it has, and their Merkle root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// The number of lines.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }
}

/// The signature algorithm Ed25519 of signed notes.
const ED25519: u8 = 1;

/// RFC 8410: version 0, algorithm 1.3.101.112, an octet string of 32 bytes within one of 34.
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

impl Checkpoint {
    /// Of a log with these lines.
    pub fn of(origin: &str, tree: &Frontier) -> Self {
        Self { origin: origin.into(), size: tree.size(), root: tree.root() }
    }

    /// Reads one, signed or not. Extension lines and signatures are passed over; [`Self::signed_by`] looks at those.
    pub fn read(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("not a checkpoint: {why}"))
                .hint("three lines: the log's origin, its size, its root in base64")
        };
        let mut lines = text.lines();
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or_else(|| wrong("no origin"))?;
        let size = lines.next().ok_or_else(|| wrong("no size"))?;
        let number: u64 = size.parse().map_err(|_| wrong("the size is not a number"))?;
        if number.to_string() != size {
            return Err(wrong("the size is not a plain decimal number"));
        }
        let root =
            lines.next().and_then(|line| BASE64.decode(line).ok()).and_then(|root| root.try_into().ok());
        Ok(Self { origin: origin.into(), size: number, root: root.ok_or_else(|| wrong("no root"))? })
    }

    /// All checkpoints of the log `origin` in a file that [`super::Sinks`] appended to, or in one signed note, the
    /// smallest first.
    pub fn all_of(text: &str, origin: &str) -> Result<Vec<Self>> {
        // A signed note has an empty line before its signatures, a kept file one between checkpoints.
        let parts =
            text.split("\n\n").filter(|part| !part.trim().is_empty() && !part.starts_with('\u{2014}'));
        let (mut ours, others) = parts
            .map(Self::read)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .partition::<Vec<_>, _>(|c| c.origin == origin);
        match others.first() {
            Some(other) if ours.is_empty() => Err(Error::usage(format!(
                "the checkpoint is of the log `{}`, and this one is `{origin}`",
                other.origin
            ))),
            None if ours.is_empty() => Self::read(text).map(|c| vec![c]),
            _ => {
                ours.sort_by_key(|c| c.size);
                Ok(ours)
            }
        }
    }

    /// As a signed note: the checkpoint, an empty line, and one signature line.
    pub fn sign(&self, key: &SigningKey) -> String {
        let body = self.to_string();
        let mut signature = key_id(&self.origin, &key.verifying_key()).to_vec();
        signature.extend(key.sign(body.as_bytes()).to_bytes());
        format!("{body}\n\u{2014} {} {}\n", self.origin, BASE64.encode(signature))
    }

    /// The key to check signatures with, as signed-note tools want it: `<name>+<id>+<key>`.
    pub fn verifier(&self, key: &SigningKey) -> String {
        let public = key.verifying_key();
        let mut bytes = vec![ED25519];
        bytes.extend(public.as_bytes());
        format!("{}+{}+{}", self.origin, hex(&key_id(&self.origin, &public)), BASE64.encode(bytes))
    }

    /// Whether the signed note in `text` carries a sound signature by `verifier`.
    pub fn signed_by(text: &str, verifier: &str) -> Result<bool> {
        let wrong = || {
            Error::usage("not a verifier key")
                .hint("`<name>+<id>+<key>`, as `log checkpoint --sign` shows it")
        };
        // Names may hold a plus; the other two parts do not start with one before their first digit.
        let mut parts = verifier.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let key = BASE64.decode(key).map_err(|_| wrong())?;
        let key: [u8; 32] = match key.split_first() {
            Some((&ED25519, key)) => key.try_into().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        let key = VerifyingKey::from_bytes(&key).map_err(|_| wrong())?;
        if hex(&key_id(name, &key)) != id {
            return Err(wrong());
        }
        let Some((body, signatures)) = text.rsplit_once("\n\n") else { return Ok(false) };
        let body = format!("{body}\n");
        Ok(signatures.lines().any(|line| {
            let bytes = line
                .strip_prefix("\u{2014} ")
                .and_then(|line| line.strip_prefix(name))
                .and_then(|line| BASE64.decode(line.strip_prefix(' ')?).ok());
            bytes.as_ref().and_then(|bytes| bytes.split_at_checked(4)).is_some_and(|(of, signature)| {
                of == key_id(name, &key)
                    && ed25519_dalek::Signature::from_slice(signature)
                        .is_ok_and(|signature| key.verify_strict(body.as_bytes(), &signature).is_ok())
            })
        }))
    }
}

/// The first four bytes of SHA-256 over name, newline, algorithm and key.
fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', ED25519])
        .chain_update(key.as_bytes())
        .finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// Reads an Ed25519 key from a PEM file in PKCS#8.
pub fn load_key(path: &Path) -> Result<SigningKey> {
    let wrong = |why: &dyn fmt::Display| {
        Error::usage(format!("signing key {}: {why}", path.display()))
            .hint("make one with `openssl genpkey -algorithm ed25519 -out FILE`")
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = BASE64.decode(base64).map_err(|e| wrong(&e))?;
    let secret: &[u8; 32] = bytes
        .strip_prefix(&PKCS8)
        .and_then(|secret| secret.try_into().ok())
        .ok_or_else(|| wrong(&"not an unencrypted Ed25519 key in PKCS#8"))?;
    Ok(SigningKey::from_bytes(secret))
}
