//! From a checked scenario to everything that will be built, decided before anything is: addresses, zones, configurations.
//!
//! PURE: no file, no namespace, no entropy. [`address`] gives every interface its address, [`zones`] writes the DNS,
//! [`config`] the daemons' configurations.

pub mod address;
pub mod config;
mod probe;
pub mod zones;

use std::net::{IpAddr, Ipv4Addr};

use ntm_nat::Behaviour;
use ntm_protocol::addr::Fqdn;

pub use probe::ProbeNet;

use crate::judge::sequence::Owners;
use crate::scenario::model::{Link, Place, Role};
use crate::scenario::prefix::Prefix;

/// All virtual addresses, split among the coordinators (RFC 2544's range, as the thesis's experiments need one that is nobody's).
pub const VIRTUAL: Prefix = Prefix::new(Ipv4Addr::new(198, 18, 0, 0), 15);

/// The world to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The outer network; its host 1 is the way to the routed networks.
    pub internet: Prefix,
    /// Routers, by name.
    pub routers: Vec<RouterPlan>,
    /// Hosts, by name.
    pub hosts: Vec<HostPlan>,
}

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
    /// What its outer link does.
    pub link: Link,
    /// That link's name in the scenario.
    pub link_name: Option<String>,
    /// The longest packet that it passes on, in bytes.
    pub mtu: Option<u16>,
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
}

/// An interface to build.
#[derive(Debug, Clone)]
pub struct InterfacePlan {
    /// As the kernel calls it.
    pub name: String,
    /// Where it is.
    pub at: Place,
    /// Its address.
    pub address: Ipv4Addr,
    /// The addresses that it gets in the course of the run.
    pub later: Vec<Ipv4Addr>,
    /// The network's prefix.
    pub net: Prefix,
    /// What its link does.
    pub link: Link,
    /// That link's name in the scenario.
    pub link_name: Option<String>,
    /// Whether it is up at the start.
    pub up: bool,
}

impl InterfacePlan {
    /// The default gateway there.
    pub fn gateway(&self) -> Ipv4Addr {
        self.net.host(1).unwrap_or(self.address)
    }
}

impl HostPlan {
    /// The address that others find it at: that of its first interface that is up.
    pub fn address(&self) -> Ipv4Addr {
        let first = self.interfaces.iter().find(|interface| interface.up).or(self.interfaces.first());
        first.map_or(Ipv4Addr::UNSPECIFIED, |interface| interface.address)
    }

    /// Whether the host runs NTMobile's terminal, so that its applications see virtual addresses.
    pub fn is_terminal(&self) -> bool {
        matches!(self.role, Role::Terminal(_))
    }
}

impl Plan {
    /// The host called `name`.
    pub fn host(&self, name: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The host whose name in the DNS is `fqdn`.
    pub fn host_named(&self, fqdn: &Fqdn) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.fqdn.as_ref() == Some(fqdn))
    }
}

impl Plan {
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
        let routers = self.routers.iter().any(|router| router.name == name && address == router.outer);
        routers
            || self.hosts.iter().any(|host| {
                host.name == name
                    && host.interfaces.iter().any(|interface| {
                        address == interface.address || interface.later.iter().any(|later| address == *later)
                    })
            })
    }
}
