//! RS-N's two translations, as Netfilter does them (T4.2.3-a, T5.1.2-a): VIP_GN becomes RIP_GN, VIP_MN becomes RIP_RS, and the connection
//! is remembered, so that answers find back (T5.4.1-a).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use ntm_protocol::addr::Vip;
use ntm_protocol::time::{Duration, Instant};

use crate::network::Datagram;
use crate::packet::{Packet, Protocol};

/// How long an idle connection is remembered: Linux's `nf_conntrack_udp_timeout_stream`, and for TCP `nf_conntrack_tcp_timeout_established`.
const REMEMBERED: Duration = Duration::from_secs(120);
const REMEMBERED_TCP: Duration = Duration::from_secs(432_000);

/// Protocol, source and destination of packets on MN's side.
type Inner = (Protocol, SocketAddrV4, SocketAddrV4);
/// Protocol, source and destination of packets on the general node's side, in either family (T3.1-d).
type Outer = (Protocol, SocketAddr, SocketAddr);

/// The translations of one relay.
#[derive(Debug)]
pub(crate) struct Masquerade {
    outer: Vec<IpAddr>,
    general: BTreeMap<Vip, IpAddr>,
    /// As MN sends it → as it leaves, and when it was used last.
    leaving: BTreeMap<Inner, (Outer, Instant)>,
    /// As GN's answer comes → as MN sends it.
    coming: BTreeMap<Outer, Inner>,
}

impl Masquerade {
    /// No translation yet, by a relay at `outer`.
    pub(crate) fn new(outer: Vec<IpAddr>) -> Self {
        Self { outer, general: BTreeMap::new(), leaving: BTreeMap::new(), coming: BTreeMap::new() }
    }

    /// Packets to `general` go to `real`; false where that cannot be done.
    pub(crate) fn add(&mut self, general: Vip, real: IpAddr) -> bool {
        let possible = self.outer_for(real).is_some();
        if possible {
            self.general.insert(general, real);
        }
        possible
    }

    /// The relay's own address towards `real`.
    fn outer_for(&self, real: IpAddr) -> Option<IpAddr> {
        self.outer.iter().copied().find(|outer| outer.is_ipv4() == real.is_ipv4())
    }

    /// Packets to `general` go nowhere.
    pub(crate) fn remove(&mut self, general: Vip) {
        self.general.remove(&general);
    }

    /// A packet from MN, as it leaves for the general node.
    pub(crate) fn leave(&mut self, packet: Packet, now: Instant) -> Option<Datagram> {
        let inner = (packet.protocol, packet.source, packet.destination);
        self.forget_if_idle(inner, now);
        let outer = match self.leaving.get(&inner) {
            Some((outer, _)) => *outer,
            None => {
                let Packet { protocol, source, destination, .. } = packet;
                let real = *self.general.get(&Vip(*destination.ip()))?;
                let (own, destination) = (self.outer_for(real)?, SocketAddr::new(real, destination.port()));
                // The source port stays where that is unambiguous, else the next free one serves.
                let ports = (source.port()..=u16::MAX).chain(1024..source.port());
                let mut sources = ports.map(|port| SocketAddr::new(own, port));
                let is_free =
                    |source: &SocketAddr| !self.coming.contains_key(&(protocol, destination, *source));
                let source = sources.find(is_free)?;
                self.coming.insert((protocol, destination, source), inner);
                (protocol, source, destination)
            }
        };
        self.leaving.insert(inner, (outer, now));
        let Packet { protocol, payload, .. } = packet;
        Some(Datagram { protocol, source: outer.1, destination: outer.2, payload })
    }

    /// An answer from a general node, as MN expects it.
    pub(crate) fn come(&mut self, datagram: Datagram, now: Instant) -> Option<Packet> {
        let inner = *self.coming.get(&(datagram.protocol, datagram.source, datagram.destination))?;
        self.forget_if_idle(inner, now);
        self.leaving.get_mut(&inner)?.1 = now;
        let Datagram { protocol, payload, .. } = datagram;
        Some(Packet { protocol, source: inner.2, destination: inner.1, payload })
    }

    /// Whether a datagram answers a translated one.
    pub(crate) fn expects(&self, datagram: &Datagram) -> bool {
        self.coming.contains_key(&(datagram.protocol, datagram.source, datagram.destination))
    }

    fn forget_if_idle(&mut self, inner: Inner, now: Instant) {
        let remembered = if inner.0 == Protocol::Tcp { REMEMBERED_TCP } else { REMEMBERED };
        if let Some(((protocol, source, destination), used)) = self.leaving.get(&inner).copied()
            && now.since(used) > remembered
        {
            self.leaving.remove(&inner);
            self.coming.remove(&(protocol, destination, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn packet(source: &str, destination: &str) -> Packet {
        let (protocol, payload) = (crate::packet::Protocol::Udp, vec![1]);
        Packet { protocol, source: at(source), destination: at(destination), payload }
    }

    fn answer(source: &str, destination: &str) -> Datagram {
        let at = |text: &str| text.parse().unwrap();
        let protocol = crate::packet::Protocol::Udp;
        Datagram { protocol, source: at(source), destination: at(destination), payload: vec![1] }
    }

    #[test]
    fn both_addresses_are_translated_and_answers_find_back() {
        let mut rs = Masquerade::new(vec![[203, 0, 113, 5].into()]);
        let gn = Vip([198, 18, 128, 1].into());
        let now = Instant::ZERO;
        assert_eq!(rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now), None, "not translated yet");
        assert!(rs.add(gn, [192, 0, 2, 9].into()) && !rs.add(gn, "2001:db8::1".parse().unwrap()));
        let left = rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now).unwrap();
        assert_eq!(
            (left.source, left.destination),
            (at("203.0.113.5:4000").into(), at("192.0.2.9:7").into())
        );
        let other = rs.leave(packet("198.18.0.2:4000", "198.18.128.1:7"), now).unwrap();
        assert_eq!(
            other.source,
            at("203.0.113.5:4001").into(),
            "two terminals never share a port to one node"
        );
        let back = rs.come(answer("192.0.2.9:7", "203.0.113.5:4001"), now).unwrap();
        assert_eq!((back.source, back.destination), (at("198.18.128.1:7"), at("198.18.0.2:4000")));
        assert_eq!(rs.come(answer("192.0.2.8:7", "203.0.113.5:4001"), now), None, "from someone else");
        let late = now + REMEMBERED + Duration::from_secs(1);
        assert_eq!(rs.come(answer("192.0.2.9:7", "203.0.113.5:4001"), late), None, "forgotten");
        rs.remove(gn);
        assert_eq!(rs.leave(packet("198.18.0.2:4000", "198.18.128.1:7"), late), None);
    }

    /// T3.1-d: a general node that has only IPv6 is reached from the relay's IPv6 address.
    #[test]
    fn an_ipv6_general_node_sees_the_relays_ipv6_address() {
        let mut rs = Masquerade::new(vec![[203, 0, 113, 5].into(), "2001:db8::5".parse().unwrap()]);
        let (gn, now) = (Vip([198, 18, 128, 1].into()), Instant::ZERO);
        assert!(rs.add(gn, "2001:db8::50".parse().unwrap()));
        let left = rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now).unwrap();
        assert_eq!(left, answer("[2001:db8::5]:4000", "[2001:db8::50]:7"));
        let back = rs.come(answer("[2001:db8::50]:7", "[2001:db8::5]:4000"), now).unwrap();
        assert_eq!(back, packet("198.18.128.1:7", "198.18.0.1:4000"));
    }
}
