//! The Internet checksum (RFC 1071), the field updates of one's complement arithmetic left to its callers.

/// The sum of `bytes` as 16-bit words, added to `start`; not folded, so sums can be chained. An odd last byte counts as the high
/// byte of a word, so only the last part of a chain may have an odd length.
pub fn sum(bytes: &[u8], start: u64) -> u64 {
    // One's complement sums do not depend on the byte order they are taken in (RFC 1071, section 2 (B)). So words of the machine's
    // own order are added, four bytes at a time; the compiler makes vectors of it.
    let mut native = 0u64;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        native += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    native += u64::from(u32::from_ne_bytes(last));
    start + u64::from(u16::from_be(fold(native)))
}

/// `sum` folded to 16 bits, not complemented.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of TCP and UDP over IPv4: `addresses` are the header's 8 bytes of source and destination.
pub fn pseudo(addresses: &[u8; 8], protocol: u8, length: usize) -> u64 {
    sum(addresses, u64::from(protocol) + length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), 0xddf2);
    }
}
