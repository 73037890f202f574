//! Sixteen messages in the lanes of AVX-512 registers: every instruction does its work for all of them.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_mask_mov_epi32, _mm512_ror_epi32, _mm512_set_epi64,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32,
    _mm512_storeu_si512, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{Block, K, LANES, State};

/// The operations of three words, as the truth tables that the instruction takes.
const XOR: i32 = 0x96;
const CHOOSE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

/// What stands in for a message that has no more blocks.
static NOTHING: Block = [0; 64];

/// Takes each message into its state: the first list of its blocks, then the second.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress_sixteen(states: &mut [State; LANES], messages: &[[&[Block]; 2]; LANES]) {
    let mut state = load(states);
    let first = messages.iter().map(|[blocks, _]| blocks.len()).min().unwrap_or(0);
    for step in 0..first {
        let blocks = messages.each_ref().map(|[blocks, _]| &blocks[step]);
        block(&mut state, &blocks);
    }
    let all = messages.iter().map(|[blocks, end]| blocks.len() + end.len()).max().unwrap_or(0);
    for step in first..all {
        let mut live = 0;
        let blocks = core::array::from_fn(|lane| {
            let [blocks, end] = messages[lane];
            let block = blocks.get(step).or_else(|| end.get(step - blocks.len()));
            live |= u16::from(block.is_some()) << lane;
            block.unwrap_or(&NOTHING)
        });
        let before = state;
        block(&mut state, &blocks);
        for (word, before) in state.iter_mut().zip(before) {
            *word = _mm512_mask_mov_epi32(before, live, *word);
        }
    }
    store(states, &state);
}

/// One block of each message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn block(state: &mut [__m512i; 8], blocks: &[&Block; LANES]) {
    let mut words = transposed(blocks);
    let before = *state;
    rounds(state, &words, 0);
    for at in [16, 32, 48] {
        schedule(&mut words);
        rounds(state, &words, at);
    }
    for (word, before) in state.iter_mut().zip(before) {
        *word = _mm512_add_epi32(*word, before);
    }
}

/// Sixteen rounds, from the one of number `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rounds(state: &mut [__m512i; 8], words: &[__m512i; 16], at: usize) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // The words change their names from round to round instead of their places.
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $n:expr) => {
            let sum1 = xor(_mm512_ror_epi32::<6>($e), _mm512_ror_epi32::<11>($e), _mm512_ror_epi32::<25>($e));
            let choice = _mm512_ternarylogic_epi32::<CHOOSE>($e, $f, $g);
            let constant = _mm512_set1_epi32(K[at + $n].cast_signed());
            let first = _mm512_add_epi32(
                _mm512_add_epi32($h, _mm512_add_epi32(words[$n], constant)),
                _mm512_add_epi32(sum1, choice),
            );
            let sum0 = xor(_mm512_ror_epi32::<2>($a), _mm512_ror_epi32::<13>($a), _mm512_ror_epi32::<22>($a));
            let majority = _mm512_ternarylogic_epi32::<MAJORITY>($a, $b, $c);
            $d = _mm512_add_epi32($d, first);
            $h = _mm512_add_epi32(first, _mm512_add_epi32(sum0, majority));
        };
    }
    macro_rules! eight {
        ($n:expr) => {
            round!(a b c d e f g h $n);
            round!(h a b c d e f g $n + 1);
            round!(g h a b c d e f $n + 2);
            round!(f g h a b c d e $n + 3);
            round!(e f g h a b c d $n + 4);
            round!(d e f g h a b c $n + 5);
            round!(c d e f g h a b $n + 6);
            round!(b c d e f g h a $n + 7);
        };
    }
    eight!(0);
    eight!(8);
    *state = [a, b, c, d, e, f, g, h];
}

/// The next sixteen words of the message schedule, in place of the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn schedule(words: &mut [__m512i; 16]) {
    // Unrolled by hand: a register has no index.
    macro_rules! next {
        ($($n:literal)*) => {$(
            let (w15, w2) = (words[($n + 1) % 16], words[($n + 14) % 16]);
            let small0 =
                xor(_mm512_ror_epi32::<7>(w15), _mm512_ror_epi32::<18>(w15), _mm512_srli_epi32::<3>(w15));
            let small1 =
                xor(_mm512_ror_epi32::<17>(w2), _mm512_ror_epi32::<19>(w2), _mm512_srli_epi32::<10>(w2));
            let sums = _mm512_add_epi32(words[$n], words[($n + 9) % 16]);
            words[$n] = _mm512_add_epi32(sums, _mm512_add_epi32(small0, small1));
        )*};
    }
    next!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

/// From a block of each message to a register for each of the sixteen words, big-endian, with a lane for each message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transposed(blocks: &[&Block; LANES]) -> [__m512i; 16] {
    let (high, low) = (0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let order = _mm512_set_epi64(high, low, high, low, high, low, high, low);
    let rows: [__m512i; 16] = core::array::from_fn(|lane| {
        // SAFETY: 64 bytes are read, which are there; no alignment is asked.
        let row = unsafe { _mm512_loadu_si512(blocks[lane].as_ptr().cast()) };
        _mm512_shuffle_epi8(row, order)
    });
    transpose(&rows)
}

/// Turns a square of 16 × 16 words: first within every four rows and the four words of a quarter of a register, then the quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut fours = [_mm512_setzero_si512(); 16];
    for at in [0, 4, 8, 12] {
        let (ab_low, ab_high) =
            (_mm512_unpacklo_epi32(rows[at], rows[at + 1]), _mm512_unpackhi_epi32(rows[at], rows[at + 1]));
        let (cd_low, cd_high) = (
            _mm512_unpacklo_epi32(rows[at + 2], rows[at + 3]),
            _mm512_unpackhi_epi32(rows[at + 2], rows[at + 3]),
        );
        fours[at] = _mm512_unpacklo_epi64(ab_low, cd_low);
        fours[at + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        fours[at + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        fours[at + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    let mut out = [_mm512_setzero_si512(); 16];
    for n in 0..4 {
        let [a, b, c, d] = [fours[n], fours[n + 4], fours[n + 8], fours[n + 12]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[n] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[n + 4] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[n + 8] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[n + 12] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(states: &[State; LANES]) -> [__m512i; 8] {
    core::array::from_fn(|word| {
        let words: [u32; LANES] = core::array::from_fn(|lane| states[lane][word]);
        // SAFETY: 64 bytes are read, sixteen words that are there; no alignment is asked.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(states: &mut [State; LANES], state: &[__m512i; 8]) {
    for (word, register) in state.iter().enumerate() {
        let mut words = [0u32; LANES];
        // SAFETY: 64 bytes are written, over sixteen words; no alignment is asked.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), *register) };
        for (state, value) in states.iter_mut().zip(words) {
            state[word] = value;
        }
    }
}
