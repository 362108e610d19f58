//! NBD servers that lie to our client, and clients that lie to our server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coldread::block::memory::Memory;
use coldread::block::nbd::Client;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::error::{Kind, Result};
use coldread::evidence::export::{Export, Server};

use crate::harness::{Seed, in_child, mutate};
use crate::support::{need, run, serve, temp};

const DEADLINE: Duration = Duration::from_secs(5);

/// What a client asks in every test here: always the same, so that recorded answers fit.
fn session(stream: UnixStream) -> Result<()> {
    let client = Client::over(stream, "hostile", "", DEADLINE)?;
    let len = client.len().min(1 << 20);
    let mut buf = vec![0; 24 << 10];
    let take = usize::try_from(len).unwrap().min(buf.len());
    let first = client.read_at(0, &mut buf[..take]);
    let mut at = 0;
    for _ in 0..64 {
        if at >= client.len() {
            break;
        }
        let run = client.run_at(at)?;
        assert!(run.len > 0 && run.len <= client.len() - at);
        at += run.len;
    }
    first?;
    client.read_at(len.saturating_sub(1000), &mut buf[..usize::try_from(len).unwrap().min(1000)])
}

/// Plays `bytes` to a client as a server's answers.
fn play(bytes: &[u8]) -> Result<()> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = (&theirs).write_all(bytes);
            let _ = theirs.shutdown(Shutdown::Write);
        });
        session(ours)
    })
}

/// What a real server and our client say to each other: its bytes, and ours.
fn record() -> Option<(Vec<u8>, Vec<u8>)> {
    if !need(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return None;
    }
    let dir = temp();
    let (image, socket, front) = (dir.path().join("i"), dir.path().join("s"), dir.path().join("f"));
    let name = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "64k"]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -q -P 1 0 8k",
            "-c",
            "write -q -z 12k 4k",
            "-c",
            "write -q -P 2 60k 4k",
            name,
        ],
    );
    let _server = serve("qemu-nbd", &["-r", "-f", "qcow2", "-k", socket.to_str().unwrap(), name], &socket);
    let listener = UnixListener::bind(&front).unwrap();
    let client = UnixStream::connect(&front).unwrap();
    let (near, far) = (listener.accept().unwrap().0, UnixStream::connect(&socket).unwrap());
    let copy = |mut from: &UnixStream, mut to: &UnixStream| {
        let (mut all, mut buf) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = from.read(&mut buf) {
            all.extend_from_slice(&buf[..n]);
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        all
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| copy(&far, &near));
        let ours = scope.spawn(|| copy(&near, &far));
        session(client).unwrap();
        Some((server.join().unwrap(), ours.join().unwrap()))
    })
}

#[test]
fn a_server_that_says_anything() {
    let seeds = || {
        let bytes = record()?.0;
        play(&bytes).unwrap();
        // Negotiation, then heads of chunks: before and after 8 KiB of data.
        let end = bytes.len();
        Some(vec![Seed { name: "qemu-nbd", bytes, hot: vec![0..500, end - 1500..end] }])
    };
    mutate("nbd::a_server_that_says_anything", 3000, seeds, |bytes| {
        let _ = play(bytes);
    });
}

#[test]
fn a_client_that_says_anything() {
    let seeds = || {
        let bytes = record()?.1;
        let dir = temp();
        let source: Source = Arc::new(Memory::new("memory", vec![5; 64 << 10]));
        let export = Export { name: "disk".into(), source, description: "a disk".into() };
        let server = Server::bind(&dir.path().join("s"), vec![export]).unwrap();
        let cancel = Arc::new(AtomicBool::new(false));
        let effort = Effort::new(Arc::clone(&cancel));
        let thread = std::thread::spawn(move || server.run(&effort));
        Some((bytes, dir, cancel, thread))
    };
    in_child("nbd::a_client_that_says_anything", seeds, |(bytes, dir, cancel, thread), note| {
        let mut dice = crate::harness::Dice::new(1);
        for number in 0..2000 {
            note.turn_to(number);
            let mut bytes = bytes.clone();
            for _ in 0..dice.below(5) {
                let at = dice.below(bytes.len());
                match dice.below(4) {
                    0 => bytes[at] ^= 1 << dice.below(8),
                    1 => bytes[at] = 0xff,
                    2 => bytes.truncate(at.max(1)),
                    _ => {
                        let from = dice.below(bytes.len());
                        let piece = bytes[from..].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            let stream = UnixStream::connect(dir.path().join("s")).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _ = (&stream).write_all(&bytes);
                    let _ = stream.shutdown(Shutdown::Write);
                });
                let mut sink = Vec::new();
                let _ = (&stream).take(4 << 20).read_to_end(&mut sink);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
        // It serves honest clients still.
        let client = Client::connect(&dir.path().join("s"), "disk", DEADLINE).unwrap();
        client.read_at(0, &mut [0; 4096]).unwrap();
        cancel.store(true, Ordering::Relaxed);
        thread.join().unwrap().unwrap();
    });
}

/// The start of a session with an export of `size` bytes, structured replies, and context 7.
fn opening(size: u64, structured: bool) -> Vec<u8> {
    let mut out = [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
    let mut reply = |option: u32, kind: u32, data: &[u8]| {
        out.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
        out.extend(
            [option.to_be_bytes(), kind.to_be_bytes(), u32::try_from(data.len()).unwrap().to_be_bytes()]
                .concat(),
        );
        out.extend(data);
    };
    reply(8, if structured { 1 } else { 0x8000_0001 }, &[]);
    if structured {
        reply(10, 4, &[&7_u32.to_be_bytes()[..], b"base:allocation"].concat());
        reply(10, 1, &[]);
    }
    reply(7, 3, &[&[0, 0][..], &size.to_be_bytes(), &[0, 3]].concat());
    reply(7, 1, &[]);
    out
}

fn chunk(cookie: u64, kind: u16, done: bool, data: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(u16::from(done).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn data(offset: u64, len: usize) -> Vec<u8> {
    [offset.to_be_bytes().to_vec(), vec![9; len]].concat()
}

#[test]
fn each_lie_is_named() {
    let hole = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a reply to a request that was not made", chunk(2, 1, true, &data(0, 4096))),
        ("a reply that answers only a part", chunk(1, 1, true, &data(0, 4095))),
        ("bytes that were not asked for", chunk(1, 1, true, &data(1, 4096))),
        ("bytes that were not asked for", chunk(1, 2, true, &hole(u64::MAX, 4096))),
        (
            "the same bytes twice",
            [chunk(1, 1, false, &data(0, 4000)), chunk(1, 2, true, &hole(3999, 97))].concat(),
        ),
        ("a chunk whose length does not fit", chunk(1, 2, true, &[0; 13])),
        ("a chunk of an unknown type", chunk(1, 77, true, &[])),
        ("the wrong sort", chunk(1, 5, true, &[0, 0, 0, 7, 0, 0, 16, 0, 0, 0, 0, 0])),
        ("an error whose length breaks the rules", chunk(1, 0x8001, true, &[0; 5000])),
        ("an error's message past its chunk", chunk(1, 0x8001, true, &[0, 0, 0, 5, 0, 9])),
        ("a reply with the wrong magic", vec![0; 16]),
        (
            "a simple reply",
            [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &1_u64.to_be_bytes(), &[0; 4096]].concat(),
        ),
    ];
    for (wanted, bytes) in cases {
        let error = play(&[opening(4096, true), bytes].concat()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{wanted}: {error}");
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
    }
    // The same opening with an honest answer is read.
    let status = [0, 0, 0, 7, 0, 0, 16, 0, 0, 0, 0, 0];
    let honest = [
        chunk(1, 1, false, &data(96, 4000)),
        chunk(1, 2, true, &hole(0, 96)),
        chunk(2, 5, true, &status),
        chunk(3, 1, true, &data(3096, 1000)),
    ];
    play(&[opening(4096, true), honest.concat()].concat()).unwrap();
    // Negotiations that never end, or promise too much.
    let endless = [
        [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat(),
        opening(0, true)[18..38].to_vec(),
        opening(0, true)[38..77].repeat(100_000),
    ];
    assert_eq!(play(&endless.concat()).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(play(&opening(u64::MAX, true)).unwrap_err().kind(), Kind::Corrupt);
    let mut huge = opening(4096, true);
    huge[34..38].fill(0xff);
    assert_eq!(play(&huge).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(play(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap_err().kind(), Kind::Corrupt);
    // Without structured replies, and cut off.
    let cut = play(&[opening(4096, false), vec![0x67, 0x44]].concat()).unwrap_err();
    assert_eq!(cut.kind(), Kind::Io);
}
