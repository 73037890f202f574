//! Direct or relayed, and through which relay: pure functions of what the DC knows.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::wire::TerminalInformation;

/// Whether the NAT shows another address than the terminal has: it is behind one.
fn behind_nat(terminal: &TerminalInformation) -> bool {
    !terminal.addresses.iter().any(|address| address.ip() == terminal.seen.ip())
}

/// How two terminals are to talk (T3.1-d).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// End to end; for initiator and responder each: the peer's addresses, and which of the two starts.
    Direct {
        /// Where the initiator reaches the responder.
        to_responder: Vec<SocketAddr>,
        /// Where the responder reaches the initiator.
        to_initiator: Vec<SocketAddr>,
        /// Whether the responder sends the first Tunnel Request: it is the one behind a NAT.
        responder_starts: bool,
    },
    /// Through an RS-S; both try the addresses that the NATs showed once the path stands (T4.1.2-b).
    Relayed,
}

/// Decides for `initiator` and `responder`, with the reason.
pub fn decide(initiator: &TerminalInformation, responder: &TerminalInformation) -> (Decision, &'static str) {
    let direct = |to_responder: Vec<SocketAddr>, to_initiator: Vec<SocketAddr>, responder_starts, reason| {
        (Decision::Direct { to_responder, to_initiator, responder_starts }, reason)
    };
    match (behind_nat(initiator), behind_nat(responder)) {
        (true, true) if initiator.seen.ip() == responder.seen.ip() => direct(
            responder.addresses.to_vec(),
            initiator.addresses.to_vec(),
            false,
            "both are behind the same NAT",
        ),
        (true, true) => (Decision::Relayed, "both are behind different NATs"),
        (false, true) => direct(
            vec![responder.seen],
            vec![initiator.seen],
            true,
            "the initiator has a global address, the responder is behind a NAT",
        ),
        (true, false) => direct(
            vec![responder.seen],
            vec![initiator.seen],
            false,
            "the responder has a global address, the initiator is behind a NAT",
        ),
        (false, false) => {
            direct(vec![responder.seen], vec![initiator.seen], false, "both have global addresses")
        }
    }
}

/// How a DC picks one of several relays (T4-a).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// The least RTT(MN–RS) + RTT(RS–peer) + load term.
    #[default]
    Best,
    /// Any, to compare with.
    Random,
    /// The first by Node ID, to compare with.
    First,
}

/// What a relay costs a path, in microseconds: the round trip to each end of it that measures, and a term for its load (thousandths) that
/// doubles them on a full relay. A general node measures nothing: what lies between it and a relay is left out, for all relays alike.
pub fn score(rtts: &[Option<u32>], load: u16) -> u64 {
    /// Stands in for an RTT that was not measured yet: worse than any near relay, better than the far side of the world.
    const UNMEASURED: u32 = 100_000;
    let rtt: u64 = rtts.iter().map(|rtt| u64::from(rtt.unwrap_or(UNMEASURED))).sum();
    rtt + rtt * u64::from(load) / 1000
}

/// The address of a general node that a relay can reach: IPv4 first.
pub fn reachable(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().find(IpAddr::is_ipv4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{NodeId, Vip};
    use crate::wire::List;

    fn terminal(real: &str, seen: &str) -> TerminalInformation {
        TerminalInformation {
            node: NodeId([0; 16]),
            vip: Vip([198, 18, 0, 1].into()),
            addresses: [real.parse().unwrap()].into_iter().collect(),
            seen: seen.parse().unwrap(),
            rtts: List::default(),
        }
    }

    /// T3.1-d: a relay only where both are behind different NATs; the end behind a NAT starts.
    #[test]
    fn where_the_ends_are_decides_the_way() {
        let global = |n: u8| terminal(&format!("203.0.113.{n}:4330"), &format!("203.0.113.{n}:4330"));
        let behind =
            |nat: u8, n: u8| terminal(&format!("10.0.0.{n}:4330"), &format!("203.0.113.{nat}:5{n:03}"));
        let starts = |a, b| match decide(&a, &b).0 {
            Decision::Direct { responder_starts, .. } => Some(responder_starts),
            Decision::Relayed => None,
        };
        assert_eq!(starts(global(1), global(2)), Some(false));
        assert_eq!(starts(behind(9, 1), global(2)), Some(false));
        assert_eq!(starts(global(1), behind(9, 2)), Some(true));
        assert_eq!(starts(behind(8, 1), behind(9, 2)), None);
        let (Decision::Direct { to_responder, .. }, _) = decide(&behind(9, 1), &behind(9, 2)) else {
            panic!()
        };
        assert_eq!(to_responder, ["10.0.0.2:4330".parse().unwrap()], "behind one NAT, the real address");
    }

    /// T4-a, T7-a.
    #[test]
    fn a_near_and_idle_relay_scores_best() {
        assert!(score(&[Some(1_000), Some(1_000)], 0) < score(&[Some(5_000), Some(1_000)], 0));
        assert!(score(&[Some(1_000), Some(1_000)], 900) > score(&[Some(1_200), Some(1_200)], 0));
        assert!(score(&[Some(80_000), None], 0) < score(&[None, None], 0));
        // With a general node only the way to the terminal counts.
        assert!(score(&[Some(1_000)], 100) < score(&[Some(5_000)], 0));
    }
}
