//! Datagrams of a size, each of which is answered by one of another size.

use ntm_protocol::time::{Duration, Instant};

use super::{Application, Ends, Outcome, Pace, byte};
use crate::HostId;
use crate::packet::Packet;
use crate::trouble::Why;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Datagrams {
    /// Payload of each, in bytes: at least 4.
    pub size: usize,
    /// Payload of each answer, in bytes: at least 4.
    pub reply: usize,
    /// How many.
    pub count: u32,
    /// Between two.
    pub interval: Duration,
    /// Whether anybody answers.
    pub listen: bool,
    /// Whether both ends forbid to cut them up.
    pub whole: bool,
}

/// What came of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exchanged {
    /// What the client sent.
    pub sent: u32,
    /// What came to the server whole.
    pub arrived: u32,
    /// What the server sent.
    pub answered: u32,
    /// What came to the client whole.
    pub received: u32,
    /// What the client's host refused to send, which would have had to be cut up.
    pub too_big: u32,
    /// The same of the server's.
    pub answers_too_big: u32,
    /// ICMP errors that came to the ends: a datagram was too long for its way, and must not be cut up.
    pub icmp_too_big: u32,
    /// Other ICMP errors that came to the ends.
    pub icmp_unreachable: u32,
}

pub(super) struct Running {
    datagrams: Datagrams,
    begun: Instant,
    since: Option<Instant>,
    out: Exchanged,
    /// ICMP errors that came to the client.
    told: u32,
    ended: bool,
}

/// The datagram numbered `number`.
fn payload(number: u32, size: usize) -> Vec<u8> {
    let rest = (u64::from(number) << 20..).map(byte).take(size.saturating_sub(4));
    number.to_be_bytes().into_iter().chain(rest).collect()
}

impl Running {
    pub(super) fn new(datagrams: Datagrams, now: Instant) -> Self {
        Self { datagrams, begun: now, since: None, out: Exchanged::default(), told: 0, ended: false }
    }

    fn pace(&self) -> Pace {
        Pace { count: self.datagrams.count, interval: self.datagrams.interval }
    }

    fn next(&self) -> Option<Instant> {
        self.pace().next(self.since, self.tried())
    }

    /// How many were sent or refused.
    fn tried(&self) -> u32 {
        self.out.sent + self.out.too_big
    }

    fn limit(&self) -> Instant {
        self.pace().limit(self.begun, self.since, PATIENCE)
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let now = ends.now;
        if ends.peer().is_some() {
            self.since.get_or_insert(now);
        }
        while self.next().is_some_and(|due| due <= now) {
            let datagram = payload(self.tried(), self.datagrams.size);
            match ends.call_whole(0, datagram, self.datagrams.whole) {
                true => self.out.sent += 1,
                false => self.out.too_big += 1,
            }
        }
        let all = self.tried() == self.datagrams.count && self.out.received + self.told >= self.out.sent;
        self.ended = all || now >= self.limit();
        false
    }

    fn take(&mut self, ends: &mut Ends<'_>, host: HostId, packet: &Packet) {
        let Some(number) = packet.payload.first_chunk().map(|number| u32::from_be_bytes(*number)) else {
            return;
        };
        if host == ends.server {
            if packet.payload != payload(number, self.datagrams.size) {
                return;
            }
            self.out.arrived += 1;
            let answer = payload(number, self.datagrams.reply);
            match ends.answer_whole((packet.source, packet.destination), answer, self.datagrams.whole) {
                true => self.out.answered += 1,
                false => self.out.answers_too_big += 1,
            }
        } else if packet.payload == payload(number, self.datagrams.reply) {
            self.out.received += 1;
        }
    }

    fn listens(&self) -> bool {
        self.datagrams.listen
    }

    fn told(&mut self, ends: &Ends<'_>, host: HostId, why: Why) {
        match why {
            Why::TooBig { .. } => self.out.icmp_too_big += 1,
            Why::Port | Why::Other => self.out.icmp_unreachable += 1,
        }
        self.told += u32::from(host == ends.client);
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        let due = [self.next(), Some(self.limit())].into_iter().flatten().min();
        due.filter(|_| !self.ended)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        Outcome::Exchanged(self.out)
    }
}
