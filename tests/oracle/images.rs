//! qcow2 and chains against QEMU: `qemu-img convert` for the bytes, `qemu-img map` for the extents.
#![cfg(feature = "internals")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use coldread::block::cache::Cache;
use coldread::block::{BlockSource, Source};
use coldread::chain::gate::Gate;
use coldread::chain::{self, Chain};
use coldread::effort::Effort;
use coldread::error::{Kind, Result};

use crate::support::{corpus, full, need, output, run, shell, temp, text};

pub fn try_open(path: &Path) -> Result<Chain> {
    let gate = Gate::around(path, &[])?;
    chain::open(path, None, &gate, &Cache::new(8 << 20), &Effort::default())
}

fn open(path: &Path) -> Chain {
    try_open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// All bytes of a disk, read in pieces of an odd size.
fn bytes(disk: &Source) -> Vec<u8> {
    let mut out = vec![0xa5; usize::try_from(disk.len()).unwrap()];
    let mut at = 0;
    for (number, piece) in out.chunks_mut(1_000_003).enumerate() {
        disk.read_at(at, piece).unwrap_or_else(|error| panic!("piece {number}: {error}"));
        at += piece.len() as u64;
    }
    out
}

/// `qemu-img map` as lines; a compressed extent has no offset there either.
fn qemu_map(path: &Path) -> String {
    let json: serde_json::Value = serde_json::from_slice(&run(
        "qemu-img",
        &[
            "map",
            "--output=json",
            "-f",
            if path.extension().is_some_and(|e| e == "raw") { "raw" } else { "qcow2" },
            path.to_str().unwrap(),
        ],
    ))
    .unwrap();
    let mut out = String::new();
    for e in json.as_array().unwrap() {
        let offset = e.get("offset").map_or("-".into(), ToString::to_string);
        writeln!(
            out,
            "{} {} depth {} present {} data {} zero {} at {offset}",
            e["start"], e["length"], e["depth"], e["present"], e["data"], e["zero"]
        )
        .unwrap();
    }
    out
}

fn our_map(chain: &Chain) -> String {
    let mut out = String::new();
    chain
        .extents(&Effort::default(), &mut |e| {
            assert!(!e.lost);
            let offset = e.offset.map_or("-".into(), |o| o.to_string());
            writeln!(
                out,
                "{} {} depth {} present {} data {} zero {} at {offset}",
                e.start, e.length, e.depth, e.present, e.data, e.zero
            )
            .unwrap();
            Ok(())
        })
        .unwrap();
    out
}

/// Content and map of `path` are QEMU's.
fn same_as_qemu(what: &str, path: &Path) {
    let chain = open(path);
    let flat = path.with_extension("flat");
    run("qemu-img", &["convert", "-O", "raw", path.to_str().unwrap(), flat.to_str().unwrap()]);
    let (ours, theirs) = (bytes(&chain.disk("disk").unwrap()), std::fs::read(&flat).unwrap());
    std::fs::remove_file(flat).unwrap();
    assert_eq!(ours.len(), theirs.len(), "{what}: the size");
    if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
        panic!("{what}: differs at {at:#x}\n{}", our_map(&chain));
    }
    let (ours, theirs) = (our_map(&chain), qemu_map(path));
    // Of a disk of no size QEMU shows an extent of no length.
    assert!(
        ours == theirs || chain.links[0].virtual_size() == 0,
        "{what}: maps\nours:\n{ours}\nqemu:\n{theirs}"
    );
    for link in &chain.links {
        let held = link.held(&Effort::default()).unwrap();
        let sum = held.data + held.zero + held.compressed + held.unallocated;
        assert_eq!((sum, held.lost), (link.virtual_size(), 0), "{what}");
    }
}

/// The dimensions of the matrix, each with its values; a case is an index into each.
const DIMENSIONS: [&[&str]; 6] = [
    &["0.10", "1.1"],
    &["512", "4k", "16k", "64k", "2M"],
    &["plain", "zlib", "zstd"],
    &["off", "on"],
    &["alone", "raw", "short", "long", "qcow2", "three", "subclusters"],
    &["inside", "outside", "outside raw"],
];

/// Whether QEMU can make it.
fn possible(case: &[usize; 6]) -> bool {
    let is = |dimension: usize, value: &str| DIMENSIONS[dimension][case[dimension]] == value;
    let old = is(0, "0.10");
    let extended = is(3, "on");
    !(old && (is(2, "zstd") || extended || !is(5, "inside")))
        && !(extended && (is(1, "512") || is(1, "4k")))
        && (is(2, "plain") || is(5, "inside"))
        && (!is(5, "outside raw") || is(4, "alone"))
}

/// Cases such that every possible pair of values is in one of them; all cases with `COLDREAD_FULL`.
fn cases() -> Vec<[usize; 6]> {
    let mut all = vec![[0; 6]];
    for (dimension, values) in DIMENSIONS.iter().enumerate() {
        all = all
            .iter()
            .flat_map(|case| {
                (0..values.len()).map(move |value| {
                    let mut case = *case;
                    case[dimension] = value;
                    case
                })
            })
            .collect();
    }
    all.retain(possible);
    if full() {
        return all;
    }
    let pairs = |case: &[usize; 6]| -> Vec<(usize, usize, usize, usize)> {
        (0..6).flat_map(|a| (a + 1..6).map(move |b| (a, case[a], b, case[b]))).collect()
    };
    let mut open: std::collections::BTreeSet<_> = all.iter().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let best =
            *all.iter().max_by_key(|case| pairs(case).iter().filter(|p| open.contains(p)).count()).unwrap();
        for pair in pairs(&best) {
            open.remove(&pair);
        }
        chosen.push(best);
    }
    chosen
}

/// `qemu-io` commands that write all sorts of things to a disk of `size` bytes, always the same for one `salt`.
fn scribble(salt: u64, size: u64, cluster: u64, compressed: bool) -> String {
    let mut dice = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = |below: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 8) % below
    };
    let mut out = String::new();
    for pattern in 1..14 {
        let most = if roll(3) == 0 { 1200 } else { 40 };
        let len = (1 + roll(most)) * 512;
        let start = roll((size - len) / 512) * 512;
        let command = match roll(8) + if pattern < 5 { 3 } else { 0 } {
            0 => format!("write -z {start} {len}"),
            1 => format!("write -z -u {start} {len}"),
            2 => format!("discard {start} {len}"),
            _ if compressed && pattern < 5 => {
                let start = start / cluster * cluster;
                format!("write -c -P {pattern} {start} {}", cluster.min(size - start))
            }
            _ => format!("write -P {pattern} {start} {len}"),
        };
        writeln!(out, "{command}").unwrap();
    }
    out
}

/// A layer made by qemu-img and scribbled on by qemu-io.
fn make(
    dir: &Path,
    name: &str,
    options: &str,
    backing: Option<(&str, &str)>,
    size: u64,
    script: &str,
) -> PathBuf {
    let path = dir.join(name);
    let mut args = vec!["create", "-q", "-f", "qcow2", "-o", options];
    if let Some((backing, format)) = backing {
        args.extend(["-b", backing, "-F", format]);
    }
    let size = size.to_string();
    args.extend([path.to_str().unwrap(), &size]);
    run("qemu-img", &args);
    let mut io: Vec<String> = ["-t", "unsafe", "-f", "qcow2"].map(Into::into).into();
    for line in script.lines() {
        io.extend(["-c".into(), line.into()]);
    }
    io.push(path.to_str().unwrap().into());
    let out = output("qemu-io", &io);
    let said = text(out.stdout) + &text(out.stderr);
    // QEMU writes no compressed cluster over one that is there: "write failed", and the rest goes on.
    assert!(said.matches("wrote").count() * 2 >= script.lines().count() / 2, "qemu-io {io:?}: {said}");
    path
}

/// The base of a case: its name and format.
fn base(dir: &Path, kind: &str, size: u64) -> Option<(&'static str, &'static str)> {
    let raw = |len: u64| {
        let script = r#"head -c "$2" /dev/urandom > "$1/base.raw"
            truncate -s "$2" "$1/base.raw"; fallocate -p -o 128K -l 256K "$1/base.raw""#;
        shell(script, &[dir.to_str().unwrap(), &len.to_string()]);
    };
    match kind {
        "alone" => return None,
        "raw" => raw(size),
        "short" => raw(size / 3 / 4096 * 4096 + 512),
        "long" => raw(size + 70_000 / 512 * 512),
        "qcow2" => {
            make(dir, "base.qcow2", "cluster_size=64k", None, size / 2, &scribble(1, size / 2, 65_536, true));
            return Some(("base.qcow2", "qcow2"));
        }
        "three" => {
            raw(size / 2);
            make(
                dir,
                "mid.qcow2",
                "compat=0.10,cluster_size=4k",
                Some(("base.raw", "raw")),
                size / 3 / 512 * 512,
                &scribble(2, size / 3, 4096, true),
            );
            make(
                dir,
                "base.qcow2",
                "cluster_size=32k",
                Some(("mid.qcow2", "qcow2")),
                size + 99_328,
                &scribble(3, size, 32_768, false),
            );
            return Some(("base.qcow2", "qcow2"));
        }
        _ => {
            make(
                dir,
                "base.qcow2",
                "extended_l2=on,cluster_size=128k",
                None,
                size,
                &scribble(4, size, 131_072, true),
            );
            return Some(("base.qcow2", "qcow2"));
        }
    }
    Some(("base.raw", "raw"))
}

#[test]
fn every_feature_with_every_other() {
    if !need(&["qemu-img", "qemu-io"]) {
        return;
    }
    let cases = cases();
    assert!(cases.len() >= 35, "{}", cases.len());
    for (number, case) in cases.iter().enumerate() {
        let value = |dimension: usize| DIMENSIONS[dimension][case[dimension]];
        let dir = temp();
        let what: Vec<_> = (0..6).map(value).collect();
        let what = what.join(" / ");
        // No multiple of a cluster, and past one L2 table of the small clusters.
        let size = (3 << 20) + 512 * (1 + number as u64 % 7);
        let base = base(dir.path(), value(4), size);
        let mut options = format!("compat={},cluster_size={}", value(0), value(1));
        if value(0) == "1.1" {
            write!(options, ",extended_l2={}", value(3)).unwrap();
        }
        if value(2) == "zstd" {
            options.push_str(",compression_type=zstd");
        }
        if value(5) != "inside" {
            write!(options, ",data_file={}", dir.path().join("outside.data").display()).unwrap();
            write!(options, ",data_file_raw={}", if value(5) == "outside raw" { "on" } else { "off" })
                .unwrap();
        }
        let cluster = match value(1) {
            "512" => 512,
            "2M" => 2 << 20,
            kib => kib.trim_end_matches('k').parse::<u64>().unwrap() << 10,
        };
        let script = scribble(number as u64 + 10, size, cluster, value(2) != "plain");
        let path = make(dir.path(), "top.qcow2", &options, base, size, &script);
        same_as_qemu(&what, &path);
    }
}

/// Each snapshot is the disk that `qemu-img convert -l` makes of it, with the base as it is.
#[test]
fn snapshots_are_disks() {
    if !need(&["qemu-img", "qemu-io"]) {
        return;
    }
    for options in ["compat=0.10,cluster_size=4k", "extended_l2=on", "cluster_size=64k,compression_type=zstd"]
    {
        let dir = temp();
        let (size, base) = (3 << 20, base(dir.path(), "short", 3 << 20));
        let path = make(dir.path(), "top.qcow2", options, base, size, &scribble(21, size, 65_536, true));
        let file = path.to_str().unwrap();
        for salt in 0..3u64 {
            run("qemu-img", &["snapshot", "-c", &format!("state {salt}"), file]);
            let script = scribble(30 + salt, size, 65_536, false);
            let mut io = vec!["-t", "unsafe", "-f", "qcow2"];
            io.extend(script.lines().flat_map(|line| ["-c", line]));
            io.push(file);
            output("qemu-io", &io);
        }
        let chain = open(&path);
        let info: serde_json::Value =
            serde_json::from_slice(&run("qemu-img", &["info", "--output=json", file])).unwrap();
        let theirs: Vec<_> = info["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| {
                (
                    s["id"].as_str().unwrap().to_string(),
                    s["name"].as_str().unwrap().to_string(),
                    s["date-sec"].as_u64().unwrap(),
                )
            })
            .collect();
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ours: Vec<_> = chain.links[0]
            .snapshots
            .iter()
            .map(|s| (lossy(&s.id), lossy(&s.name), u64::from(s.date.0)))
            .collect();
        assert_eq!(ours, theirs, "{options}");
        let mut seen = Vec::new();
        for (id, name, _) in &theirs {
            let flat = dir.path().join("flat");
            run(
                "qemu-img",
                &[
                    "convert",
                    "-f",
                    "qcow2",
                    "-l",
                    &format!("snapshot.id={id}"),
                    "-O",
                    "raw",
                    file,
                    flat.to_str().unwrap(),
                ],
            );
            let flat = std::fs::read(flat).unwrap();
            assert!(bytes(&chain.snapshot_disk("disk", id).unwrap()) == flat, "{options}: snapshot {id}");
            assert!(bytes(&chain.snapshot_disk("disk", name).unwrap()) == flat, "{options}: snapshot {name}");
            assert!(!seen.contains(&flat), "{options}: two snapshots are alike");
            seen.push(flat);
        }
        assert_eq!(chain.snapshot_disk("disk", "4").err().map(|e| e.kind()), Some(Kind::NotFound));
    }
}

/// What `chain` shows of an image is what `qemu-img info` shows.
#[test]
fn facts_are_those_of_qemu_img_info() {
    if !need(&["qemu-img"]) {
        return;
    }
    let dir = temp();
    for (number, options) in [
        "compat=0.10,cluster_size=512",
        "compat=1.1,cluster_size=2M,lazy_refcounts=on",
        "compression_type=zstd,refcount_bits=1",
        "extended_l2=on,cluster_size=16k,refcount_bits=64",
        "encrypt.format=luks,encrypt.key-secret=s",
        "encryption=on,encrypt.key-secret=s,compat=0.10",
    ]
    .iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{number}.qcow2"));
        let file = path.to_str().unwrap();
        let out = output(
            "qemu-img",
            &[
                "create",
                "-q",
                "--object",
                "secret,id=s,data=abc",
                "-f",
                "qcow2",
                "-o",
                options,
                file,
                "12345678",
            ],
        );
        if !out.status.success() {
            // New AES images are refused by newer versions of qemu-img.
            assert!(options.contains("encryption=on"), "{options}: {}", text(out.stderr));
            continue;
        }
        let info: serde_json::Value =
            serde_json::from_slice(&run("qemu-img", &["info", "--output=json", file])).unwrap();
        let data = &info["format-specific"]["data"];
        let chain = open(&path);
        let link = &chain.links[0];
        let header = link.header().unwrap();
        assert_eq!(info["virtual-size"], link.virtual_size(), "{options}");
        assert_eq!(info["cluster-size"], header.cluster_size(), "{options}");
        assert_eq!(data["compat"], link.compat().unwrap(), "{options}");
        assert_eq!(data["extended-l2"].as_bool().unwrap_or(false), header.extended_l2, "{options}");
        assert_eq!(data["corrupt"].as_bool().unwrap_or(false), header.corrupt, "{options}");
        assert_eq!(info["dirty-flag"], header.dirty, "{options}");
        assert_eq!(data["refcount-bits"], 1 << header.refcount_order, "{options}");
        assert_eq!(
            data["compression-type"].as_str().unwrap_or("zlib"),
            header.compression.word(),
            "{options}"
        );
        assert_eq!(info["encrypted"].as_bool().unwrap_or(false), link.encrypted(), "{options}");
        assert_eq!(link.file.identity.size, std::fs::metadata(&path).unwrap().len());
        // Ciphertext is never given as data.
        let disk = chain.disk("disk");
        assert_eq!(disk.err().map(|e| e.kind()), link.encrypted().then_some(Kind::Unsupported), "{options}");
        assert_eq!(chain.problems.is_empty(), !link.encrypted(), "{options}");
    }
}

/// A dirty and a corrupt image are read as they are, and both are said; an unknown feature is not passed over.
#[test]
fn feature_bits() {
    if !need(&["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = temp();
    let path = make(dir.path(), "a.qcow2", "compat=1.1", None, 1 << 20, &scribble(5, 1 << 20, 65_536, true));
    let sound = bytes(&open(&path).disk("disk").unwrap());
    let set = |bit: u32| {
        let copy = dir.path().join(format!("bit{bit}.qcow2"));
        let mut image = std::fs::read(&path).unwrap();
        let features = u64::from_be_bytes(image[72..80].try_into().unwrap()) | (1 << bit);
        image[72..80].copy_from_slice(&features.to_be_bytes());
        std::fs::write(&copy, image).unwrap();
        try_open(&copy)
    };
    for (bit, word) in [(0, "dirty"), (1, "corrupt")] {
        let chain = set(bit).unwrap();
        assert!(chain.problems.len() == 1 && chain.problems[0].contains(word), "{:?}", chain.problems);
        assert!(bytes(&chain.disk("disk").unwrap()) == sound, "{word}");
    }
    for bit in [5, 63] {
        assert_eq!(set(bit).err().map(|e| e.kind()), Some(Kind::Unsupported), "bit {bit}");
    }
}

/// The end of an odd raw base, and overlays that reach past it: zeros. (QEMU rounds a raw file up to whole sectors.)
#[test]
fn an_odd_raw_base() {
    if !need(&["qemu-img"]) {
        return;
    }
    let dir = temp();
    let path = dir.path().join("top.qcow2");
    std::fs::write(dir.path().join("base.raw"), vec![0xee; 100_001]).unwrap();
    shell(r#"cd "$1" && qemu-img create -q -f qcow2 -b base.raw -F raw top.qcow2 1M"#, &[dir.path()]);
    let flat = dir.path().join("flat");
    run("qemu-img", &["convert", "-O", "raw", path.to_str().unwrap(), flat.to_str().unwrap()]);
    assert!(bytes(&open(&path).disk("disk").unwrap()) == std::fs::read(flat).unwrap());
}

/// Sizes at which tables end: none at all, one sector, one L2 table and a sector.
#[test]
fn sizes_at_the_edges() {
    if !need(&["qemu-img", "qemu-io"]) {
        return;
    }
    for (size, options) in [
        (0u64, "cluster_size=64k"),
        (512, "cluster_size=2M"),
        (32_768 + 512, "cluster_size=512"),
        (65_536, "cluster_size=4k"),
    ] {
        let dir = temp();
        let end = size.saturating_sub(512);
        let script = if size == 0 { String::new() } else { format!("write -P 9 {end} 512\n") };
        let path = make(dir.path(), "a.qcow2", options, None, size, &script);
        same_as_qemu(options, &path);
    }
    let dir = temp();
    let path = make(
        dir.path(),
        "a.qcow2",
        "cluster_size=2M",
        None,
        1 << 48,
        &format!("write -P 9 {} 512\n", (1u64 << 48) - 512),
    );
    let disk = open(&path).disk("disk").unwrap();
    let mut last = [0; 512];
    disk.read_at((1 << 48) - 512, &mut last).unwrap();
    assert_eq!(last, [9; 512]);
    assert!(our_map(&open(&path)) == qemu_map(&path));
}

/// Images that others made, among them two that a fuzzer found: what QEMU reads, we read alike.
#[test]
fn the_corpus() {
    let (Some(corpus), true) = (corpus(), need(&["qemu-img"])) else { return };
    let found = text(shell(
        r#"d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
        find "$1" -type f -size -200M \( -iname '*.qcow2' -o -iname '*.qcow2.*' -o -name 'afl*' \) | sort"#,
        &[&corpus],
    ));
    let dir = temp();
    let mut read = 0;
    for (number, path) in found.lines().enumerate() {
        let mut path = PathBuf::from(path);
        let packed = path.extension().is_some_and(|e| e != "qcow2");
        if packed {
            let copy = dir.path().join(format!("{number}.qcow2"));
            let script = r#"case "$1" in *.bz2) bzip2 -dc "$1";; *.xz) xz -dc "$1";; *.gz) gzip -dc "$1";; *) cat "$1";; esac > "$2""#;
            shell(script, &[&path, &copy]);
            path = copy;
        }
        let flat = dir.path().join("flat");
        let theirs = output(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap(), flat.to_str().unwrap()],
        );
        let ours = try_open(&path).and_then(|chain| chain.disk("disk"));
        if !theirs.status.success() {
            // What QEMU cannot read need not be readable; it must not bring us down either.
            if let Ok(disk) = ours {
                let _ = disk.read_at(0, &mut vec![0; usize::try_from(disk.len().min(1 << 20)).unwrap()]);
            }
            continue;
        }
        let disk = ours.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let same = shell(r#"stat -c %s "$1""#, &[&flat]);
        assert_eq!(text(same).trim(), disk.len().to_string(), "{}", path.display());
        let file = std::fs::File::open(&flat).unwrap();
        let theirs = coldread::block::file::HostFile::new("flat", file).unwrap();
        let (mut a, mut b, mut at) = (vec![0; 1 << 20], vec![0; 1 << 20], 0);
        while at < disk.len() {
            let take = usize::try_from((disk.len() - at).min(1 << 20)).unwrap();
            disk.read_at(at, &mut a[..take]).unwrap();
            theirs.read_at(at, &mut b[..take]).unwrap();
            assert!(a[..take] == b[..take], "{} differs near {at:#x}", path.display());
            at += take as u64;
        }
        read += 1;
    }
    assert!(read >= 5, "{read} images of the corpus were read");
}
