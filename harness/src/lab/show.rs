//! A lab in words: what was built, how it is, what was measured. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value as Json;

use super::talk::{About, Moved, Status};
use crate::report::topology::Host;
use crate::scenario::model::{Link, Shape};
use crate::scenario::source::suggest;

/// Rows in columns, each as wide as it needs.
fn columns(rows: &[Vec<String>]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = width(column).unwrap_or(0).saturating_sub(cell.chars().count());
            format!("{cell}{}", " ".repeat(pad))
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "  {}", line.trim_end());
    }
    out
}

/// A list with a heading; nothing where it is empty.
fn list(heading: &str, rows: &[Vec<String>]) -> String {
    if rows.is_empty() { String::new() } else { format!("{heading}\n{}", columns(rows)) }
}

/// What is said of a `name` that no `kind` has.
pub fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    format!("there is no {kind} `{name}`: {}", suggest(name, known))
}

/// What a link does to packets.
pub fn link(link: &Link) -> String {
    let single = if link.single { ", without offload" } else { "" };
    if link.up == link.down {
        return shape(&link.up) + single;
    }
    format!("up {}; down {}{single}", shape(&link.up), shape(&link.down))
}

fn shape(shape: &Shape) -> String {
    let ms = |time: Duration| format!("{} ms", time.as_secs_f64() * 1e3);
    let parts = [
        shape.rate.map(|rate| format!("{} Mbit/s", rate as f64 / 1e6)),
        (!shape.delay.is_zero()).then(|| ms(shape.delay)),
        (!shape.jitter.is_zero()).then(|| format!("± {}", ms(shape.jitter))),
        (shape.loss > 0.0).then(|| format!("{} % lost", shape.loss * 100.0)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "as fast as the machine".to_owned() } else { parts.join(", ") }
}

/// What was built, and where everything is.
pub fn about(about: &About) -> String {
    let mut out = format!("The lab {} is up: {}\n\n", about.lab, about.about);
    let up: BTreeMap<&str, Vec<&str>> = about
        .topology
        .hosts
        .iter()
        .map(|host| {
            let up = host.interfaces.iter().filter(|interface| interface.up);
            (host.name.as_str(), up.map(|interface| interface.name.as_str()).collect())
        })
        .collect();
    out += &places(about, |host, interface| up.get(host).is_some_and(|up| up.contains(&interface)));
    let _ = writeln!(
        out,
        "\nEach node is a network namespace of its own, which only the lab's commands can enter.\nlogs, traces, configurations, keys: {}",
        about.folder.display()
    );
    out
}

/// Nodes, routers and links.
fn places(about: &About, is_up: impl Fn(&str, &str) -> bool) -> String {
    let mut nodes = Vec::new();
    for host in &about.topology.hosts {
        for (index, interface) in host.interfaces.iter().enumerate() {
            let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
            let place = interface
                .behind
                .as_ref()
                .map_or_else(|| "internet".to_owned(), |router| format!("behind {router}"));
            let link = interface.link.as_ref().map(|link| format!(" by {link}")).unwrap_or_default();
            let state = if is_up(&host.name, &interface.name) { "" } else { ", down" };
            let first = index == 0;
            let when = |text: String| if first { text } else { String::new() };
            nodes.push(vec![
                when(host.name.clone()),
                when(role(host)),
                interface.name.clone(),
                addresses.join(" "),
                format!("{place}{link}{state}"),
                when(name(about, host)),
            ]);
        }
    }
    let routers = about.topology.routers.iter().map(|router| {
        let outer: Vec<String> = router.outer.iter().map(ToString::to_string).collect();
        let nat = if router.nat == "none" { "no NAT".to_owned() } else { format!("NAT {}", router.nat) };
        let link = router.link.as_ref().map(|link| format!("by {link}")).unwrap_or_default();
        vec![router.name.clone(), nat, outer.join(" "), format!("before {}", router.inner.join(" ")), link]
    });
    let links = about.links.iter().map(|(name, does)| vec![name.clone(), does.clone()]);
    [
        list("nodes", &nodes),
        list("routers", &routers.collect::<Vec<_>>()),
        list("links", &links.collect::<Vec<_>>()),
    ]
    .concat()
}

fn role(host: &Host) -> String {
    match host.role.as_str() {
        "dns" => "DNS server",
        "general" => "ordinary host",
        other => other,
    }
    .to_owned()
}

/// A host's name in the DNS, and the virtual address behind it.
fn name(about: &About, host: &Host) -> String {
    let Some(fqdn) = &host.fqdn else { return String::new() };
    match about.virtual_names.iter().find(|(_, name)| name == fqdn) {
        Some((vip, _)) => format!("{fqdn} = {vip}"),
        None => fqdn.clone(),
    }
}

/// What to type next, where the harness is called by `command`.
pub fn hints(about: &About, command: &str) -> String {
    let hosts = &about.topology.hosts;
    let terminals = || hosts.iter().filter(|host| host.role == "terminal");
    // The one that can move, as far as one can.
    let terminal = terminals().find(|host| host.interfaces.len() > 1).or_else(|| terminals().next_back());
    let Some(node) =
        terminal.or_else(|| hosts.iter().find(|host| host.role == "general")).map(|host| &host.name)
    else {
        return String::new();
    };
    let mut lines = Vec::new();
    let mut add =
        |arguments: String, why: &str| lines.push(vec![format!("{command} {arguments}"), why.to_owned()]);
    let peers = || hosts.iter().filter(|host| host.name != *node);
    let peer = peers().find(|host| host.role == "general" && host.fqdn.is_some());
    let peer = peer.or_else(|| peers().find(|host| host.role == "terminal"));
    if let Some(fqdn) = peer.and_then(|host| host.fqdn.as_ref()) {
        add(format!("exec {node} -- ping {fqdn}"), "any command, as if typed at the node");
    }
    add(format!("exec {node}"), "a shell there");
    let relay = hosts.iter().find(|host| host.role == "relay").map_or(node, |host| &host.name);
    add(format!("capture {relay}"), "its packets as they come");
    let other = terminal.and_then(|host| host.interfaces.iter().find(|interface| !interface.up));
    if let Some(interface) = other {
        add(format!("handover {node} {}", interface.name), "it moves, measured");
    }
    add("status".to_owned(), "registrations, paths, relay and NAT tables");
    add("down".to_owned(), "ends the lab; nothing stays");
    list("\nTry, here or in other terminals:", &lines)
}

/// How a lab is.
pub fn status(status: &Status) -> String {
    let Status { about, seconds, daemons, up, said } = status;
    let mut out = format!("The lab {} has been up for {}.\n\n", about.lab, time(*seconds));
    out += &places(about, |host, interface| {
        up.get(host).is_some_and(|up| up.iter().any(|own| own == interface))
    });
    let dead: Vec<Vec<String>> = daemons
        .iter()
        .filter_map(|(node, daemon)| Some(vec![node.clone(), daemon.program.clone(), daemon.dead.clone()?]))
        .collect();
    let alive: Vec<&str> =
        daemons.iter().filter(|(_, daemon)| daemon.dead.is_none()).map(|(node, _)| node.as_str()).collect();
    let _ = writeln!(out, "daemons\n  alive: {}", alive.join(" "));
    out += &list("daemons that do not run", &dead);
    let of = |role: &str| -> BTreeSet<&str> {
        about.topology.hosts.iter().filter(|host| host.role == role).map(|host| host.name.as_str()).collect()
    };
    let (terminals, relays) = (of("terminal"), of("relay"));
    let answers = |nodes: &BTreeSet<&str>| -> Vec<(String, Json)> {
        let all = said.as_object().into_iter().flatten();
        all.filter(|(node, _)| nodes.contains(node.as_str()))
            .map(|(node, said)| (node.clone(), said.clone()))
            .collect()
    };
    out += &registrations(&answers(&terminals));
    out += &paths(
        &answers(&terminals).iter().map(|(node, said)| (node.as_str(), &said["paths"])).collect::<Vec<_>>(),
        about,
    );
    out += &relay_tables(&answers(&relays), about);
    let routers = about.topology.routers.iter().map(|router| router.name.as_str()).collect();
    out += &mappings(&answers(&routers));
    out
}

fn time(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn text(value: &Json) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn items(value: &Json) -> impl Iterator<Item = &Json> {
    value.as_array().into_iter().flatten()
}

fn registrations(terminals: &[(String, Json)]) -> String {
    let rows: Vec<Vec<String>> = terminals
        .iter()
        .map(|(node, said)| match said["error"].as_str() {
            Some(error) => vec![node.clone(), error.to_owned()],
            None => {
                let addresses: Vec<String> = items(&said["addresses"]).map(text).collect();
                let at = if addresses.is_empty() {
                    "without a network".to_owned()
                } else {
                    format!("at {}", addresses.join(" "))
                };
                let is = if said["registered"] == true { "registered" } else { "not registered" };
                vec![
                    node.clone(),
                    is.to_owned(),
                    text(&said["fqdn"]),
                    format!("= {}", text(&said["vip"])),
                    at,
                ]
            }
        })
        .collect();
    list("registrations", &rows)
}

/// Each terminal's paths in use, with the reason.
fn paths(terminals: &[(&str, &Json)], about: &About) -> String {
    let mut rows = Vec::new();
    for (node, paths) in terminals {
        for path in items(paths) {
            let remote = text(&path["remote"]);
            let by = about.topology.named(&remote).map(|name| format!("{name} ")).unwrap_or_default();
            rows.push(vec![
                format!("{node} > {}", text(&path["peer"])),
                text(&path["route"]),
                if remote.is_empty() { String::new() } else { format!("to {by}{remote}") },
                format!("path {}", text(&path["path"]).chars().take(8).collect::<String>()),
                text(&path["reason"]),
            ]);
        }
    }
    list("paths in use", &rows)
}

fn relay_tables(relays: &[(String, Json)], about: &About) -> String {
    let mut rows = Vec::new();
    for (relay, said) in relays {
        if items(&said["table"]).next().is_none() {
            rows.push(vec![relay.clone(), "empty".to_owned()]);
        }
        for entry in items(&said["table"]) {
            let tunnels: Vec<String> = items(&entry["tunnels"])
                .map(|tunnel| {
                    let remote = text(&tunnel["tunnel"]);
                    match about.topology.named(&remote) {
                        _ if remote.is_empty() => "no tunnel yet".to_owned(),
                        Some(name) => format!("{name} {remote}"),
                        None => remote,
                    }
                })
                .collect();
            let real = text(&entry["peer_real_ip"]);
            let peer = text(&entry["peer_virtual_ip"]);
            rows.push(vec![
                relay.clone(),
                text(&entry["mode"]),
                format!("path {}", text(&entry["path"]).chars().take(8).collect::<String>()),
                format!("{} with {peer}", text(&entry["virtual_ip"])),
                if real.is_empty() { String::new() } else { format!("which is {real}") },
                format!("tunnel to {}", tunnels.join(" and ")),
            ]);
        }
    }
    list("relay tables", &rows)
}

fn mappings(routers: &[(String, Json)]) -> String {
    let mut rows = Vec::new();
    for (router, said) in routers {
        for mapping in items(&said["mappings"]) {
            rows.push(vec![
                router.clone(),
                text(&mapping["protocol"]),
                format!("{} is seen as {}", text(&mapping["inside"]), text(&mapping["external"])),
                scope(&mapping["scope"]),
                format!("for {} s more", text(&mapping["expires_in"])),
            ]);
        }
    }
    list("NAT tables", &rows)
}

/// Whom a mapping is for: anyone, or one address or endpoint.
fn scope(scope: &Json) -> String {
    let one = scope.as_object().and_then(|only| only.values().next()).map(text);
    one.map_or_else(|| "by anyone".to_owned(), |peer| format!("by {peer}"))
}

/// A handover that was measured.
pub fn moved(moved: &Moved, about: &About) -> String {
    let Moved { node, from, to, stages, missing, paths: after } = moved;
    let mut out = format!("{node} moved from {from} to {to}.\n");
    let rows = stages.iter().map(|stage| {
        vec![stage.name.clone(), format!("{:8.2} ms", stage.ms), format!("until {}", stage.until)]
    });
    let total: f64 = stages.iter().map(|stage| stage.ms).sum();
    let total = vec!["together".to_owned(), format!("{total:8.2} ms")];
    out += &columns(&rows.chain([total]).collect::<Vec<_>>());
    if missing.iter().any(|name| name == "first data") && !items(after).collect::<Vec<_>>().is_empty() {
        out += "No data came within the time that was waited for it: let a ping run beside a handover to see it.\n";
    }
    out + &paths(&[(node.as_str(), after)], about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::talk::{Daemon, Spent};
    use crate::report::topology::Topology;
    use serde_json::json;

    fn lab() -> About {
        let text = include_str!("../../../scenarios/handover.toml");
        let source = crate::scenario::source::Source { name: "handover".into(), text: text.into() };
        let scenario = crate::scenario::check(&source).unwrap();
        let plan = crate::plan::address::plan(&scenario).unwrap();
        About {
            lab: "handover".into(),
            scenario: "handover".into(),
            about: scenario.about.clone(),
            topology: Topology::of(&plan),
            links: scenario.links.iter().map(|(name, its)| (name.clone(), link(its))).collect(),
            virtual_names: vec![("198.18.0.1".parse().unwrap(), "mn.dc.ntm.test".into())],
            folder: "/runs/handover-lab".into(),
        }
    }

    #[test]
    fn a_lab_is_shown_with_what_to_type_next() {
        insta::assert_snapshot!(about(&lab()) + &hints(&lab(), "./run"));
    }

    #[test]
    fn the_status_names_what_lives_and_what_is_dead_and_every_table() {
        let daemon = |dead: Option<&str>| Daemon { program: "ntm-x".into(), dead: dead.map(str::to_owned) };
        let said = json!({
            "mn": { "registered": true, "fqdn": "mn.dc.ntm.test", "vip": "198.18.0.1", "addresses": ["10.1.0.2"], "paths": [{
                "path": "05dda9535058e226a94b484541763626", "peer": "www.example.test", "peer_vip": "198.18.128.1", "route": "RS-N",
                "remote": "203.0.113.7:4330", "reason": "the peer is a general node: a relay translates addresses" }] },
            "rs": { "table": [{ "path": "05dda9535058e226a94b484541763626", "mode": "RS-N", "virtual_ip": "198.18.0.1",
                "peer_virtual_ip": "198.18.128.1", "peer_real_ip": "203.0.113.5", "tunnels": [{ "tunnel": "203.0.113.3:4330" }] }] },
            "apnat_a": { "mappings": [{ "protocol": "udp", "inside": "10.1.0.2:4330", "external": "203.0.113.3:4330", "scope": "any",
                "expires_in": 114 }, { "protocol": "udp", "inside": "10.1.0.2:4330", "external": "203.0.113.3:9", "expires_in": 1,
                "scope": { "endpoint": "203.0.113.7:4330" } }] },
        });
        let now = Status {
            about: lab(),
            seconds: 130.4,
            daemons: BTreeMap::from([
                ("mn".into(), daemon(None)),
                ("rs".into(), daemon(None)),
                ("dc".into(), daemon(Some("it was killed"))),
            ]),
            up: BTreeMap::from([("mn".into(), vec!["wlan1".into()]), ("rs".into(), vec!["eth0".into()])]),
            said,
        };
        insta::assert_snapshot!(status(&now));
    }

    #[test]
    fn a_handover_is_shown_stage_by_stage() {
        let spent = |name: &str, until: &str, ms: f64| Spent { name: name.into(), until: until.into(), ms };
        let done = Moved {
            node: "mn".into(),
            from: "wlan0".into(),
            to: "wlan1".into(),
            stages: vec![
                spent("gap", "the new link comes up", 100.2),
                spent("address", "the terminal sees its new address", 2.13),
            ],
            missing: vec!["first data".into()],
            paths: json!([{ "path": "05dda953", "peer": "www.example.test", "route": "RS-N", "remote": "203.0.113.7:4330", "reason": "why" }]),
        };
        insta::assert_snapshot!(moved(&done, &lab()));
    }
}
