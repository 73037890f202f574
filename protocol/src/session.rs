//! Control conversations: sequence numbers, replay, and requests that are repeated until answered.
//!
//! Two nodes that share a key beforehand talk in a [`Session`]. Its receiving window opens only by proof of freshness: at the DC by a
//! Registration Request above the highest number that its store remembers; at the node by the answer to a request of its own. So nothing
//! recorded before a crash is accepted after it, by either side, without any trust in clocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use rand_core::Rng;

use crate::addr::{NodeId, PathId};
use crate::crypto::{ControlKeys, Entropy, Purpose, SharedKey, Window};
use crate::observe::{Journal, What};
use crate::time::{Duration, Instant};
use crate::wire::{Flags, Header, Kind, Message, Reason, Refusal, RequestId, Role};

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

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

/// A header for [`ControlKeys::seal`], which fills in what depends on the body.
pub(crate) fn header(kind: Kind, flags: Flags, epoch: u8, sequence: u64, id: [u8; 16]) -> Header {
    Header { kind, flags, suite: 0, epoch, length: 0, sequence, id }
}

/// The round-trip time to a node, estimated after RFC 6298.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// How often the timeout was doubled since the last measurement.
    backoff: u32,
}

impl Rtt {
    /// Before anything was measured.
    const UNKNOWN: Duration = Duration::from_millis(500);
    /// Never repeat earlier: a busy machine answers late, too.
    const LEAST: Duration = Duration::from_millis(40);
    const MOST: Duration = Duration::from_secs(2);

    /// A request was not answered in time. The next waits twice as long, until one is answered that was sent once: else a round trip
    /// longer than the estimate would have every request repeated and so never be measured (RFC 6298, sections 3 and 5.5).
    pub fn timed_out(&mut self) {
        if self.timeout() < Self::MOST {
            self.backoff += 1;
        }
    }

    /// Takes a measurement; only of requests that were sent once (Karn).
    pub fn measured(&mut self, sample: Duration) {
        self.backoff = 0;
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// How long to wait for an answer before the request is repeated.
    pub fn timeout(&self) -> Duration {
        let measured = self.smoothed.map_or(Self::UNKNOWN, |smoothed| {
            (smoothed + (self.variation * 4).max(smoothed)).clamp(Self::LEAST, Self::MOST)
        });
        (measured * 2u32.saturating_pow(self.backoff)).min(Self::MOST)
    }
}

/// How often a request is sent before it is given up; each waits twice as long as the one before, up to two seconds.
pub const ATTEMPTS: u32 = 6;

/// The longest wait before a request is repeated.
const MOST_WAIT: Duration = Duration::from_secs(2);

/// How long a request may be under way before it is given up.
pub const LONGEST: Duration = MOST_WAIT.saturating_mul(ATTEMPTS);

struct Entry<T> {
    what: T,
    due: Instant,
    wait: Duration,
    attempt: u32,
    sent: Instant,
}

/// Requests under way, each repeated with backoff until it is answered or given up.
pub struct Pending<T> {
    entries: BTreeMap<RequestId, Box<Entry<T>>>,
    due: BTreeSet<(Instant, RequestId)>,
}

/// A request whose time is up.
#[derive(Debug, PartialEq, Eq)]
pub enum Expired<T> {
    /// Send it again, for the `attempt`th time.
    Repeat {
        /// The request.
        id: RequestId,
        /// Which sending this is, from 2.
        attempt: u32,
    },
    /// It was never answered.
    GaveUp(RequestId, T),
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<T> Pending<T> {
    /// Notes that the request `id` was sent at `now`; it is due again after `wait`.
    pub fn sent(&mut self, id: RequestId, what: T, now: Instant, wait: Duration) {
        self.answered(id, now);
        let wait = wait.min(MOST_WAIT);
        self.entries.insert(id, Box::new(Entry { what, due: now + wait, wait, attempt: 1, sent: now }));
        self.due.insert((now + wait, id));
    }

    /// The request `id`, which is under way.
    pub fn get(&self, id: RequestId) -> Option<&T> {
        self.entries.get(&id).map(|entry| &entry.what)
    }

    /// Every request under way, by ID.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &T)> {
        self.entries.iter().map(|(id, entry)| (*id, &entry.what))
    }

    /// Takes the request `id` out: it was answered, or is wanted no more. With it comes the round-trip time where it was sent only once.
    pub fn answered(&mut self, id: RequestId, now: Instant) -> Option<(T, Option<Duration>)> {
        let entry = self.entries.remove(&id)?;
        self.due.remove(&(entry.due, id));
        self.let_go();
        Some((entry.what, (entry.attempt == 1).then(|| now.since(entry.sent))))
    }

    /// With nothing under way no room is held either.
    fn let_go(&mut self) {
        if self.entries.is_empty() {
            *self = Self::default();
        }
    }

    /// Makes the request `id` due at `now`.
    pub fn hasten(&mut self, id: RequestId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.due > now
        {
            self.due.remove(&(entry.due, id));
            entry.due = now;
            self.due.insert((now, id));
        }
    }

    /// When the next request is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A request that is due at `now`: call until there is none.
    pub fn expired(&mut self, now: Instant) -> Option<Expired<T>> {
        let &(at, id) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let entry = self.entries.get_mut(&id)?;
        if entry.attempt >= ATTEMPTS {
            let given_up = self.entries.remove(&id).map(|entry| Expired::GaveUp(id, entry.what));
            self.let_go();
            return given_up;
        }
        entry.attempt += 1;
        entry.wait = (entry.wait * 2).min(MOST_WAIT);
        entry.due = now + entry.wait;
        self.due.insert((entry.due, id));
        Some(Expired::Repeat { id, attempt: entry.attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Fqdn;
    use crate::wire::{InformationRequest, KeepAliveAnswer, List};

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

    #[test]
    fn requests_are_repeated_with_backoff_and_then_given_up() {
        let mut pending = Pending::default();
        let (start, wait) = (Instant::from_nanos(1_000), Duration::from_millis(10));
        pending.sent(RequestId(1), 'x', start, wait);
        let mut times = Vec::new();
        while let Some(at) = pending.poll_timeout() {
            assert_eq!(pending.expired(Instant::from_nanos(at.as_nanos() - 1)), None, "exact");
            times.push(at.since(start).as_millis());
            match pending.expired(at) {
                Some(Expired::Repeat { .. }) => {}
                other => assert_eq!(other, Some(Expired::GaveUp(RequestId(1), 'x'))),
            }
        }
        assert_eq!(times, [10, 30, 70, 150, 310, 630]);
    }

    #[test]
    fn only_a_first_sending_measures_the_round_trip() {
        let mut pending = Pending::default();
        let (start, wait) = (Instant::ZERO, Duration::from_millis(10));
        pending.sent(RequestId(1), (), start, wait);
        pending.sent(RequestId(2), (), start, wait);
        let late = start + Duration::from_millis(3);
        assert_eq!(pending.answered(RequestId(1), late), Some(((), Some(Duration::from_millis(3)))));
        assert!(pending.expired(start + wait).is_some());
        assert_eq!(pending.answered(RequestId(2), start + wait), Some(((), None)));
        assert_eq!(pending.poll_timeout(), None);
    }

    #[test]
    fn the_timeout_follows_the_round_trip() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), Rtt::UNKNOWN);
        for _ in 0..50 {
            rtt.measured(Duration::from_millis(100));
        }
        assert!((200..=260).contains(&rtt.timeout().as_millis()), "{:?}", rtt.timeout());
    }

    /// A round trip longer than the first timeout is found out all the same.
    #[test]
    fn a_long_round_trip_is_measured_in_the_end() {
        let (mut rtt, mut pending, truth) = (Rtt::default(), Pending::default(), Duration::from_millis(1500));
        let mut now = Instant::ZERO;
        for n in 1..=8 {
            pending.sent(RequestId(n), (), now, rtt.timeout());
            let answered = now + truth;
            while let Some(at) = pending.poll_timeout().filter(|at| *at < answered) {
                if let Some(Expired::Repeat { attempt: 2, .. }) = pending.expired(at) {
                    rtt.timed_out();
                }
            }
            if let Some(((), Some(sample))) = pending.answered(RequestId(n), answered) {
                rtt.measured(sample);
            }
            now = answered;
        }
        assert_eq!(rtt.smoothed, Some(truth));
        assert!(rtt.timeout() > truth);
    }

    #[test]
    fn no_wait_grows_without_bound() {
        let mut pending = Pending::default();
        pending.sent(RequestId(1), (), Instant::ZERO, Duration::from_secs(9));
        while let Some(at) = pending.poll_timeout() {
            pending.expired(at);
            assert!(pending.poll_timeout().is_none_or(|next| next - at <= MOST_WAIT));
        }
    }
}
