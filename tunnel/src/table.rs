//! What a data thread asks of its table, and how the control side changes a table that another thread owns.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use ntm_protocol::data::{DataUpdate, Inbound, NotSent, Outbound, Verdict, Way};

use crate::wake::Bell;

/// The table of the thread from the TUN to the network.
pub trait Egress: Send + 'static {
    /// A change of the table.
    type Update: Send + Clone + 'static;

    /// Applies a change.
    fn apply(&mut self, update: &Self::Update);

    /// Whether packets are to wait in the TUN's queue until an update says otherwise.
    fn is_paused(&self) -> bool {
        false
    }

    /// Lays the datagram of the IPv4 packet of `length` bytes that stands in `buffer` from [`HEADER_LEN`](ntm_protocol::wire::HEADER_LEN)
    /// on out around it; there is room for 96 bytes behind it. The datagram's length and the way that it takes. It is sealed later.
    fn place(&mut self, length: usize, buffer: &mut [u8]) -> Result<(usize, &Way), NotSent>;

    /// Seals all datagrams that were placed since the last call; they stand at `places` of `buffer`, in their order.
    fn seal_placed(&mut self, buffer: &mut [u8], places: &[Range<usize>]);
}

/// The table of the thread from the network to the TUN.
pub trait Ingress: Send + 'static {
    /// A change of the table.
    type Update: Send + Clone + 'static;

    /// Applies a change.
    fn apply(&mut self, update: &Self::Update);

    /// Judges the datagrams at `places` of `buffer`, opening them in place; `verdicts` becomes theirs, in their order. Where a datagram came from
    /// decides nothing: its MAC does, and a NAT may change the address at any time.
    fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>);
}

impl Egress for Outbound {
    type Update = DataUpdate;

    fn apply(&mut self, update: &DataUpdate) {
        Outbound::apply(self, update);
    }

    fn is_paused(&self) -> bool {
        Outbound::is_paused(self)
    }

    fn place(&mut self, length: usize, buffer: &mut [u8]) -> Result<(usize, &Way), NotSent> {
        Outbound::place(self, length, buffer)
    }

    fn seal_placed(&mut self, buffer: &mut [u8], places: &[Range<usize>]) {
        Outbound::seal_placed(self, buffer, places);
    }
}

impl Ingress for Inbound {
    type Update = DataUpdate;

    fn apply(&mut self, update: &DataUpdate) {
        Inbound::apply(self, update);
    }

    fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>) {
        Inbound::judge_all(self, buffer, places, verdicts);
    }
}

/// The control side's end of a table's updates.
#[derive(Debug)]
pub(crate) struct Updates<U> {
    queue: mpsc::Sender<U>,
    waiting: Arc<AtomicBool>,
    bell: Bell,
}

/// The data thread's end.
#[derive(Debug)]
pub(crate) struct Pending<U> {
    queue: mpsc::Receiver<U>,
    waiting: Arc<AtomicBool>,
    /// Rings with each update.
    pub(crate) bell: Bell,
}

/// A way for updates. The data thread pays one load of a flag for each batch.
///
/// A thread that blocks on its descriptor needs no waking: an update is seen before the next packet. One whose table is paused waits
/// for the bell.
pub(crate) fn updates<U>() -> io::Result<(Updates<U>, Pending<U>)> {
    let (sender, queue) = mpsc::channel();
    let waiting = Arc::new(AtomicBool::new(false));
    let bell = Bell::new()?;
    let updates = Updates { queue: sender, waiting: Arc::clone(&waiting), bell: bell.clone() };
    Ok((updates, Pending { queue, waiting, bell }))
}

impl<U> Updates<U> {
    /// Every packet that the thread reads after this call sees the update.
    pub(crate) fn send(&self, update: U) {
        // The thread is gone only if the plane ends; its failure is told elsewhere.
        if self.queue.send(update).is_ok() {
            self.waiting.store(true, Ordering::Release);
            self.bell.ring();
        }
    }
}

impl<U> Pending<U> {
    /// Calls `apply` with each update that waits, in order.
    pub(crate) fn drain(&self, mut apply: impl FnMut(&U)) {
        if !self.waiting.load(Ordering::Relaxed) {
            return;
        }
        // The flag falls before the queue is read: an update that comes in between raises it again, and costs a look in vain.
        self.waiting.swap(false, Ordering::Acquire);
        while let Ok(update) = self.queue.try_recv() {
            apply(&update);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_arrive_in_order_and_once() {
        let (updates, pending) = updates().expect("an eventfd");
        let drained = || {
            let mut all = Vec::new();
            pending.drain(|update| all.push(*update));
            all
        };
        assert_eq!(drained(), []);
        (0..3).for_each(|n| updates.send(n));
        assert_eq!(drained(), [0, 1, 2]);
        assert_eq!(drained(), []);
        updates.send(3);
        assert_eq!(drained(), [3]);
    }

    #[test]
    fn none_is_lost_between_two_threads() {
        let (updates, pending) = updates().expect("an eventfd");
        let sending = std::thread::spawn(move || (0..10_000).for_each(|n| updates.send(n)));
        let mut seen = Vec::new();
        while seen.len() < 10_000 {
            let finished = sending.is_finished();
            pending.drain(|update| seen.push(*update));
            assert!(!finished || seen.len() == 10_000, "{} seen", seen.len());
        }
        assert!(seen.iter().copied().eq(0..10_000));
    }
}
