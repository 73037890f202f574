//! What iperf3's tests by TCP and by UDP have in common.

use ntm_protocol::time::{Duration, Instant};

/// How often a sender at a rate looks whether it may go on.
pub(super) const PACE: Duration = Duration::from_millis(1);
/// Beyond its time a test counts as broken after this.
pub(super) const GRACE: Duration = Duration::from_secs(12);
/// The control connection needs little, in bytes.
pub(super) const CONTROL: usize = 4096;
/// The length of the stretches that the receiver counts in.
const STRETCH: Duration = Duration::from_millis(100);

/// How many blocks of so many bytes may have been given by `now` at a rate in bits a second: one is when those before it are within the rate.
pub(super) fn paced(rate: u64, block: u64, since: Instant, now: Instant) -> u64 {
    let nanos = u128::from(now.since(since).as_nanos() as u64);
    let bytes = (u128::from(rate) * nanos / 8_000_000_000) as u64;
    bytes / block + 1
}

/// When a sender that looks at `now`, and every [`PACE`] from then on, first sees that another block is within the rate. It need not look before: what its sockets
/// do not take now they take when they have something to tell.
pub(super) fn next(rate: u64, block: u64, since: Instant, now: Instant) -> Instant {
    let bytes = u128::from(paced(rate, block, since, now)) * u128::from(block);
    let nanos = (bytes * 8_000_000_000).div_ceil(u128::from(rate));
    let waits = nanos.saturating_sub(now.since(since).as_nanos());
    let looks = waits.div_ceil(PACE.as_nanos()).max(1);
    now + PACE * u32::try_from(looks).unwrap_or(u32::MAX)
}

/// What a receiver got in each stretch of the time that is measured.
pub(super) struct Stretches {
    omit: Duration,
    duration: Duration,
    got: Vec<u64>,
}

impl Stretches {
    pub(super) fn new(omit: Duration, duration: Duration) -> Self {
        Self { omit, duration, got: Vec::new() }
    }

    /// The receiver, which began at `since`, got so many bytes.
    pub(super) fn count(&mut self, since: Instant, now: Instant, bytes: u64) {
        let measured = since + self.omit;
        if now < measured || bytes == 0 {
            return;
        }
        let at = ((now.since(measured).as_nanos() / STRETCH.as_nanos()) as usize)
            .min(self.whole().saturating_sub(1));
        if self.got.len() <= at {
            self.got.resize(at + 1, 0);
        }
        self.got[at] += bytes;
    }

    /// How many stretches there are in all.
    fn whole(&self) -> usize {
        (self.duration.as_nanos() / STRETCH.as_nanos()) as usize
    }

    /// What was counted, up to the end where the test came so far.
    pub(super) fn told(&self, whole: bool) -> Vec<u64> {
        let mut got = self.got.clone();
        if whole {
            got.resize(self.whole(), 0);
        }
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_looks_again_when_another_block_is_within_the_rate_and_not_before() {
        let since = Instant::from_nanos(1_234_567);
        for (rate, block) in [(256_000, 128 << 10), (8_000_000, 1000), (3_000_001, 1448), (1 << 40, 1)] {
            for after in [0, 1, 999_999, 1_000_000, 5_000_001, 4_096_000_000] {
                let now = since + Duration::from_nanos(after);
                let given = paced(rate, block, since, now);
                let mut looks = (1..).map(|looks| now + PACE * looks);
                let first = looks.find(|look| paced(rate, block, since, *look) > given);
                assert_eq!(Some(next(rate, block, since, now)), first, "{rate} {block} {after}");
            }
        }
    }
}
