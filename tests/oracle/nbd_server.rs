//! The NBD server against nbdinfo, nbdcopy, qemu-img, qemu-io and our own client, byte for byte.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use coldread::block::file::HostFile;
use coldread::block::nbd::Client;
use coldread::block::slice::Slice;
use coldread::block::{BlockSource, Run, Source, read_vec};
use coldread::effort::Effort;
use coldread::error::{Error, Result};
use coldread::evidence::export::{Export, Served, Server};

use crate::support::{need, output, run, temp, text};

struct Serving {
    socket: PathBuf,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Served>>>,
}

impl Serving {
    fn new(socket: PathBuf, exports: Vec<Export>) -> Self {
        let server = Server::bind(&socket, exports).unwrap();
        let cancel = Arc::new(AtomicBool::new(false));
        let effort = Effort::new(Arc::clone(&cancel));
        let thread = std::thread::spawn(move || server.run(&effort));
        Self { socket, cancel, thread: Some(thread) }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    fn end(mut self) -> Served {
        self.cancel.store(true, Ordering::Relaxed);
        let served = self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.socket.exists());
        served
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

fn export(name: &str, source: &Source) -> Export {
    Export { name: name.into(), source: Arc::clone(source), description: format!("the {name}") }
}

/// libnbd's shell, with the system's own Python: another one that comes first in the path lacks the module.
fn nbdsh(args: &[&str]) -> Vec<u8> {
    run("/usr/bin/python3", &[&["-m", "nbd"], args].concat())
}

/// A sparse raw file, and it as a source: data, holes, an odd size.
fn disk(dir: &Path) -> (PathBuf, Source) {
    let path = dir.join("disk.raw");
    let name = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "raw", name, "33558016"]);
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -q -P 1 0 1M",
            "-c",
            "write -q -P 2 3M 512",
            "-c",
            "write -q -P 3 8M 4M",
            "-c",
            "write -q -P 4 16777728 20992",
            "-c",
            "write -q -P 5 33554432 3584",
            name,
        ],
    );
    let source: Source = Arc::new(HostFile::new(name, File::open(&path).unwrap()).unwrap());
    (path, source)
}

#[test]
fn other_clients_read_the_same_bytes() {
    if !need(&["qemu-img", "qemu-io", "nbdinfo", "nbdcopy", "nbdsh", "cmp"]) {
        return;
    }
    let dir = temp();
    let (path, source) = disk(dir.path());
    let volume: Source = Arc::new(Slice::new("p1", Arc::clone(&source), 1 << 20, 20 << 20).unwrap());
    let exports = vec![export("disk", &source), export("p1", &volume), export("vg/lv", &volume)];
    let serving = Serving::new(dir.path().join("s"), exports);
    let mode = serving.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");

    // nbdinfo: names, sizes, flags.
    let info: serde_json::Value =
        serde_json::from_slice(&run("nbdinfo", &["--list", "--json", &serving.uri("")])).unwrap();
    let shown: Vec<_> = info["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            assert_eq!((&e["is_read_only"], &e["can_multi_conn"]), (&true.into(), &true.into()), "{e}");
            assert_eq!(e["contexts"][0], "base:allocation");
            (
                e["export-name"].as_str().unwrap(),
                e["export-size"].as_u64().unwrap(),
                e["description"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [("disk", 33_558_016, "the disk"), ("p1", 20 << 20, "the p1"), ("vg/lv", 20 << 20, "the vg/lv")]
    );

    // nbdcopy, by several connections; qemu-img convert; qemu-img compare.
    let name = path.to_str().unwrap();
    let copy = dir.path().join("copy");
    let copy = copy.to_str().unwrap();
    for uri in [serving.uri(""), serving.uri("disk")] {
        run("nbdcopy", &[&uri, copy]);
        run("cmp", &[name, copy]);
        std::fs::remove_file(copy).unwrap();
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy]);
        run("cmp", &[name, copy]);
        std::fs::remove_file(copy).unwrap();
    }
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", name, &serving.uri("disk")]);
    run("nbdcopy", &[&serving.uri("vg/lv"), copy]);
    run("cmp", &["-n", "20971520", name, copy, "1048576", "0"]);

    // The map that qemu-img sees over the wire is the one that it sees in the file.
    let map = |target: &str| {
        let map = text(run("qemu-img", &["map", "--output=json", "-f", "raw", target]));
        let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
        map.iter().map(|e| (e["start"].clone(), e["length"].clone(), e["zero"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(map(&serving.uri("disk")), map(name));

    // Reads of one sector and of odd places, and a write that is refused.
    run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 4 16777728 512", "-c", "read -P 0 2M 1M", &serving.uri("disk")],
    );
    let odd = nbdsh(&["-u", &serving.uri("disk"), "-c", "print(h.pread(7, 1048570))"]);
    assert_eq!(text(odd).trim(), "bytearray(b'\\x01\\x01\\x01\\x01\\x01\\x01\\x00')");
    let write = output("qemu-io", &["-f", "raw", "-c", "write 0 512", &serving.uri("disk")]);
    assert!(!write.status.success());
    let forced = "h.set_strict_mode(0)\ntry:\n  h.pwrite(bytes(512), 0)\nexcept nbd.Error as e:\n  print(e.errno)\n\
                  try:\n  h.zero(512, 0)\nexcept nbd.Error as e:\n  print(e.errno)\n\
                  try:\n  h.pread(512, 33558016)\nexcept nbd.Error as e:\n  print(e.errno)\nprint(h.pread(2, 0))";
    let said = text(nbdsh(&["-u", &serving.uri("disk"), "-c", forced]));
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["EPERM", "EPERM", "EINVAL", "bytearray(b'\\x01\\x01')"]
    );

    let missing = output("nbdinfo", &[&serving.uri("none")]);
    assert!(!missing.status.success());
    let served = serving.end();
    assert!(served.clients >= 10 && served.bytes >= 5 * 5_000_000, "{served:?}");
}

#[test]
fn clients_without_structured_replies_read_too() {
    if !need(&["qemu-img", "qemu-io", "nbdsh"]) {
        return;
    }
    let dir = temp();
    let (path, source) = disk(dir.path());
    let serving = Serving::new(dir.path().join("s"), vec![export("disk", &source)]);
    let out = dir.path().join("copy");
    let script = format!(
        "h.set_request_structured_replies(False)\nh.set_opt_mode(False)\nh.connect_uri({:?})\n\
         assert not h.get_structured_replies_negotiated()\nn = h.get_size()\n\
         open({:?}, 'wb').write(h.pread(n // 2, 0) + h.pread(n - n // 2, n // 2))",
        serving.uri("disk"),
        out.to_str().unwrap()
    );
    nbdsh(&["-c", &script]);
    assert!(std::fs::read(out).unwrap() == std::fs::read(path).unwrap());
}

/// Data with a place that cannot be read.
struct Damaged {
    name: Arc<str>,
    bad: Range<u64>,
}

impl BlockSource for Damaged {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn len(&self) -> u64 {
        4 << 20
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        buf.fill(7);
        if offset < self.bad.end && end > self.bad.start {
            return Err(
                Error::corrupt("a bad place").with_range(self.bad.start.max(offset)..self.bad.end.min(end))
            );
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        Ok(Run::own(self.len() - offset, coldread::block::State::Data))
    }
}

#[test]
fn an_unreadable_place_is_an_error_there_and_nowhere_else() {
    if !need(&["nbdsh"]) {
        return;
    }
    let dir = temp();
    let source: Source = Arc::new(Damaged { name: "damaged".into(), bad: 1_000_000..1_000_100 });
    let serving = Serving::new(dir.path().join("s"), vec![export("disk", &source)]);
    let script = "try:\n  h.pread(2097152, 0)\nexcept nbd.Error as e:\n  print(e.errno)\n\
                  print(h.pread(1000000, 0) == bytes([7]) * 1000000, len(h.pread(2097152, 1000100)))";
    let said = text(nbdsh(&["-u", &serving.uri(""), "-c", script]));
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["EIO", "True", "2097152"]);
    // Our own client narrows it down to the sectors.
    let client = Client::connect(&serving.socket, "", Duration::from_secs(20)).unwrap();
    let error = client.read_at(0, &mut vec![0; 4 << 20]).unwrap_err();
    assert_eq!(error.range(), Some(999_936..1_000_448));
    assert!(error.to_string().contains("a bad place"), "{error}");
    assert!(read_vec(&*client, 1_000_448, 3 << 20).unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn a_socket_is_made_where_nothing_is_and_only_there() {
    let dir = temp();
    let source: Source = Arc::new(Damaged { name: "damaged".into(), bad: 0..0 });
    let exports = || vec![export("disk", &source)];
    let target = dir.path().join("target");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(Server::bind(&link, exports()).is_err());
    assert!(!target.exists());
    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(Server::bind(&file, exports()).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    // What took our socket's place is left alone.
    let socket = dir.path().join("s");
    let server = Server::bind(&socket, exports()).unwrap();
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "another's").unwrap();
    drop(server);
    assert_eq!(std::fs::read(&socket).unwrap(), b"another's");
    assert!(Server::bind(&dir.path().join("t"), [exports(), exports()].concat()).is_err());
}

#[test]
fn the_end_comes_at_once_though_clients_hold_on() {
    let dir = temp();
    let source: Source = Arc::new(Damaged { name: "damaged".into(), bad: 0..0 });
    let serving = Serving::new(dir.path().join("s"), vec![export("disk", &source)]);
    let client = Client::connect(&serving.socket, "disk", Duration::from_secs(20)).unwrap();
    let _silent = std::os::unix::net::UnixStream::connect(&serving.socket).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(serving.end(), Served { clients: 1, bytes: 512 });
    assert!(client.read_at(0, &mut [0; 512]).is_err());
}
