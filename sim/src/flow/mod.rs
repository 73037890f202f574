//! Applications with two ends: transfers, pages, small messages and slow streams over real TCP, datagrams and probes over UDP; and questions to the DNS.
//!
//! Each is a machine: the world tells it the address that the name has, what datagrams came, and lets it act whenever its host's TCP has changed
//! or its own time has come.

mod datagrams;
mod echo;
mod iperf3;
mod names;
mod page;
mod pingpong;
mod probes;
mod segments;
mod stream;
mod transfer;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ntm_protocol::addr::Fqdn;
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::DnsError;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use crate::HostId;
use crate::packet::Packet;
use crate::stack::Stack;
use crate::talk::TalkId;
use crate::trouble::Why;

pub use datagrams::{Datagrams, Exchanged};
pub use echo::{Echo, Echoed, Given, Half, Turn, Turns};
pub use names::{Answered, Asked, DNS, Names, Reply};
pub use page::{Fetched, Page};
pub use pingpong::{Bounced, PingPong};
pub use probes::{Probed, Probes, Row};
pub use segments::{Segment, Segments};
pub use stream::{Stream, Streamed};
pub use transfer::{Transfer, Transferred};

/// Names a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub(crate) usize);

/// What a flow is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Task {
    /// As much as goes, or at a rate.
    Transfer(Transfer),
    /// Datagrams at a steady rate.
    Stream(Stream),
    /// A page.
    Page(Page),
    /// Numbered and timed datagrams in both directions.
    Probes(Probes),
    /// Datagrams, each answered by one.
    Datagrams(Datagrams),
    /// Small messages, each sent back.
    PingPong(PingPong),
    /// Slow streams, every byte of which is known.
    Echo(Echo),
    /// Questions for a name.
    Names(Names),
}

impl Task {
    /// Whether its ends have connections.
    pub(crate) fn has_tcp(&self) -> bool {
        matches!(
            self,
            Self::Transfer(_) | Self::Stream(_) | Self::Page(_) | Self::PingPong(_) | Self::Echo(_)
        )
    }

    /// Whether the client begins with asking for the name of the server.
    pub(crate) fn asks_first(&self) -> bool {
        !matches!(self, Self::Names(_))
    }

    /// How many ports its client has.
    fn ports(&self) -> u16 {
        match self {
            Self::Transfer(Transfer { streams, .. }) | Self::Stream(Stream { streams, .. }) => 1 + streams,
            Self::Echo(Echo { turns: Some(Turns { ports, .. }), .. }) => *ports,
            _ => 1,
        }
    }
}

/// What came of a flow so far.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Of a transfer.
    Transferred(Transferred),
    /// Of a page.
    Fetched(Fetched),
    /// Of probes.
    Probed(Probed),
    /// Of datagrams.
    Exchanged(Exchanged),
    /// Of datagrams at a steady rate.
    Streamed(Streamed),
    /// Of small messages.
    Bounced(Bounced),
    /// Of a slow stream.
    Echoed(Echoed),
    /// Of questions.
    Answered(Answered),
}

/// The ports of flows' clients, of which each has some of its own; after the last the first comes again.
const PORTS: std::ops::Range<u16> = 45_000..65_000;

/// Where a flow's two ends are, and what they act on.
pub(crate) struct Ends<'a> {
    pub(crate) now: Instant,
    pub(crate) client: HostId,
    pub(crate) server: HostId,
    /// The server's port.
    pub(crate) port: u16,
    /// The client's first port.
    pub(crate) own_port: u16,
    /// The client's own address.
    pub(crate) own: Option<Ipv4Addr>,
    /// What the server's name leads to, once that is known.
    pub(crate) peer: Option<Ipv4Addr>,
    /// What came of the client's last question for a name, and when.
    pub(crate) answer: Option<(Instant, Result<Ipv4Addr, DnsError>)>,
    /// The client's real address.
    pub(crate) real: Option<Ipv4Addr>,
    /// The longest packet that an application of either end can send, in bytes.
    pub(crate) mtu: usize,
    /// The longest packet that a host sends to an address, as far as it knows.
    pub(crate) mtu_to: &'a dyn Fn(HostId, IpAddr) -> u16,
    pub(crate) stacks: &'a mut BTreeMap<HostId, Stack>,
    /// Datagrams to send, in order, each from its host.
    pub(crate) sent: Vec<(HostId, By, Packet)>,
    /// The client asks for the name, again if it did before.
    pub(crate) ask_again: bool,
}

/// By what a packet leaves a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// As an application's packets do: where there is a virtual interface, by that.
    Application,
    /// By a real interface, past whatever NTMobile does.
    Real,
}

impl Ends<'_> {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(|peer| SocketAddr::new(peer.into(), self.port))
    }

    fn stack(&mut self, host: HostId) -> &mut Stack {
        self.stacks.get_mut(&host).expect("hosts of flows over TCP have a stack")
    }

    /// Opens a connection from the client; `None` where there is no way.
    fn connect(&mut self, port: u16, peer: SocketAddr, window: usize) -> Option<End> {
        let host = self.client;
        self.stack(host).connect(port, peer, window).map(|handle| End { host, handle })
    }

    /// As a kernel does for a program: what fits the way is not to be cut up by others, what does not is cut up at once, or not sent if it is to stay `whole`: false.
    fn send(&mut self, host: HostId, by: By, packet: Packet, whole: bool) -> bool {
        let fits = packet.length() <= (self.mtu_to)(host, packet.destination.ip()).into();
        let sends = fits || !whole;
        if sends {
            self.sent.push((host, by, Packet { whole: fits, ..packet }));
        }
        sends
    }

    /// The client's datagram to the server.
    fn call(&mut self, payload: Vec<u8>) {
        self.call_from(0, payload);
    }

    /// The same from its port of that number.
    fn call_from(&mut self, number: u16, payload: Vec<u8>) {
        self.call_whole(number, payload, false);
    }

    /// The same, which is not to be cut up if it is to stay `whole`: false, and it is not sent, where it would have to be.
    fn call_whole(&mut self, number: u16, payload: Vec<u8>, whole: bool) -> bool {
        let (Some(own), Some(peer)) = (self.own, self.peer()) else { return true };
        let source = SocketAddr::new(own.into(), self.own_port + number);
        self.send(self.client, By::Application, Packet::udp(source, peer, payload), whole)
    }

    /// The server's datagram back to where one came from.
    fn answer(&mut self, ends: (SocketAddr, SocketAddr), payload: Vec<u8>) {
        self.answer_whole(ends, payload, false);
    }

    /// The same, as [`call_whole`](Self::call_whole).
    fn answer_whole(&mut self, (from, to): (SocketAddr, SocketAddr), payload: Vec<u8>, whole: bool) -> bool {
        self.send(self.server, By::Application, Packet::udp(to, from, payload), whole)
    }
}

/// An end of a connection.
#[derive(Clone, Copy)]
struct End {
    host: HostId,
    handle: SocketHandle,
}

impl End {
    fn socket<'a>(&self, ends: &'a mut Ends<'_>) -> &'a mut Socket<'static> {
        ends.stack(self.host).socket(self.handle)
    }

    fn is_over(&self, ends: &mut Ends<'_>) -> bool {
        matches!(self.socket(ends).state(), State::Closed | State::TimeWait)
    }

    /// Says the one word that there is on a control connection.
    fn says(&self, ends: &mut Ends<'_>) -> bool {
        self.socket(ends).send_slice(&[1]) == Ok(1)
    }

    /// Whether a word of the other end is there, which is taken.
    fn hears(&self, ends: &mut Ends<'_>) -> bool {
        self.socket(ends).recv_slice(&mut [0]) == Ok(1)
    }
}

/// The byte at `at` of whatever is transferred: a byte in a wrong place is noticed.
fn byte(at: u64) -> u8 {
    let at = at as u32;
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// Gives a socket as much as it takes of what follows `sent`, at most `most`, where each byte is `of` its place: how much.
fn feed(socket: &mut Socket<'_>, sent: u64, most: u64, of: impl Fn(u64) -> u8) -> u64 {
    let mut given = 0;
    while given < most && socket.can_send() {
        let fill = |room: &mut [u8]| {
            let length = room.len().min(usize::try_from(most - given).unwrap_or(usize::MAX));
            for (at, place) in (sent + given..).zip(&mut room[..length]) {
                *place = of(at);
            }
            (length, length as u64)
        };
        match socket.send(fill) {
            Ok(length) if length > 0 => given += length,
            _ => break,
        }
    }
    given
}

/// Takes all that a socket has, which follows `got`: how much, and how many bytes of it were not those `of` their places.
fn drain(socket: &mut Socket<'_>, got: u64, of: impl Fn(u64) -> u8) -> (u64, u64) {
    let (mut taken, mut wrong) = (0, 0);
    while socket.can_recv() {
        let take = |bytes: &mut [u8]| {
            // Counted so that the compiler makes vectors of it.
            let differs = |(is, at): (&u8, u64)| u32::from(*is != of(at));
            let differ: u32 = bytes.iter().zip(got + taken..).map(differs).sum();
            (bytes.len(), (bytes.len() as u64, u64::from(differ)))
        };
        match socket.recv(take) {
            Ok((length, differ)) if length > 0 => {
                taken += length;
                wrong += differ;
            }
            _ => break,
        }
    }
    (taken, wrong)
}

/// What each kind does.
pub(crate) trait Application {
    /// Something may have changed: acts, and says whether it did anything with a socket.
    fn act(&mut self, ends: &mut Ends<'_>) -> bool;

    /// Whether a datagram for one of its ports is for it.
    fn expects(&self, _: &Packet) -> bool {
        true
    }

    /// A datagram came to `host`, which is one of the two.
    fn take(&mut self, _: &mut Ends<'_>, _: HostId, _: &Packet) {}

    /// Whether anybody is at the server's port.
    fn listens(&self) -> bool {
        true
    }

    /// An ICMP error came to `host`, about a datagram that it sent.
    fn told(&mut self, _: &Ends<'_>, _: HostId, _: Why) {}

    /// Of its `client` and its server the host that is `gone` stopped, and the program there with it: whether the other one goes on.
    fn outlives(&mut self, _gone: HostId, _client: HostId) -> bool {
        false
    }

    /// When it wants to act next, whatever comes.
    fn wake(&self, now: Instant) -> Option<Instant>;

    /// Whether it has ended.
    fn has_ended(&self) -> bool;

    fn outcome(&self) -> Outcome;
}

/// A flow of the world.
pub(crate) struct Flow {
    pub(crate) client: HostId,
    pub(crate) server: HostId,
    /// The server's name.
    pub(crate) name: Fqdn,
    /// The server's port.
    pub(crate) port: u16,
    /// The client's ports.
    pub(crate) own_ports: std::ops::Range<u16>,
    /// The last question for the server's name.
    pub(crate) talk: Option<TalkId>,
    pub(crate) application: Box<dyn Application + Send>,
    pub(crate) wake: Option<Instant>,
    /// Its programs were ended.
    pub(crate) over: bool,
    /// The segments of its connection, where somebody wants to know.
    pub(crate) segments: Option<Segments>,
}

impl Flow {
    /// A flow whose client has ports behind those of the flow `before`.
    pub(crate) fn new(
        (client, server, name, port): (HostId, HostId, Fqdn, u16),
        task: Task,
        before: Option<&Self>,
        now: Instant,
    ) -> Self {
        let first = before.map_or(PORTS.start, |before| before.own_ports.end);
        let first = if first + task.ports() > PORTS.end { PORTS.start } else { first };
        let own_ports = first..first + task.ports();
        let segments = matches!(task, Task::Echo(_)).then(Segments::default);
        let application: Box<dyn Application + Send> = match task {
            Task::Transfer(transfer) => Box::new(transfer::Running::new(transfer, now)),
            Task::Stream(stream) => Box::new(stream::Running::new(stream, now)),
            Task::Page(page) => Box::new(page::Running::new(page, now)),
            Task::Probes(probes) => Box::new(probes::Running::new(probes, now)),
            Task::Datagrams(datagrams) => Box::new(datagrams::Running::new(datagrams, now)),
            Task::PingPong(messages) => Box::new(pingpong::Running::new(messages, now)),
            Task::Echo(echo) => Box::new(echo::Running::new(echo)),
            Task::Names(names) => Box::new(names::Running::new(names, now)),
        };
        let (talk, wake, over) = (None, None, false);
        Self { client, server, name, port, own_ports, talk, application, wake, over, segments }
    }

    /// Whether a datagram that came to `host` is for one of its applications.
    pub(crate) fn takes(&self, host: HostId, datagram: &Packet) -> bool {
        let port = datagram.destination.port();
        let is_its = (self.server == host && port == self.port && self.application.listens())
            || (self.client == host && self.own_ports.contains(&port));
        is_its && !self.over && !self.application.has_ended() && self.application.expects(datagram)
    }
}

/// How long an application waits for the address of a name.
const NAME: Duration = Duration::from_secs(10);

/// Datagrams that are sent at equal intervals.
#[derive(Clone, Copy)]
struct Pace {
    count: u32,
    interval: Duration,
}

impl Pace {
    /// When the one behind `sent` others is due, of those that began at `since`; none once all are sent.
    fn next(self, since: Option<Instant>, sent: u32) -> Option<Instant> {
        since.filter(|_| sent < self.count).map(|since| since + self.interval * sent)
    }

    /// When nothing is waited for any longer by who began at `begun` to ask for a name, and at `since` to send.
    fn limit(self, begun: Instant, since: Option<Instant>, patience: Duration) -> Instant {
        since.map_or(begun + NAME, |since| since + self.interval * self.count + patience)
    }
}

/// How long an application waits for what is late.
fn over(since: Instant, patience: Duration, now: Instant) -> bool {
    now >= since + patience
}
