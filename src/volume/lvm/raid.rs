//! The superblock that dm-raid keeps on each image's metadata volume (`struct dm_raid_superblock`, drivers/md/dm-raid.c): which images
//! are behind.

use crate::block::{BlockSource, read_array};
use crate::bytes::Bytes;

const MAGIC: u32 = 0x6452_6d44;
const SECTOR: u64 = 512;

/// What one image knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    position: u32,
    events: u64,
    failed: u64,
    /// Bytes of this image that were rebuilt so far; all when it is whole.
    recovered: u64,
    /// Bytes of each image up to which the array was brought in step once; all when it was.
    synced: u64,
}

/// What all of them say together.
pub(super) struct Verdict {
    /// Images that must not be read, and why.
    pub(super) stale: Vec<(usize, String)>,
    /// Bytes of each image in which parity fits.
    pub(super) synced: u64,
}

/// The superblock on `meta`; none where the array was never started.
pub(super) fn read(meta: &dyn BlockSource) -> Option<State> {
    let raw = read_array::<64>(meta, 0).ok()?;
    let sb = Bytes::new(&raw, "dm-raid superblock");
    (sb.le32(0, "magic").ok()? == MAGIC).then_some(())?;
    Some(State {
        position: sb.le32(12, "array_position").ok()?,
        events: sb.le64(16, "events").ok()?,
        failed: sb.le64(24, "failed_devices").ok()?,
        recovered: sb.le64(32, "disk_recovery_offset").ok()?.saturating_mul(SECTOR),
        synced: sb.le64(40, "array_resync_offset").ok()?.saturating_mul(SECTOR),
    })
}

/// Weighs the superblocks against each other: the one with the most events knows best. `len` is how much of an image counts, 0 for all.
pub(super) fn judge(states: &[Option<State>], len: u64) -> Verdict {
    let Some(best) = states.iter().flatten().max_by_key(|state| state.events) else {
        return Verdict { stale: Vec::new(), synced: u64::MAX };
    };
    let newest = states.iter().flatten().filter(|state| state.events == best.events);
    let failures = newest.fold(0, |all, state| all | state.failed);
    let wanted = if len == 0 { u64::MAX } else { len };
    let mut stale = Vec::new();
    for (i, state) in states.iter().enumerate() {
        let number = u32::try_from(i).unwrap_or(u32::MAX);
        let failed = failures.checked_shr(number).unwrap_or(0) & 1 != 0;
        let why = match state {
            _ if failed => "the array had marked it as failed".to_owned(),
            // One event more is what a stop in the middle of an update leaves.
            Some(state) if state.events.saturating_add(1) < best.events => {
                format!("it is behind, at event {} of {}", state.events, best.events)
            }
            Some(state) if state.recovered < wanted => {
                format!("only its first {} bytes were rebuilt", state.recovered)
            }
            Some(state) if state.position != number => format!("it calls itself image {}", state.position),
            None | Some(_) => continue,
        };
        stale.push((i, why));
    }
    Verdict { stale, synced: best.synced }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_behind_or_failed_is_not_read() {
        let state = |position, events, failed| {
            Some(State { position, events, failed, recovered: u64::MAX, synced: u64::MAX })
        };
        let stale = |states: &[Option<State>]| judge(states, 0).stale.iter().map(|s| s.0).collect::<Vec<_>>();
        assert_eq!(stale(&[state(0, 10, 0), state(1, 9, 0)]), [0usize; 0]);
        assert_eq!(stale(&[state(0, 10, 0), state(1, 8, 0)]), [1]);
        assert_eq!(stale(&[state(0, 10, 0b10), state(1, 10, 0)]), [1]);
        assert_eq!(stale(&[None, None]), [0usize; 0]);
        assert_eq!(stale(&[state(1, 5, 0), state(1, 5, 0)]), [0]);
    }
}
