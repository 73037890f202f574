//! The mapping table and the counters, as nft lists them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::flow::Protocol;
use crate::translator::Scope;

/// What the router's table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The mapping table, by protocol and outer port. ICMP queries are conntrack's, and not in it.
    pub mappings: Vec<Line>,
    /// How many packets were refused, by reason; reasons that never came are left out.
    pub refusals: BTreeMap<String, u64>,
}

/// One line of the mapping table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its protocol.
    pub protocol: Protocol,
    /// The inner host's address and port.
    pub inside: SocketAddr,
    /// The router's outer address and the mapping's port.
    pub external: SocketAddr,
    /// The destinations that it serves.
    pub scope: Scope,
    /// The whole seconds that it lives when it is not renewed; `None` for a forward, which stays.
    pub timeout: Option<u64>,
    /// The seconds after which it ends unless it is renewed; `None` for a forward, which stays.
    pub expires_in: Option<u64>,
}

impl Listing {
    /// Reads the output of `nft -j list table` for the table that [`ruleset`](crate::router::ruleset) makes. The error says what is
    /// not as expected.
    pub fn read(json: &str, external: Ipv4Addr) -> anyhow::Result<Self> {
        let listed: Value = serde_json::from_str(json).context("what nft lists is no JSON")?;
        let objects = listed.get("nftables").and_then(Value::as_array).context("nft lists no 'nftables'")?;
        let mut listing = Self::default();
        for object in objects {
            if let Some(map) = object.get("map") {
                let protocol = match map.get("name").and_then(Value::as_str) {
                    Some("mappings_udp") => Protocol::Udp,
                    Some("mappings_tcp") => Protocol::Tcp,
                    _ => continue,
                };
                for element in map.get("elem").and_then(Value::as_array).into_iter().flatten() {
                    let line = line(element, protocol, external)
                        .with_context(|| format!("the element {element}"))?;
                    listing.mappings.push(line);
                }
            }
            if let Some(counter) = object.get("counter") {
                let name = counter.get("name").and_then(Value::as_str).context("a counter has no name")?;
                let packets =
                    counter.get("packets").and_then(Value::as_u64).context("a counter counts no packets")?;
                if packets > 0 {
                    listing.refusals.insert(name.replace('_', "-"), packets);
                }
            }
        }
        listing.mappings.sort_by_key(|line| (line.protocol, line.external, line.inside, line.scope));
        Ok(listing)
    }
}

/// One `[key, value]` of a map; what expires is wrapped as `{"elem": {"val": key, "expires": seconds}}`.
fn line(element: &Value, protocol: Protocol, external: Ipv4Addr) -> anyhow::Result<Line> {
    let (Some(key), Some(port)) = (element.get(0), element.get(1)) else { bail!("is no pair") };
    let (key, timeout, expires_in) = match key.get("elem") {
        Some(wrapped) => {
            let seconds = |name| wrapped.get(name).and_then(Value::as_u64);
            (wrapped.get("val").context("has no 'val'")?, seconds("timeout"), seconds("expires"))
        }
        None => (key, None, None),
    };
    let parts = key.get("concat").and_then(Value::as_array).context("has no 'concat'")?;
    let address = |at: usize| -> anyhow::Result<IpAddr> {
        let text = parts.get(at).and_then(Value::as_str).context("has no address")?;
        IpAddr::from_str(text).with_context(|| format!("'{text}' is no address"))
    };
    let end = |at: usize| -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::new(address(at)?, number(parts.get(at + 1))?))
    };
    let scope = match parts.len() {
        2 => Scope::Any,
        3 => Scope::Address(address(2)?),
        4 => Scope::Endpoint(end(2)?),
        other => bail!("has a key of {other} parts"),
    };
    let external = SocketAddr::new(external.into(), number(Some(port))?);
    Ok(Line { protocol, inside: end(0)?, external, scope, timeout, expires_in })
}

fn number(port: Option<&Value>) -> anyhow::Result<u16> {
    let port = port.and_then(Value::as_u64).context("has no port")?;
    u16::try_from(port).with_context(|| format!("{port} is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists it, cut down.
    const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "ntm-nat", "handle": 2}},
        {"counter": {"family": "ip", "name": "filtered", "table": "ntm-nat", "handle": 1, "packets": 3, "bytes": 99}},
        {"counter": {"family": "ip", "name": "no_mapping", "table": "ntm-nat", "handle": 2, "packets": 0, "bytes": 0}},
        {"map": {"family": "ip", "name": "mappings_udp", "table": "ntm-nat", "type": ["ipv4_addr", "inet_service"], "handle": 5,
            "map": "inet_service", "size": 65536, "flags": ["timeout", "dynamic"], "elem": [
            [{"elem": {"val": {"concat": ["10.0.0.3", 4330]}, "timeout": 120, "expires": 119}}, 40123],
            [{"concat": ["10.0.0.2", 53]}, 53]]}},
        {"map": {"family": "ip", "name": "external_udp", "table": "ntm-nat", "type": "inet_service", "handle": 6, "map": "x", "elem": [[53, "y"]]}},
        {"map": {"family": "ip", "name": "mappings_tcp", "table": "ntm-nat", "type": ["ipv4_addr"], "handle": 8, "map": "inet_service", "elem": [
            [{"elem": {"val": {"concat": ["10.0.0.3", 4330, "192.0.2.1", 80]}, "timeout": 240, "expires": 239}}, 40124]]}},
        {"chain": {"family": "ip", "table": "ntm-nat", "name": "admit", "handle": 9}}]}"#;

    #[test]
    fn the_table_is_read() {
        let listing = Listing::read(LISTED, Ipv4Addr::new(203, 0, 113, 1)).unwrap();
        insta::assert_json_snapshot!(listing);
    }

    #[test]
    fn what_is_not_as_expected_is_said() {
        let read = |text: &str| format!("{:#}", Listing::read(text, Ipv4Addr::LOCALHOST).unwrap_err());
        let broken = |from: &str, to: &str| read(&LISTED.replace(from, to));
        let errors = [
            read("no"),
            read("{}"),
            broken(r#"{"concat": ["10.0.0.2", 53]}, 53"#, r#"{"concat": ["10.0.0.2", 53]}, 70000"#),
            broken(r#""10.0.0.2", 53"#, r#""ten", 53"#),
            broken(r#""10.0.0.2", 53"#, r#""10.0.0.2""#),
            broken(r#""packets": 3"#, r#""packets": "many""#),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }
}
