//! LVM's metadata text: sections of keys with strings, numbers and lists. Read without recursion and with bounds on depth
//! and number of parts.

use crate::error::{Error, Result};

/// Sections inside each other at most; a volume group's text needs four.
const DEPTH_MAX: usize = 12;

/// Keys, sections and list items of one text at most.
const PARTS_MAX: usize = 1 << 20;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    List(Vec<Value>),
}

/// What stands between braces, or the whole text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    keys: Vec<(String, Value)>,
    pub(super) sections: Vec<Section>,
}

impl Section {
    /// The section of this name inside this one.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.value(key) { Some(text) } else { None }
    }

    /// A number that is not negative.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        if let Some(Value::Number(n)) = self.value(key) { u64::try_from(*n).ok() } else { None }
    }

    /// A list; empty where there is none.
    pub(super) fn list(&self, key: &str) -> &[Value] {
        if let Some(Value::List(list)) = self.value(key) { list } else { &[] }
    }

    /// Whether a list of strings has this one.
    pub(super) fn has(&self, key: &str, word: &str) -> bool {
        self.list(key).iter().any(|value| matches!(value, Value::Text(text) if text == word))
    }

    /// A list of pairs of a name and a number, as stripes are written.
    pub(super) fn pairs<'a>(&'a self, key: &str) -> Vec<(&'a str, u64)> {
        let pair = |pair: &'a [Value; 2]| match pair {
            [Value::Text(name), Value::Number(n)] => Some((name.as_str(), u64::try_from(*n).ok()?)),
            _ => None,
        };
        self.list(key).as_chunks::<2>().0.iter().filter_map(pair).collect()
    }

    /// The strings of a list.
    pub(super) fn names(&self, key: &str) -> Vec<&str> {
        let list = self.list(key).iter();
        list.filter_map(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
            .collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a [u8]),
    Text(String),
    Sign(u8),
}

struct Tokens<'a> {
    rest: &'a [u8],
    all: usize,
}

impl<'a> Tokens<'a> {
    fn place(&self) -> usize {
        self.all.saturating_sub(self.rest.len())
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            match self.rest.first() {
                Some(b'#') => {
                    let end = self.rest.iter().position(|b| *b == b'\n').unwrap_or(self.rest.len());
                    self.rest = self.rest.get(end..).unwrap_or_default();
                }
                // The text on the disk ends in a NUL.
                Some(0) => self.rest = self.rest.get(1..).unwrap_or_default(),
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Result<Option<Token<'a>>> {
        self.skip_blank();
        let Some((first, tail)) = self.rest.split_first() else { return Ok(None) };
        match first {
            b'{' | b'}' | b'[' | b']' | b'=' | b',' => {
                self.rest = tail;
                Ok(Some(Token::Sign(*first)))
            }
            b'"' => {
                self.rest = tail;
                self.string().map(|text| Some(Token::Text(text)))
            }
            _ => {
                let stop = |b: &u8| b.is_ascii_whitespace() || b"{}[]=,\"#\0".contains(b);
                let end = self.rest.iter().position(stop).unwrap_or(self.rest.len());
                let (word, tail) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
                self.rest = tail;
                Ok(Some(Token::Word(word)))
            }
        }
    }

    /// The rest of a string, `\"` and `\\` undone.
    fn string(&mut self) -> Result<String> {
        let mut out = Vec::new();
        loop {
            match self.rest {
                [b'"', tail @ ..] => {
                    self.rest = tail;
                    return Ok(String::from_utf8_lossy(&out).into_owned());
                }
                [b'\\', byte @ (b'"' | b'\\'), tail @ ..] | [byte, tail @ ..] => {
                    out.push(*byte);
                    self.rest = tail;
                }
                [] => return Err(Error::corrupt("LVM text: a string without an end")),
            }
        }
    }
}

/// Reads a text. What is cut off in the middle is an error: half a layout is the wrong layout.
pub(super) fn parse(text: &[u8]) -> Result<Section> {
    let mut tokens = Tokens { rest: text, all: text.len() };
    let mut open = vec![Section::default()];
    let mut parts = 0usize;
    loop {
        let place = tokens.place();
        let wrong = |what: &str| Error::corrupt(format!("LVM text: {what} at byte {place}"));
        let Some(token) = tokens.next()? else { break };
        parts = parts.saturating_add(1);
        if parts > PARTS_MAX {
            return Err(wrong("too many parts"));
        }
        match token {
            Token::Sign(b'}') => {
                let done = open.pop().unwrap_or_default();
                open.last_mut().ok_or_else(|| wrong("a brace too many"))?.sections.push(done);
            }
            Token::Word(name) => {
                let name = String::from_utf8_lossy(name).into_owned();
                match tokens.next()? {
                    Some(Token::Sign(b'{')) if open.len() < DEPTH_MAX => {
                        open.push(Section { name, ..Section::default() });
                    }
                    Some(Token::Sign(b'{')) => return Err(wrong("sections too deep inside each other")),
                    Some(Token::Sign(b'=')) => {
                        let value = value(&mut tokens, &mut parts)?;
                        let section = open.last_mut().ok_or_else(|| wrong("a key outside"))?;
                        section.keys.push((name, value));
                    }
                    _ => return Err(wrong("a name without a value")),
                }
            }
            _ => return Err(wrong("something that is no name")),
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(root), true) => Ok(root),
        _ => Err(Error::corrupt("LVM text: it ends inside a section")),
    }
}

fn value(tokens: &mut Tokens<'_>, parts: &mut usize) -> Result<Value> {
    let place = tokens.place();
    let wrong = |what: &str| Error::corrupt(format!("LVM text: {what} at byte {place}"));
    match tokens.next()?.ok_or_else(|| wrong("no value"))? {
        Token::Sign(b'[') => {
            let mut list = Vec::new();
            loop {
                *parts = parts.saturating_add(1);
                if *parts > PARTS_MAX {
                    return Err(wrong("a list too long"));
                }
                match tokens.next()?.ok_or_else(|| wrong("a list without an end"))? {
                    Token::Sign(b']') => return Ok(Value::List(list)),
                    Token::Sign(b',') => {}
                    token => list.push(scalar(token).ok_or_else(|| wrong("a list of something else"))?),
                }
            }
        }
        token => scalar(token).ok_or_else(|| wrong("a value that is none")),
    }
}

fn scalar(token: Token<'_>) -> Option<Value> {
    match token {
        Token::Text(text) => Some(Value::Text(text)),
        Token::Word(word) => {
            let word = std::str::from_utf8(word).ok()?;
            // A fraction appears in no key that matters here.
            let whole = word.split_once('.').map_or(word, |(whole, _)| whole);
            whole.parse().ok().map(Value::Number).or_else(|| Some(Value::Text(word.to_owned())))
        }
        Token::Sign(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_as_lvm_writes_it() {
        let root = parse(
            b"vg {\nid = \"a-b\"\t# a comment }\nseqno = 7\nstatus = [\"RESIZEABLE\", \"READ\"]\nflags = []\n\
              lv {\nstripes = [\n\"pv0\", 0,\n\"pv1\", 12\n]\nname = \"say \\\"hi\\\" \\\\\"\n}\n}\n# end\nversion = 1\n\0",
        )
        .unwrap();
        let vg = root.section("vg").unwrap();
        assert_eq!(
            (vg.text("id"), vg.number("seqno"), vg.has("status", "READ")),
            (Some("a-b"), Some(7), true)
        );
        let lv = vg.section("lv").unwrap();
        assert_eq!(lv.pairs("stripes"), [("pv0", 0), ("pv1", 12)]);
        assert_eq!(lv.text("name"), Some("say \"hi\" \\"));
        assert_eq!(root.number("version"), Some(1));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for text in
            [&b"vg {"[..], b"}", b"a = ", b"a = [1, 2", b"a = \"x", b"= 3", b"a", b"a = }", b"a = [[1]]"]
        {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        assert!(parse(&b"a {".repeat(100_000)).unwrap_err().what().contains("too deep"));
        assert!(parse(&b"a=1 ".repeat(1_100_000)).is_err());
        assert_eq!(parse(b"").unwrap(), Section::default());
    }
}
