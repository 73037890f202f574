//! A transfer as iperf3 makes it: a control connection, then those for data, whose senders give what goes, or block at a rate.

use std::iter::{once, repeat_n};
use std::net::SocketAddr;

use ntm_protocol::time::{Duration, Instant};

use super::iperf3::{CONTROL, GRACE, Stretches, next, paced};
use super::{Application, End, Ends, Outcome, byte, drain, feed, over};

/// What to transfer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transfer {
    /// How long it is measured.
    pub duration: Duration,
    /// How long data flows before.
    pub omit: Duration,
    /// Whether data flows towards the client.
    pub reverse: bool,
    /// At most so many bits a second on each connection.
    pub rate: Option<u64>,
    /// What the sender gives a socket at once, in bytes.
    pub block: u64,
    /// The sockets' buffers in bytes.
    pub window: usize,
    /// How many connections carry data.
    pub streams: u16,
}

impl Transfer {
    /// What iperf3 gives a socket at once, where nothing is said of it.
    pub const BLOCK: u64 = 128 << 10;
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Transferred {
    /// The bytes that the receiver got in each tenth of a second since its connections stood, those before it is measured left out.
    pub stretches: Vec<u64>,
    /// Data connections that the server took.
    pub connections: u32,
    /// Segments that the sender sent again.
    pub retransmits: u64,
    /// Bytes that were not what the sender gave.
    pub wrong: u64,
    /// Whether both ends came to their end.
    pub completed: bool,
    /// How long it took to its end, from the question for the server's name on; nothing while it lasts.
    pub took: Option<Duration>,
    /// Why not.
    pub failure: Option<String>,
}

/// How far a data connection is.
#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    got: u64,
    /// Segments that were sent again.
    again: u64,
}

pub(super) struct Running {
    transfer: Transfer,
    begun: Instant,
    /// The server's sockets: control, then data.
    listening: Vec<End>,
    control: Option<End>,
    data: Vec<End>,
    /// When data began to flow, at the sender and at the receiver: all connections stand there.
    flows: [Option<Instant>; 2],
    progress: Vec<Progress>,
    ended: bool,
    stretches: Stretches,
    out: Transferred,
}

impl Running {
    pub(super) fn new(transfer: Transfer, now: Instant) -> Self {
        Self {
            transfer,
            begun: now,
            listening: Vec::new(),
            control: None,
            data: Vec::new(),
            flows: [None; 2],
            progress: vec![Progress::default(); transfer.streams.into()],
            ended: false,
            stretches: Stretches::new(transfer.omit, transfer.duration),
            out: Transferred::default(),
        }
    }

    fn end(&mut self, ends: &mut Ends<'_>, failure: Option<&str>) -> bool {
        self.out.completed = failure.is_none();
        self.out.took = Some(ends.now.since(self.begun));
        self.out.failure = failure.map(str::to_owned);
        self.ended = true;
        for end in self.control.take().into_iter().chain(self.data.drain(..)).chain(self.listening.drain(..))
        {
            let socket = end.socket(ends);
            if failure.is_none() { socket.close() } else { socket.abort() }
        }
        true
    }

    fn whole(&self) -> Duration {
        self.transfer.omit + self.transfer.duration
    }

    /// How much may have been given to each connection by `now`.
    fn allowance(&self, since: Instant, now: Instant) -> u64 {
        let Some(rate) = self.transfer.rate else { return u64::MAX };
        // A block is given when the ones before are within the rate.
        paced(rate, self.transfer.block, since, now) * self.transfer.block
    }

    /// The sockets of the data connection numbered `at`: the sender's and the receiver's.
    fn connection(&self, at: usize) -> (End, End) {
        let (client, server) = (self.data[at], self.listening[1 + at]);
        if self.transfer.reverse { (server, client) } else { (client, server) }
    }

    /// Notes since when all connections stand at each end.
    fn stand(&mut self, ends: &mut Ends<'_>) {
        let all = self.data.len();
        if self.out.connections < u32::from(self.transfer.streams) {
            let taken = (0..all).filter(|at| self.listening[1 + at].socket(ends).may_send()).count();
            self.out.connections = self.out.connections.max(taken as u32);
        }
        if all < usize::from(self.transfer.streams) {
            return;
        }
        for end in 0..2 {
            let of = |at| if end == 0 { self.connection(at).0 } else { self.connection(at).1 };
            if self.flows[end].is_none() && (0..all).all(|at| of(at).socket(ends).may_send()) {
                self.flows[end] = Some(ends.now);
            }
        }
    }

    fn send(&mut self, ends: &mut Ends<'_>, at: usize, sender: End) -> bool {
        let (now, Some(since)) = (ends.now, self.flows[0]) else { return false };
        let socket = sender.socket(ends);
        if !socket.may_send() {
            return false;
        }
        if over(since, self.whole(), now) {
            socket.close();
            return true;
        }
        let sent = self.progress[at].sent;
        let given = feed(socket, sent, self.allowance(since, now).saturating_sub(sent), byte);
        self.progress[at].sent += given;
        given > 0
    }

    fn receive(&mut self, ends: &mut Ends<'_>, at: usize, receiver: End) -> bool {
        let (now, Some(since)) = (ends.now, self.flows[1]) else { return false };
        let socket = receiver.socket(ends);
        let (taken, wrong) = drain(socket, self.progress[at].got, byte);
        self.progress[at].got += taken;
        self.out.wrong += wrong;
        let closes = !socket.may_recv() && socket.may_send();
        if closes {
            socket.close();
        }
        self.stretches.count(since, now, taken);
        taken > 0 || closes
    }

    /// What a sender sent again is counted by its ports.
    fn count_again(&mut self, ends: &mut Ends<'_>, at: usize, peer: SocketAddr) {
        let (host, from, to) = if self.transfer.reverse {
            let remote = self.listening[1 + at].socket(ends).remote_endpoint();
            let remote = remote.map(|remote| SocketAddr::new(remote.addr.into(), remote.port));
            (ends.server, ends.port, remote)
        } else {
            (ends.client, ends.own_port + 1 + at as u16, Some(peer))
        };
        if let Some(to) = to {
            let again = ends.stack(host).retransmits(from, to);
            self.progress[at].again = self.progress[at].again.max(again);
        }
    }

    /// Whether a data connection is over: closed at one of its ends, and nothing left to take.
    fn is_over(&self, ends: &mut Ends<'_>, at: usize) -> bool {
        let both = self.flows.iter().all(Option::is_some);
        self.data[at].is_over(ends)
            || (both
                && self.listening[1 + at].is_over(ends)
                && self.connection(at).1.socket(ends).recv_queue() == 0)
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (server, port) = (ends.server, ends.port);
        let (window, streams) = (self.transfer.window, usize::from(self.transfer.streams));
        if self.listening.is_empty() {
            let windows = once(CONTROL).chain(repeat_n(window, streams));
            let listen = |window| End { host: server, handle: ends.stack(server).listen(port, window) };
            self.listening = windows.map(listen).collect();
        }
        if over(self.begun, self.whole() + GRACE, ends.now) {
            return self.end(ends, Some("it did not end in time"));
        }
        let Some(peer) = ends.peer() else { return false };
        let own = ends.own_port;
        let Some(control) = self.control else {
            self.control = ends.connect(own, peer, CONTROL);
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
        // One after the other: the server's sockets take them in their order.
        if self.data.len() < streams && self.data.last().is_none_or(|last| last.socket(ends).may_send()) {
            let connected = ends.connect(own + 1 + self.data.len() as u16, peer, window);
            self.data.extend(connected);
            return connected.is_some();
        }
        self.stand(ends);
        let (mut acted, mut done) = (false, 0);
        for at in 0..self.data.len() {
            let (sender, receiver) = self.connection(at);
            acted |= self.send(ends, at, sender);
            acted |= self.receive(ends, at, receiver);
            self.count_again(ends, at, peer);
            done += usize::from(self.is_over(ends, at));
        }
        if done > 0 && !self.flows[0].is_some_and(|since| over(since, self.whole(), ends.now)) {
            return self.end(ends, Some("the connection was lost"));
        }
        if done == streams {
            let in_time = self.flows.iter().all(Option::is_some);
            return self.end(ends, (!in_time).then_some("the connection was lost"));
        }
        acted
    }

    fn wake(&self, now: Instant) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let limit = self.begun + self.whole() + GRACE;
        let Some(since) = self.flows[0] else { return Some(limit) };
        let end = since + self.whole();
        Some(match self.transfer.rate {
            _ if now >= end => limit,
            Some(rate) => end.min(next(rate, self.transfer.block, since, now)),
            None => end,
        })
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        let mut out = self.out.clone();
        out.stretches = self.stretches.told(out.completed && self.flows[1].is_some());
        out.retransmits = self.progress.iter().map(|progress| progress.again).sum();
        Outcome::Transferred(out)
    }
}
