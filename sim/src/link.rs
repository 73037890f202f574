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

/// A link that is in place: its two directions, and what whatever is random comes from.
#[derive(Debug)]
pub(crate) struct Wire {
    up: Direction,
    down: Direction,
    seed: [u8; 32],
}

/// A direction of a link that is in place. Of those that do nothing but take time there may be millions: they are no [`Line`] until more is
/// asked of them, and tell the same.
#[derive(Debug)]
enum Direction {
    Plain { delay: Duration, newest: Instant },
    Line(Box<Line>),
}

impl Direction {
    fn new(asked: Impairment, seed: [u8; 32]) -> Self {
        let mut new = Self::Plain { delay: Duration::ZERO, newest: Instant::ZERO };
        new.set(asked, seed);
        new
    }

    fn impairment(&self) -> Impairment {
        match self {
            Self::Plain { delay, .. } => Impairment { delay: *delay, ..Impairment::default() },
            Self::Line(line) => line.impairment(),
        }
    }

    fn set(&mut self, asked: Impairment, seed: [u8; 32]) {
        match self {
            Self::Plain { delay, .. }
                if asked == (Impairment { delay: asked.delay, ..Impairment::default() }) =>
            {
                *delay = asked.delay;
            }
            Self::Plain { newest, .. } => *self = Self::Line(Box::new(Line::after(asked, seed, *newest))),
            Self::Line(line) => line.set(asked),
        }
    }

    fn offer(&mut self, len: usize, now: Instant) -> Verdict {
        match self {
            Self::Plain { delay, newest } => {
                *newest = (*newest).max(now + *delay);
                Verdict::Deliver { at: *newest, copy: None }
            }
            Self::Line(line) => line.offer(len, now),
        }
    }
}

impl Wire {
    /// A link on which nothing is under way. Whatever is random comes from `seed`.
    pub(crate) fn new(link: &Link, seed: [u8; 32]) -> Self {
        Self { up: Direction::new(link.up, seed), down: Direction::new(link.down, other(seed)), seed }
    }

    /// What it takes there and back.
    pub(crate) fn round_trip(&self) -> Duration {
        self.up.impairment().delay + self.down.impairment().delay
    }

    /// What it does from now on.
    pub(crate) fn set(&mut self, link: &Link) {
        self.up.set(link.up, self.seed);
        self.down.set(link.down, other(self.seed));
    }

    /// Changes what both directions do.
    pub(crate) fn change(&mut self, change: impl Fn(&mut Impairment)) {
        for (direction, seed) in [(&mut self.up, self.seed), (&mut self.down, other(self.seed))] {
            let mut asked = direction.impairment();
            change(&mut asked);
            direction.set(asked, seed);
        }
    }

    /// When each copy of a packet arrives that enters at `now` in pieces of these lengths: none where one of them is lost, and with the last of them.
    pub(crate) fn pass<P: Iterator<Item = usize>>(
        &mut self,
        way: Way,
        pieces: P,
        now: Instant,
    ) -> impl Iterator<Item = Instant> + use<P> {
        let line = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let each = |len| match line.offer(len, now) {
            Verdict::Deliver { at, copy } => (Some(at), copy),
            Verdict::Drop(_) => (None, None),
        };
        // A packet of which one piece came twice came once.
        let both = |(one, _): (Option<Instant>, _), (other, _)| {
            (one.zip(other).map(|(one, other): (Instant, Instant)| one.max(other)), None)
        };
        let (first, copy) = pieces.map(each).reduce(both).unwrap_or_default();
        first.into_iter().chain(copy)
    }
}

/// The seed of the other direction: the two share nothing.
fn other(mut seed: [u8; 32]) -> [u8; 32] {
    seed[0] ^= 1;
    seed
}

#[cfg(test)]
mod tests {
    use std::iter::once;
    use std::num::NonZero;

    use super::*;

    #[test]
    fn each_direction_does_what_was_asked_of_it() {
        let way = |ms: u64| Impairment { delay: Duration::from_millis(ms), ..Impairment::default() };
        let mut wire = Wire::new(&Link { up: way(1), down: way(2) }, [1; 32]);
        let mut times = |way| wire.pass(way, once(100), Instant::ZERO).collect::<Vec<_>>();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert_eq!((times(Way::Up), times(Way::Down)), (vec![at(1)], vec![at(2)]));
        wire.change(|way| way.duplicate = 1.0);
        assert_eq!(wire.pass(Way::Up, once(100), at(9)).collect::<Vec<_>>(), [at(10), at(10)]);
        wire.set(&Link { up: Impairment { loss: 1.0, ..way(1) }, ..Link::default() });
        assert_eq!(wire.pass(Way::Up, once(100), at(9)).count(), 0);
    }

    #[test]
    fn a_packet_in_pieces_is_there_with_the_last_of_them_or_not_at_all() {
        let slow = Impairment { rate: NonZero::new(8_000_000), ..Impairment::default() };
        let mut wire = Wire::new(&Link { up: slow, down: slow }, [1; 32]);
        let took = wire.pass(Way::Up, [1000, 1000, 500].into_iter(), Instant::ZERO).collect::<Vec<_>>();
        assert_eq!(took, [Instant::from_nanos(2_500_000)]);
        let lossy = Impairment { loss: 0.5, ..Impairment::default() };
        let mut wire = Wire::new(&Link { up: lossy, down: lossy }, [1; 32]);
        let came = (0..1000).filter(|_| wire.pass(Way::Up, [9; 3].into_iter(), Instant::ZERO).count() == 1);
        assert!((90..160).contains(&came.count()), "an eighth");
    }

    /// Faultless or not, before the change and after it: a wire does what two lines do.
    #[test]
    fn a_wire_that_only_takes_time_tells_what_a_line_tells() {
        let way = |ms: u64| Impairment { delay: Duration::from_millis(ms), ..Impairment::default() };
        let lossy = Impairment { loss: 0.3, jitter: Duration::from_millis(1), ..way(4) };
        let (mut wire, mut line) =
            (Wire::new(&Link { up: way(7), down: way(2) }, [1; 32]), Line::new(way(7), [1; 32]));
        let mut lost = 0;
        for n in 0..400 {
            let asked = [way(7), way(3), lossy, way(5)][n / 100];
            wire.set(&Link { up: asked, down: way(2) });
            line.set(asked);
            let now = Instant::from_nanos(n as u64 * 700_000);
            let expected: Vec<_> = match line.offer(100, now) {
                Verdict::Deliver { at, copy } => [at].into_iter().chain(copy).collect(),
                Verdict::Drop(_) => Vec::new(),
            };
            lost += usize::from(expected.is_empty());
            assert_eq!(wire.pass(Way::Up, once(100), now).collect::<Vec<_>>(), expected, "packet {n}");
        }
        assert!((10..60).contains(&lost), "{lost}");
    }
}
