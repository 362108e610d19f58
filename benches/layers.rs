//! What each floor costs, on the sample tree: `cargo bench --features internals`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coldread::block::cache::{BUDGET, Cache, Cached};
use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source, trace};
use coldread::chain::gate::Gate;
use coldread::chain::{self, Chain};
use coldread::fs::walk::{Step, Walk};
use coldread::fs::{FileSystem, Options, READERS, Tree};
use coldread::volume;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

fn sample() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nova/instances");
    tree.join("5d0c7c2e-8f0b-4f3d-9a51-6b1d2f3a4c01/disk")
}

fn opened() -> (Chain, Source, Options) {
    let options = Options { replay: true, cache: Cache::new(BUDGET), effort: Arc::default() };
    let top = sample();
    let gate = Gate::around(&top, &[]).expect("the sample's directories");
    let chain = chain::open(&top, None, &gate, &options.cache, &options.effort).expect("the sample's chain");
    let disk = chain.disk("disk").expect("the sample's disk");
    (chain, disk, options)
}

fn filesystem(disk: &Source, options: &Options) -> Arc<dyn FileSystem> {
    let scan = volume::scan(disk, &volume::Options::new(&options.cache, &options.effort)).expect("volumes");
    let root =
        scan.volumes.iter().find(|v| v.content.as_ref().is_some_and(|c| c.kind == "ext4")).expect("a root");
    let reader = READERS.iter().find(|reader| reader.kinds.contains(&"ext4")).expect("a reader");
    (reader.open)(&[root.source.clone().expect("its bytes")], options).expect("the root opens")
}

fn block(c: &mut Criterion) {
    let memory: Source = Arc::new(Memory::new("memory", vec![7_u8; 1 << 20]));
    let cached = Cached::new(memory, &Cache::new(BUDGET));
    let mut record = [0; 256];
    c.bench_function("cached read of 256 bytes", |b| {
        b.iter(|| cached.read_at(black_box(70_000), &mut record))
    });
}

fn images(c: &mut Criterion) {
    let (chain, disk, options) = opened();
    let mut buffer = vec![0; 1 << 20];
    let mut group = c.benchmark_group("chain");
    group.throughput(Throughput::Bytes(disk.len()));
    group.bench_function("read the whole disk in MiB pieces", |b| {
        b.iter(|| {
            let mut at = 0;
            while at < disk.len() {
                let piece = usize::try_from((disk.len() - at).min(1 << 20)).expect("a piece");
                disk.read_at(at, &mut buffer[..piece]).expect("readable");
                at += piece as u64;
            }
        });
    });
    group.finish();
    c.bench_function("chain: every extent", |b| b.iter(|| chain.extents(&options.effort, &mut |_| Ok(()))));
    c.bench_function("trace: the whole disk down to the host files", |b| {
        b.iter(|| trace::walk(&*disk, 0..disk.len(), &mut |_| Ok(())));
    });
}

fn filesystems(c: &mut Criterion) {
    let (_, disk, options) = opened();
    c.bench_function("ext4: open and replay the journal", |b| b.iter(|| filesystem(&disk, &options)));
    let fs = filesystem(&disk, &options);
    c.bench_function("ext4: walk every name and inode", |b| {
        b.iter(|| {
            let tree = Tree::new(&*fs);
            let mut walk = Walk::new(&tree, tree.root(), b"/", &options.effort);
            let mut entries = 0;
            while let Some(step) = walk.next().expect("a step") {
                entries += usize::from(matches!(step, Step::Entry { .. }));
            }
            entries
        });
    });
}

fn digests(c: &mut Criterion) {
    let data = vec![7; 1 << 20];
    let mut group = c.benchmark_group("evidence");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("SHA-256", |b| b.iter(|| Sha256::digest(black_box(&data))));
    group.finish();
}

criterion_group!(layers, block, images, filesystems, digests);
criterion_main!(layers);
