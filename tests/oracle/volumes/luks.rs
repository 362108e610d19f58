//! LUKS against cryptsetup and QEMU: both encrypt what is known, and it has to come back byte for byte.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coldread::block::Source;
use coldread::effort::Effort;
use coldread::error::{Kind, Result};
use coldread::volume::luks::Luks;
use coldread::volume::{Key, Options, Scheme, scan};
use sha2::Digest;

use super::{disk, options};
use crate::support::{need, output, run, shell, temp};

const SIZE: usize = 256 << 10;

fn plain() -> Vec<u8> {
    (0..SIZE as u64 / 8).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

fn key(bytes: &[u8]) -> Key {
    Key::new(bytes.to_vec())
}

/// The bytes of `device` in clear, its header in `header`.
fn open(header: &Path, device: &Path, keys: &[Key]) -> Result<Option<Source>> {
    Luks::read(&disk(header))?.open("clear", &disk(device), keys, &Effort::default())
}

fn bytes(source: &Source) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(source.len()).unwrap()];
    source.read_at(0, &mut out).unwrap();
    crate::support::laws::laws(&**source);
    out
}

/// Cheap derivations: the cost is not what is tested.
const PBKDF2: &str = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";
const ARGON2: &str = "--pbkdf-memory 64 --pbkdf-parallel 2 --pbkdf-force-iterations 4";

#[test]
fn luks2_as_cryptsetup_encrypts_it() {
    if !need(&["cryptsetup"]) {
        return;
    }
    let dir = temp();
    let (data, header) = (dir.path().join("data"), dir.path().join("header"));
    std::fs::write(dir.path().join("key"), b"pass\nphrase\0 ").unwrap();
    let ways = [
        format!("{PBKDF2} --hash sha512"),
        format!("{PBKDF2} --sector-size 4096"),
        format!("--pbkdf argon2id {ARGON2}"),
        format!("--pbkdf argon2i {ARGON2} --sector-size 2048"),
        format!("{PBKDF2} --hash sha1 --cipher aes-cbc-essiv:sha256 --key-size 256"),
        format!("{PBKDF2} --cipher aes-cbc-plain64 --key-size 128"),
        format!("{PBKDF2} --cipher aes-xts-plain64 --key-size 256"),
        format!("{PBKDF2} --cipher serpent-xts-plain64 --key-size 512"),
        format!("{PBKDF2} --cipher twofish-xts-plain64 --key-size 256"),
    ];
    let mut checked = 0;
    for way in &ways {
        std::fs::write(&data, plain()).unwrap();
        let _ = std::fs::remove_file(&header);
        let script = format!(
            "cd \"$1\"; cryptsetup reencrypt --encrypt --batch-mode --type luks2 {way} --header header --key-file key data"
        );
        // Serpent and Twofish are done by the kernel, where it has them.
        let done = output("bash", &["-euc", &script, "sh", dir.path().to_str().unwrap()]);
        if !done.status.success() {
            assert!(way.contains("serpent") || way.contains("twofish"), "{way}: {done:?}");
            continue;
        }
        assert!(std::fs::read(&data).unwrap() != plain(), "{way}: nothing was encrypted");
        let keys = [key(b"wrong"), key(b"pass\nphrase\0 ")];
        let clear = open(&header, &data, &keys).unwrap_or_else(|e| panic!("{way}: {e}"));
        assert!(bytes(&clear.unwrap_or_else(|| panic!("{way}: no key fits"))) == plain(), "{way}");
        assert!(open(&header, &data, &keys[..1]).unwrap().is_none(), "{way}");
        checked += 1;
    }
    assert!(checked >= 7);
}

#[test]
fn luks1_as_qemu_encrypts_it_and_as_cryptsetup_formats_it() {
    if !need(&["qemu-img", "cryptsetup"]) {
        return;
    }
    let dir = temp();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, plain()).unwrap();
    let image = dir.path().join("luks");
    let ways = [
        "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=xts,ivgen-alg=plain,hash-alg=sha1",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=ripemd160",
        "cipher-alg=serpent-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=twofish-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha384",
        "cipher-alg=twofish-256,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha256",
    ];
    for way in ways {
        let options = format!("key-secret=s,iter-time=10,{way}");
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        run(
            "qemu-img",
            &["convert", "-O", "luks", "--object", "secret,id=s,data=pass", "-o", &options, from, to],
        );
        let clear = open(&image, &image, &[key(b"pass")]).unwrap_or_else(|e| panic!("{way}: {e}"));
        assert!(bytes(&clear.unwrap_or_else(|| panic!("{way}: no key fits"))) == plain(), "{way}");
    }
    // What cryptsetup formats, with the key in its third slot; QEMU decrypts what lies there.
    shell(
        "cd $1; truncate -s 6M formatted; head -c 4M /dev/urandom > noise; printf one > one; printf two > two
        opts='-q --pbkdf-force-iterations 1000'
        cryptsetup luksFormat $opts --type luks1 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --key-slot 1 formatted one
        cryptsetup luksAddKey $opts --key-file one --key-slot 5 formatted two
        cryptsetup luksKillSlot -q --key-file two formatted 1
        dd if=noise of=formatted bs=1M seek=2 conv=notrunc status=none
        qemu-img convert --object secret,id=s,data=two --image-opts driver=luks,key-secret=s,file.filename=formatted -O raw clear",
        &[dir.path()],
    );
    let formatted = dir.path().join("formatted");
    assert!(open(&formatted, &formatted, &[key(b"one")]).unwrap().is_none());
    let clear = open(&formatted, &formatted, &[key(b"two")]).unwrap().unwrap();
    assert!(bytes(&clear) == std::fs::read(dir.path().join("clear")).unwrap());
}

/// A LUKS2 header with its key `pass`, and what it encrypts.
fn luks2(dir: &Path) -> (PathBuf, PathBuf) {
    let (data, header) = (dir.join("data"), dir.join("header"));
    std::fs::write(&data, plain()).unwrap();
    let script = format!(
        "cd $1; rm -f header; printf pass | cryptsetup reencrypt --encrypt --batch-mode --type luks2 --pbkdf argon2id {ARGON2} --header header --key-file - data"
    );
    shell(&script, &[dir]);
    (header, data)
}

/// Rewrites the JSON of both headers, with the right checksums.
fn rewrite(header: &Path, change: impl Fn(&str) -> String) {
    let file = OpenOptions::new().read(true).write(true).open(header).unwrap();
    for at in [0, 16384] {
        let mut raw = vec![0; 16384];
        file.read_exact_at(&mut raw, at).unwrap();
        let end = 4096 + raw[4096..].iter().position(|b| *b == 0).unwrap();
        let before = String::from_utf8(raw[4096..end].to_vec()).unwrap();
        let after = change(&before);
        assert!(after != before, "nothing changed in {before}");
        raw[4096..].fill(0);
        raw[4096..][..after.len()].copy_from_slice(after.as_bytes());
        raw[448..512].fill(0);
        let digest = sha2::Sha256::digest(&raw);
        raw[448..480].copy_from_slice(&digest);
        file.write_all_at(&raw, at).unwrap();
    }
}

#[test]
fn a_damaged_luks2_header_is_replaced_by_the_other() {
    if !need(&["cryptsetup"]) {
        return;
    }
    let dir = temp();
    let (header, data) = luks2(dir.path());
    let sound = std::fs::read(&header).unwrap();
    let patch = |places: &[u64]| {
        std::fs::write(&header, &sound).unwrap();
        let file = OpenOptions::new().write(true).open(&header).unwrap();
        for at in places {
            file.write_all_at(b"?", *at).unwrap();
        }
    };
    let keys = [key(b"pass")];
    for (places, said) in [
        (&[4200u64][..], "the second serves"),
        (&[0], "the second serves"),
        (&[16384 + 5000], "the first serves"),
    ] {
        patch(places);
        let luks = Luks::read(&disk(&header)).unwrap();
        assert!(luks.problems()[0].contains(said), "{:?}", luks.problems());
        assert!(bytes(&open(&header, &data, &keys).unwrap().unwrap()) == plain(), "{places:?}");
    }
    patch(&[4200, 16384 + 5000]);
    let error = Luks::read(&disk(&header)).err().unwrap();
    assert!(error.kind() == Kind::Corrupt && error.what().contains("checksum is wrong"), "{error}");
}

#[test]
fn what_cannot_be_right_and_what_costs_too_much_is_refused() {
    if !need(&["cryptsetup"]) {
        return;
    }
    let dir = temp();
    let keys = [key(b"pass")];
    type Case = (&'static str, &'static str, Kind, &'static str);
    let cases: &[Case] = &[
        ("\"memory\":64", "\"memory\":4000000000", Kind::Refused, "4000000000 KiB"),
        ("\"time\":4", "\"time\":4000000000", Kind::Refused, "4000000000 passes"),
        ("\"memory\":64", "\"memory\":1", Kind::Corrupt, "Argon2"),
        (
            "\"requirements\":{",
            "\"requirements\":{\"mandatory\":[\"online-reencrypt-v2\"],\"x\":{",
            Kind::Unsupported,
            "in the middle of a change",
        ),
        (
            "\"type\":\"crypt\"",
            "\"type\":\"linear\"",
            Kind::Unsupported,
            "only a volume of one encrypted segment",
        ),
        (
            "\"type\":\"crypt\"",
            "\"type\":\"crypt\",\"integrity\":{\"type\":\"aead\"}",
            Kind::Unsupported,
            "integrity",
        ),
        ("\"stripes\":4000", "\"stripes\":4000000000", Kind::Corrupt, "stripes"),
        ("\"type\":\"argon2id\"", "\"type\":\"scrypt\"", Kind::Unsupported, "scrypt"),
        ("aes-xts-plain64\",\"sector", "aes-xts-random\",\"sector", Kind::Unsupported, "aes-xts-random"),
    ];
    for (from, to, kind, said) in cases {
        let (header, data) = luks2(dir.path());
        let mut skipped = false;
        let text = String::from_utf8_lossy(&std::fs::read(&header).unwrap()).into_owned();
        if text.contains(from) {
            rewrite(&header, |json| {
                let json = json.replacen(from, to, 1);
                if to.contains("\"x\":{") { json.replacen("}}}", "}}}}", 1) } else { json }
            });
        } else {
            skipped = true;
        }
        if skipped {
            // cryptsetup writes no requirements where there are none.
            assert!(from.contains("requirements"), "{from} is not in the header");
            rewrite(&header, |json| {
                json.replacen(
                    "\"config\":{",
                    "\"config\":{\"requirements\":{\"mandatory\":[\"online-reencrypt-v2\"]},",
                    1,
                )
            });
        }
        let error = open(&header, &data, &keys).err().unwrap_or_else(|| panic!("{to} was taken"));
        assert!(error.kind() == *kind && error.what().contains(said), "{to}: {error}");
    }
    // A volume that cryptsetup itself left in the middle.
    let (data, header) = (dir.path().join("data"), dir.path().join("header"));
    std::fs::write(&data, plain()).unwrap();
    std::fs::remove_file(&header).unwrap();
    shell(
        &format!(
            "cd $1; printf pass | cryptsetup reencrypt --encrypt --init-only --batch-mode --type luks2 {PBKDF2} --header header --key-file - data"
        ),
        &[dir.path()],
    );
    let error = open(&header, &data, &keys).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

#[test]
fn a_group_on_an_encrypted_partition_is_found_with_the_key_and_told_without() {
    if !need(&["qemu-img", "sgdisk", "pvcreate", "vgcfgrestore", "mkfs.ext4"]) || !crate::support::need_root()
    {
        return;
    }
    let dir = temp();
    File::create(dir.path().join("pv")).unwrap().set_len(16 << 20).unwrap();
    shell(
        r#"cd $1; d=$(losetup -f --show pv); trap 'losetup -d $d' EXIT
        pvcreate -qq --devices $d $d; vgcreate -qq -s 64k --devices $d secret $d
        vgcfgbackup -qq -f text --devices $d secret
        awk '/^}/ && !done { print "logical_volumes { root {\nid = \"AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA1\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 128\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]\n}\n} }"; done = 1 } { print }' text > new
        vgcfgrestore -qq --force -f new --devices $d secret
        losetup -d $d; trap - EXIT
        truncate -s 8M fs; mkfs.ext4 -qF -L root fs; dd if=fs of=pv bs=1M seek=1 conv=notrunc,sparse status=none
        qemu-img convert -O luks --object secret,id=s,data=pass -o key-secret=s,iter-time=10 pv luks
        truncate -s 32M disk; sgdisk -n 1:2048:0 disk >/dev/null
        dd if=luks of=disk bs=1M seek=1 conv=notrunc status=none"#,
        &[dir.path()],
    );
    let disk = disk(&dir.path().join("disk"));
    let closed = scan(&disk, &options()).unwrap();
    let kinds: Vec<_> = closed.volumes.iter().map(|v| (v.index, v.parent, v.scheme)).collect();
    assert_eq!(kinds, [(1, None, Scheme::Gpt), (2, Some(1), Scheme::Luks)]);
    let inner = &closed.volumes[1];
    assert!(inner.source.is_none() && inner.problems[0].contains("a passphrase or key file is needed"));
    assert_eq!(inner.kind, "aes-xts-plain64");

    let wrong = Options { keys: vec![key(b"no")], ..options() };
    assert!(scan(&disk, &wrong).unwrap().volumes[1].problems[0].contains("no key that was given"));

    let opened = scan(&disk, &Options { keys: vec![key(b"pass")], ..options() }).unwrap();
    let rows: Vec<_> = opened
        .volumes
        .iter()
        .map(|v| (v.index, v.parent, v.scheme, v.content.as_ref().map(|c| c.kind)))
        .collect();
    assert_eq!(
        rows,
        [
            (1, None, Scheme::Gpt, Some("crypto_LUKS")),
            (2, Some(1), Scheme::Luks, Some("LVM2_member")),
            (3, Some(2), Scheme::Lvm, Some("ext4")),
        ]
    );
    let root = &opened.volumes[2];
    assert_eq!(
        (root.name.as_deref(), root.content.as_ref().unwrap().label.as_deref()),
        (Some("secret/root"), Some("root"))
    );
    assert!(bytes(root.source.as_ref().unwrap()) == std::fs::read(dir.path().join("fs")).unwrap());
}
