//! What no single table can know: that names refer to something, that addresses do not clash, that expectations are about
//! what will be measured.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ntm_nat::Behaviour;
use toml::Spanned;

use super::measured::{self, Must};
use hickory_proto::rr::RecordType;

use super::model::{ActionKind, Check, Coordinator, End, FlowKind, Node, Place, Role, Scenario};
use super::parse::Parsed;
use super::prefix::Prefix;
use super::read::Problems;
use super::source::{Problem, suggest};
use super::tables::TableSpec;
use crate::judge::catalogue;
use crate::plan::config::{OUTSIDE, TUN};

/// Notes everything in the scenario that does not fit together.
pub fn resolve(parsed: &Parsed, problems: &Problems) {
    let check = Resolve { scenario: &parsed.scenario, nodes: &parsed.nodes, problems };
    check.places();
    check.families();
    check.forwards();
    check.roles();
    check.tunnels();
    check.names();
    check.ranges();
    check.addresses();
    check.flows();
    check.actions();
    check.expectations();
    check.points();
}

struct Resolve<'a> {
    scenario: &'a Scenario,
    nodes: &'a [String],
    problems: &'a Problems,
}

impl Resolve<'_> {
    fn note(&self, span: Range<usize>, message: String) {
        self.problems.add(Problem::new(span, message));
    }

    fn unknown<'n>(
        &self,
        name: &Spanned<String>,
        what: &str,
        known: impl IntoIterator<Item = &'n str> + Clone,
    ) {
        let hint = suggest(name.get_ref(), known);
        self.problems
            .add(Problem::new(name.span(), format!("there is no {what} `{}`", name.get_ref())).hint(hint));
    }

    fn link(&self, link: Option<&Spanned<String>>) {
        if let Some(link) = link
            && !self.scenario.links.contains_key(link.get_ref())
        {
            self.unknown(link, "link", self.scenario.links.keys().map(String::as_str));
        }
    }

    /// A host that a router forwards ports to is behind it, and is no terminal: terminals need no help.
    fn forwards(&self) {
        for (name, router) in &self.scenario.routers {
            for host in &router.forward {
                let behind = |node: &Node| {
                    let here = Place::Behind(name.clone());
                    matches!(node.role, Role::General { .. })
                        && node.interfaces.iter().any(|interface| *interface.at.get_ref() == here)
                };
                let known = self.scenario.nodes.iter().filter(|(_, node)| behind(node));
                let known: Vec<&str> = known.map(|(node, _)| node.as_str()).collect();
                if !known.contains(&host.get_ref().as_str()) {
                    self.unknown(host, &format!("general node behind `{name}` called"), known);
                }
                if *router.nat.get_ref() == Behaviour::None {
                    let message =
                        format!("`{name}` translates nothing: hosts behind it are reached as they are");
                    self.note(host.span(), message);
                }
            }
        }
    }

    /// The ends of a tunnel are two general nodes.
    fn tunnels(&self) {
        for (name, tunnel) in &self.scenario.tunnels {
            for end in [&tunnel.from, &tunnel.to] {
                self.node(end);
                let node = self.scenario.nodes.get(end.get_ref());
                if node.is_some_and(|node| !matches!(node.role, Role::General { .. })) {
                    let message =
                        format!("`{}` is no general node, as the ends of tunnels are", end.get_ref());
                    self.note(end.span(), message);
                }
            }
            if tunnel.from.get_ref() == tunnel.to.get_ref() {
                self.note(tunnel.to.span(), format!("the tunnel `{name}` ends where it begins"));
            }
        }
    }

    fn places(&self) {
        for router in self.scenario.routers.values() {
            self.link(router.link.as_ref());
        }
        for node in self.scenario.nodes.values() {
            for interface in &node.interfaces {
                self.link(interface.link.as_ref());
                if let Place::Behind(router) = interface.at.get_ref()
                    && !self.scenario.routers.contains_key(router)
                {
                    let name = Spanned::new(interface.at.span(), router.clone());
                    let known = self.scenario.routers.keys().map(String::as_str);
                    self.unknown(&name, "router", known.chain(["internet"]));
                }
            }
        }
    }

    /// What has addresses of which family (T3.1-d).
    fn families(&self) {
        for (name, router) in &self.scenario.routers {
            if router.ip.get_ref().v6() && router.mtu.is_some() {
                self.note(
                    router.ip.span(),
                    format!("`mtu` limits IPv4, and the network behind `{name}` has IPv6"),
                );
            }
            if !router.ip.get_ref().v4() && *router.nat.get_ref() != Behaviour::None {
                let message = format!(
                    "the network behind `{name}` has only IPv6, which no NAT translates: say nat = \"none\""
                );
                self.note(router.ip.span(), message);
            }
        }
        for (name, node) in &self.scenario.nodes {
            for interface in &node.interfaces {
                let own = self.scenario.families(interface);
                let router = match interface.at.get_ref() {
                    Place::Internet => None,
                    Place::Behind(router) => self.scenario.routers.get_key_value(router),
                };
                if let (Some(ip), Some((router, there))) = (&interface.ip, router) {
                    let there = *there.ip.get_ref();
                    for (wanted, has, family) in
                        [(own.v4(), there.v4(), "IPv4"), (own.v6(), there.v6(), "IPv6")]
                    {
                        if wanted && !has {
                            let message = format!(
                                "`{name}` cannot have {family}: the network behind `{router}` has none"
                            );
                            self.note(ip.span(), message);
                        }
                    }
                }
                let fixed = interface.address.iter().chain(self.scenario.later_addresses(name, interface));
                for address in fixed.filter(|_| !own.v4()) {
                    let address = (address.span(), address.get_ref());
                    self.note(
                        address.0,
                        format!("`{name}` cannot have {}: it has only IPv6 there", address.1),
                    );
                }
            }
        }
    }

    fn coordinators(&self) -> BTreeMap<&str, &Coordinator> {
        let of = |role: &'_ Role| matches!(role, Role::Coordinator(_));
        self.scenario
            .nodes
            .iter()
            .filter(|(_, node)| of(&node.role))
            .filter_map(|(name, node)| match &node.role {
                Role::Coordinator(coordinator) => Some((name.as_str(), coordinator)),
                _ => None,
            })
            .collect()
    }

    /// A coordinator resolves names from the root on (T3.2.2-b), so there must be one.
    fn root(&self, coordinators: &BTreeMap<&str, &Coordinator>) {
        let has = self.scenario.nodes.values().any(|node| matches!(node.role, Role::Dns { zone: None }));
        if let (false, Some(dc)) = (has, coordinators.values().next()) {
            self.problems.add(
                Problem::new(
                    dc.zone.span(),
                    "a coordinator resolves names from the root on, and this scenario has no root server",
                )
                .hint("add root = { role = \"dns\", at = \"internet\", zone = \".\" } to [node]"),
            );
        }
    }

    fn roles(&self) {
        let coordinators = self.coordinators();
        self.root(&coordinators);
        let known = |name: &Spanned<String>| {
            if !coordinators.contains_key(name.get_ref().as_str()) && !self.broken(name.get_ref()) {
                self.unknown(name, "coordinator", coordinators.keys().copied());
            }
        };
        for (name, node) in &self.scenario.nodes {
            let must_be_global = match &node.role {
                Role::Terminal(terminal) => {
                    known(&terminal.coordinator);
                    None
                }
                Role::Relay { coordinators, .. } => {
                    coordinators.iter().for_each(known);
                    Some("a relay")
                }
                Role::Coordinator(_) => Some("a coordinator"),
                Role::Dns { .. } => Some("a DNS server"),
                Role::General { .. } => None,
            };
            for interface in &node.interfaces {
                let global = match interface.at.get_ref() {
                    Place::Internet => true,
                    Place::Behind(router) => self
                        .scenario
                        .routers
                        .get(router)
                        .is_none_or(|router| *router.nat.get_ref() == Behaviour::None),
                };
                if let (false, Some(what)) = (global, must_be_global) {
                    let span = interface.at.span();
                    self.note(
                        span,
                        format!(
                            "`{name}` is {what}: it stands on the global network (T3.1-a), not behind a NAT"
                        ),
                    );
                }
            }
        }
    }

    /// Two nodes of one name in the DNS, two servers of one zone.
    fn names(&self) {
        for (name, node) in &self.scenario.nodes {
            if let (true, Some(interface)) =
                (self.scenario.routers.contains_key(name), node.interfaces.first())
            {
                self.note(interface.at.span(), format!("a router and a node are both called `{name}`"));
            }
        }
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for (key, node) in &self.scenario.nodes {
            let (name, span) = match &node.role {
                Role::Coordinator(dc) => (format!("zone {}", dc.zone.get_ref()), dc.zone.span()),
                Role::General { name: Some(name) } => (format!("name {}", name.get_ref()), name.span()),
                _ => continue,
            };
            if let Some(other) = seen.insert(name.clone(), key) {
                self.note(span, format!("`{key}` and `{other}` both have the {name}"));
            }
        }
        for (key, node) in &self.scenario.nodes {
            if let Role::General { name: Some(name) } = &node.role {
                for (dc, coordinator) in self.coordinators() {
                    if name.get_ref().is_in(coordinator.zone.get_ref()) {
                        self.note(
                            name.span(),
                            format!("`{key}` is named in the zone of `{dc}`, whose names are terminals': choose another zone"),
                        );
                    }
                }
            }
        }
    }

    /// T3.1-a: no two coordinators hand out one address. Told at both, for either may be the wrong one.
    fn ranges(&self) {
        let coordinators: Vec<_> = self.coordinators().into_iter().collect();
        for (name, dc) in &coordinators {
            for (other, theirs) in coordinators.iter().filter(|(other, _)| other != name) {
                if dc.vips.get_ref().overlaps(theirs.vips.get_ref()) {
                    self.note(
                        dc.vips.span(),
                        format!(
                            "`{name}` and `{other}` hand out the same virtual addresses: {} overlaps {} (T3.1-a)",
                            dc.vips.get_ref(),
                            theirs.vips.get_ref()
                        ),
                    );
                }
            }
        }
    }

    fn addresses(&self) {
        let mut nets: Vec<(String, Prefix)> = vec![("the internet".to_owned(), self.scenario.internet)];
        for (name, router) in &self.scenario.routers {
            let Some(subnet) = &router.subnet else { continue };
            if let Some((other, _)) = nets.iter().find(|(_, net)| net.overlaps(*subnet.get_ref())) {
                self.note(subnet.span(), format!("the network behind `{name}` overlaps that of {other}"));
            }
            nets.push((format!("`{name}`"), *subnet.get_ref()));
        }
        let mut seen: BTreeMap<(Place, std::net::Ipv4Addr), String> = BTreeMap::new();
        let mut take = |place: Place, address: &Spanned<std::net::Ipv4Addr>, who: String| {
            let net = match &place {
                Place::Internet => Some(self.scenario.internet),
                Place::Behind(router) => {
                    let router = self.scenario.routers.get(router);
                    if router.is_some_and(|router| router.subnet.is_none()) {
                        self.note(
                            address.span(),
                            format!("{who} cannot have a fixed address: its router has no `subnet`"),
                        );
                    }
                    router.and_then(|router| router.subnet.as_ref()).map(|subnet| *subnet.get_ref())
                }
            };
            if let Some(net) = net
                && (!net.has_host(*address.get_ref()) || net.host(1) == Some(*address.get_ref()))
            {
                self.note(
                    address.span(),
                    format!(
                        "{} is no address for a host in {net}, whose first is the router's",
                        address.get_ref()
                    ),
                );
            }
            if let Some(other) = seen.insert((place, *address.get_ref()), who.clone()) {
                self.note(
                    address.span(),
                    format!("{who} and {other} have one address: {}", address.get_ref()),
                );
            }
        };
        for (name, router) in &self.scenario.routers {
            if let Some(address) = &router.address {
                take(Place::Internet, address, format!("router `{name}`"));
            }
        }
        for (name, node) in &self.scenario.nodes {
            for interface in &node.interfaces {
                if let Some(address) = &interface.address {
                    take(interface.at.get_ref().clone(), address, format!("`{name}`"));
                }
                for address in self.scenario.later_addresses(name, interface) {
                    take(interface.at.get_ref().clone(), address, format!("`{name}`"));
                }
            }
        }
    }

    fn node(&self, name: &Spanned<String>) {
        if !self.nodes.contains(name.get_ref()) {
            self.unknown(name, "node", self.nodes.iter().map(String::as_str));
        }
    }

    /// Whether the node is there and could not be read.
    fn broken(&self, name: &str) -> bool {
        self.nodes.iter().any(|node| node == name) && !self.scenario.nodes.contains_key(name)
    }

    fn flows(&self) {
        let mut ids: BTreeMap<&str, ()> = BTreeMap::new();
        let names: Vec<String> = self
            .scenario
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node.role, Role::General { .. } | Role::Terminal(_)))
            .filter_map(|(key, node)| self.scenario.fqdn(key, node))
            .map(|name| name.to_string())
            .collect();
        let all: BTreeSet<&str> = self.scenario.flows.iter().map(|flow| flow.id.get_ref().as_str()).collect();
        for flow in &self.scenario.flows {
            let id = flow.id.get_ref();
            let group = flow.of.as_deref().filter(|of| all.contains(of));
            if ids.insert(id, ()).is_some() || group.is_some() {
                self.note(flow.id.span(), format!("two flows are called `{}`", group.unwrap_or(id)));
            }
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                self.note(flow.id.span(), format!("{id:?} cannot be a flow's id: use letters, digits and _"));
            }
            if let Some(ends) = flow.kind.ends() {
                self.node(&ends.from);
                let all_read = self.nodes.len() == self.scenario.nodes.len();
                let is_near = || {
                    let near = suggest(ends.to.get_ref().as_str(), names.iter().map(String::as_str));
                    near.starts_with("did")
                };
                // The name may be that of a node that could not be read.
                if self.scenario.node_named(ends.to.get_ref()).is_none() && (all_read || is_near()) {
                    let wanted = Spanned::new(ends.to.span(), ends.to.get_ref().to_string());
                    self.unknown(&wanted, "node named", names.iter().map(String::as_str));
                }
            }
            if let Some(ends) = flow.kind.ends()
                && let Some((key, node)) = self.scenario.node_named(ends.to.get_ref())
                && matches!(node.role, Role::Relay { .. })
                && !matches!(flow.kind, FlowKind::Ping { .. })
            {
                self.note(
                    ends.to.span(),
                    format!("`{key}` is a relay, which answers a `ping` and nothing else"),
                );
            }
            if let FlowKind::Sip { ends, .. } | FlowKind::Ftp { ends, .. } = &flow.kind
                && let Some((key, _)) = self.scenario.node_named(ends.to.get_ref())
                && self
                    .scenario
                    .routers
                    .values()
                    .any(|router| router.forward.iter().any(|it| it.get_ref() == key))
            {
                let message = format!(
                    "`{}` has ports of its own, which are not forwarded to `{key}`",
                    flow.kind.word()
                );
                self.note(ends.to.span(), message);
            }
            if let FlowKind::Sip { ends, .. } = &flow.kind
                && let Some((key, node)) = self.scenario.node_named(ends.to.get_ref())
                && !matches!(node.role, Role::General { .. })
            {
                self.note(ends.to.span(), format!("calls go to general nodes, and `{key}` is none"));
            }
            if let FlowKind::Dns { node, server, name, record, .. } = &flow.kind {
                self.node(node);
                server.iter().for_each(|server| self.node(server));
                let asks = self.scenario.nodes.get(node.get_ref());
                let has_resolver = asks.is_none_or(|node| matches!(node.role, Role::Terminal(_)));
                if server.is_none() && !has_resolver {
                    self.note(
                        node.span(),
                        format!("`{}` has no DNS server, only a hosts file: name a `server`", node.get_ref()),
                    );
                }
                let wanted = name.get_ref().trim_end_matches('.');
                // Whoever asks a server of his choice, or for no address, knows why; and so does who expects nothing.
                let is_for_anything = server.is_some() || *record != RecordType::A;
                if !is_for_anything
                    && flow.ends != Some(End::Failed)
                    && !names.iter().any(|name| name == wanted)
                {
                    self.unknown(name, "node named", names.iter().map(String::as_str));
                }
            }
            if let FlowKind::Exec { node, command, .. } = &flow.kind {
                self.node(node);
                if command.is_empty() {
                    self.note(flow.id.span(), format!("flow `{id}` has an empty command"));
                }
            }
        }
    }

    fn actions(&self) {
        let mut killed = BTreeSet::new();
        for action in &self.scenario.actions {
            if let Some(node) = action.kind.node() {
                self.actor(node);
            }
            match &action.kind {
                ActionKind::Kill { node } => {
                    self.daemon(node);
                    if !killed.insert(node.get_ref()) {
                        self.note(node.span(), format!("`{}` is killed already", node.get_ref()));
                    }
                }
                ActionKind::Start { node } => {
                    self.daemon(node);
                    if !killed.remove(node.get_ref()) {
                        let message = format!("`{}` runs: only what was killed is started", node.get_ref());
                        self.note(node.span(), message);
                    }
                }
                ActionKind::Handover { node, from, to, .. } => {
                    self.interface(node, from);
                    self.interface(node, to);
                }
                ActionKind::Address { node, interface, .. } => {
                    if self.scenario.groups.contains_key(node.get_ref()) {
                        let message = format!("`{}` are many, who cannot have one address", node.get_ref());
                        self.note(node.span(), message);
                    }
                    self.interface(node, interface);
                }
                ActionKind::Interface { node, name, .. } => self.interface(node, name),
                ActionKind::Link { name, .. } => self.link(Some(name)),
            }
        }
    }

    /// A node, or a group of them.
    fn actor(&self, name: &Spanned<String>) {
        if !self.nodes.contains(name.get_ref()) && !self.scenario.groups.contains_key(name.get_ref()) {
            let groups = self.scenario.groups.keys();
            self.unknown(name, "node", groups.chain(self.nodes).map(String::as_str));
        }
    }

    /// The node called `name`, or one of the group that is called so: they are alike.
    fn any(&self, name: &str) -> Option<&Node> {
        self.scenario.members(name).next().and_then(|name| self.scenario.nodes.get(name))
    }

    /// A node that runs a daemon of the project.
    fn daemon(&self, node: &Spanned<String>) {
        if self.any(node.get_ref()).is_some_and(|node| matches!(node.role, Role::General { .. })) {
            self.note(node.span(), format!("`{}` is a general node: it has no daemon", node.get_ref()));
        }
    }

    fn interface(&self, node: &Spanned<String>, interface: &Spanned<String>) {
        let Some(found) = self.any(node.get_ref()) else { return };
        let names = found.interfaces.iter().map(|interface| interface.name.get_ref().as_str());
        if !names.clone().any(|name| name == interface.get_ref()) {
            self.unknown(interface, &format!("interface of `{}` called", node.get_ref()), names);
        }
    }

    fn expectations(&self) {
        let catalogue = catalogue::of(self.scenario);
        for shown in self.scenario.matrix.iter().flat_map(|matrix| &matrix.show) {
            measured::quantity(shown, &catalogue, self.problems);
        }
        for formula in self.scenario.tables.iter().flat_map(TableSpec::expressions) {
            measured::expression(formula, &catalogue, Must::BeAnything, self.problems);
        }
        for expectation in &self.scenario.expectations {
            match &expectation.check {
                Check::Expression(expr) => {
                    measured::expression(expr, &catalogue, Must::BeTrueOrFalse, self.problems);
                }
                Check::Sequence { steps, .. } => {
                    for step in steps {
                        if let Some(node) = &step.get_ref().node {
                            let start = step.span().start + 1;
                            self.observer(&Spanned::new(start..start + node.len(), node.clone()));
                        }
                    }
                }
            }
        }
    }

    /// A capture point is an interface that there is.
    fn points(&self) {
        let of_node = |(name, node): (&String, &Node)| {
            let tun = matches!(node.role, Role::Terminal(_)).then(|| format!("{name}.{TUN}"));
            let real = node.interfaces.iter().map(|it| format!("{name}.{}", it.name.get_ref()));
            real.chain(tun).collect::<Vec<_>>()
        };
        let routers = self.scenario.routers.keys().map(|name| format!("{name}.{OUTSIDE}"));
        let known: Vec<String> = self.scenario.nodes.iter().flat_map(of_node).chain(routers).collect();
        for point in &self.scenario.points {
            if !known.contains(point.get_ref()) {
                self.unknown(point, "capture point", known.iter().map(String::as_str));
            }
            if !self.scenario.captures {
                self.note(
                    point.span(),
                    "nothing is captured: this scenario says captures = false".to_owned(),
                );
            }
        }
    }

    fn observer(&self, name: &Spanned<String>) {
        let nodes = self.nodes.iter().chain(self.scenario.routers.keys()).map(String::as_str);
        if !nodes.clone().any(|node| node == name.get_ref()) {
            self.unknown(name, "node or router", nodes);
        }
    }
}
