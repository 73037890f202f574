//! Faults of the past that a test can put back, to see whether the random worlds find them. This module and all that asks it are there only with
//! the feature `mutants`, which nothing that is shipped may have: `ntm-daemon` does not compile with it.

use std::cell::Cell;

/// A fault of the past.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutant {
    /// The replay window is off by one: the highest number that was seen counts as new.
    ReplayWindow,
    /// The keep-alive timer is lost where a Keep-alive carried a report.
    KeepAliveTimer,
    /// After a handover RS-N is chosen anew (T4.2.5-b).
    RelayChosenAnew,
    /// A VIP is given before it is durable: after a crash it is given once more.
    VipGivenTwice,
    /// The direct way is used as soon as the peer's request came through (T4.1.2-b).
    DirectUnproved,
    /// Who sends while there is no path is told that the connection has ended, as if its relay were gone for good (T4.2.5-b).
    ResetTooSoon,
    /// A general node is at its IPv4 address if it has one, whether or not a relay leads there from where the terminal is (T3.1-d).
    GeneralByIpv4,
}

thread_local! {
    static PUT_BACK: Cell<Option<Mutant>> = const { Cell::new(None) };
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ReplayWindow,
        Self::KeepAliveTimer,
        Self::RelayChosenAnew,
        Self::VipGivenTwice,
        Self::DirectUnproved,
        Self::ResetTooSoon,
        Self::GeneralByIpv4,
    ];

    /// Whether this thread has it.
    pub(crate) fn is_here(self) -> bool {
        PUT_BACK.get() == Some(self)
    }
}

/// The machines of this thread have the fault `mutant` from now on, and no other.
pub fn put_back(mutant: Option<Mutant>) {
    PUT_BACK.set(mutant);
}
