//! What the integration tests share: other programs as oracles, temporary directories, loop mounts.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

#[cfg(feature = "internals")]
pub mod laws;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Whether these programs are there. In CI a missing one is a failure; elsewhere the test says that it is skipped.
pub fn need(programs: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    for program in programs {
        let found = path.split(':').any(|dir| Path::new(dir).join(program).is_file());
        if !found {
            assert!(!in_ci(), "{program} is needed for this test and is not installed (tests/packages.txt)");
            eprintln!("skipped: {program} is not installed");
            return false;
        }
    }
    true
}

/// Whether loop mounts can be made. In CI they must be.
pub fn need_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || !in_ci(), "this test mounts filesystems and needs root");
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

/// Whether a run in CI was asked for.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// Whether the whole matrices were asked for, not only the pairwise ones.
pub fn full() -> bool {
    std::env::var_os("COLDREAD_FULL").is_some()
}

/// `program` with the directories of system tools in its path and a fixed locale.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs a program to its end, whatever that is.
pub fn output<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    command(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that has to succeed; gives its standard output.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Vec<u8> {
    let out = output(program, args);
    let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    assert!(
        out.status.success(),
        "{program} {shown:?}: {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// Runs a shell script that has to succeed; gives its standard output. `$1`… are `args`.
pub fn shell<S: AsRef<OsStr>>(script: &str, args: &[S]) -> Vec<u8> {
    let mut all: Vec<&OsStr> = ["-euc", script, "sh"].into_iter().map(OsStr::new).collect();
    all.extend(args.iter().map(AsRef::as_ref));
    run("bash", &all)
}

/// A program that runs on beside the test and is ended when this is dropped.
pub struct Running(Child);

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it runs still.
    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that runs on; its input stays open and empty.
pub fn start<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Running {
    let mut command = command(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// Starts a server and waits until its socket takes connections.
pub fn serve<S: AsRef<OsStr>>(program: &str, args: &[S], socket: &Path) -> Running {
    let mut server = start(program, args);
    let end = Instant::now() + Duration::from_secs(20);
    // The kernel lists listening sockets with the flag 00010000; a connection would count as a client.
    while !std::fs::read_to_string("/proc/net/unix").is_ok_and(|list| {
        list.lines().any(|line| line.contains(" 00010000 ") && line.ends_with(&*socket.to_string_lossy()))
    }) {
        assert!(server.is_alive(), "{program} ended before it listened");
        assert!(Instant::now() < end, "{program} does not listen on {}", socket.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

/// Text of what a program printed.
pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8 output")
}

/// A temporary directory that goes when it is dropped.
pub fn temp() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("coldread-test-").tempdir().expect("a temporary directory")
}

/// The images that others made, where they are there.
pub fn corpus() -> Option<PathBuf> {
    beside("corpus")
}

/// The tree that a real Nova wrote, where it is there.
pub fn nova_tree() -> Option<PathBuf> {
    beside("nova-tree")
}

fn beside(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A loop device over an image; detached when it is dropped.
pub struct Loop(pub String);

impl Loop {
    /// All of `image`; with `read_only` the kernel cannot write to it.
    pub fn new(image: &Path, read_only: bool) -> Self {
        let mut args = vec![OsStr::new("-f"), OsStr::new("--show")];
        if read_only {
            args.push(OsStr::new("-r"));
        }
        args.push(image.as_os_str());
        Self(text(run("losetup", &args)).trim().to_string())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output("losetup", &["-d", &self.0]);
    }
}

/// A mounted image; unmounted and detached when it is dropped.
pub struct Mount {
    dir: tempfile::TempDir,
    device: Loop,
}

impl Mount {
    /// Mounts `image` as `kind` with mount(8) options such as `ro,noload`; `None` where this kernel refuses.
    pub fn try_new(image: &Path, kind: &str, options: &str) -> Option<Self> {
        let read_only = options.split(',').any(|option| option == "ro");
        let mount = Self { dir: temp(), device: Loop::new(image, read_only) };
        let args = ["-t", kind, "-o", options, &mount.device.0, &mount.path().to_string_lossy()];
        output("mount", &args).status.success().then_some(mount)
    }

    /// As [`Mount::try_new`], and it has to work.
    pub fn new(image: &Path, kind: &str, options: &str) -> Self {
        Self::try_new(image, kind, options)
            .unwrap_or_else(|| panic!("cannot mount {} as {kind}", image.display()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = output("umount", &[self.dir.path()]);
    }
}

/// The program under test, as cargo built it.
pub fn coldread() -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_coldread"));
    command.env_remove("COLDREAD_CASE").env_remove("COLDREAD_INSTANCES").env_remove("COLDREAD_POLICY");
    command
}
