//! A page: a request over TCP, and an answer that ends with the connection.

use ntm_protocol::time::{Duration, Instant};

use super::{Application, End, Ends, Outcome, byte, drain, feed, over};

/// The length of the request, in bytes.
const REQUEST: u64 = 100;
/// The client gives up after this time.
const PATIENCE: Duration = Duration::from_secs(10);
const WINDOW: usize = 256 << 10;

/// A page.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Page {
    /// Its length in bytes.
    pub size: u64,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Fetched {
    /// How many bytes came.
    pub bytes: u64,
    /// How many of them were wrong.
    pub wrong: u64,
    /// When the answer had ended.
    pub done: Option<Instant>,
    /// Whether the server's end of the connection was closed in order.
    pub whole: bool,
}

pub(super) struct Running {
    page: Page,
    begun: Instant,
    listening: Option<End>,
    client: Option<End>,
    asked: u64,
    heard: u64,
    answered: u64,
    ended: bool,
    out: Fetched,
}

impl Running {
    pub(super) fn new(page: Page, now: Instant) -> Self {
        Self {
            page,
            begun: now,
            listening: None,
            client: None,
            asked: 0,
            heard: 0,
            answered: 0,
            ended: false,
            out: Fetched::default(),
        }
    }

    fn end(&mut self, ends: &mut Ends<'_>) -> bool {
        self.ended = true;
        for end in [self.client.take(), self.listening.take()].into_iter().flatten() {
            end.socket(ends).abort();
        }
        true
    }

    fn serve(&mut self, ends: &mut Ends<'_>, server: End) -> bool {
        let socket = server.socket(ends);
        let heard = drain(socket, self.heard, byte).0;
        self.heard += heard;
        let mut acted = heard > 0;
        if self.heard >= REQUEST && socket.may_send() {
            let given = feed(socket, self.answered, self.page.size - self.answered, byte);
            self.answered += given;
            acted |= given > 0;
            if self.answered == self.page.size {
                socket.close();
                acted = true;
            }
        }
        acted
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (client, server, port, now) = (ends.client, ends.server, ends.port, ends.now);
        let listening = *self
            .listening
            .get_or_insert_with(|| End { host: server, handle: ends.stack(server).listen(port, WINDOW) });
        if over(self.begun, PATIENCE, now) {
            return self.end(ends);
        }
        let Some(peer) = ends.peer() else { return false };
        let Some(own) = self.client else {
            let port = ends.own_port;
            let connected = ends.stack(client).connect(port, peer, WINDOW);
            self.client = connected.map(|handle| End { host: client, handle });
            return self.client.is_some() || self.end(ends);
        };
        let mut acted = self.serve(ends, listening);
        let socket = own.socket(ends);
        if socket.may_send() && self.asked < REQUEST {
            let given = feed(socket, self.asked, REQUEST - self.asked, byte);
            self.asked += given;
            acted |= given > 0;
        }
        let (taken, wrong) = drain(socket, self.out.bytes, byte);
        self.out.bytes += taken;
        self.out.wrong += wrong;
        acted |= taken > 0;
        let was_reset = own.is_over(ends);
        let socket = own.socket(ends);
        if was_reset || (self.asked >= REQUEST && !socket.may_recv()) {
            self.out.whole = !was_reset;
            self.out.done = Some(now);
            socket.close();
            // The last acknowledgement leaves before the socket goes.
            self.ended = true;
            acted = true;
        }
        acted
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        (!self.ended).then_some(self.begun + PATIENCE)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        Outcome::Fetched(self.out)
    }
}
