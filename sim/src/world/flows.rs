//! Flows: applications with two ends, and the TCP of their hosts.

use std::net::SocketAddr;

use ntm_protocol::addr::Fqdn;
use rand_core::Rng;

use super::World;
use super::run::Event;
use crate::HostId;
use crate::flow::{Ends, Flow, FlowId, Outcome, Task, own_port};
use crate::host::Output;
use crate::network::Datagram;
use crate::packet::{Packet, Protocol};
use crate::stack::Stack;

impl World {
    /// An application of `client` asks for `name`, which is that of `server`, and does `task` with the application that is at `port` there.
    pub fn flow(&mut self, client: HostId, server: HostId, name: &Fqdn, port: u16, task: Task) -> FlowId {
        let id = FlowId(self.flows.len());
        if matches!(task, Task::Transfer(_) | Task::Page(_)) {
            [client, server].into_iter().for_each(|host| self.equip(host));
        }
        let talk = self.question(client, name.clone());
        self.flows.push(Flow::new((client, server, port), talk, task, self.now));
        self.act(id);
        id
    }

    /// Whether a flow has ended.
    pub fn has_ended(&self, id: FlowId) -> bool {
        self.flows[id.0].application.has_ended()
    }

    /// What came of a flow so far.
    pub fn outcome(&self, id: FlowId) -> Outcome {
        self.flows[id.0].application.outcome()
    }

    /// The question that a flow's client asked for its server's name.
    pub fn question_of(&self, id: FlowId) -> &crate::Talk {
        &self.talks[self.flows[id.0].talk.0]
    }

    /// The flow's applications are gone, as when their programs are killed.
    pub fn end_flow(&mut self, id: FlowId) {
        self.flows[id.0].over = true;
    }

    /// The address that an application of a host has.
    pub fn application_address(&self, id: HostId) -> Option<std::net::Ipv4Addr> {
        self.own_address(id)
    }

    /// Gives a host its TCP.
    fn equip(&mut self, host: HostId) {
        let seed = self.rng.next_u64();
        let address = self.own_address(host).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
        let mtu = if self.is_terminal(host) { self.settings.mtu } else { 1500 };
        self.stacks.entry(host).or_insert_with(|| Stack::new(address, mtu, seed, self.now));
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
        let (own, peer) = (self.own_address(flow.client), self.talks[flow.talk.0].address());
        let flow = &mut self.flows[id.0];
        let mut ends = Ends {
            now: self.now,
            client: flow.client,
            server: flow.server,
            port: flow.port,
            own_port: own_port(id),
            own,
            peer,
            stacks: &mut self.stacks,
            sent: Vec::new(),
        };
        let acted = act(flow, &mut ends);
        let sent = ends.sent;
        let wake = flow.application.wake(self.now).map(|at| at.max(self.now));
        if wake != flow.wake {
            flow.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Flow(id));
            }
        }
        for (host, packet) in sent {
            self.leave(host, packet);
        }
        acted
    }

    /// A packet of an application leaves its host.
    fn leave(&mut self, host: HostId, packet: Packet) {
        let mut output = Output::default();
        self.dispatch(host, packet.into(), &mut output);
        self.settle(host, output);
    }

    /// The TCP of a host does what is due, and so do the flows that see it.
    pub(super) fn poll_stack(&mut self, host: HostId) {
        let now = self.now;
        loop {
            let Some(stack) = self.stacks.get_mut(&host) else { return };
            let (sent, changed) = stack.poll(now);
            for packet in sent {
                self.leave(host, packet);
            }
            let of_host = |flow: &Flow| flow.client == host || flow.server == host;
            let flows: Vec<FlowId> = self
                .flows
                .iter()
                .enumerate()
                .filter(|(_, flow)| of_host(flow))
                .map(|(id, _)| FlowId(id))
                .collect();
            // All of them, whatever the first one does.
            let acted = changed && flows.into_iter().fold(false, |acted, id| self.act_once(id) | acted);
            if !acted {
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

    pub(super) fn wake_flow(&mut self, id: FlowId) {
        let flow = &mut self.flows[id.0];
        if flow.wake == Some(self.now) {
            flow.wake = None;
            self.act(id);
        }
    }

    /// Takes a packet that is for an application of a flow; gives back one that is not.
    pub(super) fn deliver_to_flow(&mut self, host: HostId, datagram: Datagram) -> Option<Datagram> {
        if datagram.protocol == Protocol::Tcp {
            if let (Some(stack), Some(packet)) = (self.stacks.get_mut(&host), Packet::of(datagram)) {
                stack.receive(&packet);
                self.poll_stack(host);
            }
            return None;
        }
        let at = |end: SocketAddr| end.port();
        let takes = |(id, flow): (usize, &Flow)| {
            let id = FlowId(id);
            let to_server = flow.server == host && at(datagram.destination) == flow.port;
            let to_client = flow.client == host && at(datagram.destination) == own_port(id);
            let takes = !flow.over && !flow.application.has_ended() && datagram.protocol == Protocol::Udp;
            (takes && (to_server || to_client)).then_some(id)
        };
        let Some(id) = self.flows.iter().enumerate().find_map(takes) else { return Some(datagram) };
        if let Some(packet) = Packet::of(datagram) {
            self.with_ends(id, |flow, ends| {
                flow.application.take(ends, host, &packet);
                false
            });
            self.act(id);
        }
        None
    }

    /// The host's own addresses may be others now.
    pub(super) fn readdress_stack(&mut self, host: HostId) {
        if let (Some(address), Some(stack)) = (self.own_address(host), self.stacks.get_mut(&host)) {
            stack.readdress(address);
        }
    }
}
