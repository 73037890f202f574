//! The Relay Tables as appendix A of the thesis shows them: every field with the message that filled it, and when (TA-b, TA-c).
//! PURE: from what relays answered to `status`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Each relay's entries.
pub type RelayTables = BTreeMap<String, Vec<Entry>>;

/// One entry of a Relay Table.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Entry {
    /// RS-S or RS-N.
    pub mode: String,
    /// Its fields, in the order of Table A.1.
    pub fields: Vec<Field>,
    /// When a control message used the entry last, in milliseconds of the scenario.
    pub used_ms: f64,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Field {
    /// As Table A.1 calls it; in RS-S with the side whose it is.
    pub name: String,
    /// The message that fills it.
    pub filled_by: &'static str,
    /// When it was filled, in milliseconds of the scenario; nothing where it was not yet.
    pub filled_ms: Option<f64>,
    /// What is in it; of a key only that it is there.
    pub content: Option<String>,
}

/// An entry as `ntm-relay` tells it; instants in nanoseconds of the trace's clock.
#[derive(Debug, Deserialize)]
struct Row {
    path: String,
    mode: String,
    virtual_ip: String,
    peer_virtual_ip: String,
    peer_real_ip: Option<String>,
    made: u64,
    used: u64,
    tunnels: Vec<Tunnel>,
}

#[derive(Debug, Deserialize)]
struct Tunnel {
    side: String,
    temp_key: u64,
    common_key: Option<u64>,
    tunnel: Option<SocketAddr>,
    tunnel_filled: Option<u64>,
}

const DIRECTION: &str = "Relay Direction";
const REQUEST: &str = "Tunnel Request";

/// The tables in `status`, every daemon's answer by its node; `start` is when time began. Daemons that are no relays have none.
pub fn of(status: &Json, start: u64) -> RelayTables {
    let nodes = status.as_object().into_iter().flatten();
    let tables = nodes.filter_map(|(node, answer)| {
        let rows = Vec::<Row>::deserialize(answer.get("table")?).ok()?;
        Some((node.clone(), rows.into_iter().map(|row| row.entry(start)).collect()))
    });
    tables.collect()
}

fn since(start: u64, t: u64) -> f64 {
    (t as f64 - start as f64) / 1e6
}

impl Row {
    fn entry(self, start: u64) -> Entry {
        let Self { path, mode, virtual_ip, peer_virtual_ip, peer_real_ip, made, used, tunnels } = self;
        let switches = tunnels.len() > 1;
        let peer = if switches { "CN" } else { "GN" };
        let of_side = |side: &str| match (switches, side) {
            (false, _) => "",
            (true, "initiator") => " (MN)",
            (true, _) => " (CN)",
        };
        let field = |name: String, filled_by, at: Option<u64>, content: Option<String>| Field {
            name,
            filled_by,
            filled_ms: at.map(|at| since(start, at)),
            content: content.filter(|_| at.is_some()),
        };
        let set = || Some("set".to_owned());
        let directed = |name: String, content| field(name, DIRECTION, Some(made), content);
        let mut fields = vec![directed("Path ID".into(), Some(path))];
        for tunnel in &tunnels {
            let name = format!("Temp Key{}", of_side(&tunnel.side));
            fields.push(field(name, DIRECTION, Some(tunnel.temp_key), set()));
        }
        fields.push(directed("Virtual IP (MN)".into(), Some(virtual_ip)));
        fields.push(directed(format!("Virtual IP ({peer})"), Some(peer_virtual_ip)));
        fields.extend(peer_real_ip.map(|real| directed("Real IP (GN)".into(), Some(real))));
        for Tunnel { side, common_key, tunnel, tunnel_filled, .. } in &tunnels {
            let side = of_side(side);
            fields.push(field(format!("Common Key{side}"), REQUEST, *common_key, set()));
            let mut address = |name: &str, content| {
                fields.push(field(format!("{name}{side}"), REQUEST, *tunnel_filled, content))
            };
            address("Tunnel IP", tunnel.map(|tunnel| tunnel.ip().to_string()));
            address("Tunnel Port", tunnel.map(|tunnel| tunnel.port().to_string()));
        }
        Entry { mode, fields, used_ms: since(start, used) }
    }
}

/// Every table in Markdown.
pub fn render(tables: &RelayTables) -> String {
    let mut out = String::new();
    for (relay, entries) in tables {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "## Relay Table of {relay}\n");
        if entries.is_empty() {
            let _ = writeln!(out, "It was empty at the end.\n");
        }
        for Entry { mode, fields, used_ms } in entries {
            let _ = writeln!(out, "{mode}, used last at {used_ms:.1} ms:\n");
            let _ = writeln!(out, "| field | filled by | at (ms) | content |\n|---|---|---|---|");
            for Field { name, filled_by, filled_ms, content } in fields {
                let at = filled_ms.map_or_else(|| "not yet".to_owned(), |at| format!("{at:.1}"));
                let _ =
                    writeln!(out, "| {name} | {filled_by} | {at} | {} |", content.as_deref().unwrap_or(""));
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// TA-b, TA-c: the fields of Table A.1, each with its message and moment; of RS-S for both sides; no key.
    #[test]
    fn every_field_has_its_message_and_moment() {
        let tunnel = |side: &str, temp: u64, common: Option<u64>| {
            json!({
                "side": side,
                "temp_key": temp,
                "common_key": common,
                "tunnel": common.map(|_| "192.0.2.2:4330"),
                "tunnel_filled": common,
            })
        };
        let rows = json!([
            {
                "path": "a3", "mode": "RS-N", "coordinator": "91", "virtual_ip": "198.18.0.1", "peer_virtual_ip": "198.18.128.1",
                "peer_real_ip": "203.0.113.5", "made": 3_000_000, "used": 9_000_000,
                "tunnels": [tunnel("initiator", 5_000_000, Some(6_500_000))],
            },
            {
                "path": "b4", "mode": "RS-S", "coordinator": "91", "virtual_ip": "198.18.0.1", "peer_virtual_ip": "198.19.0.1",
                "peer_real_ip": null, "made": 3_000_000, "used": 4_000_000,
                "tunnels": [tunnel("initiator", 3_000_000, Some(4_000_000)), tunnel("responder", 3_000_000, None)],
            },
        ]);
        let status = json!({ "rs": { "table": rows }, "rs2": { "table": [] }, "mn": { "paths": [] } });
        insta::assert_snapshot!(render(&of(&status, 1_000_000)));
    }
}
