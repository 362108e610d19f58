//! The first pass: where the log ends (`do_one_pass` with PASS_SCAN, fs/jbd2/recovery.c).

use super::checksum;
use super::log::{Log, Walk};
use super::superblock::Protection;
use super::tags::{BlockType, Tags};
use crate::bytes::Bytes;
use crate::effort::Effort;
use crate::error::{Error, Result};

/// `JBD2_CRC32_CHKSUM` and its size in bytes, as a commit block of csum v1 names them.
const CRC32: (u8, u8) = (1, 4);
/// Where the checksum of a commit block lies.
const COMMIT_CHECKSUM: usize = 16;
/// Bytes of `struct commit_header`.
const COMMIT_SIZE: usize = 64;

/// What the first pass found.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// The first transaction that is not replayed.
    pub end: u32,
    /// A transaction with a wrong checksum: those before it are replayed, then the kernel refuses the mount.
    pub failed: Option<u32>,
}

/// State between the blocks of a scan.
struct Scanner<'a> {
    log: &'a Log,
    walk: Walk,
    crc: u32,
    /// A descriptor or revoke block had a wrong checksum: stale, or corrupt; the commit time tells.
    doubted: bool,
    last_commit_time: u64,
    end: Option<u32>,
    failed: Option<u32>,
}

/// Finds the end of the log. Fails where the kernel gives up without replaying anything: a checksum is wrong in the
/// middle of the log, or a block of it cannot be read.
pub fn scan(log: &Log, effort: &Effort) -> Result<Scan> {
    let mut scanner = Scanner {
        log,
        walk: log.walk(),
        crc: !0,
        doubted: false,
        last_commit_time: 0,
        end: None,
        failed: None,
    };
    let mut block = vec![0; log.block_size()];
    while let Some((kind, _)) = scanner.walk.step(log, &mut block)? {
        effort.check()?;
        let goes_on = match kind {
            BlockType::Descriptor => scanner.descriptor(&block)?,
            BlockType::Revoke => {
                scanner.doubted |= !log.tail_sound(&block);
                true
            }
            BlockType::Commit => scanner.commit(&block)?,
            BlockType::Other(_) => false,
        };
        if !goes_on {
            break;
        }
    }
    Ok(Scan { end: scanner.end.unwrap_or(scanner.walk.sequence), failed: scanner.failed })
}

impl Scanner<'_> {
    fn descriptor(&mut self, block: &[u8]) -> Result<bool> {
        self.doubted |= !self.log.tail_sound(block);
        let tags = u32::try_from(Tags::new(&self.log.sb, block).count()).unwrap_or(u32::MAX);
        let data = self.walk.position();
        self.walk.skip(self.log, tags)?;
        if self.log.sb.protection == Protection::V1 && !self.doubted && self.end.is_none() {
            self.crc = checksum::crc32_be(self.crc, block);
            let mut buf = vec![0; self.log.block_size()];
            for i in 0..tags {
                self.log.read(self.log.after(data, i), &mut buf)?;
                self.crc = checksum::crc32_be(self.crc, &buf);
            }
        }
        Ok(true)
    }

    /// Looks at a commit block; false if the log ends here.
    fn commit(&mut self, block: &[u8]) -> Result<bool> {
        let bytes = Bytes::new(block, "journal commit block");
        let time = bytes.be64(48, "h_commit_sec")?;
        let sequence = self.walk.sequence;
        if self.doubted {
            if time >= self.last_commit_time {
                return Err(Error::corrupt(format!("journal: wrong checksum in transaction {sequence}")));
            }
            // Older than the transaction before it: left from an earlier use of the log.
            return Ok(false);
        }
        let sound = match self.log.sb.protection {
            Protection::None => true,
            Protection::V1 => {
                if let Some(end) = self.end {
                    // After an asynchronous commit with a wrong checksum there is another: corruption, not a crash.
                    self.failed = Some(end);
                    return Ok(false);
                }
                let how = (bytes.u8(12, "h_chksum_type")?, bytes.u8(13, "h_chksum_size")?);
                let stored = bytes.be32(COMMIT_CHECKSUM, "h_chksum")?;
                let sound = (stored == self.crc && how == CRC32) || (stored == 0 && how == (0, 0));
                if sound {
                    self.crc = !0;
                }
                sound
            }
            Protection::V2 | Protection::V3 => {
                self.log.sound(block, COMMIT_CHECKSUM) || self.log.sound(&head_only(block), COMMIT_CHECKSUM)
            }
        };
        if !sound {
            if time < self.last_commit_time {
                return Ok(false);
            }
            self.end = Some(sequence);
            if !self.log.sb.async_commit {
                self.failed = Some(sequence);
                return Ok(false);
            }
        }
        self.last_commit_time = time;
        self.walk.commit();
        Ok(true)
    }
}

/// The block with everything after its header zeroed. A commit block is one sector of news and zeros: when only that
/// sector reached the disk, the transaction is whole all the same (`jbd2_commit_block_csum_verify_partial`).
fn head_only(block: &[u8]) -> Vec<u8> {
    let mut head = block.to_vec();
    if let Some(rest) = head.get_mut(COMMIT_SIZE..) {
        rest.fill(0);
    }
    head
}
