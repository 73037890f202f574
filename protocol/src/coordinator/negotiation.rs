//! One tunnel negotiation of a DC: from a Direction Request to Route Directions (Figs. 3.2, 4.1 and 4.3).

use std::net::IpAddr;

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::SharedKey;
use crate::relay::table::newer;
use crate::wire::{DirectionRequest, Message, RequestId, Role, TerminalInformation};

/// Names a negotiation inside its DC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct NegotiationId(pub(super) u64);

/// A negotiation under way, or answered and kept for a repeated request.
pub(super) struct Negotiation {
    pub(super) requester: NodeId,
    pub(super) request: DirectionRequest,
    pub(super) stage: Stage,
    /// The addresses of a general node.
    pub(super) addresses: Vec<IpAddr>,
    /// How often a relay knew the VIP_GN as another general node's.
    pub(super) conflicts: u32,
}

impl Negotiation {
    /// Whether it was answered: it is kept for a repeated request, and goes on no more.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answered(_))
    }
}

/// What a negotiation waits for.
pub(super) enum Stage {
    /// NS record.
    Zone,
    /// TXT record, from one name server after the other.
    Record { zone: Fqdn, servers: Vec<(Fqdn, IpAddr)> },
    /// Information Response, from DC_CN.
    Information { coordinator: NodeId },
    /// A record.
    Address4,
    /// AAAA record.
    Address6 { found: Vec<IpAddr> },
    /// A durable VIP_GN for this address: one for all who ask at once.
    General { real: IpAddr },
    /// Relay Response.
    Relay { plan: Plan, tried: Vec<NodeId> },
    /// Nothing: this is the answer.
    Answered(Message),
}

/// What is to be built once the relay is ready.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) path: PathId,
    pub(super) epoch: u8,
    /// The role of the terminal that asked.
    pub(super) role: Role,
    pub(super) peer: Peer,
}

/// Whom the requester wants to talk to.
#[derive(Clone)]
pub(super) enum Peer {
    /// A terminal, and the DC through which it is told; none where it is our own.
    Terminal {
        information: TerminalInformation,
        through: Option<NodeId>,
        path_key: SharedKey,
        keys: [SharedKey; 2],
    },
    /// A general node.
    General { vip: Vip, real: IpAddr, temp_key: SharedKey },
}

/// The epoch after `epoch` of a direction that `role` asked for: even ones are the initiator's, odd ones the responder's, so that two
/// directions at once, when both ends moved, never share one.
pub(super) fn next_epoch(epoch: u8, role: Role) -> u8 {
    let next = epoch + 1;
    let step = u8::from(usize::from(next & 1) != role.index());
    (next + step) & 0x0f
}

/// The epoch of a direction that `role`, who is in `epoch`, asked for. `given` is what it was given last: it may have moved on before
/// that direction reached it, while its peer took it. So the next is newer than both, as long as the terminal can tell it for newer;
/// then the same is given again, and the keys tell the two directions apart.
pub(super) fn epoch_after(epoch: u8, given: Option<u8>, role: Role) -> u8 {
    match given.filter(|given| newer(*given, epoch)) {
        Some(given) => Some(next_epoch(given, role)).filter(|next| newer(*next, epoch)).unwrap_or(given),
        None => next_epoch(epoch, role),
    }
}

/// The newest direction of a path anew that a terminal asked for.
#[derive(Clone, Copy)]
pub(super) struct Renewing {
    /// The number of the message in which it came first.
    pub(super) sequence: u64,
    pub(super) negotiation: NegotiationId,
    /// The epoch that was given last, for this request or one before it.
    pub(super) epoch: Option<u8>,
}

/// What a look-up is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Errand {
    /// A negotiation waits for its answer.
    Negotiation(NegotiationId),
    /// Where another DC is.
    Neighbour(NodeId),
}

/// What a request that the DC sent is for.
#[derive(Clone)]
pub(super) enum Purpose {
    /// To open the conversation with another DC.
    Join,
    /// A negotiation waits for its answer.
    Negotiation(NegotiationId),
    /// A terminal is told its route.
    Route,
    /// The same, on behalf of another DC, which is told.
    RouteFor { coordinator: NodeId, request: RequestId },
}

/// A request of the DC's under way.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) node: NodeId,
    pub(super) message: Message,
    pub(super) purpose: Purpose,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_of_the_two_ends_never_meet() {
        let mut epoch = 0;
        for _ in 0..20 {
            let (a, b) = (next_epoch(epoch, Role::Initiator), next_epoch(epoch, Role::Responder));
            assert_ne!(a, b);
            assert!(newer(a, epoch) && newer(b, epoch));
            epoch = a.max(b) & 0x0f;
        }
    }

    #[test]
    fn epochs_go_on_from_what_was_given_and_stay_newer_to_who_asks() {
        for role in [Role::Initiator, Role::Responder] {
            for epoch in 0..16 {
                let mut given = None;
                for _ in 0..10 {
                    let next = epoch_after(epoch, given, role);
                    assert!(newer(next, epoch));
                    assert!(given.is_none_or(|given| next == given || newer(next, given)));
                    given = Some(next);
                }
            }
        }
        assert_eq!(
            epoch_after(4, Some(2), Role::Initiator),
            6,
            "what was given before the epoch in use is past"
        );
    }
}
