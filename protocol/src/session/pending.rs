//! Requests that are repeated until they are answered or given up, and how long each waits: the round-trip time, estimated.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::{Duration, Instant};
use crate::wire::RequestId;

/// The round-trip time to a node, estimated after RFC 6298.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// How often the timeout was doubled since the last measurement.
    backoff: u32,
}

impl Rtt {
    /// Before anything was measured.
    const UNKNOWN: Duration = Duration::from_millis(500);
    /// Never repeat earlier: a busy machine answers late, too.
    const LEAST: Duration = Duration::from_millis(40);
    const MOST: Duration = Duration::from_secs(2);

    /// A request was not answered in time. The next waits twice as long, until one is answered that was sent once: else a round trip
    /// longer than the estimate would have every request repeated and so never be measured (RFC 6298, sections 3 and 5.5).
    pub fn timed_out(&mut self) {
        if self.timeout() < Self::MOST {
            self.backoff += 1;
        }
    }

    /// Takes a measurement; only of requests that were sent once (Karn).
    pub fn measured(&mut self, sample: Duration) {
        self.backoff = 0;
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// How long to wait for an answer before the request is repeated.
    pub fn timeout(&self) -> Duration {
        let measured = self.smoothed.map_or(Self::UNKNOWN, |smoothed| {
            (smoothed + (self.variation * 4).max(smoothed)).clamp(Self::LEAST, Self::MOST)
        });
        (measured * 2u32.saturating_pow(self.backoff)).min(Self::MOST)
    }
}

/// How often a request is sent before it is given up; each waits twice as long as the one before, up to two seconds.
pub const ATTEMPTS: u32 = 6;

/// The longest wait before a request is repeated.
const MOST_WAIT: Duration = Duration::from_secs(2);

/// How long a request may be under way before it is given up.
pub const LONGEST: Duration = MOST_WAIT.saturating_mul(ATTEMPTS);

struct Entry<T> {
    what: T,
    due: Instant,
    wait: Duration,
    attempt: u32,
    sent: Instant,
}

/// Requests under way, each repeated with backoff until it is answered or given up.
pub struct Pending<T> {
    entries: BTreeMap<RequestId, Box<Entry<T>>>,
    due: BTreeSet<(Instant, RequestId)>,
}

/// A request whose time is up.
#[derive(Debug, PartialEq, Eq)]
pub enum Expired<T> {
    /// Send it again, for the `attempt`th time.
    Repeat {
        /// The request.
        id: RequestId,
        /// Which sending this is, from 2.
        attempt: u32,
    },
    /// It was never answered.
    GaveUp(RequestId, T),
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<T> Pending<T> {
    /// Notes that the request `id` was sent at `now`; it is due again after `wait`.
    pub fn sent(&mut self, id: RequestId, what: T, now: Instant, wait: Duration) {
        self.answered(id, now);
        let wait = wait.min(MOST_WAIT);
        self.entries.insert(id, Box::new(Entry { what, due: now + wait, wait, attempt: 1, sent: now }));
        self.due.insert((now + wait, id));
    }

    /// The request `id`, which is under way.
    pub fn get(&self, id: RequestId) -> Option<&T> {
        self.entries.get(&id).map(|entry| &entry.what)
    }

    /// Every request under way, by ID.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &T)> {
        self.entries.iter().map(|(id, entry)| (*id, &entry.what))
    }

    /// Takes the request `id` out: it was answered, or is wanted no more. With it comes the round-trip time where it was sent only once.
    pub fn answered(&mut self, id: RequestId, now: Instant) -> Option<(T, Option<Duration>)> {
        let entry = self.entries.remove(&id)?;
        self.due.remove(&(entry.due, id));
        self.let_go();
        Some((entry.what, (entry.attempt == 1).then(|| now.since(entry.sent))))
    }

    /// With nothing under way no room is held either.
    fn let_go(&mut self) {
        if self.entries.is_empty() {
            *self = Self::default();
        }
    }

    /// Makes the request `id` due at `now`.
    pub fn hasten(&mut self, id: RequestId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.due > now
        {
            self.due.remove(&(entry.due, id));
            entry.due = now;
            self.due.insert((now, id));
        }
    }

    /// When the next request is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A request that is due at `now`: call until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<Expired<T>> {
        let &(at, id) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let entry = self.entries.get_mut(&id)?;
        if entry.attempt >= ATTEMPTS {
            let given_up = self.entries.remove(&id).map(|entry| Expired::GaveUp(id, entry.what));
            self.let_go();
            return given_up;
        }
        entry.attempt += 1;
        entry.wait = (entry.wait * 2).min(MOST_WAIT);
        entry.due = now + entry.wait;
        self.due.insert((entry.due, id));
        Some(Expired::Repeat { id, attempt: entry.attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_repeated_with_backoff_and_then_given_up() {
        let mut pending = Pending::default();
        let (start, wait) = (Instant::from_nanos(1_000), Duration::from_millis(10));
        pending.sent(RequestId(1), 'x', start, wait);
        let mut times = Vec::new();
        while let Some(at) = pending.poll_timeout() {
            assert_eq!(pending.expired(Instant::from_nanos(at.as_nanos() - 1)), None, "exact");
            times.push(at.since(start).as_millis());
            match pending.expired(at) {
                Some(Expired::Repeat { .. }) => {}
                other => assert_eq!(other, Some(Expired::GaveUp(RequestId(1), 'x'))),
            }
        }
        assert_eq!(times, [10, 30, 70, 150, 310, 630]);
    }

    #[test]
    fn only_a_first_sending_measures_the_round_trip() {
        let mut pending = Pending::default();
        let (start, wait) = (Instant::ZERO, Duration::from_millis(10));
        pending.sent(RequestId(1), (), start, wait);
        pending.sent(RequestId(2), (), start, wait);
        let late = start + Duration::from_millis(3);
        assert_eq!(pending.answered(RequestId(1), late), Some(((), Some(Duration::from_millis(3)))));
        assert!(pending.expired(start + wait).is_some());
        assert_eq!(pending.answered(RequestId(2), start + wait), Some(((), None)));
        assert_eq!(pending.poll_timeout(), None);
    }

    #[test]
    fn the_timeout_follows_the_round_trip() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), Rtt::UNKNOWN);
        for _ in 0..50 {
            rtt.measured(Duration::from_millis(100));
        }
        assert!((200..=260).contains(&rtt.timeout().as_millis()), "{:?}", rtt.timeout());
    }

    /// A round trip longer than the first timeout is found out all the same.
    #[test]
    fn a_long_round_trip_is_measured_in_the_end() {
        let (mut rtt, mut pending, truth) = (Rtt::default(), Pending::default(), Duration::from_millis(1500));
        let mut now = Instant::ZERO;
        for n in 1..=8 {
            pending.sent(RequestId(n), (), now, rtt.timeout());
            let answered = now + truth;
            while let Some(at) = pending.poll_timeout().filter(|at| *at < answered) {
                if let Some(Expired::Repeat { attempt: 2, .. }) = pending.expired(at) {
                    rtt.timed_out();
                }
            }
            if let Some(((), Some(sample))) = pending.answered(RequestId(n), answered) {
                rtt.measured(sample);
            }
            now = answered;
        }
        assert_eq!(rtt.smoothed, Some(truth));
        assert!(rtt.timeout() > truth);
    }

    #[test]
    fn no_wait_grows_without_bound() {
        let mut pending = Pending::default();
        pending.sent(RequestId(1), (), Instant::ZERO, Duration::from_secs(9));
        while let Some(at) = pending.poll_timeout() {
            pending.expired(at);
            assert!(pending.poll_timeout().is_none_or(|next| next - at <= MOST_WAIT));
        }
    }
}
