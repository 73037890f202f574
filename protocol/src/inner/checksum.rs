//! The Internet checksum (RFC 1071), the field updates of one's complement arithmetic left to its callers.

/// From this length on a processor's widest registers are worth asking for, and a call.
const LONG: usize = 128;

/// The sum of `bytes` as 16-bit words, added to `start`; not folded, so sums can be chained. An odd last byte counts as the high
/// byte of a word, so only the last part of a chain may have an odd length.
#[inline]
pub fn sum(bytes: &[u8], start: u64) -> u64 {
    let native = if bytes.len() < LONG { native(bytes) } else { long(bytes) };
    start + u64::from(u16::from_be(fold(native)))
}

/// The sum of `bytes` as words of the machine's own byte order: one's complement sums do not depend on the order that they are taken in (RFC 1071,
/// section 2 (B)). Four bytes at a time; the compiler makes vectors of it, as wide as the function that this becomes part of may use.
#[inline(always)]
fn native(bytes: &[u8]) -> u64 {
    let mut native = 0u64;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        native += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    native + u64::from(u32::from_ne_bytes(last))
}

/// [`native`], by the widest registers that the processor has.
fn long(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has what the function is compiled for, as was just asked.
        return unsafe { native_512(bytes) };
    } else if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return unsafe { native_256(bytes) };
    }
    native(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn native_512(bytes: &[u8]) -> u64 {
    native(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn native_256(bytes: &[u8]) -> u64 {
    native(bytes)
}

/// `sum` folded to 16 bits, not complemented.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of TCP and UDP over IPv4: `addresses` are the header's 8 bytes of source and destination.
#[inline]
pub fn pseudo(addresses: &[u8; 8], protocol: u8, length: usize) -> u64 {
    sum(addresses, u64::from(protocol) + length as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), 0xddf2);
    }

    proptest! {
        /// What is compiled for every processor is the oracle, at every length around the vectors' and wherever the bytes stand.
        #[test]
        fn wide_registers_sum_as_narrow_ones(bytes in prop::collection::vec(any::<u8>(), 0..2000), from in 0..64usize, start: u32) {
            let bytes = &bytes[from.min(bytes.len())..];
            let start = u64::from(start);
            prop_assert_eq!(long(bytes), native(bytes));
            prop_assert_eq!(sum(bytes, start), start + u64::from(u16::from_be(fold(native(bytes)))));
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has what the function is compiled for, as was just asked.
                prop_assert_eq!(unsafe { native_256(bytes) }, native(bytes));
            }
        }
    }
}
