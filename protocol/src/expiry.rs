//! An expiry index: what ends when, without a walk over all entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use foldhash::fast::FixedState;

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

/// Keys that all end the same time after they were used last. They end in the order of their last use, so a list in that order is the index: each
/// operation costs the same however many there are, but for the caches, in which as many links as can be are to stay.
#[derive(Debug)]
pub struct Idle<K> {
    lifetime: Duration,
    places: HashMap<K, u32, FixedState>,
    links: Vec<Link>,
    /// The key at each place.
    keys: Vec<K>,
    /// Places that are in no list.
    free: Vec<u32>,
    /// The key that ends first, and the one that ends last; none where there is no key.
    first: u32,
    last: u32,
}

/// A place's neighbours in the list, if it has them.
#[derive(Clone, Copy, Debug)]
struct Link {
    at: Instant,
    before: u32,
    after: u32,
}

/// No place.
const NONE: u32 = u32::MAX;

impl<K: Hash + Eq + Copy> Idle<K> {
    /// No key yet; each will end `lifetime` after it was used last.
    pub fn new(lifetime: Duration) -> Self {
        let (links, keys, free) = (Vec::new(), Vec::new(), Vec::new());
        Self { lifetime, places: HashMap::default(), links, keys, free, first: NONE, last: NONE }
    }

    /// `key` was used at `now`, which is no earlier than any use before.
    pub fn used(&mut self, key: K, now: Instant) {
        // Were it earlier all the same, the order would still hold.
        let last = self.links.get(self.last as usize).map(|link| link.at);
        let at = last.map_or(now + self.lifetime, |last| last.max(now + self.lifetime));
        let place = match self.places.get(&key).copied() {
            Some(place) => {
                self.unlink(place);
                place
            }
            None => self.place(key),
        };
        self.links[place as usize] = Link { at, before: self.last, after: NONE };
        match self.links.get_mut(self.last as usize) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
    }

    /// A place for a new key.
    fn place(&mut self, key: K) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.links.push(Link { at: Instant::from_nanos(0), before: NONE, after: NONE });
            self.keys.push(key);
            u32::try_from(self.keys.len() - 1).unwrap_or(NONE)
        });
        self.keys[place as usize] = key;
        self.places.insert(key, place);
        place
    }

    /// `key` has no end.
    pub fn clear(&mut self, key: K) {
        if let Some(place) = self.places.remove(&key) {
            self.unlink(place);
            self.free.push(place);
        }
    }

    fn unlink(&mut self, place: u32) {
        let Link { before, after, .. } = self.links[place as usize];
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => self.first = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => self.last = before,
        }
    }

    /// When the first key ends.
    pub fn next(&self) -> Option<Instant> {
        self.links.get(self.first as usize).map(|link| link.at)
    }

    /// Takes a key whose end is at or before `now`: call until there is none.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let key = *self.keys.get(self.first as usize)?;
        self.clear(key);
        Some(key)
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
            steps in proptest::collection::vec((0..3u8, 0..8u8, 0..4u64), 0..200),
        ) {
            let lifetime = Duration::from_nanos(10);
            let (mut idle, mut expiry) = (Idle::new(lifetime), Expiry::default());
            let mut now = Instant::from_nanos(0);
            for (what, key, later) in steps {
                now += Duration::from_nanos(later);
                match what {
                    0 => {
                        idle.used(key, now);
                        expiry.set(key, now + lifetime);
                    }
                    1 => {
                        idle.clear(key);
                        expiry.clear(key);
                    }
                    _ => {
                        let (mut ended, mut expected) = (Vec::new(), Vec::new());
                        ended.extend(std::iter::from_fn(|| idle.due(now)));
                        expected.extend(std::iter::from_fn(|| expiry.due(now)));
                        // Of keys that end at one moment, the general index has no order of use.
                        ended.sort_unstable();
                        expected.sort_unstable();
                        proptest::prop_assert_eq!(ended, expected);
                    }
                }
                proptest::prop_assert_eq!(idle.next(), expiry.next());
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
