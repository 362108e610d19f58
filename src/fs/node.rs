//! What every filesystem has in common: nodes, names, times.

/// A node's number. `tree` is 0 except where numbers repeat (btrfs subvolumes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// The tree, for filesystems that have several.
    pub tree: u64,
    /// The inode number in it.
    pub ino: u64,
}

impl NodeId {
    /// Node `ino` of the only tree.
    pub fn new(ino: u64) -> Self {
        Self { tree: 0, ino }
    }
}

/// What sort of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// None of these, or not said.
    Unknown,
}

impl FileType {
    /// The word in JSON: `file`, `dir`, `symlink`…
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Unknown => "unknown",
        }
    }

    /// The type in the upper four bits of a Unix mode (`S_IFMT`).
    pub fn from_mode(mode: u32) -> Self {
        match mode >> 12 & 0xf {
            0o01 => Self::Fifo,
            0o02 => Self::Char,
            0o04 => Self::Dir,
            0o06 => Self::Block,
            0o10 => Self::File,
            0o12 => Self::Symlink,
            0o14 => Self::Socket,
            _ => Self::Unknown,
        }
    }

    /// The character that starts a line of `ls -l`.
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Dir => 'd',
            Self::Symlink => 'l',
            Self::Char => 'c',
            Self::Block => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::Unknown => '?',
        }
    }
}

/// A point in time: seconds since 1970-01-01 UTC, and nanoseconds (0 to 999,999,999) after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

/// Whether an inode is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InodeState {
    /// In use.
    Live,
    /// Deleted while open: still whole, on the orphan list.
    Orphan,
    /// Free.
    Deleted,
}

/// Whether a name is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameState {
    /// In use.
    Live,
    /// Left in slack or marked deleted.
    Deleted,
}

/// A node's metadata. What a filesystem does not keep is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// What sort it is.
    pub kind: FileType,
    /// The twelve permission bits.
    pub mode: u16,
    /// How many names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content; for a symbolic link the length of its target.
    pub size: u64,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// Last change of the inode.
    pub ctime: Option<Time>,
    /// Creation.
    pub crtime: Option<Time>,
    /// Deletion.
    pub dtime: Option<Time>,
    /// Major and minor number of a device.
    pub rdev: Option<(u32, u32)>,
    /// The generation, where there is one: it tells a reused inode number from the same file.
    pub generation: Option<u64>,
    /// Names of the flags that are set, as lsattr(1) or the kernel call them.
    pub flags: Vec<&'static str>,
    /// Whether it is in use.
    pub state: InodeState,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name's bytes, never empty, without `/` or NUL.
    pub name: Vec<u8>,
    /// The node it names.
    pub id: NodeId,
    /// The type that the directory gives; `Unknown` where it gives none.
    pub kind: FileType,
    /// Whether the name is in use.
    pub state: NameState,
}

/// Which bytes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream<'a> {
    /// Its content.
    Content,
    /// A named stream (NTFS).
    Named(&'a [u8]),
    /// What lies between the end of the content and the end of its last block.
    Slack,
}

/// A stream that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamInfo {
    /// Its content, of this many bytes.
    Content(u64),
    /// A named stream and its length.
    Named(Vec<u8>, u64),
    /// The slack and its length.
    Slack(u64),
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its full name: `user.origin`, `security.selinux`.
    pub name: Vec<u8>,
    /// Its value, as getxattr(2) gives it.
    pub value: Vec<u8>,
}
