//! ext4 with one patch each, to a sound image: attributes that overlap or name themselves, directory indexes that lie.

use std::sync::Arc;

use coldread::block::Source;
use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::effort::Effort;
use coldread::error::Result;
use coldread::fs::{Attribute, FileSystem, NodeId, Options, READERS, Stream};

use crate::harness::in_child;
use crate::support::{need, shell, temp};

/// Attributes in a block, in an inode and in an inode of their own; a directory with an index of two levels. No checksums:
/// each patch is believed.
const MAKE: &str = r#"cd "$1"; mkdir -p tree/many; echo content >tree/file
python3 - <<'END'
import os
for i in range(700):
    os.link("tree/file", "tree/many/" + "n" * 190 + " %d" % i)
for name, pairs in {
    "block": {"user.a": b"a" * 300, "user.b": b"b" * 200},
    "inode": {"user.c": b"c" * 12, "user.d": b"d" * 12},
    "large": {"user.big": b"e" * 3000},
}.items():
    open("tree/" + name, "w").close()
    for key, value in pairs.items():
        os.setxattr("tree/" + name, key, value)
END
truncate -s 2M image
mke2fs -q -F -d tree -t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum,^uninit_bg,^resize_inode,ea_inode image
e2fsck -fyD image >/dev/null || true"#;

fn make() -> Option<Image> {
    if !need(&["mke2fs", "e2fsck", "python3"]) {
        return None;
    }
    let dir = temp();
    shell(MAKE, &[dir.path()]);
    Some(Image(std::fs::read(dir.path().join("image")).unwrap()))
}

#[derive(Clone)]
struct Image(Vec<u8>);

/// One opened image and what is found wrong with it.
struct Opened {
    fs: Arc<dyn FileSystem>,
    effort: Arc<Effort>,
}

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get16(&self, at: usize) -> usize {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap()).into()
    }

    fn get32(&self, at: usize) -> usize {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap()) as usize
    }

    /// Where inode `ino` lies: all are in group 0.
    fn inode(&self, ino: usize) -> usize {
        self.get32(2048 + 8) * 1024 + (ino - 1) * 256
    }

    fn open(&self) -> Opened {
        let source: Source = Arc::new(Memory::new("image", &self.0[..]));
        let effort = Arc::new(Effort::default());
        let options = Options { replay: true, cache: Cache::new(4 << 20), effort: Arc::clone(&effort) };
        let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).unwrap();
        Opened { fs: (reader.open)(&[source], &options).unwrap(), effort }
    }

    fn ino(&self, name: &str) -> usize {
        let fs = self.open().fs;
        usize::try_from(fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap().id.ino).unwrap()
    }

    /// Where the entries of the attribute block of `name` start.
    fn block_entries(&self, name: &str) -> usize {
        self.get32(self.inode(self.ino(name)) + 0x68) * 1024 + 32
    }

    /// Where the entries in the inode of `name` start; offsets of values count from there.
    fn inode_entries(&self, ino: usize) -> usize {
        let inode = self.inode(ino);
        inode + 128 + self.get16(inode + 0x80) + 4
    }

    /// Where block `block` of directory `ino` lies; its extents are all in the inode.
    fn dir_block(&self, ino: usize, block: usize) -> usize {
        let header = self.inode(ino) + 0x28;
        let mut extents = (0..self.get16(header + 2)).map(|i| header + 12 + i * 12);
        let extent = extents.find(|e| (0..self.get16(e + 4)).contains(&(block - self.get32(*e)))).unwrap();
        (self.get32(extent + 8) + block - self.get32(extent)) * 1024
    }
}

impl Opened {
    fn attributes(&self, ino: usize) -> (Result<Vec<Attribute>>, Vec<String>) {
        let id = NodeId::new(ino as u64);
        let got = self.fs.attributes(id);
        let _ = self.fs.footprint(id, &mut |range, _| assert!(range.start < range.end));
        (got, self.findings())
    }

    fn findings(&self) -> Vec<String> {
        self.effort.findings().0.into_iter().map(|finding| finding.what).collect()
    }
}

/// Bytes of the entry whose name is one letter: 16 and the name, padded.
const ENTRY: usize = 20;

#[test]
fn attributes_that_lie_about_their_place_are_left_out_and_said() {
    let name = "ext4_crafted::attributes_that_lie_about_their_place_are_left_out_and_said";
    in_child(name, make, |sound, note| {
        let (block, inode) = (sound.ino("block"), sound.ino("inode"));
        let (in_block, in_inode) = (sound.block_entries("block"), sound.inode_entries(inode));
        for ino in [block, inode] {
            let (got, findings) = sound.open().attributes(ino);
            assert_eq!((got.unwrap().len(), findings), (2, Vec::new()));
        }
        // The two entries of each, and the field: 2 is e_value_offs, 8 e_value_size, 0 e_name_len.
        let second = sound.get16(in_block + ENTRY + 2);
        let shared = u16::try_from(second).unwrap().to_le_bytes();
        let short = u16::try_from(sound.get16(in_inode + ENTRY + 2)).unwrap().to_le_bytes();
        let past = u32::try_from(1024 - sound.get16(in_block + 2) + 1).unwrap().to_le_bytes();
        let patches: &[(&str, usize, usize, &[u8], usize)] = &[
            ("a value that starts at the end of the block", block, in_block + 2, &[0, 4], 1),
            ("a value that starts at 65535", block, in_block + 2, &[0xff, 0xff], 1),
            ("a value in the header of the block", block, in_block + 2, &[0, 0], 1),
            ("a value over the first name", block, in_block + 2, &[32, 0], 1),
            ("a value over the zeros behind the last entry", block, in_block + 2, &[72, 0], 1),
            ("a value of one byte more than there is", block, in_block + 8, &past, 1),
            ("a value of 4 GiB", block, in_block + 8, &[0xff; 4], 1),
            ("two values in one place", block, in_block + 2, &shared, 2),
            ("a name that runs over the next entry", block, in_block, &[40], 0),
            ("a name of 255 bytes into the values", block, in_block, &[255], 0),
            ("a value that starts at the inode's end", inode, in_inode + 2, &[92, 0], 1),
            ("a value over the names in the inode", inode, in_inode + 2, &[8, 0], 1),
            ("a value longer than the inode", inode, in_inode + 8, &[0, 1, 0, 0], 1),
            ("two values of the inode in one place", inode, in_inode + 2, &short, 2),
            ("a name longer than the inode", inode, in_inode, &[200], 0),
        ];
        for (number, (what, ino, at, bytes, left)) in patches.iter().enumerate() {
            note.turn_to(number as u64);
            let mut image = sound.clone();
            image.put(*at, bytes);
            let (got, findings) = image.open().attributes(*ino);
            assert!(!findings.is_empty(), "{what}: nothing found");
            let got = got.unwrap();
            assert!(got.len() >= *left && got.len() <= 2, "{what}: {got:?}");
            // No value is longer than what was stored under any name.
            assert!(got.iter().all(|a| a.value.len() <= 300), "{what}");
        }
    });
}

#[test]
fn values_in_inodes_that_name_themselves_end() {
    let name = "ext4_crafted::values_in_inodes_that_name_themselves_end";
    in_child(name, make, |sound, note| {
        let large = sound.ino("large");
        let entry = sound.inode_entries(large);
        let holder = sound.get32(entry + 4);
        assert!(holder > 10, "inode {holder} holds the value");
        let (got, findings) = sound.open().attributes(large);
        assert_eq!((got.unwrap()[0].value.len(), findings), (3000, Vec::new()));

        let own = u32::try_from(large).unwrap().to_le_bytes();
        for (number, (what, at, bytes)) in [
            ("the file itself", entry + 4, &own[..]),
            ("the root directory", entry + 4, &[2, 0, 0, 0]),
            ("an inode past the last", entry + 4, &[129, 0, 0, 0]),
            ("inode 2^32 - 1", entry + 4, &[0xff; 4]),
            ("one byte more than the inode has", entry + 8, &[0xb9, 0x0b, 0, 0]),
            ("4 GiB", entry + 8, &[0xff; 4]),
        ]
        .into_iter()
        .enumerate()
        {
            note.turn_to(number as u64);
            let mut image = sound.clone();
            image.put(at, bytes);
            let (got, findings) = image.open().attributes(large);
            assert!(got.is_ok_and(|got| got.is_empty()), "{what}");
            assert!(findings.iter().any(|f| f.contains("left out")), "{what}: {findings:?}");
        }

        // The holder gets an attribute whose value is the holder, and so does the file, which becomes a holder too.
        note.turn_to(100);
        let mut image = sound.clone();
        let inode = image.inode(holder);
        let extra = u16::try_from(image.get16(image.inode(large) + 0x80)).unwrap();
        image.put(inode + 0x80, &extra.to_le_bytes());
        let own_entry = image.inode_entries(holder);
        let copied = sound.0[entry - 4..entry + 28].to_vec();
        image.put(own_entry - 4, &copied);
        let opened = image.open();
        let (got, _) = opened.attributes(holder);
        assert_eq!(got.unwrap()[0].value, vec![b'e'; 3000]);

        note.turn_to(101);
        let mut image = sound.clone();
        image.put(entry + 4, &own);
        image.put(entry + 8, &[0; 4]);
        let flags = u32::try_from(image.get32(image.inode(large) + 0x20) | 0x20_0000).unwrap();
        image.put(image.inode(large) + 0x20, &flags.to_le_bytes());
        let (got, findings) = image.open().attributes(large);
        assert!(got.unwrap().iter().all(|a| a.value.is_empty()), "{findings:?}");
    });
}

/// Every name is listed, and every one is found, whatever the index says; that it lies is said.
#[test]
fn directory_indexes_that_loop_or_lie_hide_no_name() {
    let name = "ext4_crafted::directory_indexes_that_loop_or_lie_hide_no_name";
    in_child(name, make, |sound, note| {
        let many = sound.ino("many");
        let id = NodeId::new(many as u64);
        let root = sound.dir_block(many, 0);
        // `struct dx_root`: levels at 0x1e, limit and count at 0x20, the first block at 0x24.
        assert_eq!((sound.0[root + 0x1e], sound.get16(root + 0x22)), (1, 2));
        let node_number = sound.get32(root + 0x24);
        let node = sound.dir_block(many, node_number);
        let count = sound.get16(node + 8 + 2);
        let opened = sound.open();
        let names: Vec<Vec<u8>> = opened.fs.entries(id).unwrap().map(|e| e.unwrap().name).collect();
        assert_eq!(names.len(), 700);

        let block = u32::try_from(node_number).unwrap().to_le_bytes();
        let all_to = |block: [u8; 4]| {
            let mut image = sound.clone();
            for i in 0..count {
                image.put(node + 8 + 8 * i + 4, &block);
            }
            image
        };
        let patched = |at: usize, bytes: &[u8]| {
            let mut image = sound.clone();
            image.put(at, bytes);
            image
        };
        let swapped = {
            let (a, b) = (node + 8 + 8 * 20 + 4, node + 8 + 8 * 40 + 4);
            let mut image = patched(a, &sound.0[b..b + 4]);
            image.put(b, &sound.0[a..a + 4]);
            image
        };
        for (number, (what, image)) in [
            ("sound", sound.clone()),
            ("the root leads to itself", patched(root + 0x24, &[0; 4])),
            ("a node leads to itself", all_to(block)),
            ("a node leads to the root", all_to([0; 4])),
            ("a node leads past the end", all_to([0xff, 0xff, 0xff, 0x0f])),
            ("all lead to one leaf", all_to([1, 0, 0, 0])),
            ("two leaves swapped", swapped),
            ("levels that are not there", patched(root + 0x1e, &[3])),
            ("fewer levels than there are", patched(root + 0x1e, &[0])),
            ("255 levels", patched(root + 0x1e, &[255])),
            ("a count of 0", patched(root + 0x22, &[0, 0])),
            ("a count of 65535", patched(root + 0x22, &[0xff, 0xff])),
            ("a limit of 65535", patched(root + 0x20, &[0xff, 0xff])),
            ("limit and count of 65535", patched(root + 0x20, &[0xff; 4])),
            ("a node with a count of 0", patched(node + 8 + 2, &[0, 0])),
            ("a node with a limit of 65535", patched(node + 8, &[0xff; 4])),
            ("a node that holds one of its entries", patched(node + 8 + 2, &[1, 0])),
            ("a hash that is not known", patched(root + 0x1c, &[99])),
            ("another hash", patched(root + 0x1c, &[2])),
        ]
        .into_iter()
        .enumerate()
        {
            note.turn_to(number as u64);
            let opened = image.open();
            let listed = opened.fs.entries(id).unwrap().flatten().count();
            assert_eq!(listed, 700, "{what}");
            // Few names lie in two leaves of 140.
            let step = if what == "two leaves swapped" { 1 } else { 23 };
            for name in names.iter().step_by(step) {
                let found = opened.fs.lookup(id, name).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(found.map(|entry| entry.name), Some(name.clone()), "{what}");
            }
            assert_eq!(opened.fs.lookup(id, b"not there").unwrap(), None, "{what}");
            assert!(opened.fs.open(id, Stream::Content).is_ok());
            let said = opened.findings().iter().any(|f| f.contains("index"));
            assert_eq!(said, !matches!(what, "sound" | "a hash that is not known"), "{what}");
        }
    });
}
