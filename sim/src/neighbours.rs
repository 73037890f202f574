//! What a kernel does before it sends the first packet to a neighbour: it asks for the neighbour's hardware address (RFC 826, RFC 4861), which takes a round trip over the
//! links of both, and packets for that neighbour wait meanwhile. The one that was asked knows the one that asked.

use std::collections::BTreeMap;

use ntm_protocol::time::{Duration, Instant};

/// Who knows whom since when, in which network.
pub(crate) struct Neighbours<N, A> {
    known: BTreeMap<(N, A, A), Instant>,
}

impl<N, A> Default for Neighbours<N, A> {
    fn default() -> Self {
        Self { known: BTreeMap::new() }
    }
}

impl<N: Ord + Copy, A: Ord + Copy> Neighbours<N, A> {
    /// When `from` can send to `to`, if it wants to at `now` and asking takes `round_trip`.
    pub(crate) fn ready(
        &mut self,
        network: N,
        (from, to): (A, A),
        round_trip: impl FnOnce() -> Duration,
        now: Instant,
    ) -> Instant {
        let pair = if from <= to { (network, from, to) } else { (network, to, from) };
        let since = *self.known.entry(pair).or_insert_with(|| now + round_trip());
        since.max(now)
    }

    /// Whoever was `gone` is there no more: nobody knows it.
    pub(crate) fn forget(&mut self, network: N, gone: A) {
        self.known.retain(|(at, a, b), _| *at != network || (*a != gone && *b != gone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_asked_for_once_and_again_where_one_has_left() {
        let mut neighbours: Neighbours<u8, char> = Neighbours::default();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let trip = || Duration::from_millis(10);
        assert_eq!(neighbours.ready(0, ('b', 'a'), trip, at(1)), at(11));
        assert_eq!(neighbours.ready(0, ('b', 'a'), trip, at(5)), at(11), "it waits for the same answer");
        assert_eq!(neighbours.ready(0, ('a', 'b'), trip, at(12)), at(12), "who was asked knows who asked");
        assert_eq!(neighbours.ready(1, ('a', 'b'), trip, at(12)), at(22), "in another network");
        neighbours.forget(0, 'a');
        assert_eq!(neighbours.ready(0, ('a', 'b'), trip, at(20)), at(30));
        assert_eq!(neighbours.ready(1, ('a', 'b'), trip, at(23)), at(23));
    }
}
