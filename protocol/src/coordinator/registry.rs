//! Whom a DC knows, where they are, and which virtual addresses are whose.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::FixedState;

use super::store::{GeneralRecord, NodeRecord};
use crate::addr::{Fqdn, NodeId, Vip, VipRange};
use crate::crypto::SharedKey;
use crate::family::Families;
use crate::session::{Rtt, Session};
use crate::time::Instant;
use crate::wire::{Addresses, List, MAX_RELAYS, NodeKind, RelayRtt, RequestId, TerminalInformation};

/// Someone whom the DC shares a key with.
pub(super) struct Node {
    pub(super) fqdn: Fqdn,
    pub(super) kind: NodeKind,
    pub(super) key: SharedKey,
    pub(super) session: Session,
    pub(super) rtt: Rtt,
    /// The highest sequence number of a Registration Request that was accepted.
    pub(super) floor: u64,
    pub(super) vip: Option<Vip>,
    pub(super) live: Option<Live>,
    /// Where a DC is that was found through the DNS.
    pub(super) found_at: Option<SocketAddr>,
    /// Where it stands among those that are to be heard by some time. Kept here: a second index of all nodes would cost more than the first.
    pub(super) silent_at: Option<Instant>,
}

/// Where a registered node is.
pub(super) struct Live {
    /// Which life of the node that is.
    pub(super) life: u32,
    pub(super) addresses: Addresses,
    pub(super) seen: SocketAddr,
    pub(super) heard: Instant,
    pub(super) rtts: List<RelayRtt, MAX_RELAYS>,
    pub(super) load: u16,
    /// The count of [`Registry::relays_changed`] that a terminal's list of relays is of, and the request whose answer told it.
    pub(super) told: (u64, RequestId),
}

impl Node {
    /// Where to send to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.live.as_ref().map(|live| live.seen).or(self.found_at)
    }

    /// It is to be heard by `at`, whatever was set before; `all` is when each node is, and this one is `id`.
    pub(super) fn hear_by(&mut self, at: Instant, id: NodeId, all: &mut BTreeSet<(Instant, NodeId)>) {
        if let Some(old) = self.silent_at.replace(at) {
            all.remove(&(old, id));
        }
        all.insert((at, id));
    }

    /// The families that it has addresses of, while it is registered.
    pub(super) fn families(&self) -> Families {
        self.live.iter().flat_map(|live| live.addresses.iter()).collect()
    }

    /// Where somebody with addresses of `families` reaches it: at the address that was seen, or in its other family at the first that
    /// it registered.
    pub(super) fn address_for(&self, families: Families) -> Option<SocketAddr> {
        let live = self.live.as_ref()?;
        families.choose([live.seen].into_iter().chain(live.addresses.iter().copied()))
    }

    /// What another DC is told of a terminal.
    pub(super) fn information(&self, node: NodeId) -> Option<TerminalInformation> {
        let live = self.live.as_ref()?;
        Some(TerminalInformation {
            node,
            life: live.life,
            vip: self.vip?,
            addresses: live.addresses.clone(),
            seen: live.seen,
            rtts: live.rtts.clone(),
        })
    }

    pub(super) fn rtt_to(&self, relay: NodeId) -> Option<u32> {
        self.live.as_ref().and_then(|live| rtt_to(&live.rtts, relay))
    }
}

pub(super) fn rtt_to(rtts: &[RelayRtt], relay: NodeId) -> Option<u32> {
    rtts.iter().find(|rtt| rtt.relay == relay).map(|rtt| rtt.micros)
}

/// The nodes, and the virtual addresses.
pub(super) struct Registry {
    /// Each on its own: a table that doubles leaves half of itself empty.
    pub(super) nodes: HashMap<NodeId, Box<Node>, FixedState>,
    /// The registered relays, in an order of their own.
    pub(super) relays: BTreeSet<NodeId>,
    /// How often a relay came, went or moved.
    pub(super) relays_changed: u64,
    terminals: Pool,
    generals: Pool,
    vip_of: HashMap<IpAddr, Vip, FixedState>,
    real_of: HashMap<Vip, IpAddr, FixedState>,
}

/// Addresses of a range, handed out from the lowest on, each once.
struct Pool {
    range: VipRange,
    taken: HashMap<Vip, (), FixedState>,
    next: u32,
}

impl Pool {
    fn new(range: VipRange) -> Self {
        Self { range, taken: HashMap::default(), next: 0 }
    }

    fn take(&mut self, vip: Vip) {
        self.taken.insert(vip, ());
    }

    /// An address that nobody has. The range's first and last are left out: they look like a network's and a broadcast address.
    fn claim(&mut self) -> Option<Vip> {
        let usable = self.range.size() - 2;
        for _ in 0..usable {
            let vip = self.range.at(1 + self.next % usable)?;
            self.next = (self.next + 1) % usable;
            if !self.taken.contains_key(&vip) {
                self.take(vip);
                return Some(vip);
            }
        }
        None
    }

    /// This very address, if nobody has it.
    fn claim_this(&mut self, vip: Vip) -> Option<Vip> {
        let ends = [0, self.range.size() - 1].map(|end| self.range.at(end));
        let is_usable = self.range.contains(vip) && !ends.contains(&Some(vip));
        (is_usable && !self.taken.contains_key(&vip)).then(|| {
            self.take(vip);
            vip
        })
    }
}

impl Registry {
    /// The lower half of `vips` is for terminals, the upper for general nodes.
    pub(super) fn new(vips: VipRange) -> Self {
        let (terminals, generals) = vips.halves();
        Self {
            nodes: HashMap::default(),
            relays: BTreeSet::new(),
            relays_changed: 0,
            terminals: Pool::new(terminals),
            generals: Pool::new(generals),
            vip_of: HashMap::default(),
            real_of: HashMap::default(),
        }
    }

    /// What the store kept of a node. One whose key is gone keeps its VIP: nobody else gets it.
    pub(super) fn restore_node(&mut self, record: &NodeRecord) {
        if let Some(vip) = record.vip {
            self.terminals.take(vip);
        }
        if let Some(node) = self.nodes.get_mut(&record.node) {
            (node.floor, node.vip) = (record.floor, record.vip);
        }
    }

    /// What the store kept of a general node.
    pub(super) fn restore_general(&mut self, record: GeneralRecord) {
        self.generals.take(record.vip);
        self.vip_of.insert(record.real, record.vip);
        self.real_of.insert(record.vip, record.real);
    }

    /// A VIP for a terminal.
    pub(super) fn claim_terminal(&mut self) -> Option<Vip> {
        self.terminals.claim()
    }

    /// A VIP_GN for a general node, not yet its own: `wanted` if that is free.
    pub(super) fn claim_general(&mut self, wanted: Option<Vip>) -> Option<Vip> {
        wanted.and_then(|vip| self.generals.claim_this(vip)).or_else(|| self.generals.claim())
    }

    /// `vip` is no general node's any more, and free.
    pub(super) fn forget_general(&mut self, vip: Vip) {
        if let Some(real) = self.real_of.remove(&vip) {
            self.vip_of.remove(&real);
        }
        self.generals.taken.remove(&vip);
    }

    /// VIP_GN of `real` (T4.2.4-a: one address, one VIP).
    pub(super) fn general(&self, real: IpAddr) -> Option<Vip> {
        self.vip_of.get(&real).copied()
    }

    /// RIP_GN of `vip`.
    pub(super) fn real(&self, vip: Vip) -> Option<IpAddr> {
        self.real_of.get(&vip).copied()
    }

    /// The number of registered nodes of a kind.
    pub(super) fn registered(&self, kind: NodeKind) -> usize {
        self.nodes.values().filter(|node| node.kind == kind && node.live.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T3.1-a: never one twice, never one of another's.
    #[test]
    fn a_pool_hands_out_every_address_once() {
        let mut pool = Pool::new("198.18.0.0/28".parse().unwrap());
        pool.take(Vip([198, 18, 0, 3].into()));
        let claimed: Vec<Vip> = std::iter::from_fn(|| pool.claim()).take(100).collect();
        let unique: BTreeSet<_> = claimed.iter().copied().collect();
        assert_eq!((claimed.len(), unique.len()), (13, 13), "16 less first, last and the one that was taken");
        assert!(unique.iter().all(|vip| pool.range.contains(*vip)));
    }
}
