//! Control conversations: sequence numbers, replay, and requests that are repeated until answered.
//!
//! Two nodes that share a key beforehand talk in a [`Session`]. Its receiving window opens only by proof of freshness: at the DC by a
//! Registration Request above the highest number that its store remembers; at the node by the answer to a request of its own. So nothing
//! recorded before a crash is accepted after it, by either side, without any trust in clocks.

mod mail;
mod pending;

use crate::addr::{NodeId, PathId};
use crate::crypto::{ControlKeys, Entropy, Purpose, SharedKey, Window};
use crate::wire::{Flags, Header, Kind, Message, Reason, Refusal, Role};

pub(crate) use mail::next_of;
pub use mail::{Mail, Transmit};
pub use pending::{ATTEMPTS, Expired, LONGEST, Pending, Rtt};

/// A conversation with one node under a pre-shared key.
pub struct Session {
    local: NodeId,
    send: ControlKeys,
    receive: ControlKeys,
    next: u64,
    window: Option<Window>,
    /// As the newest request was sent: its number, and the highest of the peer's that was taken.
    asked_at: Option<(u64, u64)>,
}

impl Session {
    /// A session of `local` with `peer` under `shared`, whose first message has the number `first` (at least 1; higher than any
    /// that this node used under the key before).
    pub fn new(shared: &SharedKey, local: NodeId, peer: NodeId, first: u64) -> Self {
        Self {
            local,
            send: ControlKeys::new(shared, Purpose::Control, &[&local.0, &peer.0]),
            receive: ControlKeys::new(shared, Purpose::Control, &[&peer.0, &local.0]),
            next: first.max(1),
            window: None,
            asked_at: None,
        }
    }

    /// The number that the next message will have; a request takes it as its ID.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Goes on above `floor`, if that is further.
    pub fn skip_above(&mut self, floor: u64) {
        self.next = self.next.max(floor.saturating_add(1));
    }

    /// The datagram of `message`, and its sequence number.
    pub fn seal(&mut self, message: &Message, rng: &mut Entropy) -> (Vec<u8>, u64) {
        let sequence = self.next;
        self.next += 1;
        (
            self.send.seal(header(message.kind(), Flags::default(), 0, sequence, self.local.0), message, rng),
            sequence,
        )
    }

    /// The message in `datagram`, if it is from the peer; whether it is fresh is asked next.
    pub fn open(&self, header: &Header, datagram: &[u8]) -> Result<Message, Refusal> {
        if header.flags.responder || header.flags.leg || header.epoch != 0 {
            return Err(Refusal::new("flags", Reason::Unexpected));
        }
        self.receive.open(header, datagram)
    }

    /// Whether the peer proved to be fresh, so that its messages are taken.
    pub fn is_open(&self) -> bool {
        self.window.is_some()
    }

    /// The highest of the peer's numbers that was taken, while they are taken.
    pub fn highest(&self) -> Option<u64> {
        self.window.as_ref().map(Window::highest)
    }

    /// Takes the peer's numbers above `floor` from now on. An open window never falls back.
    pub fn open_above(&mut self, floor: u64) {
        if self.window.as_ref().is_none_or(|window| window.highest() < floor) {
            self.window = Some(Window::above(floor));
        }
    }

    /// A new request is sent next: by its answer it may show that the peer's numbers went back.
    pub fn mark(&mut self) {
        self.asked_at = self.window.as_ref().map(|window| (self.next, window.highest()));
    }

    /// Whether the peer's numbers went back, as they do where its store was lost: what it says in answer to our message `own`, or in answer to our
    /// newest request where that is not said, has `number`, and one as high had come before we asked. In one life of the peer that cannot
    /// be, however messages are delayed or repeated. So nobody has to wait until the peer is given up.
    pub fn fell_back(&self, own: Option<u64>, number: u64) -> bool {
        self.asked_at.is_some_and(|(asked, highest)| number <= highest && own.is_none_or(|own| own >= asked))
    }

    /// Takes no more of the peer's messages until it proves fresh again.
    pub fn close(&mut self) {
        self.window = None;
    }

    /// Marks `sequence` as seen; a number seen before is refused, and so is any while the window is closed.
    pub fn accept(&mut self, sequence: u64) -> Result<(), Refusal> {
        let window = self.window.as_mut().ok_or(Refusal::new("sequence", Reason::Unexpected))?;
        if window.accept(sequence) {
            Ok(())
        } else {
            Err(Refusal::new("sequence", Reason::Replayed(sequence)))
        }
    }
}

/// The conversation on one tunnel of a path: between its two ends, or on the leg between an end and the RS. Its key is fresh for each
/// epoch, so its window is open from the start.
pub struct TunnelSession {
    path: PathId,
    epoch: u8,
    leg: bool,
    role: Role,
    send: ControlKeys,
    receive: ControlKeys,
    next: u64,
    window: Window,
}

impl TunnelSession {
    /// The session for `path` in `epoch` at the side of `role` (an RS stands in the role of the end that it answers for), under `key`:
    /// the temporary key ([`Purpose::Tunnel`]) or common key ([`Purpose::Leg`]) of a `leg`, or the path's key.
    pub fn new(key: &SharedKey, purpose: Purpose, path: PathId, epoch: u8, leg: bool, role: Role) -> Self {
        let keys = |from: Role| ControlKeys::new(key, purpose, &[&path.0, &[epoch, from.index() as u8]]);
        Self {
            path,
            epoch,
            leg,
            role,
            send: keys(role),
            receive: keys(role.other()),
            next: 1,
            window: Window::above(0),
        }
    }

    /// The key epoch.
    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    /// Goes on above the numbers that `other` used: what is said in both is in one row.
    pub fn go_on_above(&mut self, other: &TunnelSession) {
        self.next = self.next.max(other.next);
    }

    fn flags(&self, from: Role) -> Flags {
        Flags { encrypted: false, responder: from == Role::Responder, leg: self.leg }
    }

    /// The datagram of `message`, and its sequence number.
    pub fn seal(&mut self, message: &Message, rng: &mut Entropy) -> (Vec<u8>, u64) {
        let sequence = self.next;
        self.next += 1;
        let header = header(message.kind(), self.flags(self.role), self.epoch, sequence, self.path.0);
        (self.send.seal(header, message, rng), sequence)
    }

    /// The message in `datagram`, if it is from the other side and was not seen before.
    pub fn open(&mut self, header: &Header, datagram: &[u8]) -> Result<Message, Refusal> {
        if (Flags { encrypted: false, ..header.flags }) != self.flags(self.role.other()) {
            return Err(Refusal::new("flags", Reason::Unexpected));
        }
        if header.epoch != self.epoch {
            return Err(Refusal::new("epoch", Reason::Unknown(header.epoch.into())));
        }
        if !self.window.check(header.sequence) {
            return Err(Refusal::new("sequence", Reason::Replayed(header.sequence)));
        }
        let message = self.receive.open(header, datagram)?;
        self.window.accept(header.sequence);
        Ok(message)
    }
}

/// A header for [`ControlKeys::seal`], which fills in what depends on the body.
pub(crate) fn header(kind: Kind, flags: Flags, epoch: u8, sequence: u64, id: [u8; 16]) -> Header {
    Header { kind, flags, suite: 0, epoch, length: 0, sequence, id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Fqdn;
    use crate::wire::{InformationRequest, KeepAliveAnswer, List, RequestId};

    fn pair() -> (Session, Session, Entropy) {
        let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
        let key = SharedKey::new([3; 32]);
        (Session::new(&key, a, b, 5), Session::new(&key, b, a, 1), Entropy::new([0; 32]))
    }

    fn message() -> Message {
        InformationRequest { request: RequestId(5), fqdn: Fqdn::new("cn.test").unwrap() }.into()
    }

    #[test]
    fn a_message_is_taken_once_and_only_through_an_open_window() {
        let (mut a, mut b, mut rng) = pair();
        let (bytes, sequence) = a.seal(&message(), &mut rng);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.sequence, sequence), (5, 5));
        assert_eq!(b.open(&header, &bytes).unwrap(), message());
        assert_eq!(b.accept(5).unwrap_err().reason, Reason::Unexpected);
        b.open_above(4);
        assert!(b.accept(5).is_ok());
        assert_eq!(b.accept(5).unwrap_err().reason, Reason::Replayed(5));
        b.open_above(0);
        assert!(b.accept(5).is_err(), "an open window never falls back");
    }

    /// A peer whose store was lost is understood by its next answer, and none of its life before is taken for that.
    #[test]
    fn numbers_that_went_back_are_told_from_late_ones() {
        let (mut a, mut b, mut rng) = pair();
        a.mark();
        assert!(!a.fell_back(Some(a.next_sequence()), 1), "through a closed window nothing came before");
        a.open_above(1_000);
        a.mark();
        let (_, own) = a.seal(&message(), &mut rng);
        a.accept(1_002).unwrap();
        assert!(!a.fell_back(Some(own), 1_001), "late, and above what had come before we asked");
        assert!(!a.fell_back(Some(own - 1), 7), "in answer to what was asked before: it may be recorded");
        assert!(a.fell_back(Some(own), 7) && a.fell_back(None, 1_000));
        a.mark();
        assert!(a.fell_back(Some(a.next_sequence()), 1_001), "asked anew, it is not late");
        // The answer of a peer that begins anew is the first of its numbers.
        let (bytes, sequence) = b.seal(&message(), &mut rng);
        assert!(a.accept(sequence).is_err());
        a.close();
        a.open_above(sequence);
        assert!(a.open(&Header::parse(&bytes).unwrap(), &bytes).is_ok() && a.accept(sequence + 1).is_ok());
    }

    #[test]
    fn a_sender_cannot_be_fed_its_own_messages() {
        let (mut a, _, mut rng) = pair();
        let (bytes, _) = a.seal(&message(), &mut rng);
        assert_eq!(a.open(&Header::parse(&bytes).unwrap(), &bytes).unwrap_err().reason, Reason::Mac);
    }

    /// Every byte of a control message is covered: header, IV, body, MAC, and the length.
    #[test]
    fn any_changed_bit_and_any_cut_is_refused() {
        let (mut a, b, mut rng) = pair();
        let (bytes, _) = a.seal(
            &KeepAliveAnswer {
                request: RequestId(1),
                seen: "192.0.2.1:1".parse().unwrap(),
                load: 0,
                relays: List::default(),
            }
            .into(),
            &mut rng,
        );
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                if let Ok(header) = Header::parse(&bad) {
                    assert!(b.open(&header, &bad).is_err(), "byte {at} bit {bit}");
                }
            }
            if let Ok(header) = Header::parse(&bytes[..at]) {
                assert!(b.open(&header, &bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
