//! The hashes of directory indexes (fs/ext4/hash.c): legacy, half MD4, TEA; each over signed or unsigned characters.

use super::disk::Disk;

const DELTA: u32 = 0x9e37_79b9;
/// `EXT2_FLAGS_UNSIGNED_HASH` of `s_flags`.
const UNSIGNED: u32 = 2;

/// A hash with its seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    kind: Kind,
    unsigned: bool,
    seed: [u32; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Legacy,
    HalfMd4,
    Tea,
}

impl Hasher {
    /// The hash that a directory index names (`DX_HASH_*`); `None` for SipHash, whose key is that of the directory's
    /// encryption, and for unknown ones.
    pub(super) fn new(disk: &Disk, version: u8) -> Option<Self> {
        let kind = match version {
            0 | 3 => Kind::Legacy,
            1 | 4 => Kind::HalfMd4,
            2 | 5 => Kind::Tea,
            _ => return None,
        };
        let unsigned = version > 2 || disk.sb.flags & UNSIGNED != 0;
        Some(Self { kind, unsigned, seed: disk.sb.hash_seed })
    }

    /// `hash` and `minor_hash` of a name; the lowest bit of `hash` is 0.
    pub(super) fn hash(&self, name: &[u8]) -> (u32, u32) {
        let mut buf = if self.seed == [0; 4] {
            [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]
        } else {
            self.seed
        };
        let (hash, minor) = match self.kind {
            Kind::Legacy => (self.legacy(name), 0),
            Kind::HalfMd4 => {
                for (i, chunk) in name.chunks(32).enumerate() {
                    half_md4(&mut buf, &self.words::<8>(chunk, left(name, i, 32)));
                }
                (buf[1], buf[2])
            }
            Kind::Tea => {
                for (i, chunk) in name.chunks(16).enumerate() {
                    tea(&mut buf, self.words::<4>(chunk, left(name, i, 16)));
                }
                (buf[0], buf[1])
            }
        };
        // The largest value marks the end of a directory (`EXT4_HTREE_EOF_32BIT`).
        let hash = hash & !1;
        (if hash == 0xffff_fffe { 0xffff_fffc } else { hash }, minor)
    }

    fn char(&self, byte: u8) -> u32 {
        if self.unsigned { byte.into() } else { i32::from(byte.cast_signed()).cast_unsigned() }
    }

    /// `dx_hack_hash`.
    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut hash0, mut hash1) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for byte in name {
            let mut hash = hash1.wrapping_add(hash0 ^ self.char(*byte).wrapping_mul(7_152_373));
            if hash & 0x8000_0000 != 0 {
                hash = hash.wrapping_sub(0x7fff_ffff);
            }
            (hash0, hash1) = (hash, hash0);
        }
        hash0 << 1
    }

    /// `str2hashbuf`: the characters of a chunk in big-endian words, filled up with the length that was left.
    fn words<const N: usize>(&self, chunk: &[u8], left: u32) -> [u32; N] {
        let pad = left | left << 8;
        let pad = pad | pad << 16;
        let mut words = [pad; N];
        for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
            *word = bytes.iter().fold(pad, |value, byte| self.char(*byte).wrapping_add(value << 8));
        }
        words
    }
}

/// How much of the name is left at chunk `i`.
fn left(name: &[u8], i: usize, chunk: usize) -> u32 {
    u32::try_from(name.len().saturating_sub(i.saturating_mul(chunk))).unwrap_or(0)
}

/// `TEA_transform`.
fn tea(buf: &mut [u32; 4], [a, b, c, d]: [u32; 4]) {
    let (mut b0, mut b1) = (buf[0], buf[1]);
    let mut sum = 0u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(DELTA);
        b0 = b0.wrapping_add((b1 << 4).wrapping_add(a) ^ b1.wrapping_add(sum) ^ (b1 >> 5).wrapping_add(b));
        b1 = b1.wrapping_add((b0 << 4).wrapping_add(c) ^ b0.wrapping_add(sum) ^ (b0 >> 5).wrapping_add(d));
    }
    buf[0] = buf[0].wrapping_add(b0);
    buf[1] = buf[1].wrapping_add(b1);
}

/// `half_md4_transform`: three rounds of eight steps. Each step adds a word to the register that is its turn.
fn half_md4(buf: &mut [u32; 4], words: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let rounds: [(Mix, u32, [u32; 4], [u32; 8]); 3] = {
        let [w0, w1, w2, w3, w4, w5, w6, w7] = *words;
        [
            (|x, y, z| z ^ (x & (y ^ z)), 0, [3, 7, 11, 19], *words),
            (
                |x, y, z| (x & y).wrapping_add((x ^ y) & z),
                0x5a82_7999,
                [3, 5, 9, 13],
                [w1, w3, w5, w7, w0, w2, w4, w6],
            ),
            (|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 9, 11, 15], [w3, w7, w2, w6, w1, w5, w0, w4]),
        ]
    };
    let [mut a, mut b, mut c, mut d] = *buf;
    for (mix, constant, shifts, order) in rounds {
        for (word, shift) in order.iter().zip(shifts.iter().cycle()) {
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(*word).wrapping_add(constant);
            // The registers take turns: what was d is the next to be added to.
            (a, b, c, d) = (d, sum.rotate_left(*shift), b, c);
        }
    }
    for (register, value) in buf.iter_mut().zip([a, b, c, d]) {
        *register = register.wrapping_add(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that `debugfs -R "dx_hash -h KIND -s SEED NAME"` of e2fsprogs 1.47 prints.
    #[test]
    fn hashes_are_those_of_debugfs() {
        let seed = [0x0403_0201, 0x0807_0605, 0x0c0b_0a09, 0x100f_0e0d];
        let long = b"a-rather-long-name-that-takes-more-than-thirty-two-bytes.txt";
        let cases: [(Kind, &[u8], (u32, u32)); 6] = [
            (Kind::Legacy, b"hello", (0x3225_2546, 0)),
            (Kind::Legacy, long, (0xccbe_ece0, 0)),
            (Kind::HalfMd4, b"hello", (0xe2dd_f968, 0xc8bc_0924)),
            (Kind::HalfMd4, long, (0x27e1_a768, 0x84bf_fa11)),
            (Kind::Tea, b"hello", (0x1a56_92b6, 0x2fd9_857d)),
            (Kind::Tea, long, (0x3381_3b4a, 0xfd0d_0b82)),
        ];
        for (kind, name, wanted) in cases {
            assert_eq!(Hasher { kind, unsigned: false, seed }.hash(name), wanted, "{kind:?}");
        }
    }
}
