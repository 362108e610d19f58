//! The child process, the mutations, and a source whose reads fail.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coldread::block::{BlockSource, Run, Source};
use coldread::error::{Error, Kind, Result};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

/// The child's address space, in bytes.
const MEMORY: u64 = 256 << 20;

/// Seconds of CPU time that one input may take, in a debug build.
const SECONDS: u64 = 10;

const CHILD: &str = "COLDREAD_HOSTILE_CHILD";

/// Set it to a number that a failure named, to run that one input alone.
const ONLY: &str = "COLDREAD_HOSTILE_ONLY";

/// Where the child notes which input it is at, for its parent to name after it died.
pub struct Note(File);

impl Note {
    /// The child turns to input `number`, and has its time for that.
    pub fn turn_to(&self, number: u64) {
        self.0.write_all_at(&number.to_le_bytes(), 0).unwrap();
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let used = (usage.user_time().tv_sec() + usage.system_time().tv_sec()).unsigned_abs();
        let (_, hard) = getrlimit(Resource::RLIMIT_CPU).unwrap();
        setrlimit(Resource::RLIMIT_CPU, used + SECONDS, hard).unwrap();
    }
}

/// Runs `body` in a child with limits on memory and time. `test` is the whole name of the calling test, as
/// `cargo test` prints it. `prepare` makes what `body` needs, before the limits hold; without it, nothing is run.
pub fn in_child<T>(test: &str, prepare: impl FnOnce() -> Option<T>, body: impl FnOnce(T, &Note)) {
    if let Some(note) = std::env::var_os(CHILD) {
        let Some(prepared) = prepare() else { return };
        let note = Note(OpenOptions::new().write(true).open(note).unwrap());
        setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        return body(prepared, &note);
    }
    let dir = crate::support::temp();
    let note = dir.path().join("note");
    fs::write(&note, u64::MAX.to_le_bytes()).unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, &note)
        .env("MALLOC_ARENA_MAX", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(stdout.contains("1 passed") || !out.status.success(), "no test is called {test}:\n{stdout}");
    let number = u64::from_le_bytes(fs::read(&note).unwrap().try_into().unwrap());
    assert!(
        out.status.success(),
        "{test}: {} at input {number} ({ONLY}={number} runs it alone)\n{stdout}\n{stderr}",
        out.status
    );
    eprint!("{stderr}");
}

/// A sound image to start from.
pub struct Seed {
    /// What it is, for people.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where its tables are: most mutations go there. Empty means anywhere.
    pub hot: Vec<Range<usize>>,
}

/// Puts `rounds` mutations of each seed through `read`, in a child. Reproducible: input `n` is always the same.
/// `seeds` gives none where a program is missing that makes them.
pub fn mutate(test: &str, rounds: u64, seeds: impl FnOnce() -> Option<Vec<Seed>>, read: impl Fn(&[u8])) {
    in_child(test, seeds, |seeds, note| {
        let only: Option<u64> = std::env::var(ONLY).ok().and_then(|n| n.parse().ok());
        let count = seeds.len() as u64;
        let mut bytes = Vec::new();
        // As they are, first: a seed that cannot be read tests nothing.
        for number in 0..rounds.saturating_add(1).saturating_mul(count) {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            note.turn_to(number);
            let seed = &seeds[usize::try_from(number % count).unwrap()];
            bytes.clear();
            bytes.extend_from_slice(&seed.bytes);
            if number >= count {
                let mut dice = Dice::new(number);
                for _ in 0..=dice.below(4) {
                    mutation(&mut bytes, &seed.hot, &mut dice);
                }
            }
            read(&bytes);
        }
    });
}

/// Numbers that look random and are always the same (xorshift64*).
pub struct Dice(u64);

impl Dice {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.roll() >> 16) % end as u64).unwrap()
    }
}

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fe00,
    0x00ff_ffff_ffff_fe00,
];

fn mutation(bytes: &mut Vec<u8>, hot: &[Range<usize>], dice: &mut Dice) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    let at = if hot.is_empty() || dice.below(8) == 0 {
        dice.below(len)
    } else {
        let range = &hot[dice.below(hot.len())];
        (range.start + dice.below(range.len().max(1))).min(len - 1)
    };
    match dice.below(12) {
        0..=2 => bytes[at] ^= 1 << dice.below(8),
        3 => bytes[at] = dice.roll().to_le_bytes()[0],
        4..=8 => {
            let width = [1, 2, 4, 8][dice.below(4)];
            let at = at - at % width;
            let mut value = EDGES[dice.below(EDGES.len())];
            match dice.below(4) {
                0 => value = value.wrapping_add(dice.roll() % 9).wrapping_sub(4),
                1 => value = len as u64,
                _ => {}
            }
            let value = if dice.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
            let value = if dice.below(2) == 0 { &value[..width] } else { &value[8 - width..] };
            for (to, from) in bytes[at..].iter_mut().zip(value) {
                *to = *from;
            }
        }
        // One structure in another one's place: shared children, loops.
        9 => {
            let width = [8, 16, 32, 128, 512, 4096][dice.below(6)];
            let from = dice.below(len);
            let from = from - from % width;
            let piece = bytes[from..len.min(from + width)].to_vec();
            let at = at - at % width;
            for (to, from) in bytes[at..].iter_mut().zip(piece) {
                *to = from;
            }
        }
        10 => {
            let end = len.min(at + 1 + dice.below(64));
            bytes[at..end].fill(if dice.below(2) == 0 { 0 } else { 0xff });
        }
        _ => {
            if dice.below(4) == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] = bytes[at].wrapping_add(1);
            }
        }
    }
}

/// A source whose reads fail from a certain one on.
pub struct Failing {
    inner: Source,
    after: u64,
    reads: AtomicU64,
}

impl BlockSource for Failing {
    fn name(&self) -> &Arc<str> {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= self.after {
            let range = offset..offset + buf.len() as u64;
            return Err(Error::new(Kind::Io, "a read that was made to fail").with_range(range));
        }
        self.inner.read_at(offset, buf)
    }

    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        self.inner.run_at(offset)
    }
}

/// Puts `source` through `work` again and again, all reads failing from the first on, then from the second, up to at
/// most `most`. `work` must not panic; what it reports is its own. Gives how many reads the whole work takes.
pub fn failing_reads(source: &Source, most: u64, work: impl Fn(Source)) -> u64 {
    let mut after = 0;
    loop {
        let failing = Arc::new(Failing { inner: Arc::clone(source), after, reads: AtomicU64::new(0) });
        work(Arc::clone(&failing) as Source);
        let reads = failing.reads.load(Ordering::Relaxed);
        if reads <= after || after >= most {
            return reads;
        }
        after += 1;
    }
}
