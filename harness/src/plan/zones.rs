//! The DNS of a scenario: the root, the top-level domains, a zone for every general node's name, and the delegations to the
//! coordinators, who serve their own zones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ntm_protocol::addr::Fqdn;

use super::{HostPlan, Plan};
use crate::scenario::model::Role;

/// A zone that an ordinary DNS server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// `None` is the root.
    pub origin: Option<Fqdn>,
    /// The server: a host's name.
    pub server: String,
    /// The zone file (RFC 1035, section 5).
    pub text: String,
}

impl Zone {
    /// With the final dot.
    pub fn origin_text(&self) -> String {
        dotted(self.origin.as_ref())
    }

    /// A file name for it.
    pub fn file_name(&self) -> String {
        format!("{}.zone", self.origin.as_ref().map_or("root", Fqdn::as_str))
    }
}

/// The zones of `plan`; none where there is no DNS server.
pub fn zones(plan: &Plan) -> Vec<Zone> {
    let servers: BTreeMap<Option<&Fqdn>, &HostPlan> = plan
        .hosts
        .iter()
        .filter_map(|host| match &host.role {
            Role::Dns { zone } => Some((zone.as_ref(), host)),
            _ => None,
        })
        .collect();
    let Some(root) = servers.get(&None) else { return Vec::new() };
    let delegated: BTreeMap<&Fqdn, &HostPlan> = plan
        .hosts
        .iter()
        .filter_map(|host| match &host.role {
            Role::Coordinator(dc) => Some((dc.zone.get_ref(), host)),
            _ => None,
        })
        .collect();
    let hosts: Vec<(&Fqdn, Vec<IpAddr>)> = plan
        .hosts
        .iter()
        .filter(|host| matches!(host.role, Role::General { .. }))
        .filter_map(|host| Some((host.fqdn.as_ref()?, host.addresses())))
        .collect();

    let mut origins: BTreeSet<Option<Fqdn>> = servers.keys().map(|zone| zone.cloned()).collect();
    origins.extend(hosts.iter().map(|(name, _)| name.parent()));
    origins.extend(delegated.keys().map(|zone| Some(top(zone))));
    origins.extend(hosts.iter().map(|(name, _)| Some(top(name))));
    // A coordinator that serves a whole top-level domain serves it alone.
    origins.retain(|origin| origin.as_ref().is_none_or(|origin| !delegated.contains_key(origin)));

    // Everything that another server, or another zone, answers for: zone → addresses of its server.
    let mut cuts: BTreeMap<Fqdn, Vec<IpAddr>> =
        delegated.iter().map(|(zone, host)| ((*zone).clone(), host.addresses())).collect();
    let server_of = |origin: Option<&Fqdn>| *servers.get(&origin).unwrap_or(root);
    cuts.extend(origins.iter().flatten().map(|origin| (origin.clone(), server_of(Some(origin)).addresses())));

    origins
        .iter()
        .map(|origin| {
            let server = server_of(origin.as_ref());
            let mut text = String::new();
            let name = dotted(origin.as_ref());
            let ns = name_server(origin.as_ref());
            let _ = write!(
                text,
                "$ORIGIN {name}\n$TTL 60\n@ IN SOA {ns} {ns} 1 3600 600 86400 60\n@ IN NS {ns}\n"
            );
            records(&mut text, &ns, &server.addresses());
            for (host, addresses) in &hosts {
                if closest(&origins, host) == *origin {
                    records(&mut text, &format!("{host}."), addresses);
                }
            }
            for (zone, addresses) in &cuts {
                if closest_above(&origins, zone) == *origin && Some(zone) != origin.as_ref() {
                    let ns = name_server(Some(zone));
                    let _ = writeln!(text, "{zone}. IN NS {ns}");
                    records(&mut text, &ns, addresses);
                }
            }
            Zone { origin: origin.clone(), server: server.name.clone(), text }
        })
        .collect()
}

/// The A and AAAA records of `name`.
fn records(text: &mut String, name: &str, addresses: &[IpAddr]) {
    for address in addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let _ = writeln!(text, "{name} IN {kind} {address}");
    }
}

/// The innermost zone that holds `name`.
pub fn closest(origins: &BTreeSet<Option<Fqdn>>, name: &Fqdn) -> Option<Fqdn> {
    std::iter::successors(Some(name.clone()), Fqdn::parent).find(|zone| origins.contains(&Some(zone.clone())))
}

/// The innermost zone that holds `zone` without being it.
fn closest_above(origins: &BTreeSet<Option<Fqdn>>, zone: &Fqdn) -> Option<Fqdn> {
    zone.parent().and_then(|parent| closest(origins, &parent))
}

fn top(name: &Fqdn) -> Fqdn {
    std::iter::successors(Some(name.clone()), Fqdn::parent).last().unwrap_or_else(|| name.clone())
}

fn dotted(zone: Option<&Fqdn>) -> String {
    zone.map_or_else(|| ".".to_owned(), |zone| format!("{zone}."))
}

/// The name of a zone's server, with the final dot.
pub fn name_server(zone: Option<&Fqdn>) -> String {
    zone.map_or_else(|| "ns.".to_owned(), |zone| format!("ns.{zone}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::address::plan;
    use crate::scenario::{check, source::Source};

    #[test]
    fn every_zone_is_delegated_from_the_one_above_with_glue() {
        let text = "schema = 1\nname = \"t\"\nabout = \"t\"\n\
            [node]\nroot = { role = \"dns\", at = \"internet\", zone = \".\" }\n\
            dc = { role = \"coordinator\", at = \"internet\", zone = \"dc.ntm.test\", vips = \"198.18.0.0/16\" }\n\
            own = { role = \"dns\", at = \"internet\", zone = \"example.test\" }\n\
            gn = { role = \"general\", at = \"internet\", name = \"www.example.test\" }\n\
            gn2 = { role = \"general\", at = \"internet\", name = \"a.b.other.test\" }\n";
        let scenario =
            check(&Source { name: "t".into(), text: text.into() }).unwrap_or_else(|m| panic!("{m}"));
        let zones = zones(&plan(&scenario).unwrap());
        let shown: Vec<String> = zones
            .iter()
            .map(|zone| format!("; {} on {}\n{}", zone.origin_text(), zone.server, zone.text))
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }
}
