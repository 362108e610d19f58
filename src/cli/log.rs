//! `log`: the audit log shown, verified, summed up in a checkpoint, and proved line by line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use coldread::case::audit::checkpoint::{self, Checkpoint};
use coldread::case::audit::proof::Proof;
use coldread::case::audit::{self, verify};
use coldread::case::{Policy, SYSTEM_POLICY};
use coldread::error::{Error, Result};
use serde_json::{Value, json};

use super::Context;
use super::out::{Align, Exit, Stdout, Table};

/// `log …`
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the lines
    Show(Show),
    /// Check that no line was changed, dropped, added or swapped
    ///
    /// Finds what was changed in place. Whoever can write the log can also write all of it anew, or cut its end: only
    /// --against, with a checkpoint that was kept out of their reach, finds that.
    Verify(Verify),
    /// Print the log's name, size and root (C2SP tlog-checkpoint)
    Checkpoint(MakeCheckpoint),
    /// Prove that a line is in the log, without showing the others
    Prove(Prove),
}

/// Which log.
#[derive(ClapArgs)]
struct Which {
    /// A case directory or a log file; left out: this host's log
    #[arg(value_name = "LOG")]
    log: Option<PathBuf>,

    #[command(flatten)]
    policy: PolicyOption,
}

/// A policy beside the house's.
#[derive(ClapArgs)]
pub struct PolicyOption {
    /// A policy that makes the house's stricter
    #[arg(long = "policy", value_name = "FILE", env = "COLDREAD_POLICY")]
    policy: Option<PathBuf>,
}

impl PolicyOption {
    /// What holds.
    pub fn load(&self) -> Result<Policy> {
        Policy::load(Path::new(SYSTEM_POLICY), self.policy.as_deref())
    }
}

impl Which {
    fn path(&self) -> Result<PathBuf> {
        match &self.log {
            Some(log) => audit::place(Some(log), &Policy::default()),
            None => audit::place(None, &self.policy.load()?),
        }
    }
}

#[derive(ClapArgs)]
struct Show {
    #[command(flatten)]
    which: Which,
}

#[derive(ClapArgs)]
struct Verify {
    #[command(flatten)]
    which: Which,

    /// A checkpoint that was kept elsewhere, or a file of them
    #[arg(long, value_name = "CHECKPOINT")]
    against: Option<PathBuf>,

    /// The key that has to have signed the checkpoint: `<name>+<id>+<key>`
    #[arg(long, value_name = "KEY", requires = "against")]
    key: Option<String>,

    /// Check an inclusion proof instead of a log
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    proof: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct MakeCheckpoint {
    #[command(flatten)]
    which: Which,

    /// Sign it with this Ed25519 key (PKCS#8, as `openssl genpkey -algorithm ed25519` makes it)
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
}

#[derive(ClapArgs)]
struct Prove {
    /// The log, if it is not this host's, and the number of the line
    #[arg(value_names = ["LOG", "SEQ"], num_args = 1..=2, required = true)]
    what: Vec<String>,

    #[command(flatten)]
    policy: PolicyOption,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<Exit> {
        match self.command {
            Command::Show(args) => args.run(context),
            Command::Verify(args) => args.run(context),
            Command::Checkpoint(args) => args.run(context),
            Command::Prove(args) => args.run(),
        }
    }
}

impl Show {
    fn run(self, context: &Context) -> Result<Exit> {
        let path = self.which.path()?;
        let cannot = |e| Error::io(format!("log {}", path.display()), e);
        let reader = BufReader::new(fs::File::open(&path).map_err(cannot)?);
        let mut out = Stdout::lock();
        let mut table = Table::new(&[
            ("SEQ", Align::Right),
            ("TIME", Align::Left),
            ("KIND", Align::Left),
            ("WHO", Align::Left),
            ("WHAT", Align::Left),
        ]);
        for line in reader.split(b'\n') {
            let line = line.map_err(cannot)?;
            let Ok(value) = serde_json::from_slice::<Value>(&line) else {
                context.voice.note(&format!("a line that is not JSON: {}", String::from_utf8_lossy(&line)));
                continue;
            };
            if context.voice.json {
                out.json(&value)?;
            } else {
                table.row(vec![
                    value["seq"].to_string(),
                    text(&value, "/time"),
                    text(&value, "/kind"),
                    ["/operator/login", "/operator/sudo_user", "/operator/user"]
                        .iter()
                        .map(|pointer| text(&value, pointer))
                        .find(|name| !name.is_empty())
                        .unwrap_or_default(),
                    what(&value),
                ]);
            }
        }
        if !context.voice.json {
            table.print(&mut out, context.voice.color)?;
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string()
}

/// A line in a few words.
fn what(line: &Value) -> String {
    let words = |key: &str| {
        let list = line[key].as_array().map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    match line["kind"].as_str().unwrap_or_default() {
        "opened" => text(line, "/origin"),
        "intent" => format!("{} {} {}", text(line, "/command"), text(line, "/source"), words("paths")),
        "outcome" => {
            let refused = line["refused"].as_array().map_or(0, Vec::len);
            let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
            format!("exit {}{refused} {}", line["exit"], text(line, "/error"))
        }
        "refused" => format!("{} {}: {}", text(line, "/command"), text(line, "/source"), text(line, "/why")),
        "ratified" => format!("run {}", text(line, "/ratifies")),
        "torn" => format!("{} bytes kept in {}", line["bytes"], text(line, "/kept")),
        _ => text(line, "/case"),
    }
    .trim_end()
    .to_string()
}

impl Verify {
    fn run(self, context: &Context) -> Result<Exit> {
        let checkpoint = self.against.as_deref().map(read).transpose()?;
        if let (Some(text), Some(key)) = (&checkpoint, &self.key)
            && !Checkpoint::signed_by(text, key)?
        {
            return fail(
                context,
                &json!({ "sound": false, "problem": "the checkpoint is not signed with that key" }),
            );
        }
        if let Some(file) = &self.proof {
            return proof(context, file, checkpoint.as_deref());
        }
        let path = self.which.path()?;
        let verdict = verify::verify(&path, checkpoint.as_deref())?;
        let value = serde_json::to_value(&verdict).map_err(|e| Error::usage(e.to_string()))?;
        if !verdict.sound {
            return fail(context, &value);
        }
        let mut out = Stdout::lock();
        if context.voice.json {
            out.json(&value)?;
        } else {
            out.line(&format!("{}: sound, {} lines, root {}", path.display(), verdict.lines, verdict.root))?;
            match verdict.against {
                Some(size) => out.line(&format!("it holds the first {size} lines that the checkpoint covers, unchanged"))?,
                None => context.voice.note(
                    "no checkpoint was given: a log written anew, or cut at its end, would look the same (--against)",
                ),
            }
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}

fn proof(context: &Context, file: &Path, checkpoint: Option<&str>) -> Result<Exit> {
    let wrong = |why: &str| Error::usage(format!("proof {}: {why}", file.display()));
    let proof: Proof = serde_json::from_str(&read(file)?).map_err(|e| wrong(&e.to_string()))?;
    let root = match proof.check() {
        Ok(root) => root,
        Err(problem) => return fail(context, &json!({ "sound": false, "problem": problem })),
    };
    if let Some(text) = checkpoint
        && !Checkpoint::all_of(text, &root.origin)?.contains(&root)
    {
        let problem = format!("the checkpoint is not of the tree with {} lines and this root", root.size);
        return fail(context, &json!({ "sound": false, "problem": problem }));
    }
    let mut out = Stdout::lock();
    if context.voice.json {
        out.json(&json!({ "sound": true, "proof": proof, "against": checkpoint.map(|_| root.size) }))?;
    } else {
        out.line(&format!("line {} is in the log {} of {} lines", proof.leaf_index, root.origin, root.size))?;
        if checkpoint.is_none() {
            context.voice.note("whether that is the log's root only a checkpoint tells (--against)");
        }
    }
    out.end()?;
    Ok(Exit::Complete)
}

/// A check that failed is an answer.
fn fail(context: &Context, value: &Value) -> Result<Exit> {
    let mut out = Stdout::lock();
    if context.voice.json {
        out.json(value)?;
    } else {
        out.line(&format!("not sound: {}", text(value, "/problem")))?;
    }
    out.end()?;
    Ok(Exit::Gaps)
}

impl MakeCheckpoint {
    fn run(self, context: &Context) -> Result<Exit> {
        let path = self.which.path()?;
        let verdict = verify::verify(&path, None)?;
        let (true, Some(origin)) = (verdict.sound, verdict.origin.clone()) else {
            let why = verdict.problem.unwrap_or_default();
            return Err(Error::corrupt(format!("log {}: {why}", path.display()))
                .hint("no checkpoint is made of a log that is not sound"));
        };
        let root = audit::merkle::from_hex(&verdict.root).unwrap_or_default();
        let checkpoint = Checkpoint { origin, size: verdict.lines, root };
        let mut note = checkpoint.to_string();
        let mut verifier = None;
        if let Some(file) = &self.sign {
            let key = checkpoint::load_key(file)?;
            note = checkpoint.sign(&key);
            verifier = Some(checkpoint.verifier(&key));
        }
        let mut out = Stdout::lock();
        if context.voice.json {
            let (size, origin) = (checkpoint.size, &checkpoint.origin);
            out.json(&json!({ "origin": origin, "size": size, "root": verdict.root, "note": note, "key": verifier }))?;
        } else {
            out.write(note.as_bytes())?;
            if let Some(verifier) = verifier {
                context.voice.note(&format!("the key to check it with: {verifier}"));
            }
        }
        out.end()?;
        Ok(Exit::Complete)
    }
}

impl Prove {
    fn run(self) -> Result<Exit> {
        let (log, seq) = match self.what.as_slice() {
            [log, seq] => (audit::place(Some(Path::new(log)), &Policy::default())?, seq),
            [seq] => (audit::place(None, &self.policy.load()?)?, seq),
            _ => return Err(Error::usage("log prove wants [LOG] SEQ")),
        };
        let seq = seq.parse().map_err(|_| Error::usage(format!("`{seq}` is not the number of a line")))?;
        let proof = Proof::of(&log, seq)?;
        let text = serde_json::to_string_pretty(&proof).map_err(|e| Error::usage(e.to_string()))?;
        let mut out = Stdout::lock();
        out.line(&text)?;
        out.end()?;
        Ok(Exit::Complete)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(path.display().to_string(), e))
}
