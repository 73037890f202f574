//! The DC's durable store: registrations, VIPs, and how often the DC was started.
//!
//! The coordinator is pure and keeps all of this in memory; the store is where it comes from after a crash. So there are no reads
//! but one, the [`Snapshot`] at the start, and a write is acknowledged only when it is on the disk: a terminal that has been told
//! its VIP keeps it (T3.2.1-a), whatever kills the DC and when.
//!
//! * [`Store`]: SQLite behind a thread of its own. Writes that wait together are committed together.
//! * [`DurableStore`]: the narrow face of it, for whoever needs another store (a DC of several processes, tests).
//!
//! That a VIP has one holder at a time, terminal or general node, is not left to the callers: it is the schema's.

mod database;
#[cfg(test)]
mod tests;
mod worker;

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, io};

use ntm_protocol::addr::{Fqdn, NodeId, Vip};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

pub use worker::Store;

/// The face of a durable store. Every method returns at once.
pub trait DurableStore: Send + Sync {
    /// Queues `write`. The outcome comes when the write is durable, or refused; dropping it does not undo the write.
    ///
    /// Writes take effect in the order in which they were submitted.
    fn submit(&self, write: Write) -> Outcome;
}

/// A change to the store; whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// A node's registration, new or renewed.
    ///
    /// Refused as [`WriteError::Taken`] if its VIP has another holder, and as [`WriteError::Stale`] if the store has seen a higher
    /// `floor`. A VIP that the node held before and that is not this one is free again.
    PutNode(NodeRecord),
    /// The VIP by which a general node is known (T4.2.4-a). Refused as [`WriteError::Taken`] if it has another holder.
    PutGeneral(GeneralRecord),
    /// Forgets a node or a general node, and frees its VIP. It is no error if there is none.
    Forget(Holder),
}

/// A node that shares a key with the DC, as of its last registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Its Node ID: the key of the record.
    pub id: NodeId,
    /// Its name.
    pub fqdn: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// Its virtual address, if it has one.
    pub vip: Option<Vip>,
    /// The highest sequence number of a registration that was accepted: below it, all is replay.
    pub floor: u64,
    /// The addresses of the last registration; a text (JSON) that only the coordinator understands.
    pub registration: String,
    /// When, in microseconds since 1970-01-01 UTC.
    pub updated_at: u64,
}

/// The kinds of nodes that register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// An NTM terminal.
    Terminal,
    /// A relay.
    Relay,
}

/// A general node's address and the VIP that stands for it; one VIP an address (T4.2.4-a).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GeneralRecord {
    /// RIP_GN: the key of the record.
    pub rip: IpAddr,
    /// VIP_GN.
    pub vip: Vip,
}

/// Who holds a VIP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// A node that registers.
    Node(NodeId),
    /// A general node, by its real address.
    General(IpAddr),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Node(id) => write!(f, "node {id}"),
            Holder::General(rip) => write!(f, "general node {rip}"),
        }
    }
}

/// All that the store holds, in the order of the keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// How often the store has been opened, this time included; never the same twice.
    pub boots: u64,
    /// Every node.
    pub nodes: Vec<NodeRecord>,
    /// Every general node.
    pub generals: Vec<GeneralRecord>,
}

/// Why a write was not done. Nothing of it was.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WriteError {
    /// The VIP has another holder.
    #[error("the VIP {vip} is held by {holder}")]
    Taken {
        /// The VIP.
        vip: Vip,
        /// Its holder.
        holder: Holder,
    },
    /// A registration with a higher sequence number was accepted before.
    #[error("the registration is out of date: its sequence number is below {floor}")]
    Stale {
        /// The floor in the store.
        floor: u64,
    },
    /// More writes wait than the store takes; try again.
    #[error("the store is busy: too many writes wait")]
    Busy,
    /// The disk or the database failed.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// The outcome of a write, to come.
#[derive(Debug)]
pub struct Outcome(oneshot::Receiver<Result<(), WriteError>>);

impl Outcome {
    /// An outcome that is known already.
    pub fn known(result: Result<(), WriteError>) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is in our hand.
        let _ = sender.send(result);
        Self(receiver)
    }

    /// Waits, blocking the thread; not within an asynchronous runtime.
    pub fn wait(self) -> Result<(), WriteError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(WriteError::stopped()))
    }
}

impl Future for Outcome {
    type Output = Result<(), WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.0).poll(context);
        polled.map(|received| received.unwrap_or_else(|_| Err(WriteError::stopped())))
    }
}

impl WriteError {
    fn stopped() -> Self {
        Self::Failed("it has stopped".to_owned())
    }
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be opened or made.
    #[error("{}: the DC's store cannot be opened: {why}; check that its folder exists and is writable", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process has it open.
    #[error("{}: the DC's store is in use by another process: one store serves one ntm-dc, end the other or choose another file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of something else, or no database.
    #[error("{}: this file is not the store of a DC: choose another file for it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error("{}: the DC's store has format {found}, this ntm-dc knows formats up to {known}: use the ntm-dc that wrote it, or a later one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is damaged.
    #[error(
        "{}: the DC's store is damaged: {why}; restore it from a copy, or move it away and let every node register anew, with a new VIP",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// The thread could not be started.
    #[error("the thread of the DC's store cannot be started: {0}")]
    Thread(#[from] io::Error),
}

impl OpenError {
    fn foreign(path: &Path) -> Self {
        Self::Foreign { path: path.to_owned() }
    }
}
