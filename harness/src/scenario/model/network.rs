//! What there is: links, routers, nodes with their roles, tunnels.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use ntm_nat::Behaviour;
use ntm_protocol::addr::{Fqdn, VipRange};
use serde::Serialize;
use toml::Spanned;

use crate::foreign::program::Program;
use crate::scenario::prefix::Prefix;

/// What a link does to packets, each way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Link {
    /// From the node towards the network.
    pub up: Shape,
    /// From the network towards the node.
    pub down: Shape,
    /// Whether each packet passes by itself, as over hardware that neither cuts up nor puts together.
    pub single: bool,
}

/// What one direction of a link does to packets. All zero: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Shape {
    /// Bits per second.
    pub rate: Option<u64>,
    /// One way.
    pub delay: Duration,
    /// Standard deviation of the delay.
    pub jitter: Duration,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Share of packets that overtake those under way, 0 to 1.
    pub reorder: f64,
    /// Share of packets that come twice, 0 to 1.
    pub duplicate: f64,
}

impl Link {
    /// Whether either direction does more to packets than to limit their rate.
    pub fn impairs(&self) -> bool {
        self.up.impairs() || self.down.impairs()
    }
}

impl Shape {
    /// Whether packets are delayed, jittered, lost, reordered or doubled, which takes more than a rate limiter.
    pub fn impairs(&self) -> bool {
        let shares = [self.loss, self.reorder, self.duplicate];
        !self.delay.is_zero() || !self.jitter.is_zero() || shares.iter().any(|share| *share > 0.0)
    }
}

/// A router, with its private or routed network behind it.
#[derive(Debug, Clone)]
pub struct Router {
    /// How it translates.
    pub nat: Spanned<Behaviour>,
    /// Its outer address; chosen where absent.
    pub address: Option<Spanned<Ipv4Addr>>,
    /// The prefix behind it; chosen where absent.
    pub subnet: Option<Spanned<Prefix>>,
    /// The link on its outer side.
    pub link: Option<Spanned<String>>,
    /// The longest packet that it passes on, in bytes.
    pub mtu: Option<u16>,
    /// The families of the network behind it.
    pub ip: Spanned<Ip>,
    /// Hosts behind it that are reached from outside at its address: the ports of their flows' servers lead to them.
    pub forward: Vec<Spanned<String>>,
}

/// Nodes that are described together.
#[derive(Debug, Clone)]
pub struct Group {
    /// Their names, in order.
    pub nodes: Vec<String>,
    /// Where the file says how many there are.
    pub place: Range<usize>,
}

/// A tunnel by another program, between two general nodes.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Which program.
    pub program: Program,
    /// The node that begins.
    pub from: Spanned<String>,
    /// The node that waits for it.
    pub to: Spanned<String>,
}

impl Tunnel {
    /// What the node `to` is called through the tunnel called `name`, at `from`.
    pub fn fqdn(name: &str, to: &str) -> Option<Fqdn> {
        Fqdn::new(&format!("{to}.{name}.tunnel")).ok()
    }
}

/// The address families of a network, or of an interface on it (T3.1-d).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl Ip {
    /// The words of scenario files.
    pub const WORDS: &[(&str, Ip)] = &[("v4", Self::V4), ("v6", Self::V6), ("both", Self::Both)];

    /// Whether IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// A host.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub role: Role,
    /// Its real interfaces, in the order of the file; never empty in a checked scenario.
    pub interfaces: Vec<Interface>,
}

/// One real interface of a host.
#[derive(Debug, Clone)]
pub struct Interface {
    /// As the kernel will call it.
    pub name: Spanned<String>,
    /// The network it is on.
    pub at: Spanned<Place>,
    /// What stands between it and that network.
    pub link: Option<Spanned<String>>,
    /// Whether it is up when the run begins.
    pub up: bool,
    /// Its address in IPv4; chosen where absent.
    pub address: Option<Spanned<Ipv4Addr>>,
    /// The families that it has addresses of; where absent IPv4, or behind a router those of its network.
    pub ip: Option<Spanned<Ip>>,
}

/// A network that an interface can be on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The outer network.
    Internet,
    /// Behind the router of that name.
    Behind(String),
}

/// What a host is.
#[derive(Debug, Clone)]
pub enum Role {
    /// An ordinary DNS server; `zone` is the one it is made for, `None` the root.
    Dns {
        /// The origin; `None` for the root.
        zone: Option<Fqdn>,
    },
    /// A Direction Coordinator.
    Coordinator(Coordinator),
    /// A relay, at the service of these coordinators.
    Relay {
        /// Names of nodes.
        coordinators: Vec<Spanned<String>>,
        /// Who switches tunnels; the daemon's own default where nothing is said.
        rs_s: Option<&'static str>,
    },
    /// A node without NTMobile.
    General {
        /// Its name in the DNS, if it has one.
        name: Option<Spanned<Fqdn>>,
    },
    /// An NTM terminal.
    Terminal(Terminal),
}

/// What a scenario says of a Direction Coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// The zone it serves; its terminals are named in it.
    pub zone: Spanned<Fqdn>,
    /// The virtual addresses it hands out (T3.1-a).
    pub vips: Spanned<VipRange>,
    /// The period it tells its terminals.
    pub keepalive: Option<Duration>,
    /// How it picks a relay (T4-a).
    pub relay_selection: Option<&'static str>,
    /// The cipher suite of its terminals' paths.
    pub suite: Option<&'static str>,
}

/// What a scenario says of an NTM terminal.
#[derive(Debug, Clone)]
pub struct Terminal {
    /// Its coordinator.
    pub coordinator: Spanned<String>,
    /// How long a path stays that nobody uses; the daemon's own default where nothing is said.
    pub lifetime: Option<Duration>,
    /// How long a data thread looks for more before it blocks; the daemon's own default where nothing is said.
    pub spin: Option<Duration>,
    /// What it does on a handover; the daemon's own default where nothing is said.
    pub handover: Option<&'static str>,
}

/// What a terminal may do on a handover.
pub const HANDOVERS: &[(&str, &str)] = &[("thesis", "thesis"), ("fast", "fast")];

/// Who may switch a relay's tunnels.
pub const SWITCHERS: &[(&str, &str)] = &[("auto", "auto"), ("userspace", "userspace"), ("tcx", "tcx")];

/// How a coordinator may pick a relay.
pub const SELECTIONS: &[(&str, &str)] = &[("best", "best"), ("random", "random"), ("first", "first")];

/// The cipher suites for data.
pub const SUITES: &[(&str, &str)] =
    &[("none", "none"), ("aes-128-cbc", "aes-128-cbc"), ("aes-128-gcm", "aes-128-gcm")];
