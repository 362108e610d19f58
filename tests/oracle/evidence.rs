//! What is carried away, against the kernel's mount of the same image, sha256sum, GNU tar, getfacl and getfattr.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Mount, coldread, command, need, need_root, output, run, shell, temp, text};

/// An ext4 image that has one of everything.
const POPULATE: &str = r#"
cd "$1"
mkdir -p etc/deep/er empty 'sp ace'
echo host > etc/hostname
head -c 20000000 /dev/urandom > large
head -c 3000000 /dev/urandom > etc/medium
: > none
printf 'x' > $'new\nline'
printf 'y' > $'back\\slash'
printf 'z' > $'\xff\xfe-name'
printf 'w' > $'\xe2\x80\xae-rtl'
printf 'c' > $'\e[31mred'
printf 'l' > "$(printf 'n%.0s' {1..255})"
d="$(printf 'd%.0s' {1..120})"; mkdir -p "$d/$d"; printf 'p' > "$d/$d/long path"
ln -s etc/hostname short
ln -s "$(printf 't%.0s' {1..900})" longlink
ln -s $'\xff-target' badlink
ln large etc/hard; ln large empty/harder
ln -s nowhere both; ln both both2
mkfifo fifo; mknod null c 1 3; mknod disk b 259 70000; chmod 4755 etc/hostname; chmod 1777 empty
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
chown 4000000000:70000 etc/medium; chown -h 5:6 short
dd if=/dev/urandom of=sparse bs=4096 count=3 seek=100 status=none
dd if=/dev/urandom of=sparse bs=4096 count=2 seek=9000 conv=notrunc status=none
truncate -s 200M sparse; truncate -s 40M hole
setfacl -m u:1000:rwx,g:7:r-x,m::r-- etc/deep; setfacl -d -m u:1001:rw etc/deep
setfacl -m u:65534:r etc/medium
setfattr -n user.origin -v 'a=b%c' etc/hostname; setfattr -n user.binary -v 0x00ff0a3d etc/hostname
setfattr -n user.empty etc/deep; setfattr -n trusted.t -v trust etc/hostname
setfattr -n security.selinux -v 'system_u:object_r:etc_t:s0' etc/hostname
touch -d '1960-02-29T01:02:03.123456789Z' etc/deep/er; touch -d '2300-01-01T00:00:00.000000001Z' none
touch -h -d '2001-09-09T01:46:40.5Z' short
for i in $(seq 150); do echo $i > "sp ace/$i"; done
"#;

fn sample(dir: &Path) -> PathBuf {
    let image = dir.join("disk.raw");
    shell("truncate -s 128M $1; mkfs.ext4 -q -F -I 256 $1", &[&image]);
    let mount = Mount::new(&image, "ext4", "rw");
    shell(POPULATE, &[mount.path()]);
    image
}

fn stated(command: &str) -> std::process::Command {
    let mut it = coldread();
    it.args([command, "--ticket", "T-1", "--approved-by", "A. Pprover", "--reason", "a test"]);
    it
}

fn finished(mut command: std::process::Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    out
}

fn manifest(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A guest's path in the kernel's mount.
fn mounted(mount: &Path, line: &Value) -> PathBuf {
    let path = match line["path_bytes"].as_str() {
        Some(encoded) => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()
        }
        None => line["path"].as_str().unwrap().as_bytes().to_vec(),
    };
    mount.join(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap()))
}

fn kind(meta: &fs::Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "dir",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

fn stamp(seconds: i64, nanoseconds: i64) -> String {
    let time = jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap()).unwrap();
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    format!("{time}.{nanoseconds:09}Z")
}

#[test]
fn an_extraction_is_what_the_kernel_shows() {
    if !need(&["mkfs.ext4", "setfacl", "getfacl", "setfattr", "getfattr", "sha256sum", "python3"])
        || !need_root()
    {
        return;
    }
    let temp = temp();
    let image = sample(temp.path());
    let to = temp.path().join("out");
    let mut extract = stated("extract");
    extract.args([image.as_os_str(), "/".as_ref(), "--to".as_ref(), to.as_os_str()]);
    finished(extract);
    run(
        "bash",
        &["-c", "cd \"$1\" && sha256sum -c --quiet --strict SHA256SUMS", "sh", &to.to_string_lossy()],
    );
    let mount = Mount::new(&image, "ext4", "ro,noload");
    let lines = manifest(&to.join("manifest.jsonl"));
    let (summary, lines) = lines.split_last().unwrap();
    let names = text(shell("cd $1; find . -printf x | wc -c", &[mount.path()]));
    assert_eq!(lines.len().to_string(), names.trim());
    assert_eq!(summary["summary"]["files"], lines.len());
    let mut outputs: BTreeMap<u64, Value> = BTreeMap::new();
    for line in lines {
        let path = mounted(mount.path(), line);
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(line["type"], kind(&meta), "{line}");
        assert_eq!(line["inode"], meta.ino());
        assert_eq!(line["mode"], format!("{:04o}", meta.mode() & 0o7777), "{line}");
        assert_eq!(line["nlink"], meta.nlink());
        assert_eq!(
            (line["uid"].as_u64(), line["gid"].as_u64()),
            (Some(meta.uid().into()), Some(meta.gid().into()))
        );
        assert_eq!(line["size"], meta.size());
        assert_eq!(line["mtime"], stamp(meta.mtime(), meta.mtime_nsec()), "{line}");
        assert_eq!(line["ctime"], stamp(meta.ctime(), meta.ctime_nsec()), "{line}");
        if meta.is_symlink() {
            assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), target(line), "{line}");
        } else if !meta.file_type().is_socket() {
            let acl = run("getfacl", &["-cnp".as_ref(), path.as_os_str()]);
            assert_eq!(format!("{}\n", line["acl"].as_str().unwrap()), text(acl), "{line}");
        }
        if meta.is_file() {
            // One output for all names, with the guest's bytes and ours alone to read.
            let output = &line["output"];
            assert_eq!(outputs.entry(meta.ino()).or_insert_with(|| output.clone()), output);
            let sum = sum_of(&path);
            assert_eq!(line["sha256"], sum, "{line}");
            assert_eq!(line["output_sha256"], sum);
        }
    }
    let attributes = &lines.iter().find(|line| line["path"] == "/etc/hostname").unwrap()["xattrs"];
    assert_eq!(attributes["user.binary"], "AP8KPQ==");
    assert_eq!(attributes["user.origin"], "YT1iJWM=");
    assert_eq!(attributes.as_object().unwrap().len(), 4);
    let modes = text(shell("cd $1; find . -mindepth 1 -printf '%y%m\n' | sort -u", &[&to]));
    assert_eq!(modes, "d700\nf600\n");
    for (name, blocks) in [("sparse", 200), ("hole", 8)] {
        let meta = fs::metadata(to.join("files").join(name)).unwrap();
        assert!(meta.blocks() <= blocks, "{name} takes {} blocks", meta.blocks());
    }
}

fn target(line: &Value) -> Vec<u8> {
    use base64::Engine;
    match line["target_bytes"].as_str() {
        Some(encoded) => base64::engine::general_purpose::STANDARD.decode(encoded).unwrap(),
        None => line["target"].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// The digest as another program makes it. It gets the bytes on its input, so that the name does not matter.
fn sum_of(path: &Path) -> String {
    let out = command("sha256sum").stdin(fs::File::open(path).unwrap()).output().unwrap();
    text(out.stdout)[..64].to_string()
}

/// Everything that a restored tree is compared by. Sockets are not in a tar.
const SHOW: &str = r#"
cd "$1"
find . ! -type s ! -type d -printf '%P %y %m %U %G %s %T@ %l %n\0' | sort -z | tr '\0\n' '\n?'
find . -type d -printf '%P %y %m %U %G %T@\0' | sort -z | tr '\0\n' '\n?'
find . -type b -o -type c | sort | xargs stat -c '%n %t %T'
find . -type f -print0 | sort -z | xargs -0 sha256sum
find . ! -type s ! -type l -print0 | sort -z | xargs -0 getfacl -np
find . ! -type s -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex
"#;

#[test]
fn gnu_tar_restores_a_tar_with_all_that_it_carries() {
    if !need(&["mkfs.ext4", "setfacl", "getfacl", "setfattr", "getfattr", "tar", "python3"]) || !need_root() {
        return;
    }
    let temp = temp();
    let image = sample(temp.path());
    let (tar, restored) = (temp.path().join("out.tar"), temp.path().join("restored"));
    let mut extract = stated("extract");
    extract.args([image.as_os_str(), "/".as_ref(), "--tar".as_ref(), tar.as_os_str()]);
    finished(extract);
    fs::create_dir(&restored).unwrap();
    let out = output(
        "tar",
        &["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf"]
            .iter()
            .map(AsRef::as_ref)
            .chain([tar.as_os_str(), "-C".as_ref(), restored.as_os_str()])
            .collect::<Vec<&std::ffi::OsStr>>(),
    );
    // It warns of times that it finds odd and restores them all the same.
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let odd = |line: &str| line.contains("implausibly old") || line.contains("in the future");
    assert!(out.status.success() && said.lines().all(odd), "{said}");
    let mount = Mount::new(&image, "ext4", "ro,noload");
    let (ours, theirs) = (shell(SHOW, &[&restored]), shell(SHOW, &[mount.path()]));
    let (ours, theirs) = (String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    for name in ["sparse", "hole"] {
        let meta = fs::metadata(restored.join(name)).unwrap();
        assert!(meta.blocks() <= 200, "{name} takes {} blocks", meta.blocks());
    }
    assert!(fs::metadata(&tar).unwrap().len() < 40 << 20);
    let lines = manifest(&temp.path().join("out.tar.manifest.jsonl"));
    let socket = lines.iter().find(|line| line["path"] == "/socket").unwrap();
    assert!(socket["output"].is_null() && socket["note"].is_string());
    assert!(lines.last().unwrap()["summary"]["files"] == lines.len() - 1);
    // The same stream goes to a pipe.
    let mut extract = stated("extract");
    extract.args([image.as_os_str(), "/".as_ref(), "--tar".as_ref(), "-".as_ref()]);
    assert!(finished(extract).stdout == fs::read(&tar).unwrap());
}

#[test]
fn a_killed_run_leaves_a_part_that_can_be_checked() {
    if !need(&["mkfs.ext4", "sha256sum"]) || !need_root() {
        return;
    }
    let temp = temp();
    let image = temp.path().join("disk.raw");
    shell("truncate -s 64M $1; mkfs.ext4 -q -F $1", &[&image]);
    {
        let mount = Mount::new(&image, "ext4", "rw");
        for i in 0..200 {
            fs::write(mount.path().join(format!("file{i}")), vec![7; i * 10]).unwrap();
        }
        // Twenty seconds of zeros to hash, behind all others in its own directory.
        fs::create_dir(mount.path().join("z")).unwrap();
        let far = fs::File::create(mount.path().join("z/far")).unwrap();
        far.write_all_at(b"end", 60 << 30).unwrap();
    }
    let to = temp.path().join("out");
    let mut extract = stated("extract");
    let paths = (0..200).map(|i| format!("/file{i}")).chain(["/z".to_string()]);
    extract.arg(&image).args(paths).arg("--to").arg(&to).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = extract.spawn().unwrap();
    let sums = to.join("SHA256SUMS");
    let begun = Instant::now();
    while fs::read_to_string(&sums).map_or(0, |text| text.lines().count()) < 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no lines appear while a large file is copied");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    run(
        "bash",
        &["-c", "cd \"$1\" && sha256sum -c --quiet --strict SHA256SUMS", "sh", &to.to_string_lossy()],
    );
    let lines = manifest(&to.join("manifest.jsonl"));
    assert!(lines.len() >= 200 && lines.iter().all(|line| line["summary"].is_null()));
    let mut problems = Vec::new();
    coldread::evidence::verify::verify(&to, &coldread::effort::Effort::default(), &mut |problem| {
        problems.push((problem.kind, text(problem.path)));
    })
    .unwrap();
    problems.sort();
    assert_eq!(
        problems,
        [("extra", "files/z/far".to_string()), ("incomplete", "manifest.jsonl".to_string())]
    );
}
