//! What happens next, and what comes of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::coordinator::lookup::{Lookup, LookupFailure, LookupId, LookupResult};
use ntm_protocol::coordinator::store::{Write, WriteId, WriteOutcome};
use ntm_protocol::observe::Observation;
use ntm_protocol::terminal::{QueryId, Terminal};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::DnsError;

use super::{Recorded, World};
use crate::HostId;
use crate::capture::Point;
use crate::flow::FlowId;
use crate::host::{Attached, Host, Machine, Outgoing, Output};
use crate::link::Way;
use crate::network::{Neighbour, NetworkId, Next, RouterId};
use crate::packet::{Packet, Protocol};
use crate::pieces::{self, ETHERNET};
use crate::talk::{self, Numbered, TalkId};
use crate::trouble::{Trouble, Why};

/// Small, for there are as many in the queue as there are terminals.
pub(super) enum Event {
    /// A datagram is on a network.
    On(NetworkId, Box<Packet>),
    /// A datagram is at the outer side of a router.
    At(RouterId, Box<Packet>),
    /// A datagram is at a host.
    Receive(HostId, Box<Packet>),
    /// A host knows the next hop of a datagram that it sends from an address in a network.
    Hop(HostId, Box<(NetworkId, IpAddr, Packet)>),
    /// A router does.
    RouterHop(RouterId, Box<(NetworkId, Packet)>),
    /// A host's machine wanted to be woken.
    Wake(HostId),
    /// The DNS answers the DC of this boot.
    Lookup(Box<(HostId, u64, LookupId, LookupResult)>),
    /// The disk of the DC of this boot has the write.
    Write(Box<(HostId, u64, WriteId, Write)>),
    /// The DC of this boot learns the outcome of a write.
    Written(Box<(HostId, u64, WriteId, WriteOutcome)>),
    /// The relay of this boot translates.
    Translated(Box<(HostId, u64, Vip, bool)>),
    /// An application sends its next packet.
    Tick(TalkId),
    /// A flow wanted to act.
    Flow(FlowId),
    /// A host's TCP wanted to act.
    Stack(HostId),
}

/// A machine that wants to be woken so often at one instant never comes to rest.
const MOST_WAKES: u32 = 10_000;

impl World {
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
            self.look_ahead();
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::On(network, datagram) => self.travel(network, datagram),
            Event::At(router, datagram) => {
                self.capture_outside(router, false, &datagram);
                if self.networks.is_too_big(router, &datagram) {
                    self.tell_too_big(router, self.networks.outside(router), &datagram);
                } else if let Some((network, datagram)) = self.networks.inward(router, *datagram, now) {
                    self.travel(network, Box::new(datagram));
                }
            }
            Event::Receive(id, datagram) => self.receive(id, *datagram),
            Event::Hop(id, leaving) => {
                let (network, address, datagram) = *leaving;
                // It may have left meanwhile.
                let still = |it: &&Attached| (it.network, it.address) == (network, address);
                if let Some(attached) = self.hosts[id.0].interfaces.iter().find(still).copied() {
                    self.leave_host(id, attached, datagram);
                }
            }
            Event::RouterHop(router, leaving) => {
                let (outside, datagram) = *leaving;
                self.leave_router(router, outside, datagram);
            }
            Event::Wake(id) => self.wake(id),
            Event::Lookup(answer) => {
                let (id, boot, lookup, result) = *answer;
                let host = &mut self.hosts[id.0];
                if let (Machine::Coordinator(dc), true) = (&mut host.machine, host.boots == boot) {
                    dc.handle_lookup(lookup, result, host.clock.shows(now));
                    self.settle(id, Output::default());
                }
            }
            Event::Write(write) => {
                let (id, boot, write_id, write) = *write;
                let host = &mut self.hosts[id.0];
                if host.boots == boot && host.is_running() {
                    let written = Box::new((id, boot, write_id, host.store.apply(write)));
                    self.queue.push(now + self.settings.write, Event::Written(written));
                }
            }
            Event::Written(written) => {
                let (id, boot, write_id, outcome) = *written;
                let host = &mut self.hosts[id.0];
                if let (Machine::Coordinator(dc), true) = (&mut host.machine, host.boots == boot) {
                    host.writing -= 1;
                    dc.handle_written(write_id, outcome, host.clock.shows(now));
                    self.settle(id, Output::default());
                }
            }
            Event::Translated(translated) => {
                let (id, boot, general, done) = *translated;
                let host = &mut self.hosts[id.0];
                if let (Machine::Relay(relay, ..), true) = (&mut host.machine, host.boots == boot) {
                    relay.handle_translated(general, done, host.clock.shows(now));
                    self.settle(id, Output::default());
                }
            }
            Event::Tick(talk) => self.tick(talk),
            Event::Flow(flow) => self.wake_flow(flow),
            Event::Stack(host) => self.wake_stack(host),
        }
    }

    fn travel(&mut self, network: NetworkId, datagram: Box<Packet>) {
        let far = self.networks.distance(network, &datagram);
        match self.networks.next(network, &datagram, self.now) {
            Next::Host(id, wire) => {
                let (pieces, now) = (frames(&datagram, self.networks.mtu(network)), self.now);
                let times = self.networks.wire(wire).pass(Way::Down, pieces, now).map(move |at| at + far);
                self.arrive(times, |datagram| Event::Receive(id, datagram), datagram);
            }
            Next::Up(router, outside, datagram) => {
                match self.hop(outside, Neighbour::Router(router), datagram.destination.ip()) {
                    Some(at) => {
                        self.queue.push(at, Event::RouterHop(router, Box::new((outside, datagram))));
                    }
                    None => self.leave_router(router, outside, datagram),
                }
            }
            Next::Down(router) => {
                let times = self
                    .networks
                    .uplink(router)
                    .pass(Way::Down, frames(&datagram, ETHERNET), self.now)
                    .map(move |at| at + far);
                self.arrive(times, |datagram| Event::At(router, datagram), datagram);
            }
            Next::Back(datagram) => {
                self.hairpins += 1;
                self.travel(network, Box::new(datagram));
            }
            Next::TooBig(router) => self.tell_too_big(router, network, &datagram),
            Next::Lost => {}
        }
    }

    /// A router tells the sender of a packet, which came to it from `network`, that it passes on nothing so long.
    fn tell_too_big(&mut self, router: RouterId, network: NetworkId, packet: &Packet) {
        let (mtu, from) = (self.networks.limit(router), self.networks.speaker(router, packet.source.ip()));
        let error = from.and_then(|from| Trouble::about(packet, Why::TooBig { mtu }, from));
        if let Some(error) = error {
            self.travel(network, Box::new(error));
        }
    }

    /// When `from` will know its next hop towards `to`, if it has to find out.
    fn hop(&mut self, network: NetworkId, from: Neighbour, to: IpAddr) -> Option<Instant> {
        let asks = self.settings.neighbours;
        asks.then(|| self.networks.ready(network, from, to, self.now)).filter(|at| *at > self.now)
    }

    /// A datagram leaves a router on its outer side.
    fn leave_router(&mut self, router: RouterId, outside: NetworkId, datagram: Packet) {
        let far = self.networks.distance(outside, &datagram);
        self.capture_outside(router, true, &datagram);
        let (mtu, now) = (self.networks.limit(router), self.now);
        let uplink = self.networks.uplink(router);
        let times = uplink.pass(Way::Up, frames(&datagram, mtu), now).map(move |at| at + far);
        self.arrive(times, |datagram| Event::On(outside, datagram), Box::new(datagram));
    }

    /// A datagram leaves a host by an interface.
    fn leave_host(&mut self, id: HostId, Attached { network, address, wire }: Attached, datagram: Packet) {
        self.capture(id, Point::Real(address), true, &datagram);
        let (pieces, now) = (frames(&datagram, ETHERNET), self.now);
        let times = self.networks.wire(wire).pass(Way::Up, pieces, now);
        self.arrive(times, |datagram| Event::On(network, datagram), Box::new(datagram));
    }

    /// A datagram arrives at each of `times`.
    fn arrive(
        &mut self,
        mut times: impl Iterator<Item = Instant>,
        event: impl Fn(Box<Packet>) -> Event,
        datagram: Box<Packet>,
    ) {
        let Some(first) = times.next() else { return };
        for later in times {
            self.queue.push(later, event(datagram.clone()));
        }
        self.queue.push(first, event(datagram));
    }

    fn send(&mut self, id: HostId, Outgoing { protocol, port, to, local, source, whole, bytes }: Outgoing) {
        // Where there is no address of the destination's family there is no way out.
        let of_family = |interface: &&Attached| interface.address.is_ipv4() == to.is_ipv4();
        let mut interfaces = self.hosts[id.0].interfaces.iter().filter(of_family);
        let kept = interfaces.clone().find(|interface| Some(interface.address) == local);
        let Some(Attached { network, address, wire }) = kept.or(interfaces.next()).copied() else { return };
        let source = SocketAddr::new(source.unwrap_or(address), port);
        let datagram = Packet { protocol, source, destination: to, whole, payload: bytes };
        let attached = Attached { network, address, wire };
        match self.hop(network, Neighbour::Host(address), to.ip()) {
            Some(at) => self.queue.push(at, Event::Hop(id, Box::new((network, address, datagram)))),
            None => self.leave_host(id, attached, datagram),
        }
    }

    fn receive(&mut self, id: HostId, datagram: Packet) {
        let destination = datagram.destination;
        // It may have moved away while the datagram was on the link.
        if !self.hosts[id.0].interfaces.iter().any(|interface| interface.address == destination.ip()) {
            return;
        }
        if let Some(recording) = &mut self.recording {
            let (at, bytes) = (self.now, datagram.payload.clone());
            recording.push(Recorded { at, host: id, from: datagram.source, to: destination, bytes });
        }
        self.capture(id, Point::Real(destination.ip()), false, &datagram);
        let mut output = Output::default();
        self.hosts[id.0].receive(datagram, self.now, &mut output);
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
    pub(super) fn settle(&mut self, id: HostId, mut output: Output) {
        let host = &mut self.hosts[id.0];
        host.drain(&mut output);
        let boot = host.boots;
        host.writing += output.writes.len();
        if let Some(trace) = &mut self.trace {
            // By the world's clock, whatever the host's shows.
            let (t, observations) = (self.now, output.observations.into_iter());
            trace.extend(observations.map(|(_, what)| Observation { t, node: host.name.clone(), what }));
        }
        if output.readdressed {
            self.readdress_stack(id);
        }
        for outgoing in output.sent {
            self.send(id, outgoing);
        }
        for (lookup_id, lookup) in output.lookups {
            let own = &self.hosts[id.0].interfaces;
            let speaks_to = |at: &IpAddr| own.iter().any(|own| own.address.is_ipv4() == at.is_ipv4());
            let alive = |at| {
                let runs = |host: &Host| host.is_running() || !host.addresses().contains(&at);
                speaks_to(&at) && self.hosts.iter().all(runs)
            };
            let (takes, result) = match &lookup {
                // No way leads there, which whoever asks knows at once.
                Lookup::Record { server, .. } if !speaks_to(server) => {
                    (Duration::ZERO, Err(LookupFailure::Timeout))
                }
                _ => self.dns.answer(&lookup, alive),
            };
            self.queue.push(self.now + takes, Event::Lookup(Box::new((id, boot, lookup_id, result))));
        }
        for (write_id, write) in output.writes {
            let event = Event::Write(Box::new((id, boot, write_id, write)));
            self.queue.push(self.now + self.settings.write, event);
        }
        for (general, done) in output.translated {
            let event = Event::Translated(Box::new((id, boot, general, done)));
            self.queue.push(self.now + self.settings.translate, event);
        }
        for (QueryId(query), answer) in output.answers {
            self.answered(TalkId(query as usize), answer.map(|vip| vip.0));
        }
        for datagram in output.delivered {
            self.deliver(id, datagram);
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

    /// An application of a host without NTMobile asks for a name, and is told at once, as by a hosts file.
    pub(super) fn look_up(&mut self, id: TalkId, name: &Fqdn) {
        let known = self.dns.known(name).into_iter().flatten();
        let first = known.copied().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        self.answered(id, first.ok_or(DnsError::NxDomain));
    }

    pub(super) fn answered(&mut self, id: TalkId, answer: Result<Ipv4Addr, DnsError>) {
        let Some(talk) = self.talks.get_mut(id.0).filter(|talk| talk.answer.is_none()) else { return };
        talk.answer = Some((self.now, answer));
        self.progress += 1;
        if answer.is_ok() && talk.period.is_some() {
            self.queue.push(self.now, Event::Tick(id));
        }
        if let Some(flow) = talk.flow {
            self.rouse(flow);
        }
    }

    /// The address that an application of a host has.
    pub(super) fn own_address(&self, id: HostId) -> Option<Ipv4Addr> {
        if self.is_terminal(id) {
            return self.at_terminal(id).and_then(Terminal::vip).map(|vip| vip.0);
        }
        self.real_address(id)
    }

    /// The addresses that a host's applications have, the preferred first.
    pub(super) fn own_addresses(&self, id: HostId) -> Vec<IpAddr> {
        match self.is_terminal(id) {
            true => self.own_address(id).map(IpAddr::V4).into_iter().collect(),
            false => self.hosts[id.0].addresses(),
        }
    }

    /// The address of a host's preferred interface.
    pub(super) fn real_address(&self, id: HostId) -> Option<Ipv4Addr> {
        self.hosts[id.0].interfaces.iter().find_map(|interface| match interface.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    fn tick(&mut self, id: TalkId) {
        let talk = &self.talks[id.0];
        let (Some(peer), Some(period), false) = (talk.address(), talk.period, talk.has_sent_all()) else {
            return;
        };
        let (host, number) = (talk.host, talk.packets.len());
        let mut output = Output::default();
        let is_real = talk.real;
        let own = if is_real { self.real_address(host) } else { self.own_address(host) };
        let had_path = own.is_some_and(|own| {
            let packet = self.talks[id.0].packet(id, number, own, peer);
            if is_real {
                output.sent.push(Outgoing::plain(packet));
                return true;
            }
            self.dispatch(host, packet, &mut output)
        });
        let packet = Numbered { sent: self.now, had_path, arrived: None, returned: None };
        self.talks[id.0].packets.push(packet);
        self.progress += 1;
        self.settle(host, output);
        self.queue.push(self.now + period, Event::Tick(id));
    }

    /// An application sends a datagram: whether there was a way.
    pub(super) fn dispatch(&mut self, id: HostId, packet: Packet, output: &mut Output) -> bool {
        self.capture_virtual(id, true, &packet);
        self.hosts[id.0].send_from_application(packet, self.now, output)
    }

    /// A packet came to an application: one that echoes, or one that counts echoes.
    fn deliver(&mut self, id: HostId, packet: Packet) {
        let now = self.now;
        if self.own_address(id).is_some_and(|own| IpAddr::V4(own) == packet.destination.ip()) {
            self.capture_virtual(id, false, &packet);
        }
        if let Some(trouble) = Trouble::of(&packet) {
            self.take_trouble(id, trouble);
            return;
        }
        let Some(packet) = self.deliver_to_flow(id, packet) else { return };
        let named = talk::parse(&packet);
        let known = named.and_then(|(talk, number)| Some((self.talks.get_mut(talk.0)?, number)));
        let known = known.filter(|(talk, number)| *number < talk.packets.len());
        if talk::is_request(&packet) {
            if let Some((talk, number)) = known {
                talk.reached.insert(id);
                talk.again += u32::from(talk.packets[number].arrived.is_some());
                talk.packets[number].arrived.get_or_insert(now);
            }
            self.hosts[id.0].heard.insert(packet.source);
            let mut output = Output::default();
            self.dispatch(id, packet.turned(), &mut output);
            self.settle(id, output);
        } else if let Some((talk, number)) = known {
            if (talk.host, talk.port) != (id, packet.destination.port()) {
                talk.astray += 1;
                return;
            }
            talk.again += u32::from(talk.packets[number].returned.is_some());
            talk.packets[number].returned.get_or_insert(now);
            self.progress += 1;
        } else if packet.protocol == Protocol::Udp
            && let Some(error) = Trouble::about(&packet, Why::Port, packet.destination.ip())
        {
            // Nobody listens there.
            let mut output = Output::default();
            self.dispatch(id, error, &mut output);
            self.settle(id, output);
        }
    }
}

/// What a packet is on a wire that takes packets of at most `mtu` bytes: the lengths of its frames, with Ethernet's headers.
fn frames(packet: &Packet, mtu: u16) -> impl Iterator<Item = usize> + use<> {
    const HEADER: usize = 14;
    pieces::lengths(packet, mtu).map(|length| length + HEADER)
}
