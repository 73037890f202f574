//! The world: who is in it, what happens next, and what was observed.

mod ahead;
mod build;
mod flows;
mod look;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ntm_nat::{Forward, ForwardError};
use ntm_protocol::addr::{Fqdn, NodeId};
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::crypto::{SharedKey, Suite};
use ntm_protocol::observe::{Observation, What};
use ntm_protocol::terminal::{Handover, QueryId};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{Header, Kind};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::HostId;
use crate::capture::{Captured, CapturedOutside};
use crate::clock::Clock;
use crate::dns::Dns;
use crate::flow::{Flow, FlowId};
use crate::host::{Attached, Host, Interface, Machine, Output};
use crate::impair::Impairment;
use crate::link::Link;
use crate::network::Networks;
use crate::packet::{Packet, Protocol};
use crate::queue::Queue;
use crate::stack::Stack;
use crate::store::Store;
use crate::talk::{Talk, TalkId};
use run::Event;

/// What all nodes are configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two Keep-alives.
    pub keep_alive: Duration,
    /// How long an application's query may wait.
    pub patience: Duration,
    /// How long a DC's negotiation may take.
    pub negotiation: Duration,
    /// How long a path and a relay's entry stay that nobody uses.
    pub lifetime: Duration,
    /// What terminals do on a handover.
    pub handover: Handover,
    /// The most entries of a relay.
    pub capacity: usize,
    /// The suite of data packets.
    pub suite: Suite,
    /// The longest packet of a terminal's TCP, in bytes.
    pub mtu: usize,
    /// How a DC picks a relay.
    pub selection: Selection,
    /// Whether DCs are told each other's virtual ranges by their configurations.
    pub ranges_known: bool,
    /// What a DC's write takes until it is durable, and again until the DC knows.
    pub write: Duration,
    /// What a relay's machine takes to add a translation.
    pub translate: Duration,
    /// Whether whoever sends to a neighbour for the first time has to find it, which takes a round trip, as on Ethernet.
    pub neighbours: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            negotiation: Duration::from_secs(8),
            lifetime: Duration::from_secs(300),
            handover: Handover::default(),
            capacity: 1000,
            suite: Suite::Aes128Cbc,
            mtu: 1424,
            selection: Selection::Best,
            ranges_known: true,
            write: Duration::from_micros(500),
            translate: Duration::from_micros(300),
            neighbours: false,
        }
    }
}

/// A datagram that came to a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// When.
    pub at: Instant,
    /// To whom.
    pub host: HostId,
    /// From where.
    pub from: SocketAddr,
    /// The address and port that it came to.
    pub to: SocketAddr,
    /// What it was.
    pub bytes: Vec<u8>,
}

/// What a machine did with a datagram that was put before it by [`World::inject`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reaction {
    /// How many inputs it refused.
    pub refused: u64,
    /// The kinds of what it sent.
    pub sent: Vec<Kind>,
    /// How many events it emitted.
    pub events: usize,
    /// How many packets it handed to applications.
    pub delivered: usize,
    /// What it observed.
    pub observations: Vec<What>,
    /// Whether [`World::state`] is another now.
    pub changed: bool,
}

/// Everything there is.
pub struct World {
    /// What nodes are configured with at their next start.
    pub settings: Settings,
    /// The DNS.
    pub dns: Dns,
    pub(crate) now: Instant,
    queue: Queue<Event>,
    rng: ChaCha12Rng,
    pub(crate) networks: Networks,
    hosts: Vec<Host>,
    talks: Vec<Talk>,
    flows: Vec<Flow>,
    /// The flows of which a host is an end, in their order.
    flows_at: BTreeMap<HostId, Vec<FlowId>>,
    /// The same by the ports of their ends.
    flows_by_port: BTreeMap<(HostId, u16), Vec<FlowId>>,
    /// When flows want to act, by their clients.
    due: BTreeSet<(HostId, Instant, FlowId)>,
    /// The flows whose segments somebody wants to know, by the ports of their ends.
    noted: BTreeMap<u16, Vec<FlowId>>,
    /// The TCP of hosts that have flows over it.
    stacks: BTreeMap<HostId, Stack>,
    /// The longest packet that a host sends to an address, in bytes, where an ICMP error has told it so.
    mtus: BTreeMap<(HostId, IpAddr), u16>,
    /// What was observed, unless nobody wants to know.
    trace: Option<Vec<Observation>>,
    recording: Option<Vec<Recorded>>,
    pub(crate) captures: Option<Vec<Captured>>,
    pub(crate) captures_outside: Option<Vec<CapturedOutside>>,
    seed: u64,
    events: u64,
    /// How often applications did something, or something came to one.
    progress: u64,
    /// How often a NAT turned a datagram back into the network that it came from.
    hairpins: u64,
    /// How often a machine was woken at this very instant.
    wakes: u32,
}

impl World {
    /// An empty world. Equal seeds and equal calls give equal traces.
    pub fn new(seed: u64) -> Self {
        Self {
            settings: Settings::default(),
            dns: Dns::default(),
            now: Instant::ZERO,
            queue: Queue::default(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            networks: Networks::default(),
            hosts: Vec::new(),
            talks: Vec::new(),
            flows: Vec::new(),
            flows_at: BTreeMap::new(),
            flows_by_port: BTreeMap::new(),
            due: BTreeSet::new(),
            noted: BTreeMap::new(),
            stacks: BTreeMap::new(),
            mtus: BTreeMap::new(),
            trace: Some(Vec::new()),
            recording: None,
            captures: None,
            captures_outside: None,
            seed,
            events: 0,
            progress: 0,
            hairpins: 0,
            wakes: 0,
        }
    }

    // Acting

    /// Starts everybody, in the order in which they were added.
    pub fn start_all(&mut self) {
        (0..self.hosts.len()).for_each(|host| self.start(HostId(host)));
    }

    /// Starts a host with what its disk kept.
    pub fn start(&mut self, id: HostId) {
        let (seed, own, world_seed) = (self.bytes(), self.hosts[id.0].fqdn.clone(), self.seed);
        let host = &mut self.hosts[id.0];
        host.start(&self.settings, seed, |peer| shared_key(world_seed, &own, peer), self.now);
        if self.trace.is_none() {
            host.close_journal();
        }
        self.settle(id, Output::default());
    }

    /// A host that is not started yet has a clock of its own.
    pub fn set_clock(&mut self, id: HostId, clock: Clock) {
        self.hosts[id.0].clock = clock;
    }

    /// Stops a host as `kill -9` does: what is not in its store is lost.
    pub fn crash(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        (host.machine, host.wake, host.writing) = (Machine::Off, None, 0);
    }

    /// A host that is stopped loses its disk: records, and the count that its sequence numbers go on from.
    pub fn lose_disk(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        (host.store, host.counted) = (Store::default(), 0);
    }

    /// A host leaves where it is and is at `interfaces` from now on, the preferred first.
    pub fn move_to(&mut self, id: HostId, interfaces: &[Interface]) {
        // As netlink says it: first the old addresses go. The new network's may be the same: home networks are alike.
        self.set_interfaces(id, &[]);
        if !interfaces.is_empty() {
            self.set_interfaces(id, interfaces);
        }
    }

    /// A host's interfaces that are up are these from now on, the preferred first, and it hears of it at once. What is under way over those that
    /// stay goes on.
    pub fn set_interfaces(&mut self, id: HostId, interfaces: &[Interface]) {
        self.attach_interfaces(id, interfaces);
        self.hear_of_interfaces(id);
    }

    /// A host's interfaces that are up are these from now on, and it sends by the first; its machine does not know it until it
    /// [hears](Self::hear_of_interfaces) of it, as the word of a kernel takes a moment.
    pub fn attach_interfaces(&mut self, id: HostId, interfaces: &[Interface]) {
        let old = std::mem::take(&mut self.hosts[id.0].interfaces);
        let is_same =
            |one: &Attached, other: &Interface| (one.network, one.address) == (other.network, other.address);
        for gone in old.iter().filter(|old| !interfaces.iter().any(|new| is_same(old, new))) {
            self.networks.detach(gone.network, gone.address);
        }
        let mut attached = Vec::with_capacity(interfaces.len());
        for new in interfaces {
            attached.push(match old.iter().find(|old| is_same(old, new)) {
                Some(old) => {
                    self.networks.wire(old.wire).set(&new.link);
                    *old
                }
                None => self.attach(id, new),
            });
        }
        self.hosts[id.0].interfaces = attached;
        self.readdress_stack(id);
    }

    /// A host hears which interfaces it has.
    pub fn hear_of_interfaces(&mut self, id: HostId) {
        let mut output = Output::default();
        self.hosts[id.0].hear(self.now, &mut output);
        self.settle(id, output);
    }

    /// The link of an interface that is up does what `interface` says from now on.
    pub fn relink(&mut self, interface: &Interface) {
        if let Some(wire) = self.networks.wire_at(interface.network, interface.address) {
            self.networks.wire(wire).set(&interface.link);
        }
    }

    /// The uplink of the router called `name` does what `link` says from now on.
    pub fn relink_router(&mut self, name: &str, link: &Link) {
        if let Some(router) = self.networks.router_named(name) {
            self.networks.uplink(router).set(link);
        }
    }

    /// The router called `name` passes on no packets longer than `mtu` bytes, in either direction.
    pub fn narrow_router(&mut self, name: &str, mtu: u16) {
        if let Some(router) = self.networks.router_named(name) {
            self.networks.narrow(router, mtu);
        }
    }

    /// The router called `name`, with `external` as its outer address, forwards these ports; what its NAT knew is forgotten. The error says
    /// which of them cannot be.
    pub fn forward(
        &mut self,
        name: &str,
        external: IpAddr,
        forwards: &[Forward],
    ) -> Result<(), ForwardError> {
        let seed = self.bytes();
        match self.networks.router_named(name) {
            Some(router) => self.networks.forward(router, external, forwards, seed),
            None => Ok(()),
        }
    }

    /// Datagrams between two public addresses are lost from now on, in both directions.
    pub fn cut(&mut self, a: IpAddr, b: IpAddr) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Datagrams from one public address to another are lost from now on; those of the other direction are not.
    pub fn cut_one_way(&mut self, from: IpAddr, to: IpAddr) {
        self.networks.cut_one_way(from, to);
    }

    /// Datagrams between two public addresses take `longer` than their links do, from now on: the two are far apart.
    pub fn part(&mut self, a: IpAddr, b: IpAddr, longer: Duration) {
        self.networks.part(a, b, longer);
    }

    /// Every cut is mended.
    pub fn mend(&mut self) {
        self.networks.mend();
    }

    /// Changes every link that is in place: of hosts and of routers, in both directions.
    pub fn impair(&mut self, change: impl Fn(&mut Impairment)) {
        self.networks.impair(change);
    }

    /// An application of `host` asks for the name of `peer` and then sends a numbered packet every `period`, each of which the peer
    /// sends back.
    pub fn talk(&mut self, host: HostId, peer: HostId, period: Duration) -> TalkId {
        let name = self.hosts[peer.0].fqdn.clone();
        self.converse(host, name, (Protocol::Udp, Some(period), None))
    }

    /// An application of `host` asks for `name` and sends `count` ICMP echo requests there, one every `interval`.
    pub fn ping(&mut self, host: HostId, name: &Fqdn, count: usize, interval: Duration) -> TalkId {
        self.converse(host, name.clone(), (Protocol::Icmp, Some(interval), Some(count)))
    }

    /// An application of `host` sends `count` ICMP echo requests to a real address, that of `name`, one every `interval`.
    pub fn ping_real(
        &mut self,
        host: HostId,
        (name, address): (&Fqdn, Ipv4Addr),
        count: usize,
        interval: Duration,
    ) -> TalkId {
        let id = TalkId(self.talks.len());
        let what = (Protocol::Icmp, Some(interval), Some(count));
        self.talks.push(Talk { real: true, ..Talk::new(id, host, name.clone(), what, self.now) });
        self.answered(id, Ok(address));
        id
    }

    /// An application of `host` asks for `name`, and that is all.
    pub fn ask(&mut self, host: HostId, name: &str) -> TalkId {
        self.converse(host, fqdn_of(name), (Protocol::Udp, None, None))
    }

    /// As [`talk`](Self::talk), with any name.
    pub fn talk_to(&mut self, host: HostId, name: &str, period: Duration) -> TalkId {
        self.converse(host, fqdn_of(name), (Protocol::Udp, Some(period), None))
    }

    /// An application of `host` asks for a name.
    pub(crate) fn question(&mut self, host: HostId, name: Fqdn) -> TalkId {
        self.converse(host, name, (Protocol::Udp, None, None))
    }

    fn converse(
        &mut self,
        host: HostId,
        peer: Fqdn,
        what: (Protocol, Option<Duration>, Option<usize>),
    ) -> TalkId {
        let id = TalkId(self.talks.len());
        self.talks.push(Talk::new(id, host, peer.clone(), what, self.now));
        let now = self.hosts[host.0].clock.shows(self.now);
        match &mut self.hosts[host.0].machine {
            Machine::Terminal(terminal, _) => terminal.handle_query(QueryId(id.0 as u64), peer, now),
            Machine::General => self.look_up(id, &peer),
            Machine::Off | Machine::Coordinator(_) | Machine::Relay(..) => {}
        }
        self.settle(host, Output::default());
        id
    }

    /// The application sends no more.
    pub fn hang_up(&mut self, id: TalkId) {
        self.talks[id.0].ended = true;
    }

    /// Keeps no trace: a world of a million terminals would fill the memory with it.
    pub fn forget(&mut self) {
        self.trace = None;
    }

    /// Keeps every datagram that comes to a host from now on.
    pub fn record(&mut self) {
        self.recording.get_or_insert_default();
    }

    /// Puts a datagram before a host as if it came from `from`, and says what came of it. What the host would send in answer goes
    /// nowhere.
    pub fn inject(&mut self, id: HostId, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> Reaction {
        let (before, refused) = (self.state(id), self.refused(id));
        let host = &mut self.hosts[id.0];
        let mut output = Output::default();
        host.receive(Packet::udp(from, to, bytes), self.now, &mut output);
        host.drain(&mut output);
        let sent = output.sent.iter().filter_map(|out| Header::parse(&out.bytes).ok());
        Reaction {
            refused: self.refused(id) - refused,
            sent: sent.map(|header| header.kind).collect(),
            events: output.events,
            delivered: output.delivered.len(),
            observations: output.observations.into_iter().map(|(_, what)| what).collect(),
            changed: self.state(id) != before,
        }
    }

    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

fn fqdn_of(text: &str) -> Fqdn {
    text.parse().expect("a domain name")
}

/// The key that two nodes share: both know it from their names.
fn shared_key(seed: u64, a: &Fqdn, b: &Fqdn) -> SharedKey {
    let mut ids = [NodeId::of(a).0, NodeId::of(b).0];
    ids.sort();
    let mut key = [0; 32];
    key[..16].copy_from_slice(&ids[0]);
    key[16..].copy_from_slice(&ids[1]);
    key.iter_mut().zip(seed.to_be_bytes()).for_each(|(byte, seed)| *byte ^= seed);
    SharedKey::new(key)
}
