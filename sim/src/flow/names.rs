//! Questions for a name, one after the other: to the terminal's own DNS, or by datagrams to a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::DnsError;

use super::{Application, By, Ends, Outcome};
use crate::HostId;
use crate::packet::Packet;

/// The port of DNS servers.
pub const DNS: u16 = 53;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The terminal, for the address of the flow's name: its applications ask its own DNS (T3.2.2-a).
    Terminal,
    /// The same, which needs nobody else for it.
    AtOnce(Result<IpAddr, DnsError>),
    /// A server at its real address.
    Server {
        /// Where it is.
        at: Ipv4Addr,
        /// The question, behind its ID.
        question: Vec<u8>,
        /// What the server answers it, behind the ID; nothing where none is there.
        answer: Option<Vec<u8>>,
    },
}

/// What to ask.
#[derive(Clone, PartialEq, Debug)]
pub struct Names {
    /// Whom.
    pub asked: Asked,
    /// How often.
    pub count: u32,
    /// From one question to the next, which waits for the answer to the one before.
    pub interval: Duration,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The terminal's.
    Address(Result<IpAddr, DnsError>),
    /// A server's message, behind its ID.
    Message(Vec<u8>),
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answered {
    /// How many questions were asked.
    pub sent: u32,
    /// Each answer, and how long it took.
    pub replies: Vec<(Duration, Reply)>,
}

pub(super) struct Running {
    names: Names,
    begun: Instant,
    /// When the question that waits was asked.
    waiting: Option<Instant>,
    /// The address that the questions come from: that of the socket.
    own: Option<Ipv4Addr>,
    ended: bool,
    out: Answered,
}

impl Running {
    pub(super) fn new(names: Names, now: Instant) -> Self {
        Self { names, begun: now, waiting: None, own: None, ended: false, out: Answered::default() }
    }

    fn due(&self) -> Instant {
        self.begun + self.names.interval * self.out.sent
    }

    fn answered(&mut self, reply: Reply, now: Instant) {
        if let Some(asked) = self.waiting.take() {
            self.out.replies.push((now.since(asked), reply));
        }
    }

    fn ask(&mut self, ends: &mut Ends<'_>) {
        // As many as a message can tell apart: the one before is answered, or given up.
        let id = (self.out.sent as u16).to_be_bytes();
        self.out.sent += 1;
        self.waiting = Some(ends.now);
        match &self.names.asked {
            Asked::Terminal => ends.ask_again = true,
            Asked::AtOnce(reply) => {
                let reply = Reply::Address(*reply);
                self.answered(reply, ends.now);
            }
            Asked::Server { at, question, .. } => {
                // A socket that is connected keeps its address, whether or not the host does.
                let own = *self.own.get_or_insert(ends.real.unwrap_or(Ipv4Addr::UNSPECIFIED));
                if ends.real == Some(own) {
                    let message = [&id[..], question].concat();
                    let source = SocketAddr::new(own.into(), ends.own_port);
                    let question = Packet::udp(source, SocketAddr::new((*at).into(), DNS), message);
                    ends.send(ends.client, By::Real, question, false);
                }
            }
        }
    }
}

impl Application for Running {
    fn act(&mut self, ends: &mut Ends<'_>) -> bool {
        if self.ended {
            return false;
        }
        let now = ends.now;
        if let (Some(asked), Asked::Terminal, Some((at, answer))) =
            (self.waiting, &self.names.asked, ends.answer)
            && at >= asked
        {
            self.answered(Reply::Address(answer.map(IpAddr::V4)), now);
        }
        if self.waiting.is_some_and(|asked| now >= asked + PATIENCE) {
            self.waiting = None;
        }
        if self.waiting.is_none() && self.out.sent < self.names.count && now >= self.due() {
            self.ask(ends);
            return true;
        }
        self.ended = self.waiting.is_none() && self.out.sent == self.names.count;
        false
    }

    fn expects(&self, datagram: &Packet) -> bool {
        let Asked::Server { question, .. } = &self.names.asked else { return false };
        // What comes to the client is told apart by its port.
        datagram.destination.port() != DNS || datagram.payload.get(2..) == Some(question)
    }

    fn take(&mut self, ends: &mut Ends<'_>, host: HostId, packet: &Packet) {
        let Asked::Server { answer, .. } = &self.names.asked else { return };
        let Some((id, rest)) = packet.payload.split_first_chunk::<2>() else { return };
        if host == ends.server && packet.destination.port() == DNS {
            if let Some(answer) = answer {
                let message = [&id[..], answer].concat();
                ends.send(host, By::Real, Packet::udp(packet.destination, packet.source, message), false);
            }
        } else if *id == (self.out.sent.wrapping_sub(1) as u16).to_be_bytes() {
            // The late answer to an earlier question is passed over.
            self.answered(Reply::Message(rest.to_vec()), ends.now);
        }
    }

    fn wake(&self, _: Instant) -> Option<Instant> {
        let at = self.waiting.map_or_else(|| self.due(), |asked| asked + PATIENCE);
        (!self.ended).then_some(at)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn outcome(&self) -> Outcome {
        Outcome::Answered(self.out.clone())
    }
}
