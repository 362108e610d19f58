//! The journal of ext3 and ext4, replayed in memory.
//!
//! Nothing is written: the replayed filesystem is the raw one under an overlay that says of every block which the journal
//! replaces where its bytes lie in the journal. The three passes are those of fs/jbd2/recovery.c: [`scan`] finds the
//! end of the log, [`revoke`] what must not be restored, [`replay`] the blocks. Fast commits are a log of changes and
//! not of blocks: [`fast_commit`] reads them and [`logical`] keeps what they leave behind as records.
//!
//! Where the kernel replays nothing and refuses the mount, the filesystem is shown as it lies, with a finding. Where it
//! replays a part and then refuses (a transaction with a wrong checksum), that part is applied, with a finding.
//!
//! After recovery the kernel also deletes the files on the orphan list and truncates those that were being truncated.
//! That is no part of the journal and is not done here: orphans stay, and are listed as what they are.

mod checksum;
mod fast_commit;
mod log;
pub(super) mod logical;
mod replay;
mod revoke;
mod scan;
mod superblock;
mod tags;
mod unescape;

use std::fmt::Write as _;
use std::sync::Arc;

use crate::block::overlay::Overlay;
use crate::block::{Locate, Source, read_vec};
use crate::effort::Effort;
use crate::error::{Error, Kind, Result};
pub use fast_commit::Change;
use log::Log;
use superblock::{JournalSuperblock, SUPERBLOCK_SIZE};

/// What replay needs to know of the filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Bytes in a block.
    pub block_size: u32,
    /// How many blocks there are.
    pub blocks: u64,
    /// Whether the filesystem says that its journal waits to be replayed (`EXT4_FEATURE_INCOMPAT_RECOVER`). Without that,
    /// the kernel discards what the journal holds.
    pub needs_recovery: bool,
}

/// A filesystem as it is after recovery.
#[derive(Debug)]
pub struct Replayed {
    /// The volume, with the journal applied.
    pub source: Source,
    /// What was done, in one sentence.
    pub summary: String,
    /// Whether `source` differs from the raw volume.
    pub changed: bool,
    /// What fast commits changed on top of it.
    pub fast_commits: Vec<Change>,
}

/// Applies the log in `journal` (the content of the journal inode) to `raw`.
///
/// Fails if the work was cancelled, and as Unsupported for a journal with unknown features; a damaged journal is a
/// finding, and what the kernel would have replayed of it is applied.
pub fn replay(raw: &Source, volume: &Volume, journal: &Source, effort: &Effort) -> Result<Replayed> {
    match attempt(raw, volume, journal, effort) {
        Err(error) if error.kind() == Kind::Corrupt => Ok(refused(raw, &error, effort)),
        Err(error) if error.kind() == Kind::Io && !effort.is_cancelled() => Ok(refused(raw, &error, effort)),
        other => other,
    }
}

/// The raw volume, because the journal cannot be followed.
fn refused(raw: &Source, error: &Error, effort: &Effort) -> Replayed {
    let summary = format!("not replayed, shown as it lies: {}", error.what());
    effort.find(format!("{}; nothing of the journal is applied", error.what()), error.site().to_vec());
    Replayed { source: Arc::clone(raw), summary, changed: false, fast_commits: Vec::new() }
}

fn attempt(raw: &Source, volume: &Volume, journal: &Source, effort: &Effort) -> Result<Replayed> {
    let sb = JournalSuperblock::parse(&read_vec(&**journal, 0, SUPERBLOCK_SIZE)?).found_at(&**journal, 0)?;
    check(&sb, volume, journal).found_at(&**journal, 0)?;
    if sb.checksum_wrong {
        let site = crate::block::site(&**journal, 0);
        effort.find("journal superblock: wrong checksum", site);
    }
    if sb.errno != 0 {
        let what = format!("journal superblock: the filesystem was aborted with error {}", sb.errno);
        effort.find(what, crate::block::site(&**journal, 0));
    }
    if sb.start == 0 || !volume.needs_recovery {
        let why = if sb.start == 0 { "the journal is empty" } else { "not marked for recovery" };
        return Ok(Replayed {
            source: Arc::clone(raw),
            summary: format!("nothing to replay: {why}"),
            changed: false,
            fast_commits: Vec::new(),
        });
    }
    let log = Log { source: Arc::clone(journal), sb, volume_blocks: volume.blocks };
    let scan = scan::scan(&log, effort)?;
    let blocks = replay::replay(&log, &scan, effort)?;

    let mut summary = format!(
        "replayed {} transactions from {}: {} writes to {} blocks, {} skipped by {} revoke records",
        blocks.transactions,
        log.sb.sequence,
        blocks.written,
        blocks.patches.len(),
        blocks.revoked,
        blocks.revokes
    );
    if blocks.bad != 0 {
        let _ = write!(summary, "; {} blocks of the journal are damaged and were left out", blocks.bad);
    }
    if let Some(failed) = scan.failed {
        let _ = write!(summary, "; transaction {failed} has a wrong checksum and ends the log");
        effort.find(
            format!("journal: transaction {failed} has a wrong checksum; the kernel refuses to mount this"),
            Vec::new(),
        );
    }
    let fast = fast_commit::scan(&log, scan.end, effort)?;
    if fast.commits != 0 {
        let _ = write!(summary, "; then {} fast commits with {} changes", fast.commits, fast.changes.len());
    }
    if let Some(fault) = fast.fault {
        let what =
            format!("fast commits are damaged and left out ({fault}); the kernel refuses to mount this");
        let _ = write!(summary, "; {what}");
        effort.find(format!("journal: {what}"), Vec::new());
    }
    let changed = !blocks.patches.is_empty();
    let source = Overlay::new(Arc::clone(raw), u64::from(volume.block_size), blocks.patches)?;
    Ok(Replayed { source: Arc::new(source), summary, changed, fast_commits: fast.changes })
}

/// The rules between a journal and its filesystem (`journal_load_superblock`).
fn check(sb: &JournalSuperblock, volume: &Volume, journal: &Source) -> Result<()> {
    if sb.block_size != volume.block_size {
        return Err(Error::corrupt(format!(
            "journal superblock: blocks of {} bytes on a filesystem with blocks of {}",
            sb.block_size, volume.block_size
        )));
    }
    let have = journal.len().checked_div(u64::from(sb.block_size)).unwrap_or(0);
    if u64::from(sb.maxlen) > have {
        return Err(Error::corrupt(format!(
            "journal superblock: a log of {} blocks in a journal of {have}",
            sb.maxlen
        )));
    }
    Ok(())
}
