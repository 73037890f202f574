//! The sliding window that refuses what was seen before (after RFC 4303, section 3.4.3).

/// How many sequence numbers behind the highest one can still be told apart.
const WIDTH: u64 = 2048;
const WORDS: usize = (WIDTH / 64) as usize;

/// Remembers which of the last 2048 sequence numbers were accepted; number 0 is never accepted.
///
/// Ask with [`check`](Self::check) before the MAC is verified (it is cheap), and [`accept`](Self::accept) only after: a forged number
/// must not move the window.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `n % 2048` tells whether `n` was seen, for the numbers in `(highest - 2048, highest]`.
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::above(0)
    }
}

impl ReplayWindow {
    /// A window that accepts numbers above `floor` only.
    pub fn above(floor: u64) -> Self {
        Self { highest: floor, seen: [u64::MAX; WORDS] }
    }

    /// The highest number accepted.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    fn slot(n: u64) -> (usize, u64) {
        ((n / 64) as usize % WORDS, 1 << (n % 64))
    }

    /// Whether `n` would be accepted.
    pub fn check(&self, n: u64) -> bool {
        if n > self.highest {
            return true;
        }
        #[cfg(feature = "mutants")]
        if crate::mutants::Mutant::ReplayWindow.is_here() && n == self.highest {
            return true;
        }
        let (word, bit) = Self::slot(n);
        self.highest - n < WIDTH && self.seen[word] & bit == 0
    }

    /// Marks `n` as seen; false, and nothing changes, if it was seen before or is too old.
    pub fn accept(&mut self, n: u64) -> bool {
        if !self.check(n) {
            return false;
        }
        if n > self.highest {
            if n - self.highest >= WIDTH {
                self.seen = [0; WORDS];
            } else {
                for between in self.highest + 1..n {
                    let (word, bit) = Self::slot(between);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = n;
        }
        let (word, bit) = Self::slot(n);
        self.seen[word] |= bit;
        true
    }
}

/// The same window for a conversation of which there may be a million: as long as no number is left out, it is its highest number alone.
#[derive(Clone, Debug)]
pub enum Window {
    /// Every number up to this one was seen, or is not accepted any more.
    Gapless(u64),
    /// Numbers were left out, and may still come.
    Gaps(Box<ReplayWindow>),
}

impl Window {
    /// A window that accepts numbers above `floor` only.
    pub fn above(floor: u64) -> Self {
        Self::Gapless(floor)
    }

    /// The highest number accepted.
    pub fn highest(&self) -> u64 {
        match self {
            Self::Gapless(highest) => *highest,
            Self::Gaps(window) => window.highest(),
        }
    }

    /// Whether `n` would be accepted.
    pub fn check(&self, n: u64) -> bool {
        match self {
            Self::Gapless(highest) => n > *highest,
            Self::Gaps(window) => window.check(n),
        }
    }

    /// Marks `n` as seen; false, and nothing changes, if it was seen before or is too old.
    pub fn accept(&mut self, n: u64) -> bool {
        match self {
            Self::Gaps(window) => window.accept(n),
            Self::Gapless(highest) if n <= *highest => false,
            Self::Gapless(highest) if n - *highest == 1 => {
                *highest = n;
                true
            }
            Self::Gapless(highest) => {
                let mut window = Box::new(ReplayWindow::above(*highest));
                let taken = window.accept(n);
                *self = Self::Gaps(window);
                taken
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        let mut window = ReplayWindow::default();
        assert!(!window.accept(0), "number 0 is never used");
        assert!(window.accept(1) && !window.accept(1));
        assert!(window.accept(WIDTH + 1));
        assert!(!window.check(1), "one behind the window");
        assert!(window.accept(2), "the last one inside it");
        assert!(window.accept(u64::MAX) && !window.accept(u64::MAX) && window.accept(u64::MAX - 1));
        let above = ReplayWindow::above(10);
        assert!(!above.check(10) && !above.check(3) && above.check(11));
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn equals_the_model(steps in proptest::collection::vec((0u64..6000, any::<bool>()), 1..400)) {
            let (mut window, mut seen, mut highest) = (ReplayWindow::default(), BTreeSet::from([0]), 0);
            let mut compact = Window::above(0);
            for (step, (n, near)) in steps.into_iter().enumerate() {
                // The first numbers come in order, each once or twice.
                let n = if near || step < 20 { highest + n % if step < 20 { 2 } else { 70 } } else { n };
                let fresh = !seen.contains(&n) && n + WIDTH > highest;
                prop_assert_eq!(window.accept(n), fresh, "number {} at highest {}", n, highest);
                prop_assert_eq!((compact.check(n), compact.accept(n)), (fresh, fresh), "number {} at highest {}", n, highest);
                prop_assert_eq!(compact.highest(), window.highest());
                if fresh {
                    seen.insert(n);
                    highest = highest.max(n);
                }
            }
        }
    }
}
