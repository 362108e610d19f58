//! The second and third pass: what is revoked, and which block of the filesystem is where in the log
//! (`do_one_pass` with PASS_REVOKE and PASS_REPLAY, fs/jbd2/recovery.c).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checksum;
use super::log::Log;
use super::revoke::RevokeTable;
use super::scan::Scan;
use super::superblock::Protection;
use super::tags::{BlockType, Tag, Tags};
use super::unescape::Unescaped;
use crate::block::overlay::Patch;
use crate::block::{Locate, Source};
use crate::effort::Effort;
use crate::error::{Error, Result};

/// Which blocks the log replaces, and what it took to find that out.
pub struct Blocks {
    /// Block of the filesystem → its bytes.
    pub patches: BTreeMap<u64, Patch>,
    /// Transactions replayed.
    pub transactions: u32,
    /// Blocks written, each time that one is written.
    pub written: u64,
    /// Revoke records.
    pub revokes: u64,
    /// Blocks that were not written because they are revoked.
    pub revoked: u64,
    /// Blocks that were not written because their checksum is wrong or there is no such block.
    pub bad: u64,
}

/// Finds every block that the transactions before `scan.end` write. A block whose checksum is wrong is a finding and
/// stays as it lies, as the kernel leaves it.
pub fn replay(log: &Log, scan: &Scan, effort: &Effort) -> Result<Blocks> {
    let restored = restored_blocks(log, scan, effort)?;
    let revoke = revoked_blocks(log, scan, &restored, effort)?;
    let mut pass = Replay {
        log,
        unescaped: Arc::new(Unescaped::new(Arc::clone(&log.source), log.sb.block_size)),
        revoke: &revoke,
        effort,
        data: vec![0; log.block_size()],
        blocks: Blocks {
            patches: BTreeMap::new(),
            transactions: scan.end.wrapping_sub(log.sb.sequence),
            written: 0,
            revokes: revoke.records(),
            revoked: 0,
            bad: 0,
        },
    };
    each_record(log, scan, effort, |record| match record.kind {
        BlockType::Descriptor => pass.descriptor(&record),
        _ => Ok(()),
    })?;
    Ok(pass.blocks)
}

/// A record of the log in the transactions that are replayed.
struct Record<'a> {
    kind: BlockType,
    sequence: u32,
    block: &'a [u8],
    /// The block of the log that it is.
    number: u32,
    /// The block of the log after it, where the data of a descriptor starts.
    data: u32,
}

/// Walks through the records of every transaction before the end that the scan found.
fn each_record(
    log: &Log,
    scan: &Scan,
    effort: &Effort,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    let mut walk = log.walk();
    let mut block = vec![0; log.block_size()];
    while walk.sequence != scan.end {
        effort.check()?;
        let Some((kind, number)) = walk.step(log, &mut block)? else {
            return Err(Error::corrupt(format!(
                "journal: transaction {} ends before its commit block",
                walk.sequence
            )));
        };
        visit(Record { kind, sequence: walk.sequence, block: &block, number, data: walk.position() })?;
        match kind {
            BlockType::Descriptor => {
                let tags = u32::try_from(Tags::new(&log.sb, &block).count()).unwrap_or(u32::MAX);
                walk.skip(log, tags)?;
            }
            BlockType::Commit => walk.commit(),
            _ => {}
        }
    }
    Ok(())
}

/// Every block that a tag names.
fn restored_blocks(log: &Log, scan: &Scan, effort: &Effort) -> Result<BTreeSet<u64>> {
    let mut restored = BTreeSet::new();
    each_record(log, scan, effort, |record| {
        if record.kind == BlockType::Descriptor {
            restored.extend(Tags::new(&log.sb, record.block).map(|tag| tag.block));
        }
        Ok(())
    })?;
    Ok(restored)
}

fn revoked_blocks(log: &Log, scan: &Scan, restored: &BTreeSet<u64>, effort: &Effort) -> Result<RevokeTable> {
    let mut table = RevokeTable::default();
    each_record(log, scan, effort, |record| {
        if record.kind == BlockType::Revoke {
            table
                .add(&log.sb, record.block, record.sequence, restored)
                .found_at(&*log.source, log.offset(record.number))?;
        }
        Ok(())
    })?;
    Ok(table)
}

struct Replay<'a> {
    log: &'a Log,
    unescaped: Source,
    revoke: &'a RevokeTable,
    effort: &'a Effort,
    data: Vec<u8>,
    blocks: Blocks,
}

impl Replay<'_> {
    fn descriptor(&mut self, record: &Record<'_>) -> Result<()> {
        let mut at = record.data;
        for tag in Tags::new(&self.log.sb, record.block) {
            let here = self.log.offset(at);
            at = self.log.after(at, 1);
            if self.revoke.covers(tag.block, record.sequence) {
                self.blocks.revoked = self.blocks.revoked.saturating_add(1);
            } else if let Some(why) = self.fault(&tag, record.sequence, here)? {
                self.blocks.bad = self.blocks.bad.saturating_add(1);
                let what = format!("journal: transaction {}, block {}: {why}", record.sequence, tag.block);
                self.effort.find(what, crate::block::site(&*self.log.source, here));
            } else {
                let source = if tag.escaped { &self.unescaped } else { &self.log.source };
                self.blocks.patches.insert(tag.block, Patch::At(Arc::clone(source), here));
                self.blocks.written = self.blocks.written.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Why the block that `tag` describes must not be written, if so. `offset` is where its data lies in the journal.
    fn fault(&mut self, tag: &Tag, sequence: u32, offset: u64) -> Result<Option<String>> {
        let blocks = self.log.volume_blocks;
        if tag.block >= blocks {
            return Ok(Some(format!("the filesystem has {blocks} blocks")));
        }
        if !self.log.sb.has_crc32c() {
            return Ok(None);
        }
        self.effort.check()?;
        if let Err(error) = self.log.source.read_at(offset, &mut self.data) {
            return Ok(Some(error.to_string()));
        }
        let crc = checksum::crc32c(self.log.sb.seed, &sequence.to_be_bytes());
        let crc = checksum::crc32c(crc, &self.data);
        let crc = if self.log.sb.protection == Protection::V2 { crc & 0xffff } else { crc };
        Ok((crc != tag.checksum).then(|| {
            format!(
                "checksum {crc:#x} of its data in the journal, wanted {:#x}; left as it lies",
                tag.checksum
            )
        }))
    }
}
