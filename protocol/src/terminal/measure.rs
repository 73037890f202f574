//! The round-trip times to the relays that the DC named, and what it is told of them (T4-a, T7-a).
//!
//! A round asks each relay three times, one question after the other's answer, and keeps the least: what is more is waiting in queues.
//! A round begins with the registration, then at a slow pace, and the moment the terminal is in another network: there the relays
//! that it knows are asked beside the registration, whose answer takes as long as theirs. So the DC, which is told as soon as they
//! have answered, knows them when it picks a relay for the paths that are directed anew; nothing waits for them. What was measured
//! in another network is forgotten at once: a value of elsewhere misleads, and without one the peer's round trip decides.

use std::net::SocketAddr;

use serde::Serialize;

use crate::addr::NodeId;
use crate::crypto::SharedKey;
use crate::expiry::earliest;
use crate::session::{Mail, Session};
use crate::time::{Duration, Instant};
use crate::wire::{
    Header, KeepAlive, List, MAX_RELAYS, Message, Reason, Refusal, RelayRtt, RelayToMeasure, RequestId,
    UNREACHABLE,
};

/// How often a relay is asked in one round.
const SAMPLES: u8 = 3;
/// How long an answer may take. A relay farther than that is of no use.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rounds are so many Keep-alive periods apart.
const PERIODS: u32 = 12;
/// A first value waits so long for those of other relays, so that one report serves.
const GATHERING: Duration = Duration::from_millis(10);

struct Question {
    id: RequestId,
    at: Instant,
}

struct Meter {
    address: SocketAddr,
    key: SharedKey,
    session: Session,
    /// In this network: microseconds, or [`UNREACHABLE`].
    micros: Option<u32>,
    load: Option<u16>,
    /// The least of this round.
    least: Option<Duration>,
    /// How many questions are left of this round.
    left: u8,
    question: Option<Question>,
}

/// A relay as `status` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RelayStatus {
    /// The relay.
    pub relay: NodeId,
    /// Where it was asked.
    pub address: SocketAddr,
    /// The round-trip time in microseconds; none where it is not known, or where the relay does not answer.
    pub rtt_us: Option<u32>,
    /// Whether it answers; none where that is not known yet.
    pub answers: Option<bool>,
    /// Its load in thousandths, as it said last.
    pub load: Option<u16>,
}

/// Measures the relays that the DC named.
pub(super) struct Measure {
    local: NodeId,
    /// In the order in which the DC named them.
    relays: Vec<(NodeId, Meter)>,
    reported: List<RelayRtt, MAX_RELAYS>,
    report_at: Option<Instant>,
    next_round: Option<Instant>,
    /// Between two rounds.
    pace: Duration,
}

impl Measure {
    /// Measures for the terminal `local`, which knows no relay yet.
    pub(super) fn new(local: NodeId) -> Self {
        Self {
            local,
            relays: Vec::new(),
            reported: List::default(),
            report_at: None,
            next_round: None,
            pace: Duration::MAX,
        }
    }

    /// The relays and what is known of them.
    pub(super) fn status(&self) -> Vec<RelayStatus> {
        let status = |(relay, meter): &(NodeId, Meter)| RelayStatus {
            relay: *relay,
            address: meter.address,
            rtt_us: meter.micros.filter(|micros| *micros != UNREACHABLE),
            answers: meter.micros.map(|micros| micros != UNREACHABLE),
            load: meter.load,
        };
        self.relays.iter().map(status).collect()
    }

    /// The terminal is in another network, or in none.
    pub(super) fn moved(&mut self, is_somewhere: bool, now: Instant, mail: &mut Mail) {
        self.reported = List::default();
        (self.report_at, self.next_round) = (None, None);
        for (_, meter) in &mut self.relays {
            (meter.micros, meter.least, meter.left, meter.question) = (None, None, 0, None);
        }
        if is_somewhere {
            self.round(now, mail);
        }
    }

    /// The DC named `relays`, and sends Keep-alives to be `keep_alive` apart; numbers begin at `first` with a relay that is new.
    pub(super) fn named(
        &mut self,
        relays: &[RelayToMeasure],
        keep_alive: Duration,
        first: u64,
        now: Instant,
        mail: &mut Mail,
    ) {
        self.pace = keep_alive * PERIODS;
        let mut old = std::mem::take(&mut self.relays);
        for RelayToMeasure { relay, address, key } in relays {
            let known = old.iter().position(|(id, m)| id == relay && m.address == *address && m.key == *key);
            let meter = match known {
                Some(at) => old.swap_remove(at).1,
                None => Meter {
                    address: *address,
                    key: key.clone(),
                    session: Session::new(key, self.local, *relay, first),
                    micros: None,
                    load: None,
                    least: None,
                    left: 0,
                    question: None,
                },
            };
            self.relays.push((*relay, meter));
        }
        // Without relays there are no rounds.
        self.next_round = self.next_round.or(Some(now + self.pace)).filter(|_| !self.relays.is_empty());
        for index in 0..self.relays.len() {
            let meter = &mut self.relays[index].1;
            if meter.micros.is_none() && meter.question.is_none() {
                meter.left = SAMPLES;
                self.ask(index, now, mail);
            }
        }
    }

    fn round(&mut self, now: Instant, mail: &mut Mail) {
        if self.relays.is_empty() {
            return;
        }
        self.next_round = Some(now + self.pace);
        (0..self.relays.len()).for_each(|index| self.begin(index, now, mail));
    }

    /// `relay` did not answer on a path: whether it answers at all is found out at once.
    pub(super) fn doubt(&mut self, relay: NodeId, now: Instant, mail: &mut Mail) {
        if let Some(index) = self.relays.iter().position(|(id, _)| *id == relay) {
            self.begin(index, now, mail);
        }
    }

    fn begin(&mut self, index: usize, now: Instant, mail: &mut Mail) {
        let meter = &mut self.relays[index].1;
        (meter.left, meter.least) = (SAMPLES, None);
        if meter.question.is_none() {
            self.ask(index, now, mail);
        }
    }

    fn ask(&mut self, index: usize, now: Instant, mail: &mut Mail) {
        let (relay, meter) = &mut self.relays[index];
        meter.left -= 1;
        let id = mail.request_id();
        let micros = meter.micros.filter(|micros| *micros != UNREACHABLE).unwrap_or(0);
        let rtts = [RelayRtt { relay: *relay, micros }].into_iter().collect();
        let message = KeepAlive { request: id, load: None, rtts }.into();
        mail.send(&mut meter.session, meter.address, &message, 1, now);
        meter.question = Some(Question { id, at: now });
    }

    /// Whether `relay` is one that is measured: its Keep-alive Answers are for [`handle`](Self::handle).
    pub(super) fn knows(&self, relay: NodeId) -> bool {
        self.relays.iter().any(|(id, _)| *id == relay)
    }

    /// Takes a Keep-alive Answer of a relay. It proves to be fresh by the ID of the question that waits for it.
    pub(super) fn handle(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<(), Refusal> {
        let relay = NodeId(header.id);
        let index = self.relays.iter().position(|(id, _)| *id == relay);
        let index = index.ok_or(Refusal::new("node id", Reason::Stranger))?;
        let meter = &mut self.relays[index].1;
        let message = meter.session.open(header, datagram)?;
        let unexpected = Refusal::new("request", Reason::Unexpected);
        let Message::KeepAliveAnswer(answer) = &message else { return Err(unexpected) };
        let Some(question) = meter.question.take_if(|question| question.id == answer.request) else {
            return Err(unexpected);
        };
        mail.received(header, &message, from, now);
        meter.load = Some(answer.load);
        let sample = now.since(question.at);
        meter.least = Some(meter.least.map_or(sample, |least| least.min(sample)));
        self.answered(index, now, mail);
        Ok(())
    }

    /// A question was answered, or nobody waits for it any longer.
    fn answered(&mut self, index: usize, now: Instant, mail: &mut Mail) {
        let meter = &mut self.relays[index].1;
        let least = meter.least.map(|least| u32::try_from(least.as_micros()).unwrap_or(UNREACHABLE - 1));
        // The first of a network counts at once; later ones when the round is over.
        if meter.left == 0 || matches!(meter.micros, None | Some(UNREACHABLE)) && least.is_some() {
            meter.micros = Some(least.unwrap_or(UNREACHABLE));
            self.changed(now);
        }
        if self.relays[index].1.left > 0 {
            self.ask(index, now, mail);
        }
    }

    /// The RTTs that are known.
    fn known(&self) -> List<RelayRtt, MAX_RELAYS> {
        let known = self.relays.iter();
        known.filter_map(|(relay, meter)| Some(RelayRtt { relay: *relay, micros: meter.micros? })).collect()
    }

    fn changed(&mut self, now: Instant) {
        if !differ(&self.reported, &self.known()) {
            return;
        }
        let waits = self.relays.iter().any(|(_, meter)| meter.micros.is_none() && meter.question.is_some());
        let at = if waits { now + GATHERING } else { now };
        self.report_at = Some(self.report_at.map_or(at, |known| known.min(at)));
    }

    /// What the DC is to be told now; nothing where it knows that already.
    pub(super) fn report(&mut self) -> Option<List<RelayRtt, MAX_RELAYS>> {
        self.report_at = None;
        let known = self.known();
        differ(&self.reported, &known).then(|| {
            self.reported = known.clone();
            known
        })
    }

    /// The same, if that is due at `now`. While the terminal is not `registered`, nothing is: it reports when it is.
    pub(super) fn due_report(
        &mut self,
        registered: bool,
        now: Instant,
    ) -> Option<List<RelayRtt, MAX_RELAYS>> {
        self.report_at.take_if(|at| *at <= now).filter(|_| registered).and_then(|_| self.report())
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`due_report`](Self::due_report) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let questions = self.relays.iter().filter_map(|(_, meter)| meter.question.as_ref());
        earliest([self.next_round, self.report_at, questions.map(|q| q.at + PATIENCE).min()])
    }

    /// Begins a round, and gives up questions that were not answered.
    pub(super) fn handle_timeout(&mut self, now: Instant, mail: &mut Mail) {
        for index in 0..self.relays.len() {
            let question = &mut self.relays[index].1.question;
            if question.take_if(|question| question.at + PATIENCE <= now).is_some() {
                self.answered(index, now, mail);
            }
        }
        if self.next_round.is_some_and(|at| at <= now) {
            self.round(now, mail);
        }
    }
}

/// Whether the difference could matter to who picks a relay: another relay, or a quarter and a millisecond.
fn differ(reported: &[RelayRtt], known: &[RelayRtt]) -> bool {
    known.len() != reported.len()
        || known.iter().any(|new| {
            let old = reported.iter().find(|old| old.relay == new.relay);
            old.is_none_or(|old| old.micros.abs_diff(new.micros) > (old.micros / 4).max(1000))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtts(values: &[(u8, u32)]) -> Vec<RelayRtt> {
        values.iter().map(|(n, micros)| RelayRtt { relay: NodeId([*n; 16]), micros: *micros }).collect()
    }

    /// T4-a: the DC is not told of noise.
    #[test]
    fn only_what_could_matter_is_told() {
        let old = rtts(&[(1, 2_000), (2, 40_000)]);
        assert!(!differ(&old, &rtts(&[(1, 2_900), (2, 49_000)])));
        assert!(differ(&old, &rtts(&[(1, 3_100), (2, 40_000)])), "more than a millisecond of two");
        assert!(differ(&old, &rtts(&[(1, 2_000), (2, 51_000)])), "more than a quarter");
        assert!(differ(&old, &rtts(&[(1, 2_000), (2, UNREACHABLE)])));
        assert!(differ(&old, &rtts(&[(1, 2_000)])) && differ(&old, &rtts(&[(1, 2_000), (3, 40_000)])));
    }

    fn measuring(relays: &[u8], mail: &mut Mail) -> Measure {
        let mut measure = Measure::new(NodeId([0; 16]));
        let named: Vec<RelayToMeasure> = relays
            .iter()
            .map(|n| RelayToMeasure {
                relay: NodeId([*n; 16]),
                address: SocketAddr::from(([192, 0, 2, *n], 4330)),
                key: SharedKey::new([*n; 32]),
            })
            .collect();
        measure.named(&named, Duration::from_secs(5), 1, Instant::ZERO, mail);
        measure
    }

    /// Lets relay `n` answer the question that it was asked last, at `now`.
    fn answer(measure: &mut Measure, n: u8, now: Instant, mail: &mut Mail) -> Result<(), Refusal> {
        let (relay, to) = (NodeId([n; 16]), SocketAddr::from(([192, 0, 2, n], 4330)));
        let asked: Vec<_> = std::iter::from_fn(|| mail.poll_transmit()).filter(|t| t.to == to).collect();
        let asked = &asked.last().expect("a question").bytes;
        let mut session = Session::new(&SharedKey::new([n; 32]), relay, NodeId([0; 16]), 1);
        let opened = session.open(&Header::parse(asked).unwrap(), asked).unwrap();
        let Message::KeepAlive(question) = opened else { panic!("{opened:?}") };
        let answer = crate::wire::KeepAliveAnswer {
            request: question.request,
            seen: "198.51.100.1:4330".parse().unwrap(),
            load: 30,
            relays: List::default(),
        };
        let (bytes, _) = session.seal(&answer.into(), &mut mail.rng);
        measure.handle(&Header::parse(&bytes).unwrap(), &bytes, to, now, mail)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// T4-a: the first answer counts at once, the least of three when the round is over; then it is quiet until the next.
    #[test]
    fn a_round_takes_the_least_of_three() {
        let mut mail = Mail::new([0; 32], 1);
        let mut measure = measuring(&[1], &mut mail);
        answer(&mut measure, 1, at(20), &mut mail).unwrap();
        assert_eq!(measure.due_report(true, at(20)).as_deref(), Some(&rtts(&[(1, 20_000)])[..]));
        answer(&mut measure, 1, at(30), &mut mail).unwrap();
        answer(&mut measure, 1, at(90), &mut mail).unwrap();
        assert_eq!(measure.due_report(true, at(90)).as_deref(), Some(&rtts(&[(1, 10_000)])[..]));
        assert_eq!((mail.poll_transmit(), measure.poll_timeout()), (None, Some(at(60_000))));
        let status = measure.status().remove(0);
        assert_eq!((status.rtt_us, status.answers, status.load), (Some(10_000), Some(true), Some(30)));
        measure.handle_timeout(at(60_000), &mut mail);
        assert!(mail.poll_transmit().is_some());
    }

    #[test]
    fn a_silent_relay_is_known_as_such_and_keeps_nobody_waiting() {
        let mut mail = Mail::new([0; 32], 1);
        let mut measure = measuring(&[1, 2], &mut mail);
        answer(&mut measure, 1, at(4), &mut mail).unwrap();
        assert_eq!(measure.due_report(true, at(4)), None, "the other may answer any moment");
        assert_eq!(measure.due_report(true, at(14)).as_deref(), Some(&rtts(&[(1, 4_000)])[..]));
        while let Some(due) = measure.poll_timeout().filter(|due| *due < at(10_000)) {
            measure.handle_timeout(due, &mut mail);
            if let Some(told) = measure.due_report(true, due) {
                assert_eq!(told[..], rtts(&[(1, 4_000), (2, UNREACHABLE)]));
                assert_eq!(due, at(3_000), "three questions, a second each");
            }
        }
        assert_eq!(measure.status()[1].answers, Some(false));
    }

    /// T4-b: in another network nothing of the one before counts, not even an answer that is under way.
    /// A terminal of a DC without relays, and one whose relays went away, has nothing to wake for.
    #[test]
    fn without_relays_there_are_no_rounds() {
        let mut mail = Mail::new([0; 32], 1);
        assert_eq!(measuring(&[], &mut mail).poll_timeout(), None);
        let mut measure = measuring(&[1], &mut mail);
        measure.named(&[], Duration::from_secs(5), 1, Instant::ZERO, &mut mail);
        assert_eq!(measure.poll_timeout(), None);
        measure.moved(true, Instant::ZERO, &mut mail);
        assert_eq!(measure.poll_timeout(), None);
    }

    #[test]
    fn a_move_forgets_and_asks_at_once() {
        let mut mail = Mail::new([0; 32], 1);
        let mut measure = measuring(&[1], &mut mail);
        answer(&mut measure, 1, at(20), &mut mail).unwrap();
        let under_way = mail.poll_transmit().expect("the second question");
        measure.moved(false, at(25), &mut mail);
        measure.moved(true, at(25), &mut mail);
        assert_eq!(measure.status()[0].rtt_us, None);
        let again = mail.poll_transmit().expect("a question in the new network");
        assert_ne!(again.bytes, under_way.bytes);
        assert_eq!(measure.report(), None);
    }
}
