//! `run.pcapng`: what every capture point wrote, in one file.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value as Json;

use super::Job;
use crate::capture::merge::{self, Part};
use crate::exit::Failure;
use crate::plan::config::{OUTSIDE, TUN};
use crate::report::topology::Topology;

/// Joins the files in `folder` into the run's `run.pcapng`, and removes them. Returns what of them could not be read.
pub(super) fn join(
    job: &Job,
    folder: &Path,
    world: &Topology,
    trace: &[Json],
) -> Result<Vec<String>, Failure> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let parts: Vec<Part> = files
        .into_iter()
        .filter(|file| is_kept(job, file))
        .filter(|file| file.extension().is_some_and(|extension| extension == "pcapng"))
        .map(|file| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let (node, interface) = name.split_once('.').unwrap_or((&name, ""));
            Part { about: about(world, node, interface), file }
        })
        .collect();
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let to = job.folder.join("run.pcapng");
    let broken = merge::merge(&parts, &names(world, trace), &to).map_err(Failure::during(to.display()))?;
    fs::remove_dir_all(folder).map_err(Failure::during(folder.display()))?;
    Ok(broken)
}

/// Whether the scenario keeps what the capture point `file` is of.
fn is_kept(job: &Job, file: &Path) -> bool {
    let points = &job.scenario.points;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    points.is_empty() || points.iter().any(|point| *point.get_ref() == stem)
}

/// What an interface is, for who reads the capture without the scenario.
fn about(world: &Topology, node: &str, interface: &str) -> String {
    if let (Some(router), OUTSIDE) = (world.routers.iter().find(|router| router.name == node), interface) {
        return format!("router {node} ({}), outer side, {}", router.nat, joined(&router.outer));
    }
    let Some(host) = world.host(node) else { return node.to_owned() };
    let who = format!("{} {}", host.role, host.fqdn.as_deref().unwrap_or(node));
    match host.interfaces.iter().find(|one| one.name == interface) {
        Some(one) => {
            let place =
                one.behind.as_ref().map_or_else(|| "internet".into(), |router| format!("behind {router}"));
            format!("{who}, {}, {place}", joined(&one.addresses))
        }
        None if interface == TUN => format!("{who}, what its applications see"),
        None => who,
    }
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Real addresses with their nodes' names; virtual ones with the DNS's, as terminals were told.
fn names(world: &Topology, trace: &[Json]) -> Vec<(IpAddr, String)> {
    let mut out = BTreeMap::new();
    for record in trace {
        let registered = (record["vip"].as_str(), record["fqdn"].as_str());
        let told = (record["fields"]["peer_vip"].as_str(), record["fields"]["peer"].as_str());
        for (vip, name) in [registered, told] {
            if let (Some(Ok(vip)), Some(name)) = (vip.map(str::parse::<IpAddr>), name) {
                out.insert(vip, name.to_owned());
            }
        }
    }
    out.extend(world.addresses());
    out.into_iter().collect()
}
