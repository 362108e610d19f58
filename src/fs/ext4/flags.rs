//! `i_flags`, named as the kernel's `EXT4_*_FL` in lower case.

pub(super) const INDEX: u32 = 0x1000;
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const ENCRYPT: u32 = 0x800;
pub(super) const EA_INODE: u32 = 0x20_0000;
pub(super) const INLINE_DATA: u32 = 0x1000_0000;
pub(super) const CASEFOLD: u32 = 0x4000_0000;

const NAMES: [(u32, &str); 29] = [
    (0x1, "secrm"),
    (0x2, "unrm"),
    (0x4, "compr"),
    (0x8, "sync"),
    (0x10, "immutable"),
    (0x20, "append"),
    (0x40, "nodump"),
    (0x80, "noatime"),
    (0x100, "dirty"),
    (0x200, "comprblk"),
    (0x400, "nocompr"),
    (ENCRYPT, "encrypt"),
    (INDEX, "index"),
    (0x2000, "imagic"),
    (0x4000, "journal_data"),
    (0x8000, "notail"),
    (0x1_0000, "dirsync"),
    (0x2_0000, "topdir"),
    (0x4_0000, "huge_file"),
    (EXTENTS, "extents"),
    (0x10_0000, "verity"),
    (EA_INODE, "ea_inode"),
    (0x40_0000, "eofblocks"),
    (0x100_0000, "snapfile"),
    (0x200_0000, "dax"),
    (INLINE_DATA, "inline_data"),
    (0x2000_0000, "projinherit"),
    (CASEFOLD, "casefold"),
    (0x8000_0000, "reserved"),
];

/// The names of the flags that are set; those without a name are left out.
pub(super) fn names(flags: u32) -> Vec<&'static str> {
    match flags {
        0 => Vec::new(),
        EXTENTS => vec!["extents"],
        _ => NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect(),
    }
}
