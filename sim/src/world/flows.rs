//! Flows: applications with two ends, and the TCP of their hosts.

use std::collections::BTreeSet;

use ntm_protocol::addr::Fqdn;
use ntm_protocol::time::Instant;
use rand_core::Rng;

use super::World;
use super::run::Event;
use crate::HostId;
use crate::flow::{By, Ends, Flow, FlowId, Outcome, Segments, Task};
use crate::host::{Outgoing, Output, Part};
use crate::packet::{Packet, Protocol};
use crate::pieces::ETHERNET;
use crate::stack::Stack;
use crate::tables::VIRTUAL;
use crate::talk::Talk;
use crate::trouble::{Trouble, Why};

impl World {
    /// An application of `client` asks for `name`, which is that of `server`, and does `task` with the application that is at `port` there. Questions
    /// for a name are its whole task; what they are answered by the network has no application at a `port`.
    pub fn flow(&mut self, client: HostId, server: HostId, name: &Fqdn, port: u16, task: Task) -> FlowId {
        let id = FlowId(self.flows.len());
        if task.has_tcp() {
            [client, server].into_iter().for_each(|host| self.equip(host));
        }
        let asks = task.asks_first();
        let ends = (client, server, name.clone(), port);
        let flow = Flow::new(ends, task, self.flows.last(), self.now);
        for host in BTreeSet::from([client, server]) {
            self.flows_at.entry(host).or_default().push(id);
        }
        let ports = flow.own_ports.clone().map(|port| (client, port)).chain([(server, port)]);
        for end in ports.collect::<BTreeSet<_>>() {
            self.flows_by_port.entry(end).or_default().push(id);
        }
        if flow.segments.is_some() {
            for port in flow.own_ports.clone().chain([port]).collect::<BTreeSet<_>>() {
                self.noted.entry(port).or_default().push(id);
            }
        }
        self.flows.push(flow);
        if asks {
            self.ask_for(id);
        }
        self.act(id);
        id
    }

    /// The flows of which a host is an end, in their order.
    fn flows_at(&self, host: HostId) -> impl Iterator<Item = FlowId> + use<'_> {
        self.flows_at.get(&host).into_iter().flatten().copied()
    }

    /// The first flow that has an end at `port` of `host` and is the one that is looked for.
    fn flow_of(&self, host: HostId, port: u16, is_it: impl Fn(&Flow) -> bool) -> Option<FlowId> {
        let mut flows = self.flows_by_port.get(&(host, port)).into_iter().flatten();
        flows.find(|id| is_it(&self.flows[id.0])).copied()
    }

    /// The flow's client asks for the name.
    fn ask_for(&mut self, id: FlowId) {
        let flow = &self.flows[id.0];
        let talk = self.question(flow.client, flow.name.clone());
        if let Some(before) = self.flows[id.0].talk.replace(talk) {
            self.talks[before.0].flow = None;
        }
        self.talks[talk.0].flow = Some(id);
    }

    /// A flow is to act at `wake`, and at no other time before that.
    fn set_wake(&mut self, id: FlowId, wake: Option<Instant>) {
        let flow = &mut self.flows[id.0];
        if let Some(before) = std::mem::replace(&mut flow.wake, wake) {
            self.due.remove(&(flow.client, before, id));
        }
        self.due.extend(wake.map(|at| (flow.client, at, id)));
    }

    /// A flow is to act now, after what happens now anyway.
    pub(super) fn rouse(&mut self, id: FlowId) {
        self.queue.push(self.now, Event::Flow(id));
        self.set_wake(id, Some(self.now));
    }

    /// Whether a flow has ended.
    pub fn has_ended(&self, id: FlowId) -> bool {
        self.flows[id.0].application.has_ended()
    }

    /// What came of a flow so far.
    pub fn outcome(&self, id: FlowId) -> Outcome {
        self.flows[id.0].application.outcome()
    }

    /// The last question that a flow's client asked for its server's name.
    pub fn question_of(&self, id: FlowId) -> Option<&Talk> {
        self.flows[id.0].talk.map(|talk| &self.talks[talk.0])
    }

    /// The flow's applications are gone, as when their programs are killed.
    pub fn end_flow(&mut self, id: FlowId) {
        self.flows[id.0].over = true;
    }

    /// The segments of a flow's connection, where every byte of it is known ([`Task::Echo`]).
    pub fn segments(&self, id: FlowId) -> Option<&Segments> {
        self.flows[id.0].segments.as_ref()
    }

    /// The programs of a host are gone, and its TCP with them, as where the machine itself stops.
    pub fn end_applications(&mut self, id: HostId) {
        for flow in self.flows_at.get(&id).into_iter().flatten() {
            let flow = &mut self.flows[flow.0];
            flow.over |= !flow.application.outlives(id, flow.client);
        }
        if self.stacks.remove(&id).is_some() {
            self.equip(id);
        }
    }

    /// The address that an application of a host has.
    pub fn application_address(&self, id: HostId) -> Option<std::net::Ipv4Addr> {
        self.own_address(id)
    }

    /// Gives a host its TCP.
    fn equip(&mut self, host: HostId) {
        let seed = self.rng.next_u64();
        let (addresses, mtu) = (self.own_addresses(host), self.mtu(host));
        self.stacks.entry(host).or_insert_with(|| Stack::new(&addresses, mtu, seed, self.now));
    }

    /// The longest packet that an application of a host can send, in bytes.
    fn mtu(&self, host: HostId) -> usize {
        if self.is_terminal(host) { self.settings.mtu } else { ETHERNET.into() }
    }

    /// A flow acts: its own time has come, or something has changed.
    pub(super) fn act(&mut self, id: FlowId) {
        while self.act_once(id) {
            let flow = &self.flows[id.0];
            [flow.client, flow.server].into_iter().for_each(|host| self.poll_stack(host));
        }
    }

    fn act_once(&mut self, id: FlowId) -> bool {
        self.with_ends(id, |flow, ends| flow.application.act(ends))
    }

    /// Lets a flow do something, and sends what it sends.
    fn with_ends(&mut self, id: FlowId, act: impl FnOnce(&mut Flow, &mut Ends<'_>) -> bool) -> bool {
        let flow = &self.flows[id.0];
        if flow.over || flow.application.has_ended() {
            return false;
        }
        self.progress += 1;
        let (own, real) = (self.own_address(flow.client), self.real_address(flow.client));
        let answer = flow.talk.and_then(|talk| self.talks[talk.0].answer);
        let mtu = self.mtu(flow.client).min(self.mtu(flow.server));
        let flow = &mut self.flows[id.0];
        let (mtus, hosts) = (&self.mtus, &self.hosts);
        let own_mtu = |host: HostId| match hosts[host.0].part {
            Part::Terminal { .. } => VIRTUAL,
            _ => ETHERNET,
        };
        let mtu_to = |host, to| mtus.get(&(host, to)).copied().unwrap_or(ETHERNET).min(own_mtu(host));
        let mut ends = Ends {
            now: self.now,
            client: flow.client,
            server: flow.server,
            port: flow.port,
            own_port: flow.own_ports.start,
            own,
            peer: answer.and_then(|(_, answer)| answer.ok()),
            answer,
            real,
            mtu,
            mtu_to: &mtu_to,
            stacks: &mut self.stacks,
            sent: Vec::new(),
            ask_again: false,
        };
        let acted = act(flow, &mut ends);
        let (sent, asks) = (ends.sent, ends.ask_again);
        let wake = flow.application.wake(self.now).map(|at| at.max(self.now));
        if wake != flow.wake {
            self.set_wake(id, wake);
            if let Some(at) = wake {
                self.queue.push(at, Event::Flow(id));
            }
        }
        for (host, by, packet) in sent {
            self.leave(host, by, packet);
        }
        if asks {
            self.ask_for(id);
            // A name that is known is answered at once, before anybody knows who asked.
            if self.question_of(id).is_some_and(|talk| talk.answer.is_some()) {
                self.rouse(id);
            }
        }
        acted
    }

    /// A packet of an application leaves its host.
    fn leave(&mut self, host: HostId, by: By, packet: Packet) {
        let mut output = Output::default();
        match by {
            By::Application => drop(self.dispatch(host, packet, &mut output)),
            By::Real => output.sent.push(Outgoing::plain(packet)),
        }
        self.settle(host, output);
    }

    /// Notes something of the segments of each connection that has an end at `port`; whether that is the client's, and its host, are told.
    fn note(&mut self, port: u16, note: impl Fn(&mut Segments, bool, HostId)) {
        for id in self.noted.get(&port).into_iter().flatten() {
            let flow = &mut self.flows[id.0];
            let is_clients = flow.own_ports.contains(&port);
            let end = if is_clients { flow.client } else { flow.server };
            flow.segments.iter_mut().for_each(|segments| note(segments, is_clients, end));
        }
    }

    fn note_sent(&mut self, host: HostId, packet: &Packet) {
        let now = self.now;
        self.note(packet.source.port(), |segments, by_client, end| {
            if host == end {
                segments.leaves(by_client, packet, now);
            }
        });
    }

    fn note_came(&mut self, host: HostId, packet: &Packet) {
        let now = self.now;
        self.note(packet.destination.port(), |segments, to_client, end| {
            segments.comes(!to_client, host != end, packet, now);
        });
    }

    /// The TCP of a host does what is due, and so do the flows that see it.
    pub(super) fn poll_stack(&mut self, host: HostId) {
        let now = self.now;
        loop {
            let Some(stack) = self.stacks.get_mut(&host) else { return };
            let (sent, changed) = stack.poll(now);
            for packet in sent {
                self.note_sent(host, &packet);
                self.leave(host, By::Application, packet);
            }
            let flows: Vec<FlowId> = self.flows_at(host).filter(|_| changed).collect();
            // All of them, whatever the first one does.
            let acted: Vec<FlowId> = flows.into_iter().filter(|id| self.act_once(*id)).collect();
            // What they did may be for the other host to send.
            for id in &acted {
                let flow = &self.flows[id.0];
                let other = if flow.client == host { flow.server } else { flow.client };
                self.poll_stack(other);
            }
            if acted.is_empty() {
                break;
            }
        }
        let Some(stack) = self.stacks.get_mut(&host) else { return };
        let wake = stack.poll_at(now);
        if wake != stack.wake {
            stack.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Stack(host));
            }
        }
    }

    /// The time of a host's TCP has come, unless it has changed its mind.
    pub(super) fn wake_stack(&mut self, host: HostId) {
        let now = self.now;
        if let Some(stack) = self.stacks.get_mut(&host).filter(|stack| stack.wake == Some(now)) {
            stack.wake = None;
            self.poll_stack(host);
        }
    }

    /// The time of a flow has come, unless it has changed its mind. Flows of one client whose time is the same act in their order, whichever said so first.
    pub(super) fn wake_flow(&mut self, id: FlowId) {
        let (client, now) = (self.flows[id.0].client, self.now);
        let first = |due: &BTreeSet<(HostId, Instant, FlowId)>| {
            due.range((client, now, FlowId(0))..=(client, now, FlowId(usize::MAX))).next().copied()
        };
        while let Some((.., id)) = first(&self.due) {
            self.set_wake(id, None);
            self.act(id);
        }
    }

    /// Takes a packet that is for an application of a flow; gives back one that is not.
    pub(super) fn deliver_to_flow(&mut self, host: HostId, datagram: Packet) -> Option<Packet> {
        if datagram.protocol == Protocol::Tcp {
            self.note_came(host, &datagram);
            if let Some(stack) = self.stacks.get_mut(&host) {
                stack.receive(&datagram);
                self.poll_stack(host);
            }
            return None;
        }
        let is_udp = datagram.protocol == Protocol::Udp;
        let takes = |flow: &Flow| is_udp && flow.takes(host, &datagram);
        let Some(id) = self.flow_of(host, datagram.destination.port(), takes) else { return Some(datagram) };
        self.with_ends(id, |flow, ends| {
            flow.application.take(ends, host, &datagram);
            false
        });
        self.act(id);
        None
    }

    /// An ICMP error has come to a host: whose packet it is about is told, and who sends there later knows what passes.
    pub(super) fn take_trouble(&mut self, host: HostId, Trouble { why, quoted }: Trouble) {
        if let Why::TooBig { mtu } = why {
            self.mtus.insert((host, quoted.destination.ip()), mtu);
            if let Some(stack) = self.stacks.get_mut(&host) {
                stack.narrow(mtu, self.rng.next_u64(), self.now);
            }
            self.note(quoted.source.port(), |segments, by_client, end| {
                if host == end {
                    segments.narrows(by_client, mtu);
                }
            });
        }
        let port = quoted.source.port();
        if quoted.protocol == Protocol::Icmp && why == Why::Other {
            let peer = quoted.destination.ip();
            let asks = |talk: &&mut Talk| {
                talk.host == host && talk.port == port && talk.address().is_some_and(|its| its == peer)
            };
            if let Some(talk) = self.talks.iter_mut().find(asks) {
                talk.unreachable += 1;
                self.progress += 1;
            }
        }
        let is_about = |flow: &Flow| {
            let is_clients = flow.client == host && flow.own_ports.contains(&port);
            let is_servers = flow.server == host && port == flow.port;
            quoted.protocol == Protocol::Udp && !flow.over && (is_clients || is_servers)
        };
        if let Some(id) = self.flow_of(host, port, is_about) {
            self.with_ends(id, |flow, ends| {
                flow.application.told(ends, host, why);
                false
            });
            self.act(id);
        }
    }

    /// The host's own addresses may be others now.
    pub(super) fn readdress_stack(&mut self, host: HostId) {
        let addresses = self.own_addresses(host);
        if let Some(stack) = self.stacks.get_mut(&host).filter(|_| !addresses.is_empty()) {
            stack.readdress(&addresses);
        }
    }
}
