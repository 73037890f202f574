//! What a simulated run leaves: the observations, what passed the interfaces, and the nodes' status, in the forms of emulation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ntm_sim::HostId;
use ntm_sim::capture::{Captured, CapturedOutside, Point};
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

/// Notes what passed the interfaces since it was last asked: what emulation's recordings keep of packets, what whole packets tell, in the order of time, and the
/// data packets among them.
pub fn collect(plan: &Plan, built: &mut Built, record: &mut Record) {
    let (at_hosts, outside) = built.world.take_captured();
    // The recording of each place.
    let mut places: BTreeMap<(HostId, Point), Option<(String, String)>> = BTreeMap::new();
    let mut outside = outside.iter().peekable();
    for (number, it) in at_hosts.iter().enumerate() {
        while let Some(it) = outside.next_if(|it| it.after <= number) {
            note_outside(it, record);
        }
        let (t, node) = (it.at.as_nanos(), built.world.name(it.host));
        let pieces = it.packet.on_wire(it.mtu);
        let place = places
            .entry((it.host, it.point))
            .or_insert_with(|| Some((node.to_owned(), interface(plan, built, it)?)));
        if let Some(recording) = place.as_ref().and_then(|place| record.recordings.get_mut(place)) {
            let seen = pieces.iter().filter_map(|bytes| packet::parse(t, it.outgoing, bytes));
            recording.packets.extend(seen);
        }
        let is_virtual = it.point == Point::Virtual;
        let place = if is_virtual { sighting::Point::Application } else { sighting::Point::Real };
        note(t, node, place, it.outgoing, &pieces, record);
    }
    outside.for_each(|it| note_outside(it, record));
}

fn note_outside(it: &CapturedOutside, record: &mut Record) {
    let (t, place, pieces) = (it.at.as_nanos(), sighting::Point::Outside, it.packet.on_wire(it.mtu));
    note(t, &it.router, place, it.outgoing, &pieces, record);
}

/// Notes what the `pieces` of a packet tell that passed `place` of `node` at `t` nanoseconds.
fn note(t: u64, node: &str, place: sighting::Point, outgoing: bool, pieces: &[Vec<u8>], record: &mut Record) {
    for bytes in pieces {
        record.sightings.extend(Sighting::read(t, node, place, outgoing, bytes));
        if place != sighting::Point::Application {
            record.seals.extend(sealed::seals(t, bytes));
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
