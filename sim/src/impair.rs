//! What one direction of a link does to packets: rate, delay, jitter, loss, duplication, reordering.
//!
//! PURE: the simulation asks a [`Line`] when a packet of virtual time arrives; the harness's wire asks the same machine about real
//! packets, on kernels without netem. Whoever asks holds the packets; the machine only says what becomes of each.
//!
//! ```
//! use ntm_protocol::time::{Duration, Instant};
//! use ntm_sim::impair::{Impairment, Line, Verdict};
//!
//! let asked = Impairment { delay: Duration::from_millis(4), ..Impairment::default() };
//! let mut line = Line::new(asked, [7; 32]);
//! let at = Instant::from_nanos(4_000_000);
//! assert_eq!(line.offer(1500, Instant::ZERO), Verdict::Deliver { at, copy: None });
//! ```
//!
//! # The way of a packet
//!
//! 1. It waits its turn: packets leave one after another, each taking its length at the link's rate. What would wait behind more than
//!    `Impairment::limit` is dropped at once, as by a router with a full queue.
//! 2. It is lost, or not. What is lost had its turn: a broken frame occupies the air too.
//! 3. It travels for the delay and the jitter of that moment.
//!
//! # Order
//!
//! A link keeps its packets' order, as Ethernet and Wi-Fi do, and netem with jitter does not. That has a price: if each packet had a
//! jitter of its own, the slow ones would hold up all behind them, and the delay of a busy link would creep up by twice the jitter.
//! So the jitter is a quantity of the link, not of the packet: it is distributed normally, as netem's is, but wanders. Packets
//! much closer together than [`WANDER`] times the jitter see nearly the same, packets much further apart see independent ones.
//! Reordering is asked for by [`Impairment::reorder`], and means what it means to netem.

use std::num::NonZeroU64;

use ntm_protocol::time::{Duration, Instant};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// Over this many times its own size the jitter loses its memory.
pub const WANDER: u32 = 10;
/// A queue holds what the rate carries in this time, as an access point's does, ...
const PATIENCE: Duration = Duration::from_millis(50);
/// ... but at least this many bytes.
const LEAST_LIMIT: u64 = 64_000;

const NANOS: u128 = 1_000_000_000;

/// What one direction of a link does to packets. The default does nothing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Impairment {
    /// Bits per second; without one, packets take no time to send.
    pub rate: Option<NonZeroU64>,
    /// The time a packet travels, after it was sent whole.
    pub delay: Duration,
    /// The standard deviation of that time. A packet never arrives before it was sent, so that where the delay is less than about
    /// three times the jitter, the distribution is cut off at zero.
    pub jitter: Duration,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
    /// The share of packets that comes twice, 0 to 1. The copy takes a turn of its own behind the packet.
    pub duplicate: f64,
    /// The share of packets that arrive without delay and jitter, 0 to 1, and so overtake those under way.
    pub reorder: f64,
    /// How many bytes may wait for their turn. Without it: what the rate carries in 50 ms, but at least 64 kB. Without a
    /// rate nothing waits.
    pub limit: Option<u64>,
}

impl Impairment {
    /// Whether packets pass at once and untouched.
    pub fn does_nothing(&self) -> bool {
        self.rate.is_none()
            && self.delay.is_zero()
            && self.jitter.is_zero()
            && [self.loss, self.duplicate, self.reorder].iter().all(|share| *share <= 0.0)
    }

    /// How many bytes may wait behind the rate `rate`.
    fn limit(&self, rate: NonZeroU64) -> u64 {
        self.limit.unwrap_or_else(|| {
            let bytes = u128::from(rate.get()) * PATIENCE.as_nanos() / (8 * NANOS);
            u64::try_from(bytes).unwrap_or(u64::MAX).max(LEAST_LIMIT)
        })
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When; never before it was offered.
        at: Instant,
        /// When it arrives a second time, if it does; not before `at`.
        copy: Option<Instant>,
    },
    /// It never arrives.
    Drop(Reason),
}

/// Why a packet never arrives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// It was lost on the way.
    Loss,
    /// Too much was waiting before it.
    Queue,
}

/// What a line did so far, in packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Offered.
    pub offered: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Dropped because too much was waiting.
    pub dropped: u64,
    /// Come twice.
    pub duplicated: u64,
    /// Sent ahead without delay.
    pub reordered: u64,
}

/// One direction of a link. Equal seeds and equal offers give equal verdicts, on every machine.
#[derive(Clone, Debug)]
pub struct Line {
    asked: Impairment,
    rng: ChaCha12Rng,
    /// The newest offer: time does not go back.
    now: Instant,
    /// When all that was accepted so far has been sent, and the rest of the division that led there.
    free: Instant,
    rest: u128,
    /// The newest arrival of a packet in order.
    newest: Instant,
    sway: Option<Sway>,
    counts: Counts,
}

/// The jitter at a moment, in standard deviations.
#[derive(Clone, Copy, Debug)]
struct Sway {
    at: Instant,
    value: f64,
}

impl Line {
    /// A line on which nothing is under way. Whatever is random comes from `seed`.
    pub fn new(asked: Impairment, seed: [u8; 32]) -> Self {
        Self {
            asked,
            rng: ChaCha12Rng::from_seed(seed),
            now: Instant::ZERO,
            free: Instant::ZERO,
            rest: 0,
            newest: Instant::ZERO,
            sway: None,
            counts: Counts::default(),
        }
    }

    /// A line that did nothing so far but take time, and whose newest packet arrives at `newest`.
    pub(crate) fn after(asked: Impairment, seed: [u8; 32], newest: Instant) -> Self {
        Self { newest, ..Self::new(asked, seed) }
    }

    /// What it does to packets.
    pub fn impairment(&self) -> Impairment {
        self.asked
    }

    /// Does `asked` to packets from now on. Those under way arrive as they were told, and before those behind them.
    pub fn set(&mut self, asked: Impairment) {
        if self.asked.rate != asked.rate {
            self.rest = 0;
        }
        self.asked = asked;
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When all that was offered so far has been sent whole: from then on the packet offered last travels.
    pub fn sent(&self) -> Instant {
        if self.asked.rate.is_some() { self.free.max(self.now) } else { self.now }
    }

    /// A packet of `len` bytes enters at `now`. A `now` before that of an earlier offer counts as that.
    pub fn offer(&mut self, len: usize, now: Instant) -> Verdict {
        self.now = self.now.max(now);
        self.counts.offered += 1;
        if !self.has_room(len) {
            self.counts.dropped += 1;
            return Verdict::Drop(Reason::Queue);
        }
        let sent = self.send(len);
        if self.happens(self.asked.loss) {
            self.counts.lost += 1;
            return Verdict::Drop(Reason::Loss);
        }
        let at = self.arrival(sent);
        let twice = self.happens(self.asked.duplicate) && self.has_room(len);
        let copy = twice.then(|| {
            self.counts.duplicated += 1;
            let sent = self.send(len);
            self.arrival(sent).max(at)
        });
        Verdict::Deliver { at, copy }
    }

    /// A packet that finds nothing before it always has room.
    fn has_room(&self, len: usize) -> bool {
        let Some(rate) = self.asked.rate else { return true };
        let waiting = self.free.since(self.now).as_nanos() * u128::from(rate.get()) / (8 * NANOS);
        waiting == 0 || waiting + len as u128 <= u128::from(self.asked.limit(rate))
    }

    /// Takes a packet's turn; says when it has been sent whole.
    fn send(&mut self, len: usize) -> Instant {
        let Some(rate) = self.asked.rate else { return self.now };
        if self.free <= self.now {
            self.free = self.now;
            self.rest = 0;
        }
        // The rest is carried on, or a rate whose packets take no whole nanoseconds would not be met.
        let rate = u128::from(rate.get());
        let work = len as u128 * 8 * NANOS + self.rest;
        self.rest = work % rate;
        self.free += Duration::from_nanos(u64::try_from(work / rate).unwrap_or(u64::MAX));
        self.free
    }

    /// When a packet arrives that was sent whole at `sent`.
    fn arrival(&mut self, sent: Instant) -> Instant {
        if self.happens(self.asked.reorder) {
            self.counts.reordered += 1;
            return sent;
        }
        let jitter =
            if self.asked.jitter.is_zero() { 0.0 } else { nanos(self.asked.jitter) * self.sway(sent) };
        // A float turned into an integer is cut at zero.
        let travel = Duration::from_nanos((nanos(self.asked.delay) + jitter) as u64);
        self.newest = self.newest.max(sent + travel);
        self.newest
    }

    /// The jitter for a packet sent at `at`: an autoregressive walk whose every value is distributed as the first is.
    fn sway(&mut self, at: Instant) -> f64 {
        let fresh = normal(&mut self.rng);
        let value = match self.sway {
            None => fresh,
            Some(last) => {
                // Sums, products and roots alone are the same on every machine; an exponential is not.
                let memory = nanos(self.asked.jitter) * f64::from(WANDER);
                let kept = memory / (memory + nanos(at.since(last.at)));
                kept * last.value + (1.0 - kept * kept).sqrt() * fresh
            }
        };
        self.sway = Some(Sway { at, value });
        value
    }

    /// Nothing random is drawn for what cannot happen, so that one impairment does not change another's course.
    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && uniform(&mut self.rng) < share
    }
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// From 0 to 1, without 1.
fn uniform(rng: &mut impl Rng) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (rng.next_u64() >> (64 - BITS)) as f64 / (1u64 << BITS) as f64
}

/// Normally distributed, mean 0, standard deviation 1: the sum of twelve uniform numbers (Irwin and Hall), which needs no function
/// that differs between machines. Never beyond ±6.
fn normal(rng: &mut impl Rng) -> f64 {
    const STEPS: f64 = (1 << 16) as f64;
    let quarter = |word: u64| (0..4).map(|n| (word >> (16 * n)) as u16).map(f64::from).sum::<f64>() + 2.0;
    let sum: f64 = (0..3).map(|_| quarter(rng.next_u64())).sum();
    sum / STEPS - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const FULL: usize = 1514;

    fn mbit(rate: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rate * 1_000_000)
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn line(asked: Impairment) -> Line {
        Line::new(asked, [3; 32])
    }

    fn arrival(verdict: Verdict) -> Option<Instant> {
        match verdict {
            Verdict::Deliver { at, .. } => Some(at),
            Verdict::Drop(_) => None,
        }
    }

    /// The delays of `count` packets, one every `gap` nanoseconds, sorted; none may be dropped.
    fn delays(asked: Impairment, count: u64, gap: u64) -> Vec<u64> {
        let mut line = line(asked);
        let mut delays: Vec<u64> = (0..count)
            .map(|n| at(n * gap))
            .map(|now| arrival(line.offer(64, now)).expect("nothing is dropped").since(now).as_nanos() as u64)
            .collect();
        delays.sort_unstable();
        delays
    }

    fn quantile(sorted: &[u64], share: f64) -> f64 {
        sorted[(sorted.len() as f64 * share) as usize] as f64 / MS as f64
    }

    fn near(value: f64, wanted: f64, by: f64) {
        assert!((value - wanted).abs() <= by, "{value} is not {wanted} ± {by}");
    }

    #[test]
    fn nothing_asked_nothing_done() {
        let mut line = line(Impairment::default());
        assert!(line.impairment().does_nothing());
        for now in [0, 5, 5, 9].map(at) {
            assert_eq!(line.offer(FULL, now), Verdict::Deliver { at: now, copy: None });
        }
        assert_eq!(line.counts(), Counts { offered: 4, ..Counts::default() });
    }

    #[test]
    fn a_rate_is_met_to_the_nanosecond() {
        // 1514 bytes at 150 Mbit/s take 80746.67 ns: the fraction must not get lost.
        let asked = Impairment { rate: mbit(150), limit: Some(u64::MAX), ..Impairment::default() };
        let mut line = line(asked);
        let last = (0..30_000).filter_map(|_| arrival(line.offer(FULL, Instant::ZERO))).last();
        assert_eq!(last, Some(at(30_000 * 1514 * 8 * 1000 / 150)));
    }

    #[test]
    fn an_idle_link_saves_nothing_up() {
        let mut line = line(Impairment { rate: mbit(8), ..Impairment::default() });
        assert_eq!(arrival(line.offer(1000, at(0))), Some(at(MS)));
        assert_eq!(arrival(line.offer(1000, at(500_000))), Some(at(2 * MS)), "it waits for the first");
        assert_eq!(arrival(line.offer(1000, at(90 * MS))), Some(at(91 * MS)));
        assert_eq!(arrival(line.offer(1000, at(90 * MS))), Some(at(92 * MS)));
    }

    #[test]
    fn the_delay_begins_when_the_packet_was_sent_whole() {
        let asked = Impairment { rate: mbit(8), delay: Duration::from_millis(4), ..Impairment::default() };
        assert_eq!(arrival(line(asked).offer(1000, at(0))), Some(at(5 * MS)));
    }

    #[test]
    fn a_full_queue_drops_and_empties_at_the_rate() {
        let asked = Impairment { rate: mbit(8), limit: Some(10_000), ..Impairment::default() };
        let mut line = line(asked);
        let offer = |line: &mut Line, now| line.offer(1000, at(now));
        let verdicts: Vec<_> = (0..12).map(|_| offer(&mut line, 0)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| arrival(**verdict).is_some()).count(), 10);
        assert_eq!(verdicts[10], Verdict::Drop(Reason::Queue));
        assert_eq!(arrival(offer(&mut line, MS)), Some(at(11 * MS)), "one was sent: there is room for one");
        assert_eq!(offer(&mut line, MS), Verdict::Drop(Reason::Queue));
        assert_eq!(line.counts(), Counts { offered: 14, dropped: 3, ..Counts::default() });
        assert_eq!(
            arrival(line.offer(64_000, at(50 * MS))),
            Some(at(114 * MS)),
            "an empty queue takes anything"
        );
    }

    #[test]
    fn without_a_limit_the_queue_holds_fifty_milliseconds() {
        let mut line = line(Impairment { rate: mbit(150), ..Impairment::default() });
        let taken = (0..10_000).filter_map(|_| arrival(line.offer(FULL, at(0)))).count();
        assert_eq!(taken, 937_500 / FULL);
    }

    #[test]
    fn losses_copies_and_overtaking_come_as_often_as_asked() {
        let asked = Impairment {
            delay: Duration::from_millis(10),
            loss: 0.1,
            duplicate: 0.2,
            reorder: 0.05,
            ..Impairment::default()
        };
        let mut line = line(asked);
        let (mut copies, mut early) = (0, 0);
        for n in 0..100_000 {
            let now = at(n * 1000);
            if let Verdict::Deliver { at, copy } = line.offer(64, now) {
                copies += u64::from(copy.is_some());
                early += u64::from(at == now);
            }
        }
        let counts = line.counts();
        // Four standard deviations of the binomial distribution are 0.4 % and less.
        near(counts.lost as f64, 10_000.0, 400.0);
        near(copies as f64, 90_000.0 * 0.2, 500.0);
        near(early as f64, 90_000.0 * 0.05, 270.0);
        assert_eq!(counts.duplicated, copies);
        assert!(counts.reordered >= early, "copies may be sent ahead too");
        assert_eq!(counts.offered, 100_000);
    }

    #[test]
    fn what_is_lost_had_its_turn() {
        let mut line = line(Impairment { rate: mbit(8), loss: 1.0, ..Impairment::default() });
        assert_eq!(line.offer(1000, at(0)), Verdict::Drop(Reason::Loss));
        line.set(Impairment { loss: 0.0, ..line.impairment() });
        assert_eq!(arrival(line.offer(1000, at(0))), Some(at(2 * MS)));
    }

    #[test]
    fn a_copy_takes_a_turn_behind_its_packet() {
        let mut line = line(Impairment { rate: mbit(8), duplicate: 1.0, ..Impairment::default() });
        let expected = Verdict::Deliver { at: at(MS), copy: Some(at(2 * MS)) };
        assert_eq!(line.offer(1000, at(0)), expected);
    }

    #[test]
    fn rare_packets_see_a_normal_jitter() {
        let asked = Impairment {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            ..Impairment::default()
        };
        let delays = delays(asked, 40_000, 1_000 * MS);
        for (share, deviations) in
            [(0.5, 0.0), (0.1587, -1.0), (0.8413, 1.0), (0.0228, -2.0), (0.9772, 2.0), (0.99, 2.326)]
        {
            near(quantile(&delays, share), 10.0 + 2.0 * deviations, 0.1);
        }
    }

    #[test]
    fn frequent_packets_keep_their_order_and_the_delay_asked() {
        let asked = Impairment {
            rate: mbit(150),
            delay: Duration::from_millis(4),
            jitter: Duration::from_millis(1),
            ..Impairment::default()
        };
        let mut line = line(asked);
        // 8.5 s at nearly the full rate.
        let arrivals: Vec<(Instant, Instant)> = (0..100_000)
            .map(|n| at(n * 85_000))
            .map(|now| (now, arrival(line.offer(FULL, now)).expect("nothing is dropped")))
            .collect();
        assert!(arrivals.windows(2).all(|pair| pair[0].1 <= pair[1].1), "the order is kept");
        let mut delays: Vec<u64> =
            arrivals.iter().map(|(now, at)| at.since(*now).as_nanos() as u64).collect();
        delays.sort_unstable();
        // Sending takes 0.08 ms, keeping the order about a tenth of the jitter.
        near(quantile(&delays, 0.5), 4.15, 0.15);
        near(quantile(&delays, 0.8413) - quantile(&delays, 0.1587), 2.0, 0.2);
    }

    #[test]
    fn jitter_never_delivers_before_sending() {
        let asked = Impairment {
            delay: Duration::from_micros(100),
            jitter: Duration::from_millis(2),
            ..Impairment::default()
        };
        let delays = delays(asked, 10_000, 1_000 * MS);
        near(delays.iter().filter(|delay| **delay == 0).count() as f64, 4_800.0, 250.0);
    }

    #[test]
    fn packets_sent_ahead_overtake_only_those_under_way() {
        let asked = Impairment { delay: Duration::from_millis(5), reorder: 0.3, ..Impairment::default() };
        let mut line = line(asked);
        let arrivals: Vec<_> = (0..1000).filter_map(|n| arrival(line.offer(64, at(n * MS)))).collect();
        let overtaken = arrivals.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!(overtaken > 150, "{overtaken}");
        let late: Vec<_> = (0..).zip(&arrivals).filter(|(n, arrival)| **arrival != at(n * MS)).collect();
        assert!(late.iter().all(|(n, arrival)| **arrival == at((n + 5) * MS)), "the others are not touched");
    }

    #[test]
    fn a_change_holds_for_what_comes_after_it() {
        let asked = Impairment { delay: Duration::from_millis(50), ..Impairment::default() };
        let mut line = line(asked);
        assert_eq!(arrival(line.offer(64, at(0))), Some(at(50 * MS)));
        line.set(Impairment { delay: Duration::from_millis(1), ..asked });
        assert_eq!(arrival(line.offer(64, at(MS))), Some(at(50 * MS)), "nobody overtakes");
        assert_eq!(arrival(line.offer(64, at(60 * MS))), Some(at(61 * MS)));
    }

    #[test]
    fn equal_seeds_give_equal_courses() {
        let asked = Impairment {
            rate: mbit(10),
            delay: Duration::from_millis(4),
            jitter: Duration::from_millis(1),
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.1,
            limit: Some(20_000),
        };
        let course = |seed| {
            let mut line = Line::new(asked, seed);
            (0..1000).map(|n| line.offer(FULL, at(n * MS))).collect::<Vec<_>>()
        };
        assert_eq!(course([1; 32]), course([1; 32]));
        assert_ne!(course([1; 32]), course([2; 32]));
    }

    #[test]
    fn time_does_not_go_back() {
        let mut line = line(Impairment { delay: Duration::from_millis(1), ..Impairment::default() });
        assert_eq!(arrival(line.offer(64, at(5 * MS))), Some(at(6 * MS)));
        assert_eq!(arrival(line.offer(64, at(2 * MS))), Some(at(6 * MS)));
    }
}
