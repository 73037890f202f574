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
    /// From entering to being delivered, for each frame: waiting, sending, travelling.
    pub delay: Histogram,
    /// From the moment that was asked for to the end of the system call that delivered it, for each frame.
    pub lateness: Histogram,
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
}
