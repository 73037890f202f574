//! The thesis's names for addresses: VIP_MN, RIP_MN, RIP_NAT_MN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ntm_nat::Behaviour;
use ntm_protocol::observe::{Observation, What};

use super::sighting::Point;
use crate::plan::Plan;
use crate::scenario::model::Place;

/// Who has which address.
#[derive(Debug, Clone, Default)]
pub struct Names {
    virtuals: BTreeMap<IpAddr, String>,
    hosts: BTreeMap<IpAddr, String>,
    routers: BTreeMap<IpAddr, String>,
    terminals: BTreeSet<String>,
    /// NAT → the hosts that are or can be behind it.
    behind: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    /// Real addresses from the plan; virtual ones from what terminals were given and told.
    pub fn of(plan: &Plan, trace: &[Observation]) -> Self {
        let mut names = Self::default();
        for host in &plan.hosts {
            if host.is_terminal() {
                names.terminals.insert(host.name.clone());
            }
            for interface in &host.interfaces {
                let own = interface.addresses().into_iter().map(|(address, ..)| (address, host.name.clone()));
                names.hosts.extend(own);
                if let Place::Behind(router) = &interface.at
                    && plan.routers.iter().any(|it| it.name == *router && it.nat != Behaviour::None)
                {
                    names.behind.entry(router.clone()).or_default().insert(host.name.clone());
                }
            }
        }
        names.routers.extend(plan.routers.iter().map(|router| (router.outer.into(), router.name.clone())));
        for Observation { what, .. } in trace {
            if let What::Registered { fqdn: name, vip: Some(vip), .. }
            | What::Answer { name, vip: Some(vip), .. } = what
                && let Some(host) = plan.host_named(name)
            {
                names.virtuals.insert(vip.0.into(), host.name.clone());
            }
        }
        names
    }

    /// Whether applications on `node` see virtual addresses.
    pub fn is_terminal(&self, node: &str) -> bool {
        self.terminals.contains(node)
    }

    /// The address's name on the way between `ends`.
    pub fn address(&self, address: IpAddr, ends: [&str; 2]) -> String {
        let of = |kind: &str, name: &str| format!("{kind}_{}", name.to_uppercase());
        if let Some(name) = self.virtuals.get(&address) {
            return of("VIP", name);
        }
        if let Some(name) = self.hosts.get(&address) {
            return of("RIP", name);
        }
        match self.routers.get(&address) {
            Some(router) => format!("RIP_{}", self.router(router, ends)),
            None => address.to_string(),
        }
    }

    /// A NAT is named after the end that is behind it.
    fn router(&self, router: &str, ends: [&str; 2]) -> String {
        let is_behind = |end: &&str| self.behind.get(router).is_some_and(|hosts| hosts.contains(*end));
        match ends.into_iter().find(is_behind) {
            Some(end) => format!("NAT_{}", end.to_uppercase()),
            None => router.to_uppercase(),
        }
    }

    /// The place's name on the way between `ends`; `towards` is the end on whose side a host between the two was seen.
    pub fn place(&self, node: &str, point: Point, ends: [&str; 2], towards: &str) -> String {
        match point {
            Point::Outside => format!("{}, outside", self.router(node, ends)),
            Point::Application => format!("{}, application", node.to_uppercase()),
            Point::Real if ends.contains(&node) => format!("{}, real interface", node.to_uppercase()),
            Point::Real => format!("{}, towards {}", node.to_uppercase(), towards.to_uppercase()),
        }
    }
}
