//! The header, its extensions and the names in it. Layout: QEMU's `docs/interop/qcow2.txt`; limits: `block/qcow2.h`.

use crate::block::{BlockSource, read_vec};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// The first four bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The L1 table has at most this many bytes.
pub const L1_MAX: u64 = 32 << 20;

/// At most this many snapshots.
pub const SNAPSHOTS_MAX: u32 = 65_536;

/// The backing file's name has at most this many bytes.
pub const BACKING_NAME_MAX: usize = 1023;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_DATA_FILE
    | INCOMPATIBLE_COMPRESSION
    | INCOMPATIBLE_EXTENDED_L2;
const AUTOCLEAR_DATA_FILE_RAW: u64 = 1 << 1;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The disk's size in bytes. QEMU counts whole sectors, so a size that is no multiple of 512 is rounded down.
    pub size: u64,
    /// The cluster size's logarithm, 9 to 21.
    pub cluster_bits: u32,
    /// Whether a cluster's data is encrypted, and how.
    pub encryption: Encryption,
    /// Where the L1 table starts in the file.
    pub l1_offset: u64,
    /// How many entries it has.
    pub l1_entries: u32,
    /// Where the snapshot table starts in the file.
    pub snapshots_offset: u64,
    /// How many snapshots it has.
    pub snapshots: u32,
    /// Where the refcount table starts in the file.
    pub refcounts_offset: u64,
    /// How many clusters it has.
    pub refcounts_clusters: u32,
    /// The width of a refcount is `1 << refcount_order` bits; 0 to 6.
    pub refcount_order: u32,
    /// The image was not closed: refcounts may be out of date. Its data are not.
    pub dirty: bool,
    /// A program found the image's tables damaged.
    pub corrupt: bool,
    /// L2 entries have 16 bytes and describe 32 subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are packed.
    pub compression: Compression,
    /// The files that it refers to.
    pub refers: Refers,
}

/// The files that an image refers to. It opens none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refers {
    /// The name of the backing file, as it was written.
    pub backing: Option<Vec<u8>>,
    /// The format of the backing file, as it was written.
    pub backing_format: Option<String>,
    /// The name of the external data file, as it was written; only where the data really lie there.
    pub data_file: Option<Vec<u8>>,
    /// The external data file can be read as a raw image by itself.
    pub data_file_raw: bool,
}

/// The header's `crypt_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// 0.
    None,
    /// 1: AES-CBC with the password as key.
    Aes,
    /// 2: a LUKS header in an extension.
    Luks,
}

/// The header's `compression_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// 0: raw deflate, which QEMU calls zlib.
    Zlib,
    /// 1.
    Zstd,
}

impl Compression {
    /// QEMU's name for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

impl Header {
    /// Reads it from the start of `file`.
    ///
    /// Corrupt where it breaks the specification or exceeds QEMU's limits, Unsupported where it has a feature bit that
    /// nobody here knows. An encrypted image has a header like any other.
    pub fn read(file: &dyn BlockSource) -> Result<Self> {
        let name = file.name();
        let wrong = |what: String| Error::corrupt(format!("{name}: qcow2 header: {what}"));
        let head = read_vec(file, 0, usize::try_from(file.len().min(112)).unwrap_or(112))?;
        let head = Bytes::new(&head, "qcow2 header");
        if head.array::<4>(0, "magic")? != MAGIC {
            return Err(wrong("it does not begin with QFI\\xfb".into()));
        }
        let version = head.be32(4, "version")?;
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("{name}: qcow2 version {version}, known are 2 and 3")));
        }
        let cluster_bits = head.be32(20, "cluster_bits")?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(wrong(format!("cluster_bits {cluster_bits}, wanted 9 to 21")));
        }
        let cluster_size = 1u64 << cluster_bits;
        let v3 = version >= 3;
        let header_length = if v3 { head.be32(100, "header_length")? } else { 72 };
        if v3 && (header_length < 104 || u64::from(header_length) > cluster_size) {
            return Err(wrong(format!("header_length {header_length}, wanted 104 to {cluster_size}")));
        }
        let backing_offset = head.be64(8, "backing_file_offset")?;
        if backing_offset > cluster_size {
            return Err(wrong(format!(
                "the backing file's name at {backing_offset:#x} is not in the first cluster"
            )));
        }

        // The names and extensions lie in the first cluster.
        let first = read_vec(file, 0, usize::try_from(file.len().min(cluster_size)).unwrap_or(0))?;
        let first = Bytes::new(&first, "qcow2 header");
        let extensions_end = if backing_offset == 0 { cluster_size } else { backing_offset };
        let extensions =
            Extensions::read(&first, header_length.into(), extensions_end).map_err(|e| e.context(name))?;

        let (incompatible, autoclear, refcount_order) = if v3 {
            (
                first.be64(72, "incompatible_features")?,
                first.be64(88, "autoclear_features")?,
                first.be32(96, "refcount_order")?,
            )
        } else {
            (0, 0, 4)
        };
        let unknown = incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            let names = extensions.feature_names(unknown);
            return Err(Error::unsupported(format!(
                "{name}: incompatible features {unknown:#x}{names}: read wrongly without knowing them"
            )));
        }
        if refcount_order > 6 {
            return Err(wrong(format!("refcount_order {refcount_order}, wanted 0 to 6")));
        }
        let encryption = match first.be32(32, "crypt_method")? {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => return Err(Error::unsupported(format!("{name}: qcow2 crypt_method {other}"))),
        };
        let kind = if v3 && header_length > 104 { first.u8(104, "compression_type")? } else { 0 };
        let compression = match (kind, incompatible & INCOMPATIBLE_COMPRESSION != 0) {
            (0, false) => Compression::Zlib,
            (1, true) => Compression::Zstd,
            (0 | 1, flag) => {
                return Err(wrong(format!("compression_type {kind}, but its feature bit is {flag}")));
            }
            _ => return Err(Error::unsupported(format!("{name}: qcow2 compression_type {kind}"))),
        };
        let extended_l2 = incompatible & INCOMPATIBLE_EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err(wrong(format!(
                "subclusters in clusters of {cluster_size} bytes, at least 16384 are needed"
            )));
        }

        let backing_len = first.be32(16, "backing_file_size")? as usize;
        let backing = if backing_offset == 0 || backing_len == 0 {
            None
        } else if backing_len > BACKING_NAME_MAX {
            return Err(wrong(format!(
                "the backing file's name has {backing_len} bytes, at most {BACKING_NAME_MAX}"
            )));
        } else {
            let at = usize::try_from(backing_offset).unwrap_or(usize::MAX);
            Some(first.slice(at, backing_len, "backing file name")?.to_vec())
        };
        let external = incompatible & INCOMPATIBLE_DATA_FILE != 0;
        if external && extensions.data_file.is_none() {
            return Err(wrong("the data lie in another file, and its name is not given".into()));
        }

        let header = Self {
            version,
            size: first.be64(24, "size")? & !511,
            cluster_bits,
            encryption,
            l1_offset: first.be64(40, "l1_table_offset")?,
            l1_entries: first.be32(36, "l1_size")?,
            snapshots_offset: first.be64(64, "snapshots_offset")?,
            snapshots: first.be32(60, "nb_snapshots")?,
            refcounts_offset: first.be64(48, "refcount_table_offset")?,
            refcounts_clusters: first.be32(56, "refcount_table_clusters")?,
            refcount_order,
            dirty: incompatible & INCOMPATIBLE_DIRTY != 0,
            corrupt: incompatible & INCOMPATIBLE_CORRUPT != 0,
            extended_l2,
            compression,
            refers: Refers {
                backing_format: extensions.backing_format.clone().filter(|_| backing.is_some()),
                backing,
                data_file: extensions.data_file.clone().filter(|_| external),
                data_file_raw: external && autoclear & AUTOCLEAR_DATA_FILE_RAW != 0,
            },
        };
        if header.snapshots > SNAPSHOTS_MAX {
            return Err(wrong(format!("{} snapshots, at most {SNAPSHOTS_MAX}", header.snapshots)));
        }
        header.check_l1(header.l1_offset, header.l1_entries, header.size).map_err(|e| e.context(name))?;
        Ok(header)
    }

    /// The cluster size in bytes, 512 to 2 MiB.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The logarithm of the number of entries in an L2 table.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits.saturating_sub(if self.extended_l2 { 4 } else { 3 })
    }

    /// Checks an L1 table's place and size against the limits and against the disk's size.
    pub fn check_l1(&self, offset: u64, entries: u32, size: u64) -> Result<()> {
        let bytes = u64::from(entries).saturating_mul(8);
        if bytes > L1_MAX {
            return Err(Error::corrupt(format!("qcow2 L1 table of {bytes} bytes, at most {L1_MAX}")));
        }
        if offset & self.cluster_size().wrapping_sub(1) != 0
            || offset.checked_add(bytes).is_none_or(|e| e > 1 << 56)
        {
            return Err(Error::corrupt(format!(
                "qcow2 L1 table at {offset:#x}, not at a cluster below 2^56"
            )));
        }
        let covers = u64::from(entries).checked_mul(1 << self.cluster_bits.saturating_add(self.l2_bits()));
        if covers.is_some_and(|covers| covers < size) {
            return Err(Error::corrupt(format!(
                "qcow2 L1 table of {entries} entries is too small for {size} bytes"
            )));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<Vec<u8>>,
    /// Type (0 incompatible), bit and name of every feature.
    features: Vec<(u8, u8, String)>,
}

impl Extensions {
    fn read(first: &Bytes<'_>, start: u64, end: u64) -> Result<Self> {
        let mut found = Self::default();
        let mut at = usize::try_from(start).unwrap_or(usize::MAX);
        // An extension list that fills the cluster needs no end mark.
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(first.len());
        while at.saturating_add(8) <= end {
            let kind = first.be32(at, "extension type")?;
            let len = first.be32(at.saturating_add(4), "extension length")? as usize;
            at = at.saturating_add(8);
            if kind == EXTENSION_END {
                break;
            }
            if len > end.saturating_sub(at) {
                return Err(Error::corrupt(format!(
                    "qcow2 header extension {kind:#010x} of {len} bytes at {at:#x} reaches past {end:#x}"
                )));
            }
            let data = first.slice(at, len, "extension")?;
            match kind {
                EXTENSION_BACKING_FORMAT => {
                    found.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                EXTENSION_DATA_FILE => found.data_file = Some(data.to_vec()),
                EXTENSION_FEATURE_NAMES => {
                    for entry in data.chunks_exact(48) {
                        if let [kind, bit, name @ ..] = entry {
                            let name = name.split(|b| *b == 0).next().unwrap_or_default();
                            found.features.push((*kind, *bit, String::from_utf8_lossy(name).into_owned()));
                        }
                    }
                }
                _ => {}
            }
            at = at.saturating_add(len).checked_next_multiple_of(8).unwrap_or(usize::MAX);
        }
        Ok(found)
    }

    /// The names that the image itself gives to `bits`, in parentheses, or nothing.
    fn feature_names(&self, bits: u64) -> String {
        let named = |f: &&(u8, u8, String)| f.0 == 0 && f.1 < 64 && bits & (1 << f.1) != 0;
        let names: Vec<_> = self.features.iter().filter(named).map(|f| f.2.as_str()).collect();
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    }
}
