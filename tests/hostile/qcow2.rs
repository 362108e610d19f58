//! qcow2 images made to hurt.

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::chain::disk::Disk;
use coldread::error::{Kind, Result};
use coldread::image::qcow2::Qcow2;

use crate::harness::{Seed, failing_reads, in_child, mutate};
use crate::support::{need, shell, temp};

/// Opens an image and looks at all that it says, within what a test can spend.
fn look(file: Source) -> Result<()> {
    let cache = Cache::new(4 << 20);
    let image = Qcow2::open(file, &cache)?;
    let (snapshots, _) = image.snapshots();
    let mut disks = vec![image.clone()];
    disks.extend(snapshots.iter().take(4).filter_map(|s| image.at_snapshot(s).ok()));
    let mut failed = None;
    for disk in disks {
        let disk = Disk::new("disk", vec![Arc::new(disk)], &cache)?;
        let (mut at, mut runs) = (0, 0);
        let mut buf = vec![0; 100_000];
        while at < disk.len() && runs < 500 {
            let run = disk.run_at(at)?;
            assert!(run.len > 0 && run.len <= disk.len() - at);
            let take = usize::try_from(run.len.min(100_000)).unwrap();
            failed = disk.read_at(at, &mut buf[..take]).err().or(failed);
            at += run.len;
            runs += 1;
        }
    }
    failed.map_or(Ok(()), Err)
}

fn read(bytes: &[u8]) {
    let _ = look(Arc::new(Memory::new("image", bytes)));
}

/// Small images of every kind, and where their headers and tables are.
fn seeds() -> Option<Vec<Seed>> {
    if !need(&["qemu-img", "qemu-io"]) {
        return None;
    }
    let dir = temp();
    shell(
        r#"cd "$1"
        make() {
            qemu-img create -q -f qcow2 -o "$2" "$1" 3M
            qemu-io -c 'write -P 1 0 100k' -c 'write -c -P 2 256k 64k' -c 'write -c -P 3 320k 64k' \
                -c 'write -P 4 2900k 100k' -c 'write -P 5 1M 20k' "$1" >/dev/null
            qemu-img snapshot -c one "$1"
            qemu-io -c 'write -P 6 1M 64k' -c 'write -c -P 7 512k 64k' "$1" >/dev/null
        }
        make v2 compat=0.10,cluster_size=4k
        make v3 cluster_size=512
        make zstd compression_type=zstd,cluster_size=64k
        make ext extended_l2=on,cluster_size=16k,compression_type=zstd
        qemu-io -c 'write -z 1M 64k' -c 'discard 64k 64k' v3 >/dev/null
        qemu-io -c 'write -z 1030k 8k' ext >/dev/null"#,
        &[dir.path()],
    );
    let seed = |name: &'static str| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        let word =
            |at: usize| usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
        let (l1, snapshots) = (word(40), word(64));
        let l1_len = 8 * u32::from_be_bytes(bytes[36..40].try_into().unwrap()) as usize;
        let mut hot = vec![0..112, 112..512, l1..l1 + l1_len, snapshots..snapshots + 128];
        for entry in (l1..l1 + l1_len).step_by(8) {
            let l2 = word(entry) & 0x00ff_ffff_ffff_fe00;
            if l2 != 0 && l2 < bytes.len() {
                hot.push(l2..(l2 + 1024).min(bytes.len()));
            }
        }
        Seed { name, bytes, hot }
    };
    Some(["v2", "v3", "zstd", "ext"].map(seed).into())
}

#[test]
fn mutations() {
    let rounds = if crate::support::full() { 20_000 } else { 300 };
    mutate("qcow2::mutations", rounds, seeds, read);
}

#[test]
fn reads_that_fail() {
    in_child("qcow2::reads_that_fail", seeds, |seeds, note| {
        for (number, seed) in seeds.into_iter().enumerate() {
            note.turn_to(number as u64);
            let source: Source = Arc::new(Memory::new(seed.name, seed.bytes));
            look(Arc::clone(&source)).unwrap();
            let reads = failing_reads(&source, 500, |failing| {
                if let Err(error) = look(failing) {
                    assert_eq!(error.kind(), Kind::Io, "{error}");
                }
            });
            assert!(reads > 5, "{}: only {reads} reads", seed.name);
        }
    });
}

/// A version 3 header of 512-byte clusters for a disk of `size` bytes, its L1 table of `entries` at `l1`.
fn header(size: u64, l1: u64, entries: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &entries.to_be_bytes());
    put(40, &l1.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn kind(bytes: Vec<u8>) -> Option<Kind> {
    look(Arc::new(Memory::new("image", bytes))).err().map(|error| error.kind())
}

/// One named fault each, and what it has to be called.
#[test]
fn crafted() {
    in_child(
        "qcow2::crafted",
        || Some(()),
        |(), note| {
            type Craft = (&'static str, Option<Kind>, fn(&mut Vec<u8>));
            let cases: &[Craft] = &[
                ("sound and empty", None, |_| {}),
                ("an L1 table of 64 MiB", Some(Kind::Corrupt), |b| put(b, 36, &(8u32 << 20).to_be_bytes())),
                ("an L1 table at 2^63", Some(Kind::Corrupt), |b| put(b, 40, &(1u64 << 63).to_be_bytes())),
                ("an L1 table past the end", Some(Kind::Corrupt), |b| {
                    put(b, 40, &(1u64 << 40).to_be_bytes());
                }),
                ("an L1 table off a cluster", Some(Kind::Corrupt), |b| put(b, 40, &513u64.to_be_bytes())),
                ("a disk of 2^63", Some(Kind::Corrupt), |b| put(b, 24, &(1u64 << 63).to_be_bytes())),
                ("a disk of 2^64 - 1", Some(Kind::Corrupt), |b| put(b, 24, &u64::MAX.to_be_bytes())),
                ("clusters of 2^8", Some(Kind::Corrupt), |b| put(b, 20, &8u32.to_be_bytes())),
                ("clusters of 2^22", Some(Kind::Corrupt), |b| put(b, 20, &22u32.to_be_bytes())),
                ("clusters of 2^(2^32 - 1)", Some(Kind::Corrupt), |b| put(b, 20, &u32::MAX.to_be_bytes())),
                ("a header of 103 bytes", Some(Kind::Corrupt), |b| put(b, 100, &103u32.to_be_bytes())),
                ("a header of 105 bytes", None, |b| put(b, 100, &105u32.to_be_bytes())),
                ("a header of 2^32 - 1 bytes", Some(Kind::Corrupt), |b| put(b, 100, &u32::MAX.to_be_bytes())),
                ("version 4", Some(Kind::Unsupported), |b| put(b, 4, &4u32.to_be_bytes())),
                ("an unknown feature", Some(Kind::Unsupported), |b| put(b, 72, &(1u64 << 63).to_be_bytes())),
                ("encryption", Some(Kind::Unsupported), |b| put(b, 32, &2u32.to_be_bytes())),
                ("an unknown encryption", Some(Kind::Unsupported), |b| put(b, 32, &3u32.to_be_bytes())),
                ("refcounts of 2^7 bits", Some(Kind::Corrupt), |b| put(b, 96, &7u32.to_be_bytes())),
                ("refcounts all over", None, |b| put(b, 48, &[0xff; 12])),
                ("65537 snapshots", Some(Kind::Corrupt), |b| put(b, 60, &65_537u32.to_be_bytes())),
                ("65536 snapshots past the end", None, |b| {
                    put(b, 60, &65_536u32.to_be_bytes());
                    put(b, 64, &(1u64 << 50).to_be_bytes());
                }),
                ("snapshots over each other", None, |b| {
                    put(b, 60, &65_536u32.to_be_bytes());
                    put(b, 64, &512u64.to_be_bytes());
                }),
                ("a backing name of 1024 bytes", Some(Kind::Corrupt), |b| {
                    put(b, 8, &200u64.to_be_bytes());
                    put(b, 16, &1024u32.to_be_bytes());
                }),
                ("a backing name past the cluster", Some(Kind::Corrupt), |b| {
                    put(b, 8, &500u64.to_be_bytes());
                    put(b, 16, &100u32.to_be_bytes());
                }),
                ("a backing name at 2^64 - 1", Some(Kind::Corrupt), |b| {
                    put(b, 8, &u64::MAX.to_be_bytes());
                    put(b, 16, &1u32.to_be_bytes());
                }),
                ("an extension past the cluster", Some(Kind::Corrupt), |b| {
                    put(b, 104, &0xe279_2acau32.to_be_bytes());
                    put(b, 108, &u32::MAX.to_be_bytes());
                }),
                ("an L1 entry that is the L1 table", None, |b| put(b, 1024, &1024u64.to_be_bytes())),
                ("an L2 table past the end", Some(Kind::Corrupt), |b| {
                    put(b, 1024, &(1u64 << 50).to_be_bytes());
                }),
                ("an L2 table off a sector", Some(Kind::Corrupt), |b| {
                    put(b, 1024, &1536u64.to_be_bytes());
                    put(b, 1536, &(1u64 << 55).to_be_bytes());
                }),
                ("a compressed cluster past the end", Some(Kind::Corrupt), |b| {
                    put(b, 1024, &1536u64.to_be_bytes());
                    put(b, 1536, &((1u64 << 62) | (1 << 50)).to_be_bytes());
                }),
                ("a compressed cluster that is the header", Some(Kind::Corrupt), |b| {
                    put(b, 1024, &1536u64.to_be_bytes());
                    put(b, 1536, &(1u64 << 62).to_be_bytes());
                }),
                ("a data cluster that is its own L2 table", None, |b| {
                    put(b, 1024, &1536u64.to_be_bytes());
                    put(b, 1536, &1536u64.to_be_bytes());
                }),
            ];
            for (number, (name, wanted, craft)) in cases.iter().enumerate() {
                note.turn_to(number as u64);
                let mut bytes = header(100 << 10, 1024, 4);
                craft(&mut bytes);
                assert_eq!(kind(bytes), *wanted, "{name}");
            }
            note.turn_to(1000);
            assert_eq!(kind(b"QFI\xfb".to_vec()), Some(Kind::Corrupt), "nothing but the magic");
            assert_eq!(kind(Vec::new()), Some(Kind::Corrupt), "nothing");
        },
    );
}
