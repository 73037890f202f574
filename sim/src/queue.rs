//! The one queue of events, ordered by time, and within an instant by the order in which they were put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ntm_protocol::time::Instant;

/// Events and when they happen. Putting one in and taking one out cost O(log n).
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Item>,
    next: u64,
    /// The events stay where they were put: only what orders them is moved about.
    events: Vec<Option<E>>,
    free: Vec<u32>,
}

/// Ordered so that the greatest is the one that happens first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    order: Reverse<(Instant, u64)>,
    slot: u32,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0, events: Vec::new(), free: Vec::new() }
    }
}

impl<E> Queue<E> {
    /// `event` happens at `at`.
    pub(crate) fn push(&mut self, at: Instant, event: E) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("four billion events do not fit a memory")
        });
        self.events[slot as usize] = Some(event);
        self.heap.push(Item { order: Reverse((at, self.next)), slot });
        self.next += 1;
    }

    /// Takes the next event, if it happens at `until` or before.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, E)> {
        let Item { order: Reverse((at, _)), .. } = *self.heap.peek()?;
        if at > until {
            return None;
        }
        let Item { slot, .. } = self.heap.pop()?;
        self.free.push(slot);
        self.events[slot as usize].take().map(|event| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_put_in() {
        let at = Instant::from_nanos;
        let mut queue = Queue::default();
        for (time, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b'), (9, 'e')] {
            queue.push(at(time), name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(at(8))).map(|(_, name)| name).collect();
        assert_eq!(order, ['a', 'b', 'c', 'd']);
        assert_eq!(queue.pop(at(9)), Some((at(9), 'e')));
        (0..100).for_each(|n| queue.push(at(20 - n % 4), (b'a' + (n % 4) as u8) as char));
        let order: String = std::iter::from_fn(|| queue.pop(at(99))).map(|(_, name)| name).collect();
        assert_eq!(order, ["d", "c", "b", "a"].map(|name| name.repeat(25)).concat());
        assert_eq!(queue.events.len(), 100, "room is used again");
    }
}
