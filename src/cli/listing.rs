//! Names and metadata line by line: what `ls` and `find` print.

use coldread::bytes::escape;
use coldread::error::Result;
use coldread::evidence::list::Item;
use coldread::evidence::record::{self, Record};
use coldread::stack::{FileType, NameState, Node};

use super::Context;
use super::out::{Exit, Stdout, printable, rfc3339, size};

/// How a line looks.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Mode, links, owner, size and time before the name.
    pub long: bool,
    /// Sizes in KiB, MiB, GiB.
    pub human: bool,
    /// The whole path instead of its last component.
    pub full: bool,
    /// The directory that was named is an entry too.
    pub top: bool,
}

/// Standard output, line by line.
pub struct Lines<'a> {
    out: Stdout,
    shape: Shape,
    context: &'a Context,
    exit: Exit,
    line: Vec<u8>,
    entries: u64,
}

impl<'a> Lines<'a> {
    /// Takes standard output.
    pub fn new(context: &'a Context, shape: Shape) -> Self {
        Self { out: Stdout::lock(), shape, context, exit: Exit::Complete, line: Vec::new(), entries: 0 }
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes what is held; gives what the items mean for the exit code.
    pub fn end(&mut self) -> Result<Exit> {
        self.out.end()?;
        Ok(self.exit)
    }

    /// Shows one item.
    pub fn item(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Entry { record, depth } => {
                self.entries += 1;
                // As `ls` does: the directory that was named is not one of its own entries.
                if depth == 0
                    && record.node.kind == FileType::Dir
                    && !self.shape.top
                    && !self.context.voice.json
                {
                    return Ok(());
                }
                self.entry(&record)
            }
            Item::Unreadable { path, spot, kind, error } => {
                self.exit = self.exit.and(Exit::of_part(&error));
                if self.context.voice.json {
                    self.line.clear();
                    record::unreadable(&mut self.line, path, &spot, kind, &error);
                    self.line.push(b'\n');
                    return self.out.write(&self.line);
                }
                self.context.voice.error(&error.context(escape(path)));
                Ok(())
            }
            Item::Gap { path, error } => {
                self.exit = self.exit.and(Exit::of_part(&error));
                self.context.voice.error(&error.context(escape(path)));
                Ok(())
            }
            Item::Refused { path } => {
                self.exit = self.exit.and(Exit::Refused);
                self.context.voice.note(&format!("refused: {}: outside the approval", escape(path)));
                Ok(())
            }
        }
    }

    fn entry(&mut self, record: &Record<'_>) -> Result<()> {
        self.line.clear();
        if self.context.voice.json {
            record.ls(&mut self.line);
            self.line.push(b'\n');
            return self.out.write(&self.line);
        }
        let name = if self.shape.full {
            record.path
        } else {
            record.path.rsplit(|b| *b == b'/').next().unwrap_or(record.path)
        };
        let mut text = printable(&escape(name));
        if record.state == NameState::Deleted {
            text.push_str(" (deleted)");
        }
        if !self.shape.long {
            return self.out.line(&text);
        }
        if let Some(target) = record.target {
            text.push_str(" -> ");
            text.push_str(&printable(&escape(target)));
        }
        self.out.line(&format!("{} {text}", self.columns(record.node)))
    }

    /// What stands before the name: as in `ls -ln --time-style=full-iso`.
    fn columns(&self, node: &Node) -> String {
        let size = match node.rdev {
            Some((major, minor)) => format!("{major}, {minor}"),
            None if self.shape.human => size(node.size),
            None => node.size.to_string(),
        };
        let time = node.mtime.map_or("-".to_string(), rfc3339);
        format!(
            "{} {:>3} {:>5} {:>5} {size:>10} {time:<30}",
            permissions(node),
            node.nlink,
            node.uid,
            node.gid
        )
    }
}

/// `-rwxr-xr-x`, with setuid, setgid and sticky as `ls` shows them.
pub fn permissions(node: &Node) -> String {
    let bit = |bit: u16| node.mode & bit != 0;
    let mut text = String::from(node.kind.letter());
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        text.push(if bit(0o4 << shift) { 'r' } else { '-' });
        text.push(if bit(0o2 << shift) { 'w' } else { '-' });
        text.push(match (bit(0o1 << shift), bit(special)) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
