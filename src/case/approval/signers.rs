//! The file of allowed signers, as ssh-keygen(1) has it under ALLOWED SIGNERS. Only what distinct people need is read
//! here; the signature itself, and a line's options, are ssh-keygen's to judge.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::error::{Error, Result};

/// One line: people and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Who may sign with the key.
    pub principals: Vec<String>,
    /// The public key in SSH's wire form.
    pub key: Vec<u8>,
}

/// A file that was read once, so that what is judged here and what ssh-keygen sees is the same.
pub struct Signers {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Its lines.
    pub lines: Vec<Allowed>,
}

/// Reads a file of allowed signers.
///
/// # Errors
/// Refused: it cannot be read, or holds a line that could let one key count as several people.
pub fn load(path: &Path) -> Result<Signers> {
    let bytes = std::fs::read(path).map_err(|e| Error::refused(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::refused("not UTF-8"))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        lines.push(parse(line).map_err(|why| Error::refused(format!("line {}: {why}", number + 1)))?);
    }
    if lines.is_empty() {
        return Err(Error::refused("it names nobody"));
    }
    Ok(Signers { bytes: text.into_bytes(), lines })
}

fn parse(line: &str) -> Result<Allowed, String> {
    let mut fields = fields(line)?.into_iter();
    let principals = fields.next().unwrap_or_default();
    let principals: Vec<String> = principals.split(',').map(str::to_string).collect();
    if let Some(pattern) = principals.iter().find(|p| p.is_empty() || p.contains(['*', '?', '!'])) {
        return Err(format!(
            "`{pattern}` is a pattern; one key could count as several people, so principals are literal"
        ));
    }
    let mut next = fields.next().unwrap_or_default();
    if !is_key_type(&next) {
        if next.split(',').any(|option| option.eq_ignore_ascii_case("cert-authority")) {
            return Err(
                "an authority could certify one person as several, so keys are listed themselves".into()
            );
        }
        next = fields.next().unwrap_or_default();
    }
    if !is_key_type(&next) {
        return Err("no key type where one is wanted".into());
    }
    let key = BASE64.decode(fields.next().unwrap_or_default()).map_err(|e| format!("the key: {e}"))?;
    Ok(Allowed { principals, key })
}

fn is_key_type(field: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| field.starts_with(start))
}

/// Splits at blanks outside of double quotes, which are taken off.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                if !field.is_empty() {
                    fields.push(std::mem::take(&mut field));
                }
            }
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a quote without an end".into());
    }
    if !field.is_empty() {
        fields.push(field);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBNqzvs4IvC+S8/tw4sFm2bwY2A0WtRQGsBjrVPZOjRG";

    #[test]
    fn lines_of_people_and_keys() {
        for (line, principals) in [
            (format!("alice@corp {KEY} a comment"), vec!["alice@corp"]),
            (format!("alice,bob namespaces=\"git,approval@coldread\" {KEY}"), vec!["alice", "bob"]),
            (format!("\"alice\" valid-before=\"20300101\",namespaces=\"a b\" {KEY}"), vec!["alice"]),
        ] {
            let allowed = parse(&line).unwrap();
            assert_eq!(allowed.principals, principals);
            assert_eq!(allowed.key.len(), 51);
        }
    }

    #[test]
    fn a_key_that_could_be_several_people_is_not_taken() {
        for line in [
            format!("*@corp {KEY}"),
            format!("alice,b?b {KEY}"),
            format!("!alice,bob {KEY}"),
            format!("alice cert-authority {KEY}"),
            format!("alice namespaces=\"x\",CERT-AUTHORITY {KEY}"),
            "alice".to_string(),
            "alice ssh-ed25519 !!".to_string(),
            format!("\"alice {KEY}"),
        ] {
            assert!(parse(&line).is_err(), "{line}");
        }
    }
}
