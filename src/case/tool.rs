//! Which program on which machine: version and digest of this executable, host and boot.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::audit::merkle::hex;

/// As the log says it.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    /// This program's version.
    pub version: &'static str,
    /// SHA-256 of the executable file, lower-case hex.
    pub sha256: Option<String>,
    /// The machine's name.
    pub host: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
}

/// A digest that was made before, and the file it is of. Saves reading the executable for every command.
#[derive(Deserialize, Serialize, PartialEq)]
struct Kept {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    sha256: String,
}

impl Tool {
    /// Looks it up. The executable's digest is kept in `beside` until the executable changes.
    pub fn now(beside: &Path) -> Self {
        let line = |path: &str| {
            std::fs::read_to_string(path).map(|text| text.trim().to_string()).unwrap_or_default()
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            sha256: digest(beside),
            host: line("/proc/sys/kernel/hostname"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

fn digest(beside: &Path) -> Option<String> {
    let mut file = File::open("/proc/self/exe").ok()?;
    let meta = file.metadata().ok()?;
    let now = |sha256| Kept {
        dev: meta.dev(),
        ino: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        sha256,
    };
    if let Some(kept) = std::fs::read(beside).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok())
        && kept == now(kept.sha256.clone())
    {
        return Some(kept.sha256);
    }
    let sha256 = file_digest(&mut file).ok()?;
    if let Ok(text) = serde_json::to_vec(&now(sha256.clone())) {
        // Without it the next command reads the executable again.
        let _ = std::fs::write(beside, text);
    }
    Some(sha256)
}

/// SHA-256 of what is left of a file, lower-case hex.
pub(super) fn file_digest(file: &mut File) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match std::io::Read::read(file, &mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}
