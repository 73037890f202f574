//! Time and entropy of the real machine: the values that the pure crates are handed.

use std::future;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use ntm_protocol::time::Instant;

/// The present instant of CLOCK_MONOTONIC, the one clock of all namespaces of a machine.
pub fn now() -> Instant {
    // CLOCK_MONOTONIC exists on every Linux, and the only other error is a bad pointer.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC can be read");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// Waits until `at`; for ever if there is no instant to wait for. So it reads `sleep_until(machine.poll_timeout())`.
///
/// It never wakes early; it may wake a millisecond late, which is the resolution of tokio's timers.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => {
            let left = at.since(now());
            if left > Duration::ZERO {
                tokio::time::sleep(left).await;
            }
        }
        None => future::pending().await,
    }
}

/// The wall clock in microseconds since 1970-01-01 UTC; 0 before that.
pub fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Thirty-two bytes of the operating system's entropy: the seed handed to a machine's constructor.
///
/// # Panics
/// Where the kernel gives no entropy: nothing secret could be made then.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the kernel gives entropy");
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_one_that_std_reads() {
        let read = std::time::Instant::now;
        let (before_start, start, after_start) = (read(), now(), read());
        std::thread::sleep(Duration::from_millis(2));
        let (before_end, end, after_end) = (read(), now(), read());
        assert!(end.since(start) >= before_end - after_start, "{start:?} to {end:?}");
        assert!(end.since(start) <= after_end - before_start, "{start:?} to {end:?}");
    }

    #[test]
    fn the_wall_clock_is_in_microseconds() {
        let year_2020 = 1_577_836_800_000_000;
        let year_2200 = 7_258_118_400_000_000;
        assert!((year_2020..year_2200).contains(&wall_micros()));
    }

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed(), seed());
    }

    #[tokio::test]
    async fn sleeping_never_ends_early() {
        let at = now() + Duration::from_micros(2_500);
        sleep_until(Some(at)).await;
        assert!(now() >= at);
        sleep_until(Some(at)).await;
    }
}
