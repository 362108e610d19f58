//! LVM2 against its own tools. Groups are described to `vgcfgrestore`, read back by `lvs`, and filled by hand: the kernel's
//! device-mapper is not asked, so that the tests run where it is missing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use coldread::block::State;
use coldread::volume::{Scan, Scheme, Volume, scan_all};

use super::{disk, options};
use crate::support::{Loop, corpus, need, need_root, run, shell, temp, text};

const EXTENT: u64 = 64 << 10;
/// Where `pvcreate` puts the first extent.
const DATA: u64 = 1 << 20;

/// Physical volumes as files, and the group `vg` over them.
struct Lab {
    dir: tempfile::TempDir,
    count: usize,
}

fn ready() -> bool {
    need(&["vgcfgrestore", "lvs", "pvcreate", "losetup"]) && need_root()
}

impl Lab {
    /// `count` devices of 8 MiB with the logical volumes of `volumes`, in the words of LVM's text.
    fn new(count: usize, volumes: &str) -> Self {
        let lab = Self { dir: temp(), count };
        for i in 0..count {
            File::create(lab.image(i)).unwrap().set_len(8 << 20).unwrap();
        }
        let (loops, list) = lab.attach();
        let devices: Vec<&str> = loops.iter().map(|l| &*l.0).collect();
        let tool = |args: &[&str]| {
            let mut all = vec!["-qq", "--devices", &list];
            all.extend(&args[1..]);
            run(args[0], &all)
        };
        tool(&[&["pvcreate"], &*devices].concat());
        tool(&[&["vgcreate", "-s", "64k", "vg"], &*devices].concat());
        let file = lab.dir.path().join("vg.txt");
        let file = file.to_str().unwrap();
        tool(&["vgcfgbackup", "-f", file, "vg"]);
        let plain = std::fs::read_to_string(file).unwrap();
        // Before the brace that ends the group.
        let end = plain.rfind("\n}").unwrap();
        let (head, tail) = plain.split_at(end);
        std::fs::write(file, format!("{head}\nlogical_volumes {{\n{volumes}\n}}\n{tail}")).unwrap();
        tool(&["vgcfgrestore", "--force", "-f", file, "vg"]);
        drop(loops);
        lab
    }

    fn image(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("pv{i}"))
    }

    fn attach(&self) -> (Vec<Loop>, String) {
        let loops: Vec<Loop> = (0..self.count).map(|i| Loop::new(&self.image(i), false)).collect();
        let list = loops.iter().map(|l| l.0.clone()).collect::<Vec<_>>().join(",");
        (loops, list)
    }

    /// Writes to a device, `at` from its first extent on.
    fn put(&self, pv: usize, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(self.image(pv)).unwrap().write_all_at(bytes, DATA + at).unwrap();
    }

    /// The group as it is read here, without the devices in `missing`.
    fn look(&self, missing: &[usize]) -> Scan {
        let disks: Vec<_> =
            (0..self.count).filter(|i| !missing.contains(i)).map(|i| disk(&self.image(i))).collect();
        let mut scans = scan_all(&disks, &options()).unwrap();
        let mut all = scans.remove(0);
        for scan in scans {
            all.volumes.extend(scan.volumes);
        }
        all
    }

    /// What `lvs` makes of it: name, size, kind and UUID of each visible volume, in the order of their names.
    fn lvs(&self) -> Vec<(String, u64, String, String)> {
        let (_loops, list) = self.attach();
        let fields = "vg_name,lv_name,lv_size,segtype,lv_uuid";
        let args =
            ["--devices", &list, "--noheadings", "--units", "b", "--nosuffix", "--separator", ";", "-o"];
        let out = text(run("lvs", &[&args[..], &[fields, "-O", "lv_name"]].concat()));
        let mut rows: Vec<_> = out
            .lines()
            .map(|line| {
                let mut words = line.trim().split(';').map(str::to_owned);
                let (vg, lv) = (words.next().unwrap(), words.next().unwrap());
                let (size, kind) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
                (format!("{vg}/{lv}"), size, kind, words.next().unwrap())
            })
            .collect();
        rows.dedup();
        rows
    }
}

/// Our rows beside those of `lvs`.
fn ours(scan: &Scan) -> Vec<(String, u64, String, String)> {
    let lvs = scan.volumes.iter().filter(|v| v.scheme == Scheme::Lvm);
    let mut rows: Vec<_> =
        lvs.map(|v| (v.name.clone().unwrap(), v.size, v.kind.clone(), v.uuid.clone().unwrap())).collect();
    rows.sort();
    rows
}

fn volume<'a>(scan: &'a Scan, name: &str) -> &'a Volume {
    scan.volumes.iter().find(|v| v.name.as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name}"))
}

fn bytes(volume: &Volume) -> Vec<u8> {
    let source = volume.source.as_ref().unwrap_or_else(|| panic!("{:?}", volume.problems));
    let mut out = vec![0; usize::try_from(source.len()).unwrap()];
    source.read_at(0, &mut out).unwrap();
    crate::support::laws::laws(&**source);
    out
}

/// Bytes that are different everywhere.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|i| (seed << 40 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// A logical volume's text: its flags, and its segments with their first extents and lengths.
fn lv(name: &str, flags: &str, segments: &[(u64, u64, &str)]) -> String {
    let id = format!("{:A<32}", name.replace('_', "x").chars().take(32).collect::<String>());
    let cuts = [0, 6, 10, 14, 18, 22, 26, 32];
    let id = cuts.windows(2).map(|w| &id[w[0]..w[1]]).collect::<Vec<_>>().join("-");
    let mut out = format!(
        "{name} {{\nid = \"{id}\"\nstatus = [\"READ\", \"WRITE\"{flags}]\nflags = []\nsegment_count = {}\n",
        segments.len()
    );
    for (i, (start, count, rest)) in segments.iter().enumerate() {
        let body = format!("start_extent = {start}\nextent_count = {count}\n{rest}\n");
        out += &["segment", &(i + 1).to_string(), " {\n", &body, "}\n"].concat();
    }
    out + "}\n"
}

const VISIBLE: &str = ", \"VISIBLE\"";

fn linear(pv: usize, extent: u64) -> String {
    format!("type = \"striped\"\nstripe_count = 1\nstripes = [\"pv{pv}\", {extent}]")
}

#[test]
fn linear_and_striped_volumes_over_several_devices() {
    if !ready() {
        return;
    }
    let stripes = "type = \"striped\"\nstripe_count = 3\nstripe_size = 32\nstripes = [\"pv2\", 8, \"pv0\", 20, \"pv1\", 3]";
    let lab = Lab::new(
        3,
        &[
            lv("linear", VISIBLE, &[(0, 5, &linear(1, 40)), (5, 3, &linear(0, 2)), (8, 1, &linear(0, 0))]),
            lv("striped", VISIBLE, &[(0, 6, stripes), (6, 2, &linear(2, 50))]),
        ]
        .concat(),
    );
    for pv in 0..3 {
        lab.put(pv, 0, &pattern(pv as u64 + 1, 6 << 20));
    }
    let scan = lab.look(&[]);
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    // `lvs` tells the kind of each segment; here it is the first one's.
    let mut rows = lab.lvs();
    rows.dedup_by_key(|row| row.0.clone());
    let ours = ours(&scan);
    assert_eq!(
        ours.iter().map(|r| (&r.0, r.1, &r.3)).collect::<Vec<_>>(),
        rows.iter().map(|r| (&r.0, r.1, &r.3)).collect::<Vec<_>>()
    );

    let data: Vec<Vec<u8>> = (0..3).map(|pv| pattern(pv + 1, 6 << 20)).collect();
    let cut = |pv: usize, extent: u64, count: u64| {
        data[pv][usize::try_from(extent * EXTENT).unwrap()..][..usize::try_from(count * EXTENT).unwrap()]
            .to_vec()
    };
    assert!(bytes(volume(&scan, "vg/linear")) == [cut(1, 40, 5), cut(0, 2, 3), cut(0, 0, 1)].concat());
    let (a, b, c) = (cut(2, 8, 2), cut(0, 20, 2), cut(1, 3, 2));
    let mut wanted = Vec::new();
    for ((a, b), c) in a.chunks(16 << 10).zip(b.chunks(16 << 10)).zip(c.chunks(16 << 10)) {
        wanted.extend([a, b, c].concat());
    }
    wanted.extend(cut(2, 50, 2));
    assert!(bytes(volume(&scan, "vg/striped")) == wanted);
    assert_eq!(volume(&scan, "vg/linear").start, DATA + 40 * EXTENT);

    // Without pv1, what lies there is a gap with its place, and the rest is read.
    let scan = lab.look(&[1]);
    assert!(
        scan.problems.iter().any(|p| p.contains("pv1") && p.contains("is missing")),
        "{:?}",
        scan.problems
    );
    let linear = volume(&scan, "vg/linear");
    assert!(linear.problems[0].contains("327680 bytes from 0 on are lost"), "{:?}", linear.problems);
    let source = linear.source.as_ref().unwrap();
    crate::support::laws::laws(&**source);
    let error = source.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(error.range() == Some(0..5 * EXTENT) && error.what().contains("pv1"), "{error}");
    let mut rest = vec![0; usize::try_from(4 * EXTENT).unwrap()];
    source.read_at(5 * EXTENT, &mut rest).unwrap();
    assert!(rest == [cut(0, 2, 3), cut(0, 0, 1)].concat());
    let striped = volume(&scan, "vg/striped").source.as_ref().unwrap();
    assert_eq!(striped.run_at(32 << 10).unwrap().state, State::Lost);
    assert_eq!(striped.run_at(16 << 10).unwrap().state, State::Data);
}

/// A RAID volume's text over as many devices as it has images: images of `extents` from extent 1 on.
fn raid(kind: &str, images: usize, extents: u64, total: u64, more: &str) -> String {
    let mut out = String::new();
    for i in 0..images {
        if kind != "raid0" {
            out += &lv(&format!("r_rmeta_{i}"), "", &[(0, 1, &linear(i, 0))]);
        }
        out += &lv(&format!("r_rimage_{i}"), "", &[(0, extents, &linear(i, 1))]);
    }
    let list = |names: &dyn Fn(usize) -> String| (0..images).map(names).collect::<Vec<_>>().join(", ");
    let raids = if kind == "raid0" {
        format!("raid0_lvs = [{}]", list(&|i| format!("\"r_rimage_{i}\"")))
    } else {
        format!("region_size = 128\nraids = [{}]", list(&|i| format!("\"r_rmeta_{i}\", \"r_rimage_{i}\"")))
    };
    let body = format!("type = \"{kind}\"\ndevice_count = {images}\n{more}\n{raids}");
    out + &lv("r", VISIBLE, &[(0, total, &body)])
}

const CHUNK: u64 = 16 << 10;

/// Lays chunks out as a table says, a row a line and a device a column: numbers, `P`, `Q`; the table repeats.
fn lay(lab: &Lab, table: &[&str], rows: u64) -> Vec<u8> {
    let data = table[0].split(' ').filter(|c| c.parse::<u64>().is_ok()).count() as u64;
    let mirrored = table.iter().flat_map(|line| line.split(' ')).all(|c| c.parse::<u64>().is_ok());
    let per_table = if mirrored {
        1 + table.iter().flat_map(|line| line.split(' ')).map(|c| c.parse::<u64>().unwrap()).max().unwrap()
    } else {
        data * table.len() as u64
    };
    let count = per_table * rows / table.len() as u64;
    for row in 0..rows {
        let line = table[usize::try_from(row).unwrap() % table.len()];
        let base = row / table.len() as u64 * per_table;
        let cells: Vec<_> =
            line.split(' ').map(|cell| cell.parse().ok().map(|n: u64| pattern(base + n, CHUNK))).collect();
        let mut parity = vec![0; usize::try_from(CHUNK).unwrap()];
        for chunk in cells.iter().flatten() {
            parity.iter_mut().zip(chunk).for_each(|(p, b)| *p ^= b);
        }
        for (device, (cell, chunk)) in line.split(' ').zip(&cells).enumerate() {
            let second = vec![0x51; parity.len()];
            let chunk = chunk.as_ref().unwrap_or(if cell == "P" { &parity } else { &second });
            lab.put(device, EXTENT + row * CHUNK, chunk);
        }
    }
    (0..count).flat_map(|n| pattern(n, CHUNK)).collect()
}

#[test]
fn raid_volumes_whole_and_with_a_device_missing() {
    if !ready() {
        return;
    }
    let chunk = "stripe_size = 32";
    // Kind, extents of an image, extents of the volume, its table (as in dm-raid's documentation), devices it can lack.
    type Case = (&'static str, u64, u64, &'static [&'static str], &'static [usize]);
    let cases: &[Case] = &[
        ("raid5_ls", 6, 12, &["0 1 P", "3 P 2", "P 4 5"], &[0, 1, 2]),
        ("raid5_la", 6, 12, &["0 1 P", "2 P 3", "P 4 5"], &[1]),
        ("raid5_rs", 6, 12, &["P 0 1", "3 P 2", "4 5 P"], &[2]),
        ("raid4", 6, 12, &["P 0 1"], &[0, 1]),
        ("raid6_zr", 5, 15, &["P Q 0 1 2", "3 P Q 4 5", "6 7 P Q 8", "9 10 11 P Q", "Q 12 13 14 P"], &[0, 3]),
        ("raid6_nc", 5, 15, &["0 1 2 Q P", "4 5 Q P 3", "8 Q P 6 7", "Q P 9 10 11", "P 12 13 14 Q"], &[1, 4]),
        ("raid10", 6, 12, &["0 0 1 1"], &[0, 3]),
        ("raid10", 6, 15, &["0 0 1 1 2", "2 3 3 4 4"], &[0, 2]),
        ("raid0", 6, 18, &["0 1 2"], &[]),
    ];
    for (kind, extents, total, table, spare) in cases {
        let devices = table[0].split(' ').count();
        let lab = Lab::new(devices, &raid(kind, devices, *extents, *total, chunk));
        let data = lay(&lab, table, extents * EXTENT / CHUNK);
        let scan = lab.look(&[]);
        assert!(scan.problems.is_empty(), "{kind}: {:?}", scan.problems);
        assert_eq!(ours(&scan), lab.lvs(), "{kind}");
        assert!(bytes(volume(&scan, "vg/r")) == data, "{kind} whole");
        for missing in *spare {
            let scan = lab.look(&[*missing]);
            assert!(bytes(volume(&scan, "vg/r")) == data, "{kind} without {missing}");
        }
        if *kind == "raid5_ls" {
            // Two are too many: what can be read is read.
            let scan = lab.look(&[0, 1]);
            let source = volume(&scan, "vg/r").source.clone().unwrap();
            assert!(source.read_at(0, &mut [0; 512]).is_err());
            let mut buf = vec![0; usize::try_from(CHUNK).unwrap()];
            source.read_at(2 * CHUNK, &mut buf).unwrap();
            assert!(buf == pattern(2, CHUNK));
            crate::support::laws::laws(&*source);
        }
    }
}

#[test]
fn a_mirror_is_read_from_the_image_that_is_in_step() {
    if !ready() {
        return;
    }
    let lab = Lab::new(2, &raid("raid1", 2, 8, 8, ""));
    let (old, new) = (pattern(1, 8 * EXTENT), pattern(2, 8 * EXTENT));
    lab.put(0, EXTENT, &old);
    lab.put(1, EXTENT, &new);
    // dm-raid's superblocks: image 0 fell out at event 5.
    let superblock = |position: u32, events: u64, failed: u64| {
        let mut sb = Vec::new();
        sb.extend(0x6452_6d44u32.to_le_bytes());
        sb.extend([0, 2, position].iter().flat_map(|n: &u32| n.to_le_bytes()));
        sb.extend([events, failed, u64::MAX, u64::MAX].iter().flat_map(|n| n.to_le_bytes()));
        sb
    };
    lab.put(0, 0, &superblock(0, 5, 0));
    lab.put(1, 0, &superblock(1, 9, 1));
    let scan = lab.look(&[]);
    assert_eq!(ours(&scan), lab.lvs());
    let mirror = volume(&scan, "vg/r");
    assert!(bytes(mirror) == new);
    assert!(mirror.problems[0].contains("r_rimage_0 is not used"), "{:?}", mirror.problems);
    // In step: the first one serves, and the second where the first is missing.
    lab.put(1, 0, &superblock(1, 5, 0));
    assert!(bytes(volume(&lab.look(&[]), "vg/r")) == old);
    assert!(bytes(volume(&lab.look(&[0]), "vg/r")) == new);
}

#[test]
fn a_classic_snapshot_shows_what_was_before() {
    if !ready() {
        return;
    }
    let snapshot = "type = \"snapshot\"\nchunk_size = 8\norigin = \"origin\"\ncow_store = \"snap\"";
    let lab = Lab::new(
        1,
        &[
            lv("origin", VISIBLE, &[(0, 8, &linear(0, 0))]),
            lv("snap", VISIBLE, &[(0, 30, &linear(0, 10))]),
            lv("snapshot0", "", &[(0, 8, snapshot)]),
        ]
        .concat(),
    );
    let now = pattern(7, 8 * EXTENT);
    lab.put(0, 0, &now);
    // A store of chunks of 4 KiB: the header, then an area of 256 entries, its chunks, and a second area.
    let mut before = now.clone();
    let store = 10 * EXTENT;
    let mut header = vec![0; 4096];
    for (i, word) in [0x7041_6e53u32, 1, 1, 8].into_iter().enumerate() {
        header[4 * i..][..4].copy_from_slice(&word.to_le_bytes());
    }
    lab.put(0, store, &header);
    let mut areas = [vec![0; 4096], vec![0; 4096]];
    // More than an area holds would need a longer origin: every chunk but some, the second area with one entry, in no order.
    let chunks: Vec<u64> = (0..128).filter(|n| n % 3 != 0).rev().collect();
    let mut filled = 0;
    for (nth, old) in chunks.iter().enumerate() {
        let new = 2 + nth as u64;
        areas[0][nth * 16..][..8].copy_from_slice(&old.to_le_bytes());
        areas[0][nth * 16 + 8..][..8].copy_from_slice(&new.to_le_bytes());
        let copied = pattern(1000 + old, 4096);
        lab.put(0, store + new * 4096, &copied);
        before[usize::try_from(old * 4096).unwrap()..][..4096].copy_from_slice(&copied);
        filled = nth + 1;
    }
    assert!(filled < 256);
    lab.put(0, store + 4096, &areas[0]);
    lab.put(0, store + 258 * 4096, &areas[1]);
    let scan = lab.look(&[]);
    let names: Vec<_> = ours(&scan).into_iter().map(|row| (row.0, row.2)).collect();
    assert_eq!(names, [("vg/origin".into(), "linear".into()), ("vg/snap".into(), "snapshot".to_owned())]);
    assert!(bytes(volume(&scan, "vg/origin")) == now);
    assert!(bytes(volume(&scan, "vg/snap")) == before);
    // A store that overflowed says nothing any more.
    lab.put(0, store + 4, &0u32.to_le_bytes());
    let scan = lab.look(&[]);
    let snap = volume(&scan, "vg/snap");
    assert!(snap.source.is_none() && snap.problems[0].contains("given up"), "{:?}", snap.problems);
}

#[test]
fn thin_volumes_and_their_snapshots_share_blocks() {
    if !ready() || !need(&["thin_restore"]) {
        return;
    }
    let pool = "type = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = 3\nchunk_size = 128\ndiscards = \"passdown\"\nzero_new_blocks = 1";
    let thin =
        |id: u32| format!("type = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {id}");
    let lab = Lab::new(
        2,
        &[
            lv("pool", VISIBLE, &[(0, 64, pool)]),
            lv("pool_tmeta", "", &[(0, 64, &linear(1, 0))]),
            lv("pool_tdata", "", &[(0, 32, &linear(0, 8)), (32, 32, &linear(0, 50))]),
            lv("thin", VISIBLE, &[(0, 200, &thin(1))]),
            lv("snap", VISIBLE, &[(0, 200, &thin(2))]),
            lv("gone", VISIBLE, &[(0, 10, &thin(9))]),
        ]
        .concat(),
    );
    // Mappings as the kernel's own tool writes them: origin block, data block, length.
    let one = [(0, 5, 3), (10, 40, 2), (12, 30, 1), (150, 0, 1)];
    let two = [(0, 5, 2), (2, 20, 1), (11, 41, 1), (199, 63, 1)];
    let device = |id: u32, ranges: &[(u64, u64, u64)]| {
        let total: u64 = ranges.iter().map(|r| r.2).sum();
        let lines: String = ranges.iter().fold(String::new(), |out, (from, to, len)| {
            out + &format!(
                "<range_mapping origin_begin=\"{from}\" data_begin=\"{to}\" length=\"{len}\" time=\"1\"/>\n"
            )
        });
        format!(
            "<device dev_id=\"{id}\" mapped_blocks=\"{total}\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n{lines}</device>\n"
        )
    };
    let xml = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"3\" flags=\"0\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"64\">\n{}{}</superblock>\n",
        device(1, &one),
        device(2, &two)
    );
    std::fs::write(lab.dir.path().join("xml"), xml).unwrap();
    shell("cd $1; truncate -s 4M meta; thin_restore -q -i xml -o meta >/dev/null", &[lab.dir.path()]);
    lab.put(1, 0, &std::fs::read(lab.dir.path().join("meta")).unwrap());
    let block = |n: u64| pattern(100 + n, EXTENT);
    for n in 0..64 {
        lab.put(0, if n < 32 { 8 + n } else { 18 + n } * EXTENT, &block(n));
    }
    let scan = lab.look(&[]);
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    assert_eq!(
        ours(&scan).iter().map(|r| (&*r.0, r.1, &*r.2)).collect::<Vec<_>>(),
        lab.lvs().iter().map(|r| (&*r.0, r.1, &*r.2)).collect::<Vec<_>>()
    );
    for (name, ranges) in [("vg/thin", &one), ("vg/snap", &two)] {
        let mut wanted = vec![0; usize::try_from(200 * EXTENT).unwrap()];
        for (from, to, len) in ranges {
            for i in 0..*len {
                let at = usize::try_from((from + i) * EXTENT).unwrap();
                wanted[at..][..usize::try_from(EXTENT).unwrap()].copy_from_slice(&block(to + i));
            }
        }
        let volume = volume(&scan, name);
        assert!(volume.problems.is_empty(), "{:?}", volume.problems);
        assert!(bytes(volume) == wanted, "{name}");
        let source = volume.source.as_ref().unwrap();
        assert_eq!(source.run_at(20 * EXTENT).unwrap().state, State::Hole);
    }
    let gone = volume(&scan, "vg/gone");
    assert!(gone.source.is_none() && gone.problems[0].contains("knows no device 9"), "{:?}", gone.problems);
    // A damaged node of the tree is a gap, never another volume's data.
    let meta = std::fs::read(lab.dir.path().join("meta")).unwrap();
    let root = usize::try_from(u64::from_le_bytes(meta[320..328].try_into().unwrap())).unwrap();
    lab.put(1, root as u64 * 4096 + 100, &[meta[root * 4096 + 100] ^ 1]);
    let scan = lab.look(&[]);
    assert!(volume(&scan, "vg/thin").source.is_none());
}

#[test]
fn the_newest_text_of_a_ring_that_wrapped_serves_and_older_ones_are_told() {
    if !ready() || !need(&["vgchange", "vgs"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("pv");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let device = Loop::new(&image, false);
    let out = shell(
        r"pvcreate -qq --devices $1 --metadatasize 32k --dataalignment 8k $1
        vgcreate -qq -s 64k --devices $1 vg $1
        for i in $(seq 20); do for how in add del; do vgchange -qq --devices $1 --${how}tag tag vg >/dev/null; done; done
        vgs --devices $1 --noheadings -o vg_seqno",
        &[&device.0],
    );
    drop(device);
    assert_eq!(text(out).trim(), "41");
    let scan = super::look(&image);
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    let note =
        scan.notes.iter().find(|n| n.contains("at number 41")).unwrap_or_else(|| panic!("{:?}", scan.notes));
    assert!(note.contains("older descriptions"), "{note}");
    // With its text damaged the group is still shown from what lies there, and that is said; the text is checked.
    let raw = std::fs::read(&image).unwrap();
    let at = raw.windows(10).rposition(|w| w == b"seqno = 41").unwrap() as u64;
    OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"seqno = 42", at).unwrap();
    let scan = super::look(&image);
    assert!(scan.problems.iter().any(|p| p.contains("its checksum is wrong")), "{:?}", scan.problems);
}

#[test]
fn groups_that_others_made() {
    let Some(corpus) = corpus() else { return };
    if !ready() || !need(&["qemu-img", "pvs"]) {
        return;
    }
    let dir = temp();
    for name in ["lvm", "lvmtest"] {
        let raw = dir.path().join(name);
        let image = corpus.join("dfvfs-history/test_data").join(format!("{name}.qcow2"));
        run("qemu-img", &["convert", "-O", "raw", image.to_str().unwrap(), raw.to_str().unwrap()]);
        let device = Loop::new(&raw, true);
        let list = |program: &str, fields: &str| {
            let common = ["--devices", &device.0, "--noheadings", "--units", "b", "--nosuffix", "-o", fields];
            text(run(program, &common)).lines().map(|l| l.trim().to_owned()).collect::<Vec<_>>()
        };
        let start: u64 = list("pvs", "pe_start")[0].parse().unwrap();
        let extent: u64 = list("vgs", "vg_extent_size")[0].parse().unwrap();
        let scan = super::look(&raw);
        let rows = list("lvs", "vg_name,lv_name,lv_size,lv_uuid,seg_pe_ranges");
        assert_eq!(rows.len(), scan.volumes.iter().filter(|v| v.scheme == Scheme::Lvm).count());
        let content = std::fs::read(&raw).unwrap();
        for row in rows {
            let words: Vec<&str> = row.split_whitespace().collect();
            let volume = volume(&scan, &format!("{}/{}", words[0], words[1]));
            assert_eq!((volume.size, volume.uuid.as_deref()), (words[2].parse().unwrap(), Some(words[3])));
            let first: u64 = words[4].rsplit(':').next().unwrap().split('-').next().unwrap().parse().unwrap();
            let at = usize::try_from(start + first * extent).unwrap();
            let end = (at + usize::try_from(volume.size).unwrap()).min(content.len());
            assert!(bytes(volume)[..end - at] == content[at..end], "{row}");
            assert!(volume.content.is_some(), "{row}");
        }
    }
}
