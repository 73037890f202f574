//! Builds the namespaces, links, addresses and routes of a plan, as far as possible at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;

use futures::future::try_join_all;
use ntm_nat::Behaviour;

use super::lines::{Lines, Port};
use super::link::{self, Impairment};
use super::net::{Net, RouteTo};
use super::space::{Names, Space};
use crate::exit::Failure;
use crate::plan::config::{INSIDE, OUTSIDE};
use crate::plan::{HostPlan, InterfacePlan, Plan, RouterPlan};
use crate::scenario::model::{ActionKind, Link, Place, Role, Scenario};
use crate::scenario::prefix::Net6;
use crate::wire::{Report, Trains};

/// The namespace that stands for the outer network. No node can be called so.
const CORE: &str = "-internet";
/// Its bridge.
const BRIDGE: &str = "internet";
/// A namespace to try things in, and then the place of the lines' inner ends.
const WIRE: &str = "-wire";
/// What veth pairs have unless told otherwise.
const MTU: u32 = 1500;

/// Where nothing has IPv6.
pub(super) const WITHOUT_IPV6: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// With IPv6, addresses are those that the plan gives, at once: nothing is advertised, and nobody can have the same.
const WITH_IPV6: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];

/// Each namespace: no help from the kernel, nothing inherited from the host.
pub(super) const COMMON: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
];

/// A router's, towards its IPv6 network.
const FORWARD_IPV6: &[(&str, &str)] = &[("net/ipv6/conf/all/forwarding", "1")];

/// A world that was built.
pub struct World {
    /// The outer network.
    pub(super) core: Space,
    /// Routers and hosts, by name.
    spaces: BTreeMap<String, Arc<Space>>,
    /// Their netlink sockets.
    pub(super) nets: BTreeMap<String, Net>,
    /// How delays are made.
    pub impairment: Impairment,
    /// The links with delays, where the kernel does not make them.
    lines: Option<Lines>,
    /// Names of links that are impaired later, if not now.
    later: BTreeSet<String>,
    /// The link and gateways of each host's preferred default routes.
    preferred: BTreeMap<String, (u32, Vec<IpAddr>)>,
    /// The kernel's parameters in each namespace.
    parameters: Vec<(&'static str, &'static str)>,
}

/// What the index of a link is added to for the metric of a default route that is not preferred.
const SECOND: u32 = 1024;

impl World {
    /// Builds `plan`. Needs a tokio runtime of one thread. Its links do nothing to packets until [`shape_all`](Self::shape_all). Those
    /// named in `later` may get delay, jitter or loss at any time.
    pub async fn build(plan: &Plan, scenario: &Scenario, later: BTreeSet<String>) -> Result<Self, Failure> {
        let (core, wire, spaces) = spaces(plan)?;
        let impairment = Impairment::choose(scenario.netem, &wire).await?;
        let lines = match impairment {
            Impairment::Netem => None,
            Impairment::Line => {
                wire.sysctl(WITHOUT_IPV6)?;
                wire.sysctl(COMMON)?;
                Some(Lines::new(wire, scenario.seed)?)
            }
        };
        let mut nets = BTreeMap::new();
        for (name, space) in &spaces {
            nets.insert(name.clone(), space.net()?);
        }
        let core_net = core.net()?;
        let spaces = spaces.into_iter().map(|(name, space)| (name, Arc::new(space))).collect();
        let v6 = if plan.internet6.is_some() { WITH_IPV6 } else { WITHOUT_IPV6 };
        let (parameters, preferred) = ([v6, COMMON].concat(), BTreeMap::new());
        let mut world = Self { core, spaces, nets, impairment, lines, later, preferred, parameters };
        world.lay(plan, &core_net).await?;
        Ok(world)
    }

    /// The namespaces of a router or host.
    pub fn space(&self, node: &str) -> Result<&Arc<Space>, Failure> {
        self.spaces.get(node).ok_or_else(|| Failure::error(format!("`{node}` is not part of this world")))
    }

    /// The netlink socket of a router or host.
    pub fn net(&mut self, node: &str) -> Result<&mut Net, Failure> {
        self.nets.get_mut(node).ok_or_else(|| Failure::error(format!("`{node}` is not part of this world")))
    }

    async fn lay(&mut self, plan: &Plan, core: &Net) -> Result<(), Failure> {
        self.core.sysctl(&self.parameters)?;
        self.core.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        core.set_up(1, true).await?;
        let bridge = core.add_bridge(BRIDGE).await?;
        if let Some(gateway) = plan.internet.host(1) {
            core.add_address(bridge, gateway.into(), plan.internet.length()).await?;
        }
        if let Some(net) = plan.internet6 {
            self.core.sysctl(FORWARD_IPV6)?;
            core.add_address(bridge, net.host(1).into(), Net6::LENGTH).await?;
        }
        let mut inner: BTreeMap<&str, u32> = BTreeMap::new();
        for router in &plan.routers {
            inner.insert(&router.name, self.lay_router(plan, router, core, bridge).await?);
        }
        for host in &plan.hosts {
            self.space(&host.name)?.sysctl(&self.parameters)?;
            self.net(&host.name)?.set_up(1, true).await?;
            for interface in &host.interfaces {
                let space = Arc::clone(self.space(&host.name)?);
                let name = &port_name(&host.name, &interface.name);
                let is_impaired = self.is_impaired(&interface.link, interface.link_name.as_deref());
                let lines = self.lines.as_mut().filter(|_| is_impaired);
                let port = match &interface.at {
                    Place::Internet => Port { net: core, bridge, name },
                    Place::Behind(router) => {
                        let bridge = *inner.get(router.as_str()).unwrap_or(&0);
                        let net = self
                            .nets
                            .get(router)
                            .ok_or_else(|| Failure::error(format!("no router `{router}`")))?;
                        Port { net, bridge, name }
                    }
                };
                connect(lines, &space, &interface.name, port).await?;
                if interface.up {
                    self.join(&host.name, interface).await?;
                }
            }
        }
        if let Some(lines) = &mut self.lines {
            lines.start()?;
        }
        // Last, all at once: the kernel says when each link carries packets.
        let mut waits = Vec::new();
        for (name, net) in &mut self.nets {
            let up: Vec<&str> = match plan.host(name) {
                Some(host) => host.interfaces.iter().filter(|i| i.up).map(|i| i.name.as_str()).collect(),
                None => vec![OUTSIDE],
            };
            waits.push(async move {
                for link in up {
                    let index = net.index(link).await?;
                    net.wait_running(index).await?;
                }
                Ok::<(), Failure>(())
            });
        }
        try_join_all(waits).await?;
        // A route needs its link up, so those through routers come after the wait.
        for router in plan.routers.iter().filter(|router| router.nat == Behaviour::None) {
            let net = (router.inner.base().into(), router.inner.length());
            core.add_route(Some(net), router.outer.into()).await?;
        }
        for (outer, inner) in plan.routers.iter().filter_map(|router| router.v6) {
            core.add_route(Some((inner.base().into(), Net6::LENGTH)), outer.into()).await?;
        }
        Ok(())
    }

    async fn lay_router(
        &mut self,
        plan: &Plan,
        router: &RouterPlan,
        core: &Net,
        bridge: u32,
    ) -> Result<u32, Failure> {
        let space = Arc::clone(self.space(&router.name)?);
        space.sysctl(&self.parameters)?;
        let port = Port { net: core, bridge, name: &port_name(&router.name, OUTSIDE) };
        let is_impaired = self.is_impaired(&router.link, router.link_name.as_deref());
        let lines = self.lines.as_mut().filter(|_| is_impaired);
        connect(lines, &space, OUTSIDE, port).await?;
        let net = self.net(&router.name)?;
        net.set_up(1, true).await?;
        let wan = net.index(OUTSIDE).await?;
        net.set_up(wan, true).await?;
        net.add_address(wan, router.outer.into(), plan.internet.length()).await?;
        let lan = net.add_bridge(INSIDE).await?;
        if let Some(own) = router.inner.host(1) {
            net.add_address(lan, own.into(), router.inner.length()).await?;
        }
        if let Some(gateway) = plan.internet.host(1) {
            net.add_route(None, gateway.into()).await?;
        }
        // IPv6 is routed, whatever is done to IPv4.
        if let (Some((outer, inner)), Some(internet)) = (router.v6, plan.internet6) {
            space.sysctl(FORWARD_IPV6)?;
            net.add_address(wan, outer.into(), Net6::LENGTH).await?;
            net.add_address(lan, inner.host(1).into(), Net6::LENGTH).await?;
            net.add_route(None, internet.host(1).into()).await?;
        }
        // By its routes, so that it acts as a router does before a narrow link, in both directions, while each wire takes what comes.
        if let Some(mtu) = router.mtu {
            let everywhere = plan.internet.host(1).map(RouteTo::Gateway);
            let ways = [RouteTo::Link(wan, plan.internet), RouteTo::Link(lan, router.inner)];
            for way in ways.into_iter().chain(everywhere) {
                net.limit_route(way, mtu).await?;
            }
        }
        Ok(lan)
    }

    /// Whether a link has delay, jitter or loss at any time of the run.
    fn is_impaired(&self, shape: &Link, name: Option<&str>) -> bool {
        shape.impairs() || name.is_some_and(|name| self.later.contains(name))
    }

    /// Brings an interface up as a laptop does: link, address, default route. It is preferred to those that are up already.
    pub async fn join(&mut self, host: &str, interface: &InterfacePlan) -> Result<(), Failure> {
        let net = self.net(host)?;
        let index = net.index(&interface.name).await?;
        net.set_up(index, true).await?;
        net.settle(&interface.name).await?;
        let (network, bridge) = match &interface.at {
            Place::Internet => (&self.core.net()?, BRIDGE),
            Place::Behind(router) => (&*self.net(router)?, INSIDE),
        };
        // The port first: a bridge whose only port it is has no carrier before.
        network.settle(&port_name(host, &interface.name)).await?;
        network.settle(bridge).await?;
        let before = {
            let gateways = interface.addresses().into_iter().map(|(.., gateway)| gateway).collect();
            self.preferred.insert(host.to_owned(), (index, gateways))
        };
        let net = self.net(host)?;
        for (address, length, _) in interface.addresses() {
            net.add_address(index, address, length).await?;
        }
        // At no moment is there no route: the old one gets its worse metric before the new one takes its place.
        if let Some((old, gateways)) = before.filter(|(old, _)| *old != index) {
            for gateway in gateways {
                net.set_default(old, gateway, SECOND + old).await?;
            }
        }
        for (.., gateway) in interface.addresses() {
            net.set_default(index, gateway, 0).await?;
        }
        Ok(())
    }

    /// Gives an interface that is up another address in its network, as another DHCP lease does.
    pub async fn readdress(
        &mut self,
        host: &str,
        interface: &InterfacePlan,
        address: Ipv4Addr,
    ) -> Result<(), Failure> {
        let preferred = self.preferred.get(host).map(|(first, _)| *first);
        let net = self.net(host)?;
        let index = net.index(&interface.name).await?;
        let IpAddr::V4(old) = interface.address else {
            return Err(Failure::error(format!(
                "`{host}` has no IPv4 address at {} to change",
                interface.name
            )));
        };
        // With its last address the link loses its routes.
        let length = interface.net.length();
        net.remove_address(index, old, length).await?;
        net.add_address(index, address.into(), length).await?;
        let metric = if preferred.is_none_or(|first| first == index) { 0 } else { SECOND + index };
        match interface.net.host(1) {
            Some(gateway) => net.set_default(index, gateway.into(), metric).await,
            None => Ok(()),
        }
    }

    /// Takes an interface down: its address goes, and every route by it.
    pub async fn leave(&mut self, host: &str, interface: &InterfacePlan) -> Result<(), Failure> {
        let net = self.net(host)?;
        let index = net.index(&interface.name).await?;
        net.set_up(index, false).await?;
        match interface.address {
            IpAddr::V4(address) => net.remove_address(index, address, interface.net.length()).await?,
            // The kernel lets IPv6 addresses go with the link.
            IpAddr::V6(_) => {}
        }
        if self.preferred.get(host).is_some_and(|(first, _)| *first == index) {
            self.preferred.remove(host);
        }
        Ok(())
    }

    /// Shapes both ends of every link. What passed before does not count in [`achieved`](Self::achieved).
    pub async fn shape_all(&self, plan: &Plan) -> Result<(), Failure> {
        if let Some(lines) = &self.lines {
            lines.forget()?;
        }
        let routers = plan
            .routers
            .iter()
            .map(|router| self.shape(&router.name, OUTSIDE, &Place::Internet, &router.link));
        let hosts = plan.hosts.iter().flat_map(|host| {
            host.interfaces
                .iter()
                .map(move |interface| self.shape(&host.name, &interface.name, &interface.at, &interface.link))
        });
        futures::future::try_join(try_join_all(routers), try_join_all(hosts)).await.map(|_| ())
    }

    /// Shapes both ends of one link, from now on.
    pub async fn shape(&self, node: &str, interface: &str, at: &Place, shape: &Link) -> Result<(), Failure> {
        let network = match at {
            Place::Internet => &self.core,
            Place::Behind(router) => self.space(router)?,
        };
        let node_space = self.space(node)?;
        let port = &port_name(node, interface);
        let lines = self.lines.as_ref().map(|lines| lines.set(node, interface, shape)).transpose()?;
        let single = shape.single;
        for (space, device, shape) in
            [(&**node_space, interface, &shape.up), (network, port.as_str(), &shape.down)]
        {
            if lines != Some(true) {
                link::apply(space, device, shape).await?;
            }
            if lines == Some(true) || single {
                let trains =
                    if single { Trains::of(1, MTU) } else { Trains::for_link(&link::line(shape), MTU) };
                let net = space.net()?;
                net.limit_trains(net.index(device).await?, trains).await?;
            }
        }
        Ok(())
    }

    /// What the links in user space achieved; `None` if there are none.
    pub fn achieved(&self) -> Option<Report> {
        self.lines.as_ref()?.report()
    }
}

/// Makes the link between `interface` of `node` and `port`: through `lines` if they are given, else directly.
async fn connect(
    lines: Option<&mut Lines>,
    node: &Space,
    interface: &str,
    port: Port<'_>,
) -> Result<(), Failure> {
    match lines {
        Some(lines) => lines.connect(node, interface, port).await,
        None => port.net.add_pair(port.name, Some(port.bridge), interface, node.network()).await,
    }
}

/// The network's end of a link: `mn.wlan0`, cut to what the kernel takes; the end of a long name tells it apart.
fn port_name(node: &str, interface: &str) -> String {
    let name = format!("{node}.{interface}");
    if name.len() <= 15 {
        return name;
    }
    // FNV-1a: the same name every time, and no two of one scenario alike in practice.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}~{hash:08x}", &name[..6])
}

/// The names of links that the timeline gives delay, jitter or loss.
pub fn impaired_later(scenario: &Scenario) -> BTreeSet<String> {
    let later = scenario.actions.iter().filter_map(|action| match &action.kind {
        ActionKind::Link { name, shape } if shape.impairs() => Some(name.get_ref().clone()),
        _ => None,
    });
    later.collect()
}

/// Makes all namespaces, on as many threads as there are processors.
fn spaces(plan: &Plan) -> Result<(Space, Space, BTreeMap<String, Space>), Failure> {
    let of = |host: &HostPlan| {
        let name = host.fqdn.as_ref().map(ToString::to_string);
        host.addresses().into_iter().filter_map(move |address| Some((address, name.clone()?)))
    };
    let known = |is: fn(&Role) -> bool| plan.hosts.iter().filter(move |host| is(&host.role)).flat_map(of);
    let relays: Vec<(IpAddr, String)> = known(|role| matches!(role, Role::Relay { .. })).collect();
    let general = known(|role| matches!(role, Role::General { .. }));
    let through = plan.tunnels.iter();
    let through = through.filter_map(|one| Some((one.inner_to.into(), one.fqdn.as_ref()?.to_string())));
    let names: Vec<_> = general.chain(relays.iter().cloned()).chain(through).collect();
    let mut wanted = vec![(CORE, nameless()), (WIRE, nameless())];
    wanted.extend(plan.routers.iter().map(|router| (router.name.as_str(), nameless())));
    wanted.extend(plan.hosts.iter().map(|host| (host.name.as_str(), names_of(host, &names, &relays))));
    let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
    let made: Vec<Result<Vec<Space>, Failure>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let mine = wanted.iter().skip(worker).step_by(threads);
                scope.spawn(move || mine.map(|(name, names)| Space::make(name, names)).collect())
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(Failure::error("a thread that makes namespaces panicked")))
            })
            .collect()
    });
    let mut all = BTreeMap::new();
    for spaces in made {
        all.extend(spaces?.into_iter().map(|space| (space.name.clone(), space)));
    }
    let mut take =
        |name: &str| all.remove(name).ok_or_else(|| Failure::error(format!("namespace {name} was not made")));
    Ok((take(CORE)?, take(WIRE)?, all))
}

fn nameless() -> Names {
    Names { resolver: None, hosts: Vec::new() }
}

/// Where a terminal answers its applications' DNS questions.
pub const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// Terminals ask their own stub for every name. Others know general nodes by an ordinary hosts file. What all know so is where relays
/// really are: nobody's applications speak to them, but whoever measures does.
fn names_of(host: &HostPlan, names: &[(IpAddr, String)], relays: &[(IpAddr, String)]) -> Names {
    if host.is_terminal() {
        Names { resolver: Some(STUB), hosts: relays.to_vec() }
    } else {
        Names { resolver: None, hosts: names.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::port_name;

    #[test]
    fn ports_have_names_that_the_kernel_takes() {
        assert_eq!(port_name("mn", "wlan0"), "mn.wlan0");
        let long = port_name("a_very_long_node_name", "eth0");
        assert_eq!(long.len(), 15);
        assert_ne!(long, port_name("a_very_long_node_name", "eth1"));
    }
}
