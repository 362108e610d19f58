//! ext2, ext3, ext4 and their external journal, told apart by their features as blkid(8) does.
//! Layout: `struct ext4_super_block`, fs/ext4/ext4.h.

use super::super::text;
use super::{Content, Probe, Row, Usage, view};

pub(super) const ROWS: &[Row] = &[Row {
    kind: "",
    usage: Usage::Filesystem,
    magics: &[(0x438, b"\x53\xef")],
    parse: |p, _| superblock(p, 0x400),
}];

const JOURNAL_DEV: u32 = 0x8;
const HAS_JOURNAL: u32 = 0x4;
/// Incompatible features that the ext2 and ext3 drivers knew: FILETYPE, META_BG; ext3 also RECOVER.
const EXT2_INCOMPAT: u32 = 0x2 | 0x10;
const EXT3_INCOMPAT: u32 = EXT2_INCOMPAT | 0x4;
/// Read-only compatible features that they knew: SPARSE_SUPER, LARGE_FILE, BTREE_DIR.
const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;

/// The superblock at `at`, whose magic is there.
fn superblock(probe: &Probe<'_>, at: u64) -> Option<Content> {
    let data = probe.bytes(at, 0x400)?;
    let sb = view(&data);
    (sb.le16(0x38, "s_magic").ok()? == 0xef53).then_some(())?;
    // Two bytes of magic are little: 64 KiB is the largest block, and there is no filesystem without blocks.
    (sb.le32(0x18, "s_log_block_size").ok()? <= 6 && sb.le32(0x4, "s_blocks_count").ok()? > 0)
        .then_some(())?;
    let compat = sb.le32(0x5c, "s_feature_compat").ok()?;
    let incompat = sb.le32(0x60, "s_feature_incompat").ok()?;
    let ro_compat = sb.le32(0x64, "s_feature_ro_compat").ok()?;
    let old = ro_compat & !EXT3_RO_COMPAT == 0;
    let kind = if incompat & JOURNAL_DEV != 0 {
        "jbd"
    } else if old && compat & HAS_JOURNAL == 0 && incompat & !EXT2_INCOMPAT == 0 {
        "ext2"
    } else if old && compat & HAS_JOURNAL != 0 && incompat & !EXT3_INCOMPAT == 0 {
        "ext3"
    } else {
        "ext4"
    };
    Some(Content {
        kind,
        label: text::label(sb.slice(0x78, 16, "s_volume_name").ok()?),
        uuid: text::uuid_set(&sb.array(0x68, "s_uuid").ok()?),
        version: None,
        usage: Usage::Filesystem,
    })
}

/// A copy of the superblock in block group 1, for blocks of 1, 2 and 4 KiB with the usual group sizes; and its place.
pub(super) fn spare(probe: &Probe<'_>) -> Option<(Content, u64)> {
    [(8193, 0u32), (16384, 1), (32768, 2)].into_iter().find_map(|(block, log): (u64, u32)| {
        let at = block.checked_mul(1024u64.checked_shl(log)?)?;
        (probe.le16(at.checked_add(0x38)?)? == 0xef53).then_some(())?;
        (probe.le16(at.checked_add(0x5a)?)? == 1 && probe.le32(at.checked_add(0x18)?)? == log)
            .then_some(())?;
        Some((superblock(probe, at)?, at))
    })
}
