//! What a simulated run leaves: the observations, what passed the interfaces, and the nodes' status, in the forms of emulation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ntm_sim::HostId;
use ntm_sim::capture::{Captured, CapturedOutside, Point};
use serde_json::{Map, Value as Json, json};

use super::build::Built;
use crate::capture::{Recording, packet, sealed};
use crate::exit::Failure;
use crate::measure::Recordings;
use crate::plan::config::TUN;
use crate::plan::{HostPlan, InterfacePlan, Plan};
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

/// Notes what passes the interfaces.
pub struct Watch<'a> {
    plan: &'a Plan,
    /// What emulation's recordings keep of packets, by node and interface.
    recordings: Vec<((String, String), Recording)>,
    /// Where packets were seen so far.
    places: BTreeMap<(HostId, Point), Place>,
}

/// Where packets are seen.
struct Place {
    node: Arc<str>,
    /// Which of the recordings is of it.
    recording: Option<usize>,
}

impl<'a> Watch<'a> {
    /// Of all interfaces of hosts, and of routers' outer sides.
    pub fn new(plan: &'a Plan) -> Self {
        let of_host = |host: &'a HostPlan| {
            let names = host.interfaces.iter().map(|interface| interface.name.as_str());
            let tun = host.is_terminal().then_some(TUN);
            names.chain(tun).map(|interface| (host.name.clone(), interface.to_owned()))
        };
        let places = plan.hosts.iter().flat_map(of_host);
        let recordings = places.map(|place| (place, Recording::default())).collect();
        Self { plan, recordings, places: BTreeMap::new() }
    }

    /// Notes what passed since it was last asked: what recordings keep, what whole packets tell, in the order of time, and the data packets among them.
    pub fn collect(&mut self, built: &mut Built, record: &mut Record) {
        let (at_hosts, outside) = built.world.take_captured();
        let mut outside = outside.iter().peekable();
        for (number, it) in at_hosts.iter().enumerate() {
            while let Some(it) = outside.next_if(|it| it.after <= number) {
                note_outside(it, record);
            }
            let place = self.places.entry((it.host, it.point)).or_insert_with(|| {
                let interface = interface(self.plan, built, it);
                let node = built.world.name(it.host);
                let is_it =
                    |(host, name): &(String, String)| host == node && Some(name) == interface.as_ref();
                Place { node: node.into(), recording: self.recordings.iter().position(|(at, _)| is_it(at)) }
            });
            let t = it.at.as_nanos();
            let is_virtual = it.point == Point::Virtual;
            let point = if is_virtual { sighting::Point::Application } else { sighting::Point::Real };
            it.packet.on_wire(it.mtu, |bytes| {
                if let Some(recording) = place.recording {
                    self.recordings[recording].1.packets.extend(packet::parse(t, it.outgoing, bytes));
                }
                note(t, &place.node, point, it.outgoing, bytes, record);
            });
        }
        outside.for_each(|it| note_outside(it, record));
    }

    /// The recordings.
    pub fn recordings(self) -> Recordings {
        self.recordings.into_iter().collect()
    }
}

fn note_outside(it: &CapturedOutside, record: &mut Record) {
    let (t, point) = (it.at.as_nanos(), sighting::Point::Outside);
    it.packet.on_wire(it.mtu, |bytes| note(t, &it.router, point, it.outgoing, bytes, record));
}

/// Notes what the `bytes` tell that passed `point` of `node` at `t` nanoseconds.
fn note(t: u64, node: &Arc<str>, point: sighting::Point, outgoing: bool, bytes: &[u8], record: &mut Record) {
    record.sightings.extend(Sighting::read(t, node, point, outgoing, bytes));
    if point != sighting::Point::Application {
        record.seals.extend(sealed::seals(t, bytes));
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
