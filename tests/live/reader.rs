//! A reader under test: the driver as a process of its own, with a virsh that can be held.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::driver;
use crate::guest::{Guest, until};

/// What belongs to one reader: its directory for journals and its virsh.
pub struct Place<'a> {
    pub guest: &'a Guest,
    dir: tempfile::TempDir,
}

/// A reader that runs.
pub struct Reader {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// How a reader ended.
pub struct End {
    pub code: Option<i32>,
    /// Its last words: a report or an error.
    pub said: Value,
}

impl<'a> Place<'a> {
    pub fn new(guest: &'a Guest) -> Self {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&guest.dir).unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("journals")).unwrap();
        Self { guest, dir }
    }

    /// The directory for journals.
    pub fn journals(&self) -> PathBuf {
        self.dir.path().join("journals")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Holds virsh before a command with this text.
    pub fn hold_at(&self, text: &str) {
        fs::write(self.file("at"), text).unwrap();
    }

    /// Waits until virsh is held.
    pub fn wait_held(&self) {
        until("virsh is held", 20, || self.file("reached").exists());
    }

    /// Lets virsh go on, and holds no further one.
    pub fn let_go(&self) {
        let _ = fs::remove_file(self.file("at"));
    }

    /// Starts a reader; `more` adds to its request.
    pub fn start(&self, mode: &str, mut more: Value) -> Reader {
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/hook.sh");
        let mut wish = json!({
            "virsh": format!("{} {} virsh", hook.display(), self.dir.path().display()),
            "mode": mode, "target": self.guest.name, "dir": self.journals(),
        });
        let map = wish.as_object_mut().unwrap();
        map.append(more.as_object_mut().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(driver::VARIABLE, wish.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Reader { child, out }
    }

    /// Starts a reader and waits until it reads; gives its disks.
    pub fn open(&self, mode: &str, more: Value) -> (Reader, Value) {
        let mut reader = self.start(mode, more);
        let said = reader.next().unwrap_or_default();
        assert!(said["open"].is_array(), "{mode}: {said}");
        (reader, said["open"].clone())
    }

    /// `coldread live VERB`, with this place's journals.
    pub fn live(&self, verb: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["--json", "live", verb, "--run-dir"])
            .arg(self.journals())
            .output()
            .unwrap()
    }

    /// The run's watchdog, by its command line.
    pub fn watchdog(&self) -> Option<i32> {
        let journals = self.journals().display().to_string();
        processes()
            .into_iter()
            .find(|(_, line)| line.contains(" watchdog ") && line.contains(&journals))
            .map(|(pid, _)| pid)
    }

    /// What is left of a run, if anything is.
    fn left(&self) -> Option<String> {
        let guest = self.guest;
        let state = guest.state();
        if state != "running" {
            return Some(format!("the domain is {state}"));
        }
        self.rests()
    }

    /// What is left beside the state of the domain.
    fn rests(&self) -> Option<String> {
        let guest = self.guest;
        let job = guest.virsh("domjobinfo", &[]);
        let job = String::from_utf8_lossy(&job.stdout).into_owned();
        if job.contains("Backup") {
            return Some(job);
        }
        let mut files: Vec<PathBuf> = list(&self.journals());
        for dir in list(Path::new("/var/lib/libvirt/qemu")) {
            if dir.to_string_lossy().contains(&guest.name) {
                files.extend(list(&dir).into_iter().filter(|f| f.to_string_lossy().contains("coldread")));
            }
        }
        if !files.is_empty() {
            return Some(format!("{files:?}"));
        }
        let ours = self.dir.path().display().to_string();
        processes()
            .into_iter()
            .find(|(_, line)| {
                line.contains(&ours)
                    // With a timeout: the listener of a run, not the one of the test.
                    || (line.contains("event --domain") && line.contains("--timeout") && line.contains(&guest.uuid))
            })
            .map(|(pid, line)| format!("process {pid}: {line}"))
    }

    /// Waits, 5 s at most, until the domain runs and nothing of the run is left.
    pub fn is_clean(&self, context: &str) {
        let mut left = None;
        for _ in 0..50 {
            left = self.left();
            if left.is_none() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(left.is_none(), "{context}: after 5 s: {}", left.unwrap_or_default());
    }

    /// The same for what is not the domain's state.
    pub fn has_no_rests(&self, context: &str) {
        let mut left = None;
        for _ in 0..50 {
            left = self.rests();
            if left.is_none() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(left.is_none(), "{context}: after 5 s: {}", left.unwrap_or_default());
    }
}

impl Reader {
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.out.read_line(&mut line).ok().filter(|n| *n > 0)?;
        serde_json::from_str(&line).ok()
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Says that reading is over.
    pub fn done_reading(&mut self) {
        // One that ended already does not listen.
        if let Some(mut stdin) = self.child.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> End {
        // Should it be reading against expectation, it is not to wait for ever.
        drop(self.child.stdin.take());
        let mut said = Value::Null;
        while let Some(next) = self.next() {
            said = next;
        }
        End { code: self.child.wait().unwrap().code(), said }
    }

    /// Reading is over; waits for the end.
    pub fn finish(&mut self) -> End {
        self.done_reading();
        self.wait()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// The report's marks.
    pub fn marks(&self) -> String {
        self.said["report"]["marks"].to_string()
    }

    /// The error's text.
    pub fn error(&self) -> String {
        self.said["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a signal; a negative pid is a process group.
pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Waits until a process that was killed has ended, reaped or not.
pub fn ended(pid: i32) {
    until("a killed process ends", 20, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    });
}

/// All processes with their command lines.
fn processes() -> Vec<(i32, String)> {
    list(Path::new("/proc"))
        .into_iter()
        .filter_map(|path| {
            let pid: i32 = path.file_name()?.to_str()?.parse().ok()?;
            let line = fs::read(path.join("cmdline")).ok()?;
            let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            (pid != i32::try_from(std::process::id()).ok()?
                && !words.is_empty()
                && !words[0].contains("qemu"))
            .then(|| (pid, words.join(" ")))
        })
        .collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map_or_else(|_| Vec::new(), |entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
}
