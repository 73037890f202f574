//! The routes of paths: which one is in use at the end of a run, and which one the NATs on both sides allow. PURE.

use std::collections::BTreeSet;

use ntm_nat::{Behaviour, direct_possible};
use serde_json::Value as Json;

use crate::scenario::model::{ActionKind, Interface, Place, Role, Scenario};

/// What [`oracle`] and [`in_use`] say where there is no way.
pub const NONE: &str = "none";

/// Terminals and their peers: both ends of every flow, seen from each end that is a terminal.
pub fn pairs(scenario: &Scenario) -> BTreeSet<(String, String)> {
    let is_terminal =
        |name: &str| scenario.nodes.get(name).is_some_and(|node| matches!(node.role, Role::Terminal(_)));
    let ends = scenario.flows.iter().filter_map(|flow| flow.kind.ends());
    let ends = ends.filter_map(|ends| {
        let (to, _) = scenario.node_named(ends.to.get_ref())?;
        Some((ends.from.get_ref().clone(), to.to_owned()))
    });
    let both = ends.flat_map(|(from, to)| [(from.clone(), to.clone()), (to, from)]);
    both.filter(|(from, to)| from != to && is_terminal(from)).collect()
}

/// The route in use from the terminal whose `status` this is to the peer called `peer`.
pub fn in_use(status: Option<&Json>, peer: &str) -> Result<String, String> {
    let status = status.ok_or("there is no status")?;
    if let Some(error) = status.get("error").and_then(Json::as_str) {
        return Err(format!("its status could not be had: {error}"));
    }
    let paths = status.get("paths").and_then(Json::as_array).ok_or("its status has no paths")?;
    let to_peer = paths.iter().filter(|path| path.get("peer").and_then(Json::as_str) == Some(peer));
    let mut routes = to_peer.filter_map(|path| path.get("route")?.as_str());
    // An attempt that failed may stand beside the one that serves.
    Ok(routes.find(|route| *route != NONE).unwrap_or(NONE).to_owned())
}

/// The route that `from` should have to `to` at the end, as the behaviours of the NATs there and the address families decide it: the oracle of
/// route optimisation (T4.1.2-b, T3.1-d).
pub fn oracle(scenario: &Scenario, from: &str, to: &str) -> &'static str {
    let relay = |route| {
        let any = scenario.nodes.values().any(|node| matches!(node.role, Role::Relay { .. }));
        if any { route } else { NONE }
    };
    match (place(scenario, from), place(scenario, to), scenario.nodes.get(to).map(|node| &node.role)) {
        (None, _, _) | (_, None, _) | (_, _, None) => NONE,
        (Some(a), Some(b), Some(Role::Terminal(_))) => {
            let (families, others) = (scenario.families(a), scenario.families(b));
            let (a, b) = (a.at.get_ref(), b.at.get_ref());
            let by_v4 = || a == b || direct_possible(behaviour(scenario, a), behaviour(scenario, b));
            // In IPv6 nothing is translated; without a family that both have, only a relay can switch (T3.1-d).
            let direct = (families.v6() && others.v6()) || (families.v4() && others.v4() && by_v4());
            if direct { "direct" } else { relay("RS-S") }
        }
        _ => relay("RS-N"),
    }
}

/// Where a node is when everything has happened: on the network that it prefers, which is that of the interface that came up last.
fn place<'a>(scenario: &'a Scenario, name: &str) -> Option<&'a Interface> {
    let node = scenario.nodes.get(name)?;
    let mut up: Vec<&str> =
        node.interfaces.iter().filter(|it| it.up).map(|it| it.name.get_ref().as_str()).collect();
    let mut switch = |interface: &'a str, on: bool| {
        up.retain(|it| *it != interface);
        if on {
            up.insert(0, interface);
        }
    };
    for action in &scenario.actions {
        match &action.kind {
            ActionKind::Handover { node, from, to, .. } if node.get_ref() == name => {
                switch(from.get_ref(), false);
                switch(to.get_ref(), true);
            }
            ActionKind::Interface { node, name: interface, up } if node.get_ref() == name => {
                switch(interface.get_ref(), *up);
            }
            _ => {}
        }
    }
    let first = up.first()?;
    node.interfaces.iter().find(|it| it.name.get_ref() == first)
}

fn behaviour(scenario: &Scenario, place: &Place) -> Behaviour {
    match place {
        Place::Internet => Behaviour::None,
        Place::Behind(router) => {
            scenario.routers.get(router).map_or(Behaviour::None, |router| *router.nat.get_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{check, source::Source};
    use serde_json::json;

    fn scenario(mn_nat: &str, more: &str) -> Scenario {
        let text = format!(
            "schema = 1\nname = \"t\"\nabout = \"t\"\n[router.a]\nnat = \"{mn_nat}\"\n[router.b]\nnat = \"port-restricted\"\n\
             [node]\nroot = {{ role = \"dns\", at = \"internet\", zone = \".\" }}\n\
             dc = {{ role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }}\n\
             rs = {{ role = \"relay\", at = \"internet\" }}\n\
             gn = {{ role = \"general\", at = \"internet\", name = \"www.test\" }}\n\
             cn = {{ role = \"terminal\", at = \"b\" }}\n\
             mn = {{ role = \"terminal\", w0 = {{ at = \"a\" }}, w1 = {{ at = \"b\", state = \"down\" }} }}\n\
             [[flow]]\nid = \"f\"\nping = {{ from = \"mn\", to = \"cn.dc.test\" }}\n\
             [[flow]]\nid = \"g\"\nping = {{ from = \"mn\", to = \"www.test\" }}\n{more}"
        );
        check(&Source { name: "t".into(), text }).unwrap_or_else(|message| panic!("{message}"))
    }

    #[test]
    fn the_oracle_follows_nats_and_moves() {
        let of = |nat, more, to| oracle(&scenario(nat, more), "mn", to);
        assert_eq!(of("full-cone", "", "cn"), "direct");
        assert_eq!(of("symmetric", "", "cn"), "RS-S");
        assert_eq!(of("symmetric", "", "gn"), "RS-N");
        let moved = "[[at]]\ntime = \"1s\"\nhandover = { node = \"mn\", from = \"w0\", to = \"w1\" }\n";
        assert_eq!(of("symmetric", moved, "cn"), "direct", "behind one NAT");
        let down = "[[at]]\ntime = \"1s\"\ninterface = { node = \"mn\", name = \"w0\", state = \"down\" }\n";
        assert_eq!(of("full-cone", down, "cn"), NONE);
    }

    #[test]
    fn each_terminal_sees_its_peers() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let pairs = pairs(&scenario("none", ""));
        assert_eq!(pairs, BTreeSet::from([pair("mn", "cn"), pair("cn", "mn"), pair("mn", "gn")]));
    }

    #[test]
    fn the_route_in_use_is_the_one_that_serves() {
        let path = |peer: &str, route: &str| json!({ "peer": peer, "route": route });
        let status =
            json!({ "paths": [path("cn.test", "none"), path("cn.test", "RS-S"), path("gn.test", "RS-N")] });
        assert_eq!(in_use(Some(&status), "cn.test"), Ok("RS-S".into()));
        assert_eq!(in_use(Some(&status), "other.test"), Ok(NONE.into()));
        assert!(
            in_use(Some(&json!({ "error": "no answer" })), "cn.test").is_err() && in_use(None, "x").is_err()
        );
    }
}
