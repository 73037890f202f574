//! Sixteen messages in the lanes of AVX-512 registers: every instruction does its work for all of them.

use core::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_castsi128_si512, _mm512_inserti32x4,
    _mm512_mask_mov_epi32, _mm512_ror_epi32, _mm512_set_epi64, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use core::ptr;

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
    let mut blocks = [&NOTHING; LANES];
    for step in 0..first {
        for (block, [blocks, _]) in blocks.iter_mut().zip(messages) {
            *block = &blocks[step];
        }
        block(&mut state, &blocks);
    }
    let all = messages.iter().map(|[blocks, end]| blocks.len() + end.len()).max().unwrap_or(0);
    for step in first..all {
        let mut live = 0;
        for (lane, (to, [blocks, end])) in blocks.iter_mut().zip(messages).enumerate() {
            let block = blocks.get(step).or_else(|| end.get(step - blocks.len()));
            live |= u16::from(block.is_some()) << lane;
            *to = block.unwrap_or(&NOTHING);
        }
        let before = state;
        block(&mut state, &blocks);
        for (word, before) in state.iter_mut().zip(before) {
            *word = _mm512_mask_mov_epi32(before, live, *word);
        }
    }
    store(states, &state);
}

/// One block of each message.
///
/// One function, so that the state and the words of the schedule stay in the 32 registers from the first round to the last.
#[target_feature(enable = "avx512f,avx512bw")]
fn block(state: &mut [__m512i; 8], blocks: &[&Block; LANES]) {
    let mut words = [_mm512_setzero_si512(); 16];
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // The words of the message are fetched where they are used: the shuffles then have rounds to wait for.
    macro_rules! fetch {
        (0) => { fetch!(of 0) };
        (4) => { fetch!(of 1) };
        (8) => { fetch!(of 2) };
        (12) => { fetch!(of 3) };
        (of $quarter:literal) => {
            words[4 * $quarter..][..4].copy_from_slice(&fetched(blocks, $quarter));
        };
        ($n:literal) => {};
    }
    // The next word of the message schedule takes the place of the one sixteen before it.
    macro_rules! next {
        ($n:literal) => {
            let (w15, w2) = (words[($n + 1) % 16], words[($n + 14) % 16]);
            let small0 =
                xor(_mm512_ror_epi32::<7>(w15), _mm512_ror_epi32::<18>(w15), _mm512_srli_epi32::<3>(w15));
            let small1 =
                xor(_mm512_ror_epi32::<17>(w2), _mm512_ror_epi32::<19>(w2), _mm512_srli_epi32::<10>(w2));
            let sums = _mm512_add_epi32(words[$n], words[($n + 9) % 16]);
            words[$n] = _mm512_add_epi32(sums, _mm512_add_epi32(small0, small1));
        };
    }
    // The words of the state change their names from round to round instead of their places.
    macro_rules! round {
        ($constants:ident $before:ident $n:tt $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {
            $before!($n);
            let sum1 = xor(_mm512_ror_epi32::<6>($e), _mm512_ror_epi32::<11>($e), _mm512_ror_epi32::<25>($e));
            let choice = _mm512_ternarylogic_epi32::<CHOOSE>($e, $f, $g);
            let constant = _mm512_set1_epi32($constants[$n].cast_signed());
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
    macro_rules! sixteen {
        ($constants:ident $before:ident) => {
            round!($constants $before 0 a b c d e f g h);
            round!($constants $before 1 h a b c d e f g);
            round!($constants $before 2 g h a b c d e f);
            round!($constants $before 3 f g h a b c d e);
            round!($constants $before 4 e f g h a b c d);
            round!($constants $before 5 d e f g h a b c);
            round!($constants $before 6 c d e f g h a b);
            round!($constants $before 7 b c d e f g h a);
            round!($constants $before 8 a b c d e f g h);
            round!($constants $before 9 h a b c d e f g);
            round!($constants $before 10 g h a b c d e f);
            round!($constants $before 11 f g h a b c d e);
            round!($constants $before 12 e f g h a b c d);
            round!($constants $before 13 d e f g h a b c);
            round!($constants $before 14 c d e f g h a b);
            round!($constants $before 15 b c d e f g h a);
        };
    }
    let (all, _) = K.as_chunks::<16>();
    let constants = &all[0];
    sixteen!(constants fetch);
    for constants in &all[1..] {
        sixteen!(constants next);
    }
    for (word, after) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = _mm512_add_epi32(*word, after);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

/// The words of a quarter of each lane's block, big-endian: a register for each of the four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fetched(blocks: &[&Block; LANES], quarter: usize) -> [__m512i; 4] {
    let (high, low) = (0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let order = _mm512_set_epi64(high, low, high, low, high, low, high, low);
    let mut rows = [_mm512_setzero_si512(); 4];
    for (n, row) in rows.iter_mut().enumerate() {
        *row = gathered([n, n + 4, n + 8, n + 12].map(|lane| &blocks[lane].as_chunks::<16>().0[quarter]));
        *row = _mm512_shuffle_epi8(*row, order);
    }
    turned(&rows)
}

/// Four times four words, of 16 bytes, each in a quarter of the register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn gathered<Words>([a, b, c, d]: [&Words; 4]) -> __m512i {
    const { assert!(size_of::<Words>() == 16) };
    // SAFETY: 16 bytes each are read, which are there; no alignment is asked.
    let [a, b, c, d] = unsafe {
        [
            _mm_loadu_si128(ptr::from_ref(a).cast()),
            _mm_loadu_si128(ptr::from_ref(b).cast()),
            _mm_loadu_si128(ptr::from_ref(c).cast()),
            _mm_loadu_si128(ptr::from_ref(d).cast()),
        ]
    };
    let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
}

/// Turns the square of 4 × 4 words in each quarter of the registers. If those had words of the lanes n, n + 4, n + 8 and n + 12, the n-th
/// then has the n-th word of each lane, and the other way round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn turned([a, b, c, d]: &[__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(*a, *b), _mm512_unpackhi_epi32(*a, *b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(*c, *d), _mm512_unpackhi_epi32(*c, *d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(states: &[State; LANES]) -> [__m512i; 8] {
    let mut state = [_mm512_setzero_si512(); 8];
    for (half, words) in state.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (n, row) in words.iter_mut().enumerate() {
            *row = gathered([n, n + 4, n + 8, n + 12].map(|lane| &states[lane].as_chunks::<4>().0[half]));
        }
        *words = turned(words);
    }
    state
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(states: &mut [State; LANES], state: &[__m512i; 8]) {
    for (half, words) in state.as_chunks::<4>().0.iter().enumerate() {
        for (n, row) in turned(words).iter().enumerate() {
            let mut quarters = [[0; 4]; 4];
            // SAFETY: 64 bytes are written, over as many; no alignment is asked.
            unsafe { _mm512_storeu_si512(quarters.as_mut_ptr().cast(), *row) };
            for (at, quarter) in quarters.into_iter().enumerate() {
                states[n + 4 * at].as_chunks_mut::<4>().0[half] = quarter;
            }
        }
    }
}
