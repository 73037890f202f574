//! Sixteen chains in four 512-bit registers, with VAES.

use core::arch::x86_64::{
    __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4,
    _mm512_castsi128_si512, _mm512_extracti32x4_epi32, _mm512_inserti32x4, _mm512_xor_si512,
};

use super::{BLOCK, CHAINS, Chain};

/// The eleven round keys of AES-128. That they are there says that the processor has what is asked of it here.
#[derive(Clone)]
pub(super) struct RoundKeys([[u8; BLOCK]; 11]);

impl RoundKeys {
    /// `None` where the processor has no AES for 512-bit registers.
    pub(super) fn new(key: &[u8; 16]) -> Option<Self> {
        let has_all = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("vaes")
            && std::arch::is_x86_feature_detected!("avx512f");
        // SAFETY: the processor has AES, as was just asked.
        has_all.then(|| Self(unsafe { expand(key) }))
    }

    /// Encrypts the first `steps` blocks of each chain in place; `last` holds the initialization vectors before, and the last blocks of
    /// ciphertext after.
    pub(super) fn encrypt(
        &self,
        last: &mut [aes::Block; CHAINS],
        buffer: &mut [u8],
        chains: &[Chain; CHAINS],
        steps: usize,
    ) {
        for chain in chains {
            assert!(steps <= chain.blocks && chain.at + chain.blocks * BLOCK <= buffer.len());
        }
        // SAFETY: round keys were made only where the processor has what the function is compiled for; that each chain lies within the
        // buffer was just asked.
        unsafe { encrypt(&self.0, last, buffer.as_mut_ptr(), chains, steps) };
    }
}

/// FIPS 197, 5.2.
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8; 16]) -> [[u8; BLOCK]; 11] {
    let mut keys = [*key; 11];
    macro_rules! next {
        ($($n:literal $constant:literal)*) => {$(
            // SAFETY: 16 bytes are read, which are there; no alignment is asked.
            let before = unsafe { _mm_loadu_si128(keys[$n - 1].as_ptr().cast()) };
            let next = mixed(before, _mm_aeskeygenassist_si128::<$constant>(before));
            // SAFETY: 16 bytes are written, over as many; no alignment is asked.
            unsafe { _mm_storeu_si128(keys[$n].as_mut_ptr().cast(), next) };
        )*};
    }
    next!(1 0x01 2 0x02 3 0x04 4 0x08 5 0x10 6 0x20 7 0x40 8 0x80 9 0x1b 10 0x36);
    keys
}

/// Each word with all words before it, and with the last one, rotated and substituted.
#[inline]
#[target_feature(enable = "aes,sse2")]
fn mixed(before: __m128i, assist: __m128i) -> __m128i {
    let mut key = before;
    key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
    _mm_xor_si128(key, _mm_shuffle_epi32::<0xff>(assist))
}

/// # Safety
/// Each of `chains` has at least `steps` blocks, all of them within the buffer that begins at `buffer` and is nobody else's meanwhile.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt(
    keys: &[[u8; BLOCK]; 11],
    last: &mut [aes::Block; CHAINS],
    buffer: *mut u8,
    chains: &[Chain; CHAINS],
    steps: usize,
) {
    let keys: [__m512i; 11] = core::array::from_fn(|n| {
        // SAFETY: 16 bytes are read, which are there; no alignment is asked.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(keys[n].as_ptr().cast()) })
    });
    // SAFETY: the caller's promise.
    let starts: [*mut u8; CHAINS] = core::array::from_fn(|n| unsafe { buffer.add(chains[n].at) });
    let ivs = last.as_mut_ptr().cast::<u8>();
    // SAFETY: the blocks stand one behind the other.
    let lasts: [*mut u8; CHAINS] = core::array::from_fn(|n| unsafe { ivs.add(n * BLOCK) });
    // SAFETY: these are live blocks.
    let mut state: [__m512i; 4] = core::array::from_fn(|n| unsafe { gather(&lasts, 4 * n, 0) });
    for step in 0..steps {
        let at = step * BLOCK;
        // SAFETY: the caller's promise: the chain has this block.
        let plain: [__m512i; 4] = core::array::from_fn(|n| unsafe { gather(&starts, 4 * n, at) });
        for (state, plain) in state.iter_mut().zip(plain) {
            *state = _mm512_xor_si512(_mm512_xor_si512(*state, plain), keys[0]);
        }
        for key in &keys[1..10] {
            for state in &mut state {
                *state = _mm512_aesenc_epi128(*state, *key);
            }
        }
        for (n, state) in state.iter_mut().enumerate() {
            *state = _mm512_aesenclast_epi128(*state, keys[10]);
            // SAFETY: as for reading.
            unsafe { scatter(*state, &starts, 4 * n, at) };
        }
    }
    for (n, state) in state.into_iter().enumerate() {
        // SAFETY: these are live blocks.
        unsafe { scatter(state, &lasts, 4 * n, 0) };
    }
}

/// The blocks `at` bytes behind each of four starts, from the `first` on.
///
/// # Safety
/// There is a block behind each.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn gather(starts: &[*mut u8; CHAINS], first: usize, at: usize) -> __m512i {
    // SAFETY: the caller's promise; no alignment is asked.
    let [a, b, c, d] = core::array::from_fn(|n| unsafe { _mm_loadu_si128(starts[first + n].add(at).cast()) });
    let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
}

/// The reverse of [`gather`].
///
/// # Safety
/// There is a block behind each start, and it is nobody else's meanwhile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scatter(blocks: __m512i, starts: &[*mut u8; CHAINS], first: usize, at: usize) {
    let parts = [
        _mm512_extracti32x4_epi32::<0>(blocks),
        _mm512_extracti32x4_epi32::<1>(blocks),
        _mm512_extracti32x4_epi32::<2>(blocks),
        _mm512_extracti32x4_epi32::<3>(blocks),
    ];
    for (n, part) in parts.into_iter().enumerate() {
        // SAFETY: the caller's promise; no alignment is asked.
        unsafe { _mm_storeu_si128(starts[first + n].add(at).cast(), part) };
    }
}
