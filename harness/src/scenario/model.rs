//! What a scenario says, typed: the world, what happens in it, and what must hold. References are names that
//! [`resolve`](super::resolve) has checked; each keeps its place in the file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use ntm_nat::Behaviour;
use ntm_protocol::addr::{Fqdn, VipRange};
use serde::Serialize;
use toml::Spanned;

use super::matrix::Matrix;
use super::prefix::{Prefix, Site6};
use super::tables::TableSpec;
use crate::disturbance::Bounds;
use crate::flow::ftp::{self, Mode};
use crate::flow::pingpong;
use crate::foreign::program::Program;
use crate::judge::expr::Expr;
use crate::judge::sequence::Step;

/// A whole scenario file (`schema = 1`).
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Names the run's folder.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// Seeds whatever is random and need not be secret.
    pub seed: u64,
    /// Beyond what the machine disturbs the run.
    pub disturbance: Bounds,
    /// Whether packets are recorded.
    pub captures: bool,
    /// Whether the kernel's netem makes delays, where there is one.
    pub netem: bool,
    /// The capture points that are kept; all where empty.
    pub points: Vec<Spanned<String>>,
    /// The run ends with exit code 124 if it takes longer than this.
    pub timeout: Option<Duration>,
    /// The outer network.
    pub internet: Prefix,
    /// Where the IPv6 networks come from, of which the outer one is the first.
    pub internet6: Site6,
    /// `[link.NAME]`
    pub links: BTreeMap<String, Link>,
    /// `[router.NAME]`
    pub routers: BTreeMap<String, Router>,
    /// `[node.NAME]`
    pub nodes: BTreeMap<String, Node>,
    /// Those of them that are described together by a `count`, by the name that they have in common.
    pub groups: BTreeMap<String, Group>,
    /// `[tunnel.NAME]`
    pub tunnels: BTreeMap<String, Tunnel>,
    /// `[[flow]]`, in the order of the file.
    pub flows: Vec<Flow>,
    /// `[[at]]`, in the order of the file, which is that of time.
    pub actions: Vec<Action>,
    /// `[[expect]]`, in the order of the file.
    pub expectations: Vec<Expectation>,
    /// `[[table]]`, in the order of the file.
    pub tables: Vec<TableSpec>,
    /// Where the file has its seed, if it has one: bytes of the text.
    pub seed_place: Option<Range<usize>>,
    /// `[matrix]`
    pub matrix: Option<Matrix>,
}

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

/// Traffic between nodes, or a command.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Names it in expectations.
    pub id: Spanned<String>,
    /// The id that the file has, where it is one of those that each terminal of a group has.
    pub of: Option<String>,
    /// When it starts, from the moment all daemons are ready.
    pub start: Duration,
    /// It is ended after so long.
    pub duration: Option<Duration>,
    /// How it should end, where the scenario says so.
    pub ends: Option<End>,
    /// What it is.
    pub kind: FlowKind,
}

/// How a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did what it was there for.
    Complete,
    /// It ended by itself without that.
    Failed,
    /// Its time was over first.
    Cut,
}

impl End {
    /// Their words in scenario files and reports.
    pub const WORDS: &[(&str, Self)] =
        &[("complete", Self::Complete), ("failed", Self::Failed), ("cut", Self::Cut)];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

/// What a flow is.
#[derive(Debug, Clone)]
pub enum FlowKind {
    /// A transfer by iperf3, TCP's or UDP's.
    Iperf3 {
        /// Ends.
        ends: Ends,
        /// How long data flows.
        duration: Duration,
        /// Whether it is datagrams at a steady rate instead of TCP.
        udp: bool,
        /// Whether data flows from `to` to `from`.
        reverse: bool,
        /// At most this many bits per second.
        rate: Option<u64>,
        /// Data flows for so long before it is measured.
        omit: Duration,
        /// TCP's congestion control, as the kernel calls it; the kernel's own unless given.
        congestion: Option<String>,
        /// The sockets' buffers in bytes, which bound what is under way.
        window: Option<u64>,
        /// How many connections, or streams of datagrams, at once.
        streams: u64,
        /// What each write, or datagram, has in bytes; iperf3's own unless given.
        length: Option<u64>,
    },
    /// ICMP echo by name.
    Ping {
        /// Ends.
        ends: Ends,
        /// How many requests.
        count: u64,
        /// Time between them.
        interval: Duration,
    },
    /// DNS questions.
    Dns {
        /// Where they are asked.
        node: Spanned<String>,
        /// Who is asked; the node's own resolver unless given.
        server: Option<Spanned<String>>,
        /// The name asked for.
        name: Spanned<String>,
        /// The records asked for.
        record: RecordType,
        /// How many questions.
        count: u64,
        /// From one to the next.
        interval: Duration,
    },
    /// A page fetched with curl from an HTTP server.
    Http {
        /// Ends.
        ends: Ends,
        /// Bytes of the page.
        size: u64,
    },
    /// A file fetched by FTP with curl from vsftpd.
    Ftp {
        /// Ends.
        ends: Ends,
        /// Who opens the data connection.
        mode: Mode,
        /// Bytes of the file.
        size: u64,
        /// At most this many bits per second.
        rate: Option<u64>,
    },
    /// Calls by SIP with media by RTP, from sipp to sipp.
    Sip {
        /// Ends.
        ends: Ends,
        /// How many calls, one after the other.
        calls: u64,
        /// How long each is.
        duration: Duration,
        /// Whether there is a voice in them.
        media: bool,
    },
    /// UDP datagrams, each answered by one.
    Udp {
        /// Ends.
        ends: Ends,
        /// Payload of each, in bytes.
        size: u64,
        /// Payload of each answer.
        reply: u64,
        /// How many.
        count: u64,
        /// Time between them.
        interval: Duration,
        /// Whether both ends forbid to cut them up.
        whole: bool,
        /// Whether anybody answers.
        listen: bool,
    },
    /// Small messages over one TCP connection, each sent when the answer to the one before is there.
    PingPong {
        /// Ends.
        ends: Ends,
        /// How many.
        count: u64,
        /// Bytes of each, and of its answer.
        size: u64,
    },
    /// Numbered and timed datagrams in both directions at once.
    Probe {
        /// Ends.
        ends: Ends,
        /// How long each end sends.
        duration: Duration,
        /// Time between two of one end.
        interval: Duration,
        /// Payload of each, in bytes.
        size: u64,
    },
    /// Any command.
    Exec {
        /// Where it runs.
        node: Spanned<String>,
        /// The program and its arguments.
        command: Vec<String>,
        /// It is ended after this time.
        timeout: Duration,
    },
}

impl FlowKind {
    /// Its key in scenario files.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Iperf3 { .. } => "iperf3",
            Self::Ping { .. } => "ping",
            Self::Dns { .. } => "dns",
            Self::Http { .. } => "http",
            Self::Ftp { .. } => "ftp",
            Self::Sip { .. } => "sip",
            Self::Udp { .. } => "udp",
            Self::PingPong { .. } => "pingpong",
            Self::Probe { .. } => "probe",
            Self::Exec { .. } => "exec",
        }
    }

    /// The same with `from` as its client.
    pub fn with_client(mut self, from: &str) -> Self {
        match &mut self {
            Self::Iperf3 { ends, .. }
            | Self::Ping { ends, .. }
            | Self::Http { ends, .. }
            | Self::Ftp { ends, .. }
            | Self::Sip { ends, .. }
            | Self::Udp { ends, .. }
            | Self::PingPong { ends, .. }
            | Self::Probe { ends, .. } => ends.from = Spanned::new(ends.from.span(), from.to_owned()),
            Self::Dns { .. } | Self::Exec { .. } => {}
        }
        self
    }

    /// The ends, where it has two.
    pub fn ends(&self) -> Option<&Ends> {
        match self {
            Self::Iperf3 { ends, .. }
            | Self::Ping { ends, .. }
            | Self::Http { ends, .. }
            | Self::Ftp { ends, .. }
            | Self::Sip { ends, .. }
            | Self::Udp { ends, .. }
            | Self::PingPong { ends, .. }
            | Self::Probe { ends, .. } => Some(ends),
            Self::Dns { .. } | Self::Exec { .. } => None,
        }
    }
}

/// Who speaks to whom.
#[derive(Debug, Clone)]
pub struct Ends {
    /// The node that begins.
    pub from: Spanned<String>,
    /// What the application is given: the name of the node that answers.
    pub to: Spanned<Fqdn>,
}

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub struct Action {
    /// From the moment all daemons are ready.
    pub time: Duration,
    /// What happens.
    pub kind: ActionKind,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum ActionKind {
    /// A node leaves one network and joins another.
    Handover {
        /// Who moves.
        node: Spanned<String>,
        /// The interface it leaves.
        from: Spanned<String>,
        /// The interface it goes on with.
        to: Spanned<String>,
        /// Time without any network in between.
        gap: Duration,
        /// Time in both networks: the new one is there, and preferred, before the old goes. Never beside a gap.
        overlap: Duration,
    },
    /// An interface gets another address in the network where it is.
    Address {
        /// Whose.
        node: Spanned<String>,
        /// Which.
        interface: Spanned<String>,
        /// The new address.
        address: Spanned<Ipv4Addr>,
    },
    /// An interface is switched on or off.
    Interface {
        /// Whose.
        node: Spanned<String>,
        /// Which.
        name: Spanned<String>,
        /// On or off.
        up: bool,
    },
    /// A link changes what it does to packets.
    Link {
        /// Which.
        name: Spanned<String>,
        /// From then on.
        shape: Link,
    },
    /// A node's daemon is killed as by `kill -9`.
    Kill {
        /// Whose.
        node: Spanned<String>,
    },
    /// A daemon that was killed is started again, with the files that it left.
    Start {
        /// Whose.
        node: Spanned<String>,
    },
}

/// What must hold when the run is over.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// How it is checked.
    pub check: Check,
    /// The sentence to print when it does not hold.
    pub fail: String,
}

/// How an expectation is checked.
#[derive(Debug, Clone)]
pub enum Check {
    /// A truth over measured quantities.
    Expression(Spanned<Expr>),
    /// Observations in this order, others between them allowed.
    Sequence {
        /// Each with its place.
        steps: Vec<Spanned<Step>>,
        /// Only what came after this.
        after: Option<After>,
    },
}

/// From when on a sequence is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The first handover's new address.
    Handover,
    /// This long after the start.
    Time(Duration),
}

impl ActionKind {
    /// Whom it happens to, if that is a node or a group.
    pub fn node(&self) -> Option<&Spanned<String>> {
        match self {
            Self::Handover { node, .. }
            | Self::Address { node, .. }
            | Self::Interface { node, .. }
            | Self::Kill { node }
            | Self::Start { node } => Some(node),
            Self::Link { .. } => None,
        }
    }
}

impl Scenario {
    /// The nodes that `name` means: those of a group, or the one that is called so.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let group = self.groups.get(name).map(|group| group.nodes.iter().map(String::as_str));
        let alone = group.is_none().then_some(name);
        group.into_iter().flatten().chain(alone)
    }

    /// What its links are, and what the timeline makes of them.
    pub fn shapes(&self) -> impl Iterator<Item = &Link> {
        let changed = self.actions.iter().filter_map(|action| match &action.kind {
            ActionKind::Link { shape, .. } => Some(shape),
            _ => None,
        });
        self.links.values().chain(changed)
    }

    /// Whether any link is to be slower, or longer, than the machine.
    pub fn is_shaped(&self) -> bool {
        let shapes = |link: &Link| [link.up, link.down].iter().any(|way| way.rate.is_some() || way.impairs());
        self.shapes().any(shapes)
    }

    /// The families that an interface has addresses of.
    pub fn families(&self, interface: &Interface) -> Ip {
        let of_network = || match interface.at.get_ref() {
            Place::Internet => Ip::V4,
            Place::Behind(router) => self.routers.get(router).map_or(Ip::V4, |router| *router.ip.get_ref()),
        };
        interface.ip.as_ref().map_or_else(of_network, |ip| *ip.get_ref())
    }

    /// Whether anything in it has IPv6.
    pub fn has_ipv6(&self) -> bool {
        let interfaces = self.nodes.values().flat_map(|node| &node.interfaces);
        self.routers.values().any(|router| router.ip.get_ref().v6())
            || interfaces.into_iter().any(|interface| self.families(interface).v6())
    }

    /// The named links between an interface and the internet: its own, and that of the router that it is behind.
    pub fn links_of<'a>(&'a self, interface: &'a Interface) -> impl Iterator<Item = &'a Link> {
        let router = match interface.at.get_ref() {
            Place::Internet => None,
            Place::Behind(router) => self.routers.get(router),
        };
        let names = [interface.link.as_ref(), router.and_then(|router| router.link.as_ref())];
        names.into_iter().flatten().filter_map(|name| self.links.get(name.get_ref()))
    }

    /// The node that answers to `name`: a general node's own, a terminal's in its coordinator's zone, or the end of a tunnel.
    pub fn node_named(&self, name: &Fqdn) -> Option<(&str, &Node)> {
        self.nodes
            .iter()
            .find(|(key, node)| {
                let through = |(its, tunnel): (&String, &Tunnel)| {
                    tunnel.to.get_ref() == *key && Tunnel::fqdn(its, key).as_ref() == Some(name)
                };
                self.fqdn(key, node).as_ref() == Some(name) || self.tunnels.iter().any(through)
            })
            .map(|(key, node)| (key.as_str(), node))
    }

    /// A node's name in the DNS.
    pub fn fqdn(&self, key: &str, node: &Node) -> Option<Fqdn> {
        match &node.role {
            Role::General { name } => name.as_ref().map(|name| name.get_ref().clone()),
            Role::Terminal(terminal) => {
                let Role::Coordinator(dc) = &self.nodes.get(terminal.coordinator.get_ref())?.role else {
                    return None;
                };
                Fqdn::new(&format!("{key}.{}", dc.zone.get_ref())).ok()
            }
            Role::Coordinator(dc) => Fqdn::new(&format!("ns.{}", dc.zone.get_ref())).ok(),
            Role::Relay { coordinators, .. } => {
                let Role::Coordinator(dc) = &self.nodes.get(coordinators.first()?.get_ref())?.role else {
                    return None;
                };
                Fqdn::new(&format!("{key}.{}", dc.zone.get_ref())).ok()
            }
            Role::Dns { .. } => None,
        }
    }

    /// The addresses that an interface of `node` gets in the course of the run.
    pub fn later_addresses<'a>(
        &'a self,
        node: &'a str,
        its: &'a Interface,
    ) -> impl Iterator<Item = &'a Spanned<Ipv4Addr>> {
        self.actions.iter().filter_map(move |action| match &action.kind {
            ActionKind::Address { node: whose, interface, address } => {
                let is_its = whose.get_ref() == node && interface.get_ref() == its.name.get_ref();
                is_its.then_some(address)
            }
            _ => None,
        })
    }

    /// When the last flow should have ended and the last action be done.
    pub fn horizon(&self) -> Duration {
        let flows = self.flows.iter().map(|flow| {
            let needs = match &flow.kind {
                FlowKind::Iperf3 { duration, omit, .. } => *omit + *duration,
                FlowKind::Ping { count, interval, .. }
                | FlowKind::Dns { count, interval, .. }
                | FlowKind::Udp { count, interval, .. } => {
                    interval.saturating_mul(u32::try_from(*count).unwrap_or(u32::MAX))
                }
                FlowKind::Http { .. } => Duration::from_secs(10),
                FlowKind::PingPong { count, .. } => pingpong::time(*count),
                FlowKind::Ftp { size, rate, .. } => ftp::time(*size, *rate),
                FlowKind::Sip { calls, duration, .. } => {
                    duration.saturating_mul(u32::try_from(*calls).unwrap_or(u32::MAX))
                }
                FlowKind::Probe { duration, .. } => *duration,
                FlowKind::Exec { timeout, .. } => *timeout,
            };
            flow.start + flow.duration.map_or(needs, |limit| limit.min(needs))
        });
        let actions = self.actions.iter().map(|action| match &action.kind {
            ActionKind::Handover { gap, overlap, .. } => action.time + *gap + *overlap,
            _ => action.time,
        });
        flows.chain(actions).max().unwrap_or_default()
    }
}
