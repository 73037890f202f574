//! Paths that need a relay: general nodes and their VIPs (4.2), choosing a relay, and directing it (4.1.2, 4.2.2).

use std::net::{IpAddr, SocketAddr};

use crate::addr::NodeId;
use crate::crypto::SharedKey;
use crate::observe::What;
use crate::time::Instant;
use crate::wire::{
    DnsError, Epoch, RelayAnswer, RelayDirection, RelayMode, RelayOrder, RelayResponse, Role, Route,
    UNREACHABLE,
};

use super::negotiation::{Negotiation, NegotiationId, Peer, Plan, Purpose, Stage};
use super::registry::{Node, rtt_to};
use super::route::Selection;
use super::store::{GeneralRecord, Write};
use super::{Continuation, Coordinator, route};

impl Coordinator {
    pub(super) fn found_general(&mut self, id: NegotiationId, addresses: &[IpAddr], now: Instant) {
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

    pub(super) fn claim_general(&mut self, id: NegotiationId, real: IpAddr, now: Instant) {
        let Some(vip) = self.registry.claim_general() else {
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        if let Some(negotiation) = self.negotiations.get_mut(&id) {
            negotiation.stage = Stage::General;
        }
        let record = GeneralRecord { real, vip };
        self.write(Write::General(record), Continuation::General { negotiation: id, record });
    }

    pub(super) fn general_ready(&mut self, id: NegotiationId, record: GeneralRecord, now: Instant) {
        let (path, epoch, role) = self.path_of(id);
        // Two negotiations at once may each have claimed a VIP for one address: the first that was stored is it.
        let vip = self.registry.general(record.real).unwrap_or(record.vip);
        let temp_key = SharedKey::random(&mut self.mail.rng);
        let plan = Plan { path, epoch, role, peer: Peer::General { vip, real: record.real, temp_key } };
        self.choose_relay(id, plan, Vec::new(), "the peer is a general node", now);
    }

    pub(super) fn choose_relay(
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
        let avoid = negotiation.request.avoid;
        let relay = match (keep, &plan.peer) {
            // T4.2.5-b: not chosen anew, for the general node knows this one.
            (Some(relay), Peer::General { .. }) => Some(relay).filter(|relay| !tried.contains(relay)),
            _ => self.best_relay(requester, &plan.peer, avoid, &tried),
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

    pub(super) fn best_relay(
        &mut self,
        requester: NodeId,
        peer: &Peer,
        avoid: Option<NodeId>,
        tried: &[NodeId],
    ) -> Option<NodeId> {
        let rtts = |relay: NodeId| {
            let own = self.registry.nodes.get(&requester).and_then(|node| node.rtt_to(relay));
            match peer {
                Peer::Terminal { information, .. } => vec![own, rtt_to(&information.rtts, relay)],
                Peer::General { .. } => vec![own],
            }
        };
        let left = self.registry.relays.iter().copied().filter(|relay| !tried.contains(relay));
        // One that an end does not reach, or found silent, is for when there is no other.
        let (doubtful, good): (Vec<NodeId>, Vec<NodeId>) =
            left.partition(|relay| avoid == Some(*relay) || rtts(*relay).contains(&Some(UNREACHABLE)));
        let candidates = if good.is_empty() { doubtful } else { good };
        match self.selection {
            Selection::First => candidates.first().copied(),
            Selection::Random if candidates.is_empty() => None,
            Selection::Random => {
                let at = rand_core::Rng::next_u64(&mut self.mail.rng) % candidates.len() as u64;
                candidates.get(at as usize).copied()
            }
            Selection::Best => candidates.into_iter().min_by_key(|relay| {
                let live = self.registry.nodes.get(relay).and_then(|node| node.live.as_ref());
                (route::score(&rtts(*relay), live.map_or(0, |live| live.load)), *relay)
            }),
        }
    }

    pub(super) fn relay_answered(&mut self, relay: NodeId, response: RelayResponse, now: Instant) {
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
    pub(super) fn next_relay(&mut self, id: NegotiationId, now: Instant) {
        if let Some(Negotiation { stage: Stage::Relay { plan, tried, .. }, .. }) = self.negotiations.get(&id)
        {
            let (plan, tried) = (plan.clone(), tried.clone());
            self.choose_relay(id, plan, tried, "the relay before did not take the path", now);
        }
    }
}
