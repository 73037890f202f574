//! The way from end to end: tried, proved both ways, lost, and tried again (T4.1.2-b).
//!
//! An answer to a Tunnel Request of its own shows an end that its packets reach the peer *and* the peer's reach it; so each end proves
//! both directions for itself, and sends directly no earlier. Which way the peer sends its packets does not matter to it.

use std::net::SocketAddr;

use crate::session::TunnelSession;
use crate::time::{Duration, Instant};

/// The most addresses of a peer that are asked in one try.
const MOST_ASKED: usize = 16;

/// The longest wait before a direct way is tried again beside a relay. One that lasted so long is believed in again: when it is lost, the
/// waits start anew.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How far the direct way has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody tried it in this epoch.
    Untried,
    /// Tunnel Requests are under way.
    Trying,
    /// The peer answered at this address.
    Proved { address: SocketAddr, since: Instant },
    /// The peer stopped answering, here where it had answered; or it never did.
    Failed { lost: Option<SocketAddr> },
}

/// The way from end to end, in one epoch.
pub(super) struct Direct {
    pub(super) session: TunnelSession,
    /// Where the peer may be: as the DC named it, and where it answered before.
    candidates: Vec<SocketAddr>,
    stage: Stage,
    /// Where the peer's request came from, until our own is answered: with no relay there is no better way.
    pub(super) provisional: Option<SocketAddr>,
    /// Where the peer's last request came from since the try began.
    heard: Option<SocketAddr>,
    /// How many requests were begun in this try, so that a peer cannot make us ask without bound.
    asked: usize,
    /// How many waits there were since a way lasted.
    waits: u32,
    /// When it is tried again.
    again: Option<Instant>,
    /// Whether an end is at another address since it was proved, and no answer has come from there: a relay that is there serves meanwhile.
    pub(super) doubted: bool,
    /// The sequence number of the peer's newest word that it is at another address.
    moved_at: u64,
}

impl Direct {
    /// A way that nobody has tried, to a peer that the DC says is at one of `named`.
    pub(super) fn new(session: TunnelSession, named: Vec<SocketAddr>) -> Self {
        Self {
            session,
            candidates: named,
            stage: Stage::Untried,
            provisional: None,
            heard: None,
            asked: 0,
            waits: 0,
            again: None,
            doubted: false,
            moved_at: 0,
        }
    }

    /// The peer's address, once both directions are proved.
    pub(super) fn proved(&self) -> Option<SocketAddr> {
        match self.stage {
            Stage::Proved { address, .. } => Some(address),
            _ => None,
        }
    }

    /// The peer says, in its message `sequence`, that it is at `address` now: true where that is newer than what it said before, and
    /// another address than the one where it was proved to be. The way there is in doubt.
    pub(super) fn peer_moved(&mut self, sequence: u64, address: SocketAddr) -> bool {
        if sequence <= self.moved_at {
            return false;
        }
        self.moved_at = sequence;
        match &mut self.stage {
            Stage::Proved { address: known, .. } if *known != address => *known = address,
            _ => return false,
        }
        self.doubted = true;
        self.name(address);
        true
    }

    /// Begins a try: the addresses to ask.
    pub(super) fn try_all(&mut self) -> Vec<SocketAddr> {
        (self.asked, self.heard, self.again) = (0, None, None);
        self.candidates.clone()
    }

    /// Notes that the peer is asked now; false where it was asked too often in this try.
    pub(super) fn may_ask(&mut self) -> bool {
        if self.asked == MOST_ASKED {
            return false;
        }
        self.asked += 1;
        if self.proved().is_none() {
            self.stage = Stage::Trying;
        }
        true
    }

    /// The peer's request came from `from`: its direction works, and the next try asks there, too.
    pub(super) fn heard(&mut self, from: SocketAddr) {
        self.heard = Some(from);
        self.name(from);
    }

    /// The peer answered at `address`; false where it had before.
    pub(super) fn prove(&mut self, address: SocketAddr, now: Instant) -> bool {
        if self.proved().is_some() {
            return false;
        }
        self.stage = Stage::Proved { address, since: now };
        (self.again, self.doubted) = (None, false);
        self.name(address);
        true
    }

    /// The peer may be at `address`, too.
    fn name(&mut self, address: SocketAddr) {
        if !self.candidates.contains(&address) {
            // The newest is the likeliest: the peer's NAT may show it at a port that nobody could name.
            self.candidates.truncate(MOST_ASKED - 1);
            self.candidates.insert(0, address);
        }
    }

    /// The peer does not answer any more, or never did.
    pub(super) fn fail(&mut self, now: Instant) {
        (self.provisional, self.doubted) = (None, false);
        let lost = match self.stage {
            Stage::Proved { address, since } => {
                if now.since(since) >= LONGEST_WAIT {
                    self.waits = 0;
                }
                self.heard = None;
                Some(address)
            }
            _ => None,
        };
        self.stage = Stage::Failed { lost };
    }

    /// Has the way tried again after 1, 2, 4 … periods of `keep_alive`, unless that is settled already.
    pub(super) fn try_later(&mut self, keep_alive: Duration, now: Instant) {
        if self.again.is_none() && !self.candidates.is_empty() {
            let wait = keep_alive.saturating_mul(2u32.saturating_pow(self.waits)).min(LONGEST_WAIT);
            self.waits += 1;
            self.again = Some(now + wait);
        }
    }

    /// When the next try is due.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Why packets go through the relay and not this way.
    pub(super) fn why_not(&self) -> String {
        let named: Vec<_> = self.candidates.iter().map(SocketAddr::to_string).collect();
        let named = named.join(", ");
        let later = if self.again.is_some() { "; it is tried again later" } else { "" };
        match (self.stage, self.heard) {
            (Stage::Untried, _) if named.is_empty() => {
                "no address is known where the peer could be reached directly".into()
            }
            (Stage::Untried, _) => format!("the direct way to {named} was not tried yet"),
            (Stage::Trying, None) => format!("the direct way to {named} is being proved"),
            (Stage::Trying, Some(from)) => {
                format!(
                    "the direct way is being proved: the peer's Tunnel Request came from {from}, ours is not answered yet"
                )
            }
            (Stage::Failed { .. }, Some(from)) => {
                format!(
                    "one direction only: the peer's Tunnel Request came from {from}, ours was not answered{later}"
                )
            }
            (Stage::Failed { lost: Some(address) }, None) => {
                format!("the peer stopped answering directly at {address}{later}")
            }
            (Stage::Failed { lost: None }, None) => format!("no direct answer from {named}{later}"),
            (Stage::Proved { address, .. }, _) if self.doubted => {
                format!("an end is at another address: the direct way to {address} is being proved anew")
            }
            (Stage::Proved { address, .. }, _) => format!("the direct way to {address} is proved just now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PathId;
    use crate::crypto::{Purpose, SharedKey};
    use crate::wire::Role;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn direct() -> Direct {
        let key = SharedKey::new([1; 32]);
        let session = TunnelSession::new(&key, Purpose::Tunnel, PathId([1; 16]), 0, false, Role::Initiator);
        Direct::new(session, vec![at(1)])
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// T4.1.2-b: what failed is tried again after 1, 2, 4 … keep-alives, at most 5 minutes; what lasted is believed in anew.
    #[test]
    fn a_failed_way_is_tried_again_ever_later() {
        let (mut direct, mut now) = (direct(), Instant::ZERO);
        let mut waits = Vec::new();
        let mut fail = |direct: &mut Direct, now: Instant| {
            direct.fail(now);
            direct.try_later(secs(5), now);
            direct.try_later(secs(5), now);
            waits.push(direct.again().expect("a time").since(now).as_secs());
        };
        for _ in 0..9 {
            fail(&mut direct, now);
            now = direct.again().expect("a time");
            assert_eq!(direct.try_all(), [at(1)]);
        }
        // Proved for a while, it is as suspect as before.
        assert!(direct.prove(at(2), now) && !direct.prove(at(3), now));
        fail(&mut direct, now + secs(299));
        assert_eq!(direct.try_all(), [at(2), at(1)], "where it answered comes first");
        direct.prove(at(2), now);
        fail(&mut direct, now + secs(300));
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 5]);
    }

    #[test]
    fn a_peer_cannot_make_us_ask_without_bound() {
        let mut direct = direct();
        for _ in 0..2 {
            direct.try_all();
            assert_eq!((0..100).filter(|_| direct.may_ask()).count(), MOST_ASKED);
        }
    }

    #[test]
    fn why_packets_are_relayed() {
        let mut direct = direct();
        let mut said = vec![direct.why_not()];
        let mut say = |direct: &Direct| said.push(direct.why_not());
        direct.try_all();
        direct.may_ask();
        say(&direct);
        direct.heard(at(7));
        say(&direct);
        direct.fail(Instant::ZERO);
        direct.try_later(secs(5), Instant::ZERO);
        say(&direct);
        direct.try_all();
        direct.may_ask();
        direct.prove(at(1), Instant::ZERO);
        direct.fail(Instant::ZERO);
        direct.try_later(secs(5), Instant::ZERO);
        say(&direct);
        direct.try_all();
        direct.may_ask();
        direct.fail(Instant::ZERO);
        say(&direct);
        direct.candidates.clear();
        direct.stage = Stage::Untried;
        say(&direct);
        insta::assert_snapshot!(said.join("\n"), @"
        the direct way to 192.0.2.1:1 was not tried yet
        the direct way to 192.0.2.1:1 is being proved
        the direct way is being proved: the peer's Tunnel Request came from 192.0.2.1:7, ours is not answered yet
        one direction only: the peer's Tunnel Request came from 192.0.2.1:7, ours was not answered; it is tried again later
        the peer stopped answering directly at 192.0.2.1:1; it is tried again later
        no direct answer from 192.0.2.1:7, 192.0.2.1:1
        no address is known where the peer could be reached directly
        ");
    }
}
