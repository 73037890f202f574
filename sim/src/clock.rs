//! A host's own clock: it begins somewhere else than the world's, and runs at a rate of its own. Machines are handed its time and no
//! other, so nothing that they do may need two hosts' clocks to agree.

use ntm_protocol::time::{Duration, Instant};

/// Parts in a whole, where rates are in parts per million.
const MILLION: i128 = 1_000_000;

/// A clock. The one by default is the world's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    /// What it shows as the world begins.
    pub offset: Duration,
    /// How much it gains, in parts per million of the world's time; negative where it loses.
    pub drift: i32,
}

impl Clock {
    /// What it shows at `at` of the world's time.
    pub fn shows(self, at: Instant) -> Instant {
        let passed = i128::from(at.as_nanos());
        let gained = (passed * i128::from(self.drift)).div_euclid(MILLION);
        Instant::from_nanos(u64::try_from(passed + gained).unwrap_or(u64::MAX)) + self.offset
    }

    /// The first moment of the world's time at which it shows `shown` or more.
    pub fn reaches(self, shown: Instant) -> Instant {
        if self == Self::default() {
            return shown;
        }
        let own = i128::from(shown.since(Instant::ZERO + self.offset).as_nanos() as u64);
        let near = own * MILLION / (MILLION + i128::from(self.drift));
        let mut at = Instant::from_nanos(u64::try_from(near - 2).unwrap_or(0));
        while self.shows(at) < shown && at < Instant::from_nanos(u64::MAX) {
            at += Duration::from_nanos(1);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_gains_what_it_is_said_to() {
        let clock = Clock { offset: Duration::from_secs(7), drift: 100 };
        let minute = Instant::ZERO + Duration::from_secs(60);
        assert_eq!(clock.shows(minute), minute + Duration::from_secs(7) + Duration::from_millis(6));
        assert_eq!(Clock::default().shows(minute), minute);
    }

    /// A machine is woken when its clock has reached what it asked for, and not a nanosecond before or after.
    #[test]
    fn who_is_woken_is_woken_in_time() {
        for drift in [-100, -37, 0, 1, 100] {
            let clock = Clock { offset: Duration::from_nanos(123_456_789), drift };
            for n in 0..2_000u64 {
                let shown = Instant::ZERO + clock.offset + Duration::from_nanos(n.pow(4) + n);
                let at = clock.reaches(shown);
                assert!(clock.shows(at) >= shown);
                let before = at.as_nanos().checked_sub(1).map(Instant::from_nanos);
                assert!(before.is_none_or(|before| clock.shows(before) < shown), "{clock:?} {shown:?}");
            }
        }
    }
}
