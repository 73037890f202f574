//! The Internet checksum (RFC 1071), the field updates of one's complement arithmetic left to its callers.

/// The sum of `bytes` as 16-bit words, added to `start`; not folded, so sums can be chained. An odd last byte counts as the high
/// byte of a word, so only the last part of a chain may have an odd length.
pub(crate) fn sum(bytes: &[u8], start: u64) -> u64 {
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
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of TCP and UDP over IPv4: `addresses` are the header's 8 bytes of source and destination.
pub(crate) fn pseudo(addresses: &[u8; 8], protocol: u8, length: usize) -> u64 {
    sum(addresses, u64::from(protocol) + length as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The oracle: RFC 1071 word by word.
    pub(crate) fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// Whether the IPv4 header's and the TCP or UDP checksum of `packet` are right, by the oracle.
    pub(crate) fn is_right(packet: &[u8]) -> bool {
        let header = usize::from(packet[0] & 15) * 4;
        let length = (packet.len() - header) as u16;
        let mut transport = packet[12..20].to_vec();
        transport.extend([0, packet[9]]);
        transport.extend(length.to_be_bytes());
        transport.extend(&packet[header..]);
        naive(&packet[..header]) == 0xffff && naive(&transport) == 0xffff
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), 0xddf2);
    }

    proptest! {
        #[test]
        fn as_the_oracle(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in any::<prop::sample::Index>()) {
            // Equal as one's complement numbers: 0xffff is another zero.
            let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
            prop_assert!(same(fold(sum(&bytes, 0)), naive(&bytes)));
            let (a, b) = bytes.split_at((at.index(bytes.len() + 1)) & !1);
            prop_assert!(same(fold(sum(b, sum(a, 0))), naive(&bytes)));
        }
    }
}
