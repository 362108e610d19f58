//! A disk of any bytes: its partition table and what its partitions hold.
#![no_main]

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::volume::{Options, scan};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let disk: Source = Arc::new(Memory::new("disk", bytes));
    let options = Options::new(&Cache::new(1 << 20), &Arc::new(Effort::default()));
    let Ok(scan) = scan(&disk, &options) else { return };
    for source in scan.volumes.iter().filter_map(|volume| volume.source.as_ref()).take(20) {
        if !source.is_empty() {
            let _ = source.run_at(source.len() - 1);
            let _ = source.read_at(0, &mut [0]);
        }
    }
});
