//! The image locks that real QEMU programs hold.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use coldread::block::locks::{self, Locks};

use crate::support::{need, run, start, temp};

/// Waits until the locks of the image are as wanted; the deadline only ends a test that would fail anyway.
fn until(image: &Path, wanted: impl Fn(&Locks) -> bool) -> Locks {
    let file = File::open(image).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let locks = locks::inspect(&file).unwrap();
        if wanted(&locks) {
            return locks;
        }
        assert!(Instant::now() < end, "{locks:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_writer_is_seen_with_its_process_and_seen_no_more_when_it_is_gone() {
    if !need(&["qemu-img", "qemu-nbd", "qemu-io"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("disk.qcow2");
    let (path, socket) = (image.to_str().unwrap(), dir.path().join("s"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "1M"]);
    assert_eq!(locks::inspect(&File::open(&image).unwrap()).unwrap(), Locks::default());

    let nbd = start("qemu-nbd", &["-t", "-f", "qcow2", "-k", socket.to_str().unwrap(), path]);
    let seen = until(&image, |locks| locks.writer() && !locks.owners.is_empty());
    let owner = &seen.owners[0];
    assert_eq!((owner.pid, owner.command.as_str(), owner.writer), (nbd.id(), "qemu-nbd", true));
    assert_eq!(seen.who(), format!("qemu-nbd (pid {})", nbd.id()));
    drop(nbd);
    until(&image, |locks| *locks == Locks::default());

    let io = start("qemu-io", &["-f", "qcow2", path]);
    assert_eq!(until(&image, Locks::writer).owners[0].pid, io.id());
}

#[test]
fn a_reader_is_no_writer() {
    if !need(&["qemu-img", "qemu-storage-daemon"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("disk.raw");
    let path = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "raw", path, "1M"]);
    let file = format!("driver=file,node-name=f,filename={path},read-only=on");
    let server = format!("addr.type=unix,addr.path={}", dir.path().join("s").display());
    let reader = start(
        "qemu-storage-daemon",
        &[
            "--blockdev",
            &file,
            "--blockdev",
            "driver=raw,node-name=r,file=f,read-only=on",
            "--nbd-server",
            &server,
            "--export",
            "type=nbd,id=e,node-name=r,writable=off",
        ],
    );
    let seen = until(&image, |locks| locks.held != 0);
    assert!(!seen.writer(), "{seen:?}");
    assert_eq!(seen.owners[0].pid, reader.id());
    assert!(!seen.owners[0].writer);
}

#[test]
fn a_guest_is_named_by_its_domain() {
    if !need(&["qemu-img", "qemu-system-x86_64"]) {
        return;
    }
    let dir = temp();
    let image = dir.path().join("disk");
    let path = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "1M"]);
    let uuid = "3a7f0c58-8a5c-4f0e-9d1e-5c1f0b7a2d11";
    let drive = format!("if=virtio,format=qcow2,file={path}");
    // Never started: a paused guest holds the same locks.
    let _guest = start(
        "qemu-system-x86_64",
        &[
            "-S",
            "-display",
            "none",
            "-accel",
            "tcg",
            "-m",
            "16",
            "-name",
            "guest=instance-0000274a,debug-threads=on",
        ]
        .into_iter()
        .chain(["-uuid", uuid, "-drive", &drive])
        .collect::<Vec<_>>(),
    );
    let seen = until(&image, |locks| locks.writer() && !locks.owners.is_empty());
    assert_eq!(seen.owners[0].domain.as_deref(), Some("instance-0000274a"));
    assert_eq!(seen.owners[0].uuid.as_deref(), Some(uuid));
    assert!(seen.who().contains("domain instance-0000274a"), "{}", seen.who());
}
