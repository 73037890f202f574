//! What of a scenario's two runs is compared, one in each world, and what differs. PURE.
//!
//! Sequences by the order that both must keep ([`ntm_sim::sequence`]); the ways of paths; the headers at every hop of them; what each handover takes until its
//! path stands; which expectations held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ntm_sim::sequence::Sequence;
use serde_json::Value as Json;

use crate::engine::Engine;

/// What processes and kernels may take for a handover, beyond what its messages take on the links: the simulator's take no time.
const PROCESSES: Duration = Duration::from_millis(30);
/// A handover's messages cross the links of the one that moves about so often: for its registration, its direction and its tunnel, there and back, each over one link of its own
/// and one of another node.
const CROSSINGS: u32 = 12;
/// Beyond so many standard deviations a sum of delays hardly ever lies.
const DEVIATIONS: f64 = 4.0;

/// What a run left.
pub(super) struct Outcome {
    /// `report.json`.
    pub(super) report: Json,
    /// Of `events.jsonl`.
    pub(super) sequence: Sequence,
}

impl Outcome {
    /// Each difference of this run, the emulated one, from the simulated one, in words. `jitter` is the greatest standard deviation of the delay of a link.
    pub(super) fn differences(&self, other: &Self, jitter: Duration) -> Vec<String> {
        let words = [Engine::Emulation.word(), Engine::Simulation.word()];
        let mut out = self.sequence.differences(&other.sequence, words[0], words[1]);
        let reports = [&self.report, &other.report];
        out.extend(routes(reports, words));
        out.extend(transitions(reports, words));
        out.extend(handovers(reports, words, jitter));
        out.extend(expectations(reports, words));
        out
    }
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The way that each path took at last.
fn routes(reports: [&Json; 2], [own, others]: [&str; 2]) -> Vec<String> {
    let of = |report: &Json| -> BTreeMap<String, Json> {
        let all = report["quantities"].as_object().cloned().unwrap_or_default().into_iter();
        all.filter(|(name, _)| name.starts_with("path.") && name.ends_with(".route")).collect()
    };
    let [here, there] = reports.map(of);
    let names: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let differ = names.into_iter().filter(|name| here.get(*name) != there.get(*name));
    let word = |value: Option<&Json>| value.map_or("nothing".to_owned(), Json::to_string);
    differ
        .map(|name| format!("{name}: {own}: {}; {others}: {}", word(here.get(name)), word(there.get(name))))
        .collect()
}

/// The headers at every hop from one end to the other, in each direction. A way on which no packet could be followed in one of the worlds, because it lasted too short or its packets
/// came in crowds, is told by the sequences alone; so what one world saw besides what the other did is no difference, and what each saw in place of the other's is.
fn transitions(reports: [&Json; 2], [own, others]: [&str; 2]) -> Vec<String> {
    let [here, there] = reports.map(ways);
    let mut out = Vec::new();
    for ((from, to), hops) in &here {
        let Some(theirs) = there.get(&(*from, *to)) else { continue };
        if let (Some(one), Some(other)) = (hops.difference(theirs).next(), theirs.difference(hops).next()) {
            out.push(format!("the hops from {from} to {to}: {own}: {one}; {others}: {other}"));
        }
    }
    out
}

/// By the two ends, from one to the other: what each way's packets had for headers at every hop.
fn ways(report: &Json) -> BTreeMap<(&str, &str), BTreeSet<String>> {
    let mut out: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for transition in list(&report["transitions"]) {
        let [from, to] = ["from", "to"].map(|end| transition[end].as_str().unwrap_or_default());
        for (ends, direction) in [((from, to), "forward"), ((to, from), "back")] {
            let hops = list(&transition[direction]).iter().map(hop).collect::<Vec<_>>();
            out.entry(ends).or_default().insert(hops.join(", "));
        }
    }
    out
}

/// A hop as one reads it: where, the outer header in brackets, and the application's.
fn hop(hop: &Json) -> String {
    let pair = |pair: &Json| {
        let ends = list(pair).iter().filter_map(Json::as_str).collect::<Vec<_>>();
        ends.join(" → ")
    };
    let outer = if hop["outer"].is_null() { String::new() } else { format!("[{}] ", pair(&hop["outer"])) };
    let sealed = if hop["readable"] == false { " sealed" } else { "" };
    format!("{}: {outer}{}{sealed}", hop["at"].as_str().unwrap_or_default(), pair(&hop["original"]))
}

/// What each handover takes from the moment that the new address is seen until its path stands: the interruption that the protocol makes, without what a flow's own pauses add.
fn handovers(reports: [&Json; 2], [own, others]: [&str; 2], jitter: Duration) -> Vec<String> {
    let took = |handover: &Json| -> Option<f64> {
        let end = |name: &str| {
            let stage = list(&handover["stages"]).iter().find(|stage| stage["name"] == name)?;
            stage["end"].as_u64()
        };
        Some((end("tunnel")?.saturating_sub(end("address")?)) as f64 / 1e6)
    };
    let [here, there] = reports.map(|report| list(&report["handovers"]));
    let bound = bound(jitter).as_secs_f64() * 1e3;
    let mut out = Vec::new();
    if here.len() != there.len() {
        out.push(format!("handovers: {own}: {}; {others}: {}", here.len(), there.len()));
    }
    for (number, (one, other)) in here.iter().zip(there).enumerate() {
        if reports.iter().zip([one, other]).any(|(report, handover)| is_disturbed(report, handover)) {
            continue;
        }
        let shown = |time: Option<f64>| time.map_or("never".to_owned(), |ms| format!("{ms:.1} ms"));
        let (one, other) = (took(one), took(other));
        let near = match (one, other) {
            (Some(one), Some(other)) => (one - other).abs() <= bound,
            (one, other) => one.is_none() && other.is_none(),
        };
        if !near {
            let number = number + 1;
            out.push(format!(
                "handover {number} takes: {own}: {}; {others}: {} (at most {bound:.1} ms apart)",
                shown(one),
                shown(other)
            ));
        }
    }
    out
}

/// Whether the machine disturbed a run while a handover was under way: its time then says nothing.
fn is_disturbed(report: &Json, handover: &Json) -> bool {
    let stages = list(&handover["stages"]);
    let moment = |stage: &Json, name: &str| stage[name].as_u64();
    let begin = stages.iter().filter_map(|stage| moment(stage, "begin")).min();
    let end = stages.iter().filter_map(|stage| moment(stage, "end")).max();
    let (Some(begin), Some(end)) = (begin, end) else { return false };
    list(&report["disturbances"]).iter().any(|disturbance| {
        let is = |name: &str, holds: &dyn Fn(u64) -> bool| disturbance[name].as_u64().is_some_and(holds);
        is("from", &|from| from <= end) && is("to", &|to| to >= begin)
    })
}

/// How far apart the two worlds' handovers may be.
fn bound(jitter: Duration) -> Duration {
    PROCESSES + jitter.mul_f64(DEVIATIONS * f64::from(CROSSINGS).sqrt())
}

/// Which expectations held, of those that both judged and nothing disturbed.
fn expectations(reports: [&Json; 2], [own, others]: [&str; 2]) -> Vec<String> {
    let [here, there] = reports.map(|report| list(&report["expectations"]));
    let is_judged = |judged: &&Json| list(&judged["disturbed"]).is_empty();
    let mut out = Vec::new();
    for judged in here.iter().filter(is_judged) {
        let same = |other: &&Json| ["check", "fail"].iter().all(|field| other[*field] == judged[*field]);
        let Some(other) = there.iter().filter(is_judged).find(same) else { continue };
        if judged["held"] != other["held"] {
            let word = |judged: &Json| if judged["held"] == true { "held" } else { "failed" };
            out.push(format!(
                "{}: {own}: {}; {others}: {}",
                judged["check"].as_str().unwrap_or_default(),
                word(judged),
                word(other)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differences(one: Json, other: Json) -> Vec<String> {
        let [one, other] = [one, other].map(|report| Outcome { report, sequence: Sequence::default() });
        one.differences(&other, Duration::from_micros(500))
    }

    fn handover(ms: u64) -> Json {
        let stage = |name: &str, end: u64| json!({ "name": name, "end": end * 1_000_000 });
        json!({ "handovers": [{ "stages": [stage("address", 100), stage("tunnel", 100 + ms)] }] })
    }

    #[test]
    fn a_handover_may_differ_by_jitter_and_processes_and_no_more() {
        assert_eq!(differences(handover(20), handover(14)), Vec::<String>::new());
        let far = differences(handover(60), handover(14));
        assert_eq!(
            far,
            ["handover 1 takes: emulation: 60.0 ms; simulation: 14.0 ms (at most 36.9 ms apart)"]
        );
        let during = |from: u64, to: u64| {
            let mut report = handover(60);
            report["handovers"][0]["stages"][1]["begin"] = json!(100_000_000);
            report["disturbances"] = json!([{ "from": from * 1_000_000, "to": to * 1_000_000 }]);
            report
        };
        assert_eq!(differences(during(120, 130), handover(14)), Vec::<String>::new(), "disturbed");
        assert_eq!(differences(during(10, 90), handover(14)), far, "before it");
        assert_eq!(differences(during(170, 180), handover(14)), far, "after it");
        let never = json!({ "handovers": [{ "stages": [] }] });
        assert_eq!(differences(never, handover(14)).len(), 1);
        assert_eq!(differences(json!({ "handovers": [] }), handover(14)).len(), 1);
    }

    /// T4.1.3-a, T4.2.3-a: another header anywhere is a difference; a way that one world alone could follow is none.
    #[test]
    fn another_header_at_one_hop_is_a_difference() {
        let way = |source: &str| {
            let hop = json!({ "at": "RS, towards GN", "outer": null, "original": [source, "RIP_GN"], "readable": true });
            json!({ "route": "RS-N", "from": "mn", "to": "gn", "forward": [hop], "back": [] })
        };
        let ways = |sources: &[&str]| json!({ "transitions": sources.iter().map(|source| way(source)).collect::<Vec<_>>() });
        assert_eq!(differences(ways(&["RIP_RS"]), ways(&["RIP_RS"])), Vec::<String>::new());
        assert_eq!(differences(ways(&["RIP_RS", "RIP_RS2"]), ways(&["RIP_RS"])), Vec::<String>::new());
        assert_eq!(
            differences(ways(&["RIP_RS"]), ways(&["RIP_MN"])),
            [
                "the hops from mn to gn: emulation: RS, towards GN: RIP_RS → RIP_GN; simulation: RS, towards GN: RIP_MN → RIP_GN"
            ]
        );
        assert_eq!(differences(ways(&["RIP_RS", "RIP_X"]), ways(&["RIP_RS", "RIP_MN"])).len(), 1);
    }

    #[test]
    fn routes_and_verdicts_are_compared_where_both_are_known() {
        let report = |route: &str, held: bool, disturbed: &[&str]| {
            json!({
                "quantities": { "path.mn.cn.route": route, "flow.f.lost": 3 },
                "expectations": [{ "check": "a", "fail": "b", "held": held, "disturbed": disturbed }],
            })
        };
        assert_eq!(differences(report("RS-S", true, &[]), report("RS-S", true, &[])), Vec::<String>::new());
        assert_eq!(
            differences(report("RS-S", false, &[]), report("direct", true, &[])),
            [
                "path.mn.cn.route: emulation: \"RS-S\"; simulation: \"direct\"",
                "a: emulation: failed; simulation: held"
            ]
        );
        assert_eq!(
            differences(report("RS-S", false, &["busy"]), report("RS-S", true, &[])),
            Vec::<String>::new()
        );
        let nothing = json!({ "quantities": {}, "expectations": [] });
        assert_eq!(
            differences(nothing, report("RS-S", true, &[])),
            ["path.mn.cn.route: emulation: nothing; simulation: \"RS-S\""]
        );
    }
}
