//! A journal of any bytes, replayed over a volume of zeros; and the same bytes as a filesystem with a journal in it.
#![no_main]

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::fs::Options;
use coldread::fs::ext4::journal::{self, Volume};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes: Source = Arc::new(Memory::new("journal", bytes));
    let raw: Source = Arc::new(Memory::new("volume", vec![0; 1 << 20]));
    let effort = Arc::new(Effort::default());
    let volume = Volume { block_size: 1024, blocks: 1024, needs_recovery: true };
    if let Ok(replayed) = journal::replay(&raw, &volume, &bytes, &effort) {
        let mut at = 0;
        while at < replayed.source.len() {
            let Ok(run) = replayed.source.run_at(at) else { break };
            assert!(run.len > 0 && run.len <= replayed.source.len() - at);
            let take = usize::try_from(run.len.min(4096)).unwrap_or(0);
            let _ = replayed.source.read_at(at, &mut vec![0; take]);
            at += run.len;
        }
    }
    let options = Options { replay: true, cache: Cache::new(1 << 20), effort };
    if let Ok(fs) = coldread::fs::ext4::open(&[bytes], &options) {
        if let Ok(entries) = fs.entries(fs.root()) {
            entries.take(100).flatten().for_each(|entry| drop(fs.node(entry.id)));
        }
    }
});
