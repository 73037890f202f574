//! Builds the namespaces, links, addresses and routes of a plan, as far as possible at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use futures::future::try_join_all;

use super::link::{self, Impairment};
use super::net::Net;
use super::space::{Names, Space};
use crate::exit::Failure;
use crate::plan::config::{INSIDE, OUTSIDE};
use crate::plan::{HostPlan, InterfacePlan, Plan, RouterPlan};
use crate::scenario::model::{Link, NatKind, Place, Role};

/// The namespace that stands for the outer network. No node can be called so.
const CORE: &str = "-internet";
/// A namespace to try things in.
const SCRATCH: &str = "-scratch";

/// Each namespace: one protocol, no help from the kernel, nothing inherited from the host.
const COMMON: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
];

/// A world that was built.
pub struct World {
    /// The outer network.
    core: Space,
    /// Routers and hosts, by name.
    spaces: BTreeMap<String, Arc<Space>>,
    /// Their netlink sockets.
    nets: BTreeMap<String, Net>,
    /// How delays are made.
    pub impairment: Impairment,
}

impl World {
    /// Builds `plan`. Needs a tokio runtime of one thread.
    pub async fn build(plan: &Plan) -> Result<Self, Failure> {
        let (core, scratch, spaces) = spaces(plan)?;
        let impairment = Impairment::detect(&scratch).await?;
        refuse_shapes(plan, impairment)?;
        let mut nets = BTreeMap::new();
        for (name, space) in &spaces {
            nets.insert(name.clone(), space.net()?);
        }
        let core_net = core.net()?;
        let spaces = spaces.into_iter().map(|(name, space)| (name, Arc::new(space))).collect();
        let mut world = Self { core, spaces, nets, impairment };
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
        self.core.sysctl(COMMON)?;
        self.core.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        core.set_up(1, true).await?;
        let bridge = core.add_bridge("internet").await?;
        if let Some(gateway) = plan.internet.host(1) {
            core.add_address(bridge, gateway, plan.internet).await?;
        }
        let mut inner: BTreeMap<&str, u32> = BTreeMap::new();
        for router in &plan.routers {
            inner.insert(&router.name, self.lay_router(plan, router, core, bridge).await?);
        }
        for host in &plan.hosts {
            self.space(&host.name)?.sysctl(COMMON)?;
            self.net(&host.name)?.set_up(1, true).await?;
            for interface in &host.interfaces {
                let target = self.space(&host.name)?.network();
                let port = port_name(&host.name, &interface.name);
                match &interface.at {
                    Place::Internet => core.add_pair(&port, bridge, &interface.name, target).await?,
                    Place::Behind(router) => {
                        let lan = *inner.get(router.as_str()).unwrap_or(&0);
                        let net = self
                            .nets
                            .get(router)
                            .ok_or_else(|| Failure::error(format!("no router `{router}`")))?;
                        net.add_pair(&port, lan, &interface.name, target).await?;
                    }
                }
                if interface.up {
                    self.join(&host.name, interface).await?;
                }
            }
        }
        self.shape_all(plan).await?;
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
        for router in plan.routers.iter().filter(|router| router.nat == NatKind::None) {
            core.add_route(Some(router.inner), router.outer).await?;
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
        let space = self.space(&router.name)?;
        space.sysctl(COMMON)?;
        core.add_pair(&port_name(&router.name, OUTSIDE), bridge, OUTSIDE, space.network()).await?;
        let net = self.net(&router.name)?;
        net.set_up(1, true).await?;
        let wan = net.index(OUTSIDE).await?;
        net.set_up(wan, true).await?;
        net.add_address(wan, router.outer, plan.internet).await?;
        let lan = net.add_bridge(INSIDE).await?;
        if let Some(own) = router.inner.host(1) {
            net.add_address(lan, own, router.inner).await?;
        }
        if let Some(gateway) = plan.internet.host(1) {
            net.add_route(None, gateway).await?;
        }
        Ok(lan)
    }

    /// Brings an interface up as a laptop does: link, address, default route.
    pub async fn join(&mut self, host: &str, interface: &InterfacePlan) -> Result<(), Failure> {
        let net = self.net(host)?;
        let index = net.index(&interface.name).await?;
        net.set_up(index, true).await?;
        net.add_address(index, interface.address, interface.net).await?;
        net.add_route(None, interface.gateway()).await
    }

    /// Takes an interface down: its address goes, and every route by it.
    pub async fn leave(&mut self, host: &str, interface: &InterfacePlan) -> Result<(), Failure> {
        let net = self.net(host)?;
        let index = net.index(&interface.name).await?;
        net.set_up(index, false).await?;
        net.remove_address(index, interface.address, interface.net).await
    }

    /// Shapes both ends of every link.
    async fn shape_all(&self, plan: &Plan) -> Result<(), Failure> {
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
        link::apply(self.space(node)?, interface, &shape.up).await?;
        link::apply(network, &port_name(node, interface), &shape.down).await
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

fn refuse_shapes(plan: &Plan, impairment: Impairment) -> Result<(), Failure> {
    let routers = plan.routers.iter().map(|router| (&router.name, &router.link));
    let hosts = plan.hosts.iter().flat_map(|host| host.interfaces.iter().map(move |i| (&host.name, &i.link)));
    for (node, link) in routers.chain(hosts) {
        if !impairment.can(&link.up) || !impairment.can(&link.down) {
            return Err(Failure::unable(format!(
                "`{node}` has a link with delay, jitter or loss, and this kernel has no netem: use a kernel with \
                 CONFIG_NET_SCH_NETEM, or a link with a rate alone"
            )));
        }
    }
    Ok(())
}

/// Makes all namespaces, on as many threads as there are processors.
fn spaces(plan: &Plan) -> Result<(Space, Space, BTreeMap<String, Space>), Failure> {
    let names: Vec<(Ipv4Addr, String)> = plan
        .hosts
        .iter()
        .filter(|host| matches!(host.role, Role::General { .. }))
        .filter_map(|host| Some((host.address(), host.fqdn.as_ref()?.to_string())))
        .collect();
    let mut wanted = vec![(CORE, nameless()), (SCRATCH, nameless())];
    wanted.extend(plan.routers.iter().map(|router| (router.name.as_str(), nameless())));
    wanted.extend(plan.hosts.iter().map(|host| (host.name.as_str(), names_of(host, &names))));
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
    Ok((take(CORE)?, take(SCRATCH)?, all))
}

fn nameless() -> Names {
    Names { resolver: None, hosts: Vec::new() }
}

/// Terminals ask their own stub for every name. Others know general nodes by an ordinary hosts file.
fn names_of(host: &HostPlan, general: &[(Ipv4Addr, String)]) -> Names {
    if host.is_terminal() {
        Names { resolver: Some(Ipv4Addr::new(127, 0, 0, 53)), hosts: Vec::new() }
    } else {
        Names { resolver: None, hosts: general.to_vec() }
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
