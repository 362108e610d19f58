//! A LUKS header of any bytes, and a passphrase.
#![no_main]

use std::sync::Arc;

use coldread::block::memory::Memory;
use coldread::block::{BlockSource, Source};
use coldread::effort::Effort;
use coldread::volume::Key;
use coldread::volume::luks::Luks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let device: Source = Arc::new(Memory::new("luks", bytes));
    let Ok(luks) = Luks::read(&device) else { return };
    let _ = (luks.cipher(), luks.problems(), luks.place(device.len()));
    let key = Key::new(b"pass".to_vec());
    if let Ok(Some(clear)) = luks.open("clear", &device, &[key], &Effort::default()) {
        let _ = clear.read_at(0, &mut vec![0; usize::try_from(clear.len().min(1 << 16)).unwrap_or(0)]);
    }
});
