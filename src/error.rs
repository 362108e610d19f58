//! What can go wrong, said so that a person can act on it: what, where in every coordinate system, what next.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The result of everything that reads.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. The exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host could not give the bytes.
    Io,
    /// The bytes are there and break their format's rules.
    Corrupt,
    /// Sound as far as can be seen, and not something that can be read here.
    Unsupported,
    /// A sound directory, tree or table without the thing asked for.
    NotFound,
    /// Readable, and not admitted: containment, policy or approval.
    Refused,
    /// The request makes no sense: an ambiguous name, an offset past the end.
    Usage,
    /// An instance that could not be put back as it was found.
    Unrestored,
}

impl Kind {
    /// The lower-case word that starts the message and is `kind` in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not found",
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Unrestored => "unrestored",
        }
    }
}

/// One coordinate: a byte offset in a named source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name of the source: `p1`, `disk`, `/path/to/disk.qcow2`.
    pub source: Arc<str>,
    /// Bytes from the start of that source.
    pub offset: u64,
}

/// A failure. One pointer wide, so that `Result` stays small on the fast paths.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    site: Vec<Place>,
    range: Option<Range<u64>>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `what` names the thing and the rule it breaks.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            site: Vec::new(),
            range: None,
            hint: None,
            source: None,
        }))
    }

    /// [`Kind::Corrupt`].
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, what)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, what)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, what)
    }

    /// [`Kind::Refused`].
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// [`Kind::Usage`].
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// [`Kind::Io`] around what the system said.
    pub fn io(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut error = Self::new(Kind::Io, what);
        error.0.source = Some(Box::new(source));
        error
    }

    /// Adds one coordinate. Call it from the innermost coordinate system outwards to the host file.
    #[must_use]
    pub fn at(mut self, source: &Arc<str>, offset: u64) -> Self {
        self.0.site.push(Place { source: Arc::clone(source), offset });
        self
    }

    /// Replaces the coordinates, innermost first.
    #[must_use]
    pub fn with_site(mut self, site: Vec<Place>) -> Self {
        self.0.site = site;
        self
    }

    /// Says which bytes cannot be read, in the coordinates of the source that returns this error.
    #[must_use]
    pub fn with_range(mut self, range: Range<u64>) -> Self {
        self.0.range = Some(range);
        self
    }

    /// Forgets the unreadable range: the caller's coordinates are not the ones it was given in.
    #[must_use]
    pub fn without_range(mut self) -> Self {
        self.0.range = None;
        self
    }

    /// Says what to do next, a sentence or a command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts `outer` before the message: `outer: what`.
    #[must_use]
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.0.what = format!("{outer}: {}", self.0.what);
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The sentence without its kind, place and hint.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Where, innermost coordinate system first.
    pub fn site(&self) -> &[Place] {
        &self.0.site
    }

    /// The unreadable bytes, in the coordinates of the source that was read.
    pub fn range(&self) -> Option<Range<u64>> {
        self.0.range.clone()
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.word(), self.0.what)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        for (i, place) in self.0.site.iter().enumerate() {
            let lead = if i == 0 { "\n  at " } else { " = " };
            write!(f, "{lead}{}+{:#x}", place.source, place.offset)?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_where_and_what_next() {
        let error = Error::corrupt("ext4 inode 131: extent magic 0x0000, wanted 0xf30a")
            .at(&"p1".into(), 0x20a400)
            .at(&"disk".into(), 0x30a400)
            .hint("try --no-replay");
        assert_eq!(
            error.to_string(),
            "corrupt: ext4 inode 131: extent magic 0x0000, wanted 0xf30a\n  at p1+0x20a400 = disk+0x30a400\n  try --no-replay"
        );
    }
}
