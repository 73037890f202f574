//! Paths that need a relay: general nodes and their VIPs (4.2), choosing a relay, and directing it (4.1.2, 4.2.2).

use std::net::IpAddr;

use crate::addr::{NodeId, Vip};
use crate::crypto::SharedKey;
use crate::family::Families;
use crate::observe::What;
use crate::time::Instant;
use crate::wire::{
    DnsError, Epoch, RelayAnswer, RelayDirection, RelayMode, RelayOrder, RelayResponse, Role, Route,
    TerminalInformation, UNREACHABLE,
};

use super::negotiation::{Negotiation, NegotiationId, Peer, Plan, Purpose, Stage};
use super::registry::rtt_to;
use super::route::Selection;
use super::store::{GeneralRecord, Write};
use super::{Continuation, Coordinator, route};

/// How many VIPs of a general node are tried at relays that know them as others'.
const MOST_CONFLICTS: u32 = 16;

impl Coordinator {
    /// The peer is a general node at `addresses`, as the DNS says.
    pub(super) fn found_general(&mut self, id: NegotiationId, addresses: Vec<IpAddr>, now: Instant) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        negotiation.addresses = addresses;
        // After a handover the general node stays the one that the application talks to, whatever the DNS says now.
        let kept = negotiation
            .request
            .renewal
            .as_ref()
            .and_then(|renewal| Some((self.registry.real(renewal.peer_vip)?, renewal.peer_vip)));
        if let Some((real, vip)) = kept {
            return self.general_ready(id, GeneralRecord { real, vip }, now);
        }
        // A DC that lost its records gives it the VIP again that its terminals know it by, unless a relay knows that better.
        let wanted = negotiation.request.renewal.as_ref().filter(|_| negotiation.conflicts < 2);
        let wanted = wanted.map(|renewal| renewal.peer_vip);
        let families = |node: &NodeId| self.registry.nodes.get(node).map(|node| node.families());
        let own = families(&negotiation.requester).unwrap_or_default();
        let relays = self.registry.relays.iter().filter_map(families);
        let Some(real) = route::reachable(&negotiation.addresses, own, relays) else {
            let reason = match negotiation.addresses[..] {
                [] => "the name has no address",
                _ => "the name has only IPv6 addresses, and no relay has IPv6",
            };
            return self.undirected(id, DnsError::NoData, reason, now);
        };
        match self.registry.general(real) {
            Some(vip) => self.general_ready(id, GeneralRecord { real, vip }, now),
            None if self.awaiting_general(real).next().is_some() => self.await_general(id, real),
            None => self.claim_general(id, real, wanted, now),
        }
    }

    /// The negotiations that wait for a VIP of the general node at `real`.
    pub(super) fn awaiting_general(&self, real: IpAddr) -> impl Iterator<Item = NegotiationId> {
        let waits = move |negotiation: &Negotiation| matches!(negotiation.stage, Stage::General { real: its } if its == real);
        self.negotiations.iter().filter(move |(_, negotiation)| waits(negotiation)).map(|(id, _)| *id)
    }

    /// A relay knows the VIP of `record` as another general node's: this DC lost its records, and gave it anew. The relay is believed: paths that
    /// lead there go on (T4.2.5-b), and this general node gets another.
    fn unname_general(&mut self, id: NegotiationId, record: GeneralRecord, now: Instant) {
        let Some(negotiation) = self.negotiations.get_mut(&id) else { return };
        negotiation.conflicts += 1;
        if negotiation.conflicts > MOST_CONFLICTS {
            return self.undirected(id, DnsError::ServFail, "relays know every VIP as another's", now);
        }
        let addresses = negotiation.addresses.clone();
        let is_named = self.registry.general(record.real) == Some(record.vip);
        if is_named {
            self.claim_general(id, record.real, None, now);
            self.registry.forget_general(record.vip);
        }
        // A path that is directed anew is to the one that the DNS names. The write that frees its VIP is ahead of what is written for it.
        if !(is_named && addresses.contains(&record.real)) {
            self.found_general(id, addresses, now);
        }
    }

    fn await_general(&mut self, id: NegotiationId, real: IpAddr) {
        if let Some(negotiation) = self.under_way(id) {
            negotiation.stage = Stage::General { real };
        }
    }

    pub(super) fn claim_general(
        &mut self,
        id: NegotiationId,
        real: IpAddr,
        wanted: Option<Vip>,
        now: Instant,
    ) {
        let vip = self.neighbours.are_clear().then(|| self.registry.claim_general(wanted)).flatten();
        let Some(vip) = vip else {
            return self.refuse_direction(id, DnsError::ServFail, now);
        };
        self.await_general(id, real);
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
        #[cfg(feature = "mutants")]
        let keep = keep.filter(|_| !crate::mutants::Mutant::RelayChosenAnew.is_here());
        let avoid = negotiation.request.avoid;
        let relay = match (keep, &plan.peer) {
            // T4.2.5-b: not chosen anew, for the general node knows this one.
            (Some(relay), Peer::General { .. }) => Some(relay).filter(|relay| !tried.contains(relay)),
            _ => self.best_relay(requester, &plan.peer, avoid, &tried),
        };
        let usable = relay.filter(|relay| self.is_usable(*relay, requester, &plan.peer));
        let Some(relay) = usable else {
            let reason = match keep {
                Some(_) => "the relay that the general node knows cannot be reached any more",
                None if self.registry.relays.is_empty() => "no relay is registered",
                None if tried.is_empty() => "no relay has an address of each family that the ends have",
                None => "no relay took the path",
            };
            return self.undirected(id, DnsError::ServFail, reason, now);
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

    /// Whether `relay` is registered, and has addresses by which `requester` and `peer` reach it (T3.1-d).
    fn is_usable(&self, relay: NodeId, requester: NodeId, peer: &Peer) -> bool {
        let families = |node| self.registry.nodes.get(&node).map(|node| node.families()).unwrap_or_default();
        let side = match peer {
            Peer::Terminal { information, .. } => information.addresses.iter().collect(),
            Peer::General { real, .. } => [*real].into_iter().collect(),
        };
        self.registry.relays.contains(&relay) && route::serves(families(relay), &[families(requester), side])
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
        let left = left.filter(|relay| self.is_usable(*relay, requester, peer));
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
            let plan = self.negotiations.get(&id).and_then(|negotiation| match &negotiation.stage {
                Stage::Relay { plan, .. } => Some(plan),
                _ => None,
            });
            return match (response.answer, plan.map(|plan| &plan.peer)) {
                (RelayAnswer::Conflict, Some(&Peer::General { real, vip, .. })) => {
                    self.unname_general(id, GeneralRecord { real, vip }, now);
                }
                _ => self.next_relay(id, now),
            };
        }
        let Some(Negotiation { stage: Stage::Relay { plan, .. }, .. }) = self.negotiations.get(&id) else {
            return;
        };
        let plan = plan.clone();
        let Some(requester) = self.negotiations.get(&id).map(|negotiation| negotiation.requester) else {
            return;
        };
        let node = |id| self.registry.nodes.get(&id);
        let Some(own) = node(requester).and_then(|node| node.information(requester)) else { return };
        // Each end reaches the relay in a family of its own.
        let route =
            |end: &TerminalInformation, temp_key: &SharedKey, mode, peer: Option<&TerminalInformation>| {
                let families: Families = end.addresses.iter().collect();
                Some(Route::Relayed {
                    relay,
                    address: node(relay)?.address_for(families)?,
                    mode,
                    temp_key: temp_key.clone(),
                    optimise: peer.and_then(|peer| route::optimise(families, peer)).into_iter().collect(),
                })
            };
        let (own, peers) = match &plan.peer {
            Peer::Terminal { information: peer, keys, .. } => {
                let [own_key, peers_key] = [&keys[plan.role.index()], &keys[plan.role.other().index()]];
                let peers = route(peer, peers_key, RelayMode::Switch, Some(&own));
                (route(&own, own_key, RelayMode::Switch, Some(peer)), peers)
            }
            Peer::General { temp_key, .. } => (route(&own, temp_key, RelayMode::Translate, None), None),
        };
        // Without an address the relay or an end is another one than when the relay was chosen.
        match own {
            Some(own) if peers.is_some() || matches!(plan.peer, Peer::General { .. }) => {
                self.direct_both(id, &plan, own, peers, now);
            }
            _ => self.next_relay(id, now),
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
