//! Sixteen blocks in four 512-bit registers, with VAES: of as many chains to encrypt, of one to decrypt.

use core::arch::x86_64::{
    __m128i, __m512i, _mm_aesimc_si128, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_storeu_si128, _mm_xor_si128, _mm512_aesdec_epi128, _mm512_aesdeclast_epi128,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_alignr_epi64, _mm512_broadcast_i32x4,
    _mm512_castsi128_si512, _mm512_extracti32x4_epi32, _mm512_inserti32x4, _mm512_mask_storeu_epi64,
    _mm512_maskz_loadu_epi64, _mm512_setzero_si512, _mm512_xor_si512,
};
use std::ops::Range;

use super::{BLOCK, CHAINS, Chain};

/// The eleven round keys of AES-128, and those of the equivalent inverse cipher. That they are there says that the processor has what is asked
/// of it here.
#[derive(Clone)]
pub(super) struct RoundKeys {
    encrypt: [[u8; BLOCK]; 11],
    decrypt: [[u8; BLOCK]; 11],
}

impl RoundKeys {
    /// `None` where the processor has no AES for 512-bit registers.
    pub(super) fn new(key: &[u8; 16]) -> Option<Self> {
        let has_all = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("vaes")
            && std::arch::is_x86_feature_detected!("avx512f");
        has_all.then(|| {
            // SAFETY: the processor has AES, as was just asked.
            let (encrypt, decrypt) = unsafe { (expand(key), inverse(&expand(key))) };
            Self { encrypt, decrypt }
        })
    }

    /// Encrypts the blocks of number `steps` of `chains` in place; `last` holds the blocks of ciphertext before them, and the last ones
    /// after.
    pub(super) fn encrypt(
        &self,
        last: &mut [aes::Block; CHAINS],
        buffer: &mut [u8],
        chains: &[Chain],
        steps: Range<usize>,
    ) {
        for chain in chains {
            assert!(steps.end <= chain.blocks && chain.at + chain.blocks * BLOCK <= buffer.len());
        }
        let active = chains.len();
        // A register is never half full: what would be done of nothing is done of the last chain once more, with the same result.
        let mut starts = [0; CHAINS];
        for (n, start) in starts.iter_mut().enumerate() {
            *start = chains[n.min(active - 1)].at;
        }
        let before = last[active - 1];
        last[active..].fill(before);
        let (keys, buffer) = (&self.encrypt, buffer.as_mut_ptr());
        // SAFETY: round keys were made only where the processor has what the function is compiled for; that each chain lies within the
        // buffer was just asked.
        unsafe {
            match active {
                ..=4 => encrypt::<1>(keys, last, buffer, &starts, steps),
                5..=8 => encrypt::<2>(keys, last, buffer, &starts, steps),
                _ => encrypt::<4>(keys, last, buffer, &starts, steps),
            }
        }
    }

    /// Decrypts `blocks`, one chain, in place.
    pub(super) fn decrypt(&self, iv: &aes::Block, blocks: &mut [aes::Block]) {
        // SAFETY: round keys were made only where the processor has what the function is compiled for.
        unsafe { decrypt(&self.decrypt, iv, blocks) };
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

/// FIPS 197, 5.3.5.
#[target_feature(enable = "aes,sse2")]
fn inverse(keys: &[[u8; BLOCK]; 11]) -> [[u8; BLOCK]; 11] {
    let mut inverse = *keys;
    inverse.reverse();
    for key in &mut inverse[1..10] {
        // SAFETY: 16 bytes are read and written, which are there; no alignment is asked.
        unsafe {
            let mixed = _mm_aesimc_si128(_mm_loadu_si128(key.as_ptr().cast()));
            _mm_storeu_si128(key.as_mut_ptr().cast(), mixed);
        }
    }
    inverse
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

/// Encrypts the blocks of number `steps` of the chains that begin at the first `starts`, four in each of so many `REGISTERS`.
///
/// # Safety
/// Each of them has these blocks, within the buffer that begins at `buffer` and is nobody else's meanwhile.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt<const REGISTERS: usize>(
    keys: &[[u8; BLOCK]; 11],
    last: &mut [aes::Block; CHAINS],
    buffer: *mut u8,
    starts: &[usize; CHAINS],
    steps: Range<usize>,
) {
    let keys = in_every_quarter(keys);
    // SAFETY: the caller's promise.
    let starts: [*mut u8; CHAINS] = core::array::from_fn(|n| unsafe { buffer.add(starts[n]) });
    let ivs = last.as_mut_ptr().cast::<u8>();
    // SAFETY: the blocks stand one behind the other.
    let lasts: [*mut u8; CHAINS] = core::array::from_fn(|n| unsafe { ivs.add(n * BLOCK) });
    let mut state = [_mm512_setzero_si512(); REGISTERS];
    for (n, state) in state.iter_mut().enumerate() {
        // SAFETY: these are live blocks.
        *state = unsafe { gather(&lasts, 4 * n, 0) };
    }
    for step in steps {
        let at = step * BLOCK;
        // All are read before any is written: two chains may be the same.
        for (n, state) in state.iter_mut().enumerate() {
            // SAFETY: the caller's promise: the chain has this block.
            let plain = unsafe { gather(&starts, 4 * n, at) };
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

#[target_feature(enable = "avx512f,vaes")]
fn decrypt(keys: &[[u8; BLOCK]; 11], iv: &aes::Block, blocks: &mut [aes::Block]) {
    let keys = in_every_quarter(keys);
    // SAFETY: 16 bytes are read, which are there; no alignment is asked.
    let mut before = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(iv.as_ptr().cast()) });
    for blocks in blocks.chunks_mut(16) {
        let (mut sealed, mut state) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for ((blocks, sealed), state) in blocks.chunks(4).zip(&mut sealed).zip(&mut state) {
            // SAFETY: what the mask lets through is read, and that are the blocks of the chunk; no alignment is asked.
            *sealed = unsafe { _mm512_maskz_loadu_epi64(lanes(blocks), blocks.as_ptr().cast()) };
            *state = _mm512_xor_si512(*sealed, keys[0]);
        }
        for key in &keys[1..10] {
            for state in &mut state {
                *state = _mm512_aesdec_epi128(*state, *key);
            }
        }
        for ((blocks, sealed), state) in blocks.chunks_mut(4).zip(sealed).zip(state) {
            // The block before each: the last of those before, and the first three.
            let chained = _mm512_alignr_epi64::<6>(sealed, before);
            let plain = _mm512_xor_si512(_mm512_aesdeclast_epi128(state, keys[10]), chained);
            // SAFETY: as for reading.
            unsafe { _mm512_mask_storeu_epi64(blocks.as_mut_ptr().cast(), lanes(blocks), plain) };
            before = sealed;
        }
    }
}

/// The halves of at most four blocks, a bit for each.
fn lanes(blocks: &[aes::Block]) -> u8 {
    ((1u16 << (2 * blocks.len())) - 1) as u8
}

#[inline]
#[target_feature(enable = "avx512f")]
fn in_every_quarter(keys: &[[u8; BLOCK]; 11]) -> [__m512i; 11] {
    let mut wide = [_mm512_setzero_si512(); 11];
    for (wide, key) in wide.iter_mut().zip(keys) {
        // SAFETY: 16 bytes are read, which are there; no alignment is asked.
        *wide = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) });
    }
    wide
}

/// The blocks `at` bytes behind each of four starts, from the `first` on.
///
/// # Safety
/// There is a block behind each.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn gather(starts: &[*mut u8; CHAINS], first: usize, at: usize) -> __m512i {
    // SAFETY: the caller's promise; no alignment is asked.
    let [a, b, c, d] = unsafe {
        [
            _mm_loadu_si128(starts[first].add(at).cast()),
            _mm_loadu_si128(starts[first + 1].add(at).cast()),
            _mm_loadu_si128(starts[first + 2].add(at).cast()),
            _mm_loadu_si128(starts[first + 3].add(at).cast()),
        ]
    };
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
