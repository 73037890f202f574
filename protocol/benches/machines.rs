//! What control messages cost: their encoding alone, sealed and opened, and the role machines that take and answer them.
//!
//! `cargo bench -p ntm-protocol --bench machines`. Only ratios within one run mean anything on a machine that does other things besides.

use std::cell::RefCell;
use std::net::SocketAddr;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ntm_protocol::addr::{Fqdn, NodeId, PathId, Vip};
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::coordinator::store::WriteOutcome;
use ntm_protocol::coordinator::{Acquaintance, Coordinator, CoordinatorConfig};
use ntm_protocol::crypto::{Entropy, SharedKey, Suite};
use ntm_protocol::relay::{Relay, RelayConfig};
use ntm_protocol::session::{Session, Transmit};
use ntm_protocol::terminal::{Handover, Terminal, TerminalConfig};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{
    DirectionRefusal, DirectionRequest, DnsError, Epoch, Header, KeepAlive, Kind, Message, NodeKind,
    PathKeepAlive, RelayDirection, RelayOrder, RequestId, Role, Route, RouteDirection, TunnelRequest, Writer,
};
use rand_core::Rng;

fn main() {
    divan::main();
}

const PATH: PathId = PathId([5; 16]);

fn name(text: &str) -> Fqdn {
    Fqdn::new(text).expect("a name")
}

fn key(of: u8) -> SharedKey {
    SharedKey::new([of; 32])
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 4330))
}

fn vip(n: u8) -> Vip {
    Vip([198, 18, 0, n].into())
}

fn keep_alive() -> Message {
    KeepAlive { request: RequestId(7), load: None, rtts: Default::default() }.into()
}

/// CN is called, and is to wait for the caller.
fn route_direction() -> Message {
    RouteDirection {
        request: RequestId(9),
        answers: None,
        target: NodeId::of(&name("mn.dc.test")),
        life: Entropy::new(SEED).next_u32(),
        seen: at(1),
        path: PATH,
        epoch: Epoch::new(0),
        role: Role::Responder,
        peer: name("caller.dc.test"),
        peer_vip: vip(9),
        path_key: Some(key(9)),
        suite: Suite::Aes128Cbc,
        route: Route::Direct { addresses: [at(9)].into_iter().collect(), start: false },
    }
    .into()
}

fn relay_direction() -> Message {
    let order = RelayOrder::Switch {
        initiator_key: key(6),
        responder_key: key(7),
        initiator: vip(1),
        responder: vip(2),
    };
    RelayDirection { request: RequestId(8), path: PATH, epoch: Epoch::new(0), order }.into()
}

/// One message of each shape: from the shortest to the longest.
fn messages() -> Vec<Message> {
    vec![
        PathKeepAlive { request: RequestId(1) }.into(),
        DirectionRefusal { request: RequestId(1), error: DnsError::NxDomain }.into(),
        keep_alive(),
        DirectionRequest { request: RequestId(1), fqdn: name("cn.dc.test"), renewal: None, avoid: None }
            .into(),
        TunnelRequest { request: RequestId(1), moved: false, common_key: Some(key(1)) }.into(),
        relay_direction(),
        route_direction(),
    ]
}

/// A message, shown by its kind.
struct Sample(Message);

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.kind().name())
    }
}

fn samples() -> impl Iterator<Item = Sample> {
    messages().into_iter().map(Sample)
}

#[divan::bench(args = samples())]
fn encode(bencher: Bencher, sample: &Sample) {
    bencher.counter(ItemsCount::new(1usize)).bench(|| {
        let mut to = Writer::default();
        black_box(&sample.0).encode(&mut to);
        to
    });
}

#[divan::bench(args = samples())]
fn decode(bencher: Bencher, sample: &Sample) {
    let mut to = Writer::default();
    sample.0.encode(&mut to);
    let (kind, body) = (sample.0.kind(), to.finish());
    bencher.counter(ItemsCount::new(1usize)).bench(|| Message::decode(kind, black_box(&body)).is_ok());
}

/// One end of a control conversation.
struct End {
    session: Session,
    rng: Entropy,
}

impl End {
    fn new(shared: &SharedKey, local: &str, peer: &str) -> Self {
        // Above all that a machine in its place used.
        let first = 1 << 50;
        let session = Session::new(shared, NodeId::of(&name(local)), NodeId::of(&name(peer)), first);
        Self { session, rng: Entropy::new([3; 32]) }
    }

    fn seal(&mut self, message: &Message) -> Vec<u8> {
        self.session.seal(message, &mut self.rng).0
    }
}

#[divan::bench(args = samples())]
fn seal(bencher: Bencher, sample: &Sample) {
    let mut end = End::new(&key(1), "a.test", "b.test");
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| end.seal(black_box(&sample.0)));
}

#[divan::bench(args = samples())]
fn open(bencher: Bencher, sample: &Sample) {
    let datagram = End::new(&key(1), "a.test", "b.test").seal(&sample.0);
    let other = End::new(&key(1), "b.test", "a.test");
    let header = Header::parse(&datagram).expect("a header");
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| other.session.open(&header, black_box(&datagram)).is_ok());
}

const DC: &str = "ns.dc.test";
/// The terminal's, of which it draws what tells its lives apart before anything else.
const SEED: [u8; 32] = [2; 32];
const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// A coordinator, and a terminal and a relay that are registered there.
struct World {
    coordinator: Coordinator,
    terminal: Terminal,
    relay: Relay,
}

impl World {
    fn new() -> Self {
        let lifetime = Duration::from_secs(300);
        let friend = |fqdn, kind, of| Acquaintance { fqdn: name(fqdn), kind, key: key(of), vips: None };
        let coordinator = Coordinator::new(CoordinatorConfig {
            fqdn: name(DC),
            addresses: [at(1)].into_iter().collect(),
            zone: name("dc.test"),
            vips: "198.18.0.0/16".parse().expect("a range"),
            keep_alive: Duration::from_secs(5),
            suite: Suite::Aes128Cbc,
            selection: Selection::default(),
            patience: Duration::from_secs(4),
            acquaintances: vec![
                friend("mn.dc.test", NodeKind::Terminal, 2),
                friend("rs.dc.test", NodeKind::Relay, 3),
            ],
            nodes: Vec::new(),
            generals: Vec::new(),
            seed: [1; 32],
            first_sequence: 1,
        });
        let mut terminal = Terminal::new(TerminalConfig {
            fqdn: name("mn.dc.test"),
            port: 4330,
            coordinator: name(DC),
            coordinator_addresses: [at(1)].into_iter().collect(),
            key: key(2),
            patience: Duration::from_secs(4),
            lifetime,
            handover: Handover::Thesis,
            seed: SEED,
            first_sequence: 1,
        });
        terminal.handle_addresses(&[at(2).ip()], NOW);
        let relay = RelayConfig {
            fqdn: name("rs.dc.test"),
            addresses: [at(3)].into_iter().collect(),
            coordinators: vec![(name(DC), [at(1)].into_iter().collect(), key(3))],
            lifetime,
            capacity: 16,
            seed: [3; 32],
            first_sequence: 1,
        };
        let mut world = Self { coordinator, terminal, relay: Relay::new(relay, NOW) };
        while world.pass() {}
        assert!(world.terminal.is_registered() && world.relay.is_registered());
        world
    }

    /// Whether anything was under way.
    fn pass(&mut self) -> bool {
        let Self { coordinator, terminal, relay } = self;
        let mut all: Vec<(u8, Transmit)> = Vec::new();
        all.extend(std::iter::from_fn(|| coordinator.poll_transmit()).map(|it| (1, it)));
        all.extend(std::iter::from_fn(|| terminal.poll_transmit()).map(|it| (2, it)));
        all.extend(std::iter::from_fn(|| relay.poll_transmit()).map(|it| (3, it)));
        for (from, Transmit { to, bytes }) in &all {
            match to {
                to if *to == at(1) => coordinator.handle_datagram(at(*from), bytes, NOW),
                to if *to == at(2) => terminal.handle_datagram(at(*from), bytes, NOW),
                _ => relay.handle_datagram(at(*from), bytes, NOW),
            }
            while let Some((id, _)) = coordinator.poll_write() {
                coordinator.handle_written(id, WriteOutcome::Stored, NOW);
            }
        }
        !all.is_empty()
    }
}

/// Each message is answered by one.
fn answered(
    bencher: Bencher,
    peer: End,
    message: &Message,
    answer: Kind,
    mut handle: impl FnMut(&[u8]) -> Option<Transmit>,
) {
    let peer = RefCell::new(peer);
    bencher
        .counter(ItemsCount::new(1usize))
        .with_inputs(|| peer.borrow_mut().seal(message))
        .bench_local_values(|datagram| {
            let transmit = handle(&datagram).expect("an answer");
            assert_eq!(Header::parse(&transmit.bytes).map(|header| header.kind), Ok(answer));
        });
}

/// A DC takes a terminal's Keep-alive.
#[divan::bench]
fn coordinator(bencher: Bencher) {
    let mut dc = World::new().coordinator;
    answered(
        bencher,
        End::new(&key(2), "mn.dc.test", DC),
        &keep_alive(),
        Kind::KeepAliveAnswer,
        |datagram| {
            dc.handle_datagram(at(2), datagram, NOW);
            while dc.poll_observation().is_some() {}
            dc.poll_transmit()
        },
    );
}

/// A terminal takes a Route Direction that is repeated.
#[divan::bench]
fn terminal(bencher: Bencher) {
    let mut mn = World::new().terminal;
    answered(
        bencher,
        End::new(&key(2), DC, "mn.dc.test"),
        &route_direction(),
        Kind::RouteResponse,
        |datagram| {
            mn.handle_datagram(at(1), datagram, NOW);
            while mn.poll_observation().is_some() {}
            while mn.poll_event().is_some() {}
            mn.poll_transmit()
        },
    );
}

/// A relay takes a Relay Direction that is repeated.
#[divan::bench]
fn relay(bencher: Bencher) {
    let mut rs = World::new().relay;
    answered(
        bencher,
        End::new(&key(3), DC, "rs.dc.test"),
        &relay_direction(),
        Kind::RelayResponse,
        |datagram| {
            rs.handle_datagram(at(1), datagram, NOW);
            while rs.poll_observation().is_some() {}
            while rs.poll_event().is_some() {}
            rs.poll_transmit()
        },
    );
}
