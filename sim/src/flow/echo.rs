//! A slow stream over one TCP connection: a few bytes at a time, each answered by one. Every byte follows from the conversation, the direction and
//! its place, so that one that is lost, comes again, moves, or is another conversation's is noticed at once.

use ntm_protocol::time::{Duration, Instant};
use smoltcp::socket::tcp::State;

use super::{Application, End, Ends, Outcome, drain, feed};
use crate::HostId;

/// The sockets' buffers, in bytes: who gives more than is taken has to wait.
const WINDOW: usize = 4 << 10;
/// How long the client waits until it tries again what was refused.
const AGAIN: Duration = Duration::from_secs(1);

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Echo {
    /// The number of the conversation.
    pub key: u32,
    /// How many bytes the client gives at a time.
    pub size: u64,
    /// Between two times.
    pub period: Duration,
}

/// A message of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// When the client gave it to its TCP.
    pub at: Instant,
    /// When the whole answer was there.
    pub returned: Option<Instant>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Echoed {
    /// When the connection stood.
    pub connected: Option<Instant>,
    /// What the client gave, in its order.
    pub messages: Vec<Given>,
    /// When bytes came that were not those that had to come, to either end.
    pub wrong: Option<Instant>,
    /// When the connection was reset, at the client.
    pub reset: Option<Instant>,
}

pub(super) struct Running {
    echo: Echo,
    listening: Option<End>,
    client: Option<End>,
    /// When the client was refused the name, or a connection.
    refused: Option<Instant>,
    /// When the client gives the next message.
    due: Option<Instant>,
    /// How much the client gave and got back.
    sent: u64,
    got: u64,
    /// How much the server got and answered.
    heard: u64,
    answered: u64,
    /// Whether there is no client any more.
    over: bool,
    out: Echoed,
}

/// The byte at `at` of what an end says in the conversation `key`.
fn byte(key: u32, by_server: bool, at: u64) -> u8 {
    // The finalizer of MurmurHash3 (Appleby): every bit of the result depends on all.
    let mut mixed =
        (u64::from(key) << 33 | u64::from(by_server) << 32) ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
    }
    (mixed >> 56) as u8
}

impl Running {
    pub(super) fn new(echo: Echo) -> Self {
        Self {
            echo,
            listening: None,
            client: None,
            refused: None,
            due: None,
            sent: 0,
            got: 0,
            heard: 0,
            answered: 0,
            over: false,
            out: Echoed::default(),
        }
    }

    /// The server answers each byte with one of its own.
    fn serve(&mut self, ends: &mut Ends<'_>) -> bool {
        let (server, port, key, now) = (ends.server, ends.port, self.echo.key, ends.now);
        let listening = *self
            .listening
            .get_or_insert_with(|| End { host: server, handle: ends.stack(server).listen(port, WINDOW) });
        let socket = listening.socket(ends);
        let (heard, wrong) = drain(socket, self.heard, |at| byte(key, false, at));
        self.heard += heard;
        self.judge(wrong, now);
        let owed = self.heard - self.answered;
        let given = feed(socket, self.answered, owed, |at| byte(key, true, at));
        self.answered += given;
        heard + given > 0
    }

    /// The client asks until it is told the name's address, connects once, and gives what is due.
    fn call(&mut self, ends: &mut Ends<'_>) -> bool {
        let (now, key) = (ends.now, self.echo.key);
        let waits = self.refused.is_some_and(|at| now < at + AGAIN);
        if self.over || waits {
            return false;
        }
        let Some(client) = self.client else { return self.connect(ends) };
        let socket = client.socket(ends);
        let (got, wrong) = drain(socket, self.got, |at| byte(key, true, at));
        self.got += got;
        self.judge(wrong, now);
        let whole = (self.got / self.echo.size) as usize;
        let unanswered = self.out.messages.iter_mut().take(whole).rev();
        unanswered.take_while(|message| message.returned.is_none()).for_each(|it| it.returned = Some(now));
        let socket = client.socket(ends);
        if socket.state() == State::Closed {
            self.out.reset = Some(now);
            self.over = true;
            return false;
        }
        if !socket.may_send() {
            self.due = None;
            return got > 0;
        }
        self.out.connected.get_or_insert(now);
        if self.due.is_some_and(|due| now < due) {
            return got > 0;
        }
        self.due = Some(now + self.echo.period);
        if ((socket.send_capacity() - socket.send_queue()) as u64) < self.echo.size {
            return got > 0;
        }
        self.sent += feed(socket, self.sent, self.echo.size, |at| byte(key, false, at));
        self.out.messages.push(Given { at: now, returned: None });
        true
    }

    fn connect(&mut self, ends: &mut Ends<'_>) -> bool {
        let is_refused = matches!(ends.answer, Some((_, Err(_))));
        // When it was refused before, it has waited.
        if is_refused && self.refused.take().is_some() {
            ends.ask_again = true;
        } else if let Some(peer) = ends.peer() {
            self.client = ends.connect(ends.own_port, peer, WINDOW);
            self.refused = self.client.is_none().then_some(ends.now);
        } else if is_refused {
            self.refused = Some(ends.now);
        }
        self.client.is_some()
    }

    fn judge(&mut self, wrong: u64, now: Instant) {
        if wrong > 0 {
            self.out.wrong.get_or_insert(now);
        }
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        self.serve(ends) | self.call(ends)
    }

    fn outlives(&mut self, gone: HostId, client: HostId) -> bool {
        if gone == client {
            (self.client, self.over) = (None, true);
        } else {
            // A service starts with its host.
            (self.listening, self.heard, self.answered) = (None, 0, 0);
        }
        true
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        let again = self.refused.map(|at| at + AGAIN);
        again.or(self.due).filter(|_| !self.over)
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn outcome(&self) -> Outcome {
        Outcome::Echoed(self.out.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is moved by any number of bytes, or comes from elsewhere, differs soon.
    #[test]
    fn streams_differ_from_each_other_and_from_themselves_moved() {
        let stretch = |key, by_server, from: u64| (from..from + 16).map(move |at| byte(key, by_server, at));
        let one = || stretch(7, false, 100);
        assert!(!one().eq(stretch(7, true, 100)) && !one().eq(stretch(8, false, 100)));
        for moved in (1..4096).flat_map(|by| [100 + by, 4196 - by]) {
            assert!(moved == 100 || !one().eq(stretch(7, false, moved)), "{moved}");
        }
    }
}
