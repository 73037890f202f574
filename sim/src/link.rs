//! Links: how long a datagram takes, and whether it comes at all.

use ntm_protocol::time::Duration;
use rand_core::Rng;

/// One direction of a link; both directions are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The least time that a datagram takes.
    pub delay: Duration,
    /// Up to this much is added at random, for each datagram anew: so they overtake each other.
    pub jitter: Duration,
    /// How many of a thousand datagrams are lost.
    pub loss: u32,
    /// How many of a thousand datagrams come twice.
    pub duplicate: u32,
}

impl Link {
    /// A faultless link.
    pub const fn of(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0, duplicate: 0 }
    }

    /// When each copy of a datagram arrives, counted from its sending: none where it is lost.
    pub(crate) fn arrivals<R: Rng>(&self, rng: &mut R) -> impl Iterator<Item = Duration> + use<R> {
        let mut chance = |of_thousand: u32| of_thousand > 0 && rng.next_u32() % 1000 < of_thousand;
        let copies = if chance(self.loss) { 0 } else { 1 + usize::from(chance(self.duplicate)) };
        let mut jitter = || match u64::try_from(self.jitter.as_nanos()) {
            Ok(most) if most > 0 => Duration::from_nanos(rng.next_u64() % most),
            _ => Duration::ZERO,
        };
        let times = [self.delay + jitter(), self.delay + jitter()];
        times.into_iter().take(copies)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn losses_and_copies_come_about_as_often_as_said() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let ms = Duration::from_millis;
        let link = Link { delay: ms(10), jitter: ms(5), loss: 200, duplicate: 100 };
        let mut copies = [0u32; 3];
        for _ in 0..10_000 {
            let arrivals: Vec<_> = link.arrivals(&mut rng).collect();
            assert!(arrivals.iter().all(|time| (ms(10)..ms(15)).contains(time)));
            copies[arrivals.len()] += 1;
        }
        assert!((1_800..2_200).contains(&copies[0]), "{copies:?}");
        assert!((700..900).contains(&copies[2]), "a tenth of those that are not lost: {copies:?}");
    }
}
