//! The two checksums of a journal: crc32c, and the CRC-32 of csum v1.

/// The kernel's `crc32c(seed, data)`: reflected, without the final inversion.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, data)
}

/// The crc32c of `data` with the four bytes at `field` taken as zeros, as a structure's own checksum is made.
pub fn with_zero(seed: u32, data: &[u8], field: usize) -> u32 {
    let (before, rest) = data.split_at_checked(field).unwrap_or((data, &[]));
    let after = rest.get(4..).unwrap_or_default();
    crc32c(crc32c(crc32c(seed, before), &[0; 4]), after)
}

/// The kernel's `crc32_be(seed, data)`: polynomial 0x04c11db7, most significant bit first, no inversion.
pub fn crc32_be(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, byte| {
        let [top, ..] = crc.to_be_bytes();
        (crc << 8) ^ TABLE.get(usize::from(top ^ byte)).copied().unwrap_or(0)
    })
}

const TABLE: [u32; 256] = table();

#[expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "computed by the compiler")]
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 != 0 { (crc << 1) ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue (reveng): CRC-32/ISCSI and CRC-32/MPEG-2 over `123456789`.
    #[test]
    fn check_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32_be(!0, b"123456789"), 0x0376_e6e7);
        assert_eq!(with_zero(!0, b"12XXXX789", 2), crc32c(!0, b"12\0\0\0\x00789"));
    }
}
