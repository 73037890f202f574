//! Networks and the NATs between them: where a datagram goes next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ntm_nat::{Behaviour, Flow, Side, Translator};
use ntm_protocol::time::Instant;

use crate::HostId;
use crate::link::Link;

/// A network: the public one, or one behind a NAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetworkId(usize);

/// The public network.
pub const INTERNET: NetworkId = NetworkId(0);

/// A NAT router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouterId(usize);

/// A UDP datagram under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source address and port, as they are at this point of the way.
    pub source: SocketAddr,
    /// Destination address and port, as they are at this point of the way.
    pub destination: SocketAddr,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Where a datagram on a network goes next.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// To a host of that network.
    Host(HostId),
    /// Up to the outer side of a NAT.
    Up(RouterId, NetworkId, Datagram),
    /// Down to the inner network of a NAT, by way of [`Networks::inward`].
    Down(RouterId),
    /// Back into the same network (hairpinning).
    Back(Datagram),
    /// Nowhere.
    Lost,
}

#[derive(Clone, Copy)]
enum Owner {
    Host(HostId),
    Router(RouterId),
}

#[derive(Default)]
struct Network {
    owners: BTreeMap<IpAddr, Owner>,
    /// The NAT that leads out.
    gateway: Option<RouterId>,
}

struct Router {
    name: String,
    nat: Translator,
    inside: NetworkId,
    outside: NetworkId,
    uplink: Link,
}

/// All networks and routers.
pub(crate) struct Networks {
    networks: Vec<Network>,
    routers: Vec<Router>,
    /// From which address of the public network which other is not reached.
    cut: BTreeSet<(IpAddr, IpAddr)>,
}

impl Default for Networks {
    fn default() -> Self {
        Self { networks: vec![Network::default()], routers: Vec::new(), cut: BTreeSet::new() }
    }
}

impl Networks {
    /// A NAT of `behaviour` at `external` of the network `outside`, and the new network behind it.
    pub(crate) fn router(
        &mut self,
        name: &str,
        behaviour: Behaviour,
        (outside, external): (NetworkId, IpAddr),
        uplink: Link,
        seed: [u8; 32],
    ) -> (RouterId, NetworkId) {
        let (id, inside) = (RouterId(self.routers.len()), NetworkId(self.networks.len()));
        let nat = Translator::new(behaviour, external, &[], seed).expect("there are no forwards to be wrong");
        self.networks.push(Network { gateway: Some(id), ..Network::default() });
        self.routers.push(Router { name: name.to_owned(), nat, inside, outside, uplink });
        self.claim(outside, external, Owner::Router(id));
        (id, inside)
    }

    fn claim(&mut self, network: NetworkId, address: IpAddr, owner: Owner) {
        let taken = self.networks[network.0].owners.insert(address, owner);
        assert!(taken.is_none(), "{address} has two owners: give each host and router an address of its own");
    }

    /// `host` has `address` in `network` from now on.
    pub(crate) fn attach(&mut self, network: NetworkId, address: IpAddr, host: HostId) {
        self.claim(network, address, Owner::Host(host));
    }

    /// Nobody has `address` in `network` from now on.
    pub(crate) fn detach(&mut self, network: NetworkId, address: IpAddr) {
        self.networks[network.0].owners.remove(&address);
    }

    /// Datagrams from one public address to another are lost from now on; those of the other direction are not.
    pub(crate) fn cut_one_way(&mut self, from: IpAddr, to: IpAddr) {
        self.cut.insert((from, to));
    }

    /// Every cut is mended.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Sets the impairments of every uplink; delays stay.
    pub(crate) fn impair(&mut self, change: impl Fn(&mut Link)) {
        self.routers.iter_mut().for_each(|router| change(&mut router.uplink));
    }

    /// The uplink of a router.
    pub(crate) fn uplink(&self, router: RouterId) -> &Link {
        &self.routers[router.0].uplink
    }

    /// Where `datagram`, which is on `network`, goes next.
    pub(crate) fn next(&mut self, network: NetworkId, datagram: &Datagram, now: Instant) -> Next {
        let (source, destination) = (datagram.source, datagram.destination);
        if network == INTERNET && self.cut.contains(&(source.ip(), destination.ip())) {
            return Next::Lost;
        }
        match self.networks[network.0].owners.get(&destination.ip()) {
            Some(Owner::Host(host)) => return Next::Host(*host),
            Some(Owner::Router(router)) => return Next::Down(*router),
            None => {}
        }
        let Some(id) = self.networks[network.0].gateway else { return Next::Lost };
        let router = &mut self.routers[id.0];
        match router.nat.outbound(Flow::udp(source, destination), now) {
            Ok(translated) => {
                let flow = translated.flow;
                let datagram =
                    Datagram { source: flow.source, destination: flow.destination, ..datagram.clone() };
                match translated.to {
                    Side::Outside => Next::Up(id, router.outside, datagram),
                    Side::Inside => Next::Back(datagram),
                }
            }
            Err(_) => Next::Lost,
        }
    }

    /// A datagram that came to the outer side of `router`: as it goes on inside, if the NAT lets it in.
    pub(crate) fn inward(
        &mut self,
        router: RouterId,
        datagram: Datagram,
        now: Instant,
    ) -> Option<(NetworkId, Datagram)> {
        let router = &mut self.routers[router.0];
        let flow = router.nat.inbound(Flow::udp(datagram.source, datagram.destination), now).ok()?.flow;
        Some((router.inside, Datagram { source: flow.source, destination: flow.destination, ..datagram }))
    }

    /// The name of the router that has `address` on its outer side.
    pub(crate) fn router_at(&self, address: IpAddr) -> Option<&str> {
        let owners = self.networks.iter().filter_map(|network| network.owners.get(&address));
        owners
            .filter_map(|owner| match owner {
                Owner::Router(router) => Some(self.routers[router.0].name.as_str()),
                Owner::Host(_) => None,
            })
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn datagram(source: &str, destination: &str) -> Datagram {
        Datagram { source: at(source), destination: at(destination), payload: vec![7] }
    }

    #[test]
    fn datagrams_find_their_way_through_nats_and_back() {
        let (mut nets, now) = (Networks::default(), Instant::ZERO);
        let uplink = Link::of(std::time::Duration::ZERO);
        let outer = (INTERNET, at("203.0.113.1:1").ip());
        let (nat, inside) = nets.router("nat", Behaviour::PORT_RESTRICTED, outer, uplink, [1; 32]);
        nets.attach(inside, at("10.0.0.2:1").ip(), HostId(0));
        nets.attach(INTERNET, at("203.0.113.9:1").ip(), HostId(1));
        let out = datagram("10.0.0.2:4330", "203.0.113.9:4330");
        let Next::Up(_, INTERNET, sent) = nets.next(inside, &out, now) else { panic!() };
        assert_eq!(sent.source, at("203.0.113.1:4330"));
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Host(HostId(1)));
        let back = datagram("203.0.113.9:4330", "203.0.113.1:4330");
        assert_eq!(nets.next(INTERNET, &back, now), Next::Down(nat));
        let (network, inner) = nets.inward(nat, back, now).unwrap();
        assert_eq!((network, inner.destination), (inside, at("10.0.0.2:4330")));
        assert_eq!(nets.inward(nat, datagram("203.0.113.8:1", "203.0.113.1:4330"), now), None, "filtered");
        assert_eq!(nets.next(INTERNET, &datagram("203.0.113.9:1", "203.0.113.77:1"), now), Next::Lost);
        nets.cut_one_way(at("203.0.113.9:0").ip(), at("203.0.113.1:0").ip());
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Host(HostId(1)), "the other direction");
        nets.cut_one_way(at("203.0.113.1:0").ip(), at("203.0.113.9:0").ip());
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Lost);
    }
}
