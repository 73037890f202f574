//! RS-N's two translations, as Netfilter does them (T4.2.3-a, T5.1.2-a): VIP_GN becomes RIP_GN, VIP_MN becomes RIP_RS, and the connection
//! is remembered, so that answers find back (T5.4.1-a).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ntm_nat::Flow;
use ntm_protocol::addr::Vip;
use ntm_protocol::inner::siit;
use ntm_protocol::time::{Duration, Instant};

use crate::packet::{Packet, Protocol};

/// How long an idle connection is remembered: Linux's `nf_conntrack_udp_timeout_stream`, and for TCP `nf_conntrack_tcp_timeout_established`.
const REMEMBERED: Duration = Duration::from_secs(120);
const REMEMBERED_TCP: Duration = Duration::from_secs(432_000);

/// Protocol, source and destination of packets, on MN's side or on the general node's.
type Ends = (Protocol, SocketAddr, SocketAddr);

/// Which connection a packet belongs to, as whoever began it sends: `back` is whether the packet goes the other way. An error goes against the packet that it
/// quotes.
fn ends(flow: Flow, back: bool) -> Ends {
    match back {
        true => (flow.protocol, flow.destination, flow.source),
        false => (flow.protocol, flow.source, flow.destination),
    }
}

/// The translations of one relay.
#[derive(Debug)]
pub(crate) struct Masquerade {
    outer: Vec<IpAddr>,
    general: BTreeMap<Vip, IpAddr>,
    /// As MN sends it → as it leaves, and when it was used last.
    leaving: BTreeMap<Ends, (Ends, Instant)>,
    /// As GN's answer comes → as MN sends it.
    coming: BTreeMap<Ends, Ends>,
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

    /// A packet from MN, as it leaves for the general node: in that one's family, which it has already (T3.1-d).
    pub(crate) fn leave(&mut self, packet: Packet, now: Instant) -> Option<Packet> {
        let (flow, is_error) = (packet.flow()?, packet.is_error());
        let inner = ends(flow, is_error);
        self.forget_if_idle(inner, now);
        let outer = match self.leaving.get(&inner) {
            Some((outer, _)) => *outer,
            // It belongs to nothing.
            None if is_error => return None,
            None => {
                let (protocol, source, destination) = inner;
                let general = match destination.ip() {
                    IpAddr::V4(general) => general,
                    IpAddr::V6(general) => siit::embedded(general)?,
                };
                let real = *self.general.get(&Vip(general))?;
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
        if !is_error {
            self.leaving.insert(inner, (outer, now));
        }
        let (protocol, source, destination) = outer;
        let (source, destination) = if is_error { (destination, source) } else { (source, destination) };
        Some(packet.translated(Flow { protocol, source, destination, ..flow }))
    }

    /// An answer from a general node, as MN expects it, but for its family.
    pub(crate) fn come(&mut self, packet: Packet, now: Instant) -> Option<Packet> {
        let (flow, is_error) = (packet.flow()?, packet.is_error());
        let inner = *self.coming.get(&ends(flow, is_error))?;
        self.forget_if_idle(inner, now);
        let known = self.leaving.get_mut(&inner)?;
        if !is_error {
            known.1 = now;
        }
        let (protocol, source, destination) = inner;
        let (source, destination) = if is_error { (source, destination) } else { (destination, source) };
        Some(packet.translated(Flow { protocol, source, destination, ..flow }))
    }

    /// Whether a packet answers a translated one.
    pub(crate) fn expects(&self, packet: &Packet) -> bool {
        packet.flow().is_some_and(|flow| self.coming.contains_key(&ends(flow, packet.is_error())))
    }

    fn forget_if_idle(&mut self, inner: Ends, now: Instant) {
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
    use crate::trouble::{Trouble, Why};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn packet(source: &str, destination: &str) -> Packet {
        Packet::udp(at(source), at(destination), vec![1])
    }

    #[test]
    fn both_addresses_are_translated_and_answers_find_back() {
        let mut rs = Masquerade::new(vec![[203, 0, 113, 5].into()]);
        let gn = Vip([198, 18, 128, 1].into());
        let now = Instant::ZERO;
        assert_eq!(rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now), None, "not translated yet");
        assert!(rs.add(gn, [192, 0, 2, 9].into()) && !rs.add(gn, "2001:db8::1".parse().unwrap()));
        let left = rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now).unwrap();
        assert_eq!((left.source, left.destination), (at("203.0.113.5:4000"), at("192.0.2.9:7")));
        let other = rs.leave(packet("198.18.0.2:4000", "198.18.128.1:7"), now).unwrap();
        assert_eq!(other.source, at("203.0.113.5:4001"), "two terminals never share a port to one node");
        let back = rs.come(packet("192.0.2.9:7", "203.0.113.5:4001"), now).unwrap();
        assert_eq!((back.source, back.destination), (at("198.18.128.1:7"), at("198.18.0.2:4000")));
        assert_eq!(rs.come(packet("192.0.2.8:7", "203.0.113.5:4001"), now), None, "from someone else");
        let late = now + REMEMBERED + Duration::from_secs(1);
        assert_eq!(rs.come(packet("192.0.2.9:7", "203.0.113.5:4001"), late), None, "forgotten");
        rs.remove(gn);
        assert_eq!(rs.leave(packet("198.18.0.2:4000", "198.18.128.1:7"), late), None);
    }

    /// T3.1-d: a general node that has only IPv6 is reached from the relay's IPv6 address.
    #[test]
    fn an_ipv6_general_node_sees_the_relays_ipv6_address() {
        let mut rs = Masquerade::new(vec![[203, 0, 113, 5].into(), "2001:db8::5".parse().unwrap()]);
        let (gn, now) = (Vip([198, 18, 128, 1].into()), Instant::ZERO);
        assert!(rs.add(gn, "2001:db8::50".parse().unwrap()));
        let embedded = |address: [u8; 4], port| SocketAddr::new(siit::embed(address.into()).into(), port);
        let (mn, general) = (embedded([198, 18, 0, 1], 4000), embedded([198, 18, 128, 1], 7));
        let left = rs.leave(Packet::udp(mn, general, vec![1]), now).unwrap();
        assert_eq!(left, packet("[2001:db8::5]:4000", "[2001:db8::50]:7"));
        let back = rs.come(packet("[2001:db8::50]:7", "[2001:db8::5]:4000"), now).unwrap();
        assert_eq!(back, Packet::udp(general, mn, vec![1]));
    }

    /// T4.2.3-a: an error about what was translated is translated too, in both directions.
    #[test]
    fn errors_find_back_to_what_they_are_about() {
        let mut rs = Masquerade::new(vec![[203, 0, 113, 5].into()]);
        let (gn, now) = (Vip([198, 18, 128, 1].into()), Instant::ZERO);
        assert!(rs.add(gn, [192, 0, 2, 9].into()));
        let left = rs.leave(packet("198.18.0.1:4000", "198.18.128.1:7"), now).unwrap();
        let error = Trouble::about(&left, Why::Port, left.destination.ip()).unwrap();
        assert!(rs.expects(&error));
        let came = rs.come(error, now).unwrap();
        let told = Trouble::of(&came).unwrap();
        assert_eq!(
            (came.source.ip(), came.destination.ip()),
            (at("198.18.128.1:0").ip(), at("198.18.0.1:0").ip())
        );
        assert_eq!(
            (told.quoted.source, told.quoted.destination),
            (at("198.18.0.1:4000"), at("198.18.128.1:7"))
        );
        let answer = packet("192.0.2.9:7", "203.0.113.5:4000");
        let inner = rs.come(answer.clone(), now).unwrap();
        let error = Trouble::about(&inner, Why::Port, inner.destination.ip()).unwrap();
        let sent = rs.leave(error, now).unwrap();
        let told = Trouble::of(&sent).unwrap();
        assert_eq!(
            (sent.source.ip(), sent.destination.ip()),
            (at("203.0.113.5:0").ip(), at("192.0.2.9:0").ip())
        );
        assert_eq!((told.quoted.source, told.quoted.destination), (answer.source, answer.destination));
        let stranger =
            Trouble::about(&packet("203.0.113.5:4001", "192.0.2.9:7"), Why::Port, at("192.0.2.9:0").ip());
        assert!(!rs.expects(&stranger.unwrap()));
    }
}
