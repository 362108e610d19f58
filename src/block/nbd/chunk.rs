//! Replies as they come over the wire: heads, errors, and which bytes of a request were answered.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Instant;

use super::negotiate::words;
use super::wire::{self, Incoming, be16, be32, be64, chunk_type};

/// Why a reply cannot be read: the transport failed, or the server broke the protocol's rules.
#[derive(Debug)]
pub enum Broken {
    /// The transport.
    Transport(io::Error),
    /// The rule, as the end of the sentence `the NBD server sent …`.
    Breach(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Transport(error)
    }
}

/// The start of a simple reply or of one chunk of a structured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which request it answers.
    pub cookie: u64,
    /// Whether nothing more of this reply follows after its payload.
    pub done: bool,
    /// What it is.
    pub body: Body,
}

/// The sort of reply, its payload's head read already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A simple reply; data follow for a read without an error.
    Simple {
        /// The error number, 0 for none.
        error: u32,
    },
    /// The end and nothing else.
    Nothing,
    /// Data follow.
    Data {
        /// Where, from the start of the export.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Zeros; nothing follows.
    Hole {
        /// Where, from the start of the export.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Extents follow.
    Status {
        /// The number of the context.
        context: u32,
        /// How many extents of eight bytes.
        count: u32,
    },
    /// An error follows, in `len` bytes.
    Error {
        /// The chunk's type.
        kind: u16,
        /// The length of the payload.
        len: u32,
    },
}

/// An error of the server about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number on the wire.
    pub errno: u32,
    /// What the server says, in its own words.
    pub message: String,
    /// Where from the start of the export, if it says so.
    pub at: Option<u64>,
}

/// Reads the head of the next reply or chunk.
pub fn head<R: Read>(incoming: &mut Incoming<R>, until: Option<Instant>) -> Result<Head, Broken> {
    let raw: [u8; 16] = incoming.array(until)?;
    let magic = be32(&raw, 0);
    let cookie = be64(&raw, 8);
    if magic == wire::SIMPLE_REPLY_MAGIC {
        return Ok(Head { cookie, done: true, body: Body::Simple { error: be32(&raw, 4) } });
    }
    if magic != wire::STRUCTURED_REPLY_MAGIC {
        return Err(Broken::Breach("a reply with the wrong magic"));
    }
    let (flags, kind) = (be16(&raw, 4), be16(&raw, 6));
    let done = flags & chunk_type::FLAG_DONE != 0;
    let len = be32(&incoming.array::<4>(until)?, 0);
    let body = match kind {
        chunk_type::NONE if len == 0 && done => Body::Nothing,
        chunk_type::NONE => return Err(Broken::Breach("an empty chunk that is not empty, or not the last")),
        chunk_type::OFFSET_DATA if len > 8 => {
            let offset = be64(&incoming.array::<8>(until)?, 0);
            Body::Data { offset, len: len.saturating_sub(8) }
        }
        chunk_type::OFFSET_HOLE if len == 12 => {
            let raw: [u8; 12] = incoming.array(until)?;
            Body::Hole { offset: be64(&raw, 0), len: be32(&raw, 8) }
        }
        chunk_type::BLOCK_STATUS if len >= 12 && len.wrapping_sub(4).is_multiple_of(8) => {
            let context = be32(&incoming.array::<4>(until)?, 0);
            Body::Status { context, count: len.saturating_sub(4).checked_div(8).unwrap_or(0) }
        }
        chunk_type::OFFSET_DATA | chunk_type::OFFSET_HOLE | chunk_type::BLOCK_STATUS => {
            return Err(Broken::Breach("a chunk whose length does not fit its type"));
        }
        kind if kind & chunk_type::ERROR_BIT != 0 => Body::Error { kind, len },
        _ => return Err(Broken::Breach("a chunk of an unknown type")),
    };
    Ok(Head { cookie, done, body })
}

/// Reads the payload of an error chunk: number, message and, for `NBD_REPLY_TYPE_ERROR_OFFSET`, the place.
pub fn fault<R: Read>(
    incoming: &mut Incoming<R>,
    kind: u16,
    len: u32,
    until: Option<Instant>,
) -> Result<Fault, Broken> {
    const LONGEST: usize = 6 + wire::STRING_MAX + 8;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if !(6..=LONGEST).contains(&len) {
        return Err(Broken::Breach("an error whose length breaks the rules"));
    }
    let mut raw = vec![0; len];
    incoming.fill(&mut raw, until)?;
    let said = usize::from(be16(&raw, 4));
    let (message, rest) = raw
        .get(6..)
        .and_then(|rest| rest.split_at_checked(said))
        .ok_or(Broken::Breach("an error's message past its chunk"))?;
    let at = (kind == chunk_type::ERROR_OFFSET && rest.len() == 8).then(|| be64(rest, 0));
    let errno = be32(&raw, 0);
    if errno == 0 {
        return Err(Broken::Breach("an error with the number 0"));
    }
    Ok(Fault { errno, message: words(message), at })
}

/// Which bytes of a request were answered so far, counted from its start.
#[derive(Debug, Default)]
pub struct Coverage {
    parts: Vec<Range<u32>>,
}

/// Separate parts beyond which a reply is taken for one made to cost. A piece has at most 512 sectors.
const PARTS_MAX: usize = 1024;

impl Coverage {
    /// Takes `range` as answered; answered twice is against the rules.
    pub fn add(&mut self, range: Range<u32>) -> Result<(), Broken> {
        let place = self.parts.partition_point(|part| part.start < range.start);
        let before = place.checked_sub(1).and_then(|i| self.parts.get(i)).map_or(0, |part| part.end);
        let after = self.parts.get(place).map_or(u32::MAX, |part| part.start);
        if range.is_empty() || range.start < before || range.end > after {
            return Err(Broken::Breach("the same bytes twice in one reply"));
        }
        let joins_before = place > 0 && before == range.start;
        match (joins_before, after == range.end) {
            (true, joins_after) => {
                let end = if joins_after { self.parts.remove(place).end } else { range.end };
                if let Some(part) = self.parts.get_mut(place.saturating_sub(1)) {
                    part.end = end;
                }
            }
            (false, true) if place < self.parts.len() => {
                if let Some(part) = self.parts.get_mut(place) {
                    part.start = range.start;
                }
            }
            _ if self.parts.len() < PARTS_MAX => self.parts.insert(place, range),
            _ => return Err(Broken::Breach("a reply in too many parts")),
        }
        Ok(())
    }

    /// Whether all of `0..len` was answered.
    pub fn is_whole(&self, len: u32) -> bool {
        matches!(self.parts.as_slice(), [part] if *part == (0..len)) || len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_joins_parts_in_any_order_and_refuses_overlaps() {
        let mut coverage = Coverage::default();
        for range in [100..200, 0..50, 300..400, 50..100] {
            coverage.add(range).unwrap();
        }
        for twice in [0..1, 199..201, 250..301, 350..360, 0..400, 399..500] {
            assert!(coverage.add(twice.clone()).is_err(), "{twice:?}");
        }
        assert!(!coverage.is_whole(400));
        coverage.add(200..300).unwrap();
        assert!(coverage.is_whole(400));
        assert_eq!(coverage.parts.len(), 1);
    }

    #[test]
    fn coverage_is_bounded() {
        let mut coverage = Coverage::default();
        let refused = (0..5000_u32).map(|i| coverage.add(i * 2..i * 2 + 1)).filter(Result::is_err).count();
        assert_eq!(refused, 5000 - PARTS_MAX);
    }

    #[test]
    fn heads_and_errors_are_read_and_checked() {
        let chunk = |kind: u16, done: u16, len: u32, payload: &[u8]| {
            let mut raw = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
            raw.extend(done.to_be_bytes());
            raw.extend(kind.to_be_bytes());
            raw.extend(7_u64.to_be_bytes());
            raw.extend(len.to_be_bytes());
            raw.extend(payload);
            raw
        };
        let read = |raw: &[u8]| head(&mut Incoming::new(raw), None);
        let hole = [&0x1000_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
        assert_eq!(
            read(&chunk(chunk_type::OFFSET_HOLE, 1, 12, &hole)).unwrap(),
            Head { cookie: 7, done: true, body: Body::Hole { offset: 0x1000, len: 512 } }
        );
        assert!(read(&chunk(chunk_type::OFFSET_HOLE, 1, 13, &hole)).is_err());
        assert!(read(&chunk(chunk_type::NONE, 0, 0, &[])).is_err());
        assert!(read(&chunk(chunk_type::OFFSET_DATA, 0, 8, &[0; 8])).is_err());
        assert!(read(&chunk(99, 0, 0, &[])).is_err());
        let said =
            [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"bad", &0x2000_u64.to_be_bytes()].concat();
        let got = |raw: &[u8]| {
            let len = u32::try_from(raw.len()).unwrap();
            fault(&mut Incoming::new(raw), chunk_type::ERROR_OFFSET, len, None)
        };
        assert_eq!(got(&said).unwrap(), Fault { errno: 5, message: "bad".into(), at: Some(0x2000) });
        assert!(got(&said[..7]).is_err());
    }
}
