//! Networks and the NATs between them: where a datagram goes next. In IPv6 a router translates nothing: what is behind it is reachable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use ntm_nat::{Behaviour, Forward, ForwardError, Side, Translator};
use ntm_protocol::prefetch::prefetch;
use ntm_protocol::time::{Duration, Instant};

use crate::HostId;
use crate::impair::Impairment;
use crate::link::{Link, Wire};
use crate::neighbours::Neighbours;
use crate::packet::Packet;
use crate::pieces::ETHERNET;

/// A network: the public one, or one behind a NAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetworkId(usize);

/// The public network.
pub const INTERNET: NetworkId = NetworkId(0);

/// A NAT router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouterId(usize);

/// Where a datagram on a network goes next.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// To a host of that network, over its link.
    Host(HostId, WireId),
    /// Up to the outer side of a NAT.
    Up(RouterId, NetworkId, Packet),
    /// Down to the inner network of a NAT, by way of [`Networks::inward`].
    Down(RouterId),
    /// Back into the same network (hairpinning).
    Back(Packet),
    /// Nowhere: it must not be cut up, and is longer than this router passes on.
    TooBig(RouterId),
    /// Nowhere.
    Lost,
}

/// A link that is in place between a host and a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WireId(u32);

enum Owner {
    /// A host, and what stands between it and the network.
    Host(HostId, WireId),
    Router(RouterId),
}

#[derive(Default)]
struct Network {
    /// Asked by address alone: its order means nothing.
    owners: HashMap<IpAddr, Owner, FixedState>,
    /// The router that leads out.
    gateway: Option<RouterId>,
}

/// Who is on a network: a host's address, or a router, on whichever side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Neighbour {
    Host(IpAddr),
    Router(RouterId),
}

struct Router {
    name: Arc<str>,
    nat: Translator,
    inside: NetworkId,
    outside: NetworkId,
    uplink: Wire,
    /// The longest packet that it passes on, in bytes.
    mtu: u16,
}

/// All networks and routers.
pub(crate) struct Networks {
    networks: Vec<Network>,
    routers: Vec<Router>,
    /// The links of hosts, and which places of them are free.
    wires: Vec<Wire>,
    free: Vec<WireId>,
    /// From which address of the public network which other is not reached.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// How much longer datagrams between two public addresses take.
    apart: BTreeMap<(IpAddr, IpAddr), Duration>,
    neighbours: Neighbours<NetworkId, Neighbour>,
}

impl Default for Networks {
    fn default() -> Self {
        Self {
            networks: vec![Network::default()],
            routers: Vec::new(),
            wires: Vec::new(),
            free: Vec::new(),
            cut: BTreeSet::new(),
            apart: BTreeMap::new(),
            neighbours: Neighbours::default(),
        }
    }
}

impl Networks {
    /// A NAT of `behaviour` at `external` of the network `outside`, and the new network behind it.
    pub(crate) fn router(
        &mut self,
        name: &str,
        behaviour: Behaviour,
        (outside, external): (NetworkId, IpAddr),
        uplink: &Link,
        seed: [u8; 32],
    ) -> (RouterId, NetworkId) {
        let (id, inside) = (RouterId(self.routers.len()), NetworkId(self.networks.len()));
        let nat = Translator::new(behaviour, external, &[], seed).expect("there are no forwards to be wrong");
        let uplink = Wire::new(uplink, seed);
        self.networks.push(Network { gateway: Some(id), ..Network::default() });
        self.routers.push(Router { name: name.into(), nat, inside, outside, uplink, mtu: ETHERNET });
        self.claim(outside, external, Owner::Router(id));
        (id, inside)
    }

    fn claim(&mut self, network: NetworkId, address: IpAddr, owner: Owner) {
        let taken = self.networks[network.0].owners.insert(address, owner);
        assert!(taken.is_none(), "{address} has two owners: give each host and router an address of its own");
    }

    /// `host` has `address` in `network` from now on, over `link`.
    pub(crate) fn attach(
        &mut self,
        (network, address): (NetworkId, IpAddr),
        host: HostId,
        link: &Link,
        seed: [u8; 32],
    ) -> WireId {
        let wire = Wire::new(link, seed);
        let id = match self.free.pop() {
            Some(id) => {
                self.wires[id.0 as usize] = wire;
                id
            }
            None => {
                self.wires.push(wire);
                WireId(u32::try_from(self.wires.len() - 1).expect("four billion links do not fit a memory"))
            }
        };
        self.claim(network, address, Owner::Host(host, id));
        // What a router without NAT has behind it is reached by its own address.
        if let Some((router, outside)) = self.routed(network) {
            self.claim(outside, address, Owner::Router(router));
        }
        id
    }

    /// Nobody has `address` in `network` from now on.
    pub(crate) fn detach(&mut self, network: NetworkId, address: IpAddr) {
        self.neighbours.forget(network, Neighbour::Host(address));
        let left = &mut self.networks[network.0];
        if let Some(Owner::Host(_, wire)) = left.owners.remove(&address) {
            self.free.push(wire);
        }
        if let Some((_, outside)) = self.routed(network) {
            self.networks[outside.0].owners.remove(&address);
        }
    }

    /// The router without NAT that `network` is behind, and the network on its other side.
    fn routed(&self, network: NetworkId) -> Option<(RouterId, NetworkId)> {
        let id = self.networks[network.0].gateway?;
        let router = &self.routers[id.0];
        (router.nat.behaviour() == Behaviour::None).then_some((id, router.outside))
    }

    /// The link of whoever has `address` in `network`.
    pub(crate) fn wire_at(&self, network: NetworkId, address: IpAddr) -> Option<WireId> {
        match self.networks[network.0].owners.get(&address)? {
            Owner::Host(_, wire) => Some(*wire),
            Owner::Router(_) => None,
        }
    }

    /// A link.
    pub(crate) fn wire(&mut self, id: WireId) -> &mut Wire {
        &mut self.wires[id.0 as usize]
    }

    /// `datagram`, which is on `network`, is going to ask for the link that it goes over.
    pub(crate) fn fetch_owner(&self, network: NetworkId, datagram: &Packet) {
        if let Some(wire) = self.wire_at(network, datagram.destination.ip()) {
            self.prefetch(wire);
        }
    }

    /// A link is going to be asked for.
    pub(crate) fn prefetch(&self, id: WireId) {
        prefetch(&self.wires[id.0 as usize]);
    }

    /// When `from` can send to `to` on `network`, if it wants to at `now`: it may have to find out who its next hop is.
    pub(crate) fn ready(&mut self, network: NetworkId, from: Neighbour, to: IpAddr, now: Instant) -> Instant {
        let there = &self.networks[network.0];
        let behind = || to.is_ipv6().then(|| self.towards(network, to)).flatten();
        let hop = match there.owners.get(&to) {
            Some(Owner::Host(..)) => Neighbour::Host(to),
            Some(Owner::Router(router)) => Neighbour::Router(*router),
            None => match behind().or(there.gateway) {
                Some(router) => Neighbour::Router(router),
                // Nobody will answer.
                None => return now,
            },
        };
        let takes = |end: Neighbour| match end {
            Neighbour::Host(address) => match there.owners.get(&address) {
                Some(Owner::Host(_, wire)) => self.wires[wire.0 as usize].round_trip(),
                _ => Duration::ZERO,
            },
            // Its inner side has no link.
            Neighbour::Router(RouterId(id)) => match &self.routers[id] {
                router if router.outside == network => router.uplink.round_trip(),
                _ => Duration::ZERO,
            },
        };
        self.neighbours.ready(network, (from, hop), || takes(from) + takes(hop), now)
    }

    /// Datagrams from one public address to another are lost from now on; those of the other direction are not.
    pub(crate) fn cut_one_way(&mut self, from: IpAddr, to: IpAddr) {
        self.cut.insert((from, to));
    }

    /// Every cut is mended.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Datagrams between two public addresses take `longer` than their links do, in both directions.
    pub(crate) fn part(&mut self, a: IpAddr, b: IpAddr, longer: Duration) {
        self.apart.extend([((a, b), longer), ((b, a), longer)]);
    }

    /// How much longer than its link a datagram on `network` takes.
    pub(crate) fn distance(&self, network: NetworkId, datagram: &Packet) -> Duration {
        let ends = (datagram.source.ip(), datagram.destination.ip());
        self.apart.get(&ends).copied().filter(|_| network == INTERNET).unwrap_or_default()
    }

    /// Changes every link.
    pub(crate) fn impair(&mut self, change: impl Fn(&mut Impairment)) {
        // Those that are nobody's are new when they are taken.
        let uplinks = self.routers.iter_mut().map(|router| &mut router.uplink);
        self.wires.iter_mut().chain(uplinks).for_each(|wire| wire.change(&change));
    }

    /// The NAT of a router forwards these ports from now on; it begins anew.
    pub(crate) fn forward(
        &mut self,
        router: RouterId,
        external: IpAddr,
        forwards: &[Forward],
        seed: [u8; 32],
    ) -> Result<(), ForwardError> {
        let router = &mut self.routers[router.0];
        router.nat = Translator::new(router.nat.behaviour(), external, forwards, seed)?;
        Ok(())
    }

    /// The uplink of a router.
    pub(crate) fn uplink(&mut self, router: RouterId) -> &mut Wire {
        &mut self.routers[router.0].uplink
    }

    /// A router passes on no packets longer than `mtu` bytes.
    pub(crate) fn narrow(&mut self, router: RouterId, mtu: u16) {
        self.routers[router.0].mtu = mtu;
    }

    /// The longest packet that a router passes on.
    pub(crate) fn limit(&self, router: RouterId) -> u16 {
        self.routers[router.0].mtu
    }

    /// The address by which a router speaks to `to`.
    pub(crate) fn speaker(&self, router: RouterId, to: IpAddr) -> Option<IpAddr> {
        let outside = self.routers[router.0].outside;
        let of_family = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
        let owned = |(address, owner): (&IpAddr, &Owner)| match owner {
            Owner::Router(owner) if *owner == router && of_family(address) => Some(*address),
            _ => None,
        };
        self.networks[outside.0].owners.iter().filter_map(owned).min()
    }

    /// The longest packet that comes to hosts of `network`.
    pub(crate) fn mtu(&self, network: NetworkId) -> u16 {
        self.networks[network.0].gateway.map_or(ETHERNET, |router| self.routers[router.0].mtu)
    }

    /// Whether `packet` must not be cut up, and is longer than `router` passes on.
    pub(crate) fn is_too_big(&self, router: RouterId, packet: &Packet) -> bool {
        let mtu = self.routers[router.0].mtu;
        packet.whole && mtu < ETHERNET && packet.length() > mtu.into()
    }

    /// The network outside of a router.
    pub(crate) fn outside(&self, router: RouterId) -> NetworkId {
        self.routers[router.0].outside
    }

    /// A router's name.
    pub(crate) fn name(&self, router: RouterId) -> &Arc<str> {
        &self.routers[router.0].name
    }

    /// The router called `name`.
    pub(crate) fn router_named(&self, name: &str) -> Option<RouterId> {
        self.routers.iter().position(|router| *router.name == *name).map(RouterId)
    }

    /// Where `datagram`, which is on `network`, goes next.
    pub(crate) fn next(&mut self, network: NetworkId, datagram: &Packet, now: Instant) -> Next {
        let Packet { source, destination, .. } = *datagram;
        if network == INTERNET && self.cut.contains(&(source.ip(), destination.ip())) {
            return Next::Lost;
        }
        match self.networks[network.0].owners.get(&destination.ip()) {
            Some(Owner::Host(host, wire)) => return Next::Host(*host, *wire),
            Some(Owner::Router(router)) => return Next::Down(*router),
            None => {}
        }
        if destination.is_ipv6()
            && let Some(router) = self.towards(network, destination.ip())
        {
            return Next::Down(router);
        }
        let Some(id) = self.networks[network.0].gateway else { return Next::Lost };
        if self.is_too_big(id, datagram) {
            return Next::TooBig(id);
        }
        let router = &mut self.routers[id.0];
        if destination.is_ipv6() {
            return Next::Up(id, router.outside, datagram.clone());
        }
        let Some(flow) = datagram.flow() else { return Next::Lost };
        if datagram.is_error() {
            return match router.nat.outbound_error(flow, now) {
                Ok(quoted) => Next::Up(id, router.outside, datagram.clone().translated(quoted)),
                Err(_) => Next::Lost,
            };
        }
        match router.nat.outbound(flow, now) {
            Ok(translated) => {
                let datagram = datagram.clone().translated(translated.flow);
                match translated.to {
                    Side::Outside => Next::Up(id, router.outside, datagram),
                    Side::Inside => Next::Back(datagram),
                }
            }
            Err(_) => Next::Lost,
        }
    }

    /// The router on `network` behind which `address` is, at whatever depth.
    fn towards(&self, network: NetworkId, address: IpAddr) -> Option<RouterId> {
        let on_it = self.routers.iter().enumerate().filter(|(_, router)| router.outside == network);
        let is_behind = |router: &Router| {
            let inside = &self.networks[router.inside.0];
            inside.owners.contains_key(&address) || self.towards(router.inside, address).is_some()
        };
        on_it.filter(|(_, router)| is_behind(router)).map(|(id, _)| RouterId(id)).next()
    }

    /// A datagram that came to the outer side of `router`: as it goes on inside, if the NAT lets it in.
    pub(crate) fn inward(
        &mut self,
        router: RouterId,
        datagram: Packet,
        now: Instant,
    ) -> Option<(NetworkId, Packet)> {
        let router = &mut self.routers[router.0];
        if datagram.destination.is_ipv6() {
            return Some((router.inside, datagram));
        }
        let flow = datagram.flow()?;
        let flow = match datagram.is_error() {
            true => router.nat.inbound_error(flow, now).ok()?,
            false => router.nat.inbound(flow, now).ok()?.flow,
        };
        let datagram = datagram.translated(flow);
        // Nothing but its own network is behind a router that does not translate.
        let inside = &self.networks[router.inside.0];
        let is_inside = inside.owners.contains_key(&datagram.destination.ip());
        let passes = router.nat.behaviour() != Behaviour::None || is_inside;
        passes.then_some((router.inside, datagram))
    }

    /// The name of the router that has `address` on its outer side.
    pub(crate) fn router_at(&self, address: IpAddr) -> Option<&str> {
        let owners = self.networks.iter().filter_map(|network| network.owners.get(&address));
        owners
            .filter_map(|owner| match owner {
                Owner::Router(router) => Some(&*self.routers[router.0].name),
                Owner::Host(..) => None,
            })
            .next()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn datagram(source: &str, destination: &str) -> Packet {
        Packet::udp(at(source), at(destination), vec![7])
    }

    fn attach(nets: &mut Networks, network: NetworkId, address: &str, host: usize) {
        let address = address.parse().unwrap();
        nets.attach((network, address), HostId(host), &Link::default(), [host as u8; 32]);
    }

    #[test]
    fn datagrams_find_their_way_through_nats_and_back() {
        let (mut nets, now) = (Networks::default(), Instant::ZERO);
        let outer = (INTERNET, at("203.0.113.1:1").ip());
        let link = Link::default();
        let (nat, inside) = nets.router("nat", Behaviour::PORT_RESTRICTED, outer, &link, [1; 32]);
        attach(&mut nets, inside, "10.0.0.2", 0);
        attach(&mut nets, INTERNET, "203.0.113.9", 1);
        let out = datagram("10.0.0.2:4330", "203.0.113.9:4330");
        let Next::Up(_, INTERNET, sent) = nets.next(inside, &out, now) else { panic!() };
        assert_eq!(sent.source, at("203.0.113.1:4330"));
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Host(HostId(1), WireId(1)));
        let back = datagram("203.0.113.9:4330", "203.0.113.1:4330");
        assert_eq!(nets.next(INTERNET, &back, now), Next::Down(nat));
        let (network, inner) = nets.inward(nat, back, now).unwrap();
        assert_eq!((network, inner.destination), (inside, at("10.0.0.2:4330")));
        assert_eq!(nets.inward(nat, datagram("203.0.113.8:1", "203.0.113.1:4330"), now), None, "filtered");
        assert_eq!(nets.next(INTERNET, &datagram("203.0.113.9:1", "203.0.113.77:1"), now), Next::Lost);
        nets.cut_one_way(at("203.0.113.9:0").ip(), at("203.0.113.1:0").ip());
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Host(HostId(1), WireId(1)), "the other direction");
        nets.cut_one_way(at("203.0.113.1:0").ip(), at("203.0.113.9:0").ip());
        assert_eq!(nets.next(INTERNET, &sent, now), Next::Lost);
    }

    #[test]
    fn hosts_behind_a_plain_router_are_reached_by_their_own_addresses() {
        let (mut nets, now) = (Networks::default(), Instant::ZERO);
        let outer = (INTERNET, at("203.0.113.1:1").ip());
        let (router, inside) = nets.router("ap", Behaviour::None, outer, &Link::default(), [1; 32]);
        attach(&mut nets, inside, "192.0.2.2", 0);
        attach(&mut nets, INTERNET, "203.0.113.9", 1);
        let out = datagram("192.0.2.2:4330", "203.0.113.9:4330");
        assert_eq!(nets.next(inside, &out, now), Next::Up(router, INTERNET, out.clone()));
        let back = datagram("203.0.113.9:4330", "192.0.2.2:4330");
        assert_eq!(nets.next(INTERNET, &back, now), Next::Down(router));
        assert_eq!(nets.inward(router, back.clone(), now), Some((inside, back.clone())));
        assert_eq!(nets.next(inside, &back, now), Next::Host(HostId(0), WireId(0)));
        nets.detach(inside, at("192.0.2.2:1").ip());
        assert_eq!(nets.next(INTERNET, &back, now), Next::Lost);
    }
}
