//! A transfer as iperf3 makes it: a control connection, then one for data, whose sender gives what goes, or blocks at a rate.

use ntm_protocol::time::{Duration, Instant};

use super::{Application, End, Ends, Outcome, drain, feed, over};

/// What iperf3 gives its socket at once.
const BLOCK: u64 = 128 << 10;
/// How often a sender at a rate looks whether it may go on.
const PACE: Duration = Duration::from_millis(1);
/// The length of the stretches that the receiver counts in.
const STRETCH: Duration = Duration::from_millis(100);
/// Beyond its time a transfer counts as broken after this.
const GRACE: Duration = Duration::from_secs(12);
/// The control connection needs little.
const CONTROL: usize = 4096;

/// What to transfer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transfer {
    /// How long it is measured.
    pub duration: Duration,
    /// How long data flows before.
    pub omit: Duration,
    /// Whether data flows towards the client.
    pub reverse: bool,
    /// At most so many bits a second.
    pub rate: Option<u64>,
    /// The sockets' buffers in bytes.
    pub window: usize,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Transferred {
    /// The bytes that the receiver got in each tenth of a second since its connection stood, those before it is measured left out.
    pub stretches: Vec<u64>,
    /// Data connections that the server took.
    pub connections: u32,
    /// Segments that the sender sent again.
    pub retransmits: u64,
    /// Bytes that were not what the sender gave.
    pub wrong: u64,
    /// Whether both ends came to their end.
    pub completed: bool,
    /// Why not.
    pub failure: Option<String>,
}

pub(super) struct Running {
    transfer: Transfer,
    begun: Instant,
    /// The server's sockets: control and data.
    listening: Option<[End; 2]>,
    control: Option<End>,
    data: Option<End>,
    /// When data began to flow, at the sender and at the receiver.
    flows: [Option<Instant>; 2],
    sent: u64,
    got: u64,
    ended: bool,
    out: Transferred,
}

impl Running {
    pub(super) fn new(transfer: Transfer, now: Instant) -> Self {
        Self {
            transfer,
            begun: now,
            listening: None,
            control: None,
            data: None,
            flows: [None; 2],
            sent: 0,
            got: 0,
            ended: false,
            out: Transferred::default(),
        }
    }

    fn end(&mut self, ends: &mut Ends<'_>, failure: Option<&str>) -> bool {
        self.out.completed = failure.is_none();
        self.out.failure = failure.map(str::to_owned);
        self.ended = true;
        let all = [self.control.take(), self.data.take()].into_iter().flatten();
        for end in all.chain(self.listening.take().into_iter().flatten()) {
            let socket = end.socket(ends);
            if failure.is_none() { socket.close() } else { socket.abort() }
        }
        true
    }

    fn whole(&self) -> Duration {
        self.transfer.omit + self.transfer.duration
    }

    /// How much the sender may have given by `now`.
    fn allowance(&self, since: Instant, now: Instant) -> u64 {
        let Some(rate) = self.transfer.rate else { return u64::MAX };
        let nanos = u128::from(now.since(since).as_nanos() as u64);
        let bytes = (u128::from(rate) * nanos / 8_000_000_000) as u64;
        // A block is given when the ones before are within the rate.
        (bytes / BLOCK + 1) * BLOCK
    }

    fn send(&mut self, ends: &mut Ends<'_>, sender: End) -> bool {
        let now = ends.now;
        let socket = sender.socket(ends);
        if !socket.may_send() {
            return false;
        }
        let since = *self.flows[0].get_or_insert(now);
        if over(since, self.whole(), now) {
            socket.close();
            return true;
        }
        let most = self.allowance(since, now).saturating_sub(self.sent);
        let given = feed(socket, self.sent, most);
        self.sent += given;
        given > 0
    }

    fn receive(&mut self, ends: &mut Ends<'_>, receiver: End) -> bool {
        let now = ends.now;
        let socket = receiver.socket(ends);
        if socket.may_send() && self.flows[1].is_none() {
            self.flows[1] = Some(now);
        }
        let (taken, wrong) = drain(socket, self.got);
        self.got += taken;
        self.out.wrong += wrong;
        let closes = !socket.may_recv() && socket.may_send() && self.flows[1].is_some();
        if closes {
            socket.close();
        }
        if let Some(measured) = self.flows[1].map(|since| since + self.transfer.omit)
            && now >= measured
            && taken > 0
        {
            let last = (self.transfer.duration.as_nanos() / STRETCH.as_nanos()).saturating_sub(1) as usize;
            let at = ((now.since(measured).as_nanos() / STRETCH.as_nanos()) as usize).min(last);
            if self.out.stretches.len() <= at {
                self.out.stretches.resize(at + 1, 0);
            }
            self.out.stretches[at] += taken;
        }
        taken > 0 || closes
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (client, server, port) = (ends.client, ends.server, ends.port);
        let window = self.transfer.window;
        let listening = *self.listening.get_or_insert_with(|| {
            [CONTROL, window]
                .map(|window| End { host: server, handle: ends.stack(server).listen(port, window) })
        });
        if over(self.begun, self.whole() + GRACE, ends.now) {
            return self.end(ends, Some("it did not end in time"));
        }
        let Some(peer) = ends.peer() else { return false };
        let own = ends.own_port;
        let Some(control) = self.control else {
            self.control =
                ends.stack(client).connect(own, peer, CONTROL).map(|handle| End { host: client, handle });
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
        let Some(data) = self.data else {
            let connected = ends.stack(client).connect(own + 1, peer, window);
            self.data = connected.map(|handle| End { host: client, handle });
            return self.data.is_some();
        };
        let accepted = listening[1];
        if accepted.socket(ends).may_send() && self.out.connections == 0 {
            self.out.connections = 1;
        }
        let (sender, receiver) = if self.transfer.reverse { (accepted, data) } else { (data, accepted) };
        let mut acted = self.send(ends, sender);
        acted |= self.receive(ends, receiver);
        // What is sent again is counted by the sender's ports.
        let (host, from, to) = match self.transfer.reverse {
            false => (client, own + 1, Some(peer)),
            true => {
                let remote = accepted.socket(ends).remote_endpoint();
                let remote = remote.map(|remote| match remote.addr {
                    smoltcp::wire::IpAddress::Ipv4(address) => {
                        std::net::SocketAddrV4::new(address, remote.port)
                    }
                });
                (server, port, remote)
            }
        };
        if let Some(to) = to {
            self.out.retransmits = self.out.retransmits.max(ends.stack(host).retransmits(from, to));
        }
        let both = self.flows.iter().all(Option::is_some);
        if data.is_over(ends) {
            let in_time = both && self.flows[0].is_some_and(|since| over(since, self.whole(), ends.now));
            return self.end(ends, (!in_time).then_some("the connection was lost"));
        }
        if both && accepted.is_over(ends) && receiver.socket(ends).recv_queue() == 0 {
            let in_time = self.flows[0].is_some_and(|since| over(since, self.whole(), ends.now));
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
            Some(_) => end.min(now + PACE),
            None => end,
        })
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        let mut out = self.out.clone();
        if self.flows[1].is_some() {
            let whole = (self.transfer.duration.as_nanos() / STRETCH.as_nanos()) as usize;
            if out.completed {
                out.stretches.resize(whole, 0);
            }
        }
        Outcome::Transferred(out)
    }
}
