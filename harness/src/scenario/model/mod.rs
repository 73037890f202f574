//! What a scenario says, typed: the world (`network`), what happens in it (`flows`, `events`), and what must hold. References are names that
//! [`resolve`](super::resolve) has checked; each keeps its place in the file.

mod events;
mod flows;
mod network;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use ntm_protocol::addr::Fqdn;
use toml::Spanned;

use super::matrix::Matrix;
use super::prefix::{Prefix, Site6};
use super::tables::TableSpec;
use crate::disturbance::Bounds;

pub use events::{Action, ActionKind, After, Check, Expectation};
pub use flows::{End, Ends, Flow, FlowKind};
pub use network::{
    Coordinator, Group, HANDOVERS, Interface, Ip, Link, Node, Place, Role, Router, SELECTIONS, SUITES,
    SWITCHERS, Shape, Terminal, Tunnel,
};

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
    /// The nodes by the names that they answer to.
    pub names: BTreeMap<Fqdn, String>,
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
        let (key, node) = self.nodes.get_key_value(self.names.get(name)?)?;
        Some((key, node))
    }

    /// Says under which names nodes are found. A name that two have is that of the first.
    pub(super) fn name_nodes(&mut self) {
        let through = |(its, tunnel): (&String, &Tunnel)| {
            let (key, _) = self.nodes.get_key_value(tunnel.to.get_ref())?;
            Some((Tunnel::fqdn(its, key)?, key))
        };
        let own = self.nodes.iter().filter_map(|(key, node)| Some((self.fqdn(key, node)?, key)));
        let mut names = BTreeMap::new();
        for (name, key) in own.chain(self.tunnels.iter().filter_map(through)) {
            names.entry(name).or_insert_with(|| key.clone());
        }
        self.names = names;
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
            let needs = flow.kind.needs();
            flow.start + flow.duration.map_or(needs, |limit| limit.min(needs))
        });
        let actions = self.actions.iter().map(|action| match &action.kind {
            ActionKind::Handover { gap, overlap, .. } => action.time + *gap + *overlap,
            _ => action.time,
        });
        flows.chain(actions).max().unwrap_or_default()
    }
}
