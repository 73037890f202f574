//! Other DCs and their virtual ranges: none may overlap with another's, or one VIP would be two terminals' (T3.1-a).
//!
//! A DC is told its neighbours' ranges by its configuration, or asks those whose range it was not told when it starts, and hands out no
//! VIP before they have said or could not be asked. Whenever two DCs join, each says its range. The one that asks and is refused is the
//! one that stops: who was there goes on, and a newcomer that is configured wrong disturbs nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::addr::{Fqdn, NTM_PORT, NodeId, VipRange};
use crate::family::{Families, Family};
use crate::time::Instant;
use crate::wire::{DnsError, NodeKind, Reason, Refusal};

use super::lookup::{Lookup, LookupAnswer, LookupFailure, LookupResult};
use super::negotiation::{Errand, NegotiationId, Purpose, Stage};
use super::{Coordinator, Node};

/// Another DC claims virtual addresses of this one's range, or of a third one's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlap {
    /// The other DC.
    pub peer: Fqdn,
    /// The range that overlaps.
    pub vips: VipRange,
    /// Whether this came out before this DC handed out its first VIP.
    pub at_start: bool,
}

/// What is known of other DCs' ranges.
#[derive(Default)]
pub(super) struct Neighbours {
    /// As configured, or as they said themselves.
    pub(super) ranges: BTreeMap<NodeId, VipRange>,
    /// Who has yet to say its range.
    waiting: BTreeSet<NodeId>,
    /// Until when they are waited for.
    until: Option<Instant>,
    /// Set once this DC was refused.
    pub(super) overlap: Option<Overlap>,
}

impl Neighbours {
    /// Whether VIPs may be handed out.
    pub(super) fn are_clear(&self) -> bool {
        self.waiting.is_empty() && self.overlap.is_none()
    }

    /// When [`Coordinator::handle_timeout`] is due for them.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Nobody is waited for any longer than that.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.waiting.clear();
        }
    }

    /// `node` has said its range, or cannot be asked.
    pub(super) fn done(&mut self, node: NodeId) {
        self.waiting.remove(&node);
        if self.waiting.is_empty() {
            self.until = None;
        }
    }
}

impl Coordinator {
    /// Asks the DCs whose ranges it was not told: to be called once, before anything else.
    pub fn start(&mut self, now: Instant) {
        let known = &self.neighbours.ranges;
        let is_unknown =
            |(id, node): &(&NodeId, &Node)| node.kind == NodeKind::Coordinator && !known.contains_key(id);
        let unknown: BTreeMap<NodeId, Fqdn> = self
            .registry
            .nodes
            .iter()
            .map(|(id, node)| (id, &**node))
            .filter(is_unknown)
            .map(|(id, node)| (*id, node.fqdn.clone()))
            .collect();
        self.neighbours.waiting = unknown.keys().copied().collect();
        self.neighbours.until = (!unknown.is_empty()).then(|| now + self.patience);
        let own: Families = self.addresses.iter().collect();
        let lookup = if own.has(Family::V4) { Lookup::A } else { Lookup::Aaaa };
        for (id, fqdn) in unknown {
            self.look_up(Errand::Neighbour(id), lookup(fqdn), now);
        }
    }

    /// What another DC has against this one's range.
    pub fn overlap(&self) -> Option<&Overlap> {
        self.neighbours.overlap.as_ref()
    }

    /// Where another DC is, for [`start`](Self::start): at its address of the first family in which both have one.
    pub(super) fn neighbour_found(&mut self, id: NodeId, asked: Lookup, result: LookupResult, now: Instant) {
        let address = match &result {
            Ok(LookupAnswer::Addresses(addresses)) => addresses.first().copied(),
            _ => None,
        };
        let own: Families = self.addresses.iter().collect();
        match (address, self.registry.nodes.get_mut(&id), asked) {
            (Some(address), Some(node), _) => {
                node.found_at.get_or_insert(SocketAddr::new(address, NTM_PORT));
                self.join(id, now);
            }
            (None, Some(_), Lookup::A(fqdn))
                if own.has(Family::V6) && result != Err(LookupFailure::NxDomain) =>
            {
                self.look_up(Errand::Neighbour(id), Lookup::Aaaa(fqdn), now);
            }
            _ => self.neighbours.done(id),
        }
    }

    /// The range known here with which that of the DC `id` overlaps: this DC's own, or a third one's.
    pub(super) fn overlapping(&self, id: NodeId, vips: VipRange) -> Option<VipRange> {
        let others =
            self.neighbours.ranges.iter().filter(|(other, _)| **other != id).map(|(_, range)| *range);
        std::iter::once(self.vips).chain(others).find(|range| range.overlaps(&vips))
    }

    /// The DC `id` says that this one's range overlaps with `vips`: this one hands out no VIP any more, and what waits for that DC fails.
    pub(super) fn refused_by(&mut self, id: NodeId, vips: VipRange, now: Instant) {
        let Some(node) = self.registry.nodes.get(&id) else { return };
        let (peer, from) = (node.fqdn.clone(), node.address());
        let at_start = self.neighbours.waiting.contains(&id);
        self.neighbours.overlap.get_or_insert(Overlap { peer, vips, at_start });
        self.neighbours.done(id);
        if let Some(from) = from {
            self.mail.journal.refuse(now, from, &Refusal::new("vips", Reason::Conflict));
        }
        let asks = self
            .asks
            .iter()
            .filter(|(_, ask)| ask.node == id && !matches!(ask.purpose, Purpose::RouteFor { .. }));
        let asks: Vec<_> = asks.map(|(request, _)| request).collect();
        asks.into_iter().for_each(|request| drop(self.asks.answered(request, now)));
        let waits = |stage: &Stage| matches!(stage, Stage::Information { coordinator } if *coordinator == id);
        let waiting: Vec<NegotiationId> =
            self.negotiations.iter().filter(|(_, n)| waits(&n.stage)).map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.refuse_direction(id, DnsError::ServFail, now));
    }
}
