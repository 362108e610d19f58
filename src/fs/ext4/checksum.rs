//! The checksums of ext4: crc32c without the final inversion, and crc16 for the older group checksums.

/// crc32c as the kernel's `ext4_chksum` computes it: `seed` goes in as it is and the result comes out uninverted.
pub(super) fn crc32c(seed: u32, data: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, data)
}

/// crc32c over several pieces, one after another.
pub(super) fn crc32c_parts(seed: u32, parts: &[&[u8]]) -> u32 {
    parts.iter().fold(seed, |crc, part| crc32c(crc, part))
}

/// CRC-16/ARC, reflected polynomial 0x8005, as `lib/crc16.c` of the kernel.
pub(super) fn crc16(seed: u16, data: &[u8]) -> u16 {
    data.iter().fold(seed, |mut crc, byte| {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xa001 } else { crc >> 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of the catalogue of CRC algorithms: CRC-32/ISCSI is 0xe3069283 after its final inversion.
    #[test]
    fn the_check_values_of_the_catalogue() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_parts(!0, &[b"1234", b"", b"56789"]), crc32c(!0, b"123456789"));
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
