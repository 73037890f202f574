//! The way through a relay: the tunnel between this end and the RS.

use std::net::SocketAddr;

use crate::addr::{NodeId, PathId};
use crate::crypto::Entropy;
use crate::crypto::{Purpose, SharedKey};
use crate::session::TunnelSession;
use crate::wire::{Kind, Message, RelayMode, RequestId, Role, TunnelRequest};

/// The way through a relay, in one epoch.
pub(super) struct Leg {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) mode: RelayMode,
    /// Under Key_DC MN–RS.
    pub(super) temp: TunnelSession,
    /// Under Key_MN–RS, which this end makes.
    pub(super) common: TunnelSession,
    pub(super) common_key: SharedKey,
    /// Whether packets can take it: both tunnels are there.
    pub(super) stands: bool,
    /// Whether the relay answered, be it that the peer's tunnel is not there yet.
    pub(super) met: bool,
    /// Whether it answered no more, or never, in the network where the terminal is.
    pub(super) silent: bool,
    /// Whether packets travel over IPv6 behind the relay.
    pub(super) narrow: bool,
}

impl Leg {
    /// A leg of `path` in `epoch` to the relay `node` at `address`, whose temporary key is `temp_key`; the common key is made here.
    pub(super) fn new(
        (node, address, mode): (NodeId, SocketAddr, RelayMode),
        temp_key: &SharedKey,
        (path, epoch, role): (PathId, u8, Role),
        rng: &mut Entropy,
    ) -> Self {
        let common_key = SharedKey::random(rng);
        let session = |key: &SharedKey, purpose| TunnelSession::new(key, purpose, path, epoch, true, role);
        Self {
            node,
            address,
            mode,
            temp: session(temp_key, Purpose::Tunnel),
            common: session(&common_key, Purpose::Leg),
            common_key,
            stands: false,
            met: false,
            silent: false,
            narrow: false,
        }
    }

    /// The session that a message of `kind` is sent in. Both count in one row, so that the relay knows what is newest, under whichever key.
    pub(super) fn sending(&mut self, kind: Kind) -> &mut TunnelSession {
        let (session, other) = match kind {
            Kind::TunnelRequest => (&mut self.temp, &self.common),
            _ => (&mut self.common, &self.temp),
        };
        session.go_on_above(other);
        session
    }

    /// The session that messages of `kind` travel in.
    pub(super) fn session(&mut self, kind: Kind) -> &mut TunnelSession {
        match kind {
            Kind::TunnelRequest | Kind::TunnelResponse => &mut self.temp,
            _ => &mut self.common,
        }
    }

    /// The Tunnel Request that brings the relay the common key; where it has that, the request shows it that this end `moved`.
    pub(super) fn request(&self, request: RequestId, moved: bool) -> Message {
        TunnelRequest { request, moved, common_key: Some(self.common_key.clone()) }.into()
    }
}
