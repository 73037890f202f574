//! Numbered and timed datagrams in both directions: the client sends from when it knows the name, the server from when the first has come.

use std::net::SocketAddr;

use ntm_protocol::time::{Duration, Instant};

use super::{Application, Ends, Outcome, Pace};
use crate::HostId;
use crate::packet::Packet;

/// How long the last may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Probes {
    /// How many each end sends.
    pub count: u32,
    /// Between two of one end.
    pub interval: Duration,
    /// The payload of each, in bytes: at least 12.
    pub size: usize,
}

/// The probes of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Row {
    /// When each was sent, by its number.
    pub sent: Vec<Instant>,
    /// What arrived, in that order: number and time.
    pub arrived: Vec<(u32, Instant)>,
}

/// What came of both directions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probed {
    /// From the client to the server.
    pub out: Row,
    /// From the server to the client.
    pub back: Row,
}

pub(super) struct Running {
    probes: Probes,
    begun: Instant,
    /// When each end began to send.
    since: [Option<Instant>; 2],
    /// Where the server sends to, and from.
    back: Option<(SocketAddr, SocketAddr)>,
    rows: Probed,
    ended: bool,
}

impl Running {
    pub(super) fn new(probes: Probes, now: Instant) -> Self {
        Self { probes, begun: now, since: [None; 2], back: None, rows: Probed::default(), ended: false }
    }

    /// When the next of an end is due; none once all are sent.
    fn next(&self, end: usize) -> Option<Instant> {
        let row = if end == 0 { &self.rows.out } else { &self.rows.back };
        self.pace().next(self.since[end], u32::try_from(row.sent.len()).ok()?)
    }

    fn probe(&self, number: usize, now: Instant) -> Vec<u8> {
        let mut payload = (number as u32).to_be_bytes().to_vec();
        payload.extend(now.as_nanos().to_be_bytes());
        payload.resize(self.probes.size, 0);
        payload
    }

    /// When nothing is waited for any longer.
    fn limit(&self) -> Instant {
        self.pace().limit(self.begun, self.since[0], PATIENCE)
    }

    fn pace(&self) -> Pace {
        Pace { count: self.probes.count, interval: self.probes.interval }
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let now = ends.now;
        if ends.peer().is_some() {
            self.since[0].get_or_insert(now);
        }
        while self.next(0).is_some_and(|due| due <= now) {
            let probe = self.probe(self.rows.out.sent.len(), now);
            self.rows.out.sent.push(now);
            ends.call(probe);
        }
        while let (Some(back), Some(due)) = (self.back, self.next(1))
            && due <= now
        {
            let probe = self.probe(self.rows.back.sent.len(), now);
            self.rows.back.sent.push(now);
            ends.answer(back, probe);
        }
        let all = self.probes.count as usize;
        let is_whole = |row: &Row| row.sent.len() == all && row.arrived.len() >= all;
        let whole = is_whole(&self.rows.out) && is_whole(&self.rows.back);
        self.ended = whole || now >= self.limit();
        false
    }

    fn take(&mut self, ends: &mut Ends<'_>, host: HostId, packet: &Packet) {
        let Some((number, stamp)) = packet.payload.split_first_chunk::<4>() else { return };
        let number = u32::from_be_bytes(*number);
        let Some(stamp) = stamp.first_chunk::<8>().map(|stamp| u64::from_be_bytes(*stamp)) else { return };
        let at_server = host == ends.server;
        if at_server && self.back.is_none() {
            self.back = Some((packet.source, packet.destination));
            self.since[1] = Some(ends.now);
        }
        let row = if at_server { &mut self.rows.out } else { &mut self.rows.back };
        if row.sent.get(number as usize).is_some_and(|sent| sent.as_nanos() == stamp) {
            row.arrived.push((number, ends.now));
        }
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        let due = [self.next(0), self.next(1), Some(self.limit())].into_iter().flatten().min();
        due.filter(|_| !self.ended)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        Outcome::Probed(self.rows.clone())
    }
}
