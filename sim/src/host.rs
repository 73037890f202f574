//! A host: its interfaces, and the role machine that it runs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::addr::{Fqdn, NTM_PORT, Vip, VipRange};
use ntm_protocol::coordinator::lookup::{Lookup, LookupId};
use ntm_protocol::coordinator::store::{Write, WriteId};
use ntm_protocol::coordinator::{Acquaintance, Coordinator, CoordinatorConfig};
use ntm_protocol::crypto::SharedKey;
use ntm_protocol::data::{Local, NotSent, Verdict};
use ntm_protocol::inner::siit;
use ntm_protocol::observe::What;
use ntm_protocol::relay::{self, Relay, RelayConfig};
use ntm_protocol::terminal::{self, QueryId, Terminal, TerminalConfig};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::{Addresses, DnsError, NodeKind};

use crate::clock::Clock;
use crate::flow::DNS;
use crate::link::Link;
use crate::masquerade::Masquerade;
use crate::network::{NetworkId, WireId};
use crate::packet::{Packet, Protocol};
use crate::store::Store;
use crate::tables::{Refused, Tables, VIRTUAL};
use crate::talk::is_request;
use crate::trouble::{Trouble, Why};
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

/// A datagram that a host sends from one of its ports.
pub(crate) struct Outgoing {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) to: SocketAddr,
    /// The address that it leaves from; the preferred one without it.
    pub(crate) local: Option<IpAddr>,
    /// The address that a translation wrote into it as its source; without it, the one that it leaves from.
    pub(crate) source: Option<IpAddr>,
    /// Whether it must not be cut up.
    pub(crate) whole: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Outgoing {
    /// A datagram of NTMobile, which is cut up where it has to be.
    pub(crate) fn ntm(to: SocketAddr, bytes: Vec<u8>) -> Self {
        let (protocol, port) = (Protocol::Udp, NTM_PORT);
        Self { protocol, port, to, local: None, source: None, whole: false, bytes }
    }

    /// A datagram as it is; the host's own address becomes its source.
    pub(crate) fn plain(datagram: Packet) -> Self {
        let Packet { protocol, source, destination, whole, payload } = datagram;
        let port = source.port();
        Self { protocol, port, to: destination, local: None, source: None, whole, bytes: payload }
    }

    /// A datagram that was translated, with the source that it has.
    fn translated(datagram: Packet) -> Self {
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
    pub(crate) delivered: Vec<Packet>,
    /// Whether applications have another address now.
    pub(crate) readdressed: bool,
    /// How many events the machine emitted.
    pub(crate) events: usize,
}

/// Whether a datagram is a question to the DNS, or an answer of it.
fn is_dns(datagram: &Packet) -> bool {
    let ports = [datagram.source, datagram.destination].map(|end| end.port());
    datagram.protocol == Protocol::Udp && ports.contains(&DNS)
}

/// From where a host with these interfaces sends to an address: by the preferred one of its family.
fn route(interfaces: &[Attached], to: IpAddr) -> Option<Local> {
    let address = interfaces.iter().map(|it| it.address).find(|address| address.is_ipv4() == to.is_ipv4())?;
    Some(Local { address, link: None })
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
    pub(crate) fn receive(&mut self, mut datagram: Packet, now: Instant, output: &mut Output) {
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
                        let whole = tables.opened(&bytes[at], now);
                        output.delivered.extend(whole.and_then(|whole| Packet::parse(&whole)));
                    }
                    Verdict::Control => terminal.handle_datagram(from, bytes, now),
                    Verdict::Refused(refusal) => terminal.refuse(from, &refusal, now),
                    // A terminal's table neither switches nor translates.
                    Verdict::Forward(_) | Verdict::Translate(_) => {}
                }
            }
            Machine::Relay(_, tables, masquerade) if masquerade.expects(&datagram) => {
                if let Some(packet) = masquerade.come(datagram, now) {
                    send_back(packet, tables, masquerade, now, output);
                }
            }
            Machine::Relay(relay, tables, masquerade) if is_ntm => {
                match tables.inbound.judge(&mut datagram.payload) {
                    Verdict::Deliver(at) => {
                        let whole = tables.opened(&datagram.payload[at], now);
                        let packet = whole.and_then(|whole| Packet::parse(&whole));
                        let left = packet.and_then(|packet| masquerade.leave(packet, now));
                        output.sent.extend(left.map(Outgoing::translated));
                    }
                    Verdict::Translate(at) => {
                        let whole = tables.opened(&datagram.payload[at], now);
                        let packet = whole.and_then(|whole| to_v6(&whole));
                        let left = packet.and_then(|packet| masquerade.leave(packet, now));
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
        datagram: Packet,
        now: Instant,
        output: &mut Output,
    ) -> bool {
        let now = self.clock.shows(now);
        match &mut self.machine {
            Machine::Terminal(terminal, tables) => {
                if tables.keep(&datagram) {
                    return true;
                }
                let Err(Refused { why, answer }) = tables.send(&datagram, &mut output.sent) else {
                    return true;
                };
                // An application whose connection has ended knows at once (T4.2.5-b).
                output.delivered.extend(answer);
                if let NotSent::NoPath(flow) = why {
                    terminal.handle_no_path(flow, now);
                }
                return false;
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

    /// Its machine, if it is a terminal's, hears of its interfaces. What it decides about the way of packets comes before the routes of now.
    pub(crate) fn hear(&mut self, now: Instant, output: &mut Output) {
        let (addresses, now) = (self.addresses(), self.clock.shows(now));
        if let Machine::Terminal(terminal, _) = &mut self.machine {
            terminal.handle_addresses(&addresses, now);
        }
        self.drain(output);
        if let Machine::Terminal(_, tables) = &mut self.machine {
            tables.reroute(|to| route(&self.interfaces, to));
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
                        terminal::Event::Data(update) => {
                            tables.apply_routed(&update, |to| route(&self.interfaces, to));
                        }
                        terminal::Event::Answer { query, answer } => output.answers.push((query, answer)),
                        // Applications take it from the machine.
                        terminal::Event::Vip(_) => output.readdressed = true,
                    }
                }
                output.observations.extend(std::iter::from_fn(|| terminal.poll_observation()));
                for packet in tables.released() {
                    let refused = tables.send(&packet, &mut output.sent).err();
                    output.delivered.extend(refused.and_then(|refused| refused.answer));
                }
            }
        }
        let outgoing = |transmit: ntm_protocol::session::Transmit| Outgoing::ntm(transmit.to, transmit.bytes);
        output.sent.extend(transmits.into_iter().map(outgoing));
    }
}

/// A packet that came out of a tunnel, translated into IPv6 as the relay's data plane does it (T3.1-d).
fn to_v6(packet: &[u8]) -> Option<Packet> {
    /// What the translation needs in front.
    const ROOM: usize = siit::LONGER + 8;
    let mut buffer = vec![0; ROOM];
    buffer.extend_from_slice(packet);
    let end = buffer.len();
    siit::to_v6(&mut buffer, ROOM..end).and_then(|place| Packet::parse(&buffer[place]))
}

/// A packet that is for a tunnel, translated from IPv6.
fn to_v4(packet: &Packet) -> Option<Packet> {
    let mut bytes = packet.emit();
    // By this number nothing is put together: what is cut up is numbered then.
    let place = siit::to_v4(&mut bytes, None, &mut 0)?;
    let translated = Packet::parse(&bytes[place])?;
    // What came in pieces goes on in pieces.
    Some(Packet { whole: translated.whole && packet.whole, ..translated })
}

/// What a relay does with a general node's packet, which its masquerade let in: its kernel sends it into the virtual interface, or tells that it is too long for
/// that, and its data plane seals it.
fn send_back(
    packet: Packet,
    tables: &mut Tables,
    masquerade: &mut Masquerade,
    now: Instant,
    output: &mut Output,
) {
    let is_v6 = packet.source.is_ipv6();
    // What fills the tunnel in IPv4 is longer in IPv6.
    let mtu = VIRTUAL + if is_v6 { siit::LONGER as u16 } else { 0 };
    let told = if packet.whole && packet.length() > mtu.into() {
        Trouble::about(&packet, Why::TooBig { mtu }, packet.destination.ip())
    } else {
        let Some(inner) = (if is_v6 { to_v4(&packet) } else { Some(packet) }) else { return };
        match tables.send(&inner, &mut output.sent) {
            // Of the rest a relay tells nobody.
            Err(Refused { why: NotSent::TooBig { .. }, answer: Some(answer) }) if is_v6 => {
                to_v6(&answer.emit())
            }
            Err(Refused { why: NotSent::TooBig { .. }, answer }) => answer,
            _ => None,
        }
    };
    let left = told.and_then(|told| masquerade.leave(told, now));
    output.sent.extend(left.map(Outgoing::translated));
}
