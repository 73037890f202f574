//! The world of a run as a report has it: networks, routers, hosts and their addresses. It says who speaks from an address.

use std::iter;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::scenario::model::{Place, Role};
use crate::scenario::prefix::Net6;

/// What was built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Topology {
    /// The outer network's prefix.
    pub internet: String,
    /// Routers, by name.
    pub routers: Vec<Router>,
    /// Hosts, by name.
    pub hosts: Vec<Host>,
}

/// A router with the network behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Router {
    /// Its name in the scenario.
    pub name: String,
    /// How it translates; `none` for plain routing.
    pub nat: String,
    /// Its addresses on the internet.
    pub outer: Vec<IpAddr>,
    /// The prefixes behind it.
    pub inner: Vec<String>,
    /// The link on its outer side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Host {
    /// Its name in the scenario.
    pub name: String,
    /// `dns`, `coordinator`, `relay`, `general` or `terminal`.
    pub role: String,
    /// Its name in the DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// Its real interfaces.
    pub interfaces: Vec<Interface>,
}

/// An interface of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Interface {
    /// As the kernel calls it.
    pub name: String,
    /// The router it is behind; `None` on the internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Its address, and those that it gets later.
    pub addresses: Vec<IpAddr>,
    /// The link between it and the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whether it is up at the start.
    pub up: bool,
}

impl Topology {
    /// The world that `plan` describes.
    pub fn of(plan: &Plan) -> Self {
        let routers = plan.routers.iter().map(|router| Router {
            name: router.name.clone(),
            nat: router.nat.to_string(),
            outer: iter::once(router.outer.into()).chain(router.v6.map(|(outer, _)| outer.into())).collect(),
            inner: iter::once(router.inner.to_string())
                .chain(router.v6.map(|(_, inner)| format!("{}/{}", inner.base(), Net6::LENGTH)))
                .collect(),
            link: router.link_name.clone(),
        });
        let hosts = plan.hosts.iter().map(|host| Host {
            name: host.name.clone(),
            role: word(&host.role).to_owned(),
            fqdn: host.fqdn.as_ref().map(ToString::to_string),
            interfaces: host
                .interfaces
                .iter()
                .map(|interface| Interface {
                    name: interface.name.clone(),
                    behind: match &interface.at {
                        Place::Internet => None,
                        Place::Behind(router) => Some(router.clone()),
                    },
                    addresses: interface.addresses().into_iter().map(|(address, ..)| address).collect(),
                    link: interface.link_name.clone(),
                    up: interface.up,
                })
                .collect(),
        });
        Self { internet: plan.internet.to_string(), routers: routers.collect(), hosts: hosts.collect() }
    }

    /// Every real address with the name of the host or router that has it.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, String)> + use<'_> {
        let hosts = self.hosts.iter().flat_map(|host| {
            let addresses = host.interfaces.iter().flat_map(|one| &one.addresses);
            addresses.map(move |address| (*address, host.name.clone()))
        });
        let routers = self
            .routers
            .iter()
            .flat_map(|router| router.outer.iter().map(move |at| (*at, router.name.clone())));
        hosts.chain(routers)
    }

    /// The host called `name`.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The host that has `address` on one of its interfaces.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        let has = |host: &&Host| host.interfaces.iter().any(|one| one.addresses.contains(&address));
        self.hosts.iter().find(has).map(|host| host.name.as_str())
    }

    /// The host or router that has the address of `socket`, `address:port` or an address alone.
    pub fn named(&self, socket: &str) -> Option<&str> {
        let address = ip(socket)?;
        let router = || self.routers.iter().find(|router| router.outer.contains(&address));
        self.owner(address).or_else(|| router().map(|router| router.name.as_str()))
    }

    /// Whether the host `name` can be what is seen at `socket`: the address is its own, or that of a router before it.
    pub fn stands_for(&self, socket: &str, name: &str) -> bool {
        let (Some(address), Some(host)) = (ip(socket), self.host(name)) else { return false };
        let before =
            |router: &str| self.routers.iter().any(|one| one.name == router && one.outer.contains(&address));
        host.interfaces
            .iter()
            .any(|one| one.addresses.contains(&address) || one.behind.as_deref().is_some_and(before))
    }
}

fn ip(socket: &str) -> Option<IpAddr> {
    socket.parse::<SocketAddr>().map(|socket| socket.ip()).or_else(|_| socket.parse()).ok()
}

fn word(role: &Role) -> &'static str {
    match role {
        Role::Dns { .. } => "dns",
        Role::Coordinator(_) => "coordinator",
        Role::Relay { .. } => "relay",
        Role::General { .. } => "general",
        Role::Terminal(_) => "terminal",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// MN behind APNAT_A, and DC and RS on the internet.
    pub(in crate::report) fn small() -> Topology {
        let host = |name: &str, role: &str, behind: Option<&str>, address: &str| Host {
            name: name.into(),
            role: role.into(),
            fqdn: None,
            interfaces: vec![Interface {
                name: "eth0".into(),
                behind: behind.map(str::to_owned),
                addresses: vec![address.parse().unwrap()],
                link: None,
                up: true,
            }],
        };
        Topology {
            internet: "203.0.113.0/24".into(),
            routers: vec![Router {
                name: "apnat_a".into(),
                nat: "symmetric".into(),
                outer: vec!["203.0.113.3".parse().unwrap()],
                inner: vec!["10.1.0.0/24".into()],
                link: None,
            }],
            hosts: vec![
                host("mn", "terminal", Some("apnat_a"), "10.1.0.2"),
                host("dc", "coordinator", None, "203.0.113.4"),
                host("rs", "relay", None, "203.0.113.7"),
            ],
        }
    }

    #[test]
    fn an_address_is_told_by_who_has_it_or_stands_behind_it() {
        let world = small();
        assert_eq!(world.named("203.0.113.4:4330"), Some("dc"));
        assert_eq!(world.named("203.0.113.3:1025"), Some("apnat_a"));
        assert_eq!(world.named("203.0.113.9"), None);
        assert!(world.stands_for("203.0.113.3:1025", "mn") && world.stands_for("10.1.0.2:4330", "mn"));
        assert!(!world.stands_for("203.0.113.3:1025", "dc"));
    }
}
