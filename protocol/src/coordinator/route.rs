//! Direct or relayed, and through which relay: pure functions of what the DC knows.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::family::{Families, Family};
use crate::wire::TerminalInformation;

/// Where a terminal is in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// It has a global address.
    Global(SocketAddr),
    /// It is behind a NAT, which shows this address and port. `None` where it speaks with its DC in the other family, so that nobody saw.
    Behind(Option<SocketAddr>),
}

/// Whether an IPv6 address is reachable from everywhere, as far as its form tells: neither a link's nor a site's own (RFC 4193, RFC 4291).
fn is_global(address: Ipv6Addr) -> bool {
    let own = address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback();
    !(own || address.is_unspecified() || address.is_multicast() || address.to_ipv4_mapped().is_some())
}

/// The place of `terminal` in `family`; `None` where it has no address of it.
fn place(terminal: &TerminalInformation, family: Family) -> Option<Place> {
    let mut own = terminal.addresses.iter().filter(|address| Family::of(address.ip()) == family).peekable();
    own.peek()?;
    let seen = Some(terminal.seen).filter(|seen| Family::of(seen.ip()) == family);
    let global = match (seen, family) {
        // What the NAT shows is another address than the terminal has.
        (Some(seen), _) => own.any(|address| address.ip() == seen.ip()).then_some(seen),
        // IPv6 has no NATs: a global address needs no showing.
        (None, Family::V6) => {
            own.copied().find(|address| matches!(address.ip(), IpAddr::V6(address) if is_global(address)))
        }
        (None, Family::V4) => None,
    };
    Some(global.map_or(Place::Behind(seen), Place::Global))
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

/// Decides for `initiator` and `responder`, with the reason: in the family that both have which asks least of NATs, in IPv4 where both
/// ask the same.
pub fn decide(initiator: &TerminalInformation, responder: &TerminalInformation) -> (Decision, &'static str) {
    let in_family = |family| {
        let places = (place(initiator, family)?, place(responder, family)?);
        Some(decide_in(family, initiator, responder, places))
    };
    let decisions = [Family::V4, Family::V6].into_iter().filter_map(in_family);
    match decisions.min_by_key(|(asks, ..)| *asks) {
        Some((_, decision, reason)) => (decision, reason),
        None => (Decision::Relayed, "one end has only IPv4, the other only IPv6"),
    }
}

/// The decision in one family, and how much it asks of NATs.
fn decide_in(
    family: Family,
    initiator: &TerminalInformation,
    responder: &TerminalInformation,
    places: (Place, Place),
) -> (u8, Decision, &'static str) {
    let direct =
        |asks, to_responder: Vec<SocketAddr>, to_initiator: Vec<SocketAddr>, responder_starts, reason| {
            (asks, Decision::Direct { to_responder, to_initiator, responder_starts }, reason)
        };
    let of = |terminal: &TerminalInformation| {
        terminal.addresses.iter().copied().filter(|address| Family::of(address.ip()) == family).collect()
    };
    let list = |address: Option<SocketAddr>| address.into_iter().collect();
    match places {
        (Place::Global(a), Place::Global(b)) => {
            let reason = match family {
                Family::V4 => "both have global addresses",
                Family::V6 => "both have global IPv6 addresses",
            };
            direct(0, vec![b], vec![a], false, reason)
        }
        (Place::Global(a), Place::Behind(b)) => direct(
            1,
            list(b),
            vec![a],
            true,
            "the initiator has a global address, the responder is behind a NAT",
        ),
        (Place::Behind(a), Place::Global(b)) => direct(
            1,
            vec![b],
            list(a),
            false,
            "the responder has a global address, the initiator is behind a NAT",
        ),
        (Place::Behind(Some(a)), Place::Behind(Some(b))) if a.ip() == b.ip() => {
            direct(2, of(responder), of(initiator), false, "both are behind the same NAT")
        }
        (Place::Behind(_), Place::Behind(_)) => (3, Decision::Relayed, "both are behind different NATs"),
    }
}

/// Where a terminal of `families` may try `peer` directly while a relay carries their packets (T4.1.2-b): where the peer was seen, if that
/// is in a family that the terminal has.
pub fn optimise(families: Families, peer: &TerminalInformation) -> Option<SocketAddr> {
    families.choose([peer.seen])
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

/// The address of a general node by which one of the relays, whose families are `relays`, can stand between it and a terminal of `families`;
/// else one that a relay can reach at all. IPv4 first.
pub fn reachable(
    addresses: &[IpAddr],
    families: Families,
    relays: impl Iterator<Item = Families>,
) -> Option<IpAddr> {
    let relays: Vec<Families> = relays.collect();
    let rank = |address: &IpAddr| {
        let family = Family::of(*address);
        let side = [*address].into_iter().collect();
        let served = relays.iter().any(|relay| serves(*relay, &[families, side]));
        #[cfg(feature = "mutants")]
        let served = served || crate::mutants::Mutant::GeneralByIpv4.is_here();
        // While no relay is registered IPv4 still is an address, and the lack of a relay the error.
        let reached = family == Family::V4 || relays.iter().any(|relay| relay.has(family));
        reached.then_some((!served, family, *address))
    };
    addresses
        .iter()
        .filter_map(rank)
        .min_by_key(|(unserved, family, _)| (*unserved, *family))
        .map(|(.., address)| address)
}

/// Whether a relay of `relay` can serve a path whose sides, each an end or a general node, have these families.
pub fn serves(relay: Families, sides: &[Families]) -> bool {
    sides.iter().all(|side| !relay.shared(*side).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{NodeId, Vip};
    use crate::wire::List;

    fn terminal(real: &str, seen: &str) -> TerminalInformation {
        TerminalInformation {
            node: NodeId([0; 16]),
            life: 0,
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

    /// T3.1-d: of the families that both ends have, the one that asks least of NATs; with none, a relay stands between the two.
    #[test]
    fn the_family_that_asks_least_of_nats_serves() {
        let with = |mut terminal: TerminalInformation, more: &str| {
            let all = terminal.addresses.iter().copied().chain([more.parse().unwrap()]).collect();
            terminal.addresses = all;
            terminal
        };
        let v4 = |nat: u8| terminal("10.0.0.1:4330", &format!("203.0.113.{nat}:5000"));
        let v6 = |n: u8| terminal(&format!("[2001:db8::{n}]:4330"), &format!("[2001:db8::{n}]:4330"));
        let decided = |a, b| match decide(&a, &b) {
            (Decision::Direct { to_responder, .. }, reason) => (to_responder.first().copied(), reason),
            (Decision::Relayed, reason) => (None, reason),
        };
        assert_eq!(decided(v4(1), v6(2)), (None, "one end has only IPv4, the other only IPv6"));
        let at = |text: &str| Some(text.parse().unwrap());
        let both_v6 = "both have global IPv6 addresses";
        assert_eq!(decided(v6(1), v6(2)), (at("[2001:db8::2]:4330"), both_v6));
        let dual = |n: u8| with(v4(n), &format!("[2001:db8::{n}]:4330"));
        assert_eq!(decided(dual(1), dual(2)), (at("[2001:db8::2]:4330"), both_v6), "though NATs are between");
        assert_eq!(decided(dual(1), v4(2)), (None, "both are behind different NATs"));
        // An address of a site's own is not one to be reached at from elsewhere.
        let site = |n: u8| with(v4(n), &format!("[fd00::{n}]:4330"));
        assert_eq!(decided(site(1), site(2)), (None, "both are behind different NATs"));
        // One whose DC has only IPv6: what its NAT in IPv4 shows is not known, but it can start.
        let unseen = with(v6(1), "10.0.0.1:4330");
        let global = terminal("203.0.113.9:4330", "203.0.113.9:4330");
        let (decision, _) = decide(&global, &unseen);
        let starts = Decision::Direct {
            to_responder: vec![],
            to_initiator: vec![global.seen],
            responder_starts: true,
        };
        assert_eq!(decision, starts);
        // Of two ways that ask the same, IPv4.
        let both = |n: u8| {
            with(terminal(&format!("203.0.113.{n}:1"), &format!("203.0.113.{n}:1")), "[2001:db8::9]:1")
        };
        assert_eq!(decided(both(1), both(2)).0, at("203.0.113.2:1"));
    }

    #[test]
    fn ipv6_addresses_of_general_nodes_need_a_relay_that_has_ipv6() {
        let at = |text: &str| -> IpAddr { text.parse().unwrap() };
        let relay = |text: &str| [at(text)].into_iter().collect::<Families>();
        let (v4, v6) = (at("192.0.2.1"), at("2001:db8::1"));
        let (old, new) = (relay("203.0.113.5"), relay("2001:db8::5"));
        let both: Families = [v4, v6].into_iter().collect();
        assert_eq!(reachable(&[v6, v4], both, [old, new].into_iter()), Some(v4));
        assert_eq!(reachable(&[v6], both, [old, new].into_iter()), Some(v6));
        assert_eq!(reachable(&[v6], both, [old].into_iter()), None);
        assert_eq!(reachable(&[v4], both, [].into_iter()), Some(v4));
        // Of a general node that has both, the address to which a relay leads from where the terminal is.
        assert_eq!(reachable(&[v4, v6], both, [new].into_iter()), Some(v6));
        assert_eq!(reachable(&[v4, v6], new, [old, new].into_iter()), Some(v6));
        assert_eq!(reachable(&[v4, v6], old, [new].into_iter()), Some(v4), "none does");
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
