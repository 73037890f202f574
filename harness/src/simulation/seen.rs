//! What a simulated run leaves: the observations, what passed the interfaces, and the nodes' status, in the forms of emulation.

use std::net::IpAddr;

use ntm_protocol::time::Instant;
use ntm_sim::capture::{Captured, Point};
use ntm_sim::packet::Packet;
use serde_json::{Map, Value as Json, json};

use super::build::Built;
use crate::capture::packet;
use crate::capture::sealed;
use crate::exit::Failure;
use crate::plan::config::TUN;
use crate::plan::{InterfacePlan, Plan};
use crate::report::events;
use crate::run::result::Record;
use crate::transitions::sighting::{self, Sighting};

/// Reads the world into `record`, all but what passed the interfaces.
pub fn read(built: &Built, record: &mut Record) -> Result<(), Failure> {
    let trace: Result<Vec<Json>, _> = built.world.trace().iter().map(serde_json::to_value).collect();
    record.trace =
        events::sorted(record.own.iter().cloned().chain(trace.map_err(Failure::during("the trace"))?));
    record.end = built.world.now().as_nanos();
    record.seals.sort_unstable();
    record.status = status(built).map_err(Failure::during("a node's status"))?;
    Ok(())
}

/// Where packets are going to be seen.
pub fn prepare(plan: &Plan, record: &mut Record) {
    for host in &plan.hosts {
        let names = host.interfaces.iter().map(|interface| interface.name.as_str());
        let tun = host.is_terminal().then_some(TUN);
        for interface in names.chain(tun) {
            record.recordings.entry((host.name.clone(), interface.to_owned())).or_default();
        }
    }
}

/// A packet in its order, with when, where, at what place, whether outgoing.
type Seen<'a> = ((usize, bool), Instant, &'a str, sighting::Point, bool, (&'a Packet, u16));

/// Notes what passed the interfaces since it was last asked: what emulation's recordings keep of packets, what whole packets tell, in the order of time, and the
/// data packets among them.
pub fn collect(plan: &Plan, built: &mut Built, record: &mut Record) {
    let (at_hosts, outside) = built.world.take_captured();
    for captured in &at_hosts {
        let Some(interface) = interface(plan, built, captured) else { continue };
        let (node, t) = (built.world.name(captured.host).to_owned(), captured.at.as_nanos());
        let pieces = captured.packet.on_wire(captured.mtu);
        let seen = pieces.iter().filter_map(|bytes| packet::parse(t, captured.outgoing, bytes));
        record.recordings.entry((node, interface)).or_default().packets.extend(seen);
    }
    let world = &built.world;
    let at_hosts = at_hosts.iter().enumerate().map(|(number, it)| -> Seen<'_> {
        let is_virtual = it.point == Point::Virtual;
        let place = if is_virtual { sighting::Point::Application } else { sighting::Point::Real };
        ((number, true), it.at, world.name(it.host), place, it.outgoing, (&it.packet, it.mtu))
    });
    let outside = outside.iter().map(|it| -> Seen<'_> {
        (
            (it.after, false),
            it.at,
            it.router.as_str(),
            sighting::Point::Outside,
            it.outgoing,
            (&it.packet, it.mtu),
        )
    });
    let mut all: Vec<_> = at_hosts.chain(outside).collect();
    all.sort_by_key(|(order, ..)| *order);
    for (_, at, node, place, outgoing, (packet, mtu)) in all {
        let t = at.as_nanos();
        for bytes in packet.on_wire(mtu) {
            record.sightings.extend(Sighting::read(t, node, place, outgoing, &bytes));
            if place != sighting::Point::Application {
                record.seals.extend(sealed::seals(t, &bytes));
            }
        }
    }
}

/// The name of the interface where a packet was seen.
fn interface(plan: &Plan, built: &Built, captured: &Captured) -> Option<String> {
    match captured.point {
        Point::Virtual => Some(TUN.to_owned()),
        Point::Real(address) => {
            let host = plan.host(built.world.name(captured.host))?;
            let has = |interface: &&InterfacePlan| {
                let later = interface.later.iter().map(|its| IpAddr::V4(*its));
                interface.addresses().into_iter().map(|(its, ..)| its).chain(later).any(|its| its == address)
            };
            host.interfaces.iter().find(has).map(|interface| interface.name.clone())
        }
    }
}

/// What a daemon's `status` says, as far as the simulator has it.
fn status(built: &Built) -> Result<Json, serde_json::Error> {
    let mut out = Map::new();
    for (name, id) in built.hosts() {
        let fqdn = built.world.fqdn(id);
        if let Some(terminal) = built.world.at_terminal(id) {
            let paths = serde_json::to_value(terminal.paths())?;
            let (vip, registered) = (terminal.vip(), terminal.is_registered());
            let refused = terminal.refused();
            out.insert(
                name.to_owned(),
                json!({ "name": name, "fqdn": fqdn, "vip": vip, "registered": registered, "paths": paths, "refused": refused }),
            );
        } else if let Some(relay) = built.world.at_relay(id) {
            let table = serde_json::to_value(relay.table().rows())?;
            let (registered, refused) = (relay.is_registered(), relay.refused());
            out.insert(
                name.to_owned(),
                json!({ "name": name, "fqdn": fqdn, "registered": registered, "table": table, "refused": refused }),
            );
        }
    }
    Ok(Json::Object(out))
}
