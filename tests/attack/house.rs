//! A house with a policy, people with keys, an instance, and a case: what the attacks are tried on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::support;

pub const INSTANCE: &str = "6f3c1f0e-2b7d-4a54-9d3c-0f5e7a1b0981";

/// What only somebody with leave may see.
pub const SECRET: &str = "the-content-that-wants-leave";

/// A disk with /etc, /home and ways from one to the other; made once.
fn disk() -> &'static Path {
    static DISK: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = DISK.get_or_init(|| {
        let dir = support::temp();
        let path = dir.path().join("disk");
        let script = r#"cd "$1"; mkdir -p g/etc/ssh g/home/alice g/etcetera
            printf host >g/etc/hostname; printf '%s' "$2" >g/home/alice/secret; printf x >g/etcetera/x
            ln -s /home/alice/secret g/etc/out; ln -s ../home g/etc/up; ln -s /etc g/home/in; ln g/home/alice/secret g/etc/hard
            printf '%s' "$2" >g/etc/ssh/key; truncate -s 8M disk
            mkfs.ext4 -q -E hash_seed=11111111-2222-3333-4444-555555555555 -d g disk"#;
        support::shell(script, &[&dir.path().to_string_lossy(), SECRET]);
        (dir, path)
    });
    path
}

pub struct House {
    dir: tempfile::TempDir,
    /// Lines of the policy before `[log]`.
    policy: Vec<String>,
}

impl House {
    /// With a policy that wants `approvers` signatures of alice, bob and carol.
    pub fn signed(approvers: u32) -> Self {
        let house = Self { dir: support::temp(), policy: Vec::new() };
        let mut allowed = String::new();
        for who in ["alice", "bob", "carol", "mallory"] {
            house.key(who, "ed25519");
            if who != "mallory" {
                allowed += &house.allow(who, who, "");
            }
        }
        house.write("allowed", &allowed);
        house.write("kept", "");
        let mut house = house;
        let allowed = house.path("allowed");
        house.policy = vec![
            "require = \"signed\"".into(),
            format!("approvers = {approvers}"),
            format!("allowed_signers = {allowed:?}"),
        ];
        house.write_policy();
        house.instance();
        house
    }

    /// With a policy that is content with a statement.
    pub fn stated() -> Self {
        let house = Self { dir: support::temp(), policy: Vec::new() };
        house.write_policy();
        house.instance();
        house
    }

    fn instance(&self) {
        let dir = self.path("instances").join(INSTANCE);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(disk(), dir.join("disk")).unwrap();
        let info = format!("{{{:?}: \"raw\"}}", dir.join("disk"));
        std::fs::write(dir.join("disk.info"), info).unwrap();
    }

    /// Adds lines to the policy.
    pub fn policy(&mut self, lines: &[&str]) {
        self.policy.extend(lines.iter().map(ToString::to_string));
        self.write_policy();
    }

    fn write_policy(&self) {
        let log = format!("[log]\ndir = {:?}\ncheckpoint_to = {:?}\n", self.path("log"), self.path("kept"));
        let (plain, tables): (Vec<_>, Vec<_>) = self.policy.iter().partition(|line| !line.starts_with('['));
        let text: Vec<_> = plain
            .into_iter()
            .map(String::as_str)
            .chain([log.as_str()])
            .chain(tables.into_iter().map(String::as_str))
            .collect();
        self.write("policy.toml", &text.join("\n"));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes a key pair in the file `who`.
    pub fn key(&self, who: &str, kind: &str) {
        let file = self.path(who);
        support::run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", who, "-f", &file.to_string_lossy()]);
    }

    /// A line of allowed signers: the key in the file `key`, for `who`.
    pub fn allow(&self, who: &str, key: &str, options: &str) -> String {
        let public = self.read(&format!("{key}.pub"));
        let public: Vec<_> = public.split(' ').take(2).collect();
        format!("{who} {options} {}\n", public.join(" "))
    }

    /// A command of coldread's, with this house's policy.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        command.args(args).current_dir(self.dir.path()).env("COLDREAD_POLICY", self.path("policy.toml"));
        command.env("COLDREAD_INSTANCES", self.path("instances"));
        for name in ["SUDO_USER", "COLDREAD_CASE", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs; the exit code has to be `code`. Gives both outputs in one.
    pub fn exits(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{args:?}\n{text}");
        text
    }

    /// Refused with this message, and nothing of the content shown.
    pub fn refuses(&self, message: &str, args: &[&str]) {
        let said = self.exits(3, args);
        assert!(said.contains(message), "{args:?}: wanted `{message}` in\n{said}");
        assert!(!said.contains(SECRET), "{said}");
    }

    /// Writes an approval for `/etc/**` with these further options.
    pub fn request(&self, file: &str, options: &[&str]) {
        let mut args = vec!["approval", "request", "--ticket", "T-1", "--reason", "why", "--to", file];
        let usual = [
            ("--instance", INSTANCE),
            ("--requester", "dave"),
            ("--expires", "1h"),
            ("--path", "/etc/**"),
            ("--verb", "list,read,extract"),
        ];
        for (option, value) in usual {
            if !options.contains(&option) {
                args.extend([option, value]);
            }
        }
        args.extend(options);
        self.exits(0, &args);
    }

    /// Signs with stock ssh-keygen, in the namespace that approvers are told.
    pub fn sign(&self, file: &str, key: &str) {
        self.sign_in(file, key, "approval@coldread");
    }

    pub fn sign_in(&self, file: &str, key: &str, namespace: &str) {
        let (file, key_file) = (self.path(file), self.path(key));
        let (path, key_path) = (file.to_string_lossy(), key_file.to_string_lossy());
        support::run("ssh-keygen", &["-q", "-Y", "sign", "-n", namespace, "-f", &key_path, &path]);
        std::fs::rename(format!("{path}.sig"), format!("{path}.{key}.sig")).unwrap();
    }

    /// An approval signed by these.
    pub fn approve(&self, file: &str, options: &[&str], signers: &[&str]) {
        self.request(file, options);
        for signer in signers {
            self.sign(file, signer);
        }
    }

    pub fn open_case(&self, dir: &str) {
        self.exits(0, &["case", "open", dir, "--id", dir, "--ticket", "T-1", "--reason", "why"]);
    }
}
