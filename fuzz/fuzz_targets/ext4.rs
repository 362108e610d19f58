//! An ext2, ext3 or ext4 of any bytes: its tree, metadata, attributes, maps and content.
#![no_main]

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::fs::{Options, READERS, Stream};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let source: Source = Arc::new(Memory::new("image", bytes));
    let options = Options { replay: true, cache: Cache::new(1 << 20), effort: Arc::new(Effort::default()) };
    let Some(reader) = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")) else { return };
    let Ok(fs) = (reader.open)(&[source], &options) else { return };
    let mut stack = vec![fs.root()];
    stack.extend(fs.orphans().unwrap_or_default());
    for _ in 0..60 {
        let Some(id) = stack.pop() else { break };
        let _ = (fs.node(id), fs.attributes(id), fs.link(id), fs.footprint(id, &mut |_, _| {}));
        if let Ok(entries) = fs.entries(id) {
            for entry in entries.take(100).flatten() {
                let _ = fs.lookup(id, &entry.name);
                stack.push(entry.id);
            }
        }
        for stream in [Stream::Content, Stream::Slack] {
            let Ok(source) = fs.open(id, stream) else { continue };
            let mut at = 0;
            for _ in 0..50 {
                if at >= source.len() {
                    break;
                }
                let Ok(run) = source.run_at(at) else { break };
                assert!(run.len > 0 && run.len <= source.len() - at);
                let take = usize::try_from(run.len.min(1 << 14)).unwrap_or(0);
                let _ = source.read_at(at, &mut vec![0; take]);
                at += run.len;
            }
        }
    }
});
