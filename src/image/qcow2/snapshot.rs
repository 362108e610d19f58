//! The snapshot table: each snapshot has an L1 table of its own.

use super::header::Header;
use crate::block::{BlockSource, Locate, read_array, read_vec, within};
use crate::bytes::Bytes;
use crate::error::{Error, Result};

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, a number as QEMU writes it.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was taken: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// The guest's running time, in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of the machine's state that it holds beside the disk.
    pub vm_state_size: u64,
    /// The disk's size when it was taken, in bytes.
    pub disk_size: u64,
    /// Where its L1 table starts in the file.
    pub l1_offset: u64,
    /// How many entries that has.
    pub l1_entries: u32,
}

/// The table has at most this many bytes (QEMU's `QCOW_MAX_SNAPSHOTS_SIZE`).
const TABLE_MAX: u64 = 64 << 20;

/// The extra data of one snapshot has at most this many bytes.
const EXTRA_MAX: usize = 1024;

/// Names are kept up to this many bytes in all.
const NAMES_MAX: usize = 4 << 20;

/// Reads the table. Fails at the first entry that breaks the rules; what came before it is in `out`.
pub fn read(file: &dyn BlockSource, header: &Header, out: &mut Vec<Snapshot>) -> Result<()> {
    if header.snapshots == 0 {
        return Ok(());
    }
    let start = header.snapshots_offset;
    if start & header.cluster_size().wrapping_sub(1) != 0 {
        return Err(Error::corrupt(format!("qcow2 snapshot table at {start:#x}, not at a cluster")));
    }
    let (mut at, mut names) = (start, 0usize);
    for number in 0..header.snapshots {
        let (snapshot, len) = one(file, header, at)
            .map_err(|error| {
                error.context(format!("qcow2 snapshot {} of {}", number.saturating_add(1), header.snapshots))
            })
            .found_at(file, at)?;
        names = names.saturating_add(snapshot.name.len()).saturating_add(snapshot.id.len());
        at = at.saturating_add(len).checked_next_multiple_of(8).unwrap_or(u64::MAX);
        if names > NAMES_MAX || at.saturating_sub(start) > TABLE_MAX {
            return Err(Error::corrupt("qcow2 snapshot table: too large").found_at(file, start));
        }
        out.push(snapshot);
    }
    Ok(())
}

/// The snapshot at `at`, and how many bytes its entry has.
fn one(file: &dyn BlockSource, header: &Header, at: u64) -> Result<(Snapshot, u64)> {
    let fixed = read_array::<40>(file, at)?;
    let fixed = Bytes::new(&fixed, "qcow2 snapshot");
    let id_len = usize::from(fixed.be16(12, "id_str_size")?);
    let name_len = usize::from(fixed.be16(14, "name_size")?);
    let extra_len = fixed.be32(36, "extra_data_size")? as usize;
    if extra_len > EXTRA_MAX {
        return Err(Error::corrupt(format!("extra data of {extra_len} bytes, at most {EXTRA_MAX}")));
    }
    let rest = extra_len.saturating_add(id_len).saturating_add(name_len);
    let rest_at = at.saturating_add(40);
    within(file, rest_at, rest as u64)?;
    let rest_bytes = read_vec(file, rest_at, rest)?;
    let rest_bytes = Bytes::new(&rest_bytes, "qcow2 snapshot");
    let snapshot = Snapshot {
        id: rest_bytes.slice(extra_len, id_len, "id")?.to_vec(),
        name: rest_bytes.slice(extra_len.saturating_add(id_len), name_len, "name")?.to_vec(),
        date: (fixed.be32(16, "date_sec")?, fixed.be32(20, "date_nsec")?),
        vm_clock: fixed.be64(24, "vm_clock_nsec")?,
        vm_state_size: if extra_len >= 8 {
            rest_bytes.be64(0, "vm_state_size_large")?
        } else {
            fixed.be32(32, "vm_state_size")?.into()
        },
        // Without the field the disk had the size that it has now.
        disk_size: if extra_len >= 16 { rest_bytes.be64(8, "disk_size")? & !511 } else { header.size },
        l1_offset: fixed.be64(0, "l1_table_offset")?,
        l1_entries: fixed.be32(8, "l1_size")?,
    };
    Ok((snapshot, (rest as u64).saturating_add(40)))
}
