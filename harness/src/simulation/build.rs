//! The simulated world of a plan: the same names, addresses, NATs, links and zones.

use std::collections::{BTreeMap, BTreeSet};

use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::lookup::DC_RECORD;
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::crypto::Suite;
use ntm_protocol::data::V6_MTU;
use ntm_protocol::terminal::Handover;
use ntm_protocol::time::Duration;
use ntm_sim::impair::Impairment;
use ntm_sim::{HostId, INTERNET, Interface, Link, NetworkId, Settings, World};

use crate::exit::Failure;
use crate::plan::zones::{closest, name_server, zones};
use crate::plan::{HostPlan, InterfacePlan, Plan};
use crate::scenario::model::{self, Place, Role, Scenario};
use crate::world::link::line;

/// A simulated world, and who is who in it.
pub struct Built {
    /// The world; nobody has started.
    pub world: World,
    hosts: BTreeMap<String, HostId>,
    networks: BTreeMap<Place, NetworkId>,
    /// What each named link does now.
    links: BTreeMap<String, model::Link>,
}

impl Built {
    /// The host called `name`.
    pub fn host(&self, name: &str) -> Result<HostId, Failure> {
        self.hosts.get(name).copied().ok_or_else(|| Failure::error(format!("there is no host `{name}`")))
    }

    /// Every host with its name.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, HostId)> {
        self.hosts.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// An interface as the simulator has it, once for each of its addresses, with what its link does now.
    pub fn interfaces(&self, plan: &InterfacePlan) -> Result<Vec<Interface>, Failure> {
        let network = self.networks.get(&plan.at).copied();
        let network = network.ok_or_else(|| Failure::error(format!("there is no network {:?}", plan.at)))?;
        let changed = plan.link_name.as_ref().and_then(|name| self.links.get(name));
        let link = shape(changed.unwrap_or(&plan.link));
        let addresses = plan.addresses().into_iter();
        Ok(addresses.map(|(address, ..)| Interface { network, address, link }).collect())
    }

    /// The link called `name` does what `link` says from now on.
    pub fn change_link(&mut self, plan: &Plan, name: &str, link: &model::Link) -> Result<(), Failure> {
        self.links.insert(name.to_owned(), link.clone());
        for router in plan.routers.iter().filter(|router| router.link_name.as_deref() == Some(name)) {
            self.world.relink_router(&router.name, &shape(link));
        }
        let interfaces = plan.hosts.iter().flat_map(|host| &host.interfaces);
        for interface in interfaces.filter(|interface| interface.link_name.as_deref() == Some(name)) {
            let now = self.interfaces(interface)?;
            // Whichever of its addresses it has now.
            let later = interface.later.iter().flat_map(|address| {
                let address = (*address).into();
                now.iter().map(move |known| Interface { address, ..*known })
            });
            now.iter().copied().chain(later).for_each(|changed| self.world.relink(&changed));
        }
        Ok(())
    }
}

/// What a packet takes at least: what happens in no time has no order.
const LEAST: Duration = Duration::from_micros(20);

/// A link as the simulator has it.
fn shape(link: &model::Link) -> Link {
    let way = |way| {
        let line = line(way);
        Impairment { delay: line.delay.max(LEAST), ..line }
    };
    Link { up: way(&link.up), down: way(&link.down) }
}

/// Builds the world of `plan`.
pub fn build(scenario: &Scenario, plan: &Plan) -> Result<Built, Failure> {
    let mut world = World::new(scenario.seed);
    // As the daemons have them where nobody says otherwise.
    world.settings = Settings {
        patience: Duration::from_millis(4500),
        negotiation: Duration::from_secs(4),
        capacity: 65_536,
        neighbours: true,
        mtu: if with_v6(plan) { V6_MTU.into() } else { Settings::default().mtu },
        ..Settings::default()
    };
    let mut networks = BTreeMap::from([(Place::Internet, INTERNET)]);
    for router in &plan.routers {
        let outer = router.outer.to_string();
        let network = world.router(&router.name, router.nat, INTERNET, &outer, shape(&router.link));
        networks.insert(Place::Behind(router.name.clone()), network);
        if let Some(mtu) = router.mtu {
            world.narrow_router(&router.name, mtu);
        }
        if !router.forwards.is_empty() {
            let set = world.forward(&router.name, router.outer.into(), &router.forwards);
            set.map_err(Failure::during(format!("the forwards of `{}`", router.name)))?;
        }
    }
    let mut built = Built { world, hosts: BTreeMap::new(), networks, links: BTreeMap::new() };
    // Relays and terminals are introduced to coordinators, which must be there by then.
    let first = |host: &&HostPlan| matches!(host.role, Role::Coordinator(_));
    let order = plan.hosts.iter().filter(first).chain(plan.hosts.iter().filter(|host| !first(host)));
    for host in order {
        let id = add(&mut built, host)?;
        built.hosts.insert(host.name.clone(), id);
    }
    name(&mut built.world, plan);
    Ok(built)
}

fn add(built: &mut Built, host: &HostPlan) -> Result<HostId, Failure> {
    let up = host.interfaces.iter().filter(|interface| interface.up);
    let at = up.map(|interface| built.interfaces(interface)).collect::<Result<Vec<_>, _>>()?.concat();
    // Whoever has no name in the DNS is asked for by nobody.
    let nameless = || format!("{}.invalid", host.name.replace('_', "-")).parse::<Fqdn>();
    let fqdn = match &host.fqdn {
        Some(fqdn) => fqdn.clone(),
        None => nameless().map_err(Failure::during(format!("`{}` cannot be named", host.name)))?,
    };
    let name = host.name.as_str();
    Ok(match &host.role {
        Role::Coordinator(_) if at.is_empty() => {
            return Err(Failure::usage(format!("`{name}` is a coordinator and has no interface that is up")));
        }
        Role::Coordinator(dc) => {
            let serves = (dc.zone.get_ref().clone(), *dc.vips.get_ref());
            built.world.add_coordinator(name, fqdn, serves, &at)
        }
        Role::Relay { coordinators, .. } => {
            let dcs = coordinators.iter().map(|name| built.host(name.get_ref()));
            let dcs = dcs.collect::<Result<Vec<_>, _>>()?;
            built.world.add_relay(name, fqdn, &dcs, &at)
        }
        Role::Terminal(terminal) => {
            let dc = built.host(terminal.coordinator.get_ref())?;
            built.world.add_terminal(name, fqdn, dc, &at)
        }
        Role::Dns { .. } | Role::General { .. } => built.world.add_general(name, fqdn, &at),
    })
}

/// Whether packets may travel over IPv6 outside: the simulator's TCP does not find out what a path takes, so it keeps to the least there is.
fn with_v6(plan: &Plan) -> bool {
    let interfaces = plan.hosts.iter().flat_map(|host| &host.interfaces);
    interfaces.flat_map(InterfacePlan::addresses).any(|(address, ..)| address.is_ipv6())
}

/// What a node that starts next is configured with.
pub fn configure(settings: &mut Settings, role: &Role) {
    let default = Settings::default();
    match role {
        Role::Coordinator(dc) => {
            settings.keep_alive = dc.keepalive.unwrap_or(default.keep_alive);
            settings.suite = dc.suite.and_then(word::<Suite>).unwrap_or_default();
            settings.selection = dc.relay_selection.and_then(word::<Selection>).unwrap_or_default();
        }
        // The simulator has one setting for a terminal's paths and a relay's entries.
        Role::Terminal(terminal) => {
            settings.lifetime = terminal.lifetime.unwrap_or(default.lifetime);
            settings.handover = terminal.handover.and_then(word::<Handover>).unwrap_or_default();
        }
        Role::Relay { .. } => settings.lifetime = default.lifetime,
        Role::Dns { .. } | Role::General { .. } => {}
    }
}

/// A value from its word in configurations.
fn word<T: serde::de::DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(word.into()).ok()
}

/// The DNS: the zones of the plan's servers, and the coordinators' own.
fn name(world: &mut World, plan: &Plan) {
    let zones = zones(plan);
    let origins: BTreeSet<Option<Fqdn>> = zones.iter().map(|zone| zone.origin.clone()).collect();
    for zone in &zones {
        if let (Some(origin), Some(server)) = (&zone.origin, plan.host(&zone.server)) {
            let ns = name_server(Some(origin)).trim_end_matches('.').parse::<Fqdn>();
            world.dns.zone(origin).servers = ns.into_iter().map(|ns| (ns, server.addresses())).collect();
        }
    }
    for host in &plan.hosts {
        match (&host.role, &host.fqdn) {
            (Role::Coordinator(dc), Some(fqdn)) => {
                let zone = world.dns.zone(dc.zone.get_ref());
                zone.servers = vec![(fqdn.clone(), host.addresses())];
                zone.texts = vec![DC_RECORD.to_owned()];
                zone.names.insert(fqdn.clone(), host.addresses());
            }
            (Role::General { .. }, Some(fqdn)) => {
                // Without any server, other nodes still know it by their hosts files.
                let zone = closest(&origins, fqdn).or_else(|| fqdn.parent()).unwrap_or_else(|| fqdn.clone());
                world.dns.zone(&zone).names.insert(fqdn.clone(), host.addresses());
            }
            _ => {}
        }
    }
    world.dns.question = question(plan);
}

/// What one question takes: a round trip between the first coordinator and the root server.
fn question(plan: &Plan) -> Duration {
    let is_root = |host: &&HostPlan| matches!(host.role, Role::Dns { zone: None });
    let is_dc = |host: &&HostPlan| matches!(host.role, Role::Coordinator(_));
    let ends = [plan.hosts.iter().find(is_dc), plan.hosts.iter().find(is_root)];
    let interfaces = ends.into_iter().flatten().filter_map(|host| host.interfaces.first());
    interfaces.map(|interface| interface.link.up.delay + interface.link.down.delay).sum()
}
