//! The Direction Coordinator's role machine.
//!
//! It registers nodes and gives terminals their VIPs (T3.2.1-a), and turns a Direction Request into a path: it asks the DNS who the
//! peer is, asks the peer's DC where it is, decides between direct and relayed ([`route`]), directs a relay, and tells both ends. It
//! does no look-up and writes to no disk: [`lookup`] and [`store`] are values that its driver carries out, and what depends on a
//! write waits until the driver says that it is durable.

mod directing;
pub mod lookup;
mod negotiation;
mod neighbours;
mod registering;
mod registry;
mod relaying;
pub mod route;
pub mod store;
pub mod zone;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use rand_core::Rng;

use crate::addr::{Fqdn, NodeId, PathId, Vip, VipRange};
use crate::crypto::{SharedKey, Suite};
use crate::expiry::{Expiry, earliest};
use crate::observe::What;
use crate::prefetch::prefetch;
use crate::session::{Expired, Mail, Pending, Rtt, Session, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, DnsError, ErrorCode, Header, Message, NodeKind, Reason, Refusal, RegistrationRequest,
    RequestId,
};

use lookup::{Lookup, LookupId};
use negotiation::{Ask, Errand, Negotiation, NegotiationId, Purpose, Renewing, Stage};
use neighbours::Neighbours;
pub use neighbours::Overlap;
use registry::{Node, Registry};
use route::Selection;
use store::{GeneralRecord, NodeRecord, Write, WriteId};

/// Someone whom the DC shares a key with.
#[derive(Clone, Debug)]
pub struct Acquaintance {
    /// The node's name.
    pub fqdn: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// The shared key.
    pub key: SharedKey,
    /// Of another DC: the virtual addresses that are its own, where they are known beforehand.
    pub vips: Option<VipRange>,
}

/// What a DC is told at its start.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Its name: that of its zone's NS record.
    pub fqdn: Fqdn,
    /// Its real addresses and port, of one family or both.
    pub addresses: Addresses,
    /// The zone of its terminals' names.
    pub zone: Fqdn,
    /// The virtual addresses that are its own (T3.1-a).
    pub vips: VipRange,
    /// How often nodes are to send a Keep-alive.
    pub keep_alive: Duration,
    /// The suite of data packets.
    pub suite: Suite,
    /// How it picks a relay.
    pub selection: Selection,
    /// How long a negotiation may take.
    pub patience: Duration,
    /// Whom it shares keys with.
    pub acquaintances: Vec<Acquaintance>,
    /// What its store kept of nodes.
    pub nodes: Vec<NodeRecord>,
    /// What its store kept of general nodes.
    pub generals: Vec<GeneralRecord>,
    /// The seed of its randomness.
    pub seed: [u8; 32],
    /// The first sequence number: above all that it used before.
    pub first_sequence: u64,
}

/// What waits for a write.
enum Continuation {
    Register { node: NodeId, request: RegistrationRequest, from: SocketAddr },
    General { negotiation: NegotiationId, record: GeneralRecord },
}

/// How long an answered negotiation is kept for a repeated request.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The role machine. See the crate's documentation for how to drive it.
pub struct Coordinator {
    fqdn: Fqdn,
    /// A number drawn at its start, for other DCs.
    life: u32,
    addresses: Addresses,
    zone: Fqdn,
    vips: VipRange,
    neighbours: Neighbours,
    keep_alive: Duration,
    suite: Suite,
    selection: Selection,
    patience: Duration,
    registry: Registry,
    /// When a node that stays silent counts as gone, as it stands at each node, too.
    silence: BTreeSet<(Instant, NodeId)>,
    asks: Pending<Ask>,
    /// The Route Directions of other DCs that are being passed on.
    passing: BTreeSet<(NodeId, RequestId)>,
    negotiations: BTreeMap<NegotiationId, Negotiation>,
    by_request: BTreeMap<(NodeId, RequestId), NegotiationId>,
    renewing: BTreeMap<(NodeId, PathId), Renewing>,
    deadlines: Expiry<NegotiationId>,
    next_id: u64,
    lookups: BTreeMap<LookupId, (Errand, Lookup)>,
    lookups_waiting: VecDeque<(LookupId, Lookup)>,
    writes: BTreeMap<WriteId, Continuation>,
    writes_waiting: VecDeque<(WriteId, Write)>,
    mail: Mail,
}

impl Coordinator {
    /// A DC with what its store kept. Everyone must register again: until then nobody's messages are taken.
    pub fn new(config: CoordinatorConfig) -> Self {
        let local = NodeId::of(&config.fqdn);
        let mut registry = Registry::new(config.vips);
        let mut neighbours = Neighbours::default();
        for Acquaintance { fqdn, kind, key, vips } in config.acquaintances {
            let id = NodeId::of(&fqdn);
            neighbours.ranges.extend(vips.map(|vips| (id, vips)));
            let session = Session::new(&key, local, id, config.first_sequence);
            let node = Node {
                fqdn,
                kind,
                key,
                session,
                rtt: Rtt::default(),
                floor: 0,
                vip: None,
                live: None,
                found_at: None,
                silent_at: None,
            };
            registry.nodes.insert(id, Box::new(node));
        }
        config.nodes.iter().for_each(|record| registry.restore_node(record));
        config.generals.iter().for_each(|record| registry.restore_general(*record));
        let mut mail = Mail::new(config.seed, config.first_sequence);
        Self {
            fqdn: config.fqdn,
            life: mail.rng.next_u32(),
            addresses: config.addresses,
            zone: config.zone,
            vips: config.vips,
            neighbours,
            keep_alive: config.keep_alive,
            suite: config.suite,
            selection: config.selection,
            patience: config.patience,
            registry,
            silence: BTreeSet::new(),
            asks: Pending::default(),
            passing: BTreeSet::new(),
            negotiations: BTreeMap::new(),
            by_request: BTreeMap::new(),
            renewing: BTreeMap::new(),
            deadlines: Expiry::default(),
            next_id: 1,
            lookups: BTreeMap::new(),
            lookups_waiting: VecDeque::new(),
            writes: BTreeMap::new(),
            writes_waiting: VecDeque::new(),
            mail,
        }
    }

    /// How many inputs were refused so far.
    pub fn refused(&self) -> u64 {
        self.mail.journal.refused()
    }

    /// How many nodes of a kind are registered.
    pub fn registered(&self, kind: NodeKind) -> usize {
        self.registry.registered(kind)
    }

    /// This datagram comes soon: a driver that knows may say so, and what is known of its sender is fetched from the memory meanwhile.
    pub fn expect(&self, datagram: &[u8]) {
        if let Some(node) =
            Header::parse(datagram).ok().and_then(|header| self.registry.nodes.get(&NodeId(header.id)))
        {
            prefetch(&**node);
        }
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if let Err(refusal) = self.take(from, datagram, now) {
            self.mail.journal.refuse(now, from, &refusal);
        }
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<(), Refusal> {
        let header = Header::parse(datagram)?;
        let id = NodeId(header.id);
        let node = self.registry.nodes.get_mut(&id).ok_or(Refusal::new("node id", Reason::Stranger))?;
        let message = node.session.open(&header, datagram)?;
        if let Message::Error(error) = &message
            && error.sequence < node.session.next_sequence()
            && node.session.fell_back(Some(error.sequence), header.sequence)
        {
            node.session.close();
        }
        match &message {
            Message::RegistrationRequest(request) => {
                return self.take_registration(&header, id, request.clone(), from, now);
            }
            // The only other message that opens the window: it proves to be fresh by the ID of a request under way.
            Message::RegistrationResponse(response) => {
                if !matches!(self.asks.get(response.request), Some(ask) if ask.node == id && matches!(ask.purpose, Purpose::Join))
                {
                    return Err(Refusal::new("request", Reason::Unexpected));
                }
                if node.session.is_open() {
                    node.session.accept(header.sequence)?;
                }
                node.session.open_above(header.sequence);
            }
            Message::Error(error) if !node.session.is_open() => {
                // Before the window is open only what answers a message of this life can be true; it makes us ask again, no more.
                if error.sequence >= node.session.next_sequence() {
                    return Err(Refusal::new("sequence", Reason::Unexpected));
                }
            }
            _ if !node.session.is_open() => {
                self.tell_error(id, from, header.sequence, ErrorCode::NotRegistered, now);
                return Err(Refusal::new("sequence", Reason::Unexpected));
            }
            _ => node.session.accept(header.sequence)?,
        }
        self.mail.received(&header, &message, from, now);
        self.act(id, header.sequence, message, from, now)
    }

    fn act(
        &mut self,
        id: NodeId,
        sequence: u64,
        message: Message,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let unexpected = Err(Refusal::new("type", Reason::Unexpected));
        let kind = self.registry.nodes.get(&id).map(|node| node.kind);
        match (message, kind) {
            (Message::KeepAlive(keep_alive), _) => self.take_keep_alive(id, sequence, keep_alive, from, now),
            (Message::DirectionRequest(request), Some(NodeKind::Terminal)) => {
                self.take_direction(id, sequence, request, now)
            }
            (Message::InformationRequest(request), Some(NodeKind::Coordinator)) => {
                self.inform(id, request, from, now);
            }
            (Message::RouteDirection(direction), Some(NodeKind::Coordinator)) => {
                return self.pass_on(id, direction, now);
            }
            (Message::RegistrationResponse(response), Some(NodeKind::Coordinator)) => {
                self.joined(id, &response, now)
            }
            (Message::InformationResponse(response), Some(NodeKind::Coordinator)) => {
                self.informed(id, response, now)
            }
            (Message::RelayResponse(response), Some(NodeKind::Relay)) => {
                self.relay_answered(id, response, now)
            }
            (Message::RouteResponse(response), Some(NodeKind::Terminal | NodeKind::Coordinator)) => {
                self.route_taken(id, response, now);
            }
            (Message::Error(error), Some(NodeKind::Coordinator)) => self.take_error(id, error, now),
            _ => return unexpected,
        }
        Ok(())
    }

    // Requests of the DC's own

    fn ask(
        &mut self,
        node: NodeId,
        message: impl FnOnce(RequestId) -> Message,
        purpose: Purpose,
        now: Instant,
    ) {
        let id = self.mail.request_id();
        let message = message(id);
        let Some(known) = self.registry.nodes.get_mut(&node) else { return };
        let wait = known.rtt.timeout();
        if let Some(to) = known.address() {
            known.session.mark();
            self.mail.send(&mut known.session, to, &message, 1, now);
        }
        self.asks.sent(id, Ask { node, message, purpose }, now, wait);
    }

    /// Asks again, unless nobody waits for the answer any more.
    fn repeat(&mut self, id: RequestId, attempt: u32, now: Instant) {
        let Some(Ask { node, message, purpose }) = self.asks.get(id).cloned() else { return };
        if matches!(purpose, Purpose::Negotiation(id) if self.under_way(id).is_none()) {
            self.asks.answered(id, now);
            return;
        }
        if let (2, Some(known)) = (attempt, self.registry.nodes.get_mut(&node)) {
            known.rtt.timed_out();
        }
        self.tell(node, &message, attempt, now);
    }

    fn answered(&mut self, node: NodeId, request: RequestId, now: Instant) -> Option<Purpose> {
        if self.asks.get(request)?.node != node {
            return None;
        }
        let (ask, sample) = self.asks.answered(request, now)?;
        if let (Some(sample), Some(node)) = (sample, self.registry.nodes.get_mut(&node)) {
            node.rtt.measured(sample);
        }
        Some(ask.purpose)
    }

    // Time

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let neighbours = self.neighbours.poll_timeout();
        earliest([
            self.asks.poll_timeout(),
            self.silence.first().map(|(at, _)| *at),
            self.deadlines.next(),
            neighbours,
        ])
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expired) = self.asks.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => self.repeat(id, attempt, now),
                Expired::GaveUp(_, ask) => self.unanswered(&ask, now),
            }
        }
        self.neighbours.handle_timeout(now);
        while let Some((_, id)) = self.silence.first().copied().filter(|(at, _)| *at <= now) {
            self.silence.pop_first();
            self.silent(id, now);
        }
        while let Some(id) = self.deadlines.due(now) {
            match self.negotiations.get(&id).map(|negotiation| &negotiation.stage) {
                Some(Stage::Answered(_)) => self.forget(id),
                Some(_) => self.refuse_direction(id, DnsError::ServFail, now),
                None => {}
            }
        }
    }

    fn forget(&mut self, id: NegotiationId) {
        let Some(Negotiation { requester, request, .. }) = self.negotiations.remove(&id) else { return };
        self.by_request.remove(&(requester, request.request));
        self.deadlines.clear(id);
        if let Some(renewal) = request.renewal
            && self.renewing.get(&(requester, renewal.path)).is_some_and(|known| known.negotiation == id)
        {
            self.renewing.remove(&(requester, renewal.path));
        }
    }

    fn unanswered(&mut self, ask: &Ask, now: Instant) {
        if let Some(to) = self.registry.nodes.get(&ask.node).and_then(|node| node.address()) {
            self.mail.journal.note(now, What::GaveUp { message: ask.message.kind(), to });
        }
        match ask.purpose {
            Purpose::Negotiation(id) => {
                match self.negotiations.get(&id).map(|negotiation| &negotiation.stage) {
                    Some(Stage::Relay { .. }) => self.next_relay(id, now),
                    Some(Stage::Information { .. }) => self.refuse_direction(id, DnsError::ServFail, now),
                    _ => {}
                }
            }
            // Negotiations that wait for the other DC end by their deadline; a terminal that does not hear us, by its silence.
            Purpose::Join => self.neighbours.done(ask.node),
            Purpose::Route => {}
            Purpose::RouteFor { coordinator, request } => {
                self.passing.remove(&(coordinator, request));
            }
        }
    }

    /// A node should have been heard by now.
    fn silent(&mut self, id: NodeId, now: Instant) {
        let limit = self.keep_alive * 7 / 2;
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        node.silent_at = None;
        // Other DCs send no Keep-alives; they are asked when they are needed.
        if node.kind == NodeKind::Coordinator {
            return;
        }
        match &node.live {
            Some(live) if live.heard + limit > now => {
                node.hear_by(live.heard + limit, id, &mut self.silence);
            }
            Some(_) => {
                node.live = None;
                let fqdn = node.fqdn.clone();
                self.registry.relays_changed += u64::from(self.registry.relays.remove(&id));
                self.mail.journal.note(now, What::Unregistered { fqdn });
            }
            None => {}
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.mail.poll_transmit()
    }

    /// The next look-up to do; its answer goes to [`handle_lookup`](Self::handle_lookup).
    pub fn poll_lookup(&mut self) -> Option<(LookupId, Lookup)> {
        self.lookups_waiting.pop_front()
    }

    /// The next write to make durable; its outcome goes to [`handle_written`](Self::handle_written).
    pub fn poll_write(&mut self) -> Option<(WriteId, Write)> {
        self.writes_waiting.pop_front()
    }

    /// Observes nothing from now on: nobody reads it.
    pub fn close_journal(&mut self) {
        self.mail.journal.close();
    }

    /// The oldest observation not yet taken.
    pub fn poll_observation(&mut self) -> Option<(Instant, What)> {
        self.mail.journal.poll()
    }

    /// The VIP of a terminal, registered now or before.
    pub fn vip_of(&self, name: &Fqdn) -> Option<Vip> {
        self.registry.nodes.get(&NodeId::of(name)).and_then(|node| node.vip)
    }
}
