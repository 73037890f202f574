//! What can be seen of the world.

use std::net::{IpAddr, SocketAddr};

use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::Coordinator;
use ntm_protocol::observe::Observation;
use ntm_protocol::relay::Relay;
use ntm_protocol::terminal::Terminal;
use ntm_protocol::time::Instant;
use ntm_protocol::wire::NodeKind;

use super::{Recorded, World};
use crate::HostId;
use crate::host::{Machine, Part};
use crate::talk::{Talk, TalkId};

impl World {
    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many events happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A number that grows whenever a conversation or a flow may be another than before: who waits for that needs not look at them after each
    /// event.
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Every observation so far, in the order of time; none after [`forget`](Self::forget).
    pub fn trace(&self) -> &[Observation] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// The trace as JSON lines, in the form that the daemons write.
    pub fn json_lines(&self) -> String {
        let line =
            |observation| serde_json::to_string(observation).expect("an observation is plain data") + "\n";
        self.trace().iter().map(line).collect()
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

    /// Whether a host is an NTM terminal, running or not.
    pub fn is_terminal(&self, id: HostId) -> bool {
        matches!(self.hosts[id.0].part, Part::Terminal { .. })
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

    /// How many of a DC's writes are not durable yet, or not known to it to be.
    pub fn writing(&self, id: HostId) -> usize {
        self.hosts[id.0].writing
    }

    /// How often a NAT turned a datagram back into the network that it came from (RFC 4787, section 6).
    pub fn hairpins(&self) -> u64 {
        self.hairpins
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
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        let host = self.hosts.iter().find(|host| host.addresses().contains(&address));
        host.map(|host| host.name.as_str()).or_else(|| self.networks.router_at(address))
    }
}
