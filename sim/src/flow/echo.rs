//! A slow stream over TCP: a few bytes at a time, each answered by one. Every byte follows from the conversation, the connection, the direction and
//! its place, so that one that is lost, comes again, moves, or is another connection's is noticed at once. The first of each connection is its number.
//!
//! A conversation is one connection that nobody closes, or takes turns: one end closes (RFC 9293, section 3.6), the other does so a while later, and the client
//! opens the next connection to the same peer and port.

use ntm_protocol::time::{Duration, Instant};
use smoltcp::socket::tcp::{RecvError, Socket, State};

use super::{Application, End, Ends, Outcome, drain, feed};
use crate::HostId;

/// The sockets' buffers, in bytes: who gives more than is taken has to wait.
const WINDOW: usize = 4 << 10;
/// How long the client waits until it tries again what was refused.
const AGAIN: Duration = Duration::from_secs(1);
/// How many connections a client makes at most: the number of each is a byte.
const MOST: usize = 1 << 8;

/// What to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Echo {
    /// The number of the conversation.
    pub key: u32,
    /// How many bytes the client gives at a time.
    pub size: u64,
    /// Between two times.
    pub period: Duration,
    /// How connections follow each other; without it there is one.
    pub turns: Option<Turns>,
}

/// How the connections of a conversation follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turns {
    /// How long each lasts until an end says that it says no more.
    pub lasts: Duration,
    /// Whether the server is the first to say so.
    pub by_server: bool,
    /// How long the other end waits, once it has heard that, until it says so too.
    pub half: Duration,
    /// How long the client waits then, or after a reset, until it opens the next.
    pub pause: Duration,
    /// How many ports the client has, which it takes in turn.
    pub ports: u16,
    /// Whether it asks for the server's name each time; else only after a reset.
    pub asks: bool,
}

/// A message of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// When the client gave it to its TCP.
    pub at: Instant,
    /// When the whole answer was there.
    pub returned: Option<Instant>,
}

/// What one end says on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Half {
    /// How many bytes it gave to its TCP.
    pub given: u64,
    /// When it said that no more comes.
    pub closed: Option<Instant>,
    /// When the other end, which had all that was given then, heard that.
    pub heard: Option<Instant>,
}

/// A connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// When the client opened it.
    pub at: Instant,
    /// When it stood, at the client.
    pub connected: Option<Instant>,
    /// When the server got the first byte of it.
    pub served: Option<Instant>,
    /// What the client gave, in its order.
    pub messages: Vec<Given>,
    /// What the client says.
    pub client: Half,
    /// What the server says.
    pub server: Half,
    /// When it was reset, at the first end that knew.
    pub reset: Option<Instant>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Echoed {
    /// Its connections, in their order.
    pub turns: Vec<Turn>,
    /// When bytes came that were not those that had to come, to either end, or an end of what was not whole.
    pub wrong: Option<Instant>,
}

impl Echoed {
    /// What the client gave on all connections, in its order.
    pub fn messages(&self) -> impl Iterator<Item = &Given> {
        self.turns.iter().flat_map(|turn| &turn.messages)
    }

    /// When the first connection stood.
    pub fn connected(&self) -> Option<Instant> {
        self.turns.iter().find_map(|turn| turn.connected)
    }

    /// When a connection was reset for the first time.
    pub fn reset(&self) -> Option<Instant> {
        self.turns.iter().find_map(|turn| turn.reset)
    }
}

/// A connection at the server.
struct Served {
    end: End,
    /// Which it is, once that is known.
    turn: Option<usize>,
    /// How much the server got.
    heard: u64,
}

pub(super) struct Running {
    echo: Echo,
    listening: Option<End>,
    served: Vec<Served>,
    /// Whether there is to be no other connection than those that the server has.
    full: bool,
    /// The last connection, at the client, for as long as it lasts; and how much the client got back.
    client: Option<End>,
    got: u64,
    /// Those of before, until their ports are free.
    waiting: Vec<(u16, End)>,
    /// When the client opens the next.
    opens: Option<Instant>,
    /// When the client was refused the name, or a connection.
    refused: Option<Instant>,
    /// When the client gives the next message.
    due: Option<Instant>,
    /// Whether there is no client any more.
    over: bool,
    out: Echoed,
}

/// The byte at `at` of what an end says on the connection numbered `turn` of the conversation `key`.
fn byte(key: u32, turn: usize, by_server: bool, at: u64) -> u8 {
    if at == 0 && !by_server {
        return turn as u8;
    }
    // The finalizer of MurmurHash3 (Appleby): every bit of the result depends on all.
    let place = at | (turn as u64) << 40;
    let mut mixed =
        (u64::from(key) << 33 | u64::from(by_server) << 32) ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
    }
    (mixed >> 56) as u8
}

/// Whether the other end has said that no more comes, and all that it gave has been taken.
fn has_heard_all(socket: &mut Socket<'_>) -> bool {
    !socket.can_recv() && socket.recv(|_| (0, ())) == Err(RecvError::Finished)
}

impl Running {
    pub(super) fn new(echo: Echo) -> Self {
        Self {
            echo,
            listening: None,
            served: Vec::new(),
            full: false,
            client: None,
            got: 0,
            waiting: Vec::new(),
            opens: None,
            refused: None,
            due: None,
            over: false,
            out: Echoed::default(),
        }
    }

    /// The server takes connections, and answers each byte with one of its own. Who listens is behind them: of the sockets at one port smoltcp asks the one first
    /// that was made first, and a connection's segment that comes again is the connection's.
    fn serve(&mut self, ends: &mut Ends<'_>) -> bool {
        loop {
            if self.listening.is_none() && !self.full {
                let (server, port) = (ends.server, ends.port);
                let handle = ends.stack(server).listen(port, WINDOW);
                self.listening = Some(End { host: server, handle });
            }
            let Some(end) = self.listening.filter(|end| end.socket(ends).state() != State::Listen) else {
                break;
            };
            self.listening = None;
            self.served.push(Served { end, turn: None, heard: 0 });
            self.full = self.echo.turns.is_none();
        }
        let (mut acted, mut served) = (false, std::mem::take(&mut self.served));
        served.retain_mut(|it| {
            acted |= self.serve_one(it, ends);
            let is_over = it.end.socket(ends).state() == State::Closed;
            if is_over
                && let Some(turn) = it.turn.map(|number| &mut self.out.turns[number])
                && (turn.server.closed.is_none() || turn.client.heard.is_none())
            {
                turn.reset.get_or_insert(ends.now);
            }
            !is_over
        });
        self.served = served;
        acted
    }

    /// What the server does on one connection.
    fn serve_one(&mut self, it: &mut Served, ends: &mut Ends<'_>) -> bool {
        let (key, now) = (self.echo.key, ends.now);
        let socket = it.end.socket(ends);
        let mut first = [0];
        if it.turn.is_none() && socket.recv_slice(&mut first) == Ok(1) {
            let number = usize::from(first[0]);
            it.heard = 1;
            // There is one connection of each number.
            let turn = self.out.turns.get_mut(number).filter(|turn| turn.served.is_none());
            match turn {
                Some(turn) => (turn.served, it.turn) = (Some(now), Some(number)),
                None => self.judge(1, now),
            }
        }
        let Some(number) = it.turn else { return false };
        let turn = &mut self.out.turns[number];
        let (heard, mut wrong) = drain(socket, it.heard, |at| byte(key, number, false, at));
        it.heard += heard;
        if turn.client.heard.is_none() && has_heard_all(socket) {
            turn.client.heard = Some(now);
            wrong += u64::from(it.heard != turn.client.given);
        }
        let hears_on = turn.client.heard.is_none();
        let waits =
            self.echo.turns.is_some_and(|turns| turn.client.heard.is_some_and(|at| now < at + turns.half));
        let mut acted = heard > 0;
        if turn.server.closed.is_none() && !waits {
            let (answered, owed) = (turn.server.given, it.heard - turn.server.given);
            let given = feed(socket, answered, owed, |at| byte(key, number, true, at));
            turn.server.given += given;
            let has_had_enough = self.echo.turns.is_some_and(|turns| {
                turns.by_server && turn.served.is_some_and(|at| now >= at + turns.lasts)
            });
            let closes = given == owed && (has_had_enough || !hears_on) && socket.may_send();
            if closes {
                socket.close();
                turn.server.closed = Some(now);
            }
            acted |= given > 0 || closes;
        }
        self.judge(wrong, now);
        acted
    }

    /// The client asks until it is told the name's address, connects, and gives what is due.
    fn call(&mut self, ends: &mut Ends<'_>) -> bool {
        let (now, key) = (ends.now, self.echo.key);
        let waits = self.refused.is_some_and(|at| now < at + AGAIN);
        if self.over || waits {
            return false;
        }
        let Some(client) = self.client else { return self.connect(ends) };
        let number = self.out.turns.len() - 1;
        let turn = &mut self.out.turns[number];
        let socket = client.socket(ends);
        let (got, mut wrong) = drain(socket, self.got, |at| byte(key, number, true, at));
        self.got += got;
        let whole = (self.got / self.echo.size) as usize;
        let unanswered = turn.messages.iter_mut().take(whole).rev();
        unanswered.take_while(|message| message.returned.is_none()).for_each(|it| it.returned = Some(now));
        if turn.server.heard.is_none() && has_heard_all(socket) {
            turn.server.heard = Some(now);
            wrong += u64::from(self.got != turn.server.given);
        }
        let acted = got > 0;
        if matches!(socket.state(), State::Closed | State::TimeWait) {
            let is_closed = turn.client.closed.is_some() && turn.server.heard.is_some();
            if !is_closed {
                turn.reset.get_or_insert(now);
            }
            self.judge(wrong, now);
            self.leave(client, now, ends);
            return false;
        }
        let may_send = socket.may_send();
        if may_send {
            turn.connected.get_or_insert(now);
        }
        let closes = may_send && self.echo.turns.is_some_and(|turns| turn.is_enough(turns, now));
        let gives = may_send && (closes || self.due.is_none_or(|due| now >= due));
        let room = (socket.send_capacity() - socket.send_queue()) as u64;
        let fits = gives && room >= self.echo.size;
        if fits {
            let given = feed(socket, turn.client.given, self.echo.size, |at| byte(key, number, false, at));
            turn.client.given += given;
            turn.messages.push(Given { at: now, returned: None });
        }
        if closes {
            socket.close();
            turn.client.closed = Some(now);
        }
        if !may_send || closes {
            self.due = None;
        } else if gives {
            self.due = Some(now + self.echo.period);
        }
        self.judge(wrong, now);
        acted || fits || closes
    }

    /// The last connection is over, at the client.
    fn leave(&mut self, client: End, now: Instant, ends: &Ends<'_>) {
        self.client = None;
        match self.echo.turns.filter(|_| self.out.turns.len() < MOST) {
            Some(turns) => {
                self.waiting.push((self.port(self.out.turns.len() - 1, ends), client));
                (self.got, self.due, self.opens) = (0, None, Some(now + turns.pause));
            }
            None => self.over = true,
        }
    }

    /// The client's port of the connection of that number.
    fn port(&self, number: usize, ends: &Ends<'_>) -> u16 {
        ends.own_port + self.echo.turns.map_or(0, |turns| number as u16 % turns.ports)
    }

    fn connect(&mut self, ends: &mut Ends<'_>) -> bool {
        self.waiting.retain(|(_, end)| end.socket(ends).state() != State::Closed);
        if self.opens.is_some_and(|at| ends.now < at) {
            return false;
        }
        if self.opens.take().is_some() {
            let was_reset = self.out.turns.last().is_some_and(|turn| turn.reset.is_some());
            ends.ask_again = was_reset || self.echo.turns.is_some_and(|turns| turns.asks);
            if ends.ask_again {
                return false;
            }
        }
        let is_refused = matches!(ends.answer, Some((_, Err(_))));
        // When it was refused before, it has waited.
        if is_refused && self.refused.take().is_some() {
            ends.ask_again = true;
        } else if let Some(peer) = ends.peer() {
            let port = self.port(self.out.turns.len(), ends);
            let is_free = self.waiting.iter().all(|(other, _)| *other != port);
            self.client = if is_free { ends.connect(port, peer, WINDOW) } else { None };
            self.refused = self.client.is_none().then_some(ends.now);
            if self.client.is_some() {
                self.out.turns.push(Turn::new(ends.now));
            }
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

    /// When the client wants to act next.
    fn client_wakes(&self) -> Option<Instant> {
        let again = self.refused.map(|at| at + AGAIN);
        let turn = self.client.and(self.out.turns.last()).zip(self.echo.turns);
        let closes = turn.filter(|(turn, _)| turn.client.closed.is_none());
        let closes = closes.and_then(|(turn, turns)| turn.enough(turns));
        let next = [self.due, closes, self.opens].into_iter().flatten().min();
        again.or(next).filter(|_| !self.over)
    }

    /// When the server closes a connection next, of those on which it waits for that.
    fn server_wakes(&self, now: Instant) -> Option<Instant> {
        let turns = self.echo.turns?;
        let turn = |it: &Served| it.turn.map(|number| &self.out.turns[number]);
        let open = self.served.iter().filter_map(turn).filter(|turn| turn.server.closed.is_none());
        let times = open.flat_map(|turn| {
            let enough = turn.served.filter(|_| turns.by_server).map(|at| at + turns.lasts);
            [enough, turn.client.heard.map(|at| at + turns.half)]
        });
        times.flatten().filter(|at| *at > now).min()
    }
}

impl Turn {
    fn new(at: Instant) -> Self {
        let (client, server) = (Half::default(), Half::default());
        Self { at, connected: None, served: None, messages: Vec::new(), client, server, reset: None }
    }

    /// When the client closes it.
    fn enough(&self, turns: Turns) -> Option<Instant> {
        match turns.by_server {
            true => self.server.heard.map(|at| at + turns.half),
            false => self.connected.map(|at| at + turns.lasts),
        }
    }

    fn is_enough(&self, turns: Turns, now: Instant) -> bool {
        self.enough(turns).is_some_and(|at| now >= at)
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        self.serve(ends) | self.call(ends)
    }

    fn outlives(&mut self, gone: HostId, client: HostId) -> bool {
        if gone == client {
            (self.client, self.over) = (None, true);
            self.waiting.clear();
        } else {
            // A service starts with its host.
            (self.listening, self.full) = (None, false);
            self.served.clear();
        }
        true
    }

    fn wake(&self, now: Instant) -> Option<Instant> {
        self.client_wakes().into_iter().chain(self.server_wakes(now)).min()
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
        let of =
            |key, turn, by_server, from: u64| (from..from + 16).map(move |at| byte(key, turn, by_server, at));
        let stretch = |key, by_server, from| of(key, 0, by_server, from);
        let one = || stretch(7, false, 100);
        assert!(!one().eq(stretch(7, true, 100)) && !one().eq(stretch(8, false, 100)));
        assert!(!one().eq(of(7, 1, false, 100)) && of(7, 1, false, 0).next() == Some(1));
        for moved in (1..4096).flat_map(|by| [100 + by, 4196 - by]) {
            assert!(moved == 100 || !one().eq(stretch(7, false, moved)), "{moved}");
        }
    }
}
