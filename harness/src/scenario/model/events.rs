//! What happens at a moment, and what must hold at the end.

use std::net::Ipv4Addr;
use std::time::Duration;

use toml::Spanned;

use super::network::Link;
use crate::judge::expr::Expr;
use crate::judge::sequence::Step;

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub struct Action {
    /// From the moment all daemons are ready.
    pub time: Duration,
    /// What happens.
    pub kind: ActionKind,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum ActionKind {
    /// A node leaves one network and joins another.
    Handover {
        /// Who moves.
        node: Spanned<String>,
        /// The interface it leaves.
        from: Spanned<String>,
        /// The interface it goes on with.
        to: Spanned<String>,
        /// Time without any network in between.
        gap: Duration,
        /// Time in both networks: the new one is there, and preferred, before the old goes. Never beside a gap.
        overlap: Duration,
    },
    /// An interface gets another address in the network where it is.
    Address {
        /// Whose.
        node: Spanned<String>,
        /// Which.
        interface: Spanned<String>,
        /// The new address.
        address: Spanned<Ipv4Addr>,
    },
    /// An interface is switched on or off.
    Interface {
        /// Whose.
        node: Spanned<String>,
        /// Which.
        name: Spanned<String>,
        /// On or off.
        up: bool,
    },
    /// A link changes what it does to packets.
    Link {
        /// Which.
        name: Spanned<String>,
        /// From then on.
        shape: Link,
    },
    /// A node's daemon is killed as by `kill -9`.
    Kill {
        /// Whose.
        node: Spanned<String>,
    },
    /// A daemon that was killed is started again, with the files that it left.
    Start {
        /// Whose.
        node: Spanned<String>,
    },
}

/// What must hold when the run is over.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// How it is checked.
    pub check: Check,
    /// The sentence to print when it does not hold.
    pub fail: String,
}

/// How an expectation is checked.
#[derive(Debug, Clone)]
pub enum Check {
    /// A truth over measured quantities.
    Expression(Spanned<Expr>),
    /// Observations in this order, others between them allowed.
    Sequence {
        /// Each with its place.
        steps: Vec<Spanned<Step>>,
        /// Only what came after this.
        after: Option<After>,
    },
}

/// From when on a sequence is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The first handover's new address.
    Handover,
    /// This long after the start.
    Time(Duration),
}

impl ActionKind {
    /// Whom it happens to, if that is a node or a group.
    pub fn node(&self) -> Option<&Spanned<String>> {
        match self {
            Self::Handover { node, .. }
            | Self::Address { node, .. }
            | Self::Interface { node, .. }
            | Self::Kill { node }
            | Self::Start { node } => Some(node),
            Self::Link { .. } => None,
        }
    }
}
