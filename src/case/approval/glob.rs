//! Globs over the guest's paths, as bytes.
//!
//! | part | matches |
//! |---|---|
//! | `*` | any bytes but `/`, none included |
//! | `?` | one byte that is not `/` |
//! | `**` as a whole component | any components, none included: `/etc/**` is `/etc` and all beneath it |
//! | `\xNN` | that byte, for names that are not UTF-8 |
//! | `\` and one of `*?\[` | that character |
//! | anything else | itself |
//!
//! Brackets have no meaning of their own and have to be written `\[`, so that nobody takes them for a class.

/// One component's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`
    Deep,
    /// Tokens within one component.
    Name(Vec<Token>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One,
    Many,
}

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

impl Glob {
    /// Compiles; the message says what is wrong.
    pub fn new(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("path glob `{text}`: {why}"));
        let Some(rest) = text.strip_prefix('/') else { return wrong("it has to start with `/`") };
        let mut parts = Vec::new();
        for component in rest.split('/').filter(|component| !component.is_empty()) {
            match component {
                "." | ".." => return wrong("`.` and `..` have no meaning in a path that is resolved"),
                "**" => parts.push(Part::Deep),
                _ => match tokens(component) {
                    Ok(tokens) => parts.push(Part::Name(tokens)),
                    Err(why) => return wrong(why),
                },
            }
        }
        Ok(Self { parts })
    }

    /// Whether the glob matches this path: absolute, resolved.
    pub fn matches(&self, path: &[u8]) -> bool {
        components(path).is_some_and(|names| self.states(&names).last() == Some(&true))
    }

    /// Whether something beneath this directory may match, so that it has to be passed through.
    pub fn leads_through(&self, path: &[u8]) -> bool {
        // Any part that is reached and still wants a component may match further down.
        components(path).is_some_and(|names| self.states(&names)[..self.parts.len()].contains(&true))
    }

    /// Which positions in the pattern are reached after all of `names`.
    fn states(&self, names: &[&[u8]]) -> Vec<bool> {
        let mut at = vec![false; self.parts.len() + 1];
        at[0] = true;
        self.skip_deep(&mut at);
        for name in names {
            let mut next = vec![false; self.parts.len() + 1];
            for (i, part) in self.parts.iter().enumerate().filter(|(i, _)| at[*i]) {
                match part {
                    Part::Deep => next[i] = true,
                    Part::Name(tokens) => next[i + 1] |= name_matches(tokens, name),
                }
            }
            self.skip_deep(&mut next);
            at = next;
        }
        at
    }

    fn skip_deep(&self, at: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            if *part == Part::Deep && at[i] {
                at[i + 1] = true;
            }
        }
    }
}

/// The names of an absolute path. `None`: not absolute, or not resolved.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let rest = path.strip_prefix(b"/")?;
    let names: Vec<_> = rest.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    let unresolved = names.iter().any(|name| matches!(*name, b"." | b"..") || name.contains(&0));
    (!unresolved).then_some(names)
}

fn tokens(component: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut bytes = component.bytes();
    while let Some(byte) = bytes.next() {
        tokens.push(match byte {
            b'*' => {
                if tokens.last() == Some(&Token::Many) {
                    return Err("`**` has to be a whole component");
                }
                Token::Many
            }
            b'?' => Token::One,
            b'[' => return Err("`[` has to be written `\\[`; there are no classes"),
            b'\\' => match bytes.next() {
                Some(byte @ (b'*' | b'?' | b'\\' | b'[')) => Token::Byte(byte),
                Some(b'x') => {
                    let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                    match (digit(), digit()) {
                        (Some(high), Some(low)) => match u8::try_from(high << 4 | low) {
                            Ok(0 | b'/') | Err(_) => return Err("no name holds that byte"),
                            Ok(byte) => Token::Byte(byte),
                        },
                        _ => return Err("`\\x` wants two hex digits"),
                    }
                }
                _ => return Err("`\\` wants one of * ? \\ [ or xNN after it"),
            },
            0 => return Err("no name holds a zero byte"),
            byte => Token::Byte(byte),
        });
    }
    Ok(tokens)
}

/// Linear in the name for each star: no pattern makes it slow.
fn name_matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut t, mut n) = (0, 0);
    let mut back = None;
    while n < name.len() {
        match tokens.get(t) {
            Some(Token::Many) => {
                t += 1;
                back = Some((t, n));
                continue;
            }
            Some(Token::One) => {}
            Some(Token::Byte(byte)) if *byte == name[n] => {}
            _ => {
                let Some((after, from)) = back else { return false };
                back = Some((after, from + 1));
                (t, n) = (after, from + 1);
                continue;
            }
        }
        t += 1;
        n += 1;
    }
    tokens[t..].iter().all(|token| *token == Token::Many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_paths_and_nothing_beside_them() {
        let yes: [(&str, &[u8]); 14] = [
            ("/etc/**", b"/etc"),
            ("/etc/**", b"/etc/"),
            ("/etc/**", b"/etc/ssh/sshd_config"),
            ("/**", b"/"),
            ("/", b"/"),
            ("/var/log/*.log", b"/var/log/a.log"),
            ("/var/**/*.log", b"/var/a.log"),
            ("/var/**/*.log", b"/var/log/x/a.log"),
            ("/home/*/.ssh/**", b"/home/alice/.ssh/id"),
            ("/a?c", b"/abc"),
            (r"/a\*", b"/a*"),
            (r"/\xff*", b"/\xff\xfe"),
            ("/*a*b", b"/xaxaxb"),
            ("/**/x/**", b"/x"),
        ];
        for (glob, path) in yes {
            assert!(Glob::new(glob).unwrap().matches(path), "{glob}");
        }
        let no: [(&str, &[u8]); 13] = [
            ("/etc/**", b"/etcetera"),
            ("/etc/**", b"/home/etc/x"),
            ("/etc/**", b"/etc/../home"),
            ("/etc/**", b"/etc/./x"),
            ("/etc/**", b"etc/x"),
            ("/etc/**", b"/"),
            ("/etc/*", b"/etc/a/b"),
            ("/etc/*", b"/etc"),
            ("/etc", b"/etc/x"),
            ("/*a*b", b"/xaxbx"),
            ("/a?c", b"/ac"),
            ("/", b"/x"),
            ("/etc/**", b"/etc/\0"),
        ];
        for (glob, path) in no {
            assert!(!Glob::new(glob).unwrap().matches(path), "{glob} {}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn directories_on_the_way_are_known() {
        let glob = Glob::new("/var/lib/*/x").unwrap();
        for path in ["/", "/var", "/var/lib", "/var/lib/any"] {
            assert!(glob.leads_through(path.as_bytes()), "{path}");
        }
        for path in ["/var/lib/any/x", "/etc", "/var/libx", "/var/lib/a/b"] {
            assert!(!glob.leads_through(path.as_bytes()), "{path}");
        }
        assert!(Glob::new("/etc/**").unwrap().leads_through(b"/etc/a/b"));
        assert!(!Glob::new("/etc/**").unwrap().leads_through(b"/home"));
    }

    #[test]
    fn what_could_be_misread_does_not_compile() {
        for glob in ["etc", "", "/a/../b", "/a**", "/[ab]", r"/\", r"/\q", r"/\x4", r"/\x2f", r"/\x00"] {
            assert!(Glob::new(glob).is_err(), "{glob}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let glob = Glob::new(&format!("/{}b", "*a".repeat(100))).unwrap();
        assert!(!glob.matches(format!("/{}", "a".repeat(255)).as_bytes()));
    }
}
