//! What happens next, and what comes of it.

use std::net::{SocketAddr, SocketAddrV4};

use ntm_protocol::addr::Vip;
use ntm_protocol::coordinator::lookup::{LookupId, LookupResult};
use ntm_protocol::coordinator::store::{Write, WriteId, WriteOutcome};
use ntm_protocol::observe::Observation;
use ntm_protocol::terminal::{QueryId, Terminal};
use ntm_protocol::time::Duration;
use ntm_protocol::wire::DnsError;

use super::{Recorded, World};
use crate::HostId;
use crate::host::{Interface, Machine, Outgoing, Output};
use crate::link::Link;
use crate::network::{Datagram, NetworkId, Next, RouterId};
use crate::packet::Packet;
use crate::talk::{self, Numbered, TalkId};

pub(super) enum Event {
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
    pub(super) fn settle(&mut self, id: HostId, mut output: Output) {
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
                destination: SocketAddrV4::new(peer.0, talk::ECHO),
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
