//! Links: what each direction does to what passes it, by the impairment machine that the emulation's wire has too.

use ntm_protocol::time::{Duration, Instant};

use crate::impair::{Impairment, Line, Verdict};

/// A link between a host or router and a network.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Link {
    /// From the host towards the network.
    pub up: Impairment,
    /// From the network towards the host.
    pub down: Impairment,
}

impl Link {
    /// A faultless link that takes `delay` each way.
    pub fn of(delay: Duration) -> Self {
        let way = Impairment { delay, ..Impairment::default() };
        Self { up: way, down: way }
    }
}

/// A direction of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Up,
    Down,
}

/// The two lines of a link that is in place.
#[derive(Debug)]
pub(crate) struct Wire {
    up: Line,
    down: Line,
}

impl Wire {
    /// A link on which nothing is under way. Whatever is random comes from `seed`.
    pub(crate) fn new(link: &Link, seed: [u8; 32]) -> Self {
        let mut other = seed;
        // The two directions share nothing.
        other[0] ^= 1;
        Self { up: Line::new(link.up, seed), down: Line::new(link.down, other) }
    }

    /// What it does from now on.
    pub(crate) fn set(&mut self, link: &Link) {
        self.up.set(link.up);
        self.down.set(link.down);
    }

    /// Changes what both directions do.
    pub(crate) fn change(&mut self, change: impl Fn(&mut Impairment)) {
        for line in [&mut self.up, &mut self.down] {
            let mut asked = line.impairment();
            change(&mut asked);
            line.set(asked);
        }
    }

    /// When each copy of a packet of `len` bytes arrives that enters at `now`: none where it is lost.
    pub(crate) fn pass(
        &mut self,
        way: Way,
        len: usize,
        now: Instant,
    ) -> impl Iterator<Item = Instant> + use<> {
        let line = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let (first, copy) = match line.offer(len, now) {
            Verdict::Deliver { at, copy } => (Some(at), copy),
            Verdict::Drop(_) => (None, None),
        };
        first.into_iter().chain(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_does_what_was_asked_of_it() {
        let way = |ms: u64| Impairment { delay: Duration::from_millis(ms), ..Impairment::default() };
        let mut wire = Wire::new(&Link { up: way(1), down: way(2) }, [1; 32]);
        let mut times = |way| wire.pass(way, 100, Instant::ZERO).collect::<Vec<_>>();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert_eq!((times(Way::Up), times(Way::Down)), (vec![at(1)], vec![at(2)]));
        wire.change(|way| way.duplicate = 1.0);
        assert_eq!(wire.pass(Way::Up, 100, at(9)).collect::<Vec<_>>(), [at(10), at(10)]);
        wire.set(&Link { up: Impairment { loss: 1.0, ..way(1) }, ..Link::default() });
        assert_eq!(wire.pass(Way::Up, 100, at(9)).count(), 0);
    }
}
