//! Which way tunnels are switched: by the kernel's program, or by the data thread. A pure rule.
//!
//! The kernel's program does less for every packet that it switches, be it alone or in a train. But while it switches, the relay's socket takes no
//! trains (`UDP_GRO`): what interfaces join by addresses alone may hold several paths, and the program sees only a train's first header. That is paid
//! by the packets which the relay opens for general nodes (RS-N). So, by reasoning alone, for it was not measured:
//!
//! * the kernel switches, unless packets of RS-N are more than twice those of RS-S;
//! * it switches again when those of RS-S are more than twice those of RS-N;
//! * a period counts if at least [`BUSY`] packets passed in it, and [`PATIENCE`] such periods in a row decide.

use ntm_protocol::time::Duration;

/// How long a period is.
pub const PERIOD: Duration = Duration::from_secs(1);
/// The least packets of a period that says something.
pub const BUSY: u64 = 1000;
/// How many periods in a row must say the same.
pub const PATIENCE: u32 = 3;

/// Who switches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Switcher {
    /// The data thread.
    #[default]
    Userspace,
    /// The kernel's program.
    Tcx,
}

/// Packets that passed so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Of RS-S, either way.
    pub switched: u64,
    /// Of RS-N, from terminals.
    pub translated: u64,
}

/// The choice where both ways are there.
#[derive(Debug)]
pub struct Choice {
    now: Switcher,
    before: Passed,
    /// Periods in a row that spoke for the other way.
    against: u32,
}

impl Default for Choice {
    fn default() -> Self {
        Self { now: Switcher::Tcx, before: Passed::default(), against: 0 }
    }
}

impl Choice {
    /// Who switches.
    pub fn switcher(&self) -> Switcher {
        self.now
    }

    /// Takes what passed until the end of a period; true where the other way is taken from now on.
    pub fn period(&mut self, passed: Passed) -> bool {
        let switched = passed.switched.saturating_sub(self.before.switched);
        let translated = passed.translated.saturating_sub(self.before.translated);
        self.before = passed;
        let is_busy = switched.saturating_add(translated) >= BUSY;
        let (own, others) = match self.now {
            Switcher::Tcx => (switched, translated),
            Switcher::Userspace => (translated, switched),
        };
        let is_against = is_busy && others > own.saturating_mul(2);
        self.against = if is_against { self.against + 1 } else { 0 };
        if self.against < PATIENCE {
            return false;
        }
        self.against = 0;
        self.now = match self.now {
            Switcher::Tcx => Switcher::Userspace,
            Switcher::Userspace => Switcher::Tcx,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen after each of these periods: packets of RS-S and RS-N.
    fn chosen(periods: &[(u64, u64)]) -> String {
        let (mut choice, mut passed) = (Choice::default(), Passed::default());
        let each = periods.iter().map(|(switched, translated)| {
            passed =
                Passed { switched: passed.switched + switched, translated: passed.translated + translated };
            choice.period(passed);
            if choice.switcher() == Switcher::Tcx { 'k' } else { 'u' }
        });
        each.collect()
    }

    #[test]
    fn the_kernel_switches_unless_rs_n_has_most_packets_for_a_while() {
        assert_eq!(chosen(&[(9000, 0), (0, 0), (500, 0), (9000, 9000)]), "kkkk");
        assert_eq!(chosen(&[(100, 9000), (100, 9000), (100, 9000)]), "kku");
        assert_eq!(chosen(&[(100, 9000), (100, 9000), (9000, 100), (100, 9000), (100, 9000)]), "kkkkk");
        assert_eq!(chosen(&[(0, 999); 9]), "kkkkkkkkk", "so few packets say nothing");
        assert_eq!(chosen(&[(1000, 2000); 9]), "kkkkkkkkk", "neither has most");
    }

    #[test]
    fn it_changes_back_as_slowly_and_stays_in_between() {
        let translated = [(0, 5000); 3];
        let then = |more: &[(u64, u64)]| chosen(&[&translated[..], more].concat())[3..].to_owned();
        assert_eq!(then(&[(5000, 0); 3]), "uuk");
        assert_eq!(then(&[(2000, 1000); 9]), "uuuuuuuuu");
        assert_eq!(then(&[(0, 0); 9]), "uuuuuuuuu");
        assert_eq!(then(&[(5000, 0), (5000, 0), (0, 0), (5000, 0)]), "uuuu");
    }
}
