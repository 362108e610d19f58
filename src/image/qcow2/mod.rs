//! qcow2, versions 2 and 3, read only. Layout: QEMU's `docs/interop/qcow2.txt`.

pub mod compressed;
pub mod header;
pub mod snapshot;
pub mod tables;

use std::sync::Arc;

use self::header::{Encryption, Header, Refers};
use self::snapshot::Snapshot;
use self::tables::{Entry, L1, OFFSET_MASK, Pages};
use super::{Here, Layer, Mapped, Packed};
use crate::block::cache::Cache;
use crate::block::{Locate, Source, within};
use crate::error::{Error, Result};

/// A qcow2 image: its active disk, or one of its snapshots.
#[derive(Clone)]
pub struct Qcow2 {
    header: Arc<Header>,
    file: Source,
    data: Option<Source>,
    pages: Pages,
    l1: L1,
    size: u64,
}

impl Qcow2 {
    /// Reads the header of `file`; tables are read when they are needed, through `cache`.
    ///
    /// An image with [`Refers::data_file`] needs [`Qcow2::with_data_file`] before its data can be read.
    pub fn open(file: Source, cache: &Arc<Cache>) -> Result<Self> {
        let header = Header::read(&*file)?;
        let l1 = L1 { offset: header.l1_offset, entries: header.l1_entries.into() };
        let pages = Pages::new(Arc::clone(&file), cache);
        Ok(Self { size: header.size, header: Arc::new(header), file, data: None, pages, l1 })
    }

    /// The same image with its data in `data`.
    pub fn with_data_file(mut self, data: Source) -> Self {
        self.data = Some(data);
        self
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The files that it refers to.
    pub fn refers(&self) -> &Refers {
        &self.header.refers
    }

    /// Fails where the data cannot be had: they are encrypted, or the external data file is not there.
    pub fn readable(&self) -> Result<()> {
        let name = self.file.name();
        match self.header.encryption {
            Encryption::None => {}
            Encryption::Aes => {
                return Err(Error::unsupported(format!("{name}: encrypted (AES), there is no key")));
            }
            Encryption::Luks => {
                return Err(Error::unsupported(format!("{name}: encrypted (LUKS), there is no key")));
            }
        }
        if self.refers().data_file.is_some() && self.data.is_none() {
            return Err(Error::unsupported(format!("{name}: its external data file is not there")));
        }
        Ok(())
    }

    /// The snapshots that can be read, and what is wrong with the table behind them.
    pub fn snapshots(&self) -> (Vec<Snapshot>, Option<Error>) {
        let mut all = Vec::new();
        let error = snapshot::read(&*self.file, &self.header, &mut all).err();
        (all, error.map(|error| error.context(self.file.name())))
    }

    /// The disk as it was when `snapshot` was taken.
    pub fn at_snapshot(&self, snapshot: &Snapshot) -> Result<Self> {
        self.header
            .check_l1(snapshot.l1_offset, snapshot.l1_entries, snapshot.disk_size)
            .map_err(|error| error.context(format!("{}: snapshot", self.file.name())))?;
        let l1 = L1 { offset: snapshot.l1_offset, entries: snapshot.l1_entries.into() };
        Ok(Self { l1, size: snapshot.disk_size, ..self.clone() })
    }

    /// The file that holds the clusters' data.
    fn data(&self) -> &Source {
        self.data.as_ref().unwrap_or(&self.file)
    }

    /// The stretch of the L1 table's holes at `offset`, or where its L2 table starts.
    fn l2(&self, offset: u64, want: u64) -> Result<std::result::Result<u64, u64>> {
        let shift = self.header.cluster_bits.saturating_add(self.header.l2_bits());
        let covers = 1u64 << shift;
        let index = offset >> shift;
        let left_here = covers.wrapping_sub(offset & covers.wrapping_sub(1));
        if index >= self.l1.entries {
            return Ok(Err(self.size.saturating_sub(offset)));
        }
        let at = self.l1.offset.saturating_add(index.saturating_mul(8));
        let end = self.l1.offset.saturating_add(self.l1.entries.saturating_mul(8));
        let slice = self.pages.slice(at, end, 8).map_err(|error| error.context("qcow2 L1 table"))?;
        let entry = slice.word(0).unwrap_or_default() & OFFSET_MASK;
        if entry & self.header.cluster_size().wrapping_sub(1) != 0 {
            return Err(Error::corrupt(format!(
                "qcow2 L1 entry {index}: L2 table at {entry:#x}, not at a cluster"
            ))
            .found_at(&*self.file, at));
        }
        if entry != 0 {
            return Ok(Ok(entry));
        }
        let (mut len, mut next) = (left_here, 1usize);
        while len < want && slice.word(next).is_some_and(|entry| entry & OFFSET_MASK == 0) {
            len = len.saturating_add(covers);
            next = next.saturating_add(1);
        }
        Ok(Err(len))
    }

    /// The entries at `offset` under the L2 table at `table`: the first one, and how far it goes on.
    fn entries(&self, offset: u64, want: u64, table: u64) -> Result<(Entry, u64, u64)> {
        let header = &*self.header;
        let (cluster, width) = (header.cluster_size(), if header.extended_l2 { 16 } else { 8 });
        let per_table = 1u64 << header.l2_bits();
        let index = (offset >> header.cluster_bits) & per_table.wrapping_sub(1);
        let at = table.saturating_add(index.saturating_mul(width));
        let slice = self
            .pages
            .slice(at, table.saturating_add(cluster), width)
            .map_err(|error| error.context("qcow2 L2 table"))?;

        let unit_bits = header.cluster_bits.saturating_sub(if header.extended_l2 { 5 } else { 0 });
        let unit = 1u64 << unit_bits;
        let first_start = offset & !unit.wrapping_sub(1);
        // The entry of the unit that starts at `start` of the disk.
        let entry = |start: u64| -> Option<Entry> {
            let n =
                usize::try_from((start >> header.cluster_bits).wrapping_sub(offset >> header.cluster_bits))
                    .ok()?;
            let cluster_start = start & !cluster.wrapping_sub(1);
            if header.extended_l2 {
                let sub = u32::try_from((start >> unit_bits) & 31).ok()?;
                let n = n.checked_mul(2)?;
                Some(tables::extended(
                    header,
                    slice.word(n)?,
                    slice.word(n.checked_add(1)?)?,
                    sub,
                    cluster_start,
                ))
            } else {
                Some(tables::standard(header, slice.word(n)?, cluster_start))
            }
        };
        let first = entry(first_start).ok_or_else(|| Error::corrupt("qcow2 L2 table: cut short"))?;
        let inside = offset.wrapping_sub(first_start);
        let want = want.saturating_add(inside);
        let mut len = unit;
        if !matches!(first, Entry::Compressed(_) | Entry::Invalid(_)) {
            while len < want {
                match entry(first_start.saturating_add(len)) {
                    Some(next) if first.goes_on(next, len) => len = len.saturating_add(unit),
                    _ => break,
                }
            }
        }
        Ok((first, len.saturating_sub(inside), at))
    }

    /// `len` bytes of the data file from `host` on, with its end in mind. The cluster in which the file ends may be cut
    /// short: QEMU leaves the last one so, and reads zeros there. What lies further out was cut off.
    fn file_stretch(&self, host: u64, len: u64) -> (u64, Here<'_>) {
        let source = self.data();
        let end = source.len();
        if host.saturating_add(len) <= end {
            return (len, Here::File { source: &**source, offset: host });
        }
        if host < end {
            return (end.saturating_sub(host), Here::File { source: &**source, offset: host });
        }
        let cluster_end = end.checked_next_multiple_of(self.header.cluster_size()).unwrap_or(end);
        if host < cluster_end {
            return (len.min(cluster_end.saturating_sub(host)), Here::Zero { kept: Some(host) });
        }
        let what = format!("{}: data at {host:#x}, past its end at {end:#x}", source.name());
        (len, Here::Lost(Error::corrupt(what).hint("the file was cut short; look for a longer copy")))
    }

    fn map_within(&self, offset: u64, want: u64) -> (u64, Here<'_>) {
        // An unreadable table loses what it describes, and no more.
        let lost = |bits: u32, error: Error| {
            let covers = 1u64 << bits;
            (covers.wrapping_sub(offset & covers.wrapping_sub(1)), Here::Lost(error.without_range()))
        };
        let cluster_bits = self.header.cluster_bits;
        let table = match self.l2(offset, want) {
            Ok(Ok(table)) => table,
            Ok(Err(len)) => return (len, Here::Below { kept: None }),
            Err(error) => return lost(cluster_bits.saturating_add(self.header.l2_bits()), error),
        };
        let (entry, len, at) = match self.entries(offset, want, table) {
            Ok(found) => found,
            // A page of the cache holds that many entries.
            Err(error) => {
                let page_bits = if self.header.extended_l2 { 12 } else { 13 };
                return lost(cluster_bits.saturating_add(self.header.l2_bits().min(page_bits)), error);
            }
        };
        let cluster = self.header.cluster_size();
        match entry {
            Entry::Normal(host) => self.file_stretch(self.inside(host, offset), len),
            Entry::Zero(kept) => (len, Here::Zero { kept: kept.map(|host| self.inside(host, offset)) }),
            Entry::Unallocated(kept) => {
                (len, Here::Below { kept: kept.map(|host| self.inside(host, offset)) })
            }
            Entry::Compressed(entry) => {
                let start = offset & !cluster.wrapping_sub(1);
                let len = cluster.wrapping_sub(offset.wrapping_sub(start));
                let packed = compressed::place(&self.header, entry, start, self.file.len());
                if packed.len == 0 {
                    let what =
                        format!("compressed cluster at {:#x}, past the end of the file", packed.offset);
                    return (len, Here::Lost(Error::corrupt(what).found_at(&*self.file, at)));
                }
                (len, Here::Packed(packed))
            }
            Entry::Invalid(why) => {
                let what = format!("{}: qcow2 L2 entry: {why}", self.file.name());
                (len, Here::Lost(Error::corrupt(what).found_at(&*self.file, at)))
            }
        }
    }

    /// Where `offset` of the disk lies, whose cluster or subcluster is at `host`.
    fn inside(&self, host: u64, offset: u64) -> u64 {
        let unit = self.header.cluster_size() >> if self.header.extended_l2 { 5 } else { 0 };
        host.saturating_add(offset & unit.wrapping_sub(1))
    }
}

impl Layer for Qcow2 {
    fn file(&self) -> &Source {
        &self.file
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64, want: u64) -> Result<Mapped<'_>> {
        if offset >= self.size {
            return Err(Error::corrupt(format!("{}: {offset:#x} is past the disk's end", self.file.name())));
        }
        let left = self.size.saturating_sub(offset);
        if let Err(error) = self.readable() {
            return Ok(Mapped { len: left, here: Here::Lost(error) });
        }
        let (len, here) = self.map_within(offset, want.min(left));
        Ok(Mapped { len: len.min(left), here })
    }

    fn unpack(&self, packed: &Packed, out: &mut [u8]) -> Result<()> {
        within(&*self.file, packed.offset, packed.len)?;
        let len = usize::try_from(packed.len).unwrap_or(usize::MAX);
        compressed::unpack(self.header.compression, len, out, |input| self.file.read_at(packed.offset, input))
            .map_err(Error::without_range)
            .found_at(&*self.file, packed.offset)
    }
}
