//! From a Direction Request to Route Directions (3.2.2, 3.2.3): who the peer is, by the DNS; where it is, by its DC; and telling both ends.

use std::net::{IpAddr, SocketAddr};

use crate::addr::{Fqdn, NTM_PORT, NodeId, PathId};
use crate::crypto::SharedKey;
use crate::observe::{RouteName, What};
use crate::relay::table::newer;
use crate::time::Instant;
use crate::wire::{
    DirectionRefusal, DirectionRequest, DnsError, Epoch, Error, ErrorCode, InformationRequest,
    InformationResponse, List, Message, NodeKind, Reason, Refusal, RegistrationRequest, RegistrationResponse,
    RequestId, Role, Route, RouteDirection, RouteResponse, TerminalInformation,
};

use super::lookup::{DC_RECORD, Lookup, LookupAnswer, LookupId, LookupResult, Zone};
use super::negotiation::{
    Ask, Errand, Negotiation, NegotiationId, Peer, Plan, Purpose, Renewing, Stage, epoch_after,
};
use super::route::Decision;
use super::{Coordinator, REMEMBERED, route};

impl Coordinator {
    /// Takes the Direction Request in `requester`'s message `sequence` (T3.2.2-a).
    pub(super) fn take_direction(
        &mut self,
        requester: NodeId,
        sequence: u64,
        request: DirectionRequest,
        now: Instant,
    ) {
        let known = self.by_request.get(&(requester, request.request)).copied();
        match known.and_then(|id| Some((id, self.negotiations.get(&id)?))) {
            // A repeated request: the answer again, if there is one yet.
            Some((_, negotiation)) if negotiation.request == request => {
                if let Stage::Answered(answer) = &negotiation.stage {
                    let answer = answer.clone();
                    self.tell(requester, &answer, 2, now);
                }
                return;
            }
            // A terminal that lost its disk begins its Request IDs anew: this is another request.
            Some((id, _)) => self.forget(id),
            None => {}
        }
        let id = NegotiationId(self.next_id);
        if !self.supersede(requester, sequence, &request, id) {
            return;
        }
        self.next_id += 1;
        self.by_request.insert((requester, request.request), id);
        self.deadlines.set(id, now + self.patience);
        let lookup = Lookup::Zone(request.fqdn.clone());
        let (addresses, conflicts) = (Vec::new(), 0);
        let negotiation = Negotiation { requester, request, stage: Stage::Zone, addresses, conflicts };
        self.negotiations.insert(id, negotiation);
        self.look_up(Errand::Negotiation(id), lookup, now);
    }

    /// A terminal that moves again asks again: what is under way for where it was is dropped. False for a request from before that, which
    /// the number of its message tells: that of a message never goes back, while Request IDs do where a terminal loses its disk.
    pub(super) fn supersede(
        &mut self,
        requester: NodeId,
        sequence: u64,
        request: &DirectionRequest,
        negotiation: NegotiationId,
    ) -> bool {
        let Some(renewal) = &request.renewal else { return true };
        let key = (requester, renewal.path);
        let before = self.renewing.get(&key).copied();
        if before.is_some_and(|before| before.sequence > sequence) {
            return false;
        }
        if let Some(Renewing { negotiation: earlier, .. }) = before
            && self.under_way(earlier).is_some()
        {
            self.forget(earlier);
        }
        let epoch = before.and_then(|before| before.epoch);
        self.renewing.insert(key, Renewing { sequence, negotiation, epoch });
        true
    }

    /// A negotiation that is not answered yet. What one asked for that was may still come: the DC gave it up by its deadline, told the terminal
    /// so, and decides nothing more for it, for the terminal may have asked anew since.
    pub(super) fn under_way(&mut self, id: NegotiationId) -> Option<&mut Negotiation> {
        self.negotiations.get_mut(&id).filter(|negotiation| !negotiation.is_answered())
    }

    pub(super) fn tell(&mut self, node: NodeId, message: &Message, attempt: u32, now: Instant) {
        if let Some(node) = self.registry.nodes.get_mut(&node)
            && let Some(to) = node.address()
        {
            self.mail.send(&mut node.session, to, message, attempt, now);
        }
    }

    pub(super) fn look_up(&mut self, errand: Errand, lookup: Lookup, now: Instant) {
        let id = LookupId(self.next_id);
        self.next_id += 1;
        if self.mail.journal.is_read() {
            self.mail.journal.note(now, What::Asked { lookup: lookup.kind(), name: lookup.name().clone() });
        }
        self.lookups.insert(id, (errand, lookup.clone()));
        self.lookups_waiting.push_back((id, lookup));
    }

    /// The answer to a look-up.
    pub fn handle_lookup(&mut self, id: LookupId, result: LookupResult, now: Instant) {
        let Some((errand, asked)) = self.lookups.remove(&id) else { return };
        if self.mail.journal.is_read() {
            let (lookup, name) = (asked.kind(), asked.name().clone());
            self.mail.journal.note(now, What::Answered { lookup, name, answer: shown(&result) });
        }
        let negotiation = match errand {
            Errand::Negotiation(negotiation) => negotiation,
            Errand::Neighbour(node) => return self.neighbour_found(node, asked, result, now),
        };
        let Some(known) = self.under_way(negotiation) else { return };
        match (&mut known.stage, result) {
            (Stage::Zone, Ok(LookupAnswer::Zone(Zone { zone: Some(zone), servers }))) => {
                let servers = servers.into_iter().flat_map(|(name, addresses)| {
                    addresses.into_iter().map(move |address| (name.clone(), address))
                });
                known.stage = Stage::Record { zone, servers: servers.collect() };
                self.next_server(negotiation, now);
            }
            (Stage::Record { zone, servers }, Ok(LookupAnswer::Texts(texts))) => {
                let server = servers.remove(0).clone();
                if texts.iter().any(|text| text == DC_RECORD) {
                    let stands = server.0.is_in(zone);
                    self.found_coordinator(negotiation, server, stands, now);
                } else {
                    // T3.2.2-b: no such record, so the peer is a general node.
                    let name = known.request.fqdn.clone();
                    known.stage = Stage::Address4;
                    self.look_up(Errand::Negotiation(negotiation), Lookup::A(name), now);
                }
            }
            (Stage::Record { servers, .. }, Err(_)) => {
                servers.remove(0);
                self.next_server(negotiation, now);
            }
            (Stage::Address4, Ok(LookupAnswer::Addresses(found))) => {
                let name = known.request.fqdn.clone();
                known.stage = Stage::Address6 { found };
                self.look_up(Errand::Negotiation(negotiation), Lookup::Aaaa(name), now);
            }
            (Stage::Address6 { found }, result) => {
                let mut found = std::mem::take(found);
                // An error for AAAA takes nothing from what A gave.
                if let Ok(LookupAnswer::Addresses(more)) = result {
                    found.extend(more);
                }
                self.found_general(negotiation, found, now);
            }
            (_, Err(failure)) => self.refuse_direction(negotiation, failure.error(), now),
            (_, Ok(_)) => self.refuse_direction(negotiation, DnsError::ServFail, now),
        }
    }

    pub(super) fn next_server(&mut self, id: NegotiationId, now: Instant) {
        let Some(Negotiation { stage: Stage::Record { zone, servers }, .. }) = self.negotiations.get(&id)
        else {
            return;
        };
        match servers.first() {
            Some((_, server)) => {
                let lookup = Lookup::Record { zone: zone.clone(), server: *server };
                self.look_up(Errand::Negotiation(id), lookup, now);
            }
            None => self.refuse_direction(id, DnsError::ServFail, now),
        }
    }

    /// The peer is an NTM terminal of the DC called `server`, which `stands` in the zone that names it: else anybody's zone could say where
    /// another's DC is.
    pub(super) fn found_coordinator(
        &mut self,
        id: NegotiationId,
        (server, address): (Fqdn, IpAddr),
        stands: bool,
        now: Instant,
    ) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        let name = negotiation.request.fqdn.clone();
        if !stands {
            let refusal = Refusal::new("dc record", Reason::Conflict);
            self.mail.journal.refuse(now, SocketAddr::new(address, NTM_PORT), &refusal);
            return self.refuse_direction(id, DnsError::ServFail, now);
        }
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
    pub(super) fn join(&mut self, coordinator: NodeId, now: Instant) {
        let under_way = |ask: &Ask| ask.node == coordinator && matches!(ask.purpose, Purpose::Join);
        if self.asks.iter().any(|(_, ask)| under_way(ask)) {
            return;
        }
        let (fqdn, addresses) = (self.fqdn.clone(), self.addresses.clone());
        let (life, vips) = (self.life, Some(self.vips));
        let request = move |request| {
            RegistrationRequest {
                request,
                fqdn,
                kind: NodeKind::Coordinator,
                life,
                addresses,
                rtts: List::default(),
                vips,
            }
            .into()
        };
        self.ask(coordinator, request, Purpose::Join, now);
    }

    pub(super) fn joined(&mut self, coordinator: NodeId, response: &RegistrationResponse, now: Instant) {
        if self.answered(coordinator, response.request, now).is_none() {
            return;
        }
        match response.vips.map(|vips| (vips, self.overlapping(coordinator, vips))) {
            Some((theirs, None)) => {
                self.neighbours.ranges.insert(coordinator, theirs);
                self.neighbours.done(coordinator);
            }
            // It took this DC in, and should not have; or it says nothing.
            Some((theirs, Some(_))) => return self.refused_by(coordinator, theirs, now),
            None => self.neighbours.done(coordinator),
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

    pub(super) fn take_error(&mut self, coordinator: NodeId, error: Error, now: Instant) {
        match error.code {
            ErrorCode::NotRegistered => {
                // It knows nothing of this DC, or did not as it refused. What it says is taken meanwhile, where it may be: it may have opened the
                // conversation itself since, and would be refused in turn, for ever.
                self.join(coordinator, now);
            }
            ErrorCode::Overlap { vips } => self.refused_by(coordinator, vips, now),
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
    pub(super) fn information(&self, name: &Fqdn) -> (Option<TerminalInformation>, bool) {
        let id = NodeId::of(name);
        match self.registry.nodes.get(&id).filter(|node| node.kind == NodeKind::Terminal) {
            Some(node) => (node.information(id), true),
            None => (None, *name == self.zone || *name == self.fqdn),
        }
    }

    pub(super) fn inform(
        &mut self,
        coordinator: NodeId,
        request: InformationRequest,
        from: SocketAddr,
        now: Instant,
    ) {
        let (terminal, known) = self.information(&request.fqdn);
        let response = InformationResponse { request: request.request, terminal, known }.into();
        if let Some(node) = self.registry.nodes.get_mut(&coordinator) {
            self.mail.send(&mut node.session, from, &response, 1, now);
        }
    }

    pub(super) fn informed(&mut self, coordinator: NodeId, response: InformationResponse, now: Instant) {
        if let Some(Purpose::Negotiation(id)) = self.answered(coordinator, response.request, now) {
            self.peer_found(id, Some(coordinator), response.terminal, response.known, now);
        }
    }

    /// DC_CN said where the peer is: decide how the two talk.
    pub(super) fn peer_found(
        &mut self,
        id: NegotiationId,
        through: Option<NodeId>,
        terminal: Option<TerminalInformation>,
        known: bool,
        now: Instant,
    ) {
        let Some(negotiation) = self.under_way(id) else { return };
        let requester = negotiation.requester;
        let Some(peer) = terminal else {
            let error = if known { DnsError::ServFail } else { DnsError::NxDomain };
            return self.refuse_direction(id, error, now);
        };
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
    pub(super) fn path_of(&mut self, id: NegotiationId) -> (PathId, u8, Role) {
        let asked = self.negotiations.get(&id).and_then(|Negotiation { requester, request, .. }| {
            Some((*requester, NodeId::of(&request.fqdn), request.renewal.clone()?))
        });
        match asked {
            Some((requester, peer, renewal)) => {
                // What the other end was given counts as well: of two directions at once, when both ends moved, the one that was decided last is
                // the newer, for it alone knows where both are.
                let others = self.renewing.get(&(peer, renewal.path)).and_then(|other| other.epoch);
                let mut known = self.renewing.get_mut(&(requester, renewal.path));
                let given = known.as_ref().and_then(|known| known.epoch);
                let given = match (given, others) {
                    (Some(given), Some(other)) if newer(other, given) => Some(other),
                    (given, other) => given.or(other),
                };
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

    /// Tells both ends; the peer first, for the requester is the one who starts.
    pub(super) fn direct_both(
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
        let (own_name, Some(own_vip), Some((own_life, own_seen))) =
            (node.fqdn.clone(), node.vip, node.live.as_ref().map(|live| (live.life, live.seen)))
        else {
            return;
        };
        let (peer_vip, path_key) = match &plan.peer {
            Peer::Terminal { information, path_key, .. } => (information.vip, Some(path_key.clone())),
            Peer::General { vip, .. } => (*vip, None),
        };
        let (path, epoch, suite) = (plan.path, Epoch::new(plan.epoch), self.suite);
        if let (Some(route), Peer::Terminal { information, through, .. }) = (peers, &plan.peer) {
            let (target, life, seen) = (information.node, information.life, information.seen);
            let (role, path_key) = (plan.role.other(), path_key.clone());
            let direction = move |request| {
                RouteDirection {
                    request,
                    answers: None,
                    target,
                    life,
                    seen,
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
            life: own_life,
            seen: own_seen,
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

    /// Refuses a Direction Request for a reason that no message and no look-up shows.
    pub(super) fn undirected(&mut self, id: NegotiationId, error: DnsError, reason: &str, now: Instant) {
        if let Some(negotiation) = self.negotiations.get(&id) {
            let fqdn = negotiation.request.fqdn.clone();
            self.mail.journal.note(now, What::Undirected { fqdn, error, reason: reason.into() });
        }
        self.refuse_direction(id, error, now);
    }

    pub(super) fn refuse_direction(&mut self, id: NegotiationId, error: DnsError, now: Instant) {
        let Some(negotiation) = self.negotiations.get(&id) else { return };
        let refusal = DirectionRefusal { request: negotiation.request.request, error };
        self.conclude(id, refusal.into(), now);
    }

    pub(super) fn conclude(&mut self, id: NegotiationId, answer: Message, now: Instant) {
        let Some(negotiation) = self.under_way(id) else { return };
        let requester = negotiation.requester;
        negotiation.stage = Stage::Answered(answer.clone());
        self.deadlines.set(id, now + REMEMBERED);
        self.tell(requester, &answer, 1, now);
    }

    /// Another DC directs a terminal of ours: only we share a key with it and can pass its NAT (T3.2.3-a).
    pub(super) fn pass_on(
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
        // A repetition of one that is under way: the terminal is being told.
        if self.passing.insert((coordinator, theirs)) {
            let ours = move |request| RouteDirection { request, answers: None, ..direction }.into();
            self.ask(target, ours, Purpose::RouteFor { coordinator, request: theirs }, now);
        }
        Ok(())
    }

    pub(super) fn route_taken(&mut self, node: NodeId, response: RouteResponse, now: Instant) {
        if let Some(Purpose::RouteFor { coordinator, request }) = self.answered(node, response.request, now) {
            self.passing.remove(&(coordinator, request));
            let response = RouteResponse { request, accepted: response.accepted }.into();
            self.tell(coordinator, &response, 1, now);
        }
    }
}

/// What the DNS said, in the trace.
fn shown(result: &LookupResult) -> String {
    match result {
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
    }
}
