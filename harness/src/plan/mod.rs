//! From a checked scenario to everything that will be built, decided before anything is: addresses, zones, configurations.
//!
//! PURE: no file, no namespace, no entropy. [`address`] gives every interface its address, [`zones`] writes the DNS,
//! [`config`] the daemons' configurations.

pub mod address;
pub mod config;
mod probe;
pub mod zones;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ntm_nat::{Behaviour, Forward};
use ntm_protocol::addr::Fqdn;

pub use probe::ProbeNet;

use crate::foreign::program::Program;
use crate::judge::sequence::Owners;
use crate::scenario::model::{Link, Place, Role};
use crate::scenario::prefix::{Net6, Prefix};

/// All virtual addresses, split among the coordinators (RFC 2544's range, as the thesis's experiments need one that is nobody's).
pub const VIRTUAL: Prefix = Prefix::new(Ipv4Addr::new(198, 18, 0, 0), 15);

/// The world to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The outer network; its host 1 is the way to the routed networks.
    pub internet: Prefix,
    /// The same in IPv6, if anything has that.
    pub internet6: Option<Net6>,
    /// Routers, by name.
    pub routers: Vec<RouterPlan>,
    /// Hosts, by name.
    pub hosts: Vec<HostPlan>,
    /// Tunnels by other programs, by name.
    pub tunnels: Vec<TunnelPlan>,
}

/// A tunnel to make.
#[derive(Debug, Clone)]
pub struct TunnelPlan {
    /// The scenario's name.
    pub name: String,
    /// By which program.
    pub program: Program,
    /// The host that begins.
    pub from: String,
    /// The host that waits.
    pub to: String,
    /// What the latter is called through the tunnel.
    pub fqdn: Option<Fqdn>,
    /// The UDP port that it waits at.
    pub port: u16,
    /// The inner addresses of both.
    pub inner_from: Ipv4Addr,
    /// As above.
    pub inner_to: Ipv4Addr,
}

impl TunnelPlan {
    /// The interfaces of `from` and `to`; no two tunnels have the same, for programs make sockets that are named after them.
    pub fn devices(&self) -> [String; 2] {
        ["a", "b"].map(|end| format!("tun{}{end}", self.port - FIRST_TUNNEL))
    }
}

/// The UDP port of the first tunnel; each has one of its own.
pub const FIRST_TUNNEL: u16 = 51820;

/// A router to build.
#[derive(Debug, Clone)]
pub struct RouterPlan {
    /// The scenario's name.
    pub name: String,
    /// How it translates.
    pub nat: Behaviour,
    /// Its address on the internet.
    pub outer: Ipv4Addr,
    /// The network behind it; its host 1 is the router.
    pub inner: Prefix,
    /// Its IPv6 address on the internet, and the IPv6 network behind it, if there is one.
    pub v6: Option<(Ipv6Addr, Net6)>,
    /// What its outer link does.
    pub link: Link,
    /// That link's name in the scenario.
    pub link_name: Option<String>,
    /// The longest packet that it passes on, in bytes.
    pub mtu: Option<u16>,
    /// Ports of its outer address that lead to hosts behind it.
    pub forwards: Vec<Forward>,
}

/// A host to build.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// The scenario's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its name in the DNS.
    pub fqdn: Option<Fqdn>,
    /// Its real interfaces.
    pub interfaces: Vec<InterfacePlan>,
    /// The outer address of its router, where that forwards ports to it.
    pub forwarded: Option<Ipv4Addr>,
}

/// An interface to build.
#[derive(Debug, Clone)]
pub struct InterfacePlan {
    /// As the kernel calls it.
    pub name: String,
    /// Where it is.
    pub at: Place,
    /// Its address: that in IPv4, if it has both.
    pub address: IpAddr,
    /// The addresses that it gets in the course of the run.
    pub later: Vec<Ipv4Addr>,
    /// The network's prefix in IPv4.
    pub net: Prefix,
    /// Its address in IPv6 and its network, if it has one.
    pub v6: Option<(Ipv6Addr, Net6)>,
    /// What its link does.
    pub link: Link,
    /// That link's name in the scenario.
    pub link_name: Option<String>,
    /// Whether it is up at the start.
    pub up: bool,
}

impl InterfacePlan {
    /// Its addresses, each with the length of its network's prefix and the default gateway there.
    pub fn addresses(&self) -> Vec<(IpAddr, u8, IpAddr)> {
        let v4 = Some(self.address).filter(IpAddr::is_ipv4);
        let v4 = v4.map(|own| (own, self.net.length(), self.net.host(1).map_or(own, IpAddr::V4)));
        let v6 = self.v6.map(|(own, net)| (own.into(), Net6::LENGTH, net.host(1).into()));
        v4.into_iter().chain(v6).collect()
    }
}

impl HostPlan {
    /// The interface that others find it at: the first that is up.
    fn main_interface(&self) -> Option<&InterfacePlan> {
        self.interfaces.iter().find(|interface| interface.up).or(self.interfaces.first())
    }

    /// The address that others find it at: that of its router, if that forwards ports to it; that in IPv4, if it has both.
    pub fn address(&self) -> IpAddr {
        if let Some(outer) = self.forwarded {
            return outer.into();
        }
        self.main_interface().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |interface| interface.address)
    }

    /// The addresses that others find it at, one of each family that it has.
    pub fn addresses(&self) -> Vec<IpAddr> {
        if let Some(outer) = self.forwarded {
            return vec![outer.into()];
        }
        let all = self.main_interface().map(InterfacePlan::addresses).unwrap_or_default();
        all.into_iter().map(|(address, ..)| address).collect()
    }

    /// Whether the host runs NTMobile's terminal, so that its applications see virtual addresses.
    pub fn is_terminal(&self) -> bool {
        matches!(self.role, Role::Terminal(_))
    }
}

impl Plan {
    /// The host called `name`.
    pub fn host(&self, name: &str) -> Option<&HostPlan> {
        let place = self.hosts.binary_search_by(|host| host.name.as_str().cmp(name)).ok()?;
        self.hosts.get(place)
    }

    /// The host whose name in the DNS, or through a tunnel, is `fqdn`.
    pub fn host_named(&self, fqdn: &Fqdn) -> Option<&HostPlan> {
        let through = self.tunnels.iter().find(|tunnel| tunnel.fqdn.as_ref() == Some(fqdn));
        match through {
            Some(tunnel) => self.host(&tunnel.to),
            None => self.hosts.iter().find(|host| host.fqdn.as_ref() == Some(fqdn)),
        }
    }
}

impl Plan {
    /// The name of the host or router that has, or had, `address` on a real interface.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        let router = self.routers.iter().map(|router| router.name.as_str());
        let mut names = router.chain(self.hosts.iter().map(|host| host.name.as_str()));
        names.find(|name| self.owns(name, address))
    }

    /// Everything that is on the link called `name`: node, interface, and the network at the other end.
    pub fn on_link(&self, name: &str) -> Vec<(&str, &str, Place)> {
        let is = |link: &Option<String>| link.as_deref() == Some(name);
        let routers = self.routers.iter().filter(|router| is(&router.link_name));
        let routers = routers.map(|router| (router.name.as_str(), config::OUTSIDE, Place::Internet));
        let hosts = self.hosts.iter().flat_map(|host| host.interfaces.iter().map(move |i| (host, i)));
        let hosts = hosts.filter(|(_, interface)| is(&interface.link_name));
        routers.chain(hosts.map(|(host, i)| (host.name.as_str(), i.name.as_str(), i.at.clone()))).collect()
    }
}

impl Owners for Plan {
    fn owns(&self, name: &str, address: IpAddr) -> bool {
        let routers = self.routers.iter().any(|router| {
            router.name == name
                && (address == router.outer || router.v6.is_some_and(|(outer, _)| address == outer))
        });
        let has = |interface: &InterfacePlan| {
            interface.addresses().iter().any(|(own, ..)| *own == address)
                || interface.later.iter().any(|later| address == *later)
        };
        routers || self.hosts.iter().any(|host| host.name == name && host.interfaces.iter().any(has))
    }
}
