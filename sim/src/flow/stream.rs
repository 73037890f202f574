//! Datagrams at a steady rate as iperf3 sends them: a control connection by TCP, then streams of numbered datagrams, of which the receiver tells what came.
//!
//! Over the control connection the server says that all streams stand, the client that its time is over, and the server that it has told what it got: a byte each.

use std::net::SocketAddr;

use ntm_protocol::time::{Duration, Instant};

use super::iperf3::{CONTROL, GRACE, PACE, Stretches, paced};
use super::{Application, End, Ends, Outcome, over};
use crate::HostId;
use crate::packet::Packet;

/// What opens a stream.
const HELLO: &[u8] = b"6789";
/// What answers it.
const WELCOME: &[u8] = b"9876";
/// The headers of IP and TCP with timestamps (RFC 7323): iperf3 fills a segment of its control connection, unless it is told otherwise.
const TCP: usize = 20 + 20 + 12;

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stream {
    /// How long it is measured.
    pub duration: Duration,
    /// How long data flows before.
    pub omit: Duration,
    /// Whether data flows towards the client.
    pub reverse: bool,
    /// At most so many bits a second in each stream.
    pub rate: u64,
    /// The payload of each datagram in bytes, at least 16; what a segment of TCP would carry unless given.
    pub length: Option<usize>,
    /// How many streams there are.
    pub streams: u16,
}

/// What came of it, as the receiver tells.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Streamed {
    /// The bytes that came in each tenth of a second since it began, those before it is measured left out.
    pub stretches: Vec<u64>,
    /// How many datagrams were sent, as their numbers tell.
    pub sent: u64,
    /// How many of them did not come, as far as the numbers tell: one that comes late, or twice, makes up for one.
    pub lost: u64,
    /// The mean of the streams' jitters (RFC 1889, section 6.3.1).
    pub jitter: Duration,
    /// Whether both ends came to their end.
    pub completed: bool,
    /// Why not.
    pub failure: Option<String>,
}

/// What a receiver knows of one stream.
#[derive(Clone, Copy, Default)]
struct Row {
    /// The greatest number so far; they begin at 1.
    highest: u64,
    lost: u64,
    /// How long the last one was under way, in nanoseconds.
    transit: Option<u64>,
    /// In sixteenths of a nanosecond.
    jitter: u64,
    /// The first two when what is measured began.
    before: (u64, u64),
}

impl Row {
    /// A datagram came, which was sent at a moment; both in nanoseconds.
    fn take(&mut self, number: u64, sent: u64, now: u64) {
        if number > self.highest {
            self.lost += number - 1 - self.highest;
            self.highest = number;
        } else {
            self.lost = self.lost.saturating_sub(1);
        }
        let transit = now.saturating_sub(sent);
        if let Some(before) = self.transit.replace(transit) {
            // As in RFC 1889, appendix A.8.
            self.jitter = self.jitter + transit.abs_diff(before) - ((self.jitter + 8) >> 4);
        }
    }

    /// What comes from now on is measured.
    fn begin(&mut self) {
        (self.before, self.jitter) = ((self.highest, self.lost), 0);
    }
}

pub(super) struct Running {
    stream: Stream,
    begun: Instant,
    /// The server's end of the control connection, and the client's.
    listening: Option<End>,
    control: Option<End>,
    /// How many streams the client has asked for.
    asked: u16,
    /// How many of these were answered.
    welcomed: u16,
    /// Where each stream comes from at the server, and the address that it came to.
    callers: Vec<(SocketAddr, SocketAddr)>,
    /// Since when data flows, at the client and at the server.
    since: [Option<Instant>; 2],
    /// How far the words on the control connection are: the client's time is over, and the server has heard it.
    over: [bool; 2],
    sent: Vec<u64>,
    rows: Vec<Row>,
    /// Whether what comes is measured by now.
    measured: bool,
    stretches: Stretches,
    ended: bool,
    out: Streamed,
}

impl Running {
    pub(super) fn new(stream: Stream, now: Instant) -> Self {
        Self {
            stream,
            begun: now,
            listening: None,
            control: None,
            asked: 0,
            welcomed: 0,
            callers: Vec::new(),
            since: [None; 2],
            over: [false; 2],
            sent: vec![0; stream.streams.into()],
            rows: vec![Row::default(); stream.streams.into()],
            measured: false,
            stretches: Stretches::new(stream.omit, stream.duration),
            ended: false,
            out: Streamed::default(),
        }
    }

    fn whole(&self) -> Duration {
        self.stream.omit + self.stream.duration
    }

    fn end(&mut self, ends: &mut Ends<'_>, failure: Option<&str>) -> bool {
        self.out.completed = failure.is_none();
        self.out.failure = failure.map(str::to_owned);
        self.ended = true;
        for end in [self.control.take(), self.listening.take()].into_iter().flatten() {
            let socket = end.socket(ends);
            if failure.is_none() { socket.close() } else { socket.abort() }
        }
        true
    }

    /// Since when the sender sends, and whether it does so no more.
    fn sending(&self) -> (Option<Instant>, bool) {
        let at = usize::from(self.stream.reverse);
        (self.since[at], self.over[at])
    }

    /// Since when the receiver takes, and whether it does so no more.
    fn receiving(&self) -> (Option<Instant>, bool) {
        let at = usize::from(!self.stream.reverse);
        (self.since[at], self.over[at])
    }

    /// Sends what is due in each stream.
    fn send(&mut self, ends: &mut Ends<'_>) {
        let (Some(since), false) = self.sending() else { return };
        let length = self.stream.length.unwrap_or(ends.mtu - TCP);
        let most = paced(self.stream.rate, length as u64, since, ends.now);
        for at in 0..usize::from(self.stream.streams) {
            while self.sent[at] < most {
                self.sent[at] += 1;
                let mut payload = self.sent[at].to_be_bytes().to_vec();
                payload.extend(ends.now.as_nanos().to_be_bytes());
                payload.resize(length, 0);
                if self.stream.reverse {
                    ends.answer(self.callers[at], payload);
                } else {
                    ends.call_from(at as u16, payload);
                }
            }
        }
    }

    /// A datagram of the stream numbered `at` came to the receiver.
    fn receive(&mut self, at: usize, payload: &[u8], now: Instant) {
        let (since, false) = self.receiving() else { return };
        let Some((number, rest)) = payload.split_first_chunk::<8>() else { return };
        let Some(sent) = rest.first_chunk::<8>() else { return };
        if !self.measured && since.is_some_and(|since| now >= since + self.stream.omit) {
            self.measured = true;
            self.rows.iter_mut().for_each(Row::begin);
        }
        self.rows[at].take(u64::from_be_bytes(*number), u64::from_be_bytes(*sent), now.as_nanos());
        if let Some(since) = since {
            self.stretches.count(since, now, payload.len() as u64);
        }
    }

    /// What the client does: it asks for the streams one after the other, begins when it is told, and says when its time is over.
    fn call(&mut self, ends: &mut Ends<'_>, control: End) -> bool {
        if self.asked == self.welcomed && self.asked < self.stream.streams {
            ends.call_from(self.asked, HELLO.to_vec());
            self.asked += 1;
            return true;
        }
        let now = ends.now;
        if self.since[0].is_none() && self.welcomed == self.stream.streams && control.hears(ends) {
            self.since[0] = Some(now);
            return true;
        }
        if !self.over[0] && self.since[0].is_some_and(|since| over(since, self.whole(), now)) {
            self.over[0] = true;
            return control.says(ends);
        }
        false
    }

    /// What the server does: it says that all streams stand, and answers the client's word that the time is over.
    fn serve(&mut self, ends: &mut Ends<'_>, control: End) -> bool {
        let stand = self.callers.len() == usize::from(self.stream.streams);
        if self.since[1].is_none() && stand && control.socket(ends).may_send() {
            self.since[1] = Some(ends.now);
            return control.says(ends);
        }
        if self.since[1].is_some() && !self.over[1] && control.hears(ends) {
            self.over[1] = true;
            return control.says(ends);
        }
        false
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (server, port) = (ends.server, ends.port);
        let listening = *self
            .listening
            .get_or_insert_with(|| End { host: server, handle: ends.stack(server).listen(port, CONTROL) });
        if over(self.begun, self.whole() + GRACE, ends.now) {
            return self.end(ends, Some("it did not end in time"));
        }
        let Some(peer) = ends.peer() else { return false };
        let Some(control) = self.control else {
            self.control = ends.connect(ends.own_port, peer, CONTROL);
            return match self.control {
                Some(_) => true,
                None => self.end(ends, Some("there is no way to the server")),
            };
        };
        if control.is_over(ends) {
            return self.end(ends, Some("the control connection was lost"));
        }
        if !control.socket(ends).may_send() {
            return false;
        }
        if self.over[0] && control.hears(ends) {
            return self.end(ends, None);
        }
        let acted = self.call(ends, control) | self.serve(ends, listening);
        self.send(ends);
        acted
    }

    fn take(&mut self, ends: &mut Ends<'_>, host: HostId, packet: &Packet) {
        let is_hello = packet.payload == HELLO;
        if host == ends.server {
            let known = self.callers.iter().position(|(from, _)| *from == packet.source);
            match known {
                None if is_hello && self.callers.len() < self.stream.streams.into() => {
                    self.callers.push((packet.source, packet.destination));
                    ends.answer((packet.source, packet.destination), WELCOME.to_vec());
                }
                Some(at) if !is_hello && !self.stream.reverse => self.receive(at, &packet.payload, ends.now),
                _ => {}
            }
            return;
        }
        let at = packet.destination.port() - ends.own_port;
        let is_welcome = packet.payload == WELCOME;
        if is_welcome && at == self.welcomed && at < self.asked {
            self.welcomed += 1;
        } else if !is_welcome && self.stream.reverse && at < self.stream.streams {
            self.receive(at.into(), &packet.payload, ends.now);
        }
    }

    fn wake(&self, now: Instant) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let limit = self.begun + self.whole() + GRACE;
        let (since, is_over) = self.sending();
        let paced = since.filter(|_| !is_over).map(|_| now + PACE);
        let end = self.since[0].filter(|_| !self.over[0]).map(|since| since + self.whole());
        [Some(limit), paced, end].into_iter().flatten().min()
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        let mut out = self.out.clone();
        out.stretches = self.stretches.told(out.completed);
        let measured = || self.rows.iter().filter(|_| self.measured);
        out.sent = measured().map(|row| row.highest - row.before.0).sum();
        out.lost = measured().map(|row| row.lost.saturating_sub(row.before.1)).sum();
        let jitter: u64 = measured().map(|row| row.jitter >> 4).sum();
        out.jitter = Duration::from_nanos(jitter / u64::from(self.stream.streams));
        Outcome::Streamed(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iperf3 counts: a gap is lost, what comes late or again makes up for one of it, and the jitter is RFC 1889's.
    #[test]
    fn a_receiver_counts_by_the_numbers() {
        let mut row = Row::default();
        let (ms, us) = (1_000_000, 1_000);
        for (number, sent, now) in [(1, 0, 5 * ms), (2, ms, 6 * ms), (5, 2 * ms, 7 * ms)] {
            row.take(number, sent, now);
        }
        assert_eq!((row.highest, row.lost, row.jitter), (5, 2, 0));
        row.take(3, ms, 7 * ms);
        assert_eq!((row.highest, row.lost), (5, 1), "one that was overtaken");
        assert_eq!(row.jitter >> 4, ms / 16, "a sixteenth of the difference");
        row.begin();
        row.take(6, 8 * ms, 14 * ms + 160 * us);
        assert_eq!((row.highest - row.before.0, row.lost - row.before.1, row.jitter >> 4), (1, 0, 10 * us));
    }
}
