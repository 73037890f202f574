//! What a wire did to packets, measured.

use ntm_protocol::time::{Duration, Instant};
use serde::{Serialize, Serializer};

use super::histogram::Histogram;

/// All links of a wire.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it was made.
    pub at: Instant,
    /// Processor time that the wire has used; in JSON `cpu_s`, in seconds.
    #[serde(rename = "cpu_s", serialize_with = "seconds")]
    pub cpu: Duration,
    /// Whether the wire runs before ordinary threads (SCHED_FIFO).
    pub is_realtime: bool,
    /// In the order they were given.
    pub links: Vec<LinkReport>,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkReport {
    /// As it was given.
    pub name: String,
    /// From `a` to `b`.
    pub up: Achieved,
    /// From `b` to `a`.
    pub down: Achieved,
}

/// One direction of a link, since the wire began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Achieved {
    /// Packets delivered, each of a train counted.
    pub packets: u64,
    /// Frames delivered; a train is one.
    pub frames: u64,
    /// Bytes delivered, as on a wire: from each packet's Ethernet header on.
    pub bytes: u64,
    /// When the first was delivered.
    pub first: Option<Instant>,
    /// When the last was.
    pub last: Option<Instant>,
    /// Packets delivered twice.
    pub duplicated: u64,
    /// Packets that were not delivered.
    pub dropped: Dropped,
    /// The most that was delivered in a short time.
    pub busiest: Busiest,
    /// From entering to being delivered, for each frame: waiting, sending, travelling.
    pub delay: Histogram,
    /// Of this, from being sent whole to being delivered, for each frame that came once: what the scenario calls the link's delay.
    pub travel: Histogram,
    /// From the moment that was asked for to the end of the system call that delivered it, for each frame.
    pub lateness: Histogram,
}

/// The most bytes that were delivered in a quarter of a second, of those that follow on one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Busiest {
    /// The most so far.
    pub bytes: u64,
    /// The quarter at present, counted from the clock's zero, and what was delivered in it.
    #[serde(skip)]
    quarter: (u64, u64),
}

impl Busiest {
    /// A quarter of a second, in nanoseconds.
    const QUARTER: u64 = 250_000_000;

    /// Counts `bytes` that were delivered at `now`.
    pub fn add(&mut self, now: Instant, bytes: u64) {
        let number = now.as_nanos() / Self::QUARTER;
        let (at, sum) = self.quarter;
        self.quarter = (number, if at == number { sum + bytes } else { bytes });
        self.bytes = self.bytes.max(self.quarter.1);
    }

    /// In bits per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8e9 / Self::QUARTER as f64
    }
}

/// Packets that were not delivered, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Dropped {
    /// Lost, as asked.
    pub lost: u64,
    /// The queue before the rate was full, as asked.
    pub queue: u64,
    /// More was under way than the wire has memory for.
    pub memory: u64,
    /// The interface they were meant for was down or without carrier.
    pub down: u64,
    /// Longer than the other end's MTU, or than any frame.
    pub oversize: u64,
    /// Of a kind that the kernel or the wire cannot pass on.
    pub refused: u64,
    /// Come in faster than the wire could read.
    pub unread: u64,
}

impl Achieved {
    /// Bits per second from the first delivery to the last; zero with less than two.
    pub fn rate(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) if last > first => {
                self.bytes as f64 * 8.0 / last.since(first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Takes note of what another link of the same kind did meanwhile. The busiest time is that of the busier one.
    pub fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        self.duplicated += other.duplicated;
        self.dropped.lost += other.dropped.lost;
        self.dropped.queue += other.dropped.queue;
        self.dropped.memory += other.dropped.memory;
        self.dropped.down += other.dropped.down;
        self.dropped.oversize += other.dropped.oversize;
        self.dropped.refused += other.dropped.refused;
        self.dropped.unread += other.dropped.unread;
        if other.busiest.bytes > self.busiest.bytes {
            self.busiest = other.busiest;
        }
        self.delay.merge(&other.delay);
        self.travel.merge(&other.travel);
        self.lateness.merge(&other.lateness);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_quarter_of_a_second_is_found() {
        let mut busiest = Busiest::default();
        for (ms, bytes) in [(0, 100), (249, 200), (250, 250), (1000, 40), (1100, 300)] {
            busiest.add(Instant::from_nanos(ms * 1_000_000), bytes);
        }
        assert_eq!((busiest.bytes, busiest.rate()), (340, 340.0 * 8.0 * 4.0));
    }

    #[test]
    fn two_links_of_a_kind_are_counted_together() {
        let of = |ms: u64| {
            let mut one =
                Achieved { packets: 3, first: Some(Instant::from_nanos(ms)), ..Achieved::default() };
            one.travel.add(Duration::from_millis(ms));
            one
        };
        let mut both = of(4);
        both.merge(&of(2));
        assert_eq!((both.packets, both.travel.count(), both.first), (6, 2, Some(Instant::from_nanos(2))));
        let mut nothing = Achieved::default();
        nothing.merge(&of(4));
        assert_eq!(nothing.first, Some(Instant::from_nanos(4)));
    }
}
