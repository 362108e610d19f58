//! The NBD client against qemu-nbd, nbdkit and qemu-storage-daemon, byte for byte.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coldread::block::nbd::Client;
use coldread::block::{BlockSource, State, read_vec};
use coldread::error::Kind;

use crate::support::{need, run, serve, temp};

const DEADLINE: Duration = Duration::from_secs(20);

fn connect(socket: &Path, export: &str) -> Arc<Client> {
    Client::connect(socket, export, DEADLINE).unwrap()
}

/// A qcow2 of 12 MiB and 1000 sectors with data, zero clusters, compressed clusters and holes, and its raw form by
/// `qemu-img convert`.
fn image(dir: &Path) -> (PathBuf, Vec<u8>) {
    let (path, raw) = (dir.join("disk.qcow2"), dir.join("disk.raw"));
    let name = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", name, "13094912"]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -q -P 1 0 1M",
            "-c",
            "write -q -P 2 3M 128k",
            "-c",
            "write -q -z 4M 1M",
            "-c",
            "write -q -P 3 5242881 4097",
            "-c",
            "write -q -c -P 4 8M 64k",
            "-c",
            "write -q -P 5 12M 512000",
            name,
        ],
    );
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, raw.to_str().unwrap()]);
    (path, std::fs::read(raw).unwrap())
}

/// Runs cover the source, and those that read as zeros do.
fn check_runs(source: &dyn BlockSource, expect: &[u8]) -> u64 {
    let (mut offset, mut zeros) = (0, 0);
    while offset < source.len() {
        let run = source.run_at(offset).unwrap();
        assert!(run.len > 0 && offset + run.len <= source.len());
        if run.state.reads_zero() {
            zeros += run.len;
            let range = usize::try_from(offset).unwrap()..usize::try_from(offset + run.len).unwrap();
            assert!(expect[range].iter().all(|byte| *byte == 0), "not zeros at {offset:#x}");
        }
        offset += run.len;
    }
    assert!(source.run_at(source.len()).is_err());
    zeros
}

/// Reads of every alignment and size give the expected bytes.
fn check_bytes(source: &dyn BlockSource, expect: &[u8]) {
    assert_eq!(source.len(), expect.len() as u64);
    assert!(read_vec(source, 0, expect.len()).unwrap() == expect, "the whole");
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for i in 0..200 {
        let start = random(expect.len());
        let len = random((expect.len() - start).min(if i % 4 == 0 { 1 << 20 } else { 5000 }) + 1);
        let got = read_vec(source, start as u64, len).unwrap();
        assert!(got == expect[start..start + len], "{len} bytes at {start}");
    }
    assert!(read_vec(source, expect.len() as u64 - 1, 2).is_err());
}

#[test]
fn reads_what_qemu_nbd_serves() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let dir = temp();
    let ((image, expect), socket) = (image(dir.path()), dir.path().join("s"));
    let _server = serve(
        "qemu-nbd",
        &["-r", "-t", "-f", "qcow2", "-x", "vda", "-k", socket.to_str().unwrap(), image.to_str().unwrap()],
        &socket,
    );
    let client = connect(&socket, "vda");
    assert!(client.terms().structured && client.terms().allocation.is_some());
    check_bytes(&*client, &expect);
    let zeros = check_runs(&*client, &expect);
    // All but the written clusters: 1 MiB, 2 of 64 KiB, 1 or 2, 1, 8.
    assert!(zeros >= expect.len() as u64 - (1 << 20) - 13 * 65536, "{zeros}");
    assert!(matches!(client.run_at(4 << 20).unwrap().state, State::Zero | State::Hole));
    drop(client);

    let error = Client::connect(&socket, "vdb", DEADLINE).err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("the server has \"vda\""), "{error}");
    let names: Vec<_> = Client::list(&socket, DEADLINE).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["vda"]);
}

#[test]
fn several_threads_share_one_connection() {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let dir = temp();
    let ((image, expect), socket) = (image(dir.path()), dir.path().join("s"));
    let _server = serve(
        "qemu-nbd",
        &["-r", "-f", "qcow2", "-k", socket.to_str().unwrap(), image.to_str().unwrap()],
        &socket,
    );
    let client = connect(&socket, "");
    std::thread::scope(|scope| {
        for i in 0..6_usize {
            let (client, expect) = (&client, &expect);
            scope.spawn(move || {
                for round in 0..40_usize {
                    let start = (i * 7919 + round * 262_147) % expect.len();
                    let len = (1 << (8 + (round + i) % 14)).min(expect.len() - start);
                    let got = read_vec(&**client, start as u64, len).unwrap();
                    assert!(got == expect[start..start + len], "thread {i}: {len} bytes at {start}");
                    client.run_at(start as u64).unwrap();
                }
            });
        }
    });
}

#[test]
fn reads_what_qemu_storage_daemon_serves_and_lists_its_exports() {
    if !need(&["qemu-img", "qemu-io", "qemu-storage-daemon"]) {
        return;
    }
    let dir = temp();
    let ((image, expect), socket) = (image(dir.path()), dir.path().join("s"));
    let file = format!("driver=file,node-name=f,read-only=on,filename={}", image.display());
    let address = format!("addr.type=unix,addr.path={}", socket.display());
    let _server = serve(
        "qemu-storage-daemon",
        &[
            "--blockdev",
            &file,
            "--blockdev",
            "driver=qcow2,node-name=q,file=f,read-only=on",
            "--nbd-server",
            &address,
            "--export",
            "type=nbd,id=a,node-name=q,name=disk,description=the disk",
            "--export",
            "type=nbd,id=b,node-name=f,name=file",
        ],
        &socket,
    );
    check_bytes(&*connect(&socket, "disk"), &expect);
    check_runs(&*connect(&socket, "disk"), &expect);
    check_bytes(&*connect(&socket, "file"), &std::fs::read(&image).unwrap());
    let mut exports = Client::list(&socket, DEADLINE).unwrap();
    exports.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!((exports[0].name.as_str(), exports[0].description.as_str()), ("disk", "the disk"));
    assert_eq!((exports[1].name.as_str(), exports.len()), ("file", 2));
}

#[test]
fn honours_block_sizes_and_does_without_structured_replies() {
    if !need(&["qemu-img", "qemu-io", "nbdkit"]) {
        return;
    }
    let dir = temp();
    let (_, expect) = image(dir.path());
    // A whole number of blocks, as the servers want it.
    let expect = &expect[..12 << 20];
    let raw = dir.path().join("even.raw");
    std::fs::write(&raw, expect).unwrap();
    let raw = raw.to_str().unwrap();
    let variants: [&[&str]; 3] = [
        &[
            "--filter=blocksize-policy",
            "file",
            raw,
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=65536",
            "blocksize-error-policy=error",
        ],
        &["--no-sr", "file", raw],
        &[
            "--filter=blocksize-policy",
            "--no-sr",
            "file",
            raw,
            "blocksize-minimum=65536",
            "blocksize-preferred=65536",
            "blocksize-maximum=327680",
            "blocksize-error-policy=error",
        ],
    ];
    for (i, variant) in variants.iter().enumerate() {
        let socket = dir.path().join(format!("s{i}"));
        let args: Vec<&str> =
            ["-f", "-r", "-U", socket.to_str().unwrap()].into_iter().chain(variant.iter().copied()).collect();
        let _server = serve("nbdkit", &args, &socket);
        let client = connect(&socket, "");
        assert_eq!(client.terms().structured, i == 0);
        check_bytes(&*client, expect);
        check_runs(&*client, expect);
    }
}

#[test]
fn a_bad_sector_is_named_and_nothing_else_is_lost() {
    if !need(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let dir = temp();
    let (raw, socket) = (dir.path().join("disk.raw"), dir.path().join("s"));
    let expect: Vec<u8> = (0..2_u32 << 20).map(|i| (i / 512 % 251) as u8).collect();
    std::fs::write(&raw, &expect).unwrap();
    // Sectors 1001 and 1002, then 2000.
    let mut options = format!(
        "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={}",
        raw.display()
    );
    for (i, sector) in [1001, 1002, 2000].iter().enumerate() {
        let error = format!("file.inject-error.{i}");
        options = [
            options,
            format!("{error}.event=none,{error}.iotype=read,{error}.errno=5,{error}.sector={sector}"),
        ]
        .join(",");
    }
    let _server =
        serve("qemu-nbd", &["-r", "-t", "-k", socket.to_str().unwrap(), "--image-opts", &options], &socket);
    let client = connect(&socket, "");
    let mut got = vec![0; expect.len()];
    let (mut at, mut gaps) = (0, Vec::new());
    while at < got.len() {
        match client.read_at(at as u64, &mut got[at..]) {
            Ok(()) => break,
            Err(error) => {
                let range = error.range().unwrap();
                let (start, end) =
                    (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
                client.read_at(at as u64, &mut got[at..start]).unwrap();
                assert_eq!(error.kind(), Kind::Io);
                gaps.push(range);
                at = end;
            }
        }
    }
    assert_eq!(gaps, [1001 * 512..1003 * 512, 2000 * 512..2001 * 512]);
    for gap in &gaps {
        let gap = usize::try_from(gap.start).unwrap()..usize::try_from(gap.end).unwrap();
        got[gap.clone()].copy_from_slice(&expect[gap]);
    }
    assert!(got == expect);

    // Three of ten reads fail, now here, now there: what is read is right, and all of it can be.
    let socket = dir.path().join("flaky");
    let _server = serve(
        "nbdkit",
        &[
            "-f",
            "-U",
            socket.to_str().unwrap(),
            "--filter=error",
            "file",
            raw.to_str().unwrap(),
            "error-pread-rate=30%",
        ],
        &socket,
    );
    let client = connect(&socket, "");
    for (i, chunk) in expect.chunks(1 << 16).enumerate() {
        let got = (0..100).find_map(|_| read_vec(&*client, (i as u64) << 16, chunk.len()).ok());
        assert!(got.as_deref() == Some(chunk));
    }
}

#[test]
fn a_server_that_keeps_us_waiting_is_given_up() {
    if !need(&["nbdkit"]) {
        return;
    }
    let dir = temp();
    let socket = dir.path().join("s");
    let _server = serve(
        "nbdkit",
        &["-f", "-U", socket.to_str().unwrap(), "--filter=delay", "memory", "1M", "rdelay=60"],
        &socket,
    );
    let client = Client::connect(&socket, "", Duration::from_millis(300)).unwrap();
    let error = client.read_at(0, &mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("in time"), "{error}");
    // From then on the connection is of no more use, and says so at once.
    assert!(client.read_at(0, &mut [0; 512]).is_err());
    assert!(client.run_at(0).is_err());

    // Short delays are waited out, several requests at a time: one by one, these 40 would take 20 s.
    let socket = dir.path().join("slow");
    let _server = serve(
        "nbdkit",
        &["-f", "-U", socket.to_str().unwrap(), "--filter=delay", "pattern", "10M", "rdelay=500ms"],
        &socket,
    );
    let client = Client::connect(&socket, "", Duration::from_secs(10)).unwrap();
    let got = read_vec(&*client, 0, 10 << 20).unwrap();
    for (i, word) in got.chunks_exact(8).enumerate() {
        assert_eq!(word, (i as u64 * 8).to_be_bytes());
    }
}

#[test]
fn no_server_is_an_error_at_once() {
    let dir = temp();
    let error = Client::connect(&dir.path().join("s"), "", DEADLINE).err().unwrap();
    assert_eq!(error.kind(), Kind::Io);
    // A socket on which nobody accepts: the deadline ends the wait for the greeting.
    let path = dir.path().join("mute");
    let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Client::connect(&path, "", Duration::from_millis(100)).err().unwrap();
    assert!(error.to_string().contains("in time"), "{error}");
}
