//! The compression function of SHA-256 (FIPS 180-4) over independent messages at once: two, or sixteen.
//!
//! One stream waits for the processor's SHA unit at every round: two streams, turn by turn, fill it. Sixteen are done in the lanes of 512-bit
//! registers, without that unit, where the processor has them. Where it has neither the `sha2` crate does one after the other.

#[cfg(target_arch = "x86_64")]
mod sixteen;
#[cfg(target_arch = "x86_64")]
mod two;

/// A block of the message.
pub(super) type Block = [u8; 64];
/// The eight words of the state.
pub(super) type State = [u32; 8];

/// How many messages [`compress_sixteen`] takes.
pub(super) const LANES: usize = 16;

/// The state before the first block.
pub(super) const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The round constants, FIPS 180-4, 4.2.2.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Takes `blocks` into `state`.
pub(super) fn compress(state: &mut State, blocks: &[Block]) {
    sha2::block_api::compress256(state, blocks);
}

/// Takes each list of blocks into its state. What one list has more than the other is taken alone.
pub(super) fn compress_two(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    let common = blocks[0].len().min(blocks[1].len());
    let [(first, rest), (other, other_rest)] = blocks.map(|blocks| blocks.split_at(common));
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1") {
        // SAFETY: the processor has what the function is compiled for, as was just asked.
        unsafe { two::compress_two(states, first, other) };
    } else {
        compress(&mut states[0], first);
        compress(&mut states[1], other);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        compress(&mut states[0], first);
        compress(&mut states[1], other);
    }
    compress(&mut states[0], rest);
    compress(&mut states[1], other_rest);
}

/// Whether sixteen at once are done faster than two at a time.
pub(super) fn has_sixteen() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Takes each message into its state: the first list of its blocks, then the second. Only where [`has_sixteen`]; elsewhere, one by one.
pub(super) fn compress_sixteen(states: &mut [State; LANES], messages: &[[&[Block]; 2]; LANES]) {
    #[cfg(target_arch = "x86_64")]
    if has_sixteen() {
        // SAFETY: the processor has what the function is compiled for, as was just asked.
        return unsafe { sixteen::compress_sixteen(states, messages) };
    }
    for (state, [blocks, end]) in states.iter_mut().zip(messages) {
        compress(state, blocks);
        compress(state, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// FIPS 180-4's example "abc": one block, padded by hand.
    #[test]
    fn the_standards_example() {
        let mut block = [0; 64];
        block[..4].copy_from_slice(b"abc\x80");
        block[63] = 24;
        let mut states = [START; 2];
        compress_two(&mut states, [&[block], &[block]]);
        let expected = [
            0xba78_16bf,
            0x8f01_cfea,
            0x4141_40de,
            0x5dae_2223,
            0xb003_61a3,
            0x9617_7a9c,
            0xb410_ff61,
            0xf200_15ad,
        ];
        assert_eq!(states, [expected; 2]);
    }

    proptest! {
        /// The crate, one message after the other, is the oracle.
        #[test]
        fn two_at_once_are_two_alone(
            states: [State; 2],
            first in prop::collection::vec(prop::array::uniform(any::<u8>()), 0..6),
            other in prop::collection::vec(prop::array::uniform(any::<u8>()), 0..6),
        ) {
            let mut alone = states;
            compress(&mut alone[0], &first);
            compress(&mut alone[1], &other);
            let mut together = states;
            compress_two(&mut together, [&first, &other]);
            prop_assert_eq!(together, alone);
        }

        #[test]
        fn sixteen_at_once_are_sixteen_alone(
            states in prop::array::uniform16(any::<State>()),
            messages in prop::array::uniform16((
                prop::collection::vec(prop::array::uniform(any::<u8>()), 0..5),
                prop::collection::vec(prop::array::uniform(any::<u8>()), 0..3),
            )),
        ) {
            let mut alone = states;
            for (state, (blocks, end)) in alone.iter_mut().zip(&messages) {
                compress(state, blocks);
                compress(state, end);
            }
            let mut together = states;
            compress_sixteen(&mut together, &messages.each_ref().map(|(blocks, end)| [&blocks[..], &end[..]]));
            prop_assert_eq!(together, alone);
        }
    }
}
