//! The one queue of events, ordered by time, and within an instant by the order in which they were put in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ntm_protocol::time::Instant;

/// Events and when they happen. Putting one in and taking one out cost O(log n).
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Item<E>>,
    next: u64,
}

struct Item<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0 }
    }
}

impl<E> Queue<E> {
    /// `event` happens at `at`.
    pub(crate) fn push(&mut self, at: Instant, event: E) {
        self.heap.push(Item { at, number: self.next, event });
        self.next += 1;
    }

    /// Takes the next event, if it happens at `until` or before.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|item| (item.at, item.event))
    }
}

/// The greatest is the one that happens first.
impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Item<E> {}

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
    }
}
