//! The one queue of events, ordered by time, and within an instant by the order in which they were put in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use ntm_protocol::time::Instant;

/// Time is cut into stretches of 2^20 ns, about a millisecond.
const STRETCH: u32 = 20;

/// Events and when they happen. What is far away lies unordered in the stretch of its time, and is put in order once, when that comes: putting
/// one in and taking one out touch little memory, and in the order in which it lies there, however many events wait. The cost is O(log n) for
/// the n stretches in which something waits, and for the n events of one stretch.
pub(crate) struct Queue<E> {
    /// What happens in the present stretch: the first is the last here.
    present: Vec<Item<E>>,
    /// What was put into the present stretch after it had begun.
    added: BinaryHeap<Reverse<Item<E>>>,
    /// What happens in each stretch after it.
    later: BTreeMap<u64, Vec<Item<E>>>,
    /// The present stretch.
    stretch: u64,
    /// How many events were put in so far.
    number: u64,
    /// Room of stretches that are over.
    empty: Vec<Vec<Item<E>>>,
}

/// An event with its time and its number, which no other has.
struct Item<E> {
    order: (Instant, u64),
    event: E,
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        let (present, added, later) = (Vec::new(), BinaryHeap::new(), BTreeMap::new());
        Self { present, added, later, stretch: 0, number: 0, empty: Vec::new() }
    }
}

impl<E> Queue<E> {
    /// `event` happens at `at`.
    pub(crate) fn push(&mut self, at: Instant, event: E) {
        let item = Item { order: (at, self.number), event };
        self.number += 1;
        let stretch = at.as_nanos() >> STRETCH;
        if stretch <= self.stretch {
            self.added.push(Reverse(item));
        } else {
            let room = || self.empty.pop().unwrap_or_default();
            self.later.entry(stretch).or_insert_with(room).push(item);
        }
    }

    /// Up to `count` of the events that wait, behind the next `after` of them, as far as that is known without putting anything in order: those
    /// of the present stretch without those that were put in since, then those of the next one in whatever order.
    pub(crate) fn ahead(&self, after: usize, count: usize) -> impl Iterator<Item = &E> {
        let next = self.later.first_key_value().into_iter().flat_map(|(_, items)| items);
        self.present.iter().rev().chain(next).skip(after).take(count).map(|item| &item.event)
    }

    /// Takes the next event, if it happens at `until` or before.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, E)> {
        while self.present.is_empty() && self.added.is_empty() {
            let next = self.later.first_entry()?;
            if *next.key() > until.as_nanos() >> STRETCH {
                return None;
            }
            self.stretch = *next.key();
            let over = std::mem::replace(&mut self.present, next.remove());
            self.present.sort_unstable_by_key(|item| Reverse(item.order));
            // Enough for those that are filled at a time; more would be held in vain.
            if over.capacity() > 0 && self.empty.len() < 16 {
                self.empty.push(over);
            }
        }
        let first = |item: &Item<E>| item.order.0 <= until;
        let Item { order: (at, _), event } = match (self.present.last(), self.added.peek()) {
            (Some(present), Some(Reverse(added))) if added < present => {
                first(added).then(|| self.added.pop())??.0
            }
            (None, Some(Reverse(added))) => first(added).then(|| self.added.pop())??.0,
            (Some(present), _) => first(present).then(|| self.present.pop())??,
            (None, None) => return None,
        };
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use ntm_protocol::time::Duration;
    use proptest::prelude::*;

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
    }

    proptest! {
        /// Against a list in order: whatever is put in while others wait, near and far, and taken up to whatever time.
        #[test]
        fn is_a_list_in_order(steps in proptest::collection::vec((0u64..5, 0u64..4_000_000, any::<bool>()), 1..300)) {
            let (mut queue, mut list) = (Queue::default(), BTreeMap::new());
            let mut now = Instant::ZERO;
            for (number, (far, apart, takes)) in steps.into_iter().enumerate() {
                let apart = Duration::from_nanos([0, apart, apart * 10, apart * 1000, 1 << 20][far as usize]);
                if takes {
                    let until = now + apart;
                    while let Some((&(at, number), ())) = list.first_key_value().filter(|((at, _), ())| *at <= until) {
                        list.remove(&(at, number));
                        prop_assert_eq!(queue.pop(until), Some((at, number)));
                    }
                    prop_assert_eq!(queue.pop(until), None);
                    now = until;
                } else {
                    queue.push(now + apart, number);
                    list.insert((now + apart, number), ());
                }
            }
            let rest: Vec<_> = std::iter::from_fn(|| queue.pop(Instant::from_nanos(u64::MAX))).collect();
            prop_assert_eq!(rest, list.into_keys().collect::<Vec<_>>());
        }
    }
}
