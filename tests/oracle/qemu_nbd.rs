//! The fallback through qemu-nbd: what it reads is what `qemu-img convert` reads, nothing else is opened, and nothing
//! is left behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coldread::block::{BlockSource, read_vec};
use coldread::chain::gate::Gate;
use coldread::effort::Effort;
use coldread::error::{Kind, Result};
use coldread::host::qemu_nbd::spec::Spec;
use coldread::host::qemu_nbd::{self, Opened, Options};

use crate::support::{command, need, run, temp};

fn open(path: &Path, options: &Options) -> Result<Opened> {
    let gate = Gate::around(path, &[])?;
    qemu_nbd::open(&Spec::File(path.into()), &gate, options, &Effort::default())
}

/// A raw disk of 24 MiB with a few things in it.
fn raw(dir: &Path) -> (PathBuf, Vec<u8>) {
    let path = dir.join("disk.raw");
    let name = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "raw", name, "24M"]);
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -q -P 1 0 1M",
            "-c",
            "write -q -P 2 9M 300k",
            "-c",
            "write -q -P 3 20M 4M",
            name,
        ],
    );
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

fn check(source: &dyn BlockSource, expect: &[u8]) {
    assert_eq!(source.len(), expect.len() as u64);
    assert!(read_vec(source, 0, expect.len()).unwrap() == expect);
    let mut offset = 0;
    while offset < source.len() {
        offset += source.run_at(offset).unwrap().len;
    }
}

/// All processes below `pid`, with their command lines.
fn below(pid: u32) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        all.push((id, parent, String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    let mut found = vec![(pid, String::new())];
    let mut i = 0;
    while i < found.len() {
        let parent = found[i].0;
        found.extend(all.iter().filter(|p| p.1 == Some(parent)).map(|p| (p.0, p.2.clone())));
        i += 1;
    }
    found.split_off(1)
}

#[test]
fn formats_of_other_programs_read_as_qemu_img_reads_them() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd", "setpriv", "unshare"]) {
        return;
    }
    let dir = temp();
    let (raw, expect) = raw(dir.path());
    let raw = raw.to_str().unwrap();
    let formats: [(&str, &str); 7] = [
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vhdx", ""),
        ("vdi", ""),
        ("vpc", "force_size=on"),
        ("qed", ""),
    ];
    for (i, (format, options)) in formats.iter().enumerate() {
        let image = dir.path().join(format!("{i}.{format}"));
        let name = image.to_str().unwrap();
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([raw, name]);
        run("qemu-img", &args);
        let opened =
            open(&image, &Options::default()).unwrap_or_else(|error| panic!("{format} {options}: {error}"));
        check(&*opened.source, &expect);
        assert!(
            opened.note.contains("qemu-nbd") != (i == 2) && opened.note.contains(format),
            "{}",
            opened.note
        );
        assert_eq!(opened.files[0].path, image);
        assert_eq!(opened.files.len(), if i == 1 || i == 2 { 2 } else { 1 });
    }
}

#[test]
fn an_encrypted_overlay_opens_with_its_passphrase_alone() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let dir = temp();
    let (raw, mut expect) = raw(dir.path());
    let image = dir.path().join("disk.qcow2");
    let name = image.to_str().unwrap();
    let secret = "secret,id=s,data=correct horse";
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "--object",
            secret,
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            raw.to_str().unwrap(),
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=200",
            name,
        ],
    );
    let opts = format!("driver=qcow2,encrypt.key-secret=s,file.filename={name}");
    run("qemu-io", &["--object", secret, "--image-opts", "-c", "write -q -P 9 1M 70000", &opts]);
    expect[1 << 20..(1 << 20) + 70000].fill(9);

    let with = |passphrase: Option<&str>| Options {
        passphrase: passphrase.map(|text| text.as_bytes().to_vec()),
        ..Options::default()
    };
    let opened = open(&image, &with(Some("correct horse"))).unwrap();
    check(&*opened.source, &expect);
    assert!(opened.note.contains("qcow2 on raw"), "{}", opened.note);
    assert_eq!(opened.files.len(), 2);
    assert!(open(&image, &with(Some("wrong"))).is_err());
    assert_eq!(open(&image, &with(None)).err().unwrap().kind(), Kind::Refused);
}

#[test]
fn what_an_image_names_outside_of_the_gate_is_refused() {
    if !need(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let (dir, other) = (temp(), temp());
    let secret = other.path().join("secret");
    std::fs::write(&secret, vec![b's'; 4096]).unwrap();
    let image = dir.path().join("disk.vmdk");
    let descriptor = |extent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{extent}\n"
        )
    };
    let refused = |text: String, kind: Kind| {
        std::fs::write(&image, text).unwrap();
        let error = open(&image, &Options::default()).err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
    };
    refused(descriptor(&format!("RW 8 FLAT \"{}\" 0", secret.display())), Kind::Refused);
    refused(descriptor("RW 8 FLAT \"../../../../../../etc/passwd\" 0"), Kind::Refused);
    refused(descriptor("RW 8 FLAT \"nbd:unix:/run/s\" 0"), Kind::Refused);
    std::os::unix::fs::symlink(&secret, dir.path().join("link")).unwrap();
    refused(descriptor("RW 8 FLAT \"link\" 0"), Kind::Refused);
    refused(descriptor("RW 8 FLAT \"gone\" 0"), Kind::NotFound);
    refused(descriptor("RW 8 FLAT \"x\" 0").replace("ffffffff", "00000001"), Kind::Unsupported);
    // The same with an extent beside it is admitted.
    std::fs::write(dir.path().join("x"), vec![7; 4096]).unwrap();
    std::fs::write(&image, descriptor("RW 8 FLAT \"x\" 0")).unwrap();
    check(&*open(&image, &Options::default()).unwrap().source, &[7; 4096]);

    // QED with a backing file: QEMU would follow the name in it.
    let qed = dir.path().join("disk.qed");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qed", "-F", "raw", "-b", secret.to_str().unwrap(), qed.to_str().unwrap()],
    );
    assert_eq!(open(&qed, &Options::default()).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn qemu_runs_as_nobody_and_ends_with_the_source_or_with_us() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd", "setpriv", "unshare"]) {
        return;
    }
    let dir = temp();
    let (raw, expect) = raw(dir.path());
    let image = dir.path().join("disk.vdi");
    run("qemu-img", &["convert", "-f", "raw", "-O", "vdi", raw.to_str().unwrap(), image.to_str().unwrap()]);
    // Nobody but us may read the image, nor come to where it lies.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let before = std::fs::metadata(&image).unwrap().modified().unwrap();
    let opened = open(&image, &Options::default()).unwrap();
    check(&*opened.source, &expect);
    drop(opened);
    assert_eq!(std::fs::metadata(&image).unwrap().modified().unwrap(), before);

    // In a child that is killed in the midst of it.
    let me = std::env::current_exe().unwrap();
    let mut child = command(&me)
        .args(["--exact", "qemu_nbd::holds_a_fallback_open", "--nocapture"])
        .env("COLDREAD_TEST_HOLD", &image)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("holding") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "the child ended");
    }
    let started = below(child.id());
    let (_, qemu) = started.iter().find(|(_, line)| line.starts_with("qemu-nbd ")).expect("qemu-nbd runs");
    assert!(!qemu.contains(image.to_str().unwrap()), "{qemu}");
    let directory = started
        .iter()
        .find_map(|(_, line)| line.split(' ').find(|word| word.contains("/coldread-")).map(PathBuf::from))
        .unwrap();
    assert!(directory.is_dir());
    if nix::unistd::geteuid().is_root() {
        let (pid, _) = started.iter().find(|(_, line)| line.starts_with("qemu-nbd ")).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for expect in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
            assert!(status.contains(expect), "{status}");
        }
        let seen: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/root")).unwrap().flatten().collect();
        for entry in seen {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(
                ["usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "etc", "run"].contains(&&*name),
                "{name}"
            );
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let remains = |pid: u32, line: &str| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|now| String::from_utf8_lossy(&now).replace('\0', " ") == line)
    };
    while directory.exists() || started.iter().any(|(pid, line)| remains(*pid, line)) {
        assert!(Instant::now() < end, "{started:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The child of the test above: holds a source open until it is killed.
#[test]
fn holds_a_fallback_open() {
    let Some(image) = std::env::var_os("COLDREAD_TEST_HOLD") else { return };
    let opened = open(Path::new(&image), &Options::default()).unwrap();
    read_vec(&*opened.source, 0, 512).unwrap();
    println!("holding {}", std::process::id());
    std::thread::sleep(Duration::from_secs(60));
}
