//! Leave to do one act. Whoever holds a permit proves that the intent is in the log: only `case::approval` mints them.
//!
//! A session lends one, and a view comes of it:
//!
//! ```no_run
//! use coldread::case::Session;
//! use coldread::error::Result;
//! use coldread::permit::{Extract, List};
//! use coldread::stack::{Stack, View};
//!
//! fn names(stack: &Stack, session: &Session) -> Result<View<List>> {
//!     stack.view(&session.permit::<List>()?, None)
//! }
//!
//! fn whole(stack: &Stack, session: &Session) -> Result<()> {
//!     stack.whole(&session.permit::<Extract>()?, None).map(|_| ())
//! }
//! ```
//!
//! Without a permit there is no view, and nobody else can make one:
//!
//! ```compile_fail,E0061
//! use coldread::error::Result;
//! use coldread::permit::List;
//! use coldread::stack::{Stack, View};
//!
//! fn names(stack: &Stack) -> Result<View<List>> {
//!     stack.view(None)
//! }
//! ```
//!
//! ```compile_fail,E0624
//! use std::sync::Arc;
//! use coldread::permit::{List, Permit, Scope};
//!
//! fn forged(scope: Arc<dyn Scope>) -> Permit<List> {
//!     Permit::mint(scope)
//! }
//! ```
//!
//! ```compile_fail,E0451
//! use std::marker::PhantomData;
//! use std::sync::Arc;
//! use coldread::permit::{List, Permit, Scope};
//!
//! fn forged(scope: Arc<dyn Scope>) -> Permit<List> {
//!     Permit { scope, act: PhantomData }
//! }
//! ```
//!
//! Leave to list is none to read:
//!
//! ```compile_fail,E0277
//! use coldread::case::Session;
//! use coldread::error::Result;
//! use coldread::permit::List;
//! use coldread::stack::Stack;
//!
//! fn whole(stack: &Stack, session: &Session) -> Result<()> {
//!     stack.whole(&session.permit::<List>()?, None).map(|_| ())
//! }
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

/// The acts that need leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Names and metadata.
    List,
    /// Content on the terminal, digests.
    Read,
    /// Content carried away.
    Extract,
    /// What was deleted.
    Recover,
    /// Pausing an instance.
    Suspend,
}

impl Verb {
    /// As it is written in approvals and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Extract => "extract",
            Self::Recover => "recover",
            Self::Suspend => "suspend",
        }
    }

    /// From the word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::List, Self::Read, Self::Extract, Self::Recover, Self::Suspend]
            .into_iter()
            .find(|v| v.word() == word)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// An act as a type: what a [`Permit`] is for.
pub trait Act: sealed::Sealed + Send + Sync + 'static {
    /// The act as a value.
    const VERB: Verb;
}

/// Acts that give content, not only names.
pub trait Content: Act {}

macro_rules! acts {
    ($($(#[$doc:meta])* $name:ident $(: $content:ident)?;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Act for $name { const VERB: Verb = Verb::$name; }
        $(impl $content for $name {})?
    )* };
}

acts! {
    /// Names and metadata.
    List;
    /// Content on the terminal, digests.
    Read: Content;
    /// Content carried away.
    Extract: Content;
    /// What was deleted.
    Recover: Content;
    /// Pausing an instance.
    Suspend;
}

/// What an approval covers.
pub trait Scope: Send + Sync {
    /// Whether it covers this path of the guest: absolute, resolved, without `.` and `..`.
    fn covers_path(&self, path: &[u8]) -> bool;

    /// Whether a path it covers may lie beneath this directory: it may then be passed through, and what it holds may be
    /// shown where that is itself covered or leads on. A scope that does not say lets nothing through but what it covers.
    fn leads_through(&self, dir: &[u8]) -> bool {
        self.covers_path(dir)
    }

    /// Whether it covers this disk (`disk`, `disk.eph0`, `vda`).
    fn covers_disk(&self, disk: &str) -> bool;

    /// Whether it covers acts without a path: images, exports, slack, carving.
    fn whole_disk(&self) -> bool;
}

/// Leave for one act within one scope.
pub struct Permit<A: Act> {
    scope: Arc<dyn Scope>,
    act: PhantomData<A>,
}

impl<A: Act> Clone for Permit<A> {
    fn clone(&self) -> Self {
        Self { scope: Arc::clone(&self.scope), act: PhantomData }
    }
}

impl<A: Act> Permit<A> {
    /// Only `case::approval` calls this, after the intent is on disk (a test holds that).
    pub(crate) fn mint(scope: Arc<dyn Scope>) -> Self {
        Self { scope, act: PhantomData }
    }

    /// Whether the path lies within the scope.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.scope.covers_path(path)
    }

    /// Whether a covered path may lie beneath this directory, so that a walk has to pass through it.
    pub fn leads_through(&self, dir: &[u8]) -> bool {
        self.scope.leads_through(dir)
    }

    /// Whether acts without a path are covered.
    pub fn whole_disk(&self) -> bool {
        self.scope.whole_disk()
    }

    /// The scope itself.
    pub fn scope(&self) -> &dyn Scope {
        &*self.scope
    }
}
