//! The world: who is in it, what happens next, and what was observed.

use std::net::{IpAddr, SocketAddr};

use ntm_nat::Behaviour;
use ntm_protocol::addr::{Fqdn, NTM_PORT, NodeId, Vip};
use ntm_protocol::coordinator::Coordinator;
use ntm_protocol::coordinator::lookup::{DC_RECORD, LookupId, LookupResult};
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::coordinator::store::{Write, WriteId, WriteOutcome};
use ntm_protocol::crypto::{SharedKey, Suite};
use ntm_protocol::observe::{Observation, What};
use ntm_protocol::relay::Relay;
use ntm_protocol::terminal::{QueryId, Terminal};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{DnsError, Header, Kind, NodeKind};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::HostId;
use crate::dns::Dns;
use crate::host::{Host, Interface, Machine, Outgoing, Output, Part};
use crate::link::Link;
use crate::network::{Datagram, INTERNET, NetworkId, Networks, Next, RouterId};
use crate::packet::Packet;
use crate::queue::Queue;
use crate::talk::{self, Numbered, Talk, TalkId};

/// What all nodes are configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two Keep-alives.
    pub keep_alive: Duration,
    /// How long an application's query may wait.
    pub patience: Duration,
    /// How long a DC's negotiation may take.
    pub negotiation: Duration,
    /// How long an unused relay entry stays.
    pub lifetime: Duration,
    /// The most entries of a relay.
    pub capacity: usize,
    /// The suite of data packets.
    pub suite: Suite,
    /// How a DC picks a relay.
    pub selection: Selection,
    /// What a DC's write takes until it is durable, and again until the DC knows.
    pub write: Duration,
    /// What a relay's machine takes to add a translation.
    pub translate: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            negotiation: Duration::from_secs(8),
            lifetime: Duration::from_secs(300),
            capacity: 1000,
            suite: Suite::Aes128Cbc,
            selection: Selection::Best,
            write: Duration::from_micros(500),
            translate: Duration::from_micros(300),
        }
    }
}

enum Event {
    /// A datagram is on a network.
    On(NetworkId, Datagram),
    /// A datagram is at the outer side of a router.
    At(RouterId, Datagram),
    /// A datagram is at a host.
    Receive(HostId, Datagram),
    /// A host's machine wanted to be woken.
    Wake(HostId),
    /// The DNS answers the DC of this boot.
    Lookup(HostId, u64, LookupId, LookupResult),
    /// The disk of the DC of this boot has the write.
    Write(HostId, u64, WriteId, Write),
    /// The DC of this boot learns the outcome of a write.
    Written(HostId, u64, WriteId, WriteOutcome),
    /// The relay of this boot translates.
    Translated(HostId, u64, Vip, bool),
    /// An application sends its next packet.
    Tick(TalkId),
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
    now: Instant,
    queue: Queue<Event>,
    rng: ChaCha12Rng,
    networks: Networks,
    hosts: Vec<Host>,
    talks: Vec<Talk>,
    trace: Vec<Observation>,
    recording: Option<Vec<Recorded>>,
    seed: u64,
    events: u64,
    /// How often a machine was woken at this very instant.
    wakes: u32,
}

/// A machine that wants to be woken so often at one instant never comes to rest.
const MOST_WAKES: u32 = 10_000;

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
            trace: Vec::new(),
            recording: None,
            seed,
            events: 0,
            wakes: 0,
        }
    }

    // Building

    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn add(&mut self, name: &str, fqdn: &str, part: Part, interfaces: Vec<Interface>) -> HostId {
        let id = HostId(self.hosts.len());
        for interface in &interfaces {
            self.networks.attach(interface.network, interface.address, id);
        }
        self.hosts.push(Host::new(name, fqdn_of(fqdn), part, interfaces));
        id
    }

    /// Delegates `zone`, and the zones above it, to servers of their own.
    fn delegate(&mut self, zone: &Fqdn) {
        for above in std::iter::successors(zone.parent(), Fqdn::parent) {
            let data = self.dns.zone(&above);
            if data.servers.is_empty() {
                data.servers = vec![(fqdn_of(&format!("ns.{above}")), vec![[192, 0, 2, 53].into()])];
            }
        }
    }

    /// A DC for `zone` on the public network. All DCs share keys with each other.
    pub fn coordinator(&mut self, name: &str, zone: &str, vips: &str, address: &str, link: Link) -> HostId {
        let (zone, address) = (fqdn_of(zone), address.parse().expect("an IP address"));
        let fqdn = fqdn_of(&format!("{name}.{zone}"));
        self.delegate(&zone);
        let data = self.dns.zone(&zone);
        data.servers = vec![(fqdn.clone(), vec![address])];
        data.texts = vec![DC_RECORD.to_owned()];
        let mut acquaintances = Vec::new();
        for host in &mut self.hosts {
            if let Part::Coordinator { acquaintances: theirs, .. } = &mut host.part {
                theirs.push((fqdn.clone(), NodeKind::Coordinator));
                acquaintances.push((host.fqdn.clone(), NodeKind::Coordinator));
            }
        }
        let part = Part::Coordinator { zone, vips: vips.parse().expect("a range of VIPs"), acquaintances };
        self.add(name, fqdn.as_str(), part, vec![Interface { network: INTERNET, address, link }])
    }

    /// Introduces `host` to the DC `dc`: the DC's name and address.
    fn introduce(&mut self, dc: HostId, fqdn: &str, kind: NodeKind) -> (Fqdn, SocketAddr) {
        let host = &mut self.hosts[dc.0];
        if let Part::Coordinator { acquaintances, .. } = &mut host.part {
            acquaintances.push((fqdn_of(fqdn), kind));
        }
        (host.fqdn.clone(), SocketAddr::new(host.interfaces[0].address, NTM_PORT))
    }

    fn zone_of(&self, dc: HostId) -> Fqdn {
        match &self.hosts[dc.0].part {
            Part::Coordinator { zone, .. } => zone.clone(),
            _ => panic!("{} is no coordinator", self.hosts[dc.0].name),
        }
    }

    /// A relay that registers at `dcs`, named after the zone of the first.
    pub fn relay(&mut self, name: &str, dcs: &[HostId], address: &str, link: Link) -> HostId {
        let fqdn = format!("{name}.{}", self.zone_of(dcs[0]));
        let coordinators = dcs.iter().map(|dc| self.introduce(*dc, &fqdn, NodeKind::Relay)).collect();
        let address = address.parse().expect("an IP address");
        let interface = Interface { network: INTERNET, address, link };
        self.add(name, &fqdn, Part::Relay { coordinators }, vec![interface])
    }

    /// A terminal of `dc`, at `at`.
    pub fn terminal(&mut self, name: &str, dc: HostId, at: Interface) -> HostId {
        let fqdn = format!("{name}.{}", self.zone_of(dc));
        let coordinator = self.introduce(dc, &fqdn, NodeKind::Terminal);
        self.add(name, &fqdn, Part::Terminal { coordinator }, vec![at])
    }

    /// A general node, whose names are `names`: it sends back what comes to port 7.
    pub fn general(&mut self, name: &str, names: &[&str], at: Interface) -> HostId {
        for name in names {
            let fqdn = fqdn_of(name);
            self.delegate(&fqdn);
            let zone = fqdn.parent().unwrap_or_else(|| fqdn.clone());
            self.dns.zone(&zone).names.entry(fqdn).or_default().push(at.address);
        }
        self.add(name, names[0], Part::General, vec![at])
    }

    /// A NAT of `behaviour` at `external` of the network `outside`, and the network behind it.
    pub fn router(
        &mut self,
        name: &str,
        behaviour: Behaviour,
        outside: NetworkId,
        external: &str,
        uplink: Link,
    ) -> NetworkId {
        let (external, seed) = (external.parse().expect("an IP address"), self.bytes());
        self.networks.router(name, behaviour, (outside, external), uplink, seed).1
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
        self.settle(id, Output::default());
    }

    /// Stops a host as `kill -9` does: what is not in its store is lost.
    pub fn crash(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        (host.machine, host.wake) = (Machine::Off, None);
    }

    /// A host leaves where it is and is at `interfaces` from now on, the preferred first.
    pub fn move_to(&mut self, id: HostId, interfaces: &[Interface]) {
        let host = &mut self.hosts[id.0];
        for old in std::mem::replace(&mut host.interfaces, interfaces.to_vec()) {
            self.networks.detach(old.network, old.address);
        }
        for new in interfaces {
            self.networks.attach(new.network, new.address, id);
        }
        let addresses = host.addresses();
        if let Machine::Terminal(terminal, _) = &mut host.machine {
            // As netlink says it: first the old addresses go. The new network's may be the same: home networks are alike.
            terminal.handle_addresses(&[], self.now);
            terminal.handle_addresses(&addresses, self.now);
        }
        self.settle(id, Output::default());
    }

    /// Datagrams between two public addresses are lost from now on.
    pub fn cut(&mut self, a: IpAddr, b: IpAddr) {
        self.networks.cut(a, b);
    }

    /// Every cut is mended.
    pub fn mend(&mut self) {
        self.networks.mend();
    }

    /// Changes every link: of hosts and of routers.
    pub fn impair(&mut self, change: impl Fn(&mut Link)) {
        self.hosts.iter_mut().flat_map(|host| &mut host.interfaces).for_each(|at| change(&mut at.link));
        self.networks.impair(change);
    }

    /// An application of `host` asks for the name of `peer` and then sends a numbered packet every `period`, each of which the peer
    /// sends back.
    pub fn talk(&mut self, host: HostId, peer: HostId, period: Duration) -> TalkId {
        let name = self.hosts[peer.0].fqdn.clone();
        self.converse(host, name, Some(period))
    }

    /// An application of `host` asks for `name`, and that is all.
    pub fn ask(&mut self, host: HostId, name: &str) -> TalkId {
        self.converse(host, fqdn_of(name), None)
    }

    /// As [`talk`](Self::talk), with any name.
    pub fn talk_to(&mut self, host: HostId, name: &str, period: Duration) -> TalkId {
        self.converse(host, fqdn_of(name), Some(period))
    }

    fn converse(&mut self, host: HostId, peer: Fqdn, period: Option<Duration>) -> TalkId {
        let id = TalkId(self.talks.len());
        self.talks.push(Talk::new(id, host, peer.clone(), period, self.now));
        if let Machine::Terminal(terminal, _) = &mut self.hosts[host.0].machine {
            terminal.handle_query(QueryId(id.0 as u64), peer, self.now);
        }
        self.settle(host, Output::default());
        id
    }

    /// The application sends no more.
    pub fn hang_up(&mut self, id: TalkId) {
        self.talks[id.0].ended = true;
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
        host.receive(from, to, bytes, self.now, &mut output);
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

    // Looking

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many events happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Every observation so far, in the order of time.
    pub fn trace(&self) -> &[Observation] {
        &self.trace
    }

    /// The trace as JSON lines, in the form that the daemons write.
    pub fn json_lines(&self) -> String {
        let line =
            |observation| serde_json::to_string(observation).expect("an observation is plain data") + "\n";
        self.trace.iter().map(line).collect()
    }

    /// What was recorded since [`record`](Self::record).
    pub fn recorded(&self) -> &[Recorded] {
        self.recording.as_deref().unwrap_or_default()
    }

    /// A conversation.
    pub fn heard(&self, id: TalkId) -> &Talk {
        &self.talks[id.0]
    }

    /// A host's name.
    pub fn name(&self, id: HostId) -> &str {
        &self.hosts[id.0].name
    }

    /// A host's name in the DNS.
    pub fn fqdn(&self, id: HostId) -> &Fqdn {
        &self.hosts[id.0].fqdn
    }

    /// From where a host's applications were sent packets.
    pub fn sources_heard(&self, id: HostId) -> Vec<SocketAddr> {
        self.hosts[id.0].heard.iter().copied().collect()
    }

    /// The hosts, in the order in which they were added.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// The running terminal at a host.
    pub fn at_terminal(&self, id: HostId) -> Option<&Terminal> {
        match &self.hosts[id.0].machine {
            Machine::Terminal(terminal, _) => Some(terminal),
            _ => None,
        }
    }

    /// The running relay at a host.
    pub fn at_relay(&self, id: HostId) -> Option<&Relay> {
        match &self.hosts[id.0].machine {
            Machine::Relay(relay, ..) => Some(relay),
            _ => None,
        }
    }

    /// The running DC at a host.
    pub fn at_coordinator(&self, id: HostId) -> Option<&Coordinator> {
        match &self.hosts[id.0].machine {
            Machine::Coordinator(dc) => Some(dc),
            _ => None,
        }
    }

    /// The DC's disk.
    pub fn store(&self, id: HostId) -> &crate::store::Store {
        &self.hosts[id.0].store
    }

    /// How many inputs a host refused since its last start.
    pub fn refused(&self, id: HostId) -> u64 {
        match &self.hosts[id.0].machine {
            Machine::Off | Machine::General => 0,
            Machine::Coordinator(dc) => dc.refused(),
            Machine::Relay(relay, ..) => relay.refused(),
            Machine::Terminal(terminal, _) => terminal.refused(),
        }
    }

    /// All that can be seen of a host's state: registration, paths, tables, and when it wants to be woken.
    pub fn state(&self, id: HostId) -> String {
        let host = &self.hosts[id.0];
        let wake = host.poll_timeout();
        match &host.machine {
            Machine::Off | Machine::General => String::new(),
            Machine::Coordinator(dc) => {
                let kinds = [NodeKind::Terminal, NodeKind::Relay].map(|kind| dc.registered(kind));
                format!("{wake:?} {kinds:?} {:?}", host.store)
            }
            Machine::Relay(relay, ..) => {
                format!("{wake:?} {} {:#?}", relay.is_registered(), relay.table().rows())
            }
            Machine::Terminal(terminal, _) => {
                let (vip, registered) = (terminal.vip(), terminal.is_registered());
                format!("{wake:?} {vip:?} {registered} {:#?}", terminal.paths())
            }
        }
    }

    /// The name of the host or router that has `address`, now or at its start.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&str> {
        let host = self.hosts.iter().find(|host| host.addresses().contains(&address));
        host.map(|host| host.name.as_str()).or_else(|| self.networks.router_at(address))
    }

    // Time

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    /// Lets time pass until `enough`, at most `limit`; whether it came to that.
    pub fn wait(&mut self, limit: Duration, enough: impl Fn(&World) -> bool) -> bool {
        let until = self.now + limit;
        while !enough(self) {
            let Some((at, event)) = self.queue.pop(until) else {
                self.now = until;
                return enough(self);
            };
            if at > self.now {
                (self.now, self.wakes) = (at, 0);
            }
            self.events += 1;
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::On(network, datagram) => self.travel(network, datagram),
            Event::At(router, datagram) => {
                if let Some((network, datagram)) = self.networks.inward(router, datagram, now) {
                    self.travel(network, datagram);
                }
            }
            Event::Receive(id, datagram) => self.receive(id, datagram),
            Event::Wake(id) => self.wake(id),
            Event::Lookup(id, boot, lookup, result) => {
                let host = &mut self.hosts[id.0];
                if let (Machine::Coordinator(dc), true) = (&mut host.machine, host.boots == boot) {
                    dc.handle_lookup(lookup, result, now);
                    self.settle(id, Output::default());
                }
            }
            Event::Write(id, boot, write_id, write) => {
                let host = &mut self.hosts[id.0];
                if host.boots == boot && host.is_running() {
                    let outcome = host.store.apply(write);
                    self.queue.push(now + self.settings.write, Event::Written(id, boot, write_id, outcome));
                }
            }
            Event::Written(id, boot, write_id, outcome) => {
                let host = &mut self.hosts[id.0];
                if let (Machine::Coordinator(dc), true) = (&mut host.machine, host.boots == boot) {
                    dc.handle_written(write_id, outcome, now);
                    self.settle(id, Output::default());
                }
            }
            Event::Translated(id, boot, general, done) => {
                let host = &mut self.hosts[id.0];
                if let (Machine::Relay(relay, ..), true) = (&mut host.machine, host.boots == boot) {
                    relay.handle_translated(general, done, now);
                    self.settle(id, Output::default());
                }
            }
            Event::Tick(talk) => self.tick(talk),
        }
    }

    fn travel(&mut self, network: NetworkId, datagram: Datagram) {
        match self.networks.next(network, &datagram, self.now) {
            Next::Host(id) => {
                let at = datagram.destination.ip();
                let interface = self.hosts[id.0].interfaces.iter().find(|interface| interface.address == at);
                if let Some(link) = interface.map(|interface| interface.link) {
                    self.pass(&link, |datagram| Event::Receive(id, datagram), datagram);
                }
            }
            Next::Up(router, outside, datagram) => {
                let uplink = *self.networks.uplink(router);
                self.pass(&uplink, |datagram| Event::On(outside, datagram), datagram);
            }
            Next::Down(router) => {
                let uplink = *self.networks.uplink(router);
                self.pass(&uplink, |datagram| Event::At(router, datagram), datagram);
            }
            Next::Back(datagram) => self.travel(network, datagram),
            Next::Lost => {}
        }
    }

    fn pass(&mut self, link: &Link, event: impl Fn(Datagram) -> Event, datagram: Datagram) {
        for time in link.arrivals(&mut self.rng) {
            self.queue.push(self.now + time, event(datagram.clone()));
        }
    }

    fn send(&mut self, id: HostId, Outgoing { port, to, bytes }: Outgoing) {
        // Where there is no address there is no way out.
        let Some(Interface { network, address, link }) = self.hosts[id.0].interfaces.first().copied() else {
            return;
        };
        let datagram = Datagram { source: SocketAddr::new(address, port), destination: to, payload: bytes };
        self.pass(&link, |datagram| Event::On(network, datagram), datagram);
    }

    fn receive(&mut self, id: HostId, Datagram { source, destination, payload }: Datagram) {
        let host = &mut self.hosts[id.0];
        // It may have moved away while the datagram was on the link.
        if !host.interfaces.iter().any(|interface| interface.address == destination.ip()) {
            return;
        }
        if let Some(recording) = &mut self.recording {
            let (at, bytes) = (self.now, payload.clone());
            recording.push(Recorded { at, host: id, from: source, to: destination, bytes });
        }
        let mut output = Output::default();
        host.receive(source, destination, payload, self.now, &mut output);
        self.settle(id, output);
    }

    fn wake(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        if host.wake != Some(self.now) {
            return;
        }
        self.wakes += 1;
        assert!(self.wakes < MOST_WAKES, "{} never comes to rest at {:?}: it is a bug", host.name, self.now);
        host.wake = None;
        host.handle_timeout(self.now);
        self.settle(id, Output::default());
    }

    /// Carries out all that a host's machine asks for, and notes when it is to be woken.
    fn settle(&mut self, id: HostId, mut output: Output) {
        let host = &mut self.hosts[id.0];
        host.drain(&mut output);
        let (boot, node) = (host.boots, host.name.clone());
        let observations = output.observations.into_iter();
        self.trace.extend(observations.map(|(t, what)| Observation { t, node: node.clone(), what }));
        for outgoing in output.sent {
            self.send(id, outgoing);
        }
        for (lookup_id, lookup) in output.lookups {
            let alive =
                |at| self.hosts.iter().all(|host| host.is_running() || !host.addresses().contains(&at));
            let (takes, result) = self.dns.answer(&lookup, alive);
            self.queue.push(self.now + takes, Event::Lookup(id, boot, lookup_id, result));
        }
        for (write_id, write) in output.writes {
            self.queue.push(self.now + self.settings.write, Event::Write(id, boot, write_id, write));
        }
        for (general, done) in output.translated {
            self.queue.push(self.now + self.settings.translate, Event::Translated(id, boot, general, done));
        }
        for (query, answer) in output.answers {
            self.answered(query, answer);
        }
        for packet in output.delivered {
            self.deliver(id, packet);
        }
        let host = &mut self.hosts[id.0];
        let wake = host.poll_timeout().map(|at| at.max(self.now));
        if wake != host.wake {
            host.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Wake(id));
            }
        }
    }

    // Applications

    fn answered(&mut self, QueryId(query): QueryId, answer: Result<Vip, DnsError>) {
        let id = TalkId(query as usize);
        let Some(talk) = self.talks.get_mut(id.0).filter(|talk| talk.answer.is_none()) else { return };
        talk.answer = Some((self.now, answer));
        if answer.is_ok() && talk.period.is_some() {
            self.queue.push(self.now, Event::Tick(id));
        }
    }

    fn tick(&mut self, id: TalkId) {
        let talk = &mut self.talks[id.0];
        let (Some(peer), Some(period), false) = (talk.vip(), talk.period, talk.ended) else { return };
        let (host, number) = (talk.host, talk.packets.len());
        let own = self.at_terminal(host).and_then(Terminal::vip);
        let mut output = Output::default();
        let had_path = own.is_some_and(|own| {
            let packet = Packet {
                source: self.talks[id.0].source(own),
                destination: std::net::SocketAddrV4::new(peer.0, talk::ECHO),
                payload: talk::payload(id, number),
            };
            self.hosts[host.0].send_packet(&packet, &mut output)
        });
        let packet = Numbered { sent: self.now, had_path, arrived: None, returned: None };
        self.talks[id.0].packets.push(packet);
        self.settle(host, output);
        self.queue.push(self.now + period, Event::Tick(id));
    }

    /// A packet came to an application: one that echoes, or one that counts echoes.
    fn deliver(&mut self, id: HostId, packet: Packet) {
        let now = self.now;
        let named = talk::parse(&packet.payload);
        let known = named.and_then(|(talk, number)| Some((self.talks.get_mut(talk.0)?, number)));
        let known = known.filter(|(talk, number)| *number < talk.packets.len());
        if talk::is_request(packet.destination.into()) {
            if let Some((talk, number)) = known {
                talk.again += u32::from(talk.packets[number].arrived.is_some());
                talk.packets[number].arrived.get_or_insert(now);
            }
            self.hosts[id.0].heard.insert(packet.source.into());
            let echo = Packet { source: packet.destination, destination: packet.source, ..packet };
            let mut output = Output::default();
            self.hosts[id.0].send_packet(&echo, &mut output);
            self.settle(id, output);
        } else if let Some((talk, number)) = known {
            if (talk.host, talk.port) != (id, packet.destination.port()) {
                talk.astray += 1;
                return;
            }
            talk.again += u32::from(talk.packets[number].returned.is_some());
            talk.packets[number].returned.get_or_insert(now);
        }
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
