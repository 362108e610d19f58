//! The words of find(1).

use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};

use crate::error::{Error, Result};
use crate::fs::{FileType, Time};

/// Bytes that a compiled pattern may take.
const PATTERN_MAX: usize = 1 << 20;

fn build(pattern: &str, fold: bool) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .case_insensitive(fold)
        .dot_matches_new_line(true)
        .size_limit(PATTERN_MAX)
        .build()
        .map_err(|error| Error::usage(format!("not a pattern: {error}")))
}

/// An expression that has to match the whole path, in the syntax of the Rust crate `regex`.
pub fn regex(pattern: &str) -> Result<Regex> {
    build(&format!(r"\A(?:{pattern})\z"), false)
}

/// A shell pattern that has to match a whole name: `*`, `?`, `[…]`, and a backslash before what is meant as it is. `fold` makes
/// letters of both cases equal.
pub fn glob(pattern: &str, fold: bool) -> Result<Regex> {
    let mut out = String::from(r"\A");
    let mut rest = pattern.chars();
    while let Some(char) = rest.next() {
        match char {
            // A name need not be text: `*` and `?` take any byte that is none.
            '*' => out.push_str(r"(?:.|(?-u:.))*"),
            '?' => out.push_str(r"(?:.|(?-u:.))"),
            '[' => match set(rest.as_str()) {
                Some((set, after)) => {
                    out.push_str(&set);
                    rest = after.chars();
                }
                None => out.push_str(r"\["),
            },
            '\\' => out.push_str(&quoted(rest.next().unwrap_or('\\'))),
            char => out.push_str(&quoted(char)),
        }
    }
    out.push_str(r"\z");
    build(&out, fold)
}

fn quoted(char: char) -> String {
    regex::escape(char.encode_utf8(&mut [0; 4]))
}

/// A set behind its opening bracket, as an expression, and what follows it; none if the bracket is never closed.
fn set(text: &str) -> Option<(String, &str)> {
    let negated = text.starts_with(['!', '^']);
    let body = &text[usize::from(negated)..];
    let mut chars = body.char_indices().peekable();
    let mut out = String::from(if negated { "[^" } else { "[" });
    let mut first = true;
    while let Some((at, char)) = chars.next() {
        match char {
            ']' if !first => {
                out.push(']');
                return Some((out, &body[at + 1..]));
            }
            '[' if body[at..].starts_with("[:") => {
                let end = body[at..].find(":]")? + at;
                out.push_str(&body[at..end + 2]);
                while chars.next_if(|(next, _)| *next < end + 2).is_some() {}
            }
            '-' => out.push('-'),
            '\\' => out.push_str(&quoted(chars.next()?.1)),
            char => {
                // Inside a set these have a meaning of their own in expressions.
                if matches!(char, '[' | ']' | '^' | '&' | '~') {
                    out.push('\\');
                }
                out.push(char);
            }
        }
        first = false;
    }
    None
}

/// A number to compare with: `N`, `+N` for more, `-N` for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    sign: Option<char>,
    number: u64,
}

impl Amount {
    /// Whether `value` is that much.
    pub fn holds(self, value: u64) -> bool {
        match self.sign {
            Some('+') => value > self.number,
            Some(_) => value < self.number,
            None => value == self.number,
        }
    }
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sign = text.chars().next().filter(|c| matches!(c, '+' | '-'));
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        match digits.parse() {
            Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(Self { sign, number }),
            _ => Err(Error::usage(format!("{text}: not a number, +number or -number"))),
        }
    }
}

/// A size as find(1) has it: in units, rounded up. `c` is bytes, `w` two, `b` or nothing 512, then `k`, `M`, `G` and `T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    amount: Amount,
    unit: u64,
}

impl Size {
    /// Whether a file of `bytes` bytes is that large.
    pub fn holds(self, bytes: u64) -> bool {
        self.amount.holds(bytes.div_ceil(self.unit))
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let units = [
            ('c', 1),
            ('w', 2),
            ('b', 512),
            ('k', 1 << 10),
            ('K', 1 << 10),
            ('M', 1 << 20),
            ('G', 1 << 30),
            ('T', 1 << 40),
        ];
        let unit = units.iter().find(|(suffix, _)| text.ends_with(*suffix));
        let number = unit.map_or(text, |_| &text[..text.len() - 1]);
        let amount = number
            .parse()
            .map_err(|_: Error| Error::usage(format!("{text}: not a size such as 10c, +5M or -1G")))?;
        Ok(Self { amount, unit: unit.map_or(512, |(_, unit)| *unit) })
    }
}

/// Permission bits: `644` exactly these, `-644` all of these, `/022` any of these (`/0` any file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    sign: Option<char>,
    bits: u16,
}

impl Perm {
    /// Whether a mode has them.
    pub fn holds(self, mode: u16) -> bool {
        match self.sign {
            Some('-') => mode & self.bits == self.bits,
            Some(_) => self.bits == 0 || mode & self.bits != 0,
            None => mode & 0o7777 == self.bits,
        }
    }
}

impl FromStr for Perm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sign = text.chars().next().filter(|c| matches!(c, '-' | '/'));
        let digits = text.strip_prefix(['-', '/']).unwrap_or(text);
        match u16::from_str_radix(digits, 8) {
            Ok(bits) if bits <= 0o7777 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Self { sign, bits })
            }
            _ => Err(Error::usage(format!("{text}: not permission bits such as 644, -4000 or /022"))),
        }
    }
}

/// A point in time: RFC 3339, a date (midnight UTC), a date and time without a zone (UTC), or `@seconds[.nanoseconds]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub Time);

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let failed =
            || Error::usage(format!("{text}: not a time such as 2026-05-01T12:00:00Z or @1777636800"));
        if let Some(count) = text.strip_prefix('@') {
            let (seconds, fraction) = count.split_once('.').unwrap_or((count, ""));
            if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return Err(failed());
            }
            let nanoseconds = format!("{fraction:0<9}").parse().map_err(|_| failed())?;
            return Ok(Self(Time { seconds: seconds.parse().map_err(|_| failed())?, nanoseconds }));
        }
        let stamp = text.parse::<jiff::Timestamp>().or_else(|_| {
            let local = text.parse::<jiff::civil::DateTime>().map_err(|_| failed())?;
            local.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| failed())
        })?;
        // Before 1970 jiff counts both parts down from it.
        let nanoseconds = stamp.subsec_nanosecond();
        let borrow = i64::from(nanoseconds < 0);
        let nanoseconds = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
        Ok(Self(Time { seconds: stamp.as_second() - borrow, nanoseconds }))
    }
}

/// Types by find's letters (`f`, `d`, `l`, `c`, `b`, `p`, `s`) or by their words, separated by commas.
pub fn kinds(text: &str) -> Result<Vec<FileType>> {
    let all = [
        ("f", FileType::File),
        ("d", FileType::Dir),
        ("l", FileType::Symlink),
        ("c", FileType::Char),
        ("b", FileType::Block),
        ("p", FileType::Fifo),
        ("s", FileType::Socket),
    ];
    text.split(',')
        .map(|word| {
            let found = all.iter().find(|(letter, kind)| *letter == word || kind.word() == word);
            found
                .map(|(_, kind)| *kind)
                .ok_or_else(|| Error::usage(format!("{word}: no type of file; one of f d l c b p s")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_shell_s_do() {
        for (pattern, yes, no) in [
            ("*.conf", "a.conf", "a.conf.bak"),
            ("a?c", "abc", "ac"),
            ("[a-c]*", "beta", "delta"),
            ("[!a-c]*", "delta", "beta"),
            ("[]x]", "]", "y"),
            ("[[:digit:]]z", "7z", "az"),
            (r"\*", "*", "a"),
            ("a[b", "a[b", "ab"),
            ("a.c", "a.c", "abc"),
            ("*", "any\nthing", ""),
        ] {
            let compiled = glob(pattern, false).unwrap();
            assert!(compiled.is_match(yes.as_bytes()), "{pattern} {yes}");
            assert!(no.is_empty() || !compiled.is_match(no.as_bytes()), "{pattern} {no}");
        }
        assert!(glob("a*z?", false).unwrap().is_match(b"a\xff\xfez\x80"));
        assert!(glob("README*", true).unwrap().is_match(b"readme.md"));
        assert!(regex("(").is_err() && regex("(a{1000}){1000}").is_err());
        assert!(regex("/etc/.*").unwrap().is_match(b"/etc/x") && !regex("etc").unwrap().is_match(b"/etc"));
    }

    #[test]
    fn sizes_round_up_and_times_count_from_1970() {
        let size = |text: &str| text.parse::<Size>().unwrap();
        assert!(size("1").holds(1) && size("1").holds(512) && !size("1").holds(513) && size("0").holds(0));
        assert!(size("+1M").holds((1 << 20) + 1) && !size("+1M").holds(1 << 20));
        assert!(size("-1k").holds(0) && !size("-1k").holds(1) && size("10c").holds(10));
        for bad in ["", "M", "+", "1x", "--1", "+-1"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        let time = |text: &str| text.parse::<Timestamp>().unwrap().0;
        assert_eq!(time("1969-12-31T23:59:59.25Z"), Time { seconds: -1, nanoseconds: 250_000_000 });
        assert_eq!(time("2000-01-01"), time("@946684800"));
        assert_eq!(time("2000-01-01T01:00:00+01:00"), time("2000-01-01T00:00:00"));
        assert_eq!(time("@5.5"), Time { seconds: 5, nanoseconds: 500_000_000 });
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn bits_and_numbers() {
        let perm = |text: &str| text.parse::<Perm>().unwrap();
        assert!(perm("644").holds(0o644) && !perm("644").holds(0o4644));
        assert!(perm("-4000").holds(0o4755) && !perm("-6000").holds(0o4755));
        assert!(perm("/022").holds(0o620) && !perm("/022").holds(0o755) && perm("/0").holds(0));
        assert!("8".parse::<Perm>().is_err() && "77777".parse::<Perm>().is_err());
        assert!("+1000".parse::<Amount>().unwrap().holds(1001) && "-1".parse::<Amount>().unwrap().holds(0));
        assert_eq!(kinds("f,symlink").unwrap(), [FileType::File, FileType::Symlink]);
        assert!(kinds("x").is_err());
    }
}
