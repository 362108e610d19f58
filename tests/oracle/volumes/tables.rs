//! Partition tables, sound and damaged, against what sfdisk, mmls and the crate `gpt` make of them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use coldread::volume::{Scan, Scheme};
use serde_json::Value;

use super::look;
use crate::support::{Loop, need, need_root, run, shell, temp, text};

/// Number, start and size in bytes, UUID, name.
type Row = (u32, u64, u64, String, Option<String>);

/// The table as sfdisk reads it, in sectors of `sector` bytes: what is no file of 512 is shown to it as a loop device.
fn sfdisk(image: &Path, sector: u64) -> (String, Vec<Row>) {
    let device = (sector != 512).then(|| sectored(image, sector));
    let node = device.as_ref().map_or(image.to_str().unwrap(), |device| &device.0);
    let out = run("sfdisk", &["-J", node]);
    let table: Value = serde_json::from_slice(&out).unwrap();
    let table = &table["partitiontable"];
    let disk = node.len();
    let rows = table["partitions"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|p| {
        let node = &p["node"].as_str().unwrap()[disk..];
        let uuid = p["uuid"].as_str().unwrap_or_default().to_lowercase();
        (
            node.trim_start_matches('p').parse().unwrap(),
            p["start"].as_u64().unwrap() * sector,
            p["size"].as_u64().unwrap() * sector,
            uuid,
            p["name"].as_str().map(str::to_owned),
        )
    });
    (table["label"].as_str().unwrap().to_owned(), rows.collect())
}

fn sectored(image: &Path, sector: u64) -> Loop {
    Loop(
        text(run("losetup", &["-f", "--show", "-b", &sector.to_string(), image.to_str().unwrap()]))
            .trim()
            .to_owned(),
    )
}

/// The table as it is read here. For an MBR without UUIDs, as sfdisk gives none there.
fn ours(scan: &Scan) -> Vec<Row> {
    let gpt = scan.table == Some(Scheme::Gpt);
    let rows = scan.volumes.iter().filter(|v| v.index > 0);
    rows.map(|v| {
        let uuid = v.uuid.clone().filter(|_| gpt).unwrap_or_default();
        (v.index, v.start, v.size, uuid, v.name.clone())
    })
    .collect()
}

fn agrees(image: &Path, sector: u64) -> Scan {
    let scan = look(image);
    let (label, rows) = sfdisk(image, sector);
    assert_eq!(scan.table.map(Scheme::word), Some(if label == "gpt" { "gpt" } else { "mbr" }));
    assert_eq!(u64::from(scan.sector_size), sector);
    assert_eq!(ours(&scan), rows);
    scan
}

const GPT: &str = r#"
truncate -s 64M "$1"
sgdisk -U 11111111-2222-3333-4444-555555555555 -n 1:2048:+1M -t 1:ef02 -c 1:"BIOS boot" -n 2:0:+8M -t 2:ef00 \
    -c 2:"ESP Übung" -n 5:0:+10M -t 5:8e00 -n 128:0:0 -t 128:8300 -c 128:root "$1" >/dev/null
"#;

/// Overwrites bytes of an image.
fn patch(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_gpt_is_read_as_sfdisk_and_the_crate_gpt_read_it() {
    if !need(&["sgdisk", "sfdisk"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("gpt.img");
    shell(GPT, &[&image]);
    let scan = agrees(&image, 512);
    assert_eq!((scan.problems.len(), scan.notes.len()), (0, 0), "{:?} {:?}", scan.problems, scan.notes);
    assert_eq!(scan.table_uuid.as_deref(), Some("11111111-2222-3333-4444-555555555555"));
    let kinds: Vec<_> = scan.volumes.iter().map(|v| &*v.kind).collect();
    assert_eq!(kinds, ["BIOS boot", "EFI System", "Linux LVM", "Linux filesystem"]);

    let device = std::fs::File::open(&image).unwrap();
    let table = gpt::GptConfig::new().writable(false).open_from_device(device).unwrap();
    let theirs: Vec<Row> = table
        .partitions()
        .iter()
        .map(|(number, p)| {
            let name = (!p.name.is_empty()).then(|| p.name.clone());
            let start = p.first_lba * 512;
            (*number, start, (p.last_lba + 1) * 512 - start, p.part_guid.to_string(), name)
        })
        .collect();
    assert_eq!(ours(&scan), theirs);
}

#[test]
fn a_damaged_copy_of_a_gpt_is_said_and_the_other_serves() {
    if !need(&["sgdisk", "sfdisk"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("gpt.img");
    let last = (64 << 20) - 512;
    // What is overwritten, what it has to be called, and which copy of the table serves.
    type Damage = (&'static str, Vec<(u64, &'static [u8])>, &'static str);
    let cases: [Damage; 8] = [
        ("primary header", vec![(512 + 40, b"\xff")], "the header's checksum is wrong"),
        ("primary signature", vec![(512, b"XXXXXXXX")], "there is no header at LBA 1"),
        ("primary entries", vec![(1024 + 56, b"Z")], "the checksum of its partition entries is wrong"),
        ("backup header", vec![(last + 40, b"\xff")], "the backup table at LBA 131071 is damaged"),
        ("backup signature", vec![(last, b"XXXXXXXX")], "there is no backup table at LBA 131071"),
        ("backup entries", vec![(last - 128 * 128 + 56, b"Z")], "the checksum of its partition entries"),
        ("primary wiped", vec![(0, &[0; 34 * 512])], "there is no header at LBA 1"),
        ("primary wiped, MBR kept", vec![(512, &[0; 33 * 512])], "there is no header at LBA 1"),
    ];
    shell(GPT, &[&image]);
    let sound = ours(&look(&image));
    for (what, patches, said) in cases {
        std::fs::remove_file(&image).unwrap();
        shell(GPT, &[&image]);
        let uuids: Vec<_> = ours(&look(&image)).into_iter().map(|row| row.3).collect();
        for (at, bytes) in patches {
            patch(&image, at, bytes);
        }
        let scan = look(&image);
        assert!(scan.problems.iter().any(|p| p.contains(said)), "{what}: {:?}", scan.problems);
        let rows = ours(&scan);
        let plain = |rows: &[Row]| rows.iter().map(|r| (r.0, r.1, r.2, r.4.clone())).collect::<Vec<_>>();
        assert_eq!(plain(&rows), plain(&sound), "{what}");
        assert_eq!(rows.iter().map(|row| row.3.clone()).collect::<Vec<_>>(), uuids, "{what}");
        // sfdisk needs the protective record to look for a table at all.
        if what != "primary wiped" {
            assert_eq!(rows, sfdisk(&image, 512).1, "{what}");
        }
    }
    // Both copies damaged: every program gives up; the entries still lie there.
    std::fs::remove_file(&image).unwrap();
    shell(GPT, &[&image]);
    patch(&image, 512 + 72 + 16, b"\xff");
    patch(&image, last + 72 + 16, b"\xff");
    let scan = look(&image);
    assert!(scan.problems.iter().any(|p| p.contains("both tables are damaged")), "{:?}", scan.problems);
    assert_eq!(ours(&scan).len(), 4);
}

#[test]
fn a_disk_that_grew_is_no_problem_and_one_that_was_cut_is() {
    if !need(&["sgdisk", "sfdisk"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("gpt.img");
    shell(&format!("{GPT}\ntruncate -s 100M \"$1\""), &[&image]);
    let scan = agrees(&image, 512);
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    assert!(scan.notes.iter().any(|n| n.contains("backup table is at LBA 131071")), "{:?}", scan.notes);
    // Grown, and then the primary was lost: the protective MBR still tells where the disk ended.
    let rows = ours(&scan);
    patch(&image, 512, &[0; 512]);
    let scan = look(&image);
    assert_eq!(ours(&scan), rows);
    assert!(
        scan.problems.iter().any(|p| p.contains("the backup at LBA 131071 serves")),
        "{:?}",
        scan.problems
    );

    std::fs::remove_file(&image).unwrap();
    shell(&format!("{GPT}\ntruncate -s 40M \"$1\""), &[&image]);
    let scan = look(&image);
    assert!(scan.problems.iter().any(|p| p.contains("the disk was cut")), "{:?}", scan.problems);
    let root = scan.volumes.last().unwrap();
    assert!(root.problems.iter().any(|p| p.contains("beyond the end of the disk")), "{:?}", root.problems);
    assert_eq!(ours(&scan).len(), 4);
}

#[test]
fn tables_of_other_shapes_agree_with_sfdisk() {
    if !need(&["sgdisk", "sfdisk"]) {
        return;
    }
    let dir = temp();
    let make = |name: &str, script: &str| {
        let image = dir.path().join(name);
        shell(script, &[&image]);
        image
    };
    if need_root() {
        let image = make("4k", "truncate -s 64M $1");
        let script = "printf 'label: gpt\\nsize=8M\\nsize=8M,name=b\\n' | sfdisk -q $1";
        shell(script, &[&sectored(&image, 4096).0]);
        let scan = agrees(&image, 4096);
        assert!(scan.problems.is_empty(), "{:?}", scan.problems);
        // The backup serves in these sectors too.
        patch(&image, 4096, &[0; 4096]);
        assert_eq!(agrees(&image, 4096).problems.len(), 1);
    }

    let lines = (0..1000).fold(String::new(), |lines, i| lines + &format!("size=8,name=n{i}\\n"));
    let script = format!(
        "truncate -s 64M $1; printf 'label: gpt\\ntable-length: 1024\\ngrain: 512\\nfirst-lba: 2048\\n{lines}' | sfdisk -q $1"
    );
    assert_eq!(agrees(&make("thousand", &script), 512).volumes.len(), 1000);

    let hybrid = make("hybrid", &format!("{GPT}\nsgdisk --hybrid 1:2 $1 >/dev/null"));
    let scan = look(&hybrid);
    assert_eq!(scan.table, Some(Scheme::Gpt));
    assert_eq!(ours(&scan).len(), 4);
    assert!(scan.problems.is_empty() && scan.notes.iter().any(|n| n.contains("hybrid")), "{:?}", scan.notes);

    agrees(
        &make(
            "mbr",
            "truncate -s 64M $1; printf 'label: dos\\nlabel-id: 0xdeadbeef\\nsize=8M,bootable\\nsize=8M,type=82\\n' | sfdisk -q $1",
        ),
        512,
    );
    let logical = r"truncate -s 64M $1; sfdisk -q $1 << END
label: dos
label-id: 0xdeadbeef
1 : size=8M
2 : size=40M, type=5
5 : size=4M, type=7
6 : size=3M
7 : size=3M
8 : size=3M, type=8e
3 : size=8M, type=c
END";
    let image = make("logical", logical);
    let scan = agrees(&image, 512);
    assert!(scan.volumes.iter().all(|v| v.problems.is_empty()));
    let part = scan.volumes.iter().find(|v| v.index == 6).unwrap();
    assert_eq!(part.uuid.as_deref(), Some("deadbeef-06"));

    // The Sleuth Kit's own reading of the same chain, which lists partitions by place and not by number.
    if need(&["mmls"]) {
        let lines = text(run("mmls", &["-t", "dos", image.to_str().unwrap()]));
        let mut theirs: Vec<(u64, u64)> = lines
            .lines()
            .filter(|line| {
                line.split_whitespace()
                    .nth(1)
                    .is_some_and(|slot| slot.as_bytes()[0].is_ascii_digit() && slot.contains(':'))
            })
            .map(|line| {
                let word = |n| line.split_whitespace().nth(n).unwrap().parse::<u64>().unwrap();
                (word(2) * 512, word(4) * 512)
            })
            .collect();
        theirs.sort_unstable();
        let mut here: Vec<(u64, u64)> =
            scan.volumes.iter().filter(|v| !v.kind.contains("xtended")).map(|v| (v.start, v.size)).collect();
        here.sort_unstable();
        assert_eq!(here, theirs);
    }
}
