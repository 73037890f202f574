//! Keep-alives of terminals that measure their way to this relay (T4-a).
//!
//! Any terminal of the relay's DCs may ask, whether or not the relay serves it, under the key that its DC derives from the one that it
//! shares with the relay. So the relay is told nothing beforehand; it keeps, for as many terminals as a bound allows, the window that
//! refuses what was seen before. An answer goes to where the question came from and is never longer: nobody is flooded by way of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::addr::NodeId;
use crate::crypto::{Purpose, SharedKey};
use crate::session::{Mail, Session};
use crate::time::Instant;
use crate::wire::{Header, KeepAliveAnswer, List, Message, Reason, Refusal};

/// How many terminals' windows are kept; the one that asked longest ago makes room.
const KEPT: usize = 1024;

struct Meter {
    session: Session,
    used: u64,
}

/// The conversations with terminals that measure.
pub(super) struct Meters {
    local: NodeId,
    /// Those shared with the DCs.
    keys: Vec<SharedKey>,
    known: BTreeMap<NodeId, Meter>,
    /// Who asked when, as a count.
    order: BTreeSet<(u64, NodeId)>,
    count: u64,
    /// The numbers of a session that was forgotten are not used again.
    next_sequence: u64,
}

impl Meters {
    /// Nobody has asked `local` yet, which shares `keys` with its DCs and begins with the number `first_sequence`.
    pub(super) fn new(local: NodeId, keys: Vec<SharedKey>, first_sequence: u64) -> Self {
        let (known, order) = (BTreeMap::new(), BTreeSet::new());
        Self { local, keys, known, order, count: 0, next_sequence: first_sequence }
    }

    /// Answers a Keep-alive of a terminal.
    pub(super) fn handle(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        load: u16,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<(), Refusal> {
        let terminal = NodeId(header.id);
        let (message, fresh) = match self.known.get(&terminal) {
            Some(meter) => (meter.session.open(header, datagram)?, None),
            None => self.introduced(terminal, header, datagram).map(|(m, session)| (m, Some(session)))?,
        };
        let Message::KeepAlive(request) = &message else {
            return Err(Refusal::new("type", Reason::Unexpected));
        };
        // It names this relay, and is by that as long as the longest answer.
        if !request.rtts.iter().any(|rtt| rtt.relay == self.local) {
            return Err(Refusal::new("rtts", Reason::Conflict));
        }
        if let Some(mut session) = fresh {
            session.open_above(header.sequence.saturating_sub(1));
            self.admit(terminal, session);
        }
        let Some(meter) = self.known.get_mut(&terminal) else { return Ok(()) };
        meter.session.accept(header.sequence)?;
        self.order.remove(&(meter.used, terminal));
        self.count += 1;
        meter.used = self.count;
        self.order.insert((self.count, terminal));
        mail.received(header, &message, from, now);
        let answer =
            KeepAliveAnswer { request: request.request, seen: from, load, relays: List::default() }.into();
        mail.send(&mut meter.session, from, &answer, 1, now);
        Ok(())
    }

    /// The message of a terminal that is not known yet, by the DC that told it the key.
    fn introduced(
        &self,
        terminal: NodeId,
        header: &Header,
        datagram: &[u8],
    ) -> Result<(Message, Session), Refusal> {
        let sessions = self.keys.iter().map(|key| {
            let key = key.subkey(Purpose::Measure, &[&terminal.0]);
            Session::new(&key, self.local, terminal, self.next_sequence)
        });
        let mut opened = sessions.filter_map(|session| Some((session.open(header, datagram).ok()?, session)));
        opened.next().ok_or(Refusal::new("node id", Reason::Stranger))
    }

    fn admit(&mut self, terminal: NodeId, session: Session) {
        if self.known.len() >= KEPT
            && let Some((_, oldest)) = self.order.pop_first()
            && let Some(meter) = self.known.remove(&oldest)
        {
            self.next_sequence = self.next_sequence.max(meter.session.next_sequence());
        }
        self.known.insert(terminal, Meter { session, used: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{KeepAlive, RelayRtt, RequestId};

    const RELAY: NodeId = NodeId([9; 16]);

    fn key(n: u8) -> SharedKey {
        SharedKey::new([n; 32])
    }

    fn terminal(n: usize) -> NodeId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
        NodeId(id)
    }

    /// A terminal whose DC shares `key` with the relay.
    fn session(key: &SharedKey, n: usize) -> Session {
        Session::new(&key.subkey(Purpose::Measure, &[&terminal(n).0]), terminal(n), RELAY, 5)
    }

    fn question(session: &mut Session, relay: NodeId, mail: &mut Mail) -> Vec<u8> {
        let rtts = [RelayRtt { relay, micros: 0 }].into_iter().collect();
        session.seal(&KeepAlive { request: RequestId(7), load: None, rtts }.into(), &mut mail.rng).0
    }

    fn ask(meters: &mut Meters, from: &str, datagram: &[u8], mail: &mut Mail) -> Result<(), Refusal> {
        let header = Header::parse(datagram)?;
        meters.handle(&header, datagram, from.parse().unwrap(), 250, Instant::ZERO, mail)
    }

    /// T4-a: terminals of any of its DCs are answered, with the load; the answer is no longer than the question, over IPv4 and IPv6.
    #[test]
    fn who_has_a_dcs_key_is_answered_with_no_more_than_was_asked() {
        let (mut meters, mut mail) = (Meters::new(RELAY, vec![key(1), key(2)], 1), Mail::new([0; 32], 1));
        for (n, from) in [(1, "192.0.2.1:4330"), (2, "[2001:db8::1]:4330")] {
            let mut session = session(&key(n), n.into());
            let datagram = question(&mut session, RELAY, &mut mail);
            ask(&mut meters, from, &datagram, &mut mail).unwrap();
            let answer = mail.poll_transmit().unwrap();
            assert!(answer.bytes.len() <= datagram.len(), "{} for {}", answer.bytes.len(), datagram.len());
            assert_eq!(answer.to, from.parse().unwrap());
            let opened = session.open(&Header::parse(&answer.bytes).unwrap(), &answer.bytes).unwrap();
            let Message::KeepAliveAnswer(opened) = opened else { panic!("{opened:?}") };
            assert_eq!((opened.request, opened.seen, opened.load), (RequestId(7), answer.to, 250));
        }
    }

    #[test]
    fn strangers_replays_and_other_relays_questions_are_refused() {
        let (mut meters, mut mail) = (Meters::new(RELAY, vec![key(1)], 1), Mail::new([0; 32], 1));
        let from = "192.0.2.1:4330";
        let mut known = session(&key(1), 1);
        let datagram = question(&mut known, RELAY, &mut mail);
        ask(&mut meters, from, &datagram, &mut mail).unwrap();
        mail.poll_transmit().unwrap();
        let refused = |meters: &mut Meters, datagram: &[u8], mail: &mut Mail| {
            ask(meters, from, datagram, mail).unwrap_err()
        };
        assert_eq!(refused(&mut meters, &datagram, &mut mail).reason, Reason::Replayed(5));
        let elsewhere = question(&mut known, NodeId([8; 16]), &mut mail);
        assert_eq!(refused(&mut meters, &elsewhere, &mut mail), Refusal::new("rtts", Reason::Conflict));
        let stranger = question(&mut session(&key(3), 2), RELAY, &mut mail);
        assert_eq!(refused(&mut meters, &stranger, &mut mail), Refusal::new("node id", Reason::Stranger));
        assert_eq!(mail.poll_transmit(), None);
    }

    #[test]
    fn the_number_of_terminals_that_are_remembered_is_bounded_and_numbers_are_never_used_again() {
        let (mut meters, mut mail) = (Meters::new(RELAY, vec![key(1)], 1), Mail::new([0; 32], 1));
        let mut numbers = Vec::new();
        for n in (0..2 * KEPT).chain([0]) {
            let datagram = question(&mut session(&key(1), n), RELAY, &mut mail);
            ask(&mut meters, "192.0.2.1:4330", &datagram, &mut mail).unwrap();
            let answer = Header::parse(&mail.poll_transmit().unwrap().bytes).unwrap();
            if n == 0 {
                numbers.push(answer.sequence);
            }
            assert!(meters.known.len() <= KEPT && meters.order.len() == meters.known.len());
        }
        assert!(numbers.len() == 2 && numbers[0] < numbers[1], "{numbers:?}");
    }
}
