//! The inside's part: two hosts that ask.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ntm_protocol::time::Instant;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use thiserror::Error;

use super::findings::{Dependent, Fault, Findings, Lifetime, allocation};
use super::responder::{Place, Responder, X1, X2, Y1};
use super::stun::{Body, Message, Request, TransactionId};
use crate::behaviour::{Axes, PortRange};

/// A question without an answer is asked again after this time: the way must be shorter.
pub const REPEAT: Duration = Duration::from_millis(25);
/// A question that must be answered and is not after this time ends the probe.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// So often a packet is sent that does not arrive, each time with a question behind it that is answered.
const ROUNDS: u32 = 3;
/// A router needs so many ports: most of the probe's sockets have a mapping at the same time, some have several.
pub const LEAST_PORTS: u32 = 64;
/// A mapping must live so long: it must outlast the questions about it.
pub const LEAST_TIMEOUT: Duration = Duration::from_millis(250);
/// So often a timeout is measured at most, where the machine is too late to see the mapping before its end.
const TIMINGS: u32 = 10;
/// A UDP timeout up to this one is waited for.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a probe is about.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How the router was declared. What is found out does not depend on it, only where it is looked for: ports, and a short timeout.
    pub declared: Axes,
    /// The two hosts inside.
    pub hosts: [Ipv4Addr; 2],
    /// The server outside.
    pub responder: Responder,
}

/// Why a router cannot be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unprobeable {
    /// Mappings of the probe itself would crowd each other out.
    #[error("a probe needs {LEAST_PORTS} ports, and it has {0}")]
    TooFewPorts(u32),
    /// Mappings would end while they are asked about.
    #[error("a probe needs mappings that live for {LEAST_TIMEOUT:?}, and its live for {0:?}")]
    TooShortTimeout(Duration),
}

/// Why a probe ended without findings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// A question that every NAT answers was not answered.
    #[error("{from} asked {to} and got no answer within {PATIENCE:?}")]
    Silent {
        /// The socket inside.
        from: SocketAddrV4,
        /// The one outside.
        to: SocketAddrV4,
    },
    /// What was meant for one socket came to another.
    #[error("what was meant for {meant} came to {got}")]
    Misled {
        /// The socket that should have got it.
        meant: SocketAddrV4,
        /// The one that got it.
        got: SocketAddrV4,
    },
}

/// A datagram that a prober sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// By which of [`Prober::sockets`].
    pub socket: usize,
    /// Where to.
    pub to: SocketAddrV4,
    /// What.
    pub bytes: Vec<u8>,
}

/// Two hosts that probe the router before them.
///
/// The driver opens [`sockets`](Self::sockets), then: [`handle_input`](Self::handle_input) and
/// [`handle_timeout`](Self::handle_timeout) at the instant that [`poll_timeout`](Self::poll_timeout) names, each followed by
/// [`poll_transmit`](Self::poll_transmit) until it is empty, until [`outcome`](Self::outcome) is there.
pub struct Prober {
    line: Line,
    script: Pin<Box<dyn Future<Output = Result<Findings, Broken>>>>,
    outcome: Option<Result<Findings, Broken>>,
}

impl Prober {
    /// Begins a probe. `seed` is all its entropy.
    pub fn new(setup: Setup, seed: [u8; 32], now: Instant) -> Result<Self, Unprobeable> {
        let Axes { ports, timeouts, .. } = setup.declared;
        if ports.size() < LEAST_PORTS {
            return Err(Unprobeable::TooFewPorts(ports.size()));
        }
        if timeouts.udp < LEAST_TIMEOUT {
            return Err(Unprobeable::TooShortTimeout(timeouts.udp));
        }
        let mut rng = ChaCha12Rng::from_seed(seed);
        let (roles, sockets) = Roles::choose(setup.hosts, ports, &mut rng);
        let line = Line(Rc::new(RefCell::new(State {
            now,
            sockets,
            rng,
            responder: setup.responder,
            outgoing: VecDeque::new(),
            asked: BTreeSet::new(),
            arrivals: Vec::new(),
            deadline: None,
        })));
        let script = Box::pin(play(line.clone(), roles, setup.declared));
        let mut prober = Self { line, script, outcome: None };
        prober.go_on();
        Ok(prober)
    }

    /// The addresses and ports of the sockets that it needs.
    pub fn sockets(&self) -> Vec<SocketAddrV4> {
        self.line.0.borrow().sockets.clone()
    }

    /// A datagram has come to a socket.
    pub fn handle_input(&mut self, socket: usize, from: SocketAddrV4, bytes: &[u8], now: Instant) {
        {
            let mut state = self.line.0.borrow_mut();
            state.now = now;
            let Ok(message) = Message::parse(bytes) else { return };
            if !state.asked.contains(&message.id) {
                return;
            }
            state.arrivals.push(Arrival { socket, from, message });
        }
        self.go_on();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.line.0.borrow_mut().now = now;
        self.go_on();
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.line.0.borrow_mut().outgoing.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.line.0.borrow().deadline
    }

    /// The end of the probe, once it is there.
    pub fn outcome(&self) -> Option<&Result<Findings, Broken>> {
        self.outcome.as_ref()
    }

    /// Whether nothing is to be sent.
    #[cfg(test)]
    pub(super) fn line_is_quiet(&self) -> bool {
        self.line.0.borrow().outgoing.is_empty()
    }

    fn go_on(&mut self) {
        if self.outcome.is_none()
            && let Poll::Ready(outcome) = self.script.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.outcome = Some(outcome);
        }
    }
}

/// What each socket is for, by its index.
struct Roles {
    /// It speaks to the first place alone, and has others sent to.
    helper: usize,
    mapping: usize,
    filtering: usize,
    /// Of both hosts, on one port.
    shared: [usize; 2],
    /// Its port is sent to before it speaks.
    early: usize,
    /// It is sent to by a peer before it speaks to that peer.
    later: usize,
    /// Of both hosts.
    turned: [usize; 2],
    timed: usize,
    /// The ends of the range, what is beyond them, and some between.
    samples: Range<usize>,
}

impl Roles {
    /// So many sockets show only how ports are chosen.
    const SAMPLES: usize = 10;

    /// All inner ports differ, but that of `shared`.
    fn choose([a, b]: [Ipv4Addr; 2], range: PortRange, rng: &mut ChaCha12Rng) -> (Self, Vec<SocketAddrV4>) {
        let ends = [
            Some(range.first()),
            Some(range.last()),
            range.first().checked_sub(1).filter(|port| *port > 0),
            range.last().checked_add(1),
        ];
        let mut taken: BTreeSet<u16> = ends.into_iter().flatten().collect();
        let mut fresh = || loop {
            let offset = (u64::from(rng.next_u32()) * u64::from(range.size())) >> 32;
            let port = range.first() + u16::try_from(offset).unwrap_or(0);
            if taken.insert(port) {
                return port;
            }
        };
        let mut sockets = Vec::new();
        let mut socket = |host, port| {
            sockets.push(SocketAddrV4::new(host, port));
            sockets.len() - 1
        };
        let one_port = fresh();
        let shared = [socket(a, one_port), socket(b, one_port)];
        let (helper, mapping, filtering) = (socket(b, fresh()), socket(a, fresh()), socket(a, fresh()));
        let (early, later, timed) = (socket(a, fresh()), socket(a, fresh()), socket(a, fresh()));
        let turned = [socket(a, fresh()), socket(b, fresh())];
        let begin = turned[1] + 1;
        // What is beyond the range is mapped at random and could take another's port, so it comes last.
        let (inside, beyond): (Vec<u16>, Vec<u16>) =
            ends.into_iter().flatten().partition(|port| range.contains(*port));
        for port in inside.iter().copied() {
            socket(a, port);
        }
        for _ in inside.len() + beyond.len()..Self::SAMPLES {
            socket(b, fresh());
        }
        for port in beyond {
            socket(b, port);
        }
        let samples = begin..begin + Self::SAMPLES;
        (Self { helper, mapping, filtering, shared, early, later, turned, timed, samples }, sockets)
    }

    /// Those that speak first, before any of them has a second mapping that could take another's port.
    fn fresh(&self) -> impl Iterator<Item = usize> {
        let [a, _] = self.shared;
        let [from, to] = self.turned;
        [a, self.helper, self.mapping, self.filtering, self.later, self.timed, from, to]
            .into_iter()
            .chain(self.samples.clone())
    }
}

/// The whole probe, from the first question to the last.
async fn play(line: Line, roles: Roles, declared: Axes) -> Result<Findings, Broken> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();

    let mut firsts = Vec::new();
    for socket in roles.fresh() {
        let mapped = line.ask(socket, X1).await?;
        if !seen.insert(mapped) {
            faults.push(Fault::SharedPort(mapped));
        }
        firsts.push((line.socket(socket).port(), mapped.port()));
    }
    let allocation = allocation(&firsts, declared.ports);

    // The port that a socket would keep is sent to before the socket speaks; if chance has given it away, that shows nothing.
    let own = line.socket(roles.early).port();
    if firsts.iter().all(|(_, outer)| *outer != own) {
        if line.attempt(roles.helper, To::Place(X1), to_port(own)).await?.is_some() {
            faults.push(Fault::Unmapped(own));
        }
        let mapped = line.ask(roles.early, X1).await?;
        if allocation == crate::Allocation::Preserve && mapped.port() != own {
            faults.push(Fault::Moved(SocketAddrV4::new(*mapped.ip(), own), mapped));
        }
        seen.insert(mapped);
    }

    // Before anybody has sent to another place than the first.
    line.ask(roles.filtering, X1).await?;
    let filtering = Dependent {
        other_port: line.answered(roles.filtering, X1, CHANGE_PORT).await?,
        other_address: line.answered(roles.filtering, X1, CHANGE_ADDRESS).await?,
    };

    let [a, b] = roles.shared;
    let of_b = line.ask(b, Y1).await?;
    let is_shared = !seen.insert(of_b);
    if is_shared {
        faults.push(Fault::SharedPort(of_b));
    }

    let first = line.ask(roles.mapping, X1).await?;
    let again = line.ask(roles.mapping, X1).await?;
    if again != first {
        faults.push(Fault::Unstable(first, again));
    }
    let (at_x2, at_y1) = (line.ask(roles.mapping, X2).await?, line.ask(roles.mapping, Y1).await?);
    let mapping = Dependent { other_port: at_x2 == first, other_address: at_y1 == first };
    seen.extend([first, at_x2, at_y1]);

    // A has sent to the first address, B to the second: neither may let the other's partner in.
    if !filtering.other_address && !is_shared {
        for (socket, place) in [(a, X1), (b, Y1)] {
            let mapped = line.ask(socket, place).await?;
            if line.answered(socket, place, CHANGE_ADDRESS).await? {
                faults.push(Fault::CrossOpened(mapped));
            }
        }
    }

    let before = line.ask(roles.later, X1).await?;
    line.answered(roles.later, X1, CHANGE_ADDRESS).await?;
    let after = line.ask(roles.later, Y1).await?;
    if mapping.other_address && before != after {
        faults.push(Fault::Moved(before, after));
    }
    seen.extend([before, after]);

    let hairpin = if mapping.other_address || filtering.other_address {
        let [from, to] = roles.turned;
        let (from_seen, to_seen) = (line.ask(from, X1).await?, line.ask(to, X1).await?);
        // It must have sent there to let it in.
        line.attempt(to, To::Outer(from_seen), Request::default()).await?;
        let turned = line.attempt(from, To::Outer(to_seen), Request::default()).await?;
        if let Some(arrival) = turned {
            if arrival.socket != to {
                return Err(Broken::Misled { meant: line.socket(to), got: line.socket(arrival.socket) });
            }
            if arrival.from.ip() != to_seen.ip() {
                faults.push(Fault::InnerAddressShown(arrival.from));
            }
        }
        Some(turned.is_some())
    } else {
        None
    };

    let external = *first.ip();
    if let Some(other) = seen.iter().find(|mapped| *mapped.ip() != external) {
        faults.push(Fault::TwoAddresses(external, *other.ip()));
    }
    let ports = seen.iter().map(|mapped| mapped.port());
    let ports = ports.clone().min().zip(ports.max()).and_then(|(least, most)| PortRange::new(least, most));
    let ports = ports.unwrap_or(declared.ports);

    let timeout = declared.timeouts.udp;
    let lifetime = if timeout <= LONGEST_WAIT { Some(time(&line, &roles, timeout).await?) } else { None };
    Ok(Findings { external, mapping, filtering, hairpin, allocation, ports, lifetime, faults, firsts })
}

/// Lets a mapping alone, and sees whether it is there before `timeout`, and not after.
async fn time(line: &Line, roles: &Roles, timeout: Duration) -> Result<Lifetime, Broken> {
    for _ in 0..TIMINGS {
        let begin = line.now();
        let mapped = line.ask(roles.timed, X1).await?;
        let renewed = line.now();
        let reaches = async || {
            let arrival = line.attempt(roles.helper, To::Place(X1), to_port(mapped.port())).await?;
            Ok(arrival.is_some_and(|arrival| arrival.socket == roles.timed))
        };
        line.sleep(begin + timeout * 4 / 5).await;
        if reaches().await? {
            line.sleep(renewed + timeout * 5 / 4).await;
            return Ok(if reaches().await? { Lifetime::Longer } else { Lifetime::AsDeclared });
        }
        if line.now() < begin + timeout {
            break;
        }
        // The machine was so late that the mapping may have ended in its time.
    }
    Ok(Lifetime::Shorter)
}

const CHANGE_PORT: Request = Request { change_address: false, change_port: true, response_port: None };
const CHANGE_ADDRESS: Request = Request { change_address: true, change_port: false, response_port: None };

fn to_port(port: u16) -> Request {
    Request { response_port: Some(port), ..Request::default() }
}

/// Where a packet is sent.
#[derive(Clone, Copy)]
enum To {
    Place(Place),
    /// An outer address of a host inside.
    Outer(SocketAddrV4),
}

/// A message that has come to a socket.
#[derive(Clone, Copy)]
struct Arrival {
    socket: usize,
    from: SocketAddrV4,
    message: Message,
}

/// What the script and the face of the machine share.
struct State {
    now: Instant,
    sockets: Vec<SocketAddrV4>,
    rng: ChaCha12Rng,
    responder: Responder,
    outgoing: VecDeque<Transmit>,
    /// The questions of the present step; what is about others is late, and of no interest.
    asked: BTreeSet<TransactionId>,
    arrivals: Vec<Arrival>,
    deadline: Option<Instant>,
}

/// The script's view of the world.
#[derive(Clone)]
struct Line(Rc<RefCell<State>>);

impl Line {
    fn now(&self) -> Instant {
        self.0.borrow().now
    }

    fn socket(&self, socket: usize) -> SocketAddrV4 {
        self.0.borrow().sockets[socket]
    }

    /// Asks until the answer comes: how `place` sees the socket.
    async fn ask(&self, socket: usize, place: Place) -> Result<SocketAddrV4, Broken> {
        self.begin();
        let end = self.now() + PATIENCE;
        while self.now() < end {
            self.send(socket, To::Place(place), Request::default());
            let answer = |arrival: &Arrival| match arrival.message.body {
                Body::Response(response) => Some((arrival.socket, response.mapped)),
                Body::Request(_) => None,
            };
            if let Some((got, mapped)) = self.wait(REPEAT, answer).await {
                if got != socket {
                    return Err(Broken::Misled { meant: self.socket(socket), got: self.socket(got) });
                }
                return Ok(mapped);
            }
        }
        Err(self.silent(socket, place))
    }

    /// Whether the answer to such a request at `place` reaches the socket.
    async fn answered(&self, socket: usize, place: Place, request: Request) -> Result<bool, Broken> {
        match self.attempt(socket, To::Place(place), request).await? {
            Some(arrival) if arrival.socket != socket => {
                Err(Broken::Misled { meant: self.socket(socket), got: self.socket(arrival.socket) })
            }
            arrival => Ok(arrival.is_some()),
        }
    }

    /// Sends a request that, or whose answer, may arrive somewhere or not, and behind it each time a question that must be answered. What
    /// has arrived.
    async fn attempt(&self, socket: usize, to: To, request: Request) -> Result<Option<Arrival>, Broken> {
        let place = match to {
            To::Place(place) => place,
            To::Outer(_) => X1,
        };
        self.begin();
        let mut tried = BTreeSet::new();
        let end = self.now() + PATIENCE;
        let mut rounds = 0;
        while rounds < ROUNDS {
            if self.now() >= end {
                return Err(self.silent(socket, place));
            }
            tried.insert(self.send(socket, to, request));
            let behind = self.send(socket, To::Place(place), Request::default());
            let found = |arrival: &Arrival| {
                let of_interest = tried.contains(&arrival.message.id) || arrival.message.id == behind;
                of_interest.then_some(*arrival)
            };
            match self.wait(REPEAT, found).await {
                Some(arrival) if tried.contains(&arrival.message.id) => return Ok(Some(arrival)),
                Some(_) => rounds += 1,
                None => {}
            }
        }
        Ok(None)
    }

    fn silent(&self, socket: usize, place: Place) -> Broken {
        Broken::Silent { from: self.socket(socket), to: self.0.borrow().responder.at(place) }
    }

    /// Forgets what the step before has asked.
    fn begin(&self) {
        let mut state = self.0.borrow_mut();
        state.asked.clear();
        state.arrivals.clear();
    }

    fn send(&self, socket: usize, to: To, request: Request) -> TransactionId {
        let mut state = self.0.borrow_mut();
        let mut id = TransactionId::default();
        state.rng.fill_bytes(&mut id);
        state.asked.insert(id);
        let to = match to {
            To::Place(place) => state.responder.at(place),
            To::Outer(outer) => outer,
        };
        let bytes = Message { id, body: Body::Request(request) }.emit();
        state.outgoing.push_back(Transmit { socket, to, bytes });
        id
    }

    /// The first arrival that `found` takes, of those that are there and those of the time `patience`.
    async fn wait<T>(&self, patience: Duration, found: impl Fn(&Arrival) -> Option<T>) -> Option<T> {
        let until = self.now() + patience;
        poll_fn(|_| {
            let mut state = self.0.borrow_mut();
            let here = state.arrivals.iter().find_map(&found);
            let over = here.is_some() || state.now >= until;
            state.deadline = (!over).then_some(until);
            if over { Poll::Ready(here) } else { Poll::Pending }
        })
        .await
    }

    async fn sleep(&self, until: Instant) {
        self.wait(until.since(self.now()), |_| None::<()>).await;
    }
}
