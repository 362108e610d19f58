//! A physical volume of any bytes: its label, its ring, its group, and what the logical volumes map to.
#![no_main]

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::volume::Options;
use coldread::volume::lvm::{Member, assemble};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let source: Source = Arc::new(Memory::new("pv", bytes));
    let options = Options::new(&Cache::new(1 << 20), &Arc::new(Effort::default()));
    let Ok(assembly) = assemble(&[Member { disk: 0, index: 0, source }], &options) else { return };
    for source in assembly.volumes.iter().filter_map(|(_, volume)| volume.source.as_ref()).take(20) {
        let mut at = 0;
        for _ in 0..50 {
            if at >= source.len() {
                break;
            }
            let Ok(run) = source.run_at(at) else { break };
            assert!(run.len > 0 && run.len <= source.len() - at);
            let take = usize::try_from(run.len.min(1 << 16)).unwrap_or(0);
            let _ = source.read_at(at, &mut vec![0; take]);
            at += run.len;
        }
    }
});
