//! The frames under way, and how long to doze until the next is due. PURE.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ntm_protocol::time::{Duration, Instant};

/// At most this many bytes are under way in one direction: a tenth of a second at 5 Gbit/s.
pub(super) const MOST: usize = 64 << 20;

/// A frame under way.
#[derive(Debug)]
pub(super) struct Frame {
    /// When it is due at the other end.
    pub(super) at: Instant,
    /// When it entered.
    pub(super) entered: Instant,
    /// When it was sent whole, behind those that waited before it. Not of one that comes twice.
    pub(super) sent: Option<Instant>,
    /// Which direction it travels.
    pub(super) direction: usize,
    /// Packets in it, and their bytes on the wire.
    pub(super) packets: u64,
    pub(super) length: usize,
    /// The kernel's note and the frame.
    pub(super) bytes: Box<[u8]>,
}

/// All frames under way, by the time they are due; those due at once, as they were put in.
#[derive(Default)]
pub(super) struct Transit {
    heap: BinaryHeap<Reverse<Item>>,
    next: u64,
    /// Bytes under way, by direction.
    weight: Vec<usize>,
}

struct Item {
    key: (Instant, u64),
    frame: Frame,
}

impl Transit {
    pub(super) fn new(directions: usize) -> Self {
        Self { weight: vec![0; directions], ..Self::default() }
    }

    /// Takes a frame, or gives it back if there is no room for it.
    pub(super) fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        let Some(weight) = self.weight.get_mut(frame.direction) else { return Err(frame) };
        if *weight + frame.bytes.len() > MOST {
            return Err(frame);
        }
        *weight += frame.bytes.len();
        self.heap.push(Reverse(Item { key: (frame.at, self.next), frame }));
        self.next += 1;
        Ok(())
    }

    /// When the next frame is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|item| item.0.frame.at)
    }

    /// Moves the frames due at `now` to `out`, at most `most` of them and all of one direction.
    pub(super) fn take_due(&mut self, now: Instant, most: usize, out: &mut Vec<Frame>) {
        out.clear();
        while out.len() < most
            && let Some(Reverse(item)) = self.heap.peek()
            && item.frame.at <= now
            && out.first().is_none_or(|first| first.direction == item.frame.direction)
            && let Some(Reverse(item)) = self.heap.pop()
        {
            self.weight[item.frame.direction] -= item.frame.bytes.len();
            out.push(item.frame);
        }
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Item {}

/// How to wait for the next frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doze {
    /// Until something comes in.
    Idle,
    /// Until then.
    Until(Instant),
    /// Not at all: look at the clock again.
    Spin,
}

/// A sleeper is woken late, by up to this much on an idle machine. So it sets its alarm early and watches the clock for the rest.
const SPIN: Duration = Duration::from_micros(80);
/// Without credit for watching, it sleeps at least this long: frames due closer together go together.
const GRAIN: Duration = Duration::from_micros(40);
/// One nanosecond in this many may be spent watching the clock, ...
const SHARE: u64 = 12;
/// ... and this much can be saved up for it.
const SAVED: Duration = Duration::from_millis(1);

/// Decides how to wait, and holds the time spent watching the clock to its share: a busy link must not eat a processor.
#[derive(Debug)]
pub(super) struct Dozer {
    now: Instant,
    spinning: bool,
    /// Nanoseconds that may be spent.
    credit: u64,
}

impl Dozer {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, spinning: false, credit: SAVED.as_nanos() as u64 }
    }

    /// How to wait at `now` for a frame due at `next`.
    pub(super) fn doze(&mut self, next: Option<Instant>, now: Instant) -> Doze {
        let passed = now.since(self.now).as_nanos() as u64;
        self.now = now;
        self.credit = match self.spinning {
            true => self.credit.saturating_sub(passed),
            false => (self.credit + passed / SHARE).min(SAVED.as_nanos() as u64),
        };
        let may_spin = self.credit >= SPIN.as_nanos() as u64 || (self.spinning && self.credit > 0);
        let doze = match next {
            None => Doze::Idle,
            Some(at) if at <= now => Doze::Spin,
            Some(at) if !may_spin => Doze::Until(at.max(now + GRAIN)),
            Some(at) if at.since(now) <= SPIN => Doze::Spin,
            Some(at) => Doze::Until(Instant::from_nanos(at.as_nanos() - SPIN.as_nanos() as u64)),
        };
        // What is due already is work, not watching.
        self.spinning = doze == Doze::Spin && next.is_some_and(|at| at > now);
        doze
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    fn frame(due: u64, direction: usize, tag: u8) -> Frame {
        let (at, entered) = (at(due), at(0));
        Frame { at, entered, sent: None, direction, packets: 1, length: 1, bytes: Box::new([tag]) }
    }

    #[test]
    fn frames_leave_when_due_and_in_order() {
        let mut transit = Transit::new(2);
        for (due, direction, tag) in [(20, 0, 3), (10, 0, 1), (10, 0, 2), (15, 1, 9), (30, 0, 4)] {
            transit.push(frame(due, direction, tag)).unwrap();
        }
        assert_eq!(transit.next(), Some(at(10)));
        let mut take = |now| {
            let mut out = Vec::new();
            transit.take_due(at(now), 8, &mut out);
            out.iter().map(|frame| frame.bytes[0]).collect::<Vec<_>>()
        };
        assert!(take(9).is_empty());
        assert_eq!(take(25), [1, 2], "one direction at a time");
        assert_eq!(take(25), [9]);
        assert_eq!(take(25), [3]);
        assert!(take(25).is_empty());
        assert_eq!(take(30), [4]);
    }

    #[test]
    fn each_direction_has_room_of_its_own() {
        let mut transit = Transit::new(2);
        let big = |direction| Frame { bytes: vec![0; MOST / 2].into(), ..frame(1, direction, 0) };
        assert!(transit.push(big(0)).is_ok() && transit.push(big(0)).is_ok());
        assert!(transit.push(frame(1, 0, 0)).is_err() && transit.push(frame(1, 1, 0)).is_ok());
        let mut out = Vec::new();
        transit.take_due(at(1), 1, &mut out);
        assert!(transit.push(frame(1, 0, 0)).is_ok(), "what left makes room");
    }

    #[test]
    fn a_rare_frame_is_met_by_watching_the_clock() {
        let mut dozer = Dozer::new(at(0));
        assert_eq!(dozer.doze(None, at(0)), Doze::Idle);
        assert_eq!(dozer.doze(Some(at(4000)), at(0)), Doze::Until(at(3920)));
        assert_eq!(dozer.doze(Some(at(4000)), at(3930)), Doze::Spin);
        assert_eq!(dozer.doze(Some(at(4000)), at(3990)), Doze::Spin);
        assert_eq!(dozer.doze(Some(at(4000)), at(4000)), Doze::Spin, "it is due");
    }

    #[test]
    fn a_busy_link_sleeps_all_but_its_share() {
        // A frame every 50 µs for a second; sleeping is exact here.
        let mut dozer = Dozer::new(at(0));
        let (mut now, mut spun, mut turns) = (0, 0, 0);
        while now < 1_000_000 {
            let due = (now / 50 + 1) * 50;
            match dozer.doze(Some(at(due)), at(now)) {
                Doze::Spin => {
                    spun += 1;
                    now += 1;
                }
                Doze::Until(until) => now = now.max(until.as_nanos() / 1000),
                Doze::Idle => panic!("a frame is due"),
            }
            turns += 1;
            assert!(turns < 1_000_000, "it does not get on");
        }
        assert!((40_000..100_000).contains(&spun), "{spun} µs of a second were spent watching");
    }
}
