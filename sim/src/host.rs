//! A host: its interfaces, and the role machine that it runs.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::addr::{Fqdn, NTM_PORT, Vip, VipRange};
use ntm_protocol::coordinator::lookup::{Lookup, LookupId};
use ntm_protocol::coordinator::store::{Write, WriteId};
use ntm_protocol::coordinator::{Acquaintance, Coordinator, CoordinatorConfig};
use ntm_protocol::crypto::{SharedKey, sealed_len};
use ntm_protocol::data::{DataUpdate, Inbound, NotSent, Outbound, Verdict, Way};
use ntm_protocol::inner::reset;
use ntm_protocol::observe::What;
use ntm_protocol::relay::{self, Relay, RelayConfig};
use ntm_protocol::terminal::{self, QueryId, Terminal, TerminalConfig};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::{Addresses, DnsError, NodeKind};

use crate::clock::Clock;
use crate::flow::DNS;
use crate::link::Link;
use crate::masquerade::Masquerade;
use crate::network::{Datagram, NetworkId, WireId};
use crate::packet::{Packet, Protocol};
use crate::store::Store;
use crate::talk::is_request;
use crate::world::Settings;

/// Where a host is attached to a network, with one address: an interface with addresses of both families is two of these.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interface {
    /// The network.
    pub network: NetworkId,
    /// The host's address in it.
    pub address: IpAddr,
    /// The link between the two.
    pub link: Link,
}

/// An interface that is up.
#[derive(Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) network: NetworkId,
    pub(crate) address: IpAddr,
    pub(crate) wire: WireId,
}

/// What a host is, so that it can be started again.
#[derive(Clone)]
pub(crate) enum Part {
    Coordinator { zone: Fqdn, vips: VipRange, acquaintances: Vec<(Fqdn, NodeKind, Option<VipRange>)> },
    Relay { coordinators: Vec<(Fqdn, Addresses)> },
    Terminal { coordinator: (Fqdn, Addresses) },
    General,
}

/// The role machine with its data tables.
pub(crate) enum Machine {
    /// Not running.
    Off,
    Coordinator(Box<Coordinator>),
    Relay(Box<Relay>, Tables, Box<Masquerade>),
    Terminal(Box<Terminal>, Tables),
    General,
}

#[derive(Default)]
pub(crate) struct Tables {
    inbound: Inbound,
    outbound: Outbound,
    /// The virtual interface's queue, for as long as the table is paused.
    waiting: VecDeque<Packet>,
}

/// How many packets a virtual interface's queue holds, as Linux's does.
const QUEUE: usize = 500;

impl Tables {
    fn apply(&mut self, update: &DataUpdate) {
        self.inbound.apply(update);
        self.outbound.apply(update);
    }

    fn seal(&mut self, packet: &Packet) -> Result<Outgoing, NotSent> {
        let inner = packet.emit();
        // No suite needs more room than the thesis's.
        let mut datagram = vec![0; sealed_len(ntm_protocol::crypto::Suite::Aes128Cbc, inner.len())];
        let (length, Way { remote, local }) = self.outbound.seal(&inner, &mut datagram)?;
        datagram.truncate(length);
        Ok(Outgoing { local, ..Outgoing::ntm(remote, datagram) })
    }
}

/// A datagram that a host sends from one of its ports.
pub(crate) struct Outgoing {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) to: SocketAddr,
    /// The address that it leaves from; the preferred one without it.
    pub(crate) local: Option<IpAddr>,
    /// The address that a translation wrote into it as its source; without it, the one that it leaves from.
    pub(crate) source: Option<IpAddr>,
    pub(crate) bytes: Vec<u8>,
}

impl Outgoing {
    /// A datagram of NTMobile.
    fn ntm(to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { protocol: Protocol::Udp, port: NTM_PORT, to, local: None, source: None, bytes }
    }

    /// A datagram as it is; the host's own address becomes its source.
    pub(crate) fn plain(datagram: Datagram) -> Self {
        let Datagram { protocol, source, destination, payload } = datagram;
        Self { protocol, port: source.port(), to: destination, local: None, source: None, bytes: payload }
    }

    /// A datagram that was translated, with the source that it has.
    fn translated(datagram: Datagram) -> Self {
        Self { source: Some(datagram.source.ip()), ..Self::plain(datagram) }
    }
}

/// What a host did since it was last asked.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) sent: Vec<Outgoing>,
    pub(crate) observations: Vec<(Instant, What)>,
    pub(crate) lookups: Vec<(LookupId, Lookup)>,
    pub(crate) writes: Vec<(WriteId, Write)>,
    /// Translations that the relay asked for, and whether its machine can do them.
    pub(crate) translated: Vec<(Vip, bool)>,
    pub(crate) answers: Vec<(QueryId, Result<Vip, DnsError>)>,
    /// Datagrams for the host's applications.
    pub(crate) delivered: Vec<Datagram>,
    /// How many events the machine emitted.
    pub(crate) events: usize,
}

/// Whether a datagram is a question to the DNS, or an answer of it.
fn is_dns(datagram: &Datagram) -> bool {
    let ports = [datagram.source, datagram.destination].map(|end| end.port());
    datagram.protocol == Protocol::Udp && ports.contains(&DNS)
}

/// A host.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) fqdn: Fqdn,
    pub(crate) part: Part,
    pub(crate) interfaces: Vec<Attached>,
    pub(crate) machine: Machine,
    pub(crate) store: Store,
    /// How often it was started.
    pub(crate) boots: u64,
    /// The same since its disk was new: what its sequence numbers are counted on by.
    pub(crate) counted: u64,
    /// How many writes are not durable yet, or not known to be.
    pub(crate) writing: usize,
    /// The clock that its machine is told the time by.
    pub(crate) clock: Clock,
    /// When it wants to be woken.
    pub(crate) wake: Option<Instant>,
    /// Whom its applications heard from.
    pub(crate) heard: BTreeSet<SocketAddr>,
}

impl Host {
    pub(crate) fn new(name: &str, fqdn: Fqdn, part: Part, interfaces: Vec<Attached>) -> Self {
        Self {
            name: name.to_owned(),
            fqdn,
            part,
            interfaces,
            machine: Machine::Off,
            store: Store::default(),
            boots: 0,
            counted: 0,
            writing: 0,
            clock: Clock::default(),
            wake: None,
            heard: BTreeSet::new(),
        }
    }

    /// The addresses of its interfaces, the preferred first.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.interfaces.iter().map(|interface| interface.address).collect()
    }

    /// The same with NTMobile's port.
    pub(crate) fn sockets(&self) -> Addresses {
        self.addresses().into_iter().map(|address| SocketAddr::new(address, NTM_PORT)).collect()
    }

    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.machine, Machine::Off)
    }

    /// Starts it with what its disk kept; `key` gives the key that it shares with another node.
    pub(crate) fn start(
        &mut self,
        settings: &Settings,
        seed: [u8; 32],
        key: impl Fn(&Fqdn) -> SharedKey,
        now: Instant,
    ) {
        let now = self.clock.shows(now);
        self.boots += 1;
        self.counted += 1;
        // Above every number of the boots before, each of which has 2^40 of its own.
        let first_sequence = self.counted << 40;
        let (fqdn, sockets) = (self.fqdn.clone(), self.sockets());
        self.machine = match &self.part {
            Part::Coordinator { zone, vips, acquaintances } => {
                let acquaintances = acquaintances.iter().map(|(fqdn, kind, vips)| Acquaintance {
                    fqdn: fqdn.clone(),
                    kind: *kind,
                    key: key(fqdn),
                    vips: vips.filter(|_| settings.ranges_known),
                });
                let mut coordinator = Coordinator::new(CoordinatorConfig {
                    fqdn,
                    addresses: sockets,
                    zone: zone.clone(),
                    vips: *vips,
                    keep_alive: settings.keep_alive,
                    suite: settings.suite,
                    selection: settings.selection,
                    patience: settings.negotiation,
                    acquaintances: acquaintances.collect(),
                    nodes: self.store.nodes(),
                    generals: self.store.generals(),
                    seed,
                    first_sequence,
                });
                coordinator.start(now);
                Machine::Coordinator(Box::new(coordinator))
            }
            Part::Relay { coordinators } => {
                let coordinators =
                    coordinators.iter().map(|(fqdn, at)| (fqdn.clone(), at.clone(), key(fqdn)));
                let config = RelayConfig {
                    fqdn,
                    addresses: sockets,
                    coordinators: coordinators.collect(),
                    lifetime: settings.lifetime,
                    capacity: settings.capacity,
                    seed,
                    first_sequence,
                };
                let masquerade = Box::new(Masquerade::new(self.addresses()));
                Machine::Relay(Box::new(Relay::new(config, now)), Tables::default(), masquerade)
            }
            Part::Terminal { coordinator: (coordinator, at) } => {
                let mut terminal = Terminal::new(TerminalConfig {
                    fqdn,
                    port: NTM_PORT,
                    coordinator: coordinator.clone(),
                    coordinator_addresses: at.clone(),
                    key: key(coordinator),
                    patience: settings.patience,
                    lifetime: settings.lifetime,
                    handover: settings.handover,
                    seed,
                    first_sequence,
                });
                terminal.handle_addresses(&self.addresses(), now);
                Machine::Terminal(Box::new(terminal), Tables::default())
            }
            Part::General => Machine::General,
        };
    }

    /// Its machine observes nothing from now on.
    pub(crate) fn close_journal(&mut self) {
        match &mut self.machine {
            Machine::Off | Machine::General => {}
            Machine::Coordinator(dc) => dc.close_journal(),
            Machine::Relay(relay, ..) => relay.close_journal(),
            Machine::Terminal(terminal, _) => terminal.close_journal(),
        }
    }

    /// A datagram came in.
    pub(crate) fn receive(&mut self, mut datagram: Datagram, now: Instant, output: &mut Output) {
        let now = self.clock.shows(now);
        let (from, to) = (datagram.source, datagram.destination);
        let is_ntm = datagram.protocol == Protocol::Udp && to.port() == NTM_PORT;
        match &mut self.machine {
            Machine::Off => {}
            Machine::General => output.delivered.push(datagram),
            Machine::Coordinator(dc) if is_ntm => dc.handle_datagram(from, &datagram.payload, now),
            Machine::Terminal(terminal, tables) if is_ntm => {
                let bytes = &mut datagram.payload;
                match tables.inbound.judge(bytes) {
                    Verdict::Deliver(at) => {
                        output.delivered.extend(Packet::parse(&bytes[at]).map(Datagram::from));
                    }
                    Verdict::Control => terminal.handle_datagram(from, bytes, now),
                    Verdict::Refused(refusal) => terminal.refuse(from, &refusal, now),
                    // A terminal's table neither switches nor translates.
                    Verdict::Forward(_) | Verdict::Translate(_) => {}
                }
            }
            Machine::Relay(_, tables, masquerade) if masquerade.expects(&datagram) => {
                let back = masquerade.come(datagram, now);
                output.sent.extend(back.and_then(|packet| tables.seal(&packet).ok()));
            }
            Machine::Relay(relay, tables, masquerade) if is_ntm => {
                match tables.inbound.judge(&mut datagram.payload) {
                    // The masquerade here knows both families.
                    Verdict::Deliver(at) | Verdict::Translate(at) => {
                        let inner = Packet::parse(&datagram.payload[at]);
                        let left = inner.and_then(|packet| masquerade.leave(packet, now));
                        output.sent.extend(left.map(Outgoing::translated));
                    }
                    Verdict::Forward(to) => output.sent.push(Outgoing::ntm(to, datagram.payload)),
                    Verdict::Control => relay.handle_datagram(from, &datagram.payload, now),
                    Verdict::Refused(refusal) => relay.refuse(from, &refusal, now),
                }
            }
            // The DNS of ordinary hosts has no part in NTMobile: whoever runs it, or asks it, is an application.
            Machine::Coordinator(_) | Machine::Relay(..) | Machine::Terminal(..) if is_dns(&datagram) => {
                output.delivered.push(datagram);
            }
            // What a kernel answers by itself (T6.1-b), and answers to what a terminal's application asked for by a real address.
            Machine::Coordinator(_) | Machine::Relay(..)
                if datagram.protocol == Protocol::Icmp && is_request(&datagram) =>
            {
                output.sent.push(Outgoing::plain(datagram.turned()));
            }
            Machine::Terminal(..) if datagram.protocol == Protocol::Icmp && !is_request(&datagram) => {
                output.delivered.push(datagram);
            }
            Machine::Coordinator(_) | Machine::Terminal(..) | Machine::Relay(..) => {}
        }
    }

    /// An application sends a datagram: whether there was a way.
    pub(crate) fn send_from_application(
        &mut self,
        datagram: Datagram,
        now: Instant,
        output: &mut Output,
    ) -> bool {
        let now = self.clock.shows(now);
        match &mut self.machine {
            Machine::Terminal(terminal, tables) => {
                let Some(packet) = Packet::of(datagram) else { return false };
                if tables.outbound.is_paused() {
                    if tables.waiting.len() < QUEUE {
                        tables.waiting.push_back(packet);
                    }
                    return true;
                }
                match tables.seal(&packet) {
                    Ok(outgoing) => output.sent.push(outgoing),
                    // Its connection has ended: it is to know at once (T4.2.5-b), as a terminal's data path tells it.
                    Err(NotSent::Lost(_)) => {
                        let mut answer = vec![0; 40];
                        let length = reset::answer(&packet.emit(), &mut answer);
                        let reset = length.and_then(|length| Packet::parse(&answer[..length]));
                        output.delivered.extend(reset.map(Datagram::from));
                        return false;
                    }
                    Err(NotSent::NoPath(flow)) => {
                        terminal.handle_no_path(flow, now);
                        return false;
                    }
                    Err(_) => return false,
                }
            }
            Machine::General => output.sent.push(Outgoing::plain(datagram)),
            Machine::Off | Machine::Coordinator(_) | Machine::Relay(..) => return false,
        }
        true
    }

    /// When the machine wants to be woken.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let shown = match &self.machine {
            Machine::Off | Machine::General => None,
            Machine::Coordinator(dc) => dc.poll_timeout(),
            Machine::Relay(relay, ..) => relay.poll_timeout(),
            Machine::Terminal(terminal, _) => terminal.poll_timeout(),
        };
        shown.map(|shown| self.clock.reaches(shown))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock.shows(now);
        match &mut self.machine {
            Machine::Off | Machine::General => {}
            Machine::Coordinator(dc) => dc.handle_timeout(now),
            Machine::Relay(relay, ..) => relay.handle_timeout(now),
            Machine::Terminal(terminal, _) => terminal.handle_timeout(now),
        }
    }

    /// Takes everything that the machine has to say, and carries out what changes the host's own tables.
    pub(crate) fn drain(&mut self, output: &mut Output) {
        let mut transmits = Vec::new();
        match &mut self.machine {
            Machine::Off | Machine::General => {}
            Machine::Coordinator(dc) => {
                transmits.extend(std::iter::from_fn(|| dc.poll_transmit()));
                output.lookups.extend(std::iter::from_fn(|| dc.poll_lookup()));
                output.writes.extend(std::iter::from_fn(|| dc.poll_write()));
                output.observations.extend(std::iter::from_fn(|| dc.poll_observation()));
            }
            Machine::Relay(relay, tables, masquerade) => {
                transmits.extend(std::iter::from_fn(|| relay.poll_transmit()));
                while let Some(event) = relay.poll_event() {
                    output.events += 1;
                    match event {
                        relay::Event::Data(update) => tables.apply(&update),
                        relay::Event::Translate { general, real } => {
                            output.translated.push((general, masquerade.add(general, real)));
                        }
                        relay::Event::Untranslate { general } => masquerade.remove(general),
                    }
                }
                output.observations.extend(std::iter::from_fn(|| relay.poll_observation()));
            }
            Machine::Terminal(terminal, tables) => {
                transmits.extend(std::iter::from_fn(|| terminal.poll_transmit()));
                while let Some(event) = terminal.poll_event() {
                    output.events += 1;
                    match event {
                        terminal::Event::Data(update) => tables.apply(&update),
                        terminal::Event::Answer { query, answer } => output.answers.push((query, answer)),
                        // Applications take it from the machine.
                        terminal::Event::Vip(_) => {}
                    }
                }
                output.observations.extend(std::iter::from_fn(|| terminal.poll_observation()));
                if !tables.outbound.is_paused() {
                    for packet in std::mem::take(&mut tables.waiting) {
                        output.sent.extend(tables.seal(&packet).ok());
                    }
                }
            }
        }
        let outgoing = |transmit: ntm_protocol::session::Transmit| Outgoing::ntm(transmit.to, transmit.bytes);
        output.sent.extend(transmits.into_iter().map(outgoing));
    }
}
