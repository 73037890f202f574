//! Small messages over one TCP connection without Nagle's algorithm (RFC 896), each sent when the whole answer to the one before is there.

use ntm_protocol::time::{Duration, Instant};

use super::{Application, End, Ends, NAME, Outcome, byte, drain, feed, over};

/// How long the connection, and each answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The sockets' buffers, in bytes.
const WINDOW: usize = 256 << 10;

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PingPong {
    /// How many messages go before those that are measured.
    pub warm_up: u32,
    /// How many are measured.
    pub count: u32,
    /// The length of each, and of its answer, in bytes.
    pub size: u64,
}

/// What came of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bounced {
    /// How long each measured message took, from sending it to having its whole answer.
    pub times: Vec<Duration>,
    /// Why there are no more.
    pub failure: Option<String>,
}

pub(super) struct Running {
    messages: PingPong,
    /// Since when the client waits: for the name, the connection, or an answer.
    since: Instant,
    listening: Option<End>,
    client: Option<End>,
    /// Whether the connection stood.
    stood: bool,
    /// How many messages the client has sent, and how many bytes of them.
    messages_sent: u64,
    sent: u64,
    /// How much the server got, and sent back.
    heard: u64,
    answered: u64,
    /// How much the client got back.
    got: u64,
    ended: bool,
    out: Bounced,
}

impl Running {
    pub(super) fn new(messages: PingPong, now: Instant) -> Self {
        Self {
            messages,
            since: now,
            listening: None,
            client: None,
            stood: false,
            messages_sent: 0,
            sent: 0,
            heard: 0,
            answered: 0,
            got: 0,
            ended: false,
            out: Bounced::default(),
        }
    }

    fn all(&self) -> u64 {
        u64::from(self.messages.warm_up) + u64::from(self.messages.count)
    }

    fn end(&mut self, ends: &mut Ends<'_>, failure: Option<&str>) -> bool {
        self.out.failure = failure.map(str::to_owned);
        self.ended = true;
        for end in [self.client.take(), self.listening.take()].into_iter().flatten() {
            let socket = end.socket(ends);
            if failure.is_none() { socket.close() } else { socket.abort() }
        }
        true
    }

    /// The server sends every whole message back.
    fn serve(&mut self, ends: &mut Ends<'_>, server: End) -> bool {
        let socket = server.socket(ends);
        let heard = drain(socket, self.heard, byte).0;
        self.heard += heard;
        let whole = self.heard / self.messages.size * self.messages.size;
        let given =
            if socket.may_send() { feed(socket, self.answered, whole - self.answered, byte) } else { 0 };
        self.answered += given;
        heard + given > 0
    }

    /// The client takes what came back, and sends the next message when all of the last has.
    fn call(&mut self, ends: &mut Ends<'_>, client: End) -> bool {
        let (now, size) = (ends.now, self.messages.size);
        let socket = client.socket(ends);
        let (taken, wrong) = drain(socket, self.got, byte);
        self.got += taken;
        if wrong > 0 {
            return self.end(ends, Some("an answer was not the message"));
        }
        let mut acted = taken > 0;
        if taken > 0 && self.got == self.messages_sent * size {
            if self.messages_sent > u64::from(self.messages.warm_up) {
                self.out.times.push(now.since(self.since));
            }
            if self.messages_sent == self.all() {
                return self.end(ends, None);
            }
        }
        if self.got == self.messages_sent * size {
            self.messages_sent += 1;
            self.since = now;
        }
        let socket = client.socket(ends);
        let given = feed(socket, self.sent, self.messages_sent * size - self.sent, byte);
        self.sent += given;
        acted |= given > 0;
        acted
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (server, port, now) = (ends.server, ends.port, ends.now);
        let listening = *self.listening.get_or_insert_with(|| {
            let end = End { host: server, handle: ends.stack(server).listen(port, WINDOW) };
            end.socket(ends).set_nagle_enabled(false);
            end
        });
        let Some(peer) = ends.peer() else {
            return over(self.since, NAME, now) && self.end(ends, Some("the name has no address"));
        };
        let Some(client) = self.client else {
            self.since = now;
            self.client = ends.connect(ends.own_port, peer, WINDOW);
            return match self.client {
                Some(client) => {
                    client.socket(ends).set_nagle_enabled(false);
                    true
                }
                None => self.end(ends, Some("there is no way to the server")),
            };
        };
        if over(self.since, PATIENCE, now) {
            let why = if self.stood { "an answer did not come in time" } else { "nobody answered" };
            return self.end(ends, Some(why));
        }
        let is_over = client.is_over(ends);
        if is_over {
            return self.end(ends, Some("the connection was lost"));
        }
        let acted = self.serve(ends, listening);
        if !client.socket(ends).may_send() {
            return acted;
        }
        self.stood = true;
        self.call(ends, client) | acted
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        let patience = if self.client.is_some() { PATIENCE } else { NAME };
        (!self.ended).then_some(self.since + patience)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        Outcome::Bounced(self.out.clone())
    }
}
