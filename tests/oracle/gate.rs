//! Which host files a chain may pull in: overlays by `qemu-img`, with every name that one may record.
#![cfg(feature = "internals")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use coldread::block::cache::Cache;
use coldread::chain::gate::{Gate, Root};
use coldread::chain::{self, Chain, Format, FormatFrom};
use coldread::effort::Effort;
use coldread::error::{Error, Kind, Result};
use tempfile::TempDir;

use crate::support::{need, run, shell, temp};

fn open(top: &Path, gate: &Gate) -> Result<Chain> {
    chain::open(top, None, gate, &Cache::new(1 << 20), &Effort::default())
}

/// The error, which has to be one.
fn refusal(top: &Path, gate: &Gate) -> Error {
    let error = open(top, gate).err();
    error.unwrap_or_else(|| panic!("{} opened", top.display()))
}

/// The first bytes of the whole disk.
fn first(chain: &Chain) -> Vec<u8> {
    let mut buf = vec![0; 16];
    chain.disk("disk").unwrap().read_at(0, &mut buf).unwrap();
    buf
}

/// An overlay that records `backing` as it is written here, whether there is such a file or not.
fn overlay(path: &Path, backing: &str, format: Option<&str>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2", "-b", backing];
    args.extend(format.iter().flat_map(|format| ["-F", format]));
    let format_missing = format.is_none();
    args.extend([path.to_str().unwrap(), "1M"]);
    if format_missing {
        // qemu-img insists on a format; rebase takes it away again.
        args.extend(["-F", "raw"]);
    }
    run("qemu-img", &args);
    if format_missing {
        let mut image = fs::read(path).unwrap();
        let at = image.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        // An extension that nobody knows is passed over.
        image[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        fs::write(path, image).unwrap();
    }
}

const HOME: &str = "/var/lib/nova/instances";
const UUID: &str = "02c9bfab-0088-4724-ae6c-51b2f2dc99c6";

/// A tree as Nova writes it, copied to `root`: one instance whose disk records the base by the original host's path.
fn tree(root: &Path, name: &str, content: u8) -> PathBuf {
    fs::create_dir_all(root.join("_base")).unwrap();
    fs::write(root.join("_base").join(name), vec![content; 1 << 20]).unwrap();
    let disk = root.join(UUID).join("disk");
    overlay(&disk, &format!("{HOME}/_base/{name}"), Some("raw"));
    disk
}

fn tools() -> Option<TempDir> {
    need(&["qemu-img"]).then(temp)
}

#[test]
fn a_path_of_the_original_host_is_found_in_its_own_tree() {
    let Some(dir) = tools() else { return };
    let name = "ephemeral_1_0706d66";
    let a = tree(&dir.path().join("a/instances"), name, 0xaa);
    let b = tree(&dir.path().join("b/instances"), name, 0xbb);
    for (disk, content) in [(&a, 0xaa), (&b, 0xbb)] {
        let chain = open(disk, &Gate::around(disk, &[]).unwrap()).unwrap();
        assert_eq!(first(&chain), vec![content; 16]);
        let base = &chain.links[1];
        assert!(base.remapped && !chain.links[0].remapped);
        assert_eq!(base.recorded_path.as_deref(), Some(format!("{HOME}/_base/{name}").as_bytes()));
        assert_eq!(base.format_from, FormatFrom::Overlay);
    }
    // Without its own, the other tree's is not taken, and its holes are not read as zeros.
    fs::remove_file(dir.path().join("b/instances/_base").join(name)).unwrap();
    let error = refusal(&b, &Gate::around(&b, &[]).unwrap());
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.hint_text().unwrap().contains("--base"), "{error}");
    // Not even when `_base` is a link to it.
    fs::remove_dir(dir.path().join("b/instances/_base")).unwrap();
    symlink(dir.path().join("a/instances/_base"), dir.path().join("b/instances/_base")).unwrap();
    assert_eq!(refusal(&b, &Gate::around(&b, &[]).unwrap()).kind(), Kind::NotFound);
    // The analyst may say so.
    let said = [dir.path().join("a/instances/_base")];
    assert_eq!(first(&open(&b, &Gate::around(&b, &said).unwrap()).unwrap()), [0xaa; 16]);
}

#[test]
fn another_instances_disk_is_not_this_ones() {
    let Some(dir) = tools() else { return };
    let disk = tree(dir.path(), "x", 1);
    let snapshot = disk.with_file_name("disk.snap");
    overlay(&snapshot, &format!("{HOME}/99999999-0088-4724-ae6c-51b2f2dc99c6/disk"), Some("qcow2"));
    assert_eq!(refusal(&snapshot, &Gate::around(&snapshot, &[]).unwrap()).kind(), Kind::NotFound);
    // By the directory of its own it is.
    overlay(&snapshot, &format!("{HOME}/{UUID}/disk"), Some("qcow2"));
    let chain = open(&snapshot, &Gate::around(&snapshot, &[]).unwrap()).unwrap();
    assert_eq!((first(&chain), chain.links.len()), (vec![1; 16], 3));
}

#[test]
fn two_candidates() {
    let Some(dir) = tools() else { return };
    let disk = tree(&dir.path().join("tree"), "sha1", 1);
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("sha1"), vec![1; 1 << 20]).unwrap();
    let gate = Gate::around(&disk, std::slice::from_ref(&other)).unwrap();
    assert_eq!(first(&open(&disk, &gate).unwrap()), [1; 16], "alike");
    let mut content = vec![1; 1 << 20];
    content[777_777] = 2;
    fs::write(other.join("sha1"), content).unwrap();
    let error = refusal(&disk, &gate);
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.hint_text().unwrap().contains("--map"), "{error}");
    // One of them by name.
    let mut gate = gate;
    gate.maps.push((PathBuf::from(HOME).join("_base"), other));
    let chain = open(&disk, &gate).unwrap();
    assert!(chain.links[1].remapped);
    let mut byte = [0];
    chain.disk("disk").unwrap().read_at(777_777, &mut byte).unwrap();
    assert_eq!(byte, [2]);
}

#[test]
fn a_map_names_a_prefix_or_a_whole_name() {
    let Some(dir) = tools() else { return };
    let top = dir.path().join("i/top");
    let base = dir.path().join("elsewhere/deep/base");
    fs::create_dir_all(base.parent().unwrap()).unwrap();
    fs::write(&base, vec![7; 1 << 20]).unwrap();
    let gate = |from: &str, to: PathBuf| {
        let mut gate = Gate::around(&top, &[]).unwrap();
        gate.maps.push((from.into(), to));
        gate
    };
    overlay(&top, "/srv/images/deep/base", Some("raw"));
    assert_eq!(first(&open(&top, &gate("/srv/images", dir.path().join("elsewhere"))).unwrap()), [7; 16]);
    assert_eq!(first(&open(&top, &gate("/srv/images/deep/base", base.clone())).unwrap()), [7; 16]);
    // A prefix ends between two parts of a path.
    assert_eq!(refusal(&top, &gate("/srv/ima", dir.path().join("elsewhere"))).kind(), Kind::NotFound);
    assert_eq!(refusal(&top, &gate("/srv/images", dir.path().join("nowhere"))).kind(), Kind::Io);
    overlay(&top, "/srv/images/../../etc/passwd", Some("raw"));
    assert_eq!(refusal(&top, &gate("/srv/images", dir.path().join("elsewhere"))).kind(), Kind::Refused);
    overlay(&top, "json:{\"driver\":\"raw\"}", Some("raw"));
    assert_eq!(first(&open(&top, &gate("json:{\"driver\":\"raw\"}", base)).unwrap()), [7; 16]);
}

#[test]
fn what_leads_out_is_refused() {
    let Some(dir) = tools() else { return };
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), vec![9; 1 << 20]).unwrap();
    let top = dir.path().join("inside/i/top");
    fs::create_dir_all(dir.path().join("inside/_base")).unwrap();
    fs::create_dir_all(top.parent().unwrap()).unwrap();
    symlink(outside.join("secret"), top.with_file_name("link")).unwrap();
    symlink("../../outside", top.with_file_name("directory")).unwrap();
    symlink(outside.join("secret"), dir.path().join("inside/_base/linked")).unwrap();
    let secret = outside.join("secret");
    for name in [
        "/etc/passwd",
        secret.to_str().unwrap(),
        "../../outside/secret",
        "../nowhere/secret",
        "../../../../../../../../../../../../etc/passwd",
        "link",
        "directory/secret",
        "./directory/secret",
        "/var/lib/nova/instances/_base/linked",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "json:",
        "nbd:unix:/tmp/socket",
        "nbd://localhost/x",
        "nbd+unix:///x?socket=/tmp/s",
        "http://localhost/x",
        "file:/etc/passwd",
        "fd:0",
        "host_device:/dev/sda",
        "rbd:pool/image",
        "/dev/zero/../../etc/passwd",
    ] {
        overlay(&top, name, Some("raw"));
        let error = refusal(&top, &Gate::around(&top, &[]).unwrap());
        assert_eq!(error.kind(), Kind::Refused, "{name}: {error}");
    }
}

#[test]
fn a_data_file_goes_through_the_gate() {
    let Some(dir) = tools() else { return };
    let top = dir.path().join("i/top");
    fs::create_dir_all(top.parent().unwrap()).unwrap();
    let data = dir.path().join("i/data");
    shell(
        r#"qemu-img create -q -f qcow2 -o data_file="$2",data_file_raw=on "$1" 1M
        qemu-io -f qcow2 -c 'write -P 5 0 64k' "$1" >/dev/null"#,
        &[&top, &data],
    );
    let sound = fs::read(&top).unwrap();
    let record = |name: &str| {
        let mut image = sound.clone();
        let at = image.windows(4).position(|w| w == b"DATA").unwrap();
        let len = u32::from_be_bytes(image[at + 4..at + 8].try_into().unwrap()) as usize;
        assert!(name.len() <= len);
        image[at + 4..at + 8].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        // What is left of the old name becomes an extension of its own, or the end mark.
        image[at + 8..at + 8 + len].fill(0);
        image[at + 8..at + 8 + name.len()].copy_from_slice(name.as_bytes());
        fs::write(&top, image).unwrap();
    };
    let gate = || Gate::around(&top, &[]).unwrap();
    let chain = open(&top, &gate()).unwrap();
    assert_eq!(first(&chain), [5; 16]);
    assert_eq!(chain.links[0].files().count(), 2);
    record("data");
    assert_eq!(first(&open(&top, &gate()).unwrap()), [5; 16]);
    for (name, kind) in [
        ("/etc/passwd", Kind::Refused),
        ("../../etc/passwd", Kind::Refused),
        ("json:{}", Kind::Refused),
        ("top", Kind::Corrupt),
        ("nowhere", Kind::NotFound),
    ] {
        record(name);
        assert_eq!(refusal(&top, &gate()).kind(), kind, "{name}");
    }
}

#[test]
fn what_is_no_image_is_said_at_once() {
    let Some(dir) = tools() else { return };
    let top = dir.path().join("top");
    shell(
        r#"mkfifo "$1/fifo"; mkdir "$1/directory"; mknod "$1/null" c 1 3 2>/dev/null || true"#,
        &[dir.path()],
    );
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for (name, kind) in [
        ("fifo", Kind::Unsupported),
        ("directory", Kind::Unsupported),
        ("socket", Kind::Unsupported),
        ("nowhere", Kind::NotFound),
        ("directory/nowhere", Kind::NotFound),
        ("/nowhere/at/all", Kind::NotFound),
        ("top", Kind::Corrupt),
        ("./directory/../top", Kind::Corrupt),
    ] {
        overlay(&top, name, Some("raw"));
        let error = refusal(&top, &Gate::around(&top, &[]).unwrap());
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(name.rsplit('/').next().unwrap()), "{error}");
    }
    // The same of a top that the operator names.
    let gate = Gate::default();
    assert_eq!(refusal(&dir.path().join("fifo"), &gate).kind(), Kind::Unsupported);
    assert_eq!(refusal(dir.path(), &gate).kind(), Kind::Unsupported);
    assert_eq!(refusal(&dir.path().join("nowhere"), &gate).kind(), Kind::NotFound);
    if dir.path().join("null").exists() {
        assert_eq!(refusal(&dir.path().join("null"), &gate).kind(), Kind::Unsupported);
    }
}

#[test]
fn loops_and_depth() {
    let Some(dir) = tools() else { return };
    let path = |name: &str| dir.path().join(name);
    let gate = |name: &str| Gate::around(&path(name), &[]).unwrap();
    overlay(&path("a"), "b", Some("qcow2"));
    overlay(&path("b"), "c", Some("qcow2"));
    overlay(&path("c"), "a", Some("qcow2"));
    let error = refusal(&path("a"), &gate("a"));
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("loop"), "{error}");
    // By another name it is the same file.
    overlay(&path("d"), "e", Some("qcow2"));
    fs::hard_link(path("d"), path("e")).unwrap();
    assert!(refusal(&path("d"), &gate("d")).to_string().contains("loop"));
    fs::write(path("0"), vec![3; 1 << 20]).unwrap();
    overlay(&path("1"), "0", Some("raw"));
    for n in 2..=30 {
        overlay(&path(&n.to_string()), &(n - 1).to_string(), Some("qcow2"));
    }
    let chain = open(&path("30"), &gate("30")).unwrap();
    assert_eq!((chain.links.len(), first(&chain)), (31, vec![3; 16]));
    let shallow = Gate { depth: 30, ..gate("30") };
    assert_eq!(refusal(&path("30"), &shallow).kind(), Kind::Refused);
}

#[test]
fn a_raw_base_that_looks_like_an_image() {
    let Some(dir) = tools() else { return };
    // A tenant wrote an image's header to the start of a raw disk.
    let base = dir.path().join("base");
    overlay(&base, "/etc/passwd", Some("raw"));
    let written = fs::read(&base).unwrap();
    let top = dir.path().join("top");
    let gate = || Gate::around(&top, &[]).unwrap();
    overlay(&top, "base", Some("raw"));
    let chain = open(&top, &gate()).unwrap();
    assert_eq!((chain.links.len(), chain.links[1].format), (2, Format::Raw));
    assert_eq!(first(&chain), written[..16]);
    // The overlay does not say it: nobody guesses.
    overlay(&top, "base", None);
    let error = refusal(&top, &gate());
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.hint_text().unwrap().contains("--format"), "{error}");
    // Something trustworthy does.
    let mut said = gate();
    said.formats.insert(base.clone(), Format::Raw);
    let chain = open(&top, &said).unwrap();
    assert_eq!((chain.links[1].format_from, first(&chain)), (FormatFrom::Given, written[..16].to_vec()));
    // A base without any magic can only be raw.
    fs::write(&base, vec![4; 1 << 20]).unwrap();
    let chain = open(&top, &gate()).unwrap();
    assert_eq!((chain.links[1].format_from, first(&chain)), (FormatFrom::NoMagic, vec![4; 16]));
    // A format that is not read here.
    overlay(&top, "base", Some("vmdk"));
    assert_eq!(refusal(&top, &gate()).kind(), Kind::Unsupported);
}

#[test]
fn the_top_is_recognised_or_told() {
    let Some(dir) = tools() else { return };
    let top = dir.path().join("top");
    fs::write(dir.path().join("base"), vec![4; 1 << 20]).unwrap();
    overlay(&top, "base", Some("raw"));
    let gate = Gate::around(&top, &[]).unwrap();
    let chain = open(&top, &gate).unwrap();
    assert_eq!((chain.links[0].format, chain.links[0].format_from), (Format::Qcow2, FormatFrom::Magic));
    let told = chain::open(&top, Some(Format::Raw), &gate, &Cache::new(1 << 20), &Effort::default()).unwrap();
    assert_eq!((told.links.len(), told.links[0].format_from), (1, FormatFrom::Given));
    assert_eq!(first(&told), fs::read(&top).unwrap()[..16]);
    shell(r#"qemu-img create -q -f vmdk "$1/disk.vmdk" 1M"#, &[dir.path()]);
    assert_eq!(refusal(&dir.path().join("disk.vmdk"), &gate).kind(), Kind::Unsupported);
}

#[test]
fn reading_moves_no_times() {
    let Some(dir) = tools() else { return };
    let disk = tree(dir.path(), "sha1", 6);
    let base = dir.path().join("_base/sha1");
    // A file that was never read since it was written would have its access time moved by `relatime`.
    shell(r#"touch -a -d '2020-01-01 00:00:00' "$1" "$2""#, &[&disk, &base]);
    let times = || {
        [&disk, &base].map(|path| {
            let meta = fs::metadata(path).unwrap();
            (
                meta.atime(),
                meta.atime_nsec(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
                meta.size(),
            )
        })
    };
    let before = times();
    let chain = open(&disk, &Gate::around(&disk, &[]).unwrap()).unwrap();
    assert_eq!(first(&chain), [6; 16]);
    assert!(chain.links.iter().all(|link| !link.file.atime_may_move), "the owner may ask for O_NOATIME");
    assert_eq!(times(), before);
    assert_eq!(chain.links[1].file.identity.inode, fs::metadata(&base).unwrap().ino());
}

#[test]
fn a_block_device_only_on_request() {
    if !need(&["qemu-img", "losetup"]) || !crate::support::need_root() {
        return;
    }
    let dir = temp();
    let image = dir.path().join("image");
    fs::write(&image, vec![8; 1 << 20]).unwrap();
    let device = crate::support::Loop::new(&image, true);
    let path = Path::new(&device.0);
    let mut gate = Gate::default();
    assert_eq!(refusal(path, &gate).kind(), Kind::Refused);
    gate.allow_device = true;
    let chain = open(path, &gate).unwrap();
    assert_eq!((first(&chain), chain.links[0].virtual_size()), (vec![8; 16], 1 << 20));
    // Beneath a root it is a file like any other.
    gate.roots.push(Root::open(Path::new("/dev")).unwrap());
    let top = dir.path().join("top");
    overlay(&top, &device.0, Some("raw"));
    assert_eq!(first(&open(&top, &gate).unwrap()), [8; 16]);
}
