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
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use ntm_protocol::coordinator::store::{GeneralRecord, NodeRecord, Write, WriteOutcome};
use thiserror::Error;
use tokio::sync::oneshot;

pub use worker::Store;

/// The face of a durable store. It never blocks.
///
/// A [`Write::Node`] replaces the node's record, but its floor never goes back. A VIP that a node or general node held before, and
/// that is not the one in the new record, is free again. A write that is not stored has changed nothing.
pub trait DurableStore: Send + Sync {
    /// Queues `write`. Writes take effect in the order in which they were submitted. Dropping the outcome does not undo the write.
    fn submit(&self, write: Write) -> Outcome;
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

/// The outcome of a write: [`WriteOutcome::Stored`] comes only when the write is on the disk.
#[derive(Debug)]
pub struct Outcome(oneshot::Receiver<WriteOutcome>);

impl Outcome {
    /// An outcome that is known already.
    pub fn known(outcome: WriteOutcome) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is in our hand.
        let _ = sender.send(outcome);
        Self(receiver)
    }

    /// Waits, blocking the thread; not within an asynchronous runtime.
    pub fn wait(self) -> WriteOutcome {
        self.0.blocking_recv().unwrap_or(WriteOutcome::Failed)
    }
}

impl Future for Outcome {
    type Output = WriteOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WriteOutcome> {
        Pin::new(&mut self.0).poll(context).map(|received| received.unwrap_or(WriteOutcome::Failed))
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
