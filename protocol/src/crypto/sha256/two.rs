//! Two streams through the SHA unit of x86.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    _mm_storeu_si128,
};

use super::{Block, K, State};

/// A state as the instructions want it: the words a, b, e, f and the words c, d, g, h.
#[derive(Clone, Copy)]
struct Halves {
    abef: __m128i,
    cdgh: __m128i,
}

/// Takes as many blocks of both lists as the shorter has, turn by turn.
#[target_feature(enable = "sha,sse4.1,ssse3")]
pub(super) fn compress_two(states: &mut [State; 2], first: &[Block], other: &[Block]) {
    let mut halves = [load(&states[0]), load(&states[1])];
    for blocks in first.iter().zip(other) {
        let before = halves;
        let mut words = [words(blocks.0), words(blocks.1)];
        for quad in 0..4 {
            for (halves, words) in halves.iter_mut().zip(&words) {
                rounds(halves, words[quad], quad);
            }
        }
        sixteen_rounds(&mut halves, &mut words, 4);
        sixteen_rounds(&mut halves, &mut words, 8);
        sixteen_rounds(&mut halves, &mut words, 12);
        for (halves, before) in halves.iter_mut().zip(before) {
            halves.abef = _mm_add_epi32(halves.abef, before.abef);
            halves.cdgh = _mm_add_epi32(halves.cdgh, before.cdgh);
        }
    }
    for (state, halves) in states.iter_mut().zip(halves) {
        store(state, halves);
    }
}

/// Sixteen rounds of both, from the fourfold of `quad` on. A function of its own, so that its loops are unrolled.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn sixteen_rounds(halves: &mut [Halves; 2], words: &mut [[__m128i; 4]; 2], quad: usize) {
    for n in 0..4 {
        for (halves, words) in halves.iter_mut().zip(words.iter_mut()) {
            words[n] = schedule(words, n);
            rounds(halves, words[n], quad + n);
        }
    }
}

/// Four rounds.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn rounds(halves: &mut Halves, words: __m128i, quad: usize) {
    let at = 4 * quad;
    let constants = _mm_set_epi32(K[at + 3] as i32, K[at + 2] as i32, K[at + 1] as i32, K[at] as i32);
    let sums = _mm_add_epi32(words, constants);
    halves.cdgh = _mm_sha256rnds2_epu32(halves.cdgh, halves.abef, sums);
    halves.abef = _mm_sha256rnds2_epu32(halves.abef, halves.cdgh, _mm_shuffle_epi32(sums, 0x0e));
}

/// The next four words of the message schedule, which take the place of the oldest, the fourfold of `n`.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn schedule(words: &[__m128i; 4], n: usize) -> __m128i {
    let [w0, w1, w2, w3] = core::array::from_fn(|back| words[(n + back) % 4]);
    let sums = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
    _mm_sha256msg2_epu32(sums, w3)
}

/// The sixteen words of a block, big-endian.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn words(block: &Block) -> [__m128i; 4] {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (quarters, _) = block.as_chunks::<16>();
    core::array::from_fn(|n| {
        // SAFETY: 16 bytes are read, which are there; no alignment is asked.
        let quarter = unsafe { _mm_loadu_si128(quarters[n].as_ptr().cast()) };
        _mm_shuffle_epi8(quarter, order)
    })
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn load(state: &State) -> Halves {
    let (quads, _) = state.as_chunks::<4>();
    // SAFETY: each reads 16 bytes, four words that are there; no alignment is asked.
    let [dcba, hgfe] = [0, 1].map(|n: usize| unsafe { _mm_loadu_si128(quads[n].as_ptr().cast()) });
    let (cdab, efgh) = (_mm_shuffle_epi32(dcba, 0xb1), _mm_shuffle_epi32(hgfe, 0x1b));
    Halves { abef: _mm_alignr_epi8(cdab, efgh, 8), cdgh: _mm_blend_epi16(efgh, cdab, 0xf0) }
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn store(state: &mut State, halves: Halves) {
    let (feba, dchg) = (_mm_shuffle_epi32(halves.abef, 0x1b), _mm_shuffle_epi32(halves.cdgh, 0xb1));
    let both = [_mm_blend_epi16(feba, dchg, 0xf0), _mm_alignr_epi8(dchg, feba, 8)];
    let (quads, _) = state.as_chunks_mut::<4>();
    for (quad, words) in quads.iter_mut().zip(both) {
        // SAFETY: 16 bytes are written, over four words; no alignment is asked.
        unsafe { _mm_storeu_si128(quad.as_mut_ptr().cast(), words) };
    }
}
