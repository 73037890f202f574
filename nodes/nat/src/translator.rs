//! The NAT itself: a machine that translates one packet at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ntm_protocol::time::Instant;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::behaviour::{Allocation, Axes, Behaviour, Dependence};
use crate::flow::{Flow, Protocol, Segment};
use crate::forward::{Forward, ForwardError, check_forwards};
use crate::names::named;

/// The most sessions that a NAT tracks; further ones are refused.
pub const MAX_SESSIONS: usize = 65_536;

/// A packet that has passed the NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// The packet as it goes on.
    pub flow: Flow,
    /// Where it goes on.
    pub to: Side,
}

/// A side of the NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// To the hosts behind it: a packet from outside, or one that came from inside and turned back (hairpinning).
    Inside,
    /// To the rest of the world.
    Outside,
}

/// Why a packet does not pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// No mapping has the port that it was sent to.
    NoMapping,
    /// The mapping's filter does not let its source in.
    Filtered,
    /// It is addressed to the NAT's own outer address from inside, and the NAT does not hairpin.
    Hairpin,
    /// Every port of the range is in use.
    PortsExhausted,
    /// [`MAX_SESSIONS`] are tracked.
    TableFull,
    /// It came from outside for an address that is not the NAT's.
    NotOurs,
    /// Its addresses are of another family than the NAT's outer address.
    Family,
    /// An ICMP error about a packet that no session knows.
    Unrelated,
}

named!(Refusal, "refusal",
    "no-mapping" => NoMapping,
    "filtered" => Filtered,
    "hairpin" => Hairpin,
    "ports-exhausted" => PortsExhausted,
    "table-full" => TableFull,
    "not-ours" => NotOurs,
    "family" => Family,
    "unrelated" => Unrelated,
);

/// One line of the mapping table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mapping {
    /// Its protocol.
    pub protocol: Protocol,
    /// The inner host's address and port.
    pub inside: SocketAddr,
    /// The NAT's address and the mapping's port.
    pub external: SocketAddr,
    /// The destinations that it serves.
    pub scope: Scope,
    /// How many sessions hold it.
    pub sessions: u32,
    /// When it ends unless it is renewed; `None` for a forward, which stays.
    pub expires: Option<Instant>,
}

/// The destinations that share a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All: endpoint-independent mapping, and every forward.
    Any,
    /// All ports of one address: address-dependent mapping.
    Address(IpAddr),
    /// One address and port: address-and-port-dependent mapping.
    Endpoint(SocketAddr),
}

/// A NAT between an inside and one outer address.
///
/// Every packet is asked for with [`outbound`](Self::outbound) or [`inbound`](Self::inbound) at the present instant, which never goes
/// back; [`poll_timeout`](Self::poll_timeout) is the instant at which the table next changes by itself.
///
/// * A *mapping* is made by a packet from inside and gives its source an outer port, which no other mapping of the protocol has.
/// * A *session* is one inner and one outer end. It begins with a packet of either end; what the inner host sends over it renews it,
///   holds the mapping, and lets in what the filter then permits. An answer leaves by the mapping by which the last packet came in,
///   whatever mappings depend on.
#[derive(Debug)]
pub struct Translator {
    behaviour: Behaviour,
    external: IpAddr,
    /// By port: who has it.
    bindings: BTreeMap<(Protocol, u16), Binding>,
    /// By what an inner host sends: the port it has.
    mappings: BTreeMap<MappingKey, u16>,
    sessions: BTreeMap<SessionKey, Session>,
    /// How many sessions that the inner host holds there are between a mapping and an address; only where filtering is address-dependent.
    permits: BTreeMap<(Protocol, u16, IpAddr), u32>,
    /// When each session ends.
    expiries: BTreeSet<(Instant, SessionKey)>,
    /// How many ports of the range are taken, and where contiguous allocation goes on, by protocol.
    taken: BTreeMap<Protocol, u32>,
    next_port: BTreeMap<Protocol, u16>,
    next_id: u64,
    rng: ChaCha12Rng,
    refusals: BTreeMap<Refusal, u64>,
}

type MappingKey = (Protocol, SocketAddr, Scope);
/// Protocol, inner end, outer end.
type SessionKey = (Protocol, SocketAddr, SocketAddr);

#[derive(Debug)]
struct Binding {
    inside: SocketAddr,
    scope: Scope,
    /// Never given twice, so that a session knows whether its mapping is still the one it began with.
    id: u64,
    /// Sessions that the inner host has sent over.
    held_by: u32,
    forward: bool,
}

#[derive(Debug)]
struct Session {
    port: u16,
    binding: u64,
    expires: Instant,
    /// Whether the inner host, or the outer one, has sent over it.
    sent: bool,
    heard: bool,
    /// Whether a TCP connection is being opened or closed.
    opening: bool,
    closing: bool,
}

impl Translator {
    /// A NAT of `behaviour` whose outer address is `external`. `seed` is all its entropy.
    pub fn new(
        behaviour: Behaviour,
        external: IpAddr,
        forwards: &[Forward],
        seed: [u8; 32],
    ) -> Result<Self, ForwardError> {
        let mut nat = Self {
            behaviour,
            external,
            bindings: BTreeMap::new(),
            mappings: BTreeMap::new(),
            sessions: BTreeMap::new(),
            permits: BTreeMap::new(),
            expiries: BTreeSet::new(),
            taken: BTreeMap::new(),
            next_port: BTreeMap::new(),
            next_id: 0,
            rng: ChaCha12Rng::from_seed(seed),
            refusals: BTreeMap::new(),
        };
        check_forwards(&behaviour, external, forwards).map_err(|(_, why)| why)?;
        if let Behaviour::Nat(axes) = behaviour {
            for forward in forwards {
                nat.bind_forward(&axes, forward);
            }
        }
        Ok(nat)
    }

    /// The NAT's behaviour.
    pub fn behaviour(&self) -> Behaviour {
        self.behaviour
    }

    /// A packet from inside: as it goes on, or why it does not.
    pub fn outbound(&mut self, flow: Flow, now: Instant) -> Result<Translated, Refusal> {
        self.handle_timeout(now);
        let Behaviour::Nat(axes) = self.behaviour else { return Ok(Translated { flow, to: Side::Outside }) };
        let result = self.translate_outbound(&axes, flow, now);
        self.count(result)
    }

    /// A packet from outside: as it goes on, or why it does not.
    pub fn inbound(&mut self, flow: Flow, now: Instant) -> Result<Translated, Refusal> {
        self.handle_timeout(now);
        let Behaviour::Nat(axes) = self.behaviour else { return Ok(Translated { flow, to: Side::Inside }) };
        let result = if flow.destination.ip() == self.external {
            self.admit(&axes, flow, now)
        } else {
            Err(Refusal::NotOurs)
        };
        self.count(result)
    }

    /// An ICMP error from outside about a packet that a host inside sent. `quoted` is that packet as it was outside; the answer is the
    /// packet as the host had sent it. It renews nothing (RFC 5508, REQ-4).
    pub fn inbound_error(&mut self, quoted: Flow, now: Instant) -> Result<Flow, Refusal> {
        self.handle_timeout(now);
        if self.behaviour == Behaviour::None {
            return Ok(quoted);
        }
        let Flow { protocol, source, destination, .. } = quoted;
        let inside = self
            .bindings
            .get(&(protocol, source.port()))
            .filter(|binding| {
                source.ip() == self.external && self.session(protocol, binding.inside, destination).is_some()
            })
            .map(|binding| binding.inside);
        let result = inside.map(|source| Flow { source, ..quoted }).ok_or(Refusal::Unrelated);
        self.count(result)
    }

    /// An ICMP error from inside about a packet that came from outside. `quoted` is that packet as the host inside got it; the answer
    /// is the packet as it was outside.
    pub fn outbound_error(&mut self, quoted: Flow, now: Instant) -> Result<Flow, Refusal> {
        self.handle_timeout(now);
        if self.behaviour == Behaviour::None {
            return Ok(quoted);
        }
        let port =
            self.session(quoted.protocol, quoted.destination, quoted.source).map(|session| session.port);
        let destination = port.map(|port| SocketAddr::new(self.external, port));
        let result = destination.map(|destination| Flow { destination, ..quoted }).ok_or(Refusal::Unrelated);
        self.count(result)
    }

    /// When the next session ends; until then nothing changes by itself.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Ends the sessions that are due, and the mappings that nothing holds any more.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.expiries.first() {
            if at > now {
                break;
            }
            self.expiries.pop_first();
            self.end(key);
        }
    }

    /// The mapping table, by protocol and port.
    pub fn mappings(&self) -> Vec<Mapping> {
        let mut expires: BTreeMap<(Protocol, u16), Instant> = BTreeMap::new();
        for ((protocol, ..), session) in self.sessions.iter().filter(|(_, session)| session.sent) {
            let latest = expires.entry((*protocol, session.port)).or_default();
            *latest = session.expires.max(*latest);
        }
        let line = |(&(protocol, port), binding): (&(Protocol, u16), &Binding)| Mapping {
            protocol,
            inside: binding.inside,
            external: SocketAddr::new(self.external, port),
            scope: binding.scope,
            sessions: binding.held_by,
            expires: if binding.forward { None } else { expires.get(&(protocol, port)).copied() },
        };
        self.bindings.iter().map(line).collect()
    }

    /// How many packets were refused, by reason; reasons that never came are left out.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        self.refusals.iter().map(|(refusal, count)| (*refusal, *count))
    }

    fn count<T>(&mut self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &result {
            *self.refusals.entry(*refusal).or_default() += 1;
        }
        result
    }

    fn translate_outbound(&mut self, axes: &Axes, flow: Flow, now: Instant) -> Result<Translated, Refusal> {
        let Flow { protocol, source, destination, .. } = flow;
        if [source, destination].iter().any(|end| end.is_ipv4() != self.external.is_ipv4()) {
            return Err(Refusal::Family);
        }
        let turns_back = destination.ip() == self.external;
        if turns_back && !axes.hairpin {
            return Err(Refusal::Hairpin);
        }
        if turns_back && !self.bindings.contains_key(&(protocol, destination.port())) {
            // Nobody is there: nothing begins that a mapping would be for.
            return Err(Refusal::NoMapping);
        }
        let port = match self.session(protocol, source, destination) {
            Some(session) => session.port,
            None => self.open_outbound(axes, (protocol, source, destination), now)?,
        };
        self.renew((protocol, source, destination), axes, flow.segment, now);
        let flow = Flow { source: SocketAddr::new(self.external, port), ..flow };
        if turns_back {
            // What its partner sees is the outer address (RFC 4787, REQ-9), and the partner's filter is asked as for any other.
            return self.admit(axes, flow, now);
        }
        Ok(Translated { flow, to: Side::Outside })
    }

    /// Lets a packet to the outer address in.
    fn admit(&mut self, axes: &Axes, flow: Flow, now: Instant) -> Result<Translated, Refusal> {
        let Flow { protocol, source, destination, .. } = flow;
        let port = destination.port();
        let binding = self.bindings.get(&(protocol, port)).ok_or(Refusal::NoMapping)?;
        let (inside, id) = (binding.inside, binding.id);
        let key = (protocol, inside, source);
        let session = self.session(protocol, inside, source);
        let permitted = match axes.filtering {
            _ if binding.forward => true,
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => self.permits.contains_key(&(protocol, port, source.ip())),
            Dependence::AddressAndPortDependent => session.is_some_and(|s| s.sent && s.binding == id),
        };
        if !permitted {
            return Err(Refusal::Filtered);
        }
        if session.is_none_or(|session| session.binding != id) {
            self.open_session(key, port, id, now)?;
        }
        self.note_inbound(key, axes, flow.segment, now);
        Ok(Translated { flow: Flow { destination: inside, ..flow }, to: Side::Inside })
    }

    /// The session between the two ends, if its mapping still stands.
    fn session(&self, protocol: Protocol, inside: SocketAddr, outside: SocketAddr) -> Option<&Session> {
        let session = self.sessions.get(&(protocol, inside, outside))?;
        let binding = self.bindings.get(&(protocol, session.port))?;
        (binding.id == session.binding).then_some(session)
    }

    /// A session that begins inside, by the mapping there is or a new one; its port.
    fn open_outbound(&mut self, axes: &Axes, key: SessionKey, now: Instant) -> Result<u16, Refusal> {
        let (protocol, inside, outside) = key;
        let scope = match axes.mapping {
            Dependence::EndpointIndependent => Scope::Any,
            Dependence::AddressDependent => Scope::Address(outside.ip()),
            Dependence::AddressAndPortDependent => Scope::Endpoint(outside),
        };
        if let Some(&port) = self.mappings.get(&(protocol, inside, scope)) {
            let id = self.bindings.get(&(protocol, port)).map_or(0, |binding| binding.id);
            self.open_session(key, port, id, now)?;
            return Ok(port);
        }
        let port = self.choose_port(axes, protocol, inside.port()).ok_or(Refusal::PortsExhausted)?;
        self.open_session(key, port, self.next_id, now)?;
        self.bind(axes, protocol, port, inside, scope, false);
        Ok(port)
    }

    fn open_session(
        &mut self,
        key: SessionKey,
        port: u16,
        binding: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        // One of the same ends makes room, whose mapping is gone, or by which no answer would leave any more.
        if let Some(old) = self.sessions.get(&key) {
            self.expiries.remove(&(old.expires, key));
            self.end(key);
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(Refusal::TableFull);
        }
        let session =
            Session { port, binding, expires: now, sent: false, heard: false, opening: true, closing: false };
        self.expiries.insert((now, key));
        self.sessions.insert(key, session);
        Ok(())
    }

    /// The inner host has sent over the session `key`.
    fn renew(&mut self, key: SessionKey, axes: &Axes, segment: Segment, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let first = !session.sent;
        session.sent = true;
        session.advance(segment);
        let expires = now + session.lifetime(axes, key.0);
        let port = session.port;
        self.set_expiry(key, expires);
        if first {
            if let Some(binding) = self.bindings.get_mut(&(key.0, port)) {
                binding.held_by += 1;
            }
            if axes.filtering == Dependence::AddressDependent {
                *self.permits.entry((key.0, port, key.2.ip())).or_default() += 1;
            }
        }
    }

    /// The outer host has sent over the session `key`. That renews only what nobody inside has answered, which holds no mapping; and a
    /// closing TCP connection ends soon.
    fn note_inbound(&mut self, key: SessionKey, axes: &Axes, segment: Segment, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.heard = true;
        session.advance(segment);
        let expires = now + session.lifetime(axes, key.0);
        let expires = if session.sent { session.expires.min(expires) } else { expires };
        self.set_expiry(key, expires);
    }

    fn set_expiry(&mut self, key: SessionKey, expires: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.expires != expires {
            self.expiries.remove(&(session.expires, key));
            self.expiries.insert((expires, key));
            session.expires = expires;
        }
    }

    /// Forgets a session whose entry in the index is gone already, and its mapping if nothing else holds it.
    fn end(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else { return };
        let (protocol, inside, outside) = key;
        let slot = (protocol, session.port);
        let Some(binding) = self.bindings.get_mut(&slot).filter(|b| b.id == session.binding && session.sent)
        else {
            return;
        };
        binding.held_by -= 1;
        let unheld = binding.held_by == 0 && !binding.forward;
        let scope = binding.scope;
        let permit = (protocol, session.port, outside.ip());
        if let Some(count) = self.permits.get_mut(&permit) {
            *count -= 1;
            if *count == 0 {
                self.permits.remove(&permit);
            }
        }
        if unheld {
            self.bindings.remove(&slot);
            self.mappings.remove(&(protocol, inside, scope));
            if let Some(taken) = self.taken.get_mut(&protocol) {
                *taken -= 1;
            }
        }
    }

    fn bind_forward(&mut self, axes: &Axes, forward: &Forward) {
        self.bind(axes, forward.protocol, forward.port, forward.to, Scope::Any, true);
    }

    fn bind(
        &mut self,
        axes: &Axes,
        protocol: Protocol,
        port: u16,
        inside: SocketAddr,
        scope: Scope,
        forward: bool,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        self.bindings.insert((protocol, port), Binding { inside, scope, id, held_by: 0, forward });
        // Where mapping is endpoint-independent, a forward is the mapping of its host and port; of two such the first.
        self.mappings.entry((protocol, inside, scope)).or_insert(port);
        if axes.ports.contains(port) {
            *self.taken.entry(protocol).or_default() += 1;
        }
    }

    /// A free port of the range for an inner host's `port`; `None` if there is none.
    fn choose_port(&mut self, axes: &Axes, protocol: Protocol, port: u16) -> Option<u16> {
        if self.taken.get(&protocol).is_some_and(|taken| *taken >= axes.ports.size()) {
            return None;
        }
        let start = match axes.allocation {
            Allocation::Preserve
                if axes.ports.contains(port) && !self.bindings.contains_key(&(protocol, port)) =>
            {
                return Some(port);
            }
            Allocation::Preserve | Allocation::Random => {
                let offset = (u64::from(self.rng.next_u32()) * u64::from(axes.ports.size())) >> 32;
                axes.ports.first() + u16::try_from(offset).unwrap_or(0)
            }
            Allocation::Contiguous => *self.next_port.get(&protocol).unwrap_or(&axes.ports.first()),
        };
        let chosen = self
            .first_free(protocol, start, axes.ports.last())
            .or_else(|| self.first_free(protocol, axes.ports.first(), start))?;
        let following = if chosen == axes.ports.last() { axes.ports.first() } else { chosen + 1 };
        self.next_port.insert(protocol, following);
        Some(chosen)
    }

    /// The first port from `from` to `to` that no mapping has.
    fn first_free(&self, protocol: Protocol, from: u16, to: u16) -> Option<u16> {
        let mut free = u32::from(from);
        for (_, port) in self.bindings.range((protocol, from)..=(protocol, to)).map(|(key, _)| key) {
            if u32::from(*port) != free {
                break;
            }
            free += 1;
        }
        u16::try_from(free).ok().filter(|free| *free <= to)
    }
}

impl Session {
    fn advance(&mut self, segment: Segment) {
        match segment {
            Segment::Open if self.closing => (self.opening, self.closing, self.heard) = (true, false, false),
            Segment::Open => {}
            Segment::Close => self.closing = true,
            // Both have spoken, and this is no SYN: the connection stands.
            Segment::Data => self.opening &= !(self.sent && self.heard),
        }
    }

    fn lifetime(&self, axes: &Axes, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Udp => axes.timeouts.udp,
            Protocol::Icmp => axes.timeouts.icmp,
            Protocol::Tcp if self.opening || self.closing => axes.timeouts.tcp_transitory,
            Protocol::Tcp => axes.timeouts.tcp_established,
        }
    }
}

#[cfg(test)]
mod tests;
