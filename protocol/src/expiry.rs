//! An expiry index: what ends when, without a walk over all entries.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

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

/// The earliest of some instants.
pub fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

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
