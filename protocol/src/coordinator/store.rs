//! What a DC keeps over a crash, as values: the machine asks for writes, its driver makes them durable.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::addr::{Fqdn, NodeId, Vip};
use crate::wire::NodeKind;

/// What is kept of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub fqdn: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// Its VIP, for a terminal.
    pub vip: Option<Vip>,
    /// The highest sequence number of a Registration Request that was accepted: none at or below it ever is again.
    pub floor: u64,
    /// Its real addresses and port, as registered last (T3.2.1-a).
    pub addresses: Vec<SocketAddr>,
    /// The address and port that the DC saw then.
    pub seen: SocketAddr,
}

/// A general node's address and its VIP_GN (T4.2.4-a).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct GeneralRecord {
    /// RIP_GN.
    pub real: IpAddr,
    /// VIP_GN.
    pub vip: Vip,
}

/// A write: what depends on it waits until it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Insert or replace a node's record. Fails where another node or a general node has its VIP.
    Node(NodeRecord),
    /// Insert or replace a general node's record. Fails where its VIP is taken.
    General(GeneralRecord),
}

/// Names a write until its outcome is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOutcome {
    /// It is durable.
    Stored,
    /// The VIP belongs to someone else.
    Taken,
    /// The store failed; nothing was written.
    Failed,
}
