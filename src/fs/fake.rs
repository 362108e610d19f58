//! A filesystem in memory for tests: any name, any loop, content of any kind.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{
    Attribute, Each, Entry, Facts, FileSystem, FileType, InodeState, NameState, Node, NodeId, Role, Stream,
    StreamInfo, Time,
};
use crate::block::Source;
use crate::block::memory::Memory;
use crate::error::{Error, Result};

/// What a node holds.
pub enum Body {
    /// Names; an `Err` is a rotten entry.
    Dir(Vec<Result<(Vec<u8>, u64), String>>),
    /// Content.
    File(Source),
    /// A target.
    Link(Vec<u8>),
}

/// The filesystem. Node 2 is the root.
#[derive(Default)]
pub struct Fake {
    facts: Facts,
    nodes: BTreeMap<u64, (Node, Body)>,
}

impl Fake {
    pub fn new() -> Self {
        let mut fake =
            Self { facts: Facts { kind: "fake", size: 1 << 20, ..Facts::default() }, ..Self::default() };
        fake.put(2, Body::Dir(Vec::new()));
        fake
    }

    /// Puts a node.
    pub fn put(&mut self, ino: u64, body: Body) {
        let (kind, size) = match &body {
            Body::Dir(_) => (FileType::Dir, 4096),
            Body::File(source) => (FileType::File, source.len()),
            Body::Link(target) => (FileType::Symlink, target.len() as u64),
        };
        let time = Some(Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 });
        let node = Node {
            id: NodeId::new(ino),
            kind,
            mode: 0o640,
            nlink: 1,
            uid: 1000,
            gid: 100,
            size,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            dtime: None,
            rdev: None,
            generation: None,
            flags: Vec::new(),
            state: InodeState::Live,
        };
        self.nodes.insert(ino, (node, body));
    }

    /// Puts a node under a name; the directory has to be there.
    pub fn add(&mut self, dir: u64, name: &[u8], ino: u64, body: Body) {
        self.put(ino, body);
        self.name(dir, name, ino);
    }

    /// Puts a file of bytes under a name.
    pub fn file(&mut self, dir: u64, name: &[u8], ino: u64, data: &[u8]) {
        self.add(dir, name, ino, Body::File(std::sync::Arc::new(Memory::new("file", data))));
    }

    /// Gives a node one more name.
    pub fn name(&mut self, dir: u64, name: &[u8], ino: u64) {
        if let Some((_, Body::Dir(entries))) = self.nodes.get_mut(&dir) {
            entries.push(Ok((name.to_vec(), ino)));
        }
    }

    /// A rotten entry.
    pub fn rot(&mut self, dir: u64) {
        if let Some((_, Body::Dir(entries))) = self.nodes.get_mut(&dir) {
            entries.push(Err("rotten".into()));
        }
    }

    /// Changes a node's metadata.
    pub fn change(&mut self, ino: u64, change: impl FnOnce(&mut Node)) {
        change(&mut self.nodes.get_mut(&ino).unwrap().0);
    }

    fn get(&self, id: NodeId) -> Result<&(Node, Body)> {
        self.nodes.get(&id.ino).ok_or_else(|| Error::corrupt(format!("no node {}", id.ino)))
    }
}

impl FileSystem for Fake {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId::new(2)
    }

    fn node(&self, id: NodeId) -> Result<Node> {
        Ok(self.get(id)?.0.clone())
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Entry>> {
        for entry in self.entries(dir)? {
            let entry = entry?;
            if entry.name == name {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn entries(&self, dir: NodeId) -> Result<Each<'_, Entry>> {
        let Body::Dir(entries) = &self.get(dir)?.1 else { return Err(Error::corrupt("not a directory")) };
        Ok(Box::new(entries.iter().map(|entry| match entry {
            Ok((name, ino)) => Ok(Entry {
                name: name.clone(),
                id: NodeId::new(*ino),
                kind: FileType::Unknown,
                state: NameState::Live,
            }),
            Err(what) => Err(Error::corrupt(what.clone())),
        })))
    }

    fn streams(&self, id: NodeId) -> Result<Vec<StreamInfo>> {
        Ok(vec![StreamInfo::Content(self.get(id)?.0.size)])
    }

    fn open(&self, id: NodeId, _: Stream<'_>) -> Result<Source> {
        match &self.get(id)?.1 {
            Body::File(source) => Ok(source.clone()),
            _ => Err(Error::corrupt("no content")),
        }
    }

    fn link(&self, id: NodeId) -> Result<Vec<u8>> {
        match &self.get(id)?.1 {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(Error::corrupt("no link")),
        }
    }

    fn attributes(&self, _: NodeId) -> Result<Vec<Attribute>> {
        Ok(Vec::new())
    }

    fn footprint(&self, _: NodeId, _: &mut dyn FnMut(Range<u64>, Role)) -> Result<()> {
        Ok(())
    }
}
