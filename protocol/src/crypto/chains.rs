//! CBC, of many packets at once where they are encrypted.
//!
//! In CBC a block waits for the one before it, so a packet alone leaves most of the processor's AES units idle. Packets of one batch are
//! independent chains: block by block, all are encrypted together, in 512-bit registers where the processor has AES for them, else by the
//! `aes` crate. Decryption knows what is before each block, and fills the units from one packet.

use std::ops::Range;

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, BlockModeDecrypt, InnerIvInit, KeyInit};

use super::packet::BLOCK;

#[cfg(target_arch = "x86_64")]
mod wide;

/// Chains at once: enough to fill the widest unit (four times four blocks of VAES), and few enough that 16 full packets stay in the first
/// cache.
pub(super) const CHAINS: usize = 16;

/// A key for chains.
#[derive(Clone)]
pub(super) struct Chains {
    cipher: Aes128,
    #[cfg(target_arch = "x86_64")]
    wide: Option<wide::RoundKeys>,
}

/// Where a packet's blocks stand in the buffer.
#[derive(Clone, Copy, Default)]
struct Chain {
    at: usize,
    blocks: usize,
}

impl Chains {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self {
            cipher: Aes128::new(key.into()),
            #[cfg(target_arch = "x86_64")]
            wide: wide::RoundKeys::new(key),
        }
    }

    /// The cipher itself.
    #[cfg(test)]
    pub(super) fn cipher(&self) -> &Aes128 {
        &self.cipher
    }

    /// Decrypts `blocks`, one chain under the initialization vector `iv`, in place.
    pub(super) fn decrypt(&self, iv: &aes::Block, blocks: &mut [aes::Block]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide {
            return wide.decrypt(iv, blocks);
        }
        cbc::Decryptor::inner_iv_init(&self.cipher, iv).decrypt_blocks(blocks);
    }

    /// Encrypts in place what stands at `places` of `buffer`, each under its initialization vector of `ivs`. At most [`CHAINS`] places, of
    /// whole blocks each.
    pub(super) fn encrypt(&self, ivs: &[aes::Block], buffer: &mut [u8], places: &[Range<usize>]) {
        let mut chains = [Chain::default(); CHAINS];
        let mut last = [aes::Block::default(); CHAINS];
        // The longest first: those that still go on are always the first few.
        for (n, place) in places.iter().enumerate() {
            let chain = Chain { at: place.start, blocks: place.len() / BLOCK };
            let mut to = n;
            while to > 0 && chains[to - 1].blocks < chain.blocks {
                (chains[to], last[to]) = (chains[to - 1], last[to - 1]);
                to -= 1;
            }
            (chains[to], last[to]) = (chain, ivs[n]);
        }
        let (mut active, mut step) = (places.len(), 0);
        while active > 0 {
            let until = chains[active - 1].blocks;
            self.encrypt_steps(&mut last, buffer, &chains[..active], step..until);
            step = until;
            active = chains[..active].iter().position(|chain| chain.blocks <= until).unwrap_or(active);
        }
    }

    /// Encrypts the blocks of number `steps` of `chains`, behind the blocks that are their `last`.
    fn encrypt_steps(
        &self,
        last: &mut [aes::Block; CHAINS],
        buffer: &mut [u8],
        chains: &[Chain],
        steps: Range<usize>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide {
            return wide.encrypt(last, buffer, chains, steps);
        }
        let last = &mut last[..chains.len()];
        for step in steps {
            for (last, chain) in last.iter_mut().zip(chains) {
                let block = &buffer[chain.at + step * BLOCK..][..BLOCK];
                last.iter_mut().zip(block).for_each(|(last, plain)| *last ^= plain);
            }
            self.cipher.encrypt_blocks(last);
            for (last, chain) in last.iter().zip(chains) {
                buffer[chain.at + step * BLOCK..][..BLOCK].copy_from_slice(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aes::cipher::BlockModeEncrypt;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The crate, one packet after the other, is the oracle.
        #[test]
        fn many_chains_are_what_each_is_alone(
            key: [u8; 16],
            blocks in prop_oneof![
                prop::collection::vec(0usize..12, 0..=CHAINS),
                prop::collection::vec(1usize..12, CHAINS),
            ],
            gap in 0usize..40,
            fill: u8,
        ) {
            let chains = Chains::new(&key);
            let mut places = Vec::new();
            let mut at = 0;
            for blocks in &blocks {
                places.push(at + gap..at + gap + blocks * BLOCK);
                at += gap + blocks * BLOCK;
            }
            let mut buffer: Vec<u8> = (0..at).map(|n| (n as u8).wrapping_mul(31) ^ fill).collect();
            let mut expected = buffer.clone();
            let ivs: Vec<aes::Block> = (0..blocks.len()).map(|n| [n as u8 ^ fill; BLOCK].into()).collect();
            for (place, iv) in places.iter().zip(&ivs) {
                let (blocks, _) = aes::Block::slice_as_chunks_mut(&mut expected[place.clone()]);
                cbc::Encryptor::inner_iv_init(chains.cipher(), iv).encrypt_blocks(blocks);
            }
            let before = buffer.clone();
            chains.encrypt(&ivs, &mut buffer, &places);
            prop_assert_eq!(&buffer, &expected);
            #[cfg(target_arch = "x86_64")]
            {
                let plain = Chains { wide: None, ..chains };
                let mut buffer = before;
                plain.encrypt(&ivs, &mut buffer, &places);
                prop_assert_eq!(buffer, expected);
            }
        }

        /// The crate is the oracle: what it encrypts is decrypted, with wide registers and without.
        #[test]
        fn a_chain_is_decrypted(key: [u8; 16], iv: [u8; 16], plain in prop::collection::vec(any::<[u8; BLOCK]>(), 0..100)) {
            let chains = Chains::new(&key);
            let plain: Vec<aes::Block> = plain.into_iter().map(Into::into).collect();
            let mut sealed = plain.clone();
            cbc::Encryptor::inner_iv_init(chains.cipher(), &iv.into()).encrypt_blocks(&mut sealed);
            let mut opened = sealed.clone();
            chains.decrypt(&iv.into(), &mut opened);
            prop_assert_eq!(&opened, &plain);
            #[cfg(target_arch = "x86_64")]
            {
                let plain_chains = Chains { wide: None, ..chains };
                plain_chains.decrypt(&iv.into(), &mut sealed);
                prop_assert_eq!(sealed, plain);
            }
        }
    }
}
