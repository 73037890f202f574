//! A DC's disk: what is on it survives a crash.

use std::collections::{BTreeMap, BTreeSet};

use ntm_protocol::addr::{NodeId, Vip};
use ntm_protocol::coordinator::store::{GeneralRecord, NodeRecord, Write, WriteOutcome};

/// What is durable.
#[derive(Clone, Debug, Default)]
pub struct Store {
    nodes: BTreeMap<NodeId, NodeRecord>,
    generals: BTreeMap<Vip, GeneralRecord>,
    vips: BTreeSet<Vip>,
}

impl Store {
    /// Every node's record, in the order of Node IDs.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        self.nodes.values().cloned().collect()
    }

    /// Every general node's record, in the order of VIPs.
    pub fn generals(&self) -> Vec<GeneralRecord> {
        self.generals.values().copied().collect()
    }

    /// Makes `write` durable, unless its VIP is someone else's.
    pub(crate) fn apply(&mut self, write: Write) -> WriteOutcome {
        match write {
            Write::Node(record) => {
                let before = self.nodes.get(&record.node).and_then(|old| old.vip);
                if record.vip != before && record.vip.is_some_and(|vip| self.vips.contains(&vip)) {
                    return WriteOutcome::Taken;
                }
                before.map(|vip| self.vips.remove(&vip));
                self.vips.extend(record.vip);
                self.nodes.insert(record.node, record);
            }
            Write::General(record) => {
                if !self.vips.insert(record.vip) {
                    return WriteOutcome::Taken;
                }
                let before: Vec<Vip> =
                    self.generals.values().filter(|old| old.real == record.real).map(|old| old.vip).collect();
                for vip in before {
                    self.vips.remove(&vip);
                    self.generals.remove(&vip);
                }
                self.generals.insert(record.vip, record);
            }
        }
        WriteOutcome::Stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntm_protocol::wire::NodeKind;

    #[test]
    fn a_vip_has_one_owner() {
        let vip = |n: u8| Some(Vip([198, 18, 0, n].into()));
        let node = |n: u8, vip| {
            let fqdn = "mn.test".parse().unwrap();
            let (kind, seen) = (NodeKind::Terminal, "192.0.2.1:4330".parse().unwrap());
            let addresses = Vec::new();
            Write::Node(NodeRecord { node: NodeId([n; 16]), fqdn, kind, vip, floor: 1, addresses, seen })
        };
        let general = |n: u8, m: u8| {
            let (real, vip) = ([192, 0, 2, n].into(), Vip([198, 18, 0, m].into()));
            Write::General(GeneralRecord { real, vip })
        };
        let mut store = Store::default();
        assert_eq!(store.apply(node(1, vip(1))), WriteOutcome::Stored);
        assert_eq!(store.apply(node(1, vip(1))), WriteOutcome::Stored, "renewed");
        assert_eq!(store.apply(node(2, vip(1))), WriteOutcome::Taken);
        assert_eq!(store.apply(general(9, 1)), WriteOutcome::Taken);
        assert_eq!(store.apply(general(9, 2)), WriteOutcome::Stored);
        assert_eq!(store.apply(node(2, vip(2))), WriteOutcome::Taken);
        assert_eq!(store.apply(general(9, 4)), WriteOutcome::Stored, "another, and the one before is free");
        assert_eq!(store.apply(node(3, vip(2))), WriteOutcome::Stored);
        assert_eq!(store.apply(node(1, vip(3))), WriteOutcome::Stored);
        assert_eq!(store.apply(node(2, vip(1))), WriteOutcome::Stored, "given up by the other");
    }
}
