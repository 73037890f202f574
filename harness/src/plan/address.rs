//! Gives every interface its address: the fixed ones first, the rest in the order of names, so that a scenario's addresses are
//! always the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ntm_nat::{Behaviour, Forward, Protocol};

use super::{FIRST_TUNNEL, HostPlan, InterfacePlan, Plan, RouterPlan, TunnelPlan, VIRTUAL};
use crate::flow;
use crate::scenario::model::{FlowKind, Link, Place, Scenario, Tunnel};
use crate::scenario::prefix::{Net6, Prefix};

/// Where routers without NAT get their public networks from (TEST-NET-1 and -2, RFC 5737), /27 each.
const ROUTED: [Prefix; 2] =
    [Prefix::new(Ipv4Addr::new(192, 0, 2, 0), 24), Prefix::new(Ipv4Addr::new(198, 51, 100, 0), 24)];

/// The ports of flows' servers, and of commands, on hosts that are reached at their router's address lead there.
fn forward(scenario: &Scenario, routers: &mut [RouterPlan], hosts: &mut [HostPlan]) {
    for router in routers {
        let forward = scenario.routers.get(&router.name).into_iter().flat_map(|router| &router.forward);
        for name in forward.map(toml::Spanned::get_ref) {
            let Some(host) = hosts.iter_mut().find(|host| host.name == *name) else { continue };
            let inner = host.interfaces.iter().find(|one| one.at == Place::Behind(router.name.clone()));
            let Some(inner) = inner.map(|one| one.address) else { continue };
            host.forwarded = Some(router.outer);
            let its = scenario.flows.iter().zip(0..).filter(|(flow, _)| match &flow.kind {
                // What serves there is not said: a command may.
                FlowKind::Exec { node, .. } => *node.get_ref() == host.name,
                kind => kind.ends().is_some_and(|ends| Some(ends.to.get_ref()) == host.fqdn.as_ref()),
            });
            for port in its.map(|(_, index)| flow::port(index)) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    router.forwards.push(Forward { protocol, port, to: (inner, port).into() });
                }
            }
        }
    }
}

/// Each tunnel has a port of its own and a network of two addresses (RFC 6890's 10.254.0.0/16, which no router is given).
fn tunnels(scenario: &Scenario) -> Vec<TunnelPlan> {
    let of = |((name, tunnel), number): ((&String, &Tunnel), u16)| {
        let [third, fourth] = (number * 4).to_be_bytes();
        let (from, to) = (tunnel.from.get_ref().clone(), tunnel.to.get_ref().clone());
        TunnelPlan {
            name: name.clone(),
            program: tunnel.program,
            fqdn: Tunnel::fqdn(name, &to),
            from,
            to,
            port: FIRST_TUNNEL + number,
            inner_from: Ipv4Addr::new(10, 254, third, fourth + 1),
            inner_to: Ipv4Addr::new(10, 254, third, fourth + 2),
        }
    };
    scenario.tunnels.iter().zip(0..).map(of).collect()
}

/// The port of a tunnel to a host that is reached at its router's address leads there.
fn forward_tunnels(tunnels: &[TunnelPlan], routers: &mut [RouterPlan], hosts: &[HostPlan]) {
    for tunnel in tunnels {
        let host = hosts.iter().find(|host| host.name == tunnel.to);
        let Some((host, outer)) = host.and_then(|host| Some((host, host.forwarded?))) else { continue };
        for router in routers.iter_mut().filter(|router| router.outer == outer) {
            let behind = Place::Behind(router.name.clone());
            let inner = host.interfaces.iter().find(|one| one.at == behind).map(|one| one.address);
            let to = |inner| (inner, tunnel.port).into();
            router.forwards.extend(inner.map(|inner| Forward {
                protocol: Protocol::Udp,
                port: tunnel.port,
                to: to(inner),
            }));
        }
    }
}

/// Plans the world of `scenario`; the error names the network that is full.
pub fn plan(scenario: &Scenario) -> Result<Plan, String> {
    let mut pools = BTreeMap::from([(Place::Internet, Pool::new("the internet", scenario.internet))]);
    let mut taken: Vec<Prefix> = vec![scenario.internet, VIRTUAL];
    taken.extend(
        scenario.routers.values().filter_map(|router| router.subnet.as_ref()).map(|net| *net.get_ref()),
    );
    for (name, router) in &scenario.routers {
        let inner = match &router.subnet {
            Some(net) => *net.get_ref(),
            None => free_network(*router.nat.get_ref(), &taken)
                .ok_or_else(|| format!("no network is left for the router `{name}`: give it a `subnet`"))?,
        };
        taken.push(inner);
        pools.insert(Place::Behind(name.clone()), Pool::new(&format!("the network behind `{name}`"), inner));
    }
    let fixed_hosts = scenario.nodes.values().flat_map(|node| &node.interfaces).filter_map(|interface| {
        Some((interface.at.get_ref().clone(), *interface.address.as_ref()?.get_ref()))
    });
    let later = scenario.nodes.iter().flat_map(|(name, node)| {
        node.interfaces.iter().flat_map(|interface| {
            let addresses = scenario.later_addresses(name, interface);
            addresses.map(|address| (interface.at.get_ref().clone(), *address.get_ref()))
        })
    });
    let fixed_routers = scenario
        .routers
        .values()
        .filter_map(|router| Some((Place::Internet, *router.address.as_ref()?.get_ref())));
    for (place, address) in fixed_hosts.chain(fixed_routers).chain(later) {
        pools.entry(place).and_modify(|pool| {
            pool.used.insert(address);
        });
    }
    let nets: BTreeMap<Place, Prefix> = pools.iter().map(|(place, pool)| (place.clone(), pool.net)).collect();
    let network = |place: &Place| nets.get(place).copied().unwrap_or(scenario.internet);
    let mut address = |place: &Place, fixed: Option<Ipv4Addr>| match (fixed, pools.get_mut(place)) {
        (Some(address), Some(pool)) => Ok((address, pool.net)),
        (None, Some(pool)) => Ok((pool.next()?, pool.net)),
        (_, None) => Err(format!("there is no network {place:?}")),
    };
    let link = |name: Option<&toml::Spanned<String>>| -> Link {
        name.and_then(|name| scenario.links.get(name.get_ref())).cloned().unwrap_or_default()
    };
    let mut pools6 = BTreeMap::new();
    if scenario.has_ipv6() {
        pools6.insert(Place::Internet, Pool6::new(scenario.internet6.network(0)));
        let with = scenario.routers.iter().filter(|(_, router)| router.ip.get_ref().v6());
        pools6.extend(with.zip(1u16..).map(|((name, _), number)| {
            (Place::Behind(name.clone()), Pool6::new(scenario.internet6.network(number)))
        }));
    }
    let inner6 = |pools6: &BTreeMap<Place, Pool6>, name: &str| {
        pools6.get(&Place::Behind(name.to_owned())).map(|pool| pool.net)
    };
    let mut routers = Vec::new();
    for (name, router) in &scenario.routers {
        let (outer, _) =
            address(&Place::Internet, router.address.as_ref().map(|address| *address.get_ref()))?;
        routers.push(RouterPlan {
            name: name.clone(),
            nat: *router.nat.get_ref(),
            outer,
            inner: scenario.internet,
            v6: match inner6(&pools6, name) {
                Some(inner) => pools6.get_mut(&Place::Internet).map(|pool| (pool.next(), inner)),
                None => None,
            },
            link: link(router.link.as_ref()),
            link_name: router.link.as_ref().map(|name| name.get_ref().clone()),
            mtu: router.mtu,
            forwards: Vec::new(),
        });
    }
    let mut hosts = Vec::new();
    for (node_name, node) in &scenario.nodes {
        let mut interfaces = Vec::new();
        for interface in &node.interfaces {
            let at = interface.at.get_ref().clone();
            let ip = scenario.families(interface);
            let fixed = interface.address.as_ref().map(|address| *address.get_ref());
            let v6 = pools6.get_mut(&at).filter(|_| ip.v6()).map(|pool| (pool.next(), pool.net));
            let (address, net) = match v6 {
                Some((own, _)) if !ip.v4() => (IpAddr::V6(own), network(&at)),
                _ => address(&at, fixed).map(|(own, net)| (IpAddr::V4(own), net))?,
            };
            let (name, link) = (interface.name.get_ref().clone(), link(interface.link.as_ref()));
            let link_name = interface.link.as_ref().map(|name| name.get_ref().clone());
            let later = scenario.later_addresses(node_name, interface).map(|address| *address.get_ref());
            let later = later.collect();
            interfaces.push(InterfacePlan {
                name,
                at,
                address,
                later,
                net,
                v6,
                link,
                link_name,
                up: interface.up,
            });
        }
        let fqdn = scenario.fqdn(node_name, node);
        let (name, role, forwarded) = (node_name.clone(), node.role.clone(), None);
        hosts.push(HostPlan { name, role, fqdn, interfaces, forwarded });
    }
    forward(scenario, &mut routers, &mut hosts);
    for router in &mut routers {
        router.inner = pools.get(&Place::Behind(router.name.clone())).map_or(router.inner, |pool| pool.net);
    }
    let internet6 = pools6.get(&Place::Internet).map(|pool| pool.net);
    let tunnels = tunnels(scenario);
    forward_tunnels(&tunnels, &mut routers, &hosts);
    Ok(Plan { internet: scenario.internet, internet6, routers, hosts, tunnels })
}

/// Private networks behind NATs are 10.1.0.0/24, 10.2.0.0/24 …; public ones behind plain routers are cut from [`ROUTED`].
fn free_network(nat: Behaviour, taken: &[Prefix]) -> Option<Prefix> {
    let free = |net: &Prefix| !taken.iter().any(|other| other.overlaps(*net));
    match nat {
        Behaviour::None => ROUTED
            .into_iter()
            .flat_map(|range| {
                (0..8).map(move |n| Prefix::new(Ipv4Addr::from_bits(range.base().to_bits() + n * 32), 27))
            })
            .find(free),
        _ => (1..=253).map(|n| Prefix::new(Ipv4Addr::new(10, n, 0, 0), 24)).find(free),
    }
}

struct Pool {
    what: String,
    net: Prefix,
    used: BTreeSet<Ipv4Addr>,
    next: u32,
}

impl Pool {
    /// Host 1 is the way out of the network.
    fn new(what: &str, net: Prefix) -> Self {
        Self { what: what.to_owned(), net, used: BTreeSet::new(), next: 2 }
    }

    fn next(&mut self) -> Result<Ipv4Addr, String> {
        loop {
            let address = self.net.host(self.next);
            let address =
                address.ok_or_else(|| format!("{} ({}) has no address left", self.what, self.net))?;
            self.next += 1;
            if self.used.insert(address) {
                return Ok(address);
            }
        }
    }
}

/// The hosts of an IPv6 network, in order; host 1 is the way out of it.
struct Pool6 {
    net: Net6,
    next: u16,
}

impl Pool6 {
    fn new(net: Net6) -> Self {
        Self { net, next: 2 }
    }

    /// There are more than a scenario can have hosts.
    fn next(&mut self) -> Ipv6Addr {
        let address = self.net.host(self.next);
        self.next += 1;
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{check, source::Source};

    fn plan_of(text: &str) -> Result<Plan, String> {
        let text = format!("schema = 1\nname = \"t\"\nabout = \"t\"\n{text}");
        plan(&check(&Source { name: "t".into(), text }).unwrap_or_else(|message| panic!("{message}")))
    }

    #[test]
    fn fixed_addresses_are_left_out_and_routers_get_networks() {
        let plan = plan_of(
            "[router.a]\nnat = \"symmetric\"\n[router.b]\nnat = \"none\"\n[router.c]\nnat = \"none\"\n\
             [node.x]\nrole = \"general\"\nat = \"internet\"\n[node.y]\nrole = \"general\"\nat = \"internet\"\naddress = \"203.0.113.2\"\n\
             [node.z]\nrole = \"general\"\nat = \"a\"\n",
        )
        .unwrap();
        let outers: Vec<String> = plan.routers.iter().map(|r| format!("{} {}", r.outer, r.inner)).collect();
        assert_eq!(
            outers,
            ["203.0.113.3 10.1.0.0/24", "203.0.113.4 192.0.2.0/27", "203.0.113.5 192.0.2.32/27"]
        );
        let addresses: Vec<String> = plan.hosts.iter().map(|h| h.address().to_string()).collect();
        assert_eq!(addresses, ["203.0.113.6", "203.0.113.2", "10.1.0.2"]);
        let gateways: Vec<_> = plan.hosts[2].interfaces[0].addresses().iter().map(|(.., by)| *by).collect();
        assert_eq!(gateways, [IpAddr::from([10, 1, 0, 1])]);
        assert_eq!(plan.internet6, None);
    }

    /// T3.1-d.
    #[test]
    fn hosts_and_networks_have_the_families_that_they_ask_for() {
        let plan = plan_of(
            "[router.a]\nnat = \"symmetric\"\n[router.b]\nnat = \"none\"\nip = \"v6\"\n[router.c]\nnat = \"symmetric\"\nip = \"both\"\n\
             [node.v]\nrole = \"general\"\nat = \"a\"\n[node.w]\nrole = \"general\"\nat = \"b\"\n[node.x]\nrole = \"general\"\nat = \"c\"\n\
             [node.y]\nrole = \"general\"\nat = \"internet\"\nip = \"both\"\n[node.z]\nrole = \"general\"\nat = \"internet\"\n",
        )
        .unwrap();
        let shown = plan
            .hosts
            .iter()
            .map(|host| host.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                "10.1.0.2",
                "2001:db8:0:1::2",
                "10.2.0.2 2001:db8:0:2::2",
                "203.0.113.5 2001:db8::4",
                "203.0.113.6"
            ]
        );
        let outers: Vec<_> = plan.routers.iter().map(|r| r.v6.map(|(outer, _)| outer.to_string())).collect();
        assert_eq!(outers, [None, Some("2001:db8::2".to_owned()), Some("2001:db8::3".to_owned())]);
    }

    /// T6.3-b: without NTMobile, a host behind a NAT is reached by forwarded ports at its router's address.
    #[test]
    fn a_forwarded_host_is_found_at_its_router() {
        let plan = plan_of(
            "[router.a]\nnat = \"symmetric\"\nforward = \"w\"\n[node.v]\nrole = \"general\"\nat = \"internet\"\n\
             [node.w]\nrole = \"general\"\nat = \"a\"\nname = \"w.test\"\n[node.x]\nrole = \"general\"\nat = \"internet\"\nname = \"x.test\"\n\
             [[flow]]\nid = \"f\"\nping = { from = \"v\", to = \"x.test\" }\n\
             [[flow]]\nid = \"g\"\niperf3 = { from = \"v\", to = \"w.test\", duration = \"1s\" }\n\
             [[flow]]\nid = \"h\"\nexec = { node = \"w\", command = [\"true\"] }\n",
        )
        .unwrap();
        let host = plan.host("w").unwrap();
        assert_eq!(
            (host.address(), host.interfaces[0].address),
            (plan.routers[0].outer.into(), IpAddr::from([10, 1, 0, 2]))
        );
        let forwards = plan.routers[0].forwards.iter();
        let forwards: Vec<_> = forwards.map(|f| format!("{} {} {}", f.protocol, f.port, f.to)).collect();
        let expected = [5202, 5203]
            .map(|port| ["tcp", "udp"].map(|protocol| format!("{protocol} {port} 10.1.0.2:{port}")));
        assert_eq!(forwards, expected.concat());
    }

    #[test]
    fn a_tunnel_has_a_name_addresses_and_a_port_that_leads_to_its_end() {
        let plan = plan_of(
            "[router.a]\nnat = \"symmetric\"\nforward = \"w\"\n[node.v]\nrole = \"general\"\nat = \"internet\"\n\
             [node.w]\nrole = \"general\"\nat = \"a\"\n[tunnel.one]\nprogram = \"openvpn\"\nfrom = \"v\"\nto = \"w\"\n\
             [tunnel.two]\nprogram = \"nebula\"\nfrom = \"v\"\nto = \"w\"\n\
             [[flow]]\nid = \"f\"\niperf3 = { from = \"v\", to = \"w.two.tunnel\", duration = \"1s\" }\n",
        )
        .unwrap();
        assert_eq!(plan.host_named(&"w.two.tunnel".parse().unwrap()).unwrap().name, "w");
        let second = &plan.tunnels[1];
        assert_eq!((second.inner_from, second.inner_to), ([10, 254, 0, 5].into(), [10, 254, 0, 6].into()));
        assert_eq!(second.devices(), ["tun1a", "tun1b"]);
        let forwards = plan.routers[0].forwards.iter();
        let forwards: Vec<_> = forwards.map(|f| format!("{} {} {}", f.protocol, f.port, f.to)).collect();
        assert_eq!(forwards, ["udp 51820 10.1.0.2:51820", "udp 51821 10.1.0.2:51821"]);
    }

    #[test]
    fn a_full_network_is_named() {
        let nodes: String =
            (0..6).map(|n| format!("[node.n{n}]\nrole = \"general\"\nat = \"internet\"\n")).collect();
        let error = plan_of(&format!("[internet]\nprefix = \"203.0.113.0/30\"\n{nodes}")).unwrap_err();
        assert_eq!(error, "the internet (203.0.113.0/30) has no address left");
    }
}
