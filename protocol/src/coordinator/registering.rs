//! Registration and keep-alive at the DC (3.2.1): who is where, and whose VIP is which. What must survive a crash is written before it is
//! answered.

use std::net::SocketAddr;

use crate::addr::NodeId;
use crate::crypto::Purpose as KeyPurpose;
use crate::family::Families;
use crate::observe::What;
use crate::time::Instant;
use crate::wire::{
    DnsError, Error, ErrorCode, Header, KeepAlive, KeepAliveAnswer, List, Message, NodeKind, Reason, Refusal,
    RegistrationRequest, RegistrationResponse, RelayToMeasure,
};

use super::registry::Live;
use super::store::{NodeRecord, Write, WriteId, WriteOutcome};
use super::{Continuation, Coordinator};

impl Coordinator {
    pub(super) fn take_registration(
        &mut self,
        header: &Header,
        id: NodeId,
        request: RegistrationRequest,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(node) = self.registry.nodes.get_mut(&id) else { return Ok(()) };
        // Above all that was taken from it, not the registrations alone: what it sends next is to be taken as well, also where it lost its disk and
        // with it the count of its numbers.
        let floor = node.floor.max(node.session.highest().unwrap_or_default());
        if header.sequence <= floor {
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
        if request.kind == NodeKind::Coordinator {
            let theirs = request.vips.ok_or(Refusal::new("vips", Reason::Unexpected))?;
            if let Some(vips) = self.overlapping(id, theirs) {
                self.tell_error(id, from, header.sequence, ErrorCode::Overlap { vips }, now);
                return Err(Refusal::new("vips", Reason::Conflict));
            }
            self.neighbours.ranges.insert(id, theirs);
        }
        let Some(node) = self.registry.nodes.get_mut(&id) else { return Ok(()) };
        node.floor = header.sequence;
        node.session.open_above(header.sequence);
        self.mail.received(header, &Message::RegistrationRequest(request.clone()), from, now);
        #[cfg(feature = "mutants")]
        if crate::mutants::Mutant::VipGivenTwice.is_here() {
            self.write_registration(id, request.clone(), from);
            // Who finds none left gets no answer, with the fault as without.
            if self.registry.nodes.get(&id).is_some_and(|node| node.vip.is_some()) {
                self.registered_now(id, request, from, now);
            }
            return Ok(());
        }
        self.write_registration(id, request, from);
        Ok(())
    }

    pub(super) fn write_registration(&mut self, id: NodeId, request: RegistrationRequest, from: SocketAddr) {
        let registry = &mut self.registry;
        let Some(node) = registry.nodes.get(&id) else { return };
        let (kind, vip, floor, fqdn) = (node.kind, node.vip, node.floor, node.fqdn.clone());
        let vip = match (kind, vip) {
            // With no address left the terminal gets no answer; its request is repeated until one is free.
            (NodeKind::Terminal, None) if !self.neighbours.are_clear() => return,
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

    pub(super) fn write(&mut self, write: Write, continuation: Continuation) {
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
            (Some(Continuation::General { record, .. }), WriteOutcome::Stored) => {
                self.registry.restore_general(record);
                let waiting: Vec<_> = self.awaiting_general(record.real).collect();
                waiting.into_iter().for_each(|negotiation| self.general_ready(negotiation, record, now));
            }
            (Some(Continuation::General { negotiation, record }), WriteOutcome::Taken) => {
                self.claim_general(negotiation, record.real, None, now);
            }
            (Some(Continuation::General { record, .. }), WriteOutcome::Failed) => {
                let waiting: Vec<_> = self.awaiting_general(record.real).collect();
                let error = DnsError::ServFail;
                waiting.into_iter().for_each(|negotiation| self.refuse_direction(negotiation, error, now));
            }
            // A registration that could not be stored is not answered: the node repeats it.
            (Some(Continuation::Register { .. }), WriteOutcome::Failed) | (None, _) => {}
        }
    }

    pub(super) fn registered_now(
        &mut self,
        id: NodeId,
        request: RegistrationRequest,
        from: SocketAddr,
        now: Instant,
    ) {
        let relays = self.relays_to_measure(id, request.addresses.iter().collect());
        let changed = self.registry.relays_changed;
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        let before = node.address();
        node.live = Some(Live {
            life: request.life,
            addresses: request.addresses,
            seen: from,
            heard: now,
            rtts: request.rtts,
            load: 0,
            told: (changed, request.request),
        });
        if node.kind == NodeKind::Relay && (self.registry.relays.insert(id) || before != Some(from)) {
            self.registry.relays_changed += 1;
        }
        node.hear_by(now + self.keep_alive * 7 / 2, id, &mut self.silence);
        let response = RegistrationResponse {
            request: request.request,
            vip: node.vip,
            seen: from,
            keep_alive: self.keep_alive,
            relays: if node.kind == NodeKind::Terminal { relays } else { List::default() },
            vips: (node.kind == NodeKind::Coordinator).then_some(self.vips),
        };
        let what = What::Registered { fqdn: node.fqdn.clone(), vip: node.vip, seen: from };
        self.mail.send(&mut node.session, from, &response.into(), 1, now);
        self.mail.journal.note(now, what);
    }

    pub(super) fn relays_to_measure(
        &self,
        terminal: NodeId,
        families: Families,
    ) -> List<RelayToMeasure, { crate::wire::MAX_RELAYS }> {
        let relay = |id: &NodeId| {
            let node = self.registry.nodes.get(id)?;
            let key = node.key.subkey(KeyPurpose::Measure, &[&terminal.0]);
            Some(RelayToMeasure { relay: *id, address: node.address_for(families)?, key })
        };
        self.registry.relays.iter().filter_map(relay).collect()
    }

    pub(super) fn take_keep_alive(
        &mut self,
        id: NodeId,
        sequence: u64,
        keep_alive: KeepAlive,
        from: SocketAddr,
        now: Instant,
    ) {
        let changed = self.registry.relays_changed;
        let Some(node) = self.registry.nodes.get(&id) else { return };
        // Told again where this is a repetition: the answer may have been lost.
        let is_new = |live: &Live| live.told.0 != changed || live.told.1 == keep_alive.request;
        let relays = match &node.live {
            Some(live) if node.kind == NodeKind::Terminal && is_new(live) => {
                self.relays_to_measure(id, live.addresses.iter().collect())
            }
            _ => List::default(),
        };
        let Some(node) = self.registry.nodes.get_mut(&id) else { return };
        let Some(live) = &mut node.live else {
            return self.tell_error(id, from, sequence, ErrorCode::NotRegistered, now);
        };
        if live.told.0 != changed {
            live.told = (changed, keep_alive.request);
        }
        (live.seen, live.heard) = (from, now);
        if let Some(load) = keep_alive.load {
            live.load = load;
        }
        if !keep_alive.rtts.is_empty() {
            live.rtts = keep_alive.rtts;
        }
        let answer = KeepAliveAnswer { request: keep_alive.request, seen: from, load: 0, relays }.into();
        self.mail.send(&mut node.session, from, &answer, 1, now);
    }

    pub(super) fn tell_error(
        &mut self,
        id: NodeId,
        to: SocketAddr,
        sequence: u64,
        code: ErrorCode,
        now: Instant,
    ) {
        if let Some(node) = self.registry.nodes.get_mut(&id) {
            self.mail.send(&mut node.session, to, &Error { sequence, code }.into(), 1, now);
        }
    }
}
