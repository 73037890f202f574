//! Applications with two ends: transfers and pages over real TCP, datagrams and probes over UDP.
//!
//! Each is a machine: the world tells it the address that the name has, what datagrams came, and lets it act whenever its host's TCP has changed
//! or its own time has come.

mod datagrams;
mod page;
mod probes;
mod transfer;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ntm_protocol::time::{Duration, Instant};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use crate::HostId;
use crate::packet::{Packet, Protocol};
use crate::stack::Stack;
use crate::talk::TalkId;

pub use datagrams::{Datagrams, Exchanged};
pub use page::{Fetched, Page};
pub use probes::{Probed, Probes, Row};
pub use transfer::{Transfer, Transferred};

/// Names a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub(crate) usize);

/// What a flow is to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Task {
    /// As much as goes, or at a rate.
    Transfer(Transfer),
    /// A page.
    Page(Page),
    /// Numbered and timed datagrams in both directions.
    Probes(Probes),
    /// Datagrams, each answered by one.
    Datagrams(Datagrams),
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
}

/// The first port of flows' clients; each has ports of its own.
const FIRST_PORT: u16 = 45_000;
/// How many ports a client has.
const PORTS: u16 = 2;

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
    pub(crate) stacks: &'a mut BTreeMap<HostId, Stack>,
    /// Datagrams to send, in order, each from its host.
    pub(crate) sent: Vec<(HostId, Packet)>,
}

impl Ends<'_> {
    fn peer(&self) -> Option<SocketAddrV4> {
        self.peer.map(|peer| SocketAddrV4::new(peer, self.port))
    }

    fn stack(&mut self, host: HostId) -> &mut Stack {
        self.stacks.get_mut(&host).expect("hosts of flows over TCP have a stack")
    }

    /// The client's datagram to the server.
    fn call(&mut self, payload: Vec<u8>) {
        if let (Some(own), Some(destination)) = (self.own, self.peer()) {
            let source = SocketAddrV4::new(own, self.own_port);
            self.sent.push((self.client, Packet { protocol: Protocol::Udp, source, destination, payload }));
        }
    }

    /// The server's datagram back to where one came from.
    fn answer(&mut self, (from, to): (SocketAddrV4, SocketAddrV4), payload: Vec<u8>) {
        self.sent
            .push((self.server, Packet { protocol: Protocol::Udp, source: to, destination: from, payload }));
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
}

/// The byte at `at` of whatever is transferred: a byte in a wrong place is noticed.
fn byte(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// Gives a socket as much as it takes of what follows `sent`, at most `most`: how much.
fn feed(socket: &mut Socket<'_>, sent: u64, most: u64) -> u64 {
    let mut given = 0;
    while given < most && socket.can_send() {
        let fill = |room: &mut [u8]| {
            let length = room.len().min(usize::try_from(most - given).unwrap_or(usize::MAX));
            for (at, place) in (sent + given..).zip(&mut room[..length]) {
                *place = byte(at);
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

/// Takes all that a socket has, which follows `got`: how much, and how many bytes of it were wrong.
fn drain(socket: &mut Socket<'_>, got: u64) -> (u64, u64) {
    let (mut taken, mut wrong) = (0, 0);
    while socket.can_recv() {
        let take = |bytes: &mut [u8]| {
            let differ = bytes.iter().zip(got + taken..).filter(|(is, at)| **is != byte(*at)).count();
            (bytes.len(), (bytes.len() as u64, differ as u64))
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

    /// A datagram came to `host`, which is one of the two.
    fn take(&mut self, _: &mut Ends<'_>, _: HostId, _: &Packet) {}

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
    pub(crate) port: u16,
    /// The question for the server's name.
    pub(crate) talk: TalkId,
    pub(crate) application: Box<dyn Application + Send>,
    pub(crate) wake: Option<Instant>,
    /// Its programs were ended.
    pub(crate) over: bool,
}

impl Flow {
    pub(crate) fn new(
        (client, server, port): (HostId, HostId, u16),
        talk: TalkId,
        task: Task,
        now: Instant,
    ) -> Self {
        let application: Box<dyn Application + Send> = match task {
            Task::Transfer(transfer) => Box::new(transfer::Running::new(transfer, now)),
            Task::Page(page) => Box::new(page::Running::new(page, now)),
            Task::Probes(probes) => Box::new(probes::Running::new(probes, now)),
            Task::Datagrams(datagrams) => Box::new(datagrams::Running::new(datagrams, now)),
        };
        Self { client, server, port, talk, application, wake: None, over: false }
    }
}

/// The client's first port in the flow `id`.
pub(crate) fn own_port(id: FlowId) -> u16 {
    FIRST_PORT + (id.0 % 5000) as u16 * PORTS
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
