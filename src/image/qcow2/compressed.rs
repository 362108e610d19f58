//! Compressed clusters: where they lie, and unpacking them.

use std::cell::RefCell;

use libdeflater::Decompressor as Deflate;
use zstd::bulk::Decompressor as Zstd;
use zstd::zstd_safe::find_frame_compressed_size;

use super::header::{Compression, Header};
use crate::block::How;
use crate::error::{Error, Result};
use crate::image::Packed;

/// Decodes the L2 entry of a compressed cluster that starts at `start` of the disk. `file_len` bounds what it takes:
/// the last one in a file ends with it, in the middle of a sector.
///
/// Bits 0 to `x - 1` with `x = 62 - (cluster_bits - 8)` are the offset, the rest counts the further sectors.
pub fn place(header: &Header, entry: u64, start: u64, file_len: u64) -> Packed {
    let bits = 70u32.saturating_sub(header.cluster_bits);
    let offset = entry & (1u64 << bits).wrapping_sub(1);
    let sectors = (entry & !(3u64 << 62)) >> bits;
    let len = sectors.saturating_add(1).saturating_mul(512).saturating_sub(offset & 511);
    Packed {
        offset,
        len: len.min(file_len.saturating_sub(offset)),
        start,
        unpacked: header.cluster_size(),
        how: How::Compressed(match header.compression {
            Compression::Zlib => "deflate",
            Compression::Zstd => "zstd",
        }),
    }
}

/// Contexts and a buffer for one thread's unpacking, kept from one cluster to the next.
struct Bench {
    input: Vec<u8>,
    deflate: Deflate,
    zstd: Option<Zstd<'static>>,
}

thread_local! {
    static BENCH: RefCell<Bench> =
        RefCell::new(Bench { input: Vec::new(), deflate: Deflate::new(), zstd: None });
}

/// Unpacks into all of `out`. `read` fills the packed bytes, `len` of them.
pub fn unpack(
    compression: Compression,
    len: usize,
    out: &mut [u8],
    read: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    BENCH.with_borrow_mut(|bench| {
        if bench.input.len() < len {
            bench.input.resize(len, 0);
        }
        let Bench { input, deflate, zstd } = bench;
        let input = input.get_mut(..len).unwrap_or_default();
        read(input)?;
        let got = match compression {
            Compression::Zlib => deflate
                .deflate_decompress(input, out)
                .map_err(|error| Error::corrupt(format!("compressed cluster: deflate: {error}")))?,
            Compression::Zstd => {
                let wrong = |error: &dyn std::fmt::Display| {
                    Error::corrupt(format!("compressed cluster: zstd: {error}"))
                };
                // What follows the frame in its last sector belongs to the next cluster.
                let frame = find_frame_compressed_size(input)
                    .map_err(|code| wrong(&zstd::zstd_safe::get_error_name(code)))?;
                let frame = input.get(..frame).unwrap_or_default();
                let context = match zstd {
                    Some(context) => context,
                    None => zstd.insert(Zstd::new().map_err(|error| wrong(&error))?),
                };
                context.decompress_to_buffer(frame, out).map_err(|error| wrong(&error))?
            }
        };
        if got != out.len() {
            return Err(Error::corrupt(format!("compressed cluster: {got} bytes, wanted {}", out.len())));
        }
        Ok(())
    })
}
