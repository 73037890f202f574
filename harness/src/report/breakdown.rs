//! Where the time of a handover went: from leaving the old network to the first data packet on the new one, stage by stage. PURE.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::timeline::Handover;

/// A handover, stage by stage; times in nanoseconds of the run's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Breakdown {
    /// Who moved.
    pub node: String,
    /// The interface it left.
    pub from: String,
    /// The interface it went on with.
    pub to: String,
    /// When it began to leave.
    pub left: u64,
    /// When the harness saw the new address and its route up.
    pub joined: u64,
    /// Each stage begins where the one before it ended.
    pub stages: Vec<Stage>,
    /// Stages whose end was not observed.
    pub missing: Vec<&'static str>,
}

/// A part of a handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stage {
    /// What it was spent on.
    pub name: &'static str,
    /// What ended it.
    pub until: &'static str,
    /// When it began.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
}

/// The stages of `handover` in `trace`, which is sorted by time. `first_data` is when the first data packet was seen in the new network.
pub fn of(handover: &Handover, trace: &[Json], first_data: Option<u64>) -> Breakdown {
    let mut out = Breakdown {
        node: handover.node.clone(),
        from: handover.from.clone(),
        to: handover.to.clone(),
        left: handover.left,
        joined: handover.joined,
        stages: Vec::new(),
        missing: Vec::new(),
    };
    // Where the networks overlap, it begins with the new one.
    let overlaps = handover.joined < handover.left;
    let coming = |record: &&Json| {
        record["what"] == "link-up"
            && record["node"] == *handover.node
            && record["interface"] == *handover.to
            && time(record) <= handover.joined
    };
    let link_up = trace.iter().rev().find(coming).map(time).filter(|up| overlaps || *up >= handover.left);
    let begin = if overlaps { link_up.unwrap_or(handover.joined) } else { handover.left };
    let since = trace.partition_point(|record| time(record) < begin);
    let own: Vec<&Json> = trace[since..].iter().filter(|record| record["node"] == *handover.node).collect();
    let received =
        |kind: &'static str| move |record: &Json| record["what"] == "received" && record["message"] == kind;
    let addressed = |record: &Json| {
        record["what"] == "addresses" && record["addresses"].as_array().is_some_and(|list| !list.is_empty())
    };
    let moved = |record: &Json| record["what"] == "path-changed" && record["route"] != "none";
    let mut from = begin;
    let mut stage = |name: &'static str, until: &'static str, end: Option<u64>| match end {
        Some(end) => {
            out.stages.push(Stage { name, until, begin: from, end });
            from = end;
        }
        None => out.missing.push(name),
    };
    // Each of the following is looked for behind the one before it, so that an earlier exchange of the same kind is not taken for this one's.
    let mut next = 0;
    let mut seek = |is: &dyn Fn(&Json) -> bool| {
        let place = next + own[next..].iter().position(|record| is(record))?;
        next = place;
        Some(time(own[place]))
    };
    if !overlaps {
        stage("gap", "the new link comes up", link_up);
    }
    // A node without NTMobile observes nothing itself.
    stage("address", "the terminal sees its new address", seek(&addressed).or(Some(handover.joined)));
    type Step<'a> = (&'static str, &'static str, &'a dyn Fn(&Json) -> bool);
    let steps: [Step<'_>; 3] = [
        ("registration", "Registration Response", &received("RegistrationResponse")),
        ("direction", "Route Direction", &received("RouteDirection")),
        ("tunnel", "the path stands", &moved),
    ];
    let shown = shown(&own);
    let mut rest = steps.map(|(name, until, is)| (name, until, seek(is))).to_vec();
    rest.push(("first data", "first data packet in the new network", first_data));
    // Data flows before the procedure is done.
    if shown.is_some() {
        rest.push(("shown", "a relay or peer answers at the new address", shown));
        rest.sort_by_key(|(_, _, end)| (end.is_none(), *end));
    }
    rest.into_iter().for_each(|(name, until, end)| stage(name, until, end));
    out
}

/// When the new address was shown (`handover = "fast"`): the first answer to a Tunnel Request that says that the node moved, before its first
/// Route Direction.
fn shown(own: &[&Json]) -> Option<u64> {
    let is =
        |record: &Json, what: &str, message: &str| record["what"] == what && record["message"] == message;
    let until = own.iter().position(|record| is(record, "received", "RouteDirection")).unwrap_or(own.len());
    let asked = |record: &&&Json| is(record, "sent", "TunnelRequest") && record["fields"]["moved"] == true;
    let requests: Vec<&Json> =
        own[..until].iter().filter(asked).map(|record| &record["fields"]["request"]).collect();
    let answer = own[..until].iter().find(|record| {
        is(record, "received", "TunnelResponse") && requests.contains(&&record["fields"]["request"])
    });
    answer.map(|record| time(record))
}

fn time(record: &Json) -> u64 {
    record["t"].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn handover() -> Handover {
        Handover {
            node: "mn".into(),
            from: "wlan0".into(),
            to: "wlan1".into(),
            gap: Duration::ZERO,
            left: 100,
            joined: 205,
        }
    }

    fn stages(trace: &[Json], first: Option<u64>) -> (Vec<(&'static str, u64)>, Vec<&'static str>) {
        let told = of(&handover(), trace, first);
        assert!(told.stages.windows(2).all(|pair| pair[0].end == pair[1].begin), "no time is left out");
        (told.stages.iter().map(|stage| (stage.name, stage.end - stage.begin)).collect(), told.missing)
    }

    #[test]
    fn every_stage_begins_where_the_last_ended() {
        let trace = [
            // Of the time before: not this handover's.
            json!({"t": 50, "node": "mn", "what": "received", "message": "RegistrationResponse"}),
            json!({"t": 101, "node": "mn", "what": "addresses", "addresses": []}),
            json!({"t": 110, "node": "mn", "what": "path-changed", "route": "none"}),
            json!({"t": 201, "node": "mn", "what": "link-up", "interface": "wlan1"}),
            json!({"t": 204, "node": "mn", "what": "addresses", "addresses": ["192.0.2.2"]}),
            json!({"t": 209, "node": "cn", "what": "received", "message": "RegistrationResponse"}),
            json!({"t": 210, "node": "mn", "what": "received", "message": "RegistrationResponse"}),
            json!({"t": 215, "node": "mn", "what": "received", "message": "RouteDirection"}),
            json!({"t": 219, "node": "mn", "what": "path-changed", "route": "RS-N"}),
        ];
        let (told, missing) = stages(&trace, Some(220));
        assert_eq!(
            told,
            [
                ("gap", 101),
                ("address", 3),
                ("registration", 6),
                ("direction", 5),
                ("tunnel", 4),
                ("first data", 1)
            ]
        );
        assert!(missing.is_empty());
    }

    /// The new network is there before the old one is left: nothing is without a network, and the old one's end is no stage.
    #[test]
    fn an_overlap_has_no_gap() {
        let overlapping = Handover { left: 400, ..handover() };
        let trace = [
            json!({"t": 201, "node": "mn", "what": "link-up", "interface": "wlan1"}),
            json!({"t": 204, "node": "mn", "what": "addresses", "addresses": ["10.0.0.2", "192.0.2.2"]}),
            json!({"t": 210, "node": "mn", "what": "received", "message": "RegistrationResponse"}),
            json!({"t": 215, "node": "mn", "what": "received", "message": "RouteDirection"}),
            json!({"t": 219, "node": "mn", "what": "path-changed", "route": "direct"}),
        ];
        let told = of(&overlapping, &trace, Some(220));
        let names: Vec<_> = told.stages.iter().map(|stage| (stage.name, stage.begin, stage.end)).collect();
        assert_eq!(names[0], ("address", 201, 204));
        assert_eq!(names.last(), Some(&("first data", 219, 220)));
        assert_eq!((names.len(), told.missing.len()), (5, 0));
    }

    /// With `handover = "fast"` data flows before the procedure is done; no time is counted twice.
    #[test]
    fn what_is_shown_at_once_is_a_stage() {
        let said = |t: u64, what: &str, message: &str, request: u64, moved: bool| {
            let fields = json!({"request": request, "moved": moved});
            json!({"t": t, "node": "mn", "what": what, "message": message, "fields": fields})
        };
        let trace = [
            json!({"t": 201, "node": "mn", "what": "link-up", "interface": "wlan1"}),
            said(202, "received", "TunnelResponse", 6, false),
            json!({"t": 204, "node": "mn", "what": "addresses", "addresses": ["192.0.2.2"]}),
            said(205, "sent", "TunnelRequest", 7, true),
            said(206, "sent", "TunnelRequest", 8, false),
            said(208, "received", "TunnelResponse", 8, false),
            said(210, "received", "TunnelResponse", 7, false),
            said(211, "received", "RegistrationResponse", 9, false),
            said(219, "received", "RouteDirection", 9, false),
            json!({"t": 227, "node": "mn", "what": "path-changed", "route": "RS-N"}),
        ];
        let (told, missing) = stages(&trace, Some(212));
        let after_the_address =
            [("shown", 6), ("registration", 1), ("first data", 1), ("direction", 7), ("tunnel", 8)];
        assert_eq!(told[2..], after_the_address);
        assert!(missing.is_empty());
    }

    #[test]
    fn what_was_not_observed_is_named() {
        // As a run without a link's coming up in its trace.
        let trace = [json!({"t": 210, "node": "mn", "what": "received", "message": "RegistrationResponse"})];
        let (told, missing) = stages(&trace, None);
        assert_eq!(told, [("address", 105), ("registration", 5)]);
        assert_eq!(missing, ["gap", "direction", "tunnel", "first data"]);
    }
}
