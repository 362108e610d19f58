//! A qcow2 image of any bytes: its header, its snapshots, its map and its data.
#![no_main]

use std::sync::Arc;

use coldread::block::cache::Cache;
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::chain::disk::Disk;
use coldread::image::qcow2::Qcow2;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file: Source = Arc::new(Memory::new("image", bytes));
    let cache = Cache::new(1 << 20);
    let Ok(image) = Qcow2::open(file, &cache) else { return };
    let (snapshots, _) = image.snapshots();
    let mut disks = vec![image.clone()];
    disks.extend(snapshots.iter().take(2).filter_map(|snapshot| image.at_snapshot(snapshot).ok()));
    for layer in disks {
        let Ok(disk) = Disk::new("disk", vec![Arc::new(layer)], &cache) else { continue };
        let mut at = 0;
        for _ in 0..200 {
            if at >= disk.len() {
                break;
            }
            let Ok(run) = disk.run_at(at) else { break };
            assert!(run.len > 0 && run.len <= disk.len() - at);
            let take = usize::try_from(run.len.min(1 << 16)).unwrap_or(0);
            let _ = disk.read_at(at, &mut vec![0; take]);
            at += run.len;
        }
    }
});
