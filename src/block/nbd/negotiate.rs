//! The client's side of fixed newstyle negotiation.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::wire::{self, Incoming, be16, be32, be64, flag, info, opt, put, rep};
use crate::error::{Error, Kind, Result};

/// What the server promised about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Smallest request and alignment of all requests, in bytes; a power of two up to 64 KiB.
    pub min_block: u32,
    /// Largest request in bytes; at least `min_block`.
    pub max_block: u32,
    /// Whether replies are structured.
    pub structured: bool,
    /// The number of the context `base:allocation`, where the server has it.
    pub allocation: Option<u32>,
}

/// One export of a server's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name; empty for the default export.
    pub name: String,
    /// What the server says about it.
    pub description: String,
}

/// Replies to one option beyond which a server is taken for one that never ends.
const REPLIES_MAX: usize = 4096;
/// Bytes of one reply to an option: two strings of the specification's limit and their frame.
const REPLY_MAX: u32 = 2 * 4096 + 16;
/// The largest minimum block size that the specification allows, in bytes.
const MIN_BLOCK_MAX: u32 = 64 << 10;
/// Old servers begin with this after `NBDMAGIC` (`cliserv_magic`).
const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;

/// A negotiation under way.
pub struct Negotiation<'a> {
    name: &'a str,
    stream: &'a UnixStream,
    incoming: Incoming<UnixStream>,
    until: Instant,
}

impl<'a> Negotiation<'a> {
    /// Exchanges the greetings. `name` is what errors call the server; all must be done by `until`.
    pub fn begin(name: &'a str, stream: &'a UnixStream, until: Instant) -> Result<Self> {
        let reader = stream.try_clone().map_err(|error| broken(name, "cannot share the socket", error))?;
        let mut this = Self { name, stream, incoming: Incoming::new(reader), until };
        let greeting: [u8; 16] = this.read("the greeting")?;
        let (magic, version) = (be64(&greeting, 0), be64(&greeting, 8));
        if magic != wire::NBDMAGIC {
            return Err(Error::corrupt(format!("{name}: not an NBD server: magic {magic:#018x}")));
        }
        if version == OLDSTYLE_MAGIC {
            return Err(Error::unsupported(format!(
                "{name}: the server speaks the oldstyle NBD protocol only"
            )));
        }
        if version != wire::IHAVEOPT {
            return Err(Error::corrupt(format!("{name}: NBD version magic {version:#018x}")));
        }
        let flags = be16(&this.read::<2>("the handshake flags")?, 0);
        if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
            return Err(Error::unsupported(format!("{name}: the server lacks fixed newstyle negotiation")));
        }
        let ours = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        this.write(&u32::from(ours).to_be_bytes())?;
        Ok(this)
    }

    /// The server's exports.
    pub fn list(&mut self) -> Result<Vec<Listed>> {
        self.option(opt::LIST, &[])?;
        let mut exports = Vec::new();
        for _ in 0..REPLIES_MAX {
            let (kind, data) = self.reply(opt::LIST)?;
            match kind {
                rep::ACK => return Ok(exports),
                rep::SERVER => {
                    let len = usize::try_from(be32(&data, 0)).unwrap_or(usize::MAX);
                    let rest = data.get(4..).unwrap_or_default();
                    let (name, description) = rest
                        .split_at_checked(len)
                        .ok_or_else(|| self.breach("a listed name past its reply"))?;
                    exports.push(Listed { name: words(name), description: words(description) });
                }
                _ => return Err(self.refusal(kind, &data, "will not list its exports")),
            }
        }
        Err(self.breach("a list of exports without an end"))
    }

    /// Ends a negotiation that only listed. The server's answer is not waited for.
    pub fn abort(mut self) {
        let _ = self.option(opt::ABORT, &[]);
    }

    /// Chooses `export`; from here on the connection carries requests. Gives the reading half with it.
    pub fn go(mut self, export: &str) -> Result<(Terms, Incoming<UnixStream>)> {
        if export.len() > wire::STRING_MAX {
            return Err(Error::usage(format!("{}: an export name of {} bytes", self.name, export.len())));
        }
        self.option(opt::STRUCTURED_REPLY, &[])?;
        let (kind, data) = self.reply(opt::STRUCTURED_REPLY)?;
        let structured = match kind {
            rep::ACK => true,
            rep::ERR_TLS_REQD => return Err(self.refusal(kind, &data, "refuses")),
            kind if kind & rep::ERROR != 0 => false,
            _ => return Err(self.breach("an answer to NBD_OPT_STRUCTURED_REPLY that is none")),
        };
        let allocation = if structured { self.context(export)? } else { None };
        let mut terms = Terms {
            size: 0,
            flags: 0,
            min_block: 1,
            max_block: wire::REQUEST_DEFAULT_MAX,
            structured,
            allocation,
        };
        let mut wanted = name_field(export);
        wanted.extend_from_slice(&1_u16.to_be_bytes());
        wanted.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        self.option(opt::GO, &wanted)?;
        let mut sized = false;
        for _ in 0..REPLIES_MAX {
            let (kind, data) = self.reply(opt::GO)?;
            match kind {
                rep::ACK if sized => return Ok((terms, self.incoming)),
                rep::ACK => return Err(self.breach("an export without its size")),
                rep::INFO => match (be16(&data, 0), data.len()) {
                    (info::EXPORT, 12) => {
                        (terms.size, terms.flags) = (be64(&data, 2), be16(&data, 10));
                        sized = true;
                    }
                    (info::BLOCK_SIZE, 14) => self.block_size(&data, &mut terms)?,
                    (info::EXPORT | info::BLOCK_SIZE, _) => {
                        return Err(self.breach("a piece of information of the wrong size"));
                    }
                    _ => {}
                },
                _ => return Err(self.refusal(kind, &data, &format!("refuses export {export:?}"))),
            }
            if i64::try_from(terms.size).is_err() {
                return Err(self.breach("an export of more than 2^63 bytes"));
            }
            if terms.flags & flag::HAS_FLAGS == 0 && sized {
                return Err(self.breach("transmission flags without NBD_FLAG_HAS_FLAGS"));
            }
        }
        Err(self.breach("information without an end"))
    }

    /// Asks for `base:allocation`; a server without it says so in one of several ways.
    fn context(&mut self, export: &str) -> Result<Option<u32>> {
        let mut wanted = name_field(export);
        wanted.extend_from_slice(&1_u32.to_be_bytes());
        wanted.extend_from_slice(&name_field(wire::BASE_ALLOCATION));
        self.option(opt::SET_META_CONTEXT, &wanted)?;
        let mut id = None;
        for _ in 0..REPLIES_MAX {
            let (kind, data) = self.reply(opt::SET_META_CONTEXT)?;
            match kind {
                rep::ACK => return Ok(id),
                rep::META_CONTEXT if data.get(4..) == Some(wire::BASE_ALLOCATION.as_bytes()) => {
                    id = Some(be32(&data, 0));
                }
                rep::META_CONTEXT => {}
                kind if kind & rep::ERROR != 0 => return Ok(None),
                _ => return Err(self.breach("an answer to NBD_OPT_SET_META_CONTEXT that is none")),
            }
        }
        Err(self.breach("metadata contexts without an end"))
    }

    fn block_size(&self, data: &[u8], terms: &mut Terms) -> Result<()> {
        let (min, preferred, max) = (be32(data, 2), be32(data, 6), be32(data, 10));
        let sound = min.is_power_of_two() && min <= MIN_BLOCK_MAX && preferred >= min && max >= min;
        if !sound {
            let what = format!("block sizes {min}, {preferred}, {max}");
            return Err(self.breach(&what));
        }
        (terms.min_block, terms.max_block) = (min, max);
        Ok(())
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let mut out = vec![0; 16];
        put(&mut out, 0, &wire::IHAVEOPT.to_be_bytes());
        put(&mut out, 8, &option.to_be_bytes());
        put(&mut out, 12, &u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(data);
        self.write(&out)
    }

    fn reply(&mut self, option: u32) -> Result<(u32, Vec<u8>)> {
        let head: [u8; 20] = self.read("a reply to an option")?;
        let (magic, to, kind, len) = (be64(&head, 0), be32(&head, 8), be32(&head, 12), be32(&head, 16));
        if magic != wire::REPLY_MAGIC || to != option {
            return Err(self.breach("a reply to an option that was not asked"));
        }
        if len > REPLY_MAX {
            return Err(self.breach("a reply to an option longer than any may be"));
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        self.incoming
            .fill(&mut data, Some(self.until))
            .map_err(|error| self.lost("a reply's data", error))?;
        Ok((kind, data))
    }

    fn read<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.incoming.array(Some(self.until)).map_err(|error| self.lost(what, error))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        (&*self.stream).write_all(bytes).map_err(|error| broken(self.name, "cannot send", error))
    }

    fn lost(&self, what: &str, error: io::Error) -> Error {
        broken(self.name, &format!("no {what}"), error)
    }

    fn breach(&self, what: &str) -> Error {
        Error::corrupt(format!("{}: the NBD server sent {what}", self.name))
    }

    fn refusal(&self, kind: u32, data: &[u8], what: &str) -> Error {
        let (sort, why) = match kind {
            rep::ERR_UNKNOWN => (Kind::NotFound, "no such export"),
            rep::ERR_POLICY => (Kind::Refused, "its policy"),
            rep::ERR_TLS_REQD => (Kind::Unsupported, "it wants TLS"),
            rep::ERR_UNSUP => (Kind::Unsupported, "it does not know the option"),
            kind if kind & rep::ERROR != 0 => (Kind::Io, "an error"),
            _ => return self.breach("an answer of an unknown type"),
        };
        let said = words(data);
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        Error::new(sort, format!("{}: the NBD server {what}: {why}{said}", self.name))
    }
}

/// A failure of the transport.
pub fn broken(name: &str, what: &str, error: io::Error) -> Error {
    let error = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time")
        }
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
        }
        _ => error,
    };
    Error::io(format!("{name}: {what}"), error)
}

/// Text of the server, cut to a sensible length.
pub fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..wire::STRING_MAX).unwrap_or(bytes)).into_owned()
}

/// A string with its length before it.
fn name_field(text: &str) -> Vec<u8> {
    let mut out = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}
