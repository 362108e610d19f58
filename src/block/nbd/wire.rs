//! Numbers and framing of the protocol, for both sides. All integers are big-endian.

use std::io::{self, Read};
use std::time::Instant;

/// First eight bytes that a server sends (`NBDMAGIC`).
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// The magic of newstyle negotiation and of every option (`IHAVEOPT`).
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// The magic of a reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The magic of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The magic of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag of both sides: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag of both sides: no 124 zeros after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Options that a client may send.
pub mod opt {
    /// Choose an export; ends the negotiation, without an answer that could be an error.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and begin the transmission.
    pub const GO: u32 = 7;
    /// Structured replies from now on.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List the metadata contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit that makes a reply an error.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// The server does not want to.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// The option's data break its rules.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The option's data are too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Types of information about an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest size of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod flag {
    /// The flags field is valid.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLAG_DF` is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see the same bytes.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Requests.
pub mod cmd {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; its data follow the header.
    pub const WRITE: u16 = 1;
    /// End the session.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Discard.
    pub const TRIM: u16 = 4;
    /// Write zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Tell the metadata of a range.
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag: the reply to a read is one chunk.
    pub const FLAG_DF: u16 = 1 << 2;
    /// Flag: one extent is enough.
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies.
pub mod chunk_type {
    /// Nothing; ends a reply.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// The bit that makes a chunk an error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
    /// Chunk flag: the last one of its reply.
    pub const FLAG_DONE: u16 = 1 << 0;
}

/// Error numbers on the wire.
pub mod errno {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// Input or output failed.
    pub const EIO: u32 = 5;
    /// A field breaks the rules.
    pub const EINVAL: u32 = 22;
    /// Too much asked for.
    pub const EOVERFLOW: u32 = 75;
    /// The server is going away.
    pub const ESHUTDOWN: u32 = 108;
}

/// The metadata context of allocation.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Extent flag of `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Extent flag of `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;

/// The longest export name, context name or message (`NBD_MAX_STRING` of the specification), in bytes.
pub const STRING_MAX: usize = 4096;
/// The largest read or write where the server names no limit, in bytes.
pub const REQUEST_DEFAULT_MAX: u32 = 32 << 20;

/// A request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// The command.
    pub command: u16,
    /// The client's mark; replies carry it.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// The size of the header in bytes.
    pub const SIZE: usize = 28;

    /// As it goes over the wire.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &REQUEST_MAGIC.to_be_bytes());
        put(&mut out, 4, &self.flags.to_be_bytes());
        put(&mut out, 6, &self.command.to_be_bytes());
        put(&mut out, 8, &self.cookie.to_be_bytes());
        put(&mut out, 16, &self.offset.to_be_bytes());
        put(&mut out, 24, &self.length.to_be_bytes());
        out
    }

    /// From the wire; none where the magic is wrong.
    pub fn decode(raw: &[u8; Self::SIZE]) -> Option<Self> {
        (be32(raw, 0) == REQUEST_MAGIC).then(|| Self {
            flags: be16(raw, 4),
            command: be16(raw, 6),
            cookie: be64(raw, 8),
            offset: be64(raw, 16),
            length: be32(raw, 24),
        })
    }
}

/// Copies all of `bytes` to `at`, or nothing where it does not fit.
pub fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = at.checked_add(bytes.len()).and_then(|end| out.get_mut(at..end)) {
        place.copy_from_slice(bytes);
    }
}

/// 16 bits at `at`; 0 where they are not all there.
pub fn be16(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(raw, at))
}

/// 32 bits at `at`; 0 where they are not all there.
pub fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(raw, at))
}

/// 64 bits at `at`; 0 where they are not all there.
pub fn be64(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(raw, at))
}

fn array<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// The reading half of a connection: headers through a small buffer, data straight into their place.
pub struct Incoming<R> {
    stream: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Bytes of the buffer; what is read in larger pieces bypasses it.
const BUFFER: usize = 4096;

impl<R: Read> Incoming<R> {
    /// Reads from `stream`, whose read timeout bounds each wait.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into(), start: 0, end: 0 }
    }

    /// Fills `out`. `TimedOut` once `until` has passed or the stream's own timeout strikes; `UnexpectedEof` at the end.
    pub fn fill(&mut self, mut out: &mut [u8], until: Option<Instant>) -> io::Result<()> {
        while !out.is_empty() {
            let have = self.buffer.get(self.start..self.end).unwrap_or_default();
            if have.is_empty() {
                if out.len() >= BUFFER {
                    let n = wait(&mut self.stream, out, until)?;
                    out = out.get_mut(n..).unwrap_or_default();
                } else {
                    (self.start, self.end) = (0, 0);
                    self.end = wait(&mut self.stream, &mut self.buffer, until)?;
                }
                continue;
            }
            let take = have.len().min(out.len());
            let (now, later) = out.split_at_mut(take);
            now.copy_from_slice(have.get(..take).unwrap_or_default());
            self.start = self.start.saturating_add(take);
            out = later;
        }
        Ok(())
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self, until: Option<Instant>) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out, until)?;
        Ok(out)
    }

    /// Reads `len` bytes and forgets them.
    pub fn skip(&mut self, mut len: u64, until: Option<Instant>) -> io::Result<()> {
        let mut sink = [0; 512];
        while len > 0 {
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(sink.len());
            self.fill(sink.get_mut(..take).unwrap_or_default(), until)?;
            len = len.saturating_sub(take as u64);
        }
        Ok(())
    }
}

/// One read that gives at least a byte.
fn wait(stream: &mut impl Read, out: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
    loop {
        let got = stream.read(out);
        if until.is_some_and(|until| Instant::now() > until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match got {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => return Ok(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_specification_draws() {
        let request = Request { flags: 0, command: cmd::READ, cookie: 0x0102, offset: 0x1000, length: 512 };
        let raw = request.encode();
        assert_eq!(raw[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0]);
        assert_eq!(Request::decode(&raw), Some(request));
        assert_eq!(Request::decode(&[0; Request::SIZE]), None);
    }

    #[test]
    fn fills_from_many_short_reads_and_fails_at_the_end() {
        struct Drip(u8);
        impl Read for Drip {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.saturating_add(1);
                let n = usize::from(self.0 < 30).min(buf.len());
                buf[..n].fill(self.0);
                Ok(n)
            }
        }
        let mut incoming = Incoming::new(Drip(0));
        assert_eq!(incoming.array::<3>(None).unwrap(), [1, 2, 3]);
        incoming.skip(2, None).unwrap();
        assert_eq!(incoming.array::<1>(None).unwrap(), [6]);
        assert_eq!(incoming.skip(100, None).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
