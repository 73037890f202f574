//! A hash table for a million entries that nothing foretells: each entry lies in a slot of one array, at the place that its key's hash gives or a little
//! behind, so that finding one touches one place in memory. Whoever has a batch of keys may ask for those places beforehand, all at once, and then waits for
//! memory once and not for each key.

use std::hash::{BuildHasher, Hash};
use std::hint::black_box;

use foldhash::fast::FixedState;

/// An entry that knows its key.
pub(crate) trait Keyed {
    /// What it is found by.
    type Key: Hash + Eq + Copy;

    /// Its key, which never changes.
    fn key(&self) -> Self::Key;
}

/// The table. Entries keep their slots until one is removed or the table grows.
#[derive(Debug)]
pub(crate) struct Slots<E> {
    /// A power of two of them, or none; an entry is never behind an empty slot that is not before its own place.
    slots: Vec<Option<E>>,
    len: usize,
    hash: FixedState,
}

/// Slots of the smallest table.
const LEAST: usize = 8;
/// Slots that stay in the caches: to ask for them beforehand is of no use.
const NEAR: usize = 4096;

impl<E> Default for Slots<E> {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0, hash: FixedState::default() }
    }
}

impl<E: Keyed> Slots<E> {
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    /// Where an entry of `key` is looked for first.
    fn home(&self, key: &E::Key) -> usize {
        self.hash.hash_one(key) as usize & self.mask()
    }

    /// Where `key` stands, or else the empty slot where it would; of a table with slots.
    fn seek(&self, key: &E::Key) -> usize {
        let mut at = self.home(key);
        // An empty slot ends it, and there is always one.
        while self.slots[at].as_ref().is_some_and(|entry| entry.key() != *key) {
            at = (at + 1) & self.mask();
        }
        at
    }

    /// The entry of `key`.
    pub(crate) fn get(&self, key: &E::Key) -> Option<&E> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.seek(key)].as_ref()
    }

    /// The entry of `key`, to be changed.
    pub(crate) fn get_mut(&mut self, key: &E::Key) -> Option<&mut E> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.seek(key);
        self.slots[at].as_mut()
    }

    /// Puts `entry` in the place of what had its key.
    pub(crate) fn insert(&mut self, entry: E) {
        if self.len + 1 > self.slots.len() / 4 * 3 {
            self.grow();
        }
        let at = self.seek(&entry.key());
        if self.slots[at].replace(entry).is_none() {
            self.len += 1;
        }
    }

    fn grow(&mut self) {
        let mut slots = Vec::new();
        slots.resize_with((self.slots.len() * 2).max(LEAST), || None);
        let old = std::mem::replace(&mut self.slots, slots);
        for entry in old.into_iter().flatten() {
            let at = self.seek(&entry.key());
            self.slots[at] = Some(entry);
        }
    }

    /// Takes the entry of `key` out.
    pub(crate) fn remove(&mut self, key: &E::Key) -> Option<E> {
        if self.slots.is_empty() {
            return None;
        }
        let mut hole = self.seek(key);
        let removed = self.slots[hole].take()?;
        self.len -= 1;
        // What was pushed behind its place by others moves up, so that no hole is before it.
        let mut at = (hole + 1) & self.mask();
        while let Some(entry) = &self.slots[at] {
            let home = self.home(&entry.key());
            let from_home = at.wrapping_sub(home) & self.mask();
            let from_hole = at.wrapping_sub(hole) & self.mask();
            if from_home >= from_hole {
                self.slots.swap(hole, at);
                hole = at;
            }
            at = (at + 1) & self.mask();
        }
        Some(removed)
    }

    /// Whether [`ask_for`](Self::ask_for) is of use.
    pub(crate) fn is_far(&self) -> bool {
        self.slots.len() > NEAR
    }

    /// Has the slot of `key` brought near. Nothing waits for it: the processor has many such loads under way, until something is done with one.
    pub(crate) fn ask_for(&self, key: &E::Key) {
        if let Some(slot) = self.slots.get(self.home(key)) {
            black_box(slot.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Pair(u16, u32);

    impl Keyed for Pair {
        type Key = u16;

        fn key(&self) -> u16 {
            self.0
        }
    }

    proptest! {
        /// It holds what a map of the library holds, whatever is put in and taken out; and room for one more is always left.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..3u8, 0..60u16, any::<u32>()), 0..400)) {
            let (mut slots, mut map) = (Slots::default(), HashMap::new());
            for (what, key, value) in steps {
                match what {
                    0 => prop_assert_eq!(slots.remove(&key).map(|pair: Pair| pair.1), map.remove(&key)),
                    1 => {
                        slots.insert(Pair(key, value));
                        map.insert(key, value);
                    }
                    _ => {
                        if let Some(pair) = slots.get_mut(&key) {
                            pair.1 = value;
                        }
                        map.entry(key).and_modify(|it| *it = value);
                    }
                }
                slots.ask_for(&key);
                prop_assert_eq!(slots.len, map.len());
                for key in 0..60 {
                    prop_assert_eq!(slots.get(&key).map(|pair| pair.1), map.get(&key).copied());
                }
                prop_assert!(slots.len < slots.slots.len().max(1));
            }
        }
    }

    #[test]
    fn only_a_large_one_is_far() {
        let mut slots = Slots::default();
        (0..1000).for_each(|n| slots.insert(Pair(n, 0)));
        assert!(!slots.is_far());
        (0..60_000).for_each(|n| slots.insert(Pair(n, 0)));
        assert!(slots.is_far());
    }
}
