//! An expiry index: what ends when, without a walk over all entries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::time::{Duration, Instant};

/// At most one instant for each key.
#[derive(Debug)]
pub struct Expiry<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K> Default for Expiry<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Expiry<K> {
    /// `key` ends at `at`, whatever was set before.
    pub fn set(&mut self, key: K, at: Instant) {
        if let Some(old) = self.by_key.insert(key, at) {
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
    }

    /// `key` has no end.
    pub fn clear(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// When the first key ends.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes a key whose end is at or before `now`: call until there is none.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        let &(at, key) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }
}

/// Keys that all end the same time after they were used last. They end in the order of their last use, so a list of uses in their order is the index. A use is
/// written at its end and nowhere else; one that is not its key's last any more is passed over when it is the first, or when most are such. So each
/// operation costs the same however many keys there are, but for the caches: it touches one place of a small array.
#[derive(Debug)]
pub struct Idle<K> {
    lifetime: Duration,
    /// How often the key of each place was used.
    uses: Vec<u32>,
    /// The key at each place.
    keys: Vec<K>,
    /// Places of no key.
    free: Vec<u32>,
    /// The first is its key's last use.
    list: VecDeque<Use>,
}

/// A key's place in an [`Idle`]; whoever keeps the key keeps it as well, until the key has no end any more.
#[derive(Clone, Copy, Debug)]
pub struct Place(u32);

/// The key at `place` was used for the `count`th time, and then ends at `end`.
#[derive(Clone, Copy, Debug)]
struct Use {
    end: Instant,
    place: Place,
    /// Modulo 2³²: no use stays in the list for so many others.
    count: u32,
}

/// Uses that are kept although they are not their keys' last, beyond as many as there are keys.
const SPARE: usize = 64;

impl<K: Copy> Idle<K> {
    /// No key yet; each will end `lifetime` after it was used last.
    pub fn new(lifetime: Duration) -> Self {
        let (uses, keys, free, list) = (Vec::new(), Vec::new(), Vec::new(), VecDeque::new());
        Self { lifetime, uses, keys, free, list }
    }

    /// `key` is new, and was used at `now`, which is no earlier than any use before.
    pub fn begin(&mut self, key: K, now: Instant) -> Place {
        let place = self.free.pop().map(Place).unwrap_or_else(|| {
            self.uses.push(0);
            self.keys.push(key);
            Place(u32::try_from(self.keys.len() - 1).unwrap_or(u32::MAX))
        });
        self.keys[place.index()] = key;
        self.used(place, now);
        place
    }

    /// The key at `place` was used at `now`, which is no earlier than any use before.
    pub fn used(&mut self, place: Place, now: Instant) {
        // Were it earlier all the same, the order would still hold.
        let last = self.list.back().map(|last| last.end);
        let end = last.map_or(now + self.lifetime, |last| last.max(now + self.lifetime));
        let count = self.count(place);
        self.list.push_back(Use { end, place, count });
        self.tidy();
    }

    /// The key at `place` has no end any more, and no place.
    pub fn clear(&mut self, place: Place) {
        self.count(place);
        self.free.push(place.0);
        self.tidy();
    }

    /// One more use: what is listed of the place is not its last any more.
    fn count(&mut self, place: Place) -> u32 {
        let count = &mut self.uses[place.index()];
        *count = count.wrapping_add(1);
        *count
    }

    /// Has the first use be its key's last, and no more than half of the others not.
    fn tidy(&mut self) {
        let uses = &self.uses;
        let is_last = |it: &Use| uses[it.place.index()] == it.count;
        while self.list.front().is_some_and(|first| !is_last(first)) {
            self.list.pop_front();
        }
        if self.list.len() > 2 * (self.keys.len() - self.free.len()) + SPARE {
            self.list.retain(is_last);
        }
    }

    /// When the first key ends.
    pub fn next(&self) -> Option<Instant> {
        self.list.front().map(|first| first.end)
    }

    /// A key whose end is at or before `now`: [`clear`](Self::clear) it, and ask again until there is none.
    pub fn due(&self, now: Instant) -> Option<K> {
        let first = self.list.front().filter(|first| first.end <= now)?;
        self.keys.get(first.place.index()).copied()
    }
}

impl Place {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The earliest of some instants.
pub fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// The list says what the general index says, whatever is used, cleared and due in whatever order.
        #[test]
        fn unused_keys_end_as_by_the_general_index(
            steps in proptest::collection::vec((0..3u8, 0..8u8, 0..4u64), 0..400),
        ) {
            let lifetime = Duration::from_nanos(10);
            let (mut idle, mut expiry) = (Idle::new(lifetime), Expiry::default());
            let mut places: BTreeMap<u8, Place> = BTreeMap::new();
            let mut now = Instant::from_nanos(0);
            for (what, key, later) in steps {
                now += Duration::from_nanos(later);
                match what {
                    0 => {
                        match places.get(&key) {
                            Some(place) => idle.used(*place, now),
                            None => drop(places.insert(key, idle.begin(key, now))),
                        }
                        expiry.set(key, now + lifetime);
                    }
                    1 => {
                        if let Some(place) = places.remove(&key) {
                            idle.clear(place);
                        }
                        expiry.clear(key);
                    }
                    _ => {
                        let (mut ended, mut expected) = (Vec::new(), Vec::new());
                        while let Some(key) = idle.due(now) {
                            idle.clear(places.remove(&key).expect("a place"));
                            ended.push(key);
                        }
                        expected.extend(std::iter::from_fn(|| expiry.due(now)));
                        // Of keys that end at one moment, the general index has no order of use.
                        ended.sort_unstable();
                        expected.sort_unstable();
                        proptest::prop_assert_eq!(ended, expected);
                    }
                }
                proptest::prop_assert_eq!(idle.next(), expiry.next());
                proptest::prop_assert!(idle.list.len() <= 2 * 8 + SPARE);
            }
        }
    }

    #[test]
    fn keys_end_in_order_and_once() {
        let at = Instant::from_nanos;
        let mut expiry = Expiry::default();
        expiry.set('a', at(5));
        expiry.set('b', at(3));
        expiry.set('a', at(1));
        expiry.set('c', at(2));
        expiry.clear('c');
        assert_eq!((expiry.next(), expiry.due(at(0))), (Some(at(1)), None));
        assert_eq!([expiry.due(at(9)), expiry.due(at(9)), expiry.due(at(9))], [Some('a'), Some('b'), None]);
    }
}
