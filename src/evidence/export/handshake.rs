//! The server's side of the negotiation.

use std::io::{self, Read, Write};

use crate::block::nbd::wire::{self, Incoming, be16, be32, be64, flag, info, opt, rep};

use super::{Export, Shared};

/// Options of one client beyond which it is not serious.
const OPTIONS_MAX: usize = 1000;
/// The longest data of an option: two names of the specification's limit and their frames.
const OPTION_DATA_MAX: u32 = 16 << 10;
/// Longer data than these are not even skipped.
const OPTION_DATA_SKIPPED: u32 = 1 << 20;
/// The number by which we call `base:allocation`.
pub const CONTEXT: u32 = 1;
/// The size that clients do well to ask for, in bytes: a usual qcow2 cluster.
const PREFERRED: u32 = 64 << 10;

/// What was agreed on.
pub struct Agreed<'a> {
    pub export: &'a Export,
    pub structured: bool,
    /// Whether block status may be asked for.
    pub allocation: bool,
}

struct Negotiation<'s, 'i, 'a, R, W> {
    shared: &'s Shared<'a>,
    incoming: &'i mut Incoming<R>,
    out: W,
    structured: bool,
    /// The name for which `base:allocation` was chosen.
    allocation: Option<Vec<u8>>,
}

/// Negotiates until the client has chosen an export; none if it leaves without, or breaks the rules.
pub fn negotiate<'s, R: Read, W: Write>(
    shared: &'s Shared<'_>,
    incoming: &mut Incoming<R>,
    mut out: W,
) -> io::Result<Option<Agreed<'s>>> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(wire::NBDMAGIC.to_be_bytes());
    greeting.extend(wire::IHAVEOPT.to_be_bytes());
    greeting.extend((wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
    out.write_all(&greeting)?;
    let theirs = be32(&incoming.array::<4>(None)?, 0);
    let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    if theirs & !known != 0 || theirs & u32::from(wire::FLAG_FIXED_NEWSTYLE) == 0 {
        return Ok(None);
    }
    let zeroes = theirs & u32::from(wire::FLAG_NO_ZEROES) == 0;
    let mut this = Negotiation { shared, incoming, out, structured: false, allocation: None };
    for _ in 0..OPTIONS_MAX {
        let head: [u8; 16] = this.incoming.array(None)?;
        let (magic, option, len) = (be64(&head, 0), be32(&head, 8), be32(&head, 12));
        if magic != wire::IHAVEOPT || len > OPTION_DATA_SKIPPED {
            return Ok(None);
        }
        if len > OPTION_DATA_MAX {
            this.incoming.skip(u64::from(len), None)?;
            this.reply(option, rep::ERR_TOO_BIG, b"too long")?;
            continue;
        }
        let mut data = vec![0; len as usize];
        this.incoming.fill(&mut data, None)?;
        match option {
            opt::EXPORT_NAME => {
                let Some(export) = shared.find(&data) else { return Ok(None) };
                let mut answer = facts(export);
                answer.resize(answer.len() + if zeroes { 124 } else { 0 }, 0);
                this.out.write_all(&answer)?;
                return Ok(Some(this.agree(export, &data)));
            }
            opt::GO | opt::INFO => {
                if let Some(export) = this.describe(option, &data)?
                    && option == opt::GO
                {
                    let name = sized(&data, 0).unwrap_or_default();
                    return Ok(Some(this.agree(export, name)));
                }
            }
            opt::ABORT => {
                this.reply(option, rep::ACK, &[])?;
                return Ok(None);
            }
            opt::LIST if data.is_empty() => this.list()?,
            opt::STRUCTURED_REPLY if data.is_empty() => {
                this.structured = true;
                this.reply(option, rep::ACK, &[])?;
            }
            opt::LIST | opt::STRUCTURED_REPLY => this.reply(option, rep::ERR_INVALID, b"no data expected")?,
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => this.contexts(option, &data)?,
            _ => this.reply(option, rep::ERR_UNSUP, b"not known here")?,
        }
    }
    Ok(None)
}

impl<'s, R: Read, W: Write> Negotiation<'s, '_, '_, R, W> {
    fn agree(&self, export: &'s Export, name: &[u8]) -> Agreed<'s> {
        let allocation = self.structured && self.allocation.as_deref() == Some(name);
        Agreed { export, structured: self.structured, allocation }
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(20 + data.len());
        out.extend(wire::REPLY_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend(data);
        self.out.write_all(&out)
    }

    fn list(&mut self) -> io::Result<()> {
        for export in self.shared.exports {
            let mut data = u32::try_from(export.name.len()).unwrap_or(0).to_be_bytes().to_vec();
            data.extend(export.name.as_bytes());
            data.extend(said(export));
            self.reply(opt::LIST, rep::SERVER, &data)?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`: a name, then the kinds of information that are wanted.
    fn describe(&mut self, option: u32, data: &[u8]) -> io::Result<Option<&'s Export>> {
        let name = sized(data, 0);
        let Some((name, wanted)) = name.and_then(|name| Some((name, data.get(4 + name.len()..)?))) else {
            self.reply(option, rep::ERR_INVALID, b"a name past its option")?;
            return Ok(None);
        };
        let kinds = wanted.get(2..).unwrap_or_default();
        if wanted.len() < 2 || kinds.len() != 2 * usize::from(be16(wanted, 0)) {
            self.reply(option, rep::ERR_INVALID, b"a list of another length than it says")?;
            return Ok(None);
        }
        let Some(export) = self.shared.find(name) else {
            self.reply(option, rep::ERR_UNKNOWN, b"no such export")?;
            return Ok(None);
        };
        let piece = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], data].concat();
        for kind in kinds.chunks_exact(2).map(|raw| be16(raw, 0)) {
            match kind {
                info::NAME => self.reply(option, rep::INFO, &piece(kind, export.name.as_bytes()))?,
                info::DESCRIPTION => self.reply(option, rep::INFO, &piece(kind, said(export)))?,
                _ => {}
            }
        }
        let sizes: Vec<u8> =
            [1, PREFERRED, wire::REQUEST_DEFAULT_MAX].iter().flat_map(|size| size.to_be_bytes()).collect();
        self.reply(option, rep::INFO, &piece(info::BLOCK_SIZE, &sizes))?;
        self.reply(option, rep::INFO, &piece(info::EXPORT, &facts(export)))?;
        self.reply(option, rep::ACK, &[])?;
        Ok(Some(export))
    }

    /// A name, then queries; `base:` asks a list for all of that namespace, no query for all there is.
    fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            self.allocation = None;
        }
        let parsed = queries(data).filter(|_| self.structured);
        let Some((name, queries)) = parsed else {
            return self.reply(
                option,
                rep::ERR_INVALID,
                b"queries that break the rules, or no structured replies",
            );
        };
        if self.shared.find(name).is_none() {
            return self.reply(option, rep::ERR_UNKNOWN, b"no such export");
        }
        let ours = wire::BASE_ALLOCATION.as_bytes();
        let meant = |query: &&[u8]| *query == ours || (!set && *query == b"base:".as_slice());
        if queries.iter().any(meant) || (!set && queries.is_empty()) {
            let id = if set { CONTEXT } else { 0 };
            self.reply(option, rep::META_CONTEXT, &[&id.to_be_bytes()[..], ours].concat())?;
            if set {
                self.allocation = Some(name.to_vec());
            }
        }
        self.reply(option, rep::ACK, &[])
    }
}

/// Size and transmission flags.
fn facts(export: &Export) -> Vec<u8> {
    let flags = flag::HAS_FLAGS | flag::READ_ONLY | flag::SEND_DF | flag::CAN_MULTI_CONN;
    let mut out = export.source.len().to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out
}

fn said(export: &Export) -> &[u8] {
    let said = export.description.as_bytes();
    said.get(..wire::STRING_MAX).unwrap_or(said)
}

/// The string at `at`, whose length stands before it.
fn sized(data: &[u8], at: usize) -> Option<&[u8]> {
    let len = data.get(at..at.checked_add(4)?).map(|raw| be32(raw, 0))?;
    let start = at + 4;
    data.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// The export's name and the queries.
fn queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let name = sized(data, 0)?;
    let mut at = 4 + name.len();
    let count = data.get(at..at + 4).map(|raw| be32(raw, 0))?;
    at += 4;
    let mut queries = Vec::new();
    for _ in 0..count {
        let query = sized(data, at)?;
        at += 4 + query.len();
        queries.push(query);
    }
    (at == data.len()).then_some((name, queries))
}
