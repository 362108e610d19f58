//! ISO 9660 (ECMA-119) and UDF (ECMA-167, OSTA UDF 2.60).

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[
    Row { kind: "udf", usage: Usage::Filesystem, magics: &[], parse: udf },
    Row {
        kind: "iso9660",
        usage: Usage::Filesystem,
        magics: &[(0x8001, b"CD001"), (0x8009, b"CDROM")],
        parse: iso9660,
    },
];

/// The first volume descriptor, and how far each is from the next, in bytes.
const DESCRIPTORS: u64 = 0x8000;
const DESCRIPTOR: u64 = 2048;
/// Volume descriptors looked at.
const DESCRIPTORS_MAX: u64 = 16;

fn iso9660(probe: &Probe<'_>, place: usize) -> Option<Content> {
    if place == 1 {
        // High Sierra, from before the standard.
        let label = text::label(&probe.bytes(DESCRIPTORS + 48, 32)?);
        return Some(Content { label, version: Some("High Sierra".to_owned()), ..Content::default() });
    }
    let (mut primary, mut joliet) = (None, None);
    for n in 0..DESCRIPTORS_MAX {
        let at = DESCRIPTORS.checked_add(n.checked_mul(DESCRIPTOR)?)?;
        let Some(data) = probe.bytes(at, 2048) else { break };
        let d = view(&data);
        match d.u8(0, "Volume Descriptor Type").ok()? {
            _ if d.slice(1, 5, "Standard Identifier").ok()? != b"CD001" => break,
            1 if primary.is_none() => primary = Some(data),
            2 if joliet.is_none()
                && matches!(d.slice(88, 3, "Escape Sequences").ok()?, b"%/@" | b"%/C" | b"%/E") =>
            {
                joliet = Some(data);
            }
            255 => break,
            _ => {}
        }
    }
    let primary = primary?;
    let p = view(&primary);
    let name = p.slice(40, 32, "Volume Identifier").ok()?;
    let label = match &joliet {
        Some(joliet) => joliet_label(view(joliet).slice(40, 32, "Volume Identifier").ok()?, name),
        None => text::label(name),
    };
    let modified = p.slice(830, 17, "Volume Modification Date and Time").ok()?;
    let created = p.slice(813, 17, "Volume Creation Date and Time").ok()?;
    Some(Content {
        label,
        uuid: date(modified).or_else(|| date(created)),
        version: joliet.map(|_| "Joliet Extension".to_owned()),
        ..Content::default()
    })
}

/// Joliet's label has 16 characters, the primary one 32 poorer ones: where the second continues the first, both together.
fn joliet_label(raw: &[u8], plain: &[u8]) -> Option<String> {
    let wide = text::utf16_be(raw);
    let (head, tail) = plain.split_at_checked(16)?;
    let same = wide.encode_utf16().count() == 16
        && wide.chars().zip(head).all(|(c, b)| {
            *b == b'_' || c.is_ascii() && u8::try_from(c).is_ok_and(|c| c.eq_ignore_ascii_case(b))
        });
    match text::label(tail).filter(|_| same) {
        Some(tail) => Some(format!("{wide}{tail}")),
        None => text::trimmed(&wide),
    }
}

/// A date of 16 digits as blkid prints it; none where it was never set.
fn date(raw: &[u8]) -> Option<String> {
    let digits = std::str::from_utf8(raw.get(..16)?).ok()?;
    let set = digits.bytes().all(|b| b.is_ascii_digit()) && digits.bytes().any(|b| b != b'0');
    set.then_some(())?;
    let mut out = String::with_capacity(22);
    for (i, c) in digits.chars().enumerate() {
        if i >= 4 && i.is_multiple_of(2) {
            out.push('-');
        }
        out.push(c);
    }
    Some(out)
}

/// Sectors of the volume recognition area that are looked through.
const RECOGNITION: u64 = 64;

fn udf(probe: &Probe<'_>, _: usize) -> Option<Content> {
    let recognised = [2048u64, 4096].into_iter().any(|step| {
        (0..RECOGNITION)
            .map_while(|n| probe.array::<6>(DESCRIPTORS.checked_add(n.checked_mul(step)?)?))
            .take_while(|[_, id @ ..]| {
                matches!(id, b"BEA01" | b"BOOT2" | b"CD001" | b"CDW02" | b"NSR02" | b"NSR03" | b"TEA01")
            })
            .any(|[_, id @ ..]| matches!(&id, b"NSR02" | b"NSR03"))
    });
    recognised.then_some(())?;
    // The names are in a descriptor sequence that an anchor at sector 256 points to, whatever size sectors have.
    let sector = [2048u64, 512, 4096, 1024].into_iter().find(|size| tag(probe, *size, 256) == Some(2));
    Some(sector.and_then(|size| names(probe, size)).unwrap_or_default())
}

/// The identifier of the descriptor in `sector`, if one is there that says so.
fn tag(probe: &Probe<'_>, size: u64, sector: u64) -> Option<u16> {
    let at = sector.checked_mul(size)?;
    (u64::from(probe.le32(at.checked_add(12)?)?) == sector).then_some(())?;
    probe.le16(at)
}

/// Label and UUID from the main volume descriptor sequence.
fn names(probe: &Probe<'_>, size: u64) -> Option<Content> {
    let anchor = size.checked_mul(256)?;
    let count = u64::from(probe.le32(anchor.checked_add(16)?)?).checked_div(size)?.min(64);
    let first = u64::from(probe.le32(anchor.checked_add(20)?)?);
    let mut content = Content::default();
    let mut label = None;
    for sector in first..first.checked_add(count)? {
        let at = sector.checked_mul(size)?;
        match tag(probe, size, sector) {
            Some(1) => {
                label = label.or_else(|| dstring(&probe.bytes(at.checked_add(24)?, 32)?));
                content.uuid = content.uuid.or_else(|| set_id(&probe.bytes(at.checked_add(72)?, 128)?));
            }
            Some(6) => {
                content.label = content.label.or_else(|| dstring(&probe.bytes(at.checked_add(84)?, 128)?));
            }
            Some(8) | None => break,
            Some(_) => {}
        }
    }
    content.label = content.label.or(label);
    Some(content)
}

/// A string of OSTA compressed Unicode with its length in the last byte.
fn dstring(raw: &[u8]) -> Option<String> {
    let len = usize::from(*raw.last()?);
    let [kind, text @ ..] = raw.get(..len)? else { return None };
    let text = match kind {
        8 => text.iter().map(|b| char::from(*b)).take_while(|c| *c != '\0').collect(),
        16 => text::utf16_be(text),
        _ => return None,
    };
    text::trimmed(&text)
}

/// The UUID that blkid makes of the volume set identifier: 16 hexadecimal digits, or as many as there are and then the
/// characters' own codes.
fn set_id(raw: &[u8]) -> Option<String> {
    let text = dstring(raw)?;
    (text.len() >= 8).then_some(())?;
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    let digits = bytes.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let lower = |n: usize| Some(std::str::from_utf8(bytes.get(..n)?).ok()?.to_ascii_lowercase());
    match digits {
        16.. => lower(16),
        8.. => Some(lower(8)? + &text::hex(bytes.get(8..12)?)),
        _ => Some(text::hex(bytes.get(..8)?)),
    }
}
