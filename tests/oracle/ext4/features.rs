//! What one filesystem needs for itself: very large directories, nodes deleted while open, encryption.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use coldread::error::Kind;
use coldread::fs::{InodeState, Stream};

use super::compare::{Same, compare};
use super::{Opened, mkfs};
use crate::support::{Mount, need, need_root, output, run, shell, temp, text};

#[test]
fn fifty_thousand_names_are_listed_and_found() {
    if !need(&["mke2fs", "python3"]) || !need_root() {
        return;
    }
    let dir = temp();
    let image = mkfs(dir.path(), 128 << 20, "-t ext4 -b 1024 -N 60000 -O large_dir");
    {
        let mount = Mount::new(&image, "ext4", "rw");
        fs::create_dir(mount.path().join("large")).unwrap();
        for i in 0..50_000 {
            File::create(mount.path().join(format!("large/entry with number {i:05}"))).unwrap();
        }
    }
    let mount = Mount::new(&image, "ext4", "ro");
    let opened = Opened::new(&image);
    assert_eq!(compare(&*opened.fs, mount.path(), Same { kernel: true, attributes: true }), 50_003);
    assert_eq!(opened.findings(), [""; 0]);
}

#[test]
fn nodes_deleted_while_open_are_orphans_with_their_content() {
    if !need(&["mke2fs", "debugfs"]) || !need_root() {
        return;
    }
    for options in ["-t ext4", "-t ext4 -O orphan_file", "-t ext3", "-t ext4 -O ^metadata_csum"] {
        let dir = temp();
        let image = mkfs(dir.path(), 32 << 20, options);
        let mount = Mount::new(&image, "ext4", "rw");
        let path = mount.path().join("gone");
        let file = File::create_new(&path).unwrap();
        file.write_all_at(&vec![b'o'; 30_000], 0).unwrap();
        let other = File::create(mount.path().join("other")).unwrap();
        let ino = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        fs::remove_file(&path).unwrap();
        fs::remove_file(mount.path().join("other")).unwrap();
        shell(r#"sync -f "$1""#, &[mount.path()]);
        let copy = dir.path().join("copy");
        fs::copy(&image, &copy).unwrap();
        let opened = Opened::new(&copy);
        let orphans: Vec<u64> = opened.fs.orphans().unwrap().into_iter().map(|id| id.ino).collect();
        assert!(orphans.len() == 2 && orphans.contains(&ino), "{options}: {orphans:?}");
        let id = coldread::fs::NodeId::new(ino);
        let node = opened.fs.node(id).unwrap();
        assert_eq!((node.state, node.size, node.nlink), (InodeState::Orphan, 30_000, 0));
        let source = opened.fs.open(id, Stream::Content).unwrap();
        let mut data = vec![0; 30_000];
        source.read_at(0, &mut data).unwrap();
        assert!(data.iter().all(|b| *b == b'o'), "{options}");
        assert!(opened.fs.facts().needs_replay && opened.fs.facts().replay.is_some());
        assert_eq!(opened.fs.facts().state, "not clean");
        drop(other);
    }
}

/// fscrypt with a key that the kernel gets for the test and loses again: names as it shows them then, and no content.
const ENCRYPT: &str = r#"
import ctypes, fcntl, os, struct, sys
root = sys.argv[1]
fd = os.open(root, os.O_RDONLY)
# struct fscrypt_add_key_arg: key spec (type 2: identifier), raw size, key id, reserved, raw
arg = bytearray(struct.pack("=II32sII8I", 2, 0, b"", 64, 0, *[0] * 8) + bytes(range(64)))
fcntl.ioctl(fd, 0xC0506617, arg)
identifier = bytes(arg[8:24])
secret = os.path.join(root, "secret")
os.mkdir(secret)
d = os.open(secret, os.O_RDONLY)
# struct fscrypt_policy_v2: version, contents AES-256-XTS, names AES-256-CTS, flags, log2, reserved, identifier
fcntl.ioctl(d, 0x800C6613, struct.pack("=BBBBB3s16s", 2, 1, 4, 3, 0, b"", identifier))
os.close(d)
for i in range(int(sys.argv[2])):
    with open(f"{secret}/name number {i}", "w") as f:
        f.write("plain text")
with open(secret + "/" + "l" * 200, "w") as f:
    f.write("long name")
os.symlink("target", secret + "/link")
"#;

#[test]
fn an_encrypted_directory_is_listed_as_the_kernel_lists_it_and_never_decoded() {
    if !need(&["mke2fs", "python3"]) || !need_root() {
        return;
    }
    for count in ["5", "400"] {
        let dir = temp();
        let image = mkfs(dir.path(), 32 << 20, "-t ext4 -O encrypt,stable_inodes");
        {
            let Some(mount) = Mount::try_new(&image, "ext4", "rw") else { return };
            let made = output("python3", &["-c", ENCRYPT, mount.path().to_str().unwrap(), count]);
            if !made.status.success() {
                let said = String::from_utf8_lossy(&made.stderr).into_owned();
                eprintln!("skipped: this kernel does not encrypt: {said}");
                return;
            }
        }
        let mount = Mount::new(&image, "ext4", "ro");
        let mut theirs: Vec<Vec<u8>> = fs::read_dir(mount.path().join("secret"))
            .unwrap()
            .map(|e| std::os::unix::ffi::OsStringExt::into_vec(e.unwrap().file_name()))
            .collect();
        theirs.sort();
        let opened = Opened::new(&image);
        let secret = opened.fs.lookup(opened.fs.root(), b"secret").unwrap().unwrap().id;
        assert!(opened.fs.node(secret).unwrap().flags.contains(&"encrypt"));
        let entries: Vec<_> = opened.fs.entries(secret).unwrap().map(Result::unwrap).collect();
        let mut ours: Vec<Vec<u8>> = entries.iter().map(|e| e.name.clone()).collect();
        ours.sort();
        assert_eq!(ours, theirs);
        for entry in &entries {
            assert_eq!(opened.fs.lookup(secret, &entry.name).unwrap().as_ref(), Some(entry));
            assert_eq!(opened.fs.open(entry.id, Stream::Content).err().unwrap().kind(), Kind::Unsupported);
        }
        let link = entries.iter().find(|e| e.kind == coldread::fs::FileType::Symlink).unwrap();
        assert_eq!(opened.fs.link(link.id).unwrap_err().kind(), Kind::Unsupported);
    }
}

/// Casefolded directories, which this kernel may not mount: debugfs makes the directory, and its hash finds the name.
#[test]
fn a_casefolded_directory_finds_names_in_any_case() {
    if !need(&["mke2fs", "debugfs"]) {
        return;
    }
    let dir = temp();
    let image = mkfs(dir.path(), 8 << 20, "-t ext4 -O casefold -E encoding=utf8");
    let path = image.to_str().unwrap();
    for request in ["mkdir d", "sif d flags 0x40080000", "write /etc/hostname d/Stra\u{df}e"] {
        run("debugfs", &["-w", "-R", request, path]);
    }
    assert!(text(run("debugfs", &["-R", "stat d", path])).contains("Flags: 0x40080000"));
    let opened = Opened::new(&image);
    let fs = &opened.fs;
    let d = fs.lookup(fs.root(), b"d").unwrap().unwrap().id;
    let found = fs.lookup(d, b"STRASSE").unwrap().unwrap();
    assert_eq!(found.name, "Stra\u{df}e".as_bytes());
    assert_eq!(fs.lookup(d, b"STRASS").unwrap(), None);
    assert_eq!(fs.lookup(fs.root(), b"D").unwrap(), None);
}
