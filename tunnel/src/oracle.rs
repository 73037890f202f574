//! For tests: checksums word by word, as RFC 1071 writes them.

use ntm_protocol::inner::checksum::{fold, sum};
use proptest::prelude::*;

/// The sum of `bytes`, not complemented.
pub(crate) fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether the IPv4 header's and the TCP or UDP checksum of `packet` are right.
pub(crate) fn is_right(packet: &[u8]) -> bool {
    let header = usize::from(packet[0] & 15) * 4;
    let length = (packet.len() - header) as u16;
    let mut transport = packet[12..20].to_vec();
    transport.extend([0, packet[9]]);
    transport.extend(length.to_be_bytes());
    transport.extend(&packet[header..]);
    naive(&packet[..header]) == 0xffff && naive(&transport) == 0xffff
}

proptest! {
    #[test]
    fn sums_are_as_the_oracles(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in any::<prop::sample::Index>()) {
        // Equal as one's complement numbers: 0xffff is another zero.
        let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
        prop_assert!(same(fold(sum(&bytes, 0)), naive(&bytes)));
        let (a, b) = bytes.split_at((at.index(bytes.len() + 1)) & !1);
        prop_assert!(same(fold(sum(b, sum(a, 0))), naive(&bytes)));
    }
}
