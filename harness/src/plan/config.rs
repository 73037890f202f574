//! The daemons of a plan: which binary runs where, with which configuration and keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ntm_nat::{Behaviour, Forward};
use ntm_protocol::addr::{Fqdn, NTM_PORT, NodeId};
use serde::Serialize;

use super::zones::zones;
use super::{HostPlan, Plan, VIRTUAL};
use crate::scenario::model::Role;

/// The name of the TUN device on terminals and relays.
pub const TUN: &str = "ntm0";

/// A daemon to start.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The host or router it runs on.
    pub node: String,
    /// The program: `ntm-dc`.
    pub program: &'static str,
    /// Its configuration file's text.
    pub config: String,
    /// Further files of its configuration's folder: name and text.
    pub files: Vec<(String, String)>,
    /// Terminals start when everything they register with is ready.
    pub last: bool,
}

/// Where a run keeps what daemons read and write.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Configurations, keys and stores: one folder for each node.
    pub config: PathBuf,
    /// Traces: `NODE.jsonl`.
    pub trace: PathBuf,
    /// Control sockets: `NODE.sock`.
    pub control: PathBuf,
}

impl Folders {
    /// A node's own folder.
    pub fn of(&self, node: &str) -> PathBuf {
        self.config.join(node)
    }

    /// A node's trace.
    pub fn trace_of(&self, node: &str) -> PathBuf {
        self.trace.join(format!("{node}.jsonl"))
    }

    /// A node's control socket.
    pub fn control_of(&self, node: &str) -> PathBuf {
        self.control.join(format!("{node}.sock"))
    }
}

/// A key that two nodes share beforehand (T3.1-e), by their places in [`Plan::hosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedKey {
    /// One end.
    pub left: usize,
    /// The other.
    pub right: usize,
    /// The key.
    pub key: [u8; 32],
}

/// The pairs that share a key: each terminal and relay with its coordinators, and all coordinators with each other.
pub fn pairs(plan: &Plan) -> Vec<(usize, usize)> {
    let serves = |host: &HostPlan, dc: &HostPlan| match &host.role {
        Role::Terminal(terminal) => *terminal.coordinator.get_ref() == dc.name,
        Role::Relay { coordinators, .. } => coordinators.iter().any(|name| *name.get_ref() == dc.name),
        Role::Coordinator(_) => host.name < dc.name,
        Role::Dns { .. } | Role::General { .. } => false,
    };
    let mut out = Vec::new();
    for (right, dc) in plan.hosts.iter().enumerate() {
        if matches!(dc.role, Role::Coordinator(_)) {
            let left = plan.hosts.iter().enumerate().filter(|(_, host)| serves(host, dc));
            out.extend(left.map(|(left, _)| (left, right)));
        }
    }
    out
}

#[derive(Serialize)]
struct Common<'a> {
    name: &'a str,
    trace: PathBuf,
    control: PathBuf,
}

#[derive(Serialize)]
struct CoordinatorRef {
    fqdn: Fqdn,
    address: OneOrTwo<SocketAddr>,
}

/// As daemons read it: one address as it is, two as a list.
#[derive(Serialize)]
#[serde(untagged)]
enum OneOrTwo<A> {
    One(A),
    Two(Vec<A>),
}

impl<A: Copy> From<Vec<A>> for OneOrTwo<A> {
    fn from(addresses: Vec<A>) -> Self {
        match addresses[..] {
            [only] => Self::One(only),
            _ => Self::Two(addresses),
        }
    }
}

#[derive(Serialize)]
struct ZoneRef {
    origin: String,
    file: String,
}

#[derive(Serialize)]
struct DnsConfig<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: Vec<SocketAddr>,
    zone: Vec<ZoneRef>,
}

#[derive(Serialize)]
struct DcConfig<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    fqdn: Fqdn,
    zone: &'a Fqdn,
    address: OneOrTwo<IpAddr>,
    port: u16,
    vips: String,
    store: &'a str,
    roots: Vec<IpAddr>,
    keys: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keepalive: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_selection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suite: Option<&'a str>,
    /// The other coordinators' ranges.
    neighbours: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RelayConfig<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    fqdn: Fqdn,
    address: OneOrTwo<IpAddr>,
    port: u16,
    keys: &'a str,
    vips: String,
    tun: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rs_s: Option<&'a str>,
    coordinator: Vec<CoordinatorRef>,
}

#[derive(Serialize)]
struct TerminalConfig<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    fqdn: Fqdn,
    keys: &'a str,
    port: u16,
    tun: &'a str,
    vips: String,
    dns_listen: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handover: Option<&'a str>,
    coordinator: CoordinatorRef,
}

#[derive(Serialize)]
struct NatConfig<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    inside: &'a str,
    outside: &'a str,
    nat: Behaviour,
    #[serde(rename = "forward", skip_serializing_if = "<[_]>::is_empty")]
    forwards: &'a [Forward],
}

/// Every daemon of `plan`, with its files below `folders`.
pub fn daemons(plan: &Plan, keys: &[SharedKey], folders: &Folders) -> Result<Vec<Daemon>, String> {
    let mut out = Vec::new();
    for router in &plan.routers {
        let common = common(&router.name, folders);
        let (inside, outside, nat, forwards) = (INSIDE, OUTSIDE, router.nat, &router.forwards[..]);
        let config = text(&NatConfig { common, inside, outside, nat, forwards })?;
        out.push(Daemon {
            node: router.name.clone(),
            program: "ntm-nat",
            config,
            files: Vec::new(),
            last: false,
        });
    }
    for (index, host) in plan.hosts.iter().enumerate() {
        out.extend(daemon(plan, index, host, keys, folders)?);
    }
    Ok(out)
}

/// A router's interface towards its own network.
pub const INSIDE: &str = "lan0";
/// A router's interface towards the internet.
pub const OUTSIDE: &str = "wan0";
const KEYS: &str = "keys.toml";

fn daemon(
    plan: &Plan,
    index: usize,
    host: &HostPlan,
    keys: &[SharedKey],
    folders: &Folders,
) -> Result<Option<Daemon>, String> {
    let common = common(&host.name, folders);
    let fqdn = || host.fqdn.clone().ok_or_else(|| format!("`{}` has no name in the DNS", host.name));
    let mut files = Vec::new();
    let (program, config) = match &host.role {
        Role::General { .. } => return Ok(None),
        Role::Dns { .. } => {
            let mine: Vec<_> = zones(plan).into_iter().filter(|zone| zone.server == host.name).collect();
            let zone = mine
                .iter()
                .map(|zone| ZoneRef { origin: zone.origin_text(), file: zone.file_name() })
                .collect();
            files.extend(mine.iter().map(|zone| (zone.file_name(), zone.text.clone())));
            ("ntm-dns", text(&DnsConfig { common, listen: sockets(host, 53), zone })?)
        }
        Role::Coordinator(dc) => {
            let config = DcConfig {
                common,
                fqdn: fqdn()?,
                zone: dc.zone.get_ref(),
                address: host.addresses().into(),
                port: NTM_PORT,
                vips: dc.vips.get_ref().to_string(),
                store: "store.sqlite",
                roots: roots(plan),
                keys: KEYS,
                keepalive: dc.keepalive.map(|period| format!("{}ms", period.as_millis())),
                relay_selection: dc.relay_selection,
                suite: dc.suite,
                neighbours: neighbours(plan, host),
            };
            ("ntm-dc", text(&config)?)
        }
        Role::Relay { coordinators, rs_s } => {
            let config = RelayConfig {
                common,
                fqdn: fqdn()?,
                address: host.addresses().into(),
                port: NTM_PORT,
                keys: KEYS,
                vips: VIRTUAL.to_string(),
                tun: TUN,
                rs_s: *rs_s,
                coordinator: coordinators
                    .iter()
                    .map(|name| coordinator(plan, name.get_ref()))
                    .collect::<Result<_, _>>()?,
            };
            ("ntm-relay", text(&config)?)
        }
        Role::Terminal(terminal) => {
            let config = TerminalConfig {
                common,
                fqdn: fqdn()?,
                keys: KEYS,
                port: NTM_PORT,
                tun: TUN,
                vips: VIRTUAL.to_string(),
                dns_listen: "127.0.0.53:53",
                lifetime: terminal.lifetime.map(|time| format!("{}ms", time.as_millis())),
                spin: terminal.spin.map(|time| format!("{}ns", time.as_nanos())),
                handover: terminal.handover,
                coordinator: coordinator(plan, terminal.coordinator.get_ref())?,
            };
            ("ntm-terminal", text(&config)?)
        }
    };
    if !matches!(host.role, Role::Dns { .. }) {
        files.push((KEYS.to_owned(), key_file(plan, index, keys)));
    }
    Ok(Some(Daemon { node: host.name.clone(), program, config, files, last: host.is_terminal() }))
}

fn common<'a>(node: &'a str, folders: &Folders) -> Common<'a> {
    Common { name: node, trace: folders.trace_of(node), control: folders.control_of(node) }
}

fn text(config: &impl Serialize) -> Result<String, String> {
    toml::to_string(config).map_err(|error| format!("a configuration cannot be written: {error}"))
}

fn sockets(host: &HostPlan, port: u16) -> Vec<SocketAddr> {
    host.addresses().into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

fn roots(plan: &Plan) -> Vec<IpAddr> {
    let root = plan.hosts.iter().filter(|host| matches!(host.role, Role::Dns { zone: None }));
    root.flat_map(HostPlan::addresses).collect()
}

fn coordinator(plan: &Plan, name: &str) -> Result<CoordinatorRef, String> {
    let host = plan.host(name).and_then(|host| Some((host, host.fqdn.clone()?)));
    let (host, fqdn) = host.ok_or_else(|| format!("there is no coordinator `{name}`"))?;
    Ok(CoordinatorRef { fqdn, address: sockets(host, NTM_PORT).into() })
}

/// The format is that of docs/architecture.md, "What every daemon has in common".
/// The virtual ranges of the coordinators other than `host`, by name.
fn neighbours(plan: &Plan, host: &HostPlan) -> BTreeMap<String, String> {
    let others = plan.hosts.iter().filter(|other| other.name != host.name);
    let range = |other: &HostPlan| match &other.role {
        Role::Coordinator(dc) => Some((other.fqdn.as_ref()?.to_string(), dc.vips.get_ref().to_string())),
        _ => None,
    };
    others.filter_map(range).collect()
}

fn key_file(plan: &Plan, index: usize, keys: &[SharedKey]) -> String {
    #[derive(Serialize)]
    struct Entry {
        peer: String,
        kind: &'static str,
        key: String,
    }
    #[derive(Serialize)]
    struct File {
        key: Vec<Entry>,
    }
    let entries = keys.iter().filter_map(|shared| {
        let peer = match index {
            _ if shared.left == index => shared.right,
            _ if shared.right == index => shared.left,
            _ => return None,
        };
        let host = plan.hosts.get(peer)?;
        let kind = match host.role {
            Role::Terminal(_) => "terminal",
            Role::Relay { .. } => "relay",
            _ => "coordinator",
        };
        let key = shared.key.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Entry { peer: host.fqdn.as_ref()?.to_string(), kind, key })
    });
    toml::to_string(&File { key: entries.collect() }).unwrap_or_default()
}

/// The keys in the form of `wireshark/ntmobile.lua`: a line for each pair, with both Node IDs, the key, and both names.
pub fn key_log(plan: &Plan, keys: &[SharedKey]) -> String {
    let mut out = String::new();
    for shared in keys {
        let name = |index: usize| plan.hosts.get(index)?.fqdn.clone();
        if let (Some(left), Some(right)) = (name(shared.left), name(shared.right)) {
            let key: String = shared.key.iter().map(|byte| format!("{byte:02x}")).collect();
            out += &format!("{} {} {key} {left} {right}\n", NodeId::of(&left), NodeId::of(&right));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::address::plan;
    use crate::scenario::{check, source::Source};

    #[test]
    fn configurations_of_a_whole_scenario() {
        let text = include_str!("../../../scenarios/handover.toml");
        let scenario =
            check(&Source { name: "t".into(), text: text.into() }).unwrap_or_else(|m| panic!("{m}"));
        let plan = plan(&scenario).unwrap();
        let keys: Vec<SharedKey> = pairs(&plan)
            .into_iter()
            .enumerate()
            .map(|(n, (left, right))| SharedKey { left, right, key: [n as u8; 32] })
            .collect();
        let folders = Folders { config: "/run/c".into(), trace: "/run/t".into(), control: "/run/s".into() };
        let mut shown = String::new();
        for daemon in daemons(&plan, &keys, &folders).unwrap() {
            shown += &format!("## {} on {}\n{}\n", daemon.program, daemon.node, daemon.config);
            for (name, text) in daemon.files {
                shown += &format!("### {name}\n{text}\n");
            }
        }
        insta::assert_snapshot!(shown);
    }
}
