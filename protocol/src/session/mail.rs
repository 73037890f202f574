//! What a machine sends and notes, until its driver takes it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rand_core::Rng;

use crate::addr::PathId;
use crate::crypto::Entropy;
use crate::observe::{Journal, What};
use crate::time::Instant;
use crate::wire::{Header, Message, RequestId};

use super::{Session, TunnelSession};

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a machine sends and notes, until its driver takes it; and where its randomness comes from.
pub struct Mail {
    /// The machine's randomness.
    pub rng: Entropy,
    /// The machine's observations.
    pub journal: Journal,
    waiting: VecDeque<Transmit>,
    next_request: u64,
}

impl Mail {
    /// Empty, with randomness from `seed`; Request IDs start at `first`, above all that this node used before.
    pub fn new(seed: [u8; 32], first: u64) -> Self {
        Self {
            rng: Entropy::new(seed),
            journal: Journal::default(),
            waiting: VecDeque::new(),
            next_request: first.max(1),
        }
    }

    /// A Request ID that was never used.
    pub fn request_id(&mut self) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        id
    }

    /// This node's numbers had fallen back below `floor`, so its Request IDs did as well: they go on where none was used before, by chance.
    pub fn skip_above(&mut self, floor: u64) {
        /// Readers of a trace that know no larger integers than a double holds can tell them apart.
        const ROOM: u64 = 1 << 50;
        self.next_request = self.next_request.max(floor.saturating_add(self.rng.next_u64() % ROOM));
    }

    /// Sends `message` to `to` in `session`, for the `attempt`th time.
    pub fn send(
        &mut self,
        session: &mut Session,
        to: SocketAddr,
        message: &Message,
        attempt: u32,
        now: Instant,
    ) {
        let (bytes, seq) = session.seal(message, &mut self.rng);
        self.post(to, bytes, message, seq, message.path(), attempt, now);
    }

    /// Sends `message` to `to` on a tunnel, for the `attempt`th time.
    pub fn send_on(
        &mut self,
        tunnel: &mut TunnelSession,
        to: SocketAddr,
        message: &Message,
        attempt: u32,
        now: Instant,
    ) {
        let (bytes, seq) = tunnel.seal(message, &mut self.rng);
        self.post(to, bytes, message, seq, Some(tunnel.path), attempt, now);
    }

    #[allow(clippy::too_many_arguments)]
    fn post(
        &mut self,
        to: SocketAddr,
        bytes: Vec<u8>,
        message: &Message,
        seq: u64,
        path: Option<PathId>,
        attempt: u32,
        now: Instant,
    ) {
        self.waiting.push_back(Transmit { to, bytes });
        if !self.journal.is_read() {
            return;
        }
        let (message, fields) = (message.kind(), message.fields());
        self.journal.note(now, What::Sent { message, to, seq, path, attempt, fields });
    }

    /// Notes that `message` came from `from` and was taken.
    pub fn received(&mut self, header: &Header, message: &Message, from: SocketAddr, now: Instant) {
        if !self.journal.is_read() {
            return;
        }
        let path = match message {
            Message::TunnelRequest(_)
            | Message::TunnelResponse(_)
            | Message::PathKeepAlive(_)
            | Message::PathKeepAliveAnswer(_) => Some(PathId(header.id)),
            other => other.path(),
        };
        let (kind, seq, fields) = (header.kind, header.sequence, message.fields());
        self.journal.note(now, What::Received { message: kind, from, seq, path, fields });
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        next_of(&mut self.waiting)
    }
}

/// The next of what waits. Once all is taken, nothing of its room stays: a machine has something to say only now and then.
pub(crate) fn next_of<T>(waiting: &mut VecDeque<T>) -> Option<T> {
    let next = waiting.pop_front();
    if next.is_none() && waiting.capacity() > 0 {
        *waiting = VecDeque::new();
    }
    next
}
