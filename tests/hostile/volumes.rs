//! Partition tables, LVM groups and LUKS headers made to hurt.

use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::effort::Effort;
use coldread::error::Kind;
use coldread::volume::{Key, Options, scan};

use crate::harness::{Seed, failing_reads, in_child, mutate};
use crate::support::{need, need_root, shell, temp};

/// Finds all volumes, with a key, and reads some of each.
fn look(disk: &Source) {
    let options = Options {
        keys: vec![Key::new(b"pass".to_vec())],
        ..Options::new(&Cache::new(4 << 20), &Arc::new(Effort::default()))
    };
    let scan = scan(disk, &options).expect("damage is told, and is no failure");
    let mut buf = vec![0; 100_000];
    for volume in scan.volumes.iter().take(40) {
        let Some(source) = &volume.source else { continue };
        let mut at = 0;
        for _ in 0..100 {
            if at >= source.len() {
                break;
            }
            let Ok(run) = source.run_at(at) else { break };
            assert!(run.len > 0 && run.len <= source.len() - at, "{}: {run:?} at {at}", source.name());
            let take = usize::try_from(run.len.min(buf.len() as u64)).unwrap();
            let _ = source.read_at(at, &mut buf[..take]);
            at += run.len;
        }
    }
}

/// Small disks of every kind, and where their tables are.
fn seeds() -> Option<Vec<Seed>> {
    let tools = [
        "sgdisk",
        "sfdisk",
        "pvcreate",
        "vgcfgrestore",
        "thin_restore",
        "cryptsetup",
        "mkfs.vfat",
        "mkfs.ext4",
    ];
    if !need(&tools) || !need_root() {
        return None;
    }
    let dir = temp();
    shell(
        r#"cd "$1"
        truncate -s 2M gpt; sgdisk -a 8 -n 1:64:1000 -n 2:1001:2000 -n 3:2001:0 gpt >/dev/null
        truncate -s 1M mbr; sfdisk -q mbr << END
label: dos
1 : start=64, size=200
2 : start=300, size=1500, type=5
5 : start=310, size=100
6 : start=420, size=100
7 : start=530, size=100
END
        truncate -s 1M vfat; mkfs.vfat -n LABEL vfat >/dev/null
        truncate -s 1M ext; mkfs.ext4 -qF -O ^has_journal -L label ext
        truncate -s 3M pv; d=$(losetup -f --show pv); trap 'losetup -d $d' EXIT
        pvcreate -qq --devices $d $d; vgcreate -qq -s 4k --devices $d vg $d
        vgcfgbackup -qq -f text --devices $d vg
        cat > lvs << 'END'
logical_volumes {
pool_tmeta { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA1"
status = ["READ", "WRITE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 64
type = "striped"
stripe_count = 1
stripes = ["pv0", 0] } }
pool_tdata { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA2"
status = ["READ", "WRITE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 64
type = "striped"
stripe_count = 1
stripes = ["pv0", 64] } }
pool { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA3"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 64
type = "thin-pool"
metadata = "pool_tmeta"
pool = "pool_tdata"
transaction_id = 0
chunk_size = 128
discards = "passdown"
zero_new_blocks = 1 } }
thin { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA4"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 160
type = "thin"
thin_pool = "pool"
transaction_id = 0
device_id = 1 } }
striped { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA5"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 16
type = "striped"
stripe_count = 2
stripe_size = 8
stripes = ["pv0", 128, "pv0", 140] } }
cow { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA6"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 32
type = "striped"
stripe_count = 1
stripes = ["pv0", 160] } }
snapshot0 { id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA7"
status = ["READ", "WRITE"]
segment_count = 1
segment1 { start_extent = 0
extent_count = 16
type = "snapshot"
chunk_size = 8
origin = "striped"
cow_store = "cow" } }
}
END
        awk '/^}/ && !done { while ((getline line < "lvs") > 0) print line; done = 1 } { print }' text > new
        vgcfgrestore -qq --force -f new --devices $d vg
        losetup -d $d; trap - EXIT
        cat > xml << 'END'
<superblock uuid="" time="0" transaction="0" flags="0" version="2" data_block_size="128" nr_data_blocks="4">
<device dev_id="1" mapped_blocks="3" transaction="0" creation_time="0" snap_time="0">
<range_mapping origin_begin="0" data_begin="2" length="2" time="0"/>
<range_mapping origin_begin="7" data_begin="0" length="1" time="0"/>
</device>
</superblock>
END
        truncate -s 256k meta; thin_restore -q -i xml -o meta >/dev/null
        dd if=meta of=pv bs=64k seek=16 conv=notrunc status=none
        printf 'SnAp\1\0\0\0\1\0\0\0\10\0\0\0' | dd of=pv bs=1 seek=$(( (1 << 20) + 160 * 4096 )) conv=notrunc status=none
        printf '\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0' | dd of=pv bs=1 seek=$(( (1 << 20) + 161 * 4096 )) conv=notrunc status=none
        head -c 64k /dev/zero > data
        printf pass | cryptsetup reencrypt --encrypt --batch-mode --type luks2 --luks2-metadata-size 16k \
            --luks2-keyslots-size 256k --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --header luks2 --key-file - data
        truncate -s 640k luks2
        truncate -s 2200k luks1
        printf pass | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-size 256 luks1 -"#,
        &[dir.path()],
    );
    let seed = |name: &'static str, hot: &[std::ops::Range<usize>]| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        let hot = hot.iter().map(|r| r.start..r.end.min(bytes.len())).collect();
        Seed { name, bytes, hot }
    };
    let data = 1 << 20;
    Some(vec![
        seed("gpt", &[446..512, 512..604, 1024..1408, (2 << 20) - 512..(2 << 20) - 420]),
        seed("mbr", &[446..512, (300 << 9) + 446..(300 << 9) + 512, (310 << 9)..(311 << 9)]),
        seed("vfat", &[0..512, 512..4096]),
        seed("ext", &[1024..1536, 1536..2048]),
        seed(
            "pv",
            &[512..1024, 4096..4608, 4608..16384, data..data + 16384, data + 160 * 4096..data + 162 * 4096],
        ),
        seed("luks2", &[0..512, 4096..6144, 16384..16896]),
        // Not the rounds of its derivations: what is allowed there takes an unoptimised build too long.
        seed("luks1", &[0..164, 168..212, 216..256]),
    ])
}

#[test]
fn mutations() {
    let rounds = if crate::support::full() { 5000 } else { 60 };
    mutate("volumes::mutations", rounds, seeds, |bytes| {
        look(&(Arc::new(Memory::new("disk", bytes)) as Source));
    });
}

#[test]
fn reads_that_fail() {
    in_child("volumes::reads_that_fail", seeds, |seeds, note| {
        for (number, seed) in seeds.into_iter().enumerate() {
            note.turn_to(number as u64);
            let source: Source = Arc::new(Memory::new(seed.name, seed.bytes));
            failing_reads(&source, 60, |failing| look(&failing));
        }
    });
}

/// Texts that lead in circles, share parts without end or ask for more than there is.
#[test]
fn groups_that_loop() {
    in_child(
        "volumes::groups_that_loop",
        || Some(()),
        |(), note| {
            let lv = |name: &str, parts: &str| {
                format!(
                    "{name} {{\nid = \"x\"\nstatus = [\"VISIBLE\"]\nsegment1 {{\nstart_extent = 0\nextent_count = 1\n\
                 type = \"striped\"\nstripe_size = 8\nstripes = [{parts}]\n}}\n}}\n"
                )
            };
            let chain =
                (0..30).map(|i| lv(&format!("l{i}"), &format!("\"l{}\", 0, \"l{}\", 0", i + 1, i + 1)));
            let texts = [
                lv("a", "\"a\", 0"),
                lv("a", "\"b\", 0") + &lv("b", "\"a\", 0"),
                chain.collect::<String>(),
                lv("a", "\"pv0\", 18446744073709551615"),
                lv("a", "\"pv0\", 9223372036854775807"),
                lv("a", ""),
                lv("a", "\"pv0\", 0").replace("extent_count = 1", "extent_count = 9223372036854775807"),
                lv("a", "\"pv0\", 0, \"pv0\", 0").replace("stripe_size = 8", "stripe_size = 0"),
                lv("a", "\"pv0\", 0").replace("striped", "raid6"),
                lv("a", "\"pv0\", 0").replace("striped", "thin"),
                lv("a", "\"pv0\", 0").replace("start_extent = 0", "start_extent = 9223372036854775807"),
                "x {\n".repeat(50_000),
                "x = [1]\n".repeat(100_000),
            ];
            for (number, lvs) in texts.iter().enumerate() {
                note.turn_to(number as u64);
                let text = format!(
                    "vg {{\nid = \"v\"\nseqno = 1\nextent_size = 8\nphysical_volumes {{\npv0 {{\nid = \"{}\"\npe_start = 2048\n\
                 pe_count = 9223372036854775807\n}}\n}}\nlogical_volumes {{\n{lvs}\n}}\n}}\n\0",
                    "A".repeat(32)
                );
                look(&(Arc::new(Memory::new("pv", device(text.as_bytes()))) as Source));
            }
        },
    );
}

/// LVM's checksum: a CRC-32 that starts from its own number and is not inverted.
fn checksum(data: &[u8]) -> u32 {
    data.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// A device whose ring holds `text`, all checksums right.
fn device(text: &[u8]) -> Vec<u8> {
    let mut raw = vec![0; 2 << 20];
    let put = |raw: &mut Vec<u8>, at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut raw, 512, b"LABELONE\x01");
    put(&mut raw, 512 + 20, &32u32.to_le_bytes());
    put(&mut raw, 512 + 24, b"LVM2 001");
    put(&mut raw, 512 + 32, &[b'A'; 32]);
    for (at, long) in [(72, 1u64 << 20), (104, 4096), (112, (1 << 20) - 4096)] {
        put(&mut raw, 512 + at, &long.to_le_bytes());
    }
    let crc = checksum(&raw[512 + 20..1024]);
    put(&mut raw, 512 + 16, &crc.to_le_bytes());
    put(&mut raw, 4096 + 4, b" LVM2 x[5A%r0N*>\x01\0\0\0");
    for (at, long) in [(24, 4096u64), (32, (1 << 20) - 4096), (40, 512), (48, text.len() as u64)] {
        put(&mut raw, 4096 + at, &long.to_le_bytes());
    }
    put(&mut raw, 4096 + 56, &checksum(text).to_le_bytes());
    let crc = checksum(&raw[4096 + 4..4096 + 512]);
    put(&mut raw, 4096, &crc.to_le_bytes());
    put(&mut raw, 4096 + 512, text);
    raw
}

#[test]
fn a_cancelled_scan_ends() {
    let cancelled = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let options = Options::new(&Cache::new(1 << 20), &Effort::new(cancelled));
    let disk: Source = Arc::new(Memory::new("disk", vec![0; 1 << 20]));
    assert_eq!(scan(&disk, &options).err().map(|e| e.kind()), Some(Kind::Io));
}
