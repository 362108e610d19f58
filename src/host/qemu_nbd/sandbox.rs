//! A qemu-nbd that sees nothing of the host: it ends with us, and is always reaped.
//!
//! It never opens a file of the host: its images come to it over NBD sockets in a private directory, from descriptors
//! that the gate let in. As root it runs without privileges, as `nobody`, in namespaces of its own, whose root has the
//! programs and that directory alone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// Runs `"$@"` until our end of the pipe on standard input is closed, whatever the reason; then ends it and removes the
/// directory `$1`. If the program ends before that, the file `ended` says so. The process group is our own: nothing that was
/// started in it remains.
const SUPERVISE: &str = r#"
directory=$1; shift
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
{ read -r _ <&3; kill -KILL "$child"; } 2>/dev/null &
watcher=$!
wait "$child"
: >"$directory/ended"
wait "$watcher"
rm -rf -- "$directory"
kill -KILL 0
"#;

/// In a mount namespace of its own: a root with the programs, read-only, and the shared directory; then the command in it,
/// as nobody. `$1` is the new root, `$2` the shared directory, `$3` the user.
const CONFINE: &str = r#"
set -e
root=$1 share=$2 user=$3; shift 3
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root"
for dir in usr lib lib32 lib64 libx32 bin sbin; do
    if [ -L "/$dir" ]; then ln -s "$(readlink "/$dir")" "$root/$dir"
    elif [ -d "/$dir" ]; then mkdir "$root/$dir"; mount -o bind,ro,nosuid,nodev "/$dir" "$root/$dir"
    fi
done
mkdir "$root/etc" "$root/run"
[ ! -e /etc/ld.so.cache ] || cp /etc/ld.so.cache "$root/etc/"
mount --bind "$share" "$root/run"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all --pdeathsig KILL -- "$@"
"#;

/// A private directory, and what runs in it. Dropping it ends the program, reaps it and removes the directory.
pub struct Sandbox {
    directory: PathBuf,
    confined: bool,
    child: Option<Child>,
}

impl Sandbox {
    /// Makes the directory, mode 0700, in `/run` as root, else in `$XDG_RUNTIME_DIR`, or in the temporary directory. With
    /// `confined` the program has no privileges and sees nothing of the host, where we are root and can see to that.
    pub fn new(confined: bool) -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let confined = confined && root;
        let bases = [
            (!root).then(|| std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)).flatten(),
            root.then(|| PathBuf::from("/run")),
            Some(std::env::temp_dir()),
        ];
        let mut last = None;
        for base in bases.into_iter().flatten() {
            match nix::unistd::mkdtemp(&base.join("coldread-XXXXXX")) {
                Ok(directory) => {
                    let this = Self { directory, confined, child: None };
                    this.furnish().map_err(|error| {
                        Error::io(format!("{}: cannot set up", this.directory.display()), error)
                    })?;
                    return Ok(this);
                }
                Err(error) => last = Some((base, error)),
            }
        }
        let (base, error) = last.unwrap_or((PathBuf::new(), nix::Error::ENOENT));
        Err(Error::io(format!("{}: cannot make a private directory", base.display()), error))
    }

    fn furnish(&self) -> std::io::Result<()> {
        fs::create_dir(self.directory.join("root"))?;
        fs::create_dir(self.share())?;
        fs::set_permissions(self.share(), fs::Permissions::from_mode(0o700))?;
        self.give(&self.share())
    }

    /// The directory that the program shares with us.
    pub fn share(&self) -> PathBuf {
        self.directory.join("share")
    }

    /// What the program calls `name` in that directory.
    pub fn inside(&self, name: &str) -> PathBuf {
        if self.confined { Path::new("/run").join(name) } else { self.share().join(name) }
    }

    /// Lets the program's user have `path`.
    pub fn give(&self, path: &Path) -> std::io::Result<()> {
        if self.confined { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
    }

    /// Writes a secret for the program alone; gives what the program calls it.
    pub fn secret(&self, name: &str, secret: &[u8]) -> Result<PathBuf> {
        let path = self.share().join(name);
        let failed = |error| Error::io(format!("{}: cannot write", path.display()), error);
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create_new(true).open(&path).map_err(failed)?;
        std::io::Write::write_all(&mut file, secret).map_err(failed)?;
        self.give(&path).map_err(failed)?;
        Ok(self.inside(name))
    }

    /// Takes a file of the shared directory away.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.share().join(name));
    }

    /// Starts `program`.
    pub fn start(&mut self, program: &str, args: &[OsString]) -> Result<()> {
        let failed = |what: &str, error| Error::io(what.to_owned(), error);
        let log = File::create_new(self.log()).map_err(|error| failed("cannot write a log", error))?;
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISE, "sh"]).arg(&self.directory);
        if self.confined {
            command.args([
                "unshare",
                "--mount",
                "--net",
                "--ipc",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child=KILL",
            ]);
            command.args(["sh", "-c", CONFINE, "sh"]);
            command.arg(self.directory.join("root")).arg(self.share()).arg(NOBODY.to_string());
        }
        command.arg(program).args(args);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        // Keys at the terminal are for us; we then end the program ourselves.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).current_dir("/");
        self.child = Some(command.spawn().map_err(|error| failed("cannot start sh", error))?);
        Ok(())
    }

    /// Waits until the program listens on `name` in the shared directory.
    pub fn listening(&mut self, name: &str, patience: Duration) -> Result<()> {
        let path = self.share().join(name);
        let start = Instant::now();
        loop {
            // The file is there before the program listens on it.
            if UnixStream::connect(&path).is_ok() {
                return Ok(());
            }
            let ended = self.directory.join("ended").exists()
                || self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || start.elapsed() > patience {
                let what = if ended { "qemu-nbd ended at once" } else { "qemu-nbd did not start in time" };
                return Err(Error::unsupported(format!("{what}{}", self.said())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the program said on standard error, in one line.
    pub fn said(&self) -> String {
        let mut text = Vec::new();
        if let Ok(file) = File::open(self.log()) {
            let _ = file.take(2048).read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() { String::new() } else { format!(": {line}") }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The supervisor kills the program when this pipe closes, cleans up and ends.
            drop(child.stdin.take());
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
