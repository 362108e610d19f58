//! LUKS2 (LUKS2 On-Disk Format Specification 1.1.1): two copies of a binary header with a JSON area.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::kdf::{Cost, Hash, argon2};
use super::{Key, Volume, cipher, split};
use crate::block::{BlockSource, read_array, read_vec};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::{Error, Result};

const BINARY: u64 = 4096;
/// Sizes that the specification allows for a header with its JSON, in bytes.
const SIZES: std::ops::RangeInclusive<u64> = 0x4000..=0x40_0000;
const KEY_MAX: usize = 128;
/// A digest or salt at most, in bytes.
const SMALL_MAX: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header {
    json: Json,
    seqid: u64,
    /// What is wrong with the other copy.
    pub(super) problems: Vec<String>,
}

#[derive(Deserialize)]
struct Json {
    keyslots: BTreeMap<String, Slot>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, Digest>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    requirements: Option<Requirements>,
}

#[derive(Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct Slot {
    r#type: String,
    key_size: usize,
    af: Option<Splitter>,
    area: Area,
    kdf: Option<Kdf>,
}

#[derive(Deserialize)]
struct Splitter {
    stripes: u64,
    hash: String,
}

#[derive(Deserialize)]
struct Area {
    r#type: String,
    offset: String,
    size: String,
    encryption: Option<String>,
    key_size: Option<usize>,
}

#[derive(Deserialize)]
struct Kdf {
    r#type: String,
    salt: String,
    hash: Option<String>,
    iterations: Option<u32>,
    time: Option<u32>,
    memory: Option<u32>,
    cpus: Option<u32>,
}

#[derive(Deserialize)]
struct Segment {
    r#type: String,
    offset: String,
    size: String,
    iv_tweak: Option<String>,
    encryption: Option<String>,
    sector_size: Option<u32>,
    integrity: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Digest {
    r#type: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

/// One copy of the header at `at`: its JSON text and its number.
fn copy(source: &dyn BlockSource, at: u64, magic: [u8; 6]) -> Result<(Vec<u8>, u64)> {
    let raw = read_array::<4096>(source, at)?;
    let b = Bytes::new(&raw, "LUKS2 header");
    let wrong = |what: String| Error::corrupt(format!("LUKS2 header at byte {at}: {what}"));
    if b.slice(0, 6, "magic")? != magic || b.be16(6, "version")? != 2 {
        return Err(wrong("there is none".to_owned()));
    }
    let size = b.be64(8, "hdr_size")?;
    if !SIZES.contains(&size) || b.be64(256, "hdr_offset")? != at {
        return Err(wrong(format!("{size} bytes for offset {}", b.be64(256, "hdr_offset")?)));
    }
    let rest = size.checked_sub(BINARY).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let json = read_vec(source, at.saturating_add(BINARY), rest)?;
    let name = b.slice(72, 32, "csum_alg")?;
    let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
    let hash = Hash::by_name(&String::from_utf8_lossy(name.get(..end).unwrap_or_default()))?;
    let digest = hash.digest(&[b.slice(0, 448, "header")?, &[0; 64], b.rest(512, "header")?, &json]);
    if b.slice(448, digest.len(), "csum")? != digest {
        return Err(wrong("its checksum is wrong".to_owned()));
    }
    Ok((json, b.be64(16, "seqid")?))
}

fn parse(json: &[u8]) -> Result<Json> {
    let end = json.iter().position(|b| *b == 0).unwrap_or(json.len());
    serde_json::from_slice(json.get(..end).unwrap_or_default())
        .map_err(|error| Error::corrupt(format!("LUKS2 JSON: {error}")))
}

fn number(text: &str, what: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::corrupt(format!("LUKS2 JSON: {what} is {text:?}")))
}

fn bytes(text: &str, what: &str) -> Result<Vec<u8>> {
    let out = STANDARD.decode(text).ok().filter(|out| out.len() <= SMALL_MAX);
    out.ok_or_else(|| Error::corrupt(format!("LUKS2 JSON: {what} is no base64 of a fitting length")))
}

impl Header {
    /// The newer of the two copies; the second one where the first is damaged.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Self> {
        let load = |at, magic| copy(source, at, magic).and_then(|(json, seqid)| Ok((parse(&json)?, seqid)));
        let first = load(0, *b"LUKS\xba\xbe");
        let mut problems = Vec::new();
        let mut second = None;
        for at in (14..=22u32).map(|bit| 1u64 << bit) {
            if read_array::<6>(source, at).is_ok_and(|magic| magic == *b"SKUL\xba\xbe") {
                second = Some(load(at, *b"SKUL\xba\xbe"));
                break;
            }
        }
        let (json, seqid) = match (first, second) {
            (Ok(first), Some(Ok(second))) if second.1 > first.1 => {
                problems.push("LUKS2: the second header is newer than the first and serves".to_owned());
                second
            }
            (Ok(first), Some(Ok(_))) => first,
            (Ok(first), second) => {
                let why =
                    second.and_then(Result::err).map_or("not there".to_owned(), |e| e.what().to_owned());
                problems.push(format!("LUKS2: the second header is damaged ({why}); the first serves"));
                first
            }
            (Err(error), Some(Ok(second))) => {
                problems.push(format!(
                    "LUKS2: the first header is damaged ({}); the second serves",
                    error.what()
                ));
                second
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Self { json, seqid, problems })
    }

    /// The one segment that is encrypted; everything else is refused.
    fn segment(&self) -> Result<(&str, &Segment, &str)> {
        let needs = self.json.config.requirements.iter().flat_map(|r| &r.mandatory).next();
        if let Some(need) = needs {
            return Err(Error::unsupported(format!(
                "LUKS2: the volume is in the middle of a change or needs {need:?}; cryptsetup has to finish that first"
            )));
        }
        let mut segments = self.json.segments.iter();
        match (segments.next(), segments.next()) {
            (Some((name, segment)), None) if segment.r#type == "crypt" => {
                if segment.integrity.is_some() {
                    return Err(Error::unsupported("LUKS2: encryption with integrity tags (dm-integrity)"));
                }
                let spec = segment.encryption.as_deref();
                let spec = spec.ok_or_else(|| Error::corrupt("LUKS2 JSON: a segment without a cipher"))?;
                Ok((name, segment, spec))
            }
            _ => Err(Error::unsupported(format!(
                "LUKS2: {} segments, header number {}: only a volume of one encrypted segment is read",
                self.json.segments.len(),
                self.seqid
            ))),
        }
    }

    pub(super) fn spec(&self) -> &str {
        self.json.segments.values().find_map(|segment| segment.encryption.as_deref()).unwrap_or("")
    }

    /// Where the encrypted bytes lie.
    pub(super) fn volume(&self) -> Result<Volume> {
        let (_, segment, spec) = self.segment()?;
        let sector = segment.sector_size.unwrap_or(512);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(Error::corrupt(format!("LUKS2 JSON: sectors of {sector} bytes")));
        }
        let len =
            if segment.size == "dynamic" { None } else { Some(number(&segment.size, "a segment's size")?) };
        Ok(Volume {
            start: number(&segment.offset, "a segment's offset")?,
            len,
            sector: usize::try_from(sector).unwrap_or(512),
            tweak: segment.iv_tweak.as_deref().map_or(Ok(0), |tweak| number(tweak, "iv_tweak"))?,
            spec: spec.to_owned(),
        })
    }

    /// The volume's key, if one of `keys` opens one of the slots. A slot that cannot be tried is no reason not to try the next.
    pub(super) fn unlock(
        &self,
        source: &dyn BlockSource,
        keys: &[Key],
        effort: &Effort,
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let (segment, ..) = self.segment()?;
        let digest = self.json.digests.values().find(|d| d.segments.iter().any(|s| s == segment));
        let digest = digest.ok_or_else(|| Error::corrupt("LUKS2 JSON: no digest for the segment"))?;
        if digest.r#type != "pbkdf2" {
            return Err(Error::unsupported(format!("LUKS2: digests of type {:?}", digest.r#type)));
        }
        let mut refused = None;
        for name in &digest.keyslots {
            let Some(slot) = self.json.keyslots.get(name) else { continue };
            for key in keys {
                effort.check()?;
                match try_slot(source, slot, digest, key) {
                    Ok(None) => {}
                    Ok(Some(master)) => return Ok(Some(master)),
                    Err(error) => {
                        refused.get_or_insert(error);
                    }
                }
            }
        }
        refused.map_or(Ok(None), Err)
    }
}

fn try_slot(
    source: &dyn BlockSource,
    slot: &Slot,
    digest: &Digest,
    key: &Key,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let lacks = |what: &str| Error::corrupt(format!("LUKS2 JSON: a key slot without {what}"));
    if slot.r#type != "luks2" || slot.area.r#type != "raw" {
        return Ok(None);
    }
    let splitter = slot.af.as_ref().ok_or_else(|| lacks("a splitter"))?;
    let kdf = slot.kdf.as_ref().ok_or_else(|| lacks("a key derivation"))?;
    let spec = slot.area.encryption.as_deref().ok_or_else(|| lacks("a cipher"))?;
    let area_key = slot.area.key_size.unwrap_or(slot.key_size);
    if slot.key_size == 0 || slot.key_size > KEY_MAX || area_key == 0 || area_key > KEY_MAX {
        return Err(Error::corrupt(format!("LUKS2 JSON: a key of {} bytes", slot.key_size)));
    }
    let len = split::material(slot.key_size, splitter.stripes)?;
    let (offset, size) =
        (number(&slot.area.offset, "an area's offset")?, number(&slot.area.size, "an area's size")?);
    if len as u64 > size {
        return Err(Error::corrupt(format!("LUKS2 JSON: key material of {len} bytes in an area of {size}")));
    }
    let hash = Hash::by_name(&splitter.hash)?;
    let derived = derive(kdf, key, area_key)?;
    let mut stripes = Zeroizing::new(read_vec(source, offset, len.next_multiple_of(512))?);
    cipher::new(spec, &derived)?.decrypt(0, 512, &mut stripes);
    stripes.truncate(len);
    let master = split::merge(hash, &stripes, slot.key_size);
    let wanted = bytes(&digest.digest, "a digest")?;
    let salt = bytes(&digest.salt, "a salt")?;
    let found = Hash::by_name(&digest.hash)?.pbkdf2(&master, &salt, digest.iterations, wanted.len())?;
    Ok((!wanted.is_empty() && **found == wanted).then_some(master))
}

fn derive(kdf: &Kdf, key: &Key, len: usize) -> Result<Zeroizing<Vec<u8>>> {
    let lacks = |what: &str| Error::corrupt(format!("LUKS2 JSON: a key derivation without {what}"));
    let salt = bytes(&kdf.salt, "a salt")?;
    match &*kdf.r#type {
        "pbkdf2" => {
            let hash = Hash::by_name(kdf.hash.as_deref().ok_or_else(|| lacks("a hash"))?)?;
            hash.pbkdf2(key.bytes(), &salt, kdf.iterations.ok_or_else(|| lacks("iterations"))?, len)
        }
        kind @ ("argon2i" | "argon2id") => {
            let cost = Cost {
                hybrid: kind == "argon2id",
                time: kdf.time.ok_or_else(|| lacks("time"))?,
                memory: kdf.memory.ok_or_else(|| lacks("memory"))?,
                lanes: kdf.cpus.ok_or_else(|| lacks("cpus"))?,
            };
            argon2(key.bytes(), &salt, &cost, len)
        }
        kind => Err(Error::unsupported(format!("LUKS2: key derivation by {kind:?}"))),
    }
}
