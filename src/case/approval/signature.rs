//! SSH signatures, judged by OpenSSH's own `ssh-keygen -Y verify`: absolute path, empty environment, and the time of the
//! act. The signature and the list of signers are given to it as they were read, so that nobody can swap them between.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::signers::{self, Signers};
use crate::error::{Error, Result};

/// The namespace that approvals are signed in.
pub const NAMESPACE: &str = "approval@coldread";

const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";

/// The longest signature file that is read, in bytes.
const LONGEST: u64 = 1 << 16;

/// Somebody whose signature stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Who, as the list of allowed signers calls them.
    pub principal: String,
    /// The key's type: `ssh-ed25519`.
    pub key_type: String,
    /// `SHA256:…`, as ssh-keygen -l prints it.
    pub fingerprint: String,
    /// SHA-256 of the signature file, lower-case hex.
    pub signature: String,
}

/// A signature that stands for these people, of whom it can count as one.
pub struct Standing {
    /// One for each principal that the key is listed under.
    pub signers: Vec<Signer>,
    /// The key in SSH's wire form.
    pub key: Vec<u8>,
}

/// What signatures are held against.
pub struct Judge {
    lists: Vec<Signers>,
    revoked: Vec<PathBuf>,
    at: Timestamp,
}

/// Finds out whether this host's OpenSSH can verify signatures at a given time (9.1 and later).
pub fn probe() -> Result<()> {
    let output = Command::new(SSH_KEYGEN)
        .env_clear()
        .args(["-Y", "verify", "-n", NAMESPACE, "-I", "probe", "-f", "/dev/null", "-s", "/dev/null"])
        .arg("-Overify-time=20200101000000Z")
        .stdin(Stdio::null())
        .output();
    let hint = "signed approvals need ssh-keygen of OpenSSH 9.1 or later (package openssh-client)";
    match output {
        Err(e) => Err(Error::refused(format!("{SSH_KEYGEN}: {e}")).hint(hint)),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            // An old one knows no -Y, or no time that ends in Z. A good one goes on to the empty signature.
            if said.contains("-- Y") || said.contains("verify-time") || said.contains("option") {
                return Err(Error::refused(format!("{SSH_KEYGEN} cannot verify: {}", said.trim())).hint(hint));
            }
            Ok(())
        }
    }
}

impl Judge {
    /// For the lists of allowed signers and of revoked keys, at the time `at`.
    pub fn new(allowed: &[PathBuf], revoked: &[PathBuf], at: Timestamp) -> Result<Self> {
        if allowed.is_empty() {
            return Err(Error::refused("no policy names `allowed_signers`, so no signature can be judged")
                .hint("name a policy with allowed_signers: --policy FILE"));
        }
        let lists = allowed
            .iter()
            .map(|path| {
                signers::load(path).map_err(|e| e.context(format!("allowed_signers {}", path.display())))
            })
            .collect::<Result<_>>()?;
        Ok(Self { lists, revoked: revoked.to_vec(), at })
    }

    /// Judges one signature file over `bytes`. The message says why it does not stand.
    pub fn signature(&self, bytes: &[u8], path: &Path) -> Result<Standing, String> {
        let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
        if !meta.is_file() || meta.len() > LONGEST {
            return Err("not a signature file".into());
        }
        let text = std::fs::read(path).map_err(|e| e.to_string())?;
        let (key, namespace) = parts(&text).ok_or("not an SSH signature")?;
        let (key_type, fingerprint) = (key_type(&key), fingerprint(&key));
        if namespace != NAMESPACE {
            return Err(format!("signed in the namespace `{namespace}`, wanted `{NAMESPACE}`"));
        }
        let Some(first) = self.lists.first() else { return Err("nobody is allowed to sign".into()) };
        let listed = |list: &Signers, who: &str| {
            list.lines.iter().any(|line| line.key == key && line.principals.iter().any(|p| p == who))
        };
        let mut people: Vec<&String> =
            first.lines.iter().filter(|line| line.key == key).flat_map(|line| &line.principals).collect();
        people.sort();
        people.dedup();
        people.retain(|who| self.lists.iter().all(|list| listed(list, who)));
        if people.is_empty() {
            return Err(format!("signed with a key that is not allowed: {key_type} {fingerprint}"));
        }
        let mut why = String::new();
        let mut signers = Vec::new();
        for who in people {
            match self.verify(bytes, &text, who) {
                Ok(()) => signers.push(Signer {
                    principal: who.clone(),
                    key_type: key_type.clone(),
                    fingerprint: fingerprint.clone(),
                    signature: crate::case::audit::merkle::hex(&Sha256::digest(&text)),
                }),
                Err(said) => why = format!("{who}, {key_type} {fingerprint}: {said}"),
            }
        }
        if signers.is_empty() { Err(why) } else { Ok(Standing { signers, key }) }
    }

    fn verify(&self, bytes: &[u8], signature: &[u8], who: &str) -> Result<(), String> {
        for list in &self.lists {
            keygen(bytes, signature, &list.bytes, who, self.at, None)?;
            for revoked in &self.revoked {
                keygen(bytes, signature, &list.bytes, who, self.at, Some(revoked))
                    .map_err(|_| format!("the key is revoked ({})", revoked.display()))?;
            }
        }
        Ok(())
    }
}

fn keygen(
    bytes: &[u8],
    signature: &[u8],
    allowed: &[u8],
    who: &str,
    at: Timestamp,
    revoked: Option<&Path>,
) -> Result<(), String> {
    let signature = held(signature)?;
    let allowed = held(allowed)?;
    let mut command = Command::new(SSH_KEYGEN);
    command
        .env_clear()
        .args(["-Y", "verify", "-n", NAMESPACE, "-I", who])
        .arg("-f")
        .arg(path_of(&allowed))
        .arg("-s")
        .arg(path_of(&signature))
        .arg(format!("-Overify-time={}", at.strftime("%Y%m%d%H%M%SZ")));
    if let Some(revoked) = revoked {
        command.arg("-r").arg(revoked);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{SSH_KEYGEN}: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has seen enough closes its end; its exit status says what it thinks.
        let _ = stdin.write_all(bytes);
    }
    let output = child.wait_with_output().map_err(|e| format!("{SSH_KEYGEN}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(if said.contains("has expired") {
        "the key has expired".into()
    } else if said.contains("not yet valid") {
        "the key is not yet valid".into()
    } else if said.contains("incorrect signature") {
        "the signature is not over this document: it was changed after signing, or another one was signed"
            .into()
    } else {
        format!("the signature does not stand: {}", said.trim().replace('\n', "; "))
    })
}

/// Bytes in memory that another program can open by a path.
fn held(bytes: &[u8]) -> Result<OwnedFd, String> {
    let fd = memfd_create("coldread", MFdFlags::MFD_CLOEXEC).map_err(|e| format!("memfd: {e}"))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).map_err(|e| format!("memfd: {e}"))?;
    Ok(file.into())
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Key and namespace of an armoured signature (OpenSSH, PROTOCOL.sshsig).
fn parts(armoured: &[u8]) -> Option<(Vec<u8>, String)> {
    let text = std::str::from_utf8(armoured).ok()?;
    let base64: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    let bytes = BASE64.decode(base64).ok()?;
    let rest = bytes.strip_prefix(b"SSHSIG\x00\x00\x00\x01")?;
    let (key, rest) = string(rest)?;
    let (namespace, _) = string(rest)?;
    Some((key.to_vec(), String::from_utf8_lossy(namespace).into_owned()))
}

/// One `string` of RFC 4251, section 5, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn key_type(key: &[u8]) -> String {
    string(key).map_or_else(|| "key".into(), |(name, _)| String::from_utf8_lossy(name).into_owned())
}

fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", BASE64.encode(Sha256::digest(key)).trim_end_matches('='))
}
