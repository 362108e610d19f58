//! What a volume holds: the answers of blkid(8), over images by others and over fresh ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coldread::effort::Effort;
use coldread::volume::detect::detect;
use coldread::volume::{Content, Scheme};

use super::disk;
use crate::support::{corpus, need, output, run, shell, temp, text};

fn found(path: &Path) -> Option<Content> {
    detect(&*disk(path), &Effort::default()).unwrap().content
}

/// `KEY=value` lines.
fn pairs(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Undoes blkid's `\x20` in an encoded value; bytes that are no characters stay escaped, as they do here.
fn decode(value: &str) -> String {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(1..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        match hex {
            Some(byte) if *first == b'\\' && tail[0] == b'x' && byte.is_ascii() => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

/// Samples of formats that are not told apart here, and why each may be left out.
const LEFT_OUT: &[&str] = &[
    // Firmware RAID of PC mainboards, file systems and volumes that no cloud guest has.
    "adaptec-raid",
    "hpt37x-raid",
    "hpt45x-raid",
    "jmicron-raid",
    "promise-raid",
    "silicon-raid",
    "via-raid",
    "befs",
    "bfs",
    "minix-BE",
    "minix-LE",
    "mpool",
    "netware",
    "scoutfs_data",
    "scoutfs_meta",
    "vxfs-be",
    "vxfs-le",
    "drbdmanage-control-volume",
    "xfs-log",
    // Two filesystems in one, for disks of 512 and of 4096 byte sectors.
    "udf-hdd-mkudffs-1.3-7",
];

#[test]
fn the_samples_of_blkid_are_named_as_blkid_names_them() {
    let Some(corpus) = corpus() else { return };
    if !need(&["xz"]) {
        return;
    }
    let root = corpus.join("util-linux-blkid");
    let mut images: Vec<PathBuf> = std::fs::read_dir(root.join("ts/blkid/images-fs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    images.sort();
    let dir = temp();
    let (mut wrong, mut right) = (Vec::new(), 0);
    for image in images {
        let name = image.file_name().unwrap().to_str().unwrap().trim_end_matches(".img.xz").to_owned();
        let Ok(wanted) =
            std::fs::read_to_string(root.join("expected/blkid").join(format!("low-probe-{name}")))
        else {
            // Several sessions of one disc: told by where to look, which is not ours to ask.
            continue;
        };
        if LEFT_OUT.contains(&&*name) {
            continue;
        }
        let raw = dir.path().join("image");
        shell("xz -dc \"$1\" > \"$2\"", &[&image, &raw]);
        let wanted = pairs(&wanted);
        let value = |key: &str| wanted.get(key).map(|v| decode(v));
        let got = found(&raw);
        let got = got.as_ref();
        let line = (
            got.map(|c| c.kind.to_owned()),
            got.and_then(|c| c.label.clone()),
            got.and_then(|c| c.uuid.clone()),
        );
        let expected = (value("ID_FS_TYPE"), value("ID_FS_LABEL_ENC"), value("ID_FS_UUID_ENC"));
        if line == expected {
            right += 1;
        } else {
            wrong.push(format!("{name}: {line:?}, blkid: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{right} right, wrong:\n{}", wrong.join("\n"));
    assert!(right > 70, "only {right} samples were there");
}

/// How fresh images are made: the kind that has to be found, the program, and the command with the image as `$1`.
const MAKERS: &[(&str, &str, &str)] = &[
    ("ext2", "mkfs.ext2", "mkfs.ext2 -qF -L old $1"),
    ("ext3", "mkfs.ext3", "mkfs.ext3 -qF -L 'three words ' $1"),
    ("ext4", "mkfs.ext4", "mkfs.ext4 -qF -L root-ünïcode $1"),
    ("ext4", "mkfs.ext4", "mkfs.ext4 -qF -O ^has_journal $1"),
    ("ext4", "mkfs.ext4", "mkfs.ext4 -qF -b 1024 -O ^metadata_csum,bigalloc $1"),
    ("jbd", "mkfs.ext4", "mke2fs -qF -O journal_dev $1"),
    ("xfs", "mkfs.xfs", "truncate -s 320M $1; mkfs.xfs -q -L data -s size=512 $1"),
    ("xfs", "mkfs.xfs", "truncate -s 320M $1; mkfs.xfs -q -m crc=0 -b size=1024 $1"),
    ("btrfs", "mkfs.btrfs", "truncate -s 128M $1; mkfs.btrfs -q -L 'a label' $1"),
    ("vfat", "mkfs.vfat", "mkfs.vfat -F 12 -n TWELVE -s 64 $1"),
    ("vfat", "mkfs.vfat", "mkfs.vfat -F 16 -n SIXTEEN $1"),
    ("vfat", "mkfs.vfat", "mkfs.vfat -F 32 -n config-2 $1"),
    ("vfat", "mkfs.vfat", "mkfs.vfat -F 32 -S 4096 $1"),
    ("exfat", "mkfs.exfat", "mkfs.exfat -L ephemeral $1"),
    ("ntfs", "mkntfs", "mkntfs -QqF -L Datenträger -c 4096 $1"),
    ("iso9660", "genisoimage", "mkdir $1.d; genisoimage -quiet -V config-2 -J -r -o $1 $1.d"),
    ("iso9660", "genisoimage", "mkdir $1.d; genisoimage -quiet -V 'cidata' -o $1 $1.d"),
    ("udf", "genisoimage", "mkdir $1.d; genisoimage -quiet -V bridge -udf -o $1 $1.d"),
    ("squashfs", "mksquashfs", "mkdir $1.d; echo > $1.d/f; mksquashfs $1.d $1 -quiet -no-progress -noappend"),
    ("swap", "mkswap", "mkswap -L swap1 $1"),
    ("swap", "mkswap", "mkswap -p 65536 $1"),
    ("LVM2_member", "pvcreate", "d=$(losetup -f --show $1); pvcreate -qq --devices $d $d; losetup -d $d"),
    (
        "crypto_LUKS",
        "cryptsetup",
        "echo x | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 $1",
    ),
    (
        "crypto_LUKS",
        "cryptsetup",
        "echo x | cryptsetup -q luksFormat --type luks2 --label secret --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $1",
    ),
];

#[test]
fn fresh_images_are_named_as_blkid_names_them() {
    let dir = temp();
    for (i, (kind, program, script)) in MAKERS.iter().enumerate() {
        if !need(&["blkid", program]) {
            continue;
        }
        let image = dir.path().join(format!("{i}"));
        shell(&format!("truncate -s 64M $1; {{ {script}; }} >/dev/null 2>&1"), &[&image]);
        let blkid = |tag: &str| {
            let out = output("blkid", &["-p", "-s", tag, "-o", "value", image.to_str().unwrap()]);
            let value = text(out.stdout).trim_end_matches('\n').to_owned();
            (!value.is_empty()).then_some(value)
        };
        let found = found(&image).unwrap_or_else(|| panic!("nothing found: {script}"));
        assert_eq!(found.kind, *kind, "{script}");
        let ours = (Some(found.kind.to_owned()), found.label, found.uuid);
        assert_eq!(ours, (blkid("TYPE"), blkid("LABEL"), blkid("UUID")), "{script}");
    }
}

#[test]
fn a_spare_superblock_stands_in_for_a_wiped_one() {
    let dir = temp();
    let image = dir.path().join("image");
    let cases = [
        ("ext4", "mkfs.ext4", "mkfs.ext4 -qF -b 4096 -L x $1", 1024),
        ("ext2", "mkfs.ext2", "mkfs.ext2 -qF -b 1024 -L x $1", 1024),
        ("btrfs", "mkfs.btrfs", "mkfs.btrfs -q -L x $1", 0x10000),
        ("ntfs", "mkntfs", "mkntfs -QqF -L x $1", 0),
    ];
    for (kind, program, script, at) in cases {
        if !need(&[program]) {
            continue;
        }
        shell(&format!("rm -f $1; truncate -s 256M $1; {{ {script}; }} >/dev/null 2>&1"), &[&image]);
        let sound = found(&image).unwrap();
        run(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={}", image.display()),
                "bs=512",
                "count=2",
                "conv=notrunc",
                "oflag=seek_bytes",
                &format!("seek={at}"),
                "status=none",
            ],
        );
        let answer = detect(&*disk(&image), &Effort::default()).unwrap();
        assert_eq!(answer.content, Some(sound), "{kind}");
        assert!(answer.problems.iter().any(|p| p.contains("is damaged")), "{:?}", answer.problems);
    }
}

#[test]
fn a_disk_is_its_table_or_its_filesystem_as_blkid_takes_it() {
    if !need(&["sfdisk", "mkfs.vfat", "mkfs.ext4", "blkid"]) {
        return;
    }
    let dir = temp();
    let make = |name: &str, script: &str| {
        let image = dir.path().join(name);
        shell(&format!("truncate -s 64M $1; {{ {script}; }} >/dev/null 2>&1"), &[&image]);
        super::look(&image)
    };
    // A FAT boot sector ends in the signature of a boot record and is none.
    let scan = make("fat", "mkfs.vfat -n EPHEMERAL $1");
    assert_eq!((scan.table, scan.volumes.len()), (None, 1));
    let volume = &scan.volumes[0];
    assert_eq!((volume.index, volume.scheme.word(), volume.size), (0, "whole", 64 << 20));
    assert_eq!(volume.content.as_ref().unwrap().label.as_deref(), Some("EPHEMERAL"));
    // A filesystem that lay on the whole disk before it was partitioned is no volume, and is told.
    let scan = make("stale", "mkfs.ext4 -qF $1; echo 'start=2048' | sfdisk -q --wipe never $1");
    assert_eq!(scan.volumes.iter().map(|v| v.index).collect::<Vec<_>>(), [1]);
    assert!(scan.notes.iter().any(|n| n.contains("ext4")), "{:?}", scan.notes);
    // Nothing at all is one empty volume.
    let scan = make("empty", "true");
    assert_eq!((scan.table, scan.volumes.len()), (None, 1));
    assert!(scan.volumes[0].content.is_none() && scan.problems.is_empty());
    // An empty table holds no partition.
    let scan = make("bare", "echo 'label: dos' | sfdisk -q $1");
    assert_eq!((scan.table.map(Scheme::word), scan.volumes.len()), (Some("mbr"), 1));
}
