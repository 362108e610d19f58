//! Floor 1: every source that is made of others.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use coldread::block::cache::{Cache, Cached};
use coldread::block::file::HostFile;
use coldread::block::join::{Join, Part, Piece};
use coldread::block::memory::Memory;
use coldread::block::overlay::{Overlay, Patch};
use coldread::block::slice::Slice;
use coldread::block::{BlockSource, Source, State};

use crate::support::laws::laws;

/// Bytes of which no two neighbouring blocks are alike.
pub fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1] ^ salt).collect()
}

fn memory(len: usize) -> Source {
    Arc::new(Memory::new("memory", pattern(len, 1)))
}

#[test]
fn memory_and_nothing() {
    laws(&*memory(10_000));
    laws(&*memory(0));
}

#[test]
fn a_host_file_with_holes() {
    let dir = crate::support::temp();
    let path = dir.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.write_all_at(&pattern(70_000, 2), 1 << 20).unwrap();
    file.write_all_at(b"end", 3 << 20).unwrap();
    file.set_len((3 << 20) + 777).unwrap();
    let source = HostFile::new("sparse", File::open(&path).unwrap()).unwrap();
    assert_eq!(source.run_at(0).unwrap().state, State::Hole);
    assert_eq!(source.run_at((1 << 20) + 5).unwrap().state, State::Data);
    laws(&source);
}

#[test]
fn a_slice_and_one_that_is_cut() {
    laws(&Slice::new("p1", memory(10_000), 777, 5000).unwrap());
    let cut = Slice::new("p1", memory(10_000), 9000, 5000).unwrap();
    assert_eq!(cut.run_at(1000).unwrap().state, State::Lost);
    laws(&cut);
}

#[test]
fn pieces_with_gaps() {
    let piece = |start, len, what| Piece { start, len, what };
    let join = Join::new(
        "file",
        100_000,
        vec![
            piece(10, 4096, Part::At(memory(10_000), 100)),
            piece(4106, 4096, Part::Zeros(State::Zero)),
            piece(20_000, 1000, Part::Lost("gone".into())),
            piece(30_000, 90_000, Part::At(memory(100_000), 0)),
        ],
    );
    laws(&join.unwrap());
}

#[test]
fn replaced_blocks() {
    let journal: Source = Arc::new(Memory::new("journal", pattern(8192, 9)));
    let blocks = BTreeMap::from([
        (0, Patch::At(Arc::clone(&journal), 4096)),
        (3, Patch::Bytes(pattern(1024, 7).into())),
        (9, Patch::At(journal, 1024)),
    ]);
    laws(&Overlay::new(memory(10_000), 1024, blocks).unwrap());
}

#[test]
fn cached_in_little_memory() {
    let cache = Cache::new(1 << 20);
    laws(&Cached::new(memory(1_000_000), &cache));
}
