//! The Direction Coordinator's role machine.
//!
//! It registers nodes and gives terminals their VIPs (T3.2.1-a), and turns a Direction Request into a path: it asks the DNS who the
//! peer is, asks the peer's DC where it is, decides between direct and relayed ([`route`]), directs a relay, and tells both ends. It
//! does no look-up and writes to no disk: [`lookup`] and [`store`] are values that its driver carries out, and what depends on a
//! write waits until the driver says that it is durable.

pub mod lookup;
mod negotiation;
mod registry;
pub mod route;
pub mod store;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::addr::{Fqdn, NTM_PORT, NodeId, PathId, Vip, VipRange};
use crate::crypto::{Purpose as KeyPurpose, SharedKey, Suite};
use crate::expiry::{Expiry, earliest};
use crate::observe::{RouteName, What};
use crate::session::{Expired, Mail, Pending, Rtt, Session, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, DirectionRefusal, DirectionRequest, DnsError, Epoch, Error, ErrorCode, Header,
    InformationRequest, InformationResponse, KeepAlive, KeepAliveAnswer, List, Message, NodeKind, Reason,
    Refusal, RegistrationRequest, RegistrationResponse, RelayAnswer, RelayDirection, RelayMode, RelayOrder,
    RelayResponse, RelayToMeasure, RequestId, Role, Route, RouteDirection, RouteResponse,
    TerminalInformation,
};

use lookup::{DC_RECORD, Lookup, LookupAnswer, LookupId, LookupResult, Zone};
use negotiation::{Ask, Negotiation, NegotiationId, Peer, Plan, Purpose, Renewing, Stage, epoch_after};
use registry::{Live, Node, Registry, rtt_to};
use route::{Decision, Selection};
use store::{GeneralRecord, NodeRecord, Write, WriteId, WriteOutcome};

/// Someone whom the DC shares a key with.
#[derive(Clone, Debug)]
pub struct Acquaintance {
    /// The node's name.
    pub fqdn: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// The shared key.
    pub key: SharedKey,
}

/// What a DC is told at its start.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Its name: that of its zone's NS record.
    pub fqdn: Fqdn,
    /// Its real address and port.
    pub address: SocketAddr,
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
    address: SocketAddr,
    zone: Fqdn,
    keep_alive: Duration,
    suite: Suite,
    selection: Selection,
    patience: Duration,
    registry: Registry,
    /// When a node that stays silent counts as gone.
    silence: Expiry<NodeId>,
    asks: Pending<Ask>,
    negotiations: BTreeMap<NegotiationId, Negotiation>,
    by_request: BTreeMap<(NodeId, RequestId), NegotiationId>,
    renewing: BTreeMap<(NodeId, PathId), Renewing>,
    deadlines: Expiry<NegotiationId>,
    next_id: u64,
    lookups: BTreeMap<LookupId, (NegotiationId, Lookup)>,
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
        for Acquaintance { fqdn, kind, key } in config.acquaintances {
            let id = NodeId::of(&fqdn);
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
            };
            registry.nodes.insert(id, node);
        }
        config.nodes.iter().for_each(|record| registry.restore_node(record));
        config.generals.iter().for_each(|record| registry.restore_general(*record));
        Self {
            fqdn: config.fqdn,
            address: config.address,
            zone: config.zone,
            keep_alive: config.keep_alive,
            suite: config.suite,
            selection: config.selection,
            patience: config.patience,
            registry,
            silence: Expiry::default(),
            asks: Pending::default(),
            negotiations: BTreeMap::new(),
            by_request: BTreeMap::new(),
            renewing: BTreeMap::new(),
            deadlines: Expiry::default(),
            next_id: 1,
            lookups: BTreeMap::new(),
            lookups_waiting: VecDeque::new(),
            writes: BTreeMap::new(),
            writes_waiting: VecDeque::new(),
            mail: Mail::new(config.seed, config.first_sequence),
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
                self.take_direction(id, request, now)
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

    // Registration (3.2.1)

    fn take_registration(
        &mut self,
        header: &Header,
        id: NodeId,
        request: RegistrationRequest,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(node) = self.registry.nodes.get_mut(&id) else { return Ok(()) };
        if header.sequence <= node.floor {
            let floor = node.floor;
            self.tell_error(id, from, header.sequence, ErrorCode::Stale { floor }, now);
            return Err(Refusal::new("sequence", Reason::Replayed(header.sequence)));
        }
        if request.fqdn != node.fqdn {
            return Err(Refusal::new("fqdn", Reason::Conflict));
        }
        if request.kind != node.kind {
            return Err(Refusal::new("kind", Reason::Conflict));
        }
        if request.addresses.is_empty() && request.kind != NodeKind::Coordinator {
            return Err(Refusal::new("addresses", Reason::Length(0)));
        }
        node.floor = header.sequence;
        node.session.open_above(header.sequence);
        self.mail.received(header, &Message::RegistrationRequest(request.clone()), from, now);
        self.write_registration(id, request, from);
        Ok(())
    }

    fn write_registration(&mut self, id: NodeId, request: RegistrationRequest, from: SocketAddr) {
        let registry = &mut self.registry;
        let Some(node) = registry.nodes.get(&id) else { return };
        let (kind, vip, floor, fqdn) = (node.kind, node.vip, node.floor, node.fqdn.clone());
        let vip = match (kind, vip) {
            // With no address left the terminal gets no answer; its request is repeated until one is free.
            (NodeKind::Terminal, None) => match registry.claim_terminal() {
                Some(vip) => Some(vip),
                None => return,
            },
            (_, vip) => vip,
        };
        // Claimed for this node from here on: a request that is repeated before the write is durable gets the same.
        if let Some(node) = registry.nodes.get_mut(&id) {
            node.vip = vip;
        }
        let addresses = request.addresses.to_vec();
        let record = NodeRecord { node: id, fqdn, kind, vip, floor, addresses, seen: from };
        self.write(Write::Node(record), Continuation::Register { node: id, request, from });
    }

    fn write(&mut self, write: Write, continuation: Continuation) {
        let id = WriteId(self.next_id);
        self.next_id += 1;
        self.writes.insert(id, continuation);
        self.writes_waiting.push_back((id, write));
    }

    /// The outcome of a write.
    pub fn handle_written(&mut self, id: WriteId, outcome: WriteOutcome, now: Instant) {
        match (self.writes.remove(&id), outcome) {
            (Some(Continuation::Register { node, request, from }), WriteOutcome::Stored) => {
                self.registered_now(node, request, from, now);
            }
            (Some(Continuation::Register { node, request, from }), WriteOutcome::Taken) => {
                if let Some(node) = self.registry.nodes.get_mut(&node) {
                    node.vip = None;
                }
                self.write_registration(node, request, from);
            }
            (Some(Continuation::General { negotiation, record }), WriteOutcome::Stored) => {
                self.registry.restore_general(record);
                self.general_ready(negotiation, record, now);
            }
            (Some(Continuation::General { negotiation, record }), WriteOutcome::Taken) => {
                self.claim_general(negotiation, record.real, now);
            }
            (Some(Continuation::General { negotiation, .. }), WriteOutcome::Failed) => {
                self.refuse_direction(negotiation, DnsError::ServFail, now);
            }
            // A registration that could not be stored is not answered: the node repeats it.
            (Some(Continuation::Register { .. }), WriteOutcome::Failed) | (None, _) => {}
        }
    }

    fn registered_now(&mut self, id: NodeId, request: RegistrationRequest, from: SocketAddr, now: Instant) {
        let relays = self.relays_to_measure(id);
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        node.live =
            Some(Live { addresses: request.addresses, seen: from, heard: now, rtts: request.rtts, load: 0 });
        if node.kind == NodeKind::Relay {
            self.registry.relays.insert(id);
        }
        self.silence.set(id, now + self.keep_alive * 7 / 2);
        let response = RegistrationResponse {
            request: request.request,
            vip: node.vip,
            seen: from,
            keep_alive: self.keep_alive,
            relays: if node.kind == NodeKind::Terminal { relays } else { List::default() },
        };
        let what = What::Registered { fqdn: node.fqdn.clone(), vip: node.vip, seen: from };
        self.mail.send(&mut node.session, from, &response.into(), 1, now);
        self.mail.journal.note(now, what);
    }

    fn relays_to_measure(&self, terminal: NodeId) -> List<RelayToMeasure, { crate::wire::MAX_RELAYS }> {
        let relay = |id: &NodeId| {
            let node = self.registry.nodes.get(id)?;
            let key = node.key.subkey(KeyPurpose::Measure, &[&terminal.0]);
            Some(RelayToMeasure { relay: *id, address: node.address()?, key })
        };
        self.registry.relays.iter().filter_map(relay).collect()
    }

    fn take_keep_alive(
        &mut self,
        id: NodeId,
        sequence: u64,
        keep_alive: KeepAlive,
        from: SocketAddr,
        now: Instant,
    ) {
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        let Some(live) = &mut node.live else {
            return self.tell_error(id, from, sequence, ErrorCode::NotRegistered, now);
        };
        (live.seen, live.heard) = (from, now);
        if let Some(load) = keep_alive.load {
            live.load = load;
        }
        if !keep_alive.rtts.is_empty() {
            live.rtts = keep_alive.rtts;
        }
        let answer = KeepAliveAnswer { request: keep_alive.request, seen: from }.into();
        self.mail.send(&mut node.session, from, &answer, 1, now);
    }

    fn tell_error(&mut self, id: NodeId, to: SocketAddr, sequence: u64, code: ErrorCode, now: Instant) {
        if let Some(node) = self.registry.nodes.get_mut(&id) {
            self.mail.send(&mut node.session, to, &Error { sequence, code }.into(), 1, now);
        }
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
            self.mail.send(&mut known.session, to, &message, 1, now);
        }
        self.asks.sent(id, Ask { node, message, purpose }, now, wait);
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

    // Direction (3.2.2)

    fn take_direction(&mut self, requester: NodeId, request: DirectionRequest, now: Instant) {
        if let Some(id) = self.by_request.get(&(requester, request.request)) {
            // A repeated request: the answer again, if there is one yet.
            if let Some(Negotiation { stage: Stage::Answered(answer), .. }) = self.negotiations.get(id) {
                let answer = answer.clone();
                self.tell(requester, &answer, 2, now);
            }
            return;
        }
        let id = NegotiationId(self.next_id);
        if !self.supersede(requester, &request, id) {
            return;
        }
        self.next_id += 1;
        self.by_request.insert((requester, request.request), id);
        self.deadlines.set(id, now + self.patience);
        let lookup = Lookup::Zone(request.fqdn.clone());
        self.negotiations.insert(id, Negotiation { requester, request, stage: Stage::Zone });
        self.look_up(id, lookup, now);
    }

    /// A terminal that moves again asks again: what is under way for where it was is dropped. False for a request from before that.
    fn supersede(
        &mut self,
        requester: NodeId,
        request: &DirectionRequest,
        negotiation: NegotiationId,
    ) -> bool {
        let Some(renewal) = &request.renewal else { return true };
        let key = (requester, renewal.path);
        let before = self.renewing.get(&key).copied();
        if before.is_some_and(|before| before.request > request.request) {
            return false;
        }
        if let Some(Renewing { negotiation: earlier, .. }) = before
            && self.negotiations.get(&earlier).is_some_and(|n| !matches!(n.stage, Stage::Answered(_)))
        {
            self.forget(earlier);
        }
        let epoch = before.and_then(|before| before.epoch);
        self.renewing.insert(key, Renewing { request: request.request, negotiation, epoch });
        true
    }

    fn tell(&mut self, node: NodeId, message: &Message, attempt: u32, now: Instant) {
        if let Some(node) = self.registry.nodes.get_mut(&node)
            && let Some(to) = node.address()
        {
            self.mail.send(&mut node.session, to, message, attempt, now);
        }
    }

    fn look_up(&mut self, negotiation: NegotiationId, lookup: Lookup, now: Instant) {
        let id = LookupId(self.next_id);
        self.next_id += 1;
        self.mail.journal.note(now, What::Asked { lookup: lookup.kind(), name: lookup.name().clone() });
        self.lookups.insert(id, (negotiation, lookup.clone()));
        self.lookups_waiting.push_back((id, lookup));
    }

    /// The answer to a look-up.
    pub fn handle_lookup(&mut self, id: LookupId, result: LookupResult, now: Instant) {
        let Some((negotiation, lookup)) = self.lookups.remove(&id) else { return };
        let answer = match &result {
            Ok(LookupAnswer::Zone(Zone { zone, servers })) => {
                let servers: Vec<_> = servers.iter().map(|(name, _)| name.as_str()).collect();
                format!("{} at {}", zone.as_ref().map_or(".", Fqdn::as_str), servers.join(", "))
            }
            Ok(LookupAnswer::Texts(texts)) if texts.is_empty() => "no record".into(),
            Ok(LookupAnswer::Texts(texts)) => texts.join("; "),
            Ok(LookupAnswer::Addresses(addresses)) if addresses.is_empty() => "no record".into(),
            Ok(LookupAnswer::Addresses(addresses)) => {
                addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
            }
            Err(failure) => failure.name().into(),
        };
        self.mail
            .journal
            .note(now, What::Answered { lookup: lookup.kind(), name: lookup.name().clone(), answer });
        let Some(known) = self.negotiations.get_mut(&negotiation) else { return };
        match (&mut known.stage, result) {
            (Stage::Zone, Ok(LookupAnswer::Zone(Zone { zone: Some(zone), servers }))) => {
                let servers = servers.into_iter().flat_map(|(name, addresses)| {
                    addresses.into_iter().map(move |address| (name.clone(), address))
                });
                known.stage = Stage::Record { zone, servers: servers.collect() };
                self.next_server(negotiation, now);
            }
            (Stage::Record { servers, .. }, Ok(LookupAnswer::Texts(texts))) => {
                let server = servers.remove(0).clone();
                if texts.iter().any(|text| text == DC_RECORD) {
                    self.found_coordinator(negotiation, server, now);
                } else {
                    // T3.2.2-b: no such record, so the peer is a general node.
                    let name = known.request.fqdn.clone();
                    known.stage = Stage::Address4;
                    self.look_up(negotiation, Lookup::A(name), now);
                }
            }
            (Stage::Record { servers, .. }, Err(_)) => {
                servers.remove(0);
                self.next_server(negotiation, now);
            }
            (Stage::Address4, Ok(LookupAnswer::Addresses(found))) => {
                let name = known.request.fqdn.clone();
                known.stage = Stage::Address6 { found };
                self.look_up(negotiation, Lookup::Aaaa(name), now);
            }
            (Stage::Address6 { found }, result) => {
                let mut found = std::mem::take(found);
                // An error for AAAA takes nothing from what A gave.
                if let Ok(LookupAnswer::Addresses(more)) = result {
                    found.extend(more);
                }
                self.found_general(negotiation, &found, now);
            }
            (_, Err(failure)) => self.refuse_direction(negotiation, failure.error(), now),
            (_, Ok(_)) => self.refuse_direction(negotiation, DnsError::ServFail, now),
        }
    }

    fn next_server(&mut self, id: NegotiationId, now: Instant) {
        let Some(Negotiation { stage: Stage::Record { zone, servers }, .. }) = self.negotiations.get(&id)
        else {
            return;
        };
        match servers.first() {
            Some((_, server)) => {
                let lookup = Lookup::Record { zone: zone.clone(), server: *server };
                self.look_up(id, lookup, now);
            }
            None => self.refuse_direction(id, DnsError::ServFail, now),
        }
    }

    /// The peer is an NTM terminal of the DC called `server`.
    fn found_coordinator(&mut self, id: NegotiationId, (server, address): (Fqdn, IpAddr), now: Instant) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        let name = negotiation.request.fqdn.clone();
        if server == self.fqdn {
            let (terminal, known) = self.information(&name);
            return self.peer_found(id, None, terminal, known, now);
        }
        let coordinator = NodeId::of(&server);
        let Some(node) =
            self.registry.nodes.get_mut(&coordinator).filter(|node| node.kind == NodeKind::Coordinator)
        else {
            // It says that it is a DC, and nobody has introduced us: its word is worth nothing.
            let refusal = Refusal::new("dc record", Reason::Stranger);
            self.mail.journal.refuse(now, SocketAddr::new(address, NTM_PORT), &refusal);
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        node.found_at = Some(SocketAddr::new(address, NTM_PORT));
        negotiation.stage = Stage::Information { coordinator };
        if node.session.is_open() {
            let request = |request| InformationRequest { request, fqdn: name }.into();
            self.ask(coordinator, request, Purpose::Negotiation(id), now);
        } else {
            self.join(coordinator, now);
        }
    }

    /// Opens the conversation with another DC, unless that is under way.
    fn join(&mut self, coordinator: NodeId, now: Instant) {
        let under_way = |ask: &Ask| ask.node == coordinator && matches!(ask.purpose, Purpose::Join);
        if self.asks.iter().any(|(_, ask)| under_way(ask)) {
            return;
        }
        let (fqdn, addresses) = (self.fqdn.clone(), [self.address].into_iter().collect::<Addresses>());
        let request = move |request| {
            RegistrationRequest {
                request,
                fqdn,
                kind: NodeKind::Coordinator,
                addresses,
                rtts: List::default(),
            }
            .into()
        };
        self.ask(coordinator, request, Purpose::Join, now);
    }

    fn joined(&mut self, coordinator: NodeId, response: &RegistrationResponse, now: Instant) {
        if self.answered(coordinator, response.request, now).is_none() {
            return;
        }
        // What it refused while it did not know us.
        let refused: Vec<RequestId> =
            self.asks.iter().filter(|(_, ask)| ask.node == coordinator).map(|(id, _)| id).collect();
        refused.into_iter().for_each(|id| self.asks.hasten(id, now));
        let waiting: Vec<(NegotiationId, Fqdn)> = self
            .negotiations
            .iter()
            .filter(|(_, n)| matches!(n.stage, Stage::Information { coordinator: c } if c == coordinator))
            .map(|(id, n)| (*id, n.request.fqdn.clone()))
            .collect();
        for (id, fqdn) in waiting {
            let asked =
                self.asks.iter().any(|(_, ask)| matches!(ask.purpose, Purpose::Negotiation(n) if n == id));
            if !asked {
                self.ask(
                    coordinator,
                    |request| InformationRequest { request, fqdn }.into(),
                    Purpose::Negotiation(id),
                    now,
                );
            }
        }
    }

    fn take_error(&mut self, coordinator: NodeId, error: Error, now: Instant) {
        match error.code {
            ErrorCode::NotRegistered => {
                // It started anew: so must the conversation.
                if let Some(node) = self.registry.nodes.get_mut(&coordinator) {
                    node.session.close();
                }
                self.join(coordinator, now);
            }
            ErrorCode::Stale { floor } => {
                if let Some(node) = self.registry.nodes.get_mut(&coordinator) {
                    node.session.skip_above(floor);
                }
                let ids: Vec<RequestId> =
                    self.asks.iter().filter(|(_, ask)| ask.node == coordinator).map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| self.asks.hasten(id, now));
            }
        }
    }

    /// What this DC knows of the terminal called `name`, and whether it knows the name at all.
    fn information(&self, name: &Fqdn) -> (Option<TerminalInformation>, bool) {
        let id = NodeId::of(name);
        match self.registry.nodes.get(&id).filter(|node| node.kind == NodeKind::Terminal) {
            Some(node) => (node.information(id), true),
            None => (None, *name == self.zone || *name == self.fqdn),
        }
    }

    fn inform(&mut self, coordinator: NodeId, request: InformationRequest, from: SocketAddr, now: Instant) {
        let (terminal, known) = self.information(&request.fqdn);
        let response = InformationResponse { request: request.request, terminal, known }.into();
        if let Some(node) = self.registry.nodes.get_mut(&coordinator) {
            self.mail.send(&mut node.session, from, &response, 1, now);
        }
    }

    fn informed(&mut self, coordinator: NodeId, response: InformationResponse, now: Instant) {
        if let Some(Purpose::Negotiation(id)) = self.answered(coordinator, response.request, now) {
            self.peer_found(id, Some(coordinator), response.terminal, response.known, now);
        }
    }

    /// DC_CN said where the peer is: decide how the two talk.
    fn peer_found(
        &mut self,
        id: NegotiationId,
        through: Option<NodeId>,
        terminal: Option<TerminalInformation>,
        known: bool,
        now: Instant,
    ) {
        let Some(negotiation) = self.negotiations.get(&id) else { return };
        let Some(peer) = terminal else {
            let error = if known { DnsError::ServFail } else { DnsError::NxDomain };
            return self.refuse_direction(id, error, now);
        };
        let requester = negotiation.requester;
        let Some(own) = self.registry.nodes.get(&requester).and_then(|node| node.information(requester))
        else {
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        let (path, epoch, role) = self.path_of(id);
        let path_key = SharedKey::random(&mut self.mail.rng);
        let keys = [SharedKey::random(&mut self.mail.rng), SharedKey::random(&mut self.mail.rng)];
        let (decision, reason) = route::decide(&own, &peer);
        let plan = Plan {
            path,
            epoch,
            role,
            peer: Peer::Terminal { information: peer.clone(), through, path_key, keys },
        };
        match decision {
            Decision::Direct { to_responder, to_initiator, responder_starts } => {
                let what =
                    What::Directed { path, route: RouteName::Direct, reason: reason.into(), relay: None };
                self.mail.journal.note(now, what);
                let own =
                    Route::Direct { addresses: to_responder.into_iter().collect(), start: !responder_starts };
                let peers =
                    Route::Direct { addresses: to_initiator.into_iter().collect(), start: responder_starts };
                self.direct_both(id, &plan, own, Some(peers), now);
            }
            Decision::Relayed => self.choose_relay(id, plan, Vec::new(), reason, now),
        }
    }

    /// The path's ID and next epoch, and the requester's role in it.
    fn path_of(&mut self, id: NegotiationId) -> (PathId, u8, Role) {
        let asked = self
            .negotiations
            .get(&id)
            .and_then(|negotiation| Some((negotiation.requester, negotiation.request.renewal.clone()?)));
        match asked {
            Some((requester, renewal)) => {
                let mut known = self.renewing.get_mut(&(requester, renewal.path));
                let given = known.as_ref().and_then(|known| known.epoch);
                let epoch = epoch_after(renewal.epoch.number(), given, renewal.role);
                if let Some(known) = &mut known {
                    known.epoch = Some(epoch);
                }
                (renewal.path, epoch, renewal.role)
            }
            None => {
                let mut path = [0; 16];
                rand_core::Rng::fill_bytes(&mut self.mail.rng, &mut path);
                (PathId(path), 0, Role::Initiator)
            }
        }
    }

    // General nodes (4.2)

    fn found_general(&mut self, id: NegotiationId, addresses: &[IpAddr], now: Instant) {
        let Some(negotiation) = self.negotiations.get(&id) else { return };
        // After a handover the general node stays the one that the application talks to, whatever the DNS says now.
        let kept = negotiation
            .request
            .renewal
            .as_ref()
            .and_then(|renewal| Some((self.registry.real(renewal.peer_vip)?, renewal.peer_vip)));
        if let Some((real, vip)) = kept {
            return self.general_ready(id, GeneralRecord { real, vip }, now);
        }
        let Some(real) = route::reachable(addresses) else {
            return self.refuse_direction(id, DnsError::NoData, now);
        };
        match self.registry.general(real) {
            Some(vip) => self.general_ready(id, GeneralRecord { real, vip }, now),
            None => self.claim_general(id, real, now),
        }
    }

    fn claim_general(&mut self, id: NegotiationId, real: IpAddr, now: Instant) {
        let Some(vip) = self.registry.claim_general() else {
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        if let Some(negotiation) = self.negotiations.get_mut(&id) {
            negotiation.stage = Stage::General;
        }
        let record = GeneralRecord { real, vip };
        self.write(Write::General(record), Continuation::General { negotiation: id, record });
    }

    fn general_ready(&mut self, id: NegotiationId, record: GeneralRecord, now: Instant) {
        let (path, epoch, role) = self.path_of(id);
        // Two negotiations at once may each have claimed a VIP for one address: the first that was stored is it.
        let vip = self.registry.general(record.real).unwrap_or(record.vip);
        let temp_key = SharedKey::random(&mut self.mail.rng);
        let plan = Plan { path, epoch, role, peer: Peer::General { vip, real: record.real, temp_key } };
        self.choose_relay(id, plan, Vec::new(), "the peer is a general node", now);
    }

    // Relays (4.1.2, 4.2.2)

    fn choose_relay(
        &mut self,
        id: NegotiationId,
        plan: Plan,
        mut tried: Vec<NodeId>,
        reason: &str,
        now: Instant,
    ) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        let requester = negotiation.requester;
        let keep = negotiation.request.renewal.as_ref().and_then(|renewal| renewal.keep_relay);
        let relay = match (keep, &plan.peer) {
            // T4.2.5-b: not chosen anew, for the general node knows this one.
            (Some(relay), Peer::General { .. }) => Some(relay).filter(|relay| !tried.contains(relay)),
            _ => self.best_relay(requester, &plan.peer, &tried),
        };
        let Some(relay) = relay.filter(|relay| self.registry.relays.contains(relay)) else {
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        tried.push(relay);
        let Some(requester_vip) = self.registry.nodes.get(&requester).and_then(|node| node.vip) else {
            return;
        };
        let (order, mode) = match &plan.peer {
            Peer::Terminal { information, keys, .. } => {
                let mut vips = [requester_vip, information.vip];
                if plan.role == Role::Responder {
                    vips.reverse();
                }
                let [initiator_key, responder_key] = keys.clone();
                let [initiator, responder] = vips;
                (RelayOrder::Switch { initiator_key, responder_key, initiator, responder }, RelayMode::Switch)
            }
            Peer::General { vip, real, temp_key } => {
                let (terminal, suite) = (requester_vip, self.suite);
                let order = RelayOrder::Translate {
                    temp_key: temp_key.clone(),
                    terminal,
                    general: *vip,
                    real: *real,
                    suite,
                };
                (order, RelayMode::Translate)
            }
        };
        let what = What::Directed {
            path: plan.path,
            route: mode.into(),
            reason: reason.into(),
            relay: self.registry.nodes.get(&relay).map(|node| node.fqdn.clone()),
        };
        self.mail.journal.note(now, what);
        let (path, epoch) = (plan.path, Epoch::new(plan.epoch));
        if let Some(negotiation) = self.negotiations.get_mut(&id) {
            negotiation.stage = Stage::Relay { plan, tried };
        }
        let direction = move |request| RelayDirection { request, path, epoch, order }.into();
        self.ask(relay, direction, Purpose::Negotiation(id), now);
    }

    fn best_relay(&mut self, requester: NodeId, peer: &Peer, tried: &[NodeId]) -> Option<NodeId> {
        let candidates: Vec<NodeId> =
            self.registry.relays.iter().copied().filter(|relay| !tried.contains(relay)).collect();
        match self.selection {
            Selection::First => candidates.first().copied(),
            Selection::Random if candidates.is_empty() => None,
            Selection::Random => {
                let at = rand_core::Rng::next_u64(&mut self.mail.rng) % candidates.len() as u64;
                candidates.get(at as usize).copied()
            }
            Selection::Best => candidates.into_iter().min_by_key(|relay| {
                let own = self.registry.nodes.get(&requester).and_then(|node| node.rtt_to(*relay));
                let peers = match peer {
                    Peer::Terminal { information, .. } => rtt_to(&information.rtts, *relay),
                    Peer::General { .. } => None,
                };
                let live = self.registry.nodes.get(relay).and_then(|node| node.live.as_ref());
                (route::score(own, peers, live.map_or(0, |live| live.load)), *relay)
            }),
        }
    }

    fn relay_answered(&mut self, relay: NodeId, response: RelayResponse, now: Instant) {
        let Some(Purpose::Negotiation(id)) = self.answered(relay, response.request, now) else { return };
        if response.answer != RelayAnswer::Ready {
            return self.next_relay(id, now);
        }
        let Some(Negotiation { stage: Stage::Relay { plan, .. }, .. }) = self.negotiations.get(&id) else {
            return;
        };
        let plan = plan.clone();
        let Some(address) = self.registry.nodes.get(&relay).and_then(Node::address) else { return };
        let route = |temp_key: &SharedKey, mode, optimise: Option<SocketAddr>| Route::Relayed {
            relay,
            address,
            mode,
            temp_key: temp_key.clone(),
            optimise: optimise.into_iter().collect(),
        };
        match &plan.peer {
            Peer::Terminal { information, keys, .. } => {
                let Some(negotiation) = self.negotiations.get(&id) else { return };
                let own_seen = self.registry.nodes.get(&negotiation.requester).and_then(Node::address);
                let own = route(&keys[plan.role.index()], RelayMode::Switch, Some(information.seen));
                let peers = route(&keys[plan.role.other().index()], RelayMode::Switch, own_seen);
                self.direct_both(id, &plan, own, Some(peers), now);
            }
            Peer::General { temp_key, .. } => {
                let own = route(temp_key, RelayMode::Translate, None);
                self.direct_both(id, &plan, own, None, now);
            }
        }
    }

    /// The relay does not answer or does not take the path: another one.
    fn next_relay(&mut self, id: NegotiationId, now: Instant) {
        if let Some(Negotiation { stage: Stage::Relay { plan, tried, .. }, .. }) = self.negotiations.get(&id)
        {
            let (plan, tried) = (plan.clone(), tried.clone());
            self.choose_relay(id, plan, tried, "the relay before did not take the path", now);
        }
    }

    // Route Direction (3.2.3)

    /// Tells both ends; the peer first, for the requester is the one who starts.
    fn direct_both(
        &mut self,
        id: NegotiationId,
        plan: &Plan,
        own: Route,
        peers: Option<Route>,
        now: Instant,
    ) {
        let Some(negotiation) = self.negotiations.get(&id) else { return };
        let (requester, request) = (negotiation.requester, negotiation.request.clone());
        let Some(node) = self.registry.nodes.get(&requester) else { return };
        let (own_name, Some(own_vip)) = (node.fqdn.clone(), node.vip) else { return };
        let (peer_vip, path_key) = match &plan.peer {
            Peer::Terminal { information, path_key, .. } => (information.vip, Some(path_key.clone())),
            Peer::General { vip, .. } => (*vip, None),
        };
        let (path, epoch, suite) = (plan.path, Epoch::new(plan.epoch), self.suite);
        if let (Some(route), Peer::Terminal { information, through, .. }) = (peers, &plan.peer) {
            let (target, role, path_key) = (information.node, plan.role.other(), path_key.clone());
            let direction = move |request| {
                RouteDirection {
                    request,
                    answers: None,
                    target,
                    path,
                    epoch,
                    role,
                    peer: own_name,
                    peer_vip: own_vip,
                    path_key,
                    suite,
                    route,
                }
                .into()
            };
            self.ask(through.unwrap_or(target), direction, Purpose::Route, now);
        }
        let direction = RouteDirection {
            request: self.mail.request_id(),
            answers: Some(request.request),
            target: requester,
            path,
            epoch,
            role: plan.role,
            peer: request.fqdn,
            peer_vip,
            path_key,
            suite,
            route: own,
        };
        self.conclude(id, direction.into(), now);
    }

    fn refuse_direction(&mut self, id: NegotiationId, error: DnsError, now: Instant) {
        let Some(negotiation) = self.negotiations.get(&id) else { return };
        let refusal = DirectionRefusal { request: negotiation.request.request, error };
        self.conclude(id, refusal.into(), now);
    }

    fn conclude(&mut self, id: NegotiationId, answer: Message, now: Instant) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        let requester = negotiation.requester;
        negotiation.stage = Stage::Answered(answer.clone());
        self.deadlines.set(id, now + REMEMBERED);
        self.tell(requester, &answer, 1, now);
    }

    /// Another DC directs a terminal of ours: only we share a key with it and can pass its NAT (T3.2.3-a).
    fn pass_on(
        &mut self,
        coordinator: NodeId,
        direction: RouteDirection,
        now: Instant,
    ) -> Result<(), Refusal> {
        let known = self.registry.nodes.get(&direction.target);
        if !known.is_some_and(|node| node.kind == NodeKind::Terminal && node.live.is_some()) {
            return Err(Refusal::new("target", Reason::Stranger));
        }
        let (target, theirs) = (direction.target, direction.request);
        let repeated = self.asks.iter().any(|(_, ask)| {
            matches!(&ask.purpose, Purpose::RouteFor { coordinator: c, request } if (*c, *request) == (coordinator, theirs))
        });
        if !repeated {
            let ours = move |request| RouteDirection { request, answers: None, ..direction }.into();
            self.ask(target, ours, Purpose::RouteFor { coordinator, request: theirs }, now);
        }
        Ok(())
    }

    fn route_taken(&mut self, node: NodeId, response: RouteResponse, now: Instant) {
        if let Some(Purpose::RouteFor { coordinator, request }) = self.answered(node, response.request, now) {
            let response = RouteResponse { request, accepted: response.accepted }.into();
            self.tell(coordinator, &response, 1, now);
        }
    }

    // Time

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        earliest([self.asks.poll_timeout(), self.silence.next(), self.deadlines.next()])
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expired) = self.asks.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => {
                    if let Some(ask) = self.asks.get(id) {
                        let (node, message) = (ask.node, ask.message.clone());
                        if let (2, Some(known)) = (attempt, self.registry.nodes.get_mut(&node)) {
                            known.rtt.timed_out();
                        }
                        self.tell(node, &message, attempt, now);
                    }
                }
                Expired::GaveUp(_, ask) => self.unanswered(&ask, now),
            }
        }
        while let Some(id) = self.silence.due(now) {
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
        if let Some(to) = self.registry.nodes.get(&ask.node).and_then(Node::address) {
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
            Purpose::Join | Purpose::Route | Purpose::RouteFor { .. } => {}
        }
    }

    /// A node should have been heard by now.
    fn silent(&mut self, id: NodeId, now: Instant) {
        let limit = self.keep_alive * 7 / 2;
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        // Other DCs send no Keep-alives; they are asked when they are needed.
        if node.kind == NodeKind::Coordinator {
            return;
        }
        match &node.live {
            Some(live) if live.heard + limit > now => self.silence.set(id, live.heard + limit),
            Some(_) => {
                node.live = None;
                let fqdn = node.fqdn.clone();
                self.registry.relays.remove(&id);
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

    /// The oldest observation not yet taken.
    pub fn poll_observation(&mut self) -> Option<(Instant, What)> {
        self.mail.journal.poll()
    }

    /// The VIP of a terminal, registered now or before.
    pub fn vip_of(&self, name: &Fqdn) -> Option<Vip> {
        self.registry.nodes.get(&NodeId::of(name)).and_then(|node| node.vip)
    }
}
