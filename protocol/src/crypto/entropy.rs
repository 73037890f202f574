//! A machine's randomness.

use std::convert::Infallible;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng, TryRng};
use zeroize::Zeroizing;

/// The generator of all of a machine's randomness, from the seed of its constructor: ChaCha20's stream under it. What is held is the seed and
/// how far the stream was read, an eighth of what the cipher's own state takes; a machine draws little, and rarely.
#[derive(Clone)]
pub struct Entropy {
    seed: Zeroizing<[u8; 32]>,
    /// In words of four bytes.
    read: u64,
}

impl Entropy {
    /// The stream of `seed` from its beginning.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), read: 0 }
    }

    fn draw<T>(&mut self, from: impl FnOnce(&mut ChaCha20Rng) -> T) -> T {
        let mut stream = ChaCha20Rng::from_seed(*self.seed);
        stream.set_word_pos(self.read.into());
        let drawn = from(&mut stream);
        // 2^64 words are more than any machine draws.
        self.read = stream.get_word_pos() as u64;
        drawn
    }
}

impl TryRng for Entropy {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.draw(Rng::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.draw(Rng::next_u64))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.draw(|stream| stream.fill_bytes(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is drawn in whatever portions, it is the cipher's stream, and no part of it comes twice.
    #[test]
    fn what_is_drawn_is_the_stream_in_its_order() {
        let (mut ours, mut stream) = (Entropy::new([7; 32]), ChaCha20Rng::from_seed([7; 32]));
        for round in 0..200 {
            let len = round % 41;
            let (mut drawn, mut expected) = (vec![0; len], vec![0; len]);
            ours.fill_bytes(&mut drawn);
            stream.fill_bytes(&mut expected);
            assert_eq!((drawn, ours.next_u32()), (expected, stream.next_u32()));
            assert_eq!(ours.next_u64(), stream.next_u64());
        }
        assert_ne!(Entropy::new([8; 32]).next_u64(), Entropy::new([7; 32]).next_u64());
    }
}
