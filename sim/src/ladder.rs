//! The trace for readers: one line for each observation, addresses and Path IDs by name.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{LookupKind, Observation, RouteName, TableChange, What};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::{RelayMode, Role};

use crate::World;

/// Renders `observations` of `world`: who, what, to or from whom. An address is shown as the name of the host or router that has it
/// now; Path IDs are numbered in the order in which they appear.
pub fn render<'a>(world: &World, observations: impl IntoIterator<Item = &'a Observation>) -> String {
    let mut lines = String::new();
    let mut names = Names { world, paths: BTreeMap::new() };
    for Observation { node, what, .. } in observations {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{node:<5} {}", names.line(what));
    }
    lines
}

/// The same, each line behind its time in seconds.
pub fn timed<'a>(world: &World, observations: impl IntoIterator<Item = &'a Observation>) -> String {
    let mut lines = String::new();
    let mut names = Names { world, paths: BTreeMap::new() };
    for Observation { t, node, what } in observations {
        let seconds = t.since(Instant::ZERO).as_secs_f64();
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{seconds:10.6} {node:<5} {}", names.line(what));
    }
    lines
}

struct Names<'a> {
    world: &'a World,
    paths: BTreeMap<PathId, usize>,
}

impl Names<'_> {
    fn address(&self, address: IpAddr) -> String {
        self.world.owner(address).map_or_else(|| address.to_string(), str::to_owned)
    }

    fn socket(&self, socket: SocketAddr) -> String {
        self.address(socket.ip())
    }

    fn path(&mut self, path: PathId) -> String {
        let next = self.paths.len() + 1;
        format!("path {}", self.paths.entry(path).or_insert(next))
    }

    fn of_path(&mut self, path: Option<PathId>) -> String {
        path.map(|path| format!(" [{}]", self.path(path))).unwrap_or_default()
    }

    fn line(&mut self, what: &What) -> String {
        match what {
            What::Sent { message, to, path, attempt, .. } => {
                let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
                format!("sent {} → {}{}{again}", message.name(), self.socket(*to), self.of_path(*path))
            }
            What::Received { message, from, path, .. } => {
                format!("received {} ← {}{}", message.name(), self.socket(*from), self.of_path(*path))
            }
            What::Refused { from, field, reason } => {
                format!("refused what came from {}: {field}: {reason}", self.socket(*from))
            }
            What::Asked { lookup, name } => format!("asked {} {name}", lookup_name(*lookup)),
            What::Answered { lookup, name, answer } => {
                format!("answered {} {name}: {answer}", lookup_name(*lookup))
            }
            What::Registered { fqdn, vip, seen } => {
                let vip = vip.map(|vip| format!(" as {vip}")).unwrap_or_default();
                format!("registered {fqdn}{vip}, seen at {}", self.socket(*seen))
            }
            What::Unregistered { fqdn } => format!("unregistered {fqdn}"),
            What::Addresses { addresses } => {
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                format!(
                    "addresses {}",
                    if addresses.is_empty() { "none".into() } else { addresses.join(", ") }
                )
            }
            What::Query { name } => format!("query {name}"),
            What::Answer { name, vip: Some(vip), .. } => format!("answer {name}: {vip}"),
            What::Answer { name, error, .. } => format!("answer {name}: {error:?}"),
            What::Directed { path, route, reason, relay } => {
                let relay = relay.as_ref().map(|relay| format!(" through {relay}")).unwrap_or_default();
                format!("directed {}{relay}: {reason} [{}]", route_name(*route), self.path(*path))
            }
            What::Undirected { fqdn, error, reason } => format!("undirected {fqdn}: {error:?}, {reason}"),
            What::PathChanged { path, route, remote, epoch, reason } => {
                let to = remote.map(|remote| format!(" → {}", self.socket(remote))).unwrap_or_default();
                let (route, path) = (route_name(*route), self.path(*path));
                format!("path-changed {route}{to}: {reason} [{path}, epoch {epoch}]")
            }
            What::RelayTable { path, change, mode } => {
                let mode = mode_name(*mode);
                let change = match change {
                    TableChange::Made => "made".to_owned(),
                    TableChange::Renewed => "renewed".to_owned(),
                    TableChange::Ended => "ended".to_owned(),
                    TableChange::Tunnel { side, address } => {
                        format!("tunnel of the {} at {}", role_name(*side), self.socket(*address))
                    }
                };
                format!("relay-table {mode}: {change} [{}]", self.path(*path))
            }
            What::GaveUp { message, to } => format!("gave-up {} → {}", message.name(), self.socket(*to)),
        }
    }
}

pub(crate) fn lookup_name(lookup: LookupKind) -> &'static str {
    match lookup {
        LookupKind::Ns => "NS",
        LookupKind::Txt => "TXT",
        LookupKind::A => "A",
        LookupKind::Aaaa => "AAAA",
    }
}

pub(crate) fn route_name(route: RouteName) -> &'static str {
    match route {
        RouteName::Direct => "direct",
        RouteName::Switched => "RS-S",
        RouteName::Translated => "RS-N",
        RouteName::None => "none",
    }
}

pub(crate) fn mode_name(mode: RelayMode) -> &'static str {
    route_name(mode.into())
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Initiator => "initiator",
        Role::Responder => "responder",
    }
}
