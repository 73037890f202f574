//! The connections that conntrack still translates, whatever the map says now.
//!
//! A connection goes on as it began: that is what lets a GN's TCP live through a handover (T4.2.5-b), and a restart of the relay. But
//! once VIP_GN stands for another RIP_GN, what began before must end, or packets would go to the wrong node.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, Tuple};
use ntm_protocol::addr::{Vip, VipRange};
use ntm_protocol::family::Family;
use ntm_protocol::inner::siit;

use super::netlink::Netlink;

/// A translation that connections follow: VIP_GN, RIP_GN.
pub(super) type Pair = (Ipv4Addr, IpAddr);

/// The translations that connections of `family` follow.
pub(super) fn followed(netlink: &mut Netlink, family: Family, vips: VipRange) -> io::Result<BTreeSet<Pair>> {
    let mut pairs = BTreeSet::new();
    each(netlink, family, vips, |pair, _| {
        pairs.insert(pair);
    })?;
    Ok(pairs)
}

/// Ends the connections of `family` through `general` that lead elsewhere than to `real`; how many there were.
pub(super) fn end_others(
    netlink: &mut Netlink,
    family: Family,
    vips: VipRange,
    general: Ipv4Addr,
    real: IpAddr,
) -> io::Result<usize> {
    let mut tuples = Vec::new();
    each(netlink, family, vips, |pair, tuple| {
        if pair.0 == general && pair.1 != real {
            tuples.push(tuple);
        }
    })?;
    let count = tuples.len();
    for tuple in tuples {
        match netlink.conntrack(family, ConntrackMessage::Delete(vec![tuple])) {
            // It ended by itself meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(count)
}

/// Calls `each` with every translated connection: what it follows, and its original tuple, by which conntrack knows it.
fn each(
    netlink: &mut Netlink,
    family: Family,
    vips: VipRange,
    mut each: impl FnMut(Pair, ConntrackAttribute),
) -> io::Result<()> {
    netlink.connections(family, ConntrackMessage::Get(Vec::new()), |message| {
        let ConntrackMessage::New(attributes) = message else { return };
        let (mut original, mut reply) = (None, None);
        for attribute in attributes {
            match &attribute {
                ConntrackAttribute::CtaTupleOrig(tuples) => {
                    original = ends(tuples).map(|ends| (ends, attribute))
                }
                ConntrackAttribute::CtaTupleReply(tuples) => reply = ends(tuples),
                _ => {}
            }
        }
        if let (Some((original, tuple)), Some(reply)) = (original, reply)
            && let Some(pair) = pair(vips, original, reply)
        {
            each(pair, tuple);
        }
    })
}

/// Source and destination.
type Ends = (IpAddr, IpAddr);

/// What a connection follows, by the ends of its original packets and of the answers as conntrack expects them.
fn pair(vips: VipRange, original: Ends, reply: Ends) -> Option<Pair> {
    let is_virtual = |address| virtual_of(address).filter(|address| vips.contains(Vip(*address)));
    if let (Some(_), Some(general)) = (is_virtual(original.0), is_virtual(original.1)) {
        // From a terminal: VIP_MN → VIP_GN, answered by RIP_GN.
        Some((general, reply.0))
    } else if let (Some(_), Some(general)) = (is_virtual(reply.0), is_virtual(reply.1)) {
        // From a general node, as a helper expected it (FTP's active mode): RIP_GN → the relay, answered VIP_MN → VIP_GN.
        Some((general, original.0))
    } else {
        None
    }
}

/// The IPv4 address that `address` is, or holds.
fn virtual_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => siit::embedded(address),
    }
}

fn ends(tuples: &[Tuple]) -> Option<Ends> {
    let addresses = tuples.iter().find_map(|tuple| match tuple {
        Tuple::Ip(addresses) => Some(addresses),
        _ => None,
    })?;
    let (mut source, mut destination) = (None, None);
    for address in addresses {
        match address {
            IPTuple::SourceAddress(address) => source = Some(*address),
            IPTuple::DestinationAddress(address) => destination = Some(*address),
            _ => {}
        }
    }
    Some((source?, destination?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_translation_a_connection_follows() {
        let vips = "198.18.0.0/15".parse().expect("a range");
        let virtuals = [[198, 18, 0, 1], [198, 18, 128, 1]].map(Ipv4Addr::from);
        let v6 = |text: &str| IpAddr::V6(text.parse().expect("an address"));
        for ([terminal, general], [real, relay]) in [
            (virtuals.map(IpAddr::V4), [[203, 0, 113, 80], [203, 0, 113, 20]].map(IpAddr::from)),
            (
                virtuals.map(|address| IpAddr::V6(siit::embed(address))),
                [v6("2001:db8::80"), v6("2001:db8::20")],
            ),
        ] {
            assert_eq!(pair(vips, (terminal, general), (real, relay)), Some((virtuals[1], real)));
            assert_eq!(pair(vips, (real, relay), (terminal, general)), Some((virtuals[1], real)));
            assert_eq!(pair(vips, (real, relay), (relay, real)), None, "the relay's own business");
        }
    }

    #[test]
    fn the_ends_of_a_tuple() {
        let [a, b] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let tuple = |addresses| vec![Tuple::Proto(Vec::new()), Tuple::Ip(addresses)];
        let (source, destination) = (IPTuple::SourceAddress(a), IPTuple::DestinationAddress(b));
        assert_eq!(ends(&tuple(vec![destination.clone(), source])), Some((a, b)));
        assert_eq!(ends(&tuple(vec![destination])), None);
        assert_eq!(ends(&[]), None);
    }
}
