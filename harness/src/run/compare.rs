//! What of a scenario's two runs is compared, one in each world, and what differs. PURE.
//!
//! Sequences by the order that both must keep ([`ntm_sim::sequence`]); the ways of paths; the headers at every hop of them; what each handover takes until its
//! path stands; which expectations held.
//!
//! Where a run ends, what is under way is cut off. What one run alone has so late that the other may just have ended before it is left out ([`Comparison::left_out`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ntm_protocol::session::ATTEMPTS;
use ntm_protocol::time::Instant;
use ntm_sim::sequence::Sequence;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::engine::Engine;
use crate::exit::Exit;
use crate::scenario::model::{Scenario, Shape};

/// What processes and kernels may take for a handover, beyond what its messages take on the links: the simulator's take no time.
const PROCESSES: Duration = Duration::from_millis(30);
/// A handover's messages, and those of a negotiation, cross the links of the one that moves or asks about so often: for its registration, its direction and its tunnel, there and back,
/// each over one link of its own and one of another node.
const CROSSINGS: u32 = 12;
/// Who gives a request up has waited for so many round trips: for three at first, by the first measurement of one ([`Rtt`](ntm_protocol::session::Rtt)), and then twice as long each time.
/// The last wait is the longest that there is, in either world.
const GIVEN_UP: u32 = 3 * ((1 << (ATTEMPTS - 1)) - 1);
/// Beyond so many standard deviations a sum of delays hardly ever lies.
const DEVIATIONS: f64 = 4.0;

/// What a run left.
pub(super) struct Outcome {
    /// `report.json`.
    pub(super) report: Json,
    /// Of `events.jsonl`.
    pub(super) sequence: Sequence,
}

/// The slowest link of a scenario, in either direction, now and later.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slowest {
    /// One way.
    delay: Duration,
    /// The standard deviation of that.
    jitter: Duration,
}

impl Slowest {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let greatest = |of: fn(&Shape) -> Duration| {
            scenario.shapes().flat_map(|link| [of(&link.up), of(&link.down)]).max().unwrap_or_default()
        };
        Self { delay: greatest(|way| way.delay), jitter: greatest(|way| way.jitter) }
    }

    /// How far apart the two worlds' handovers may be.
    fn apart(self) -> Duration {
        PROCESSES + self.jitter.mul_f64(DEVIATIONS * f64::from(CROSSINGS).sqrt())
    }

    /// How far apart the two worlds' round trips may be: with their share of what processes take, over a link of each end's in both directions.
    fn round_trips_apart(self) -> Duration {
        PROCESSES / (CROSSINGS / 2) + self.jitter.mul_f64(DEVIATIONS * 4_f64.sqrt())
    }

    /// How long before its end a run may have cut off what the other has: as long as the messages of a handover or a negotiation are on their way, as far apart as the worlds may be at that, and
    /// then as far as requests that nobody answers may be given up.
    fn cut_off(self) -> Duration {
        self.delay * CROSSINGS + self.apart() + self.round_trips_apart() * GIVEN_UP
    }
}

/// What came of comparing two runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Each difference of the emulated run from the simulated one, in words.
    pub(crate) differences: Vec<String>,
    /// What one run alone has when the other may just have ended, likewise: it says nothing.
    pub(crate) left_out: Vec<String>,
    /// From when on that is so, in seconds of the scenario; nothing where the runs do not tell their ends.
    pub(crate) until_s: Option<f64>,
    /// Whether the machine disturbed the emulated run: what differs may be its doing.
    pub(crate) disturbed: bool,
}

impl Comparison {
    /// What it does to the exit code: nothing, where nothing differs.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let exit = if self.disturbed { Exit::Inconclusive } else { Exit::Failed };
        (!self.differences.is_empty()).then_some(exit)
    }

    /// Everything, a line each.
    pub(super) fn text(&self) -> String {
        let differences = self.differences.iter().map(|difference| format!("differs: {difference}\n"));
        let none =
            self.differences.is_empty().then(|| "emulation and simulation: no difference\n".to_owned());
        let disturbed = self.exit() == Some(Exit::Inconclusive);
        let disturbed = disturbed.then(|| "the machine disturbed the emulation: run it again\n".to_owned());
        let until = self.until_s.unwrap_or_default();
        let left_out = self.left_out.iter().map(|late| {
            format!("left out, as all after {until:.3} s, where one of the runs may have ended: {late}\n")
        });
        differences.chain(none).chain(disturbed).chain(left_out).collect()
    }

    /// How much differs, in a few words.
    pub(super) fn counted(&self) -> String {
        let differences = match self.differences.len() {
            0 => "no difference".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{count} differences"),
        };
        match self.left_out.len() {
            0 => differences,
            count => format!("{differences}, {count} left out at the end"),
        }
    }
}

impl Outcome {
    /// Compares this run, the emulated one, with the simulated one.
    pub(super) fn compare(&self, other: &Self, links: Slowest) -> Comparison {
        let words = [Engine::Emulation.word(), Engine::Simulation.word()];
        let runs = [self, other];
        let until = runs.map(Self::length).into_iter().min().flatten();
        let until = until.map(|length| length.saturating_sub(links.cut_off()));
        let until_s = until.map(|until| until.as_secs_f64());
        let disturbed = !list(&self.report["disturbances"]).is_empty();
        let mut out = Comparison { until_s, disturbed, ..Comparison::default() };
        for difference in self.sequence.differences(&other.sequence, words[0], words[1]) {
            // When it was, of what one of them alone has.
            let at = difference.at.and_then(|(is_own, at)| runs[usize::from(!is_own)].since_start(at));
            match at.filter(|at| until.is_some_and(|until| *at > until)) {
                Some(at) => out.left_out.push(format!("{}, at {:.3} s", difference.text, at.as_secs_f64())),
                None => out.differences.push(difference.text),
            }
        }
        let reports = runs.map(|run| &run.report);
        out.differences.extend(routes(reports, words));
        out.differences.extend(transitions(reports, words));
        out.differences.extend(handovers(reports, words, links.apart()));
        out.differences.extend(expectations(reports, words));
        out
    }

    /// How long the scenario was, from the moment that its times count from.
    fn length(&self) -> Option<Duration> {
        self.since_start(Instant::from_nanos(self.report["end"].as_u64()?))
    }

    /// A moment, from there; nothing for one before it.
    fn since_start(&self, at: Instant) -> Option<Duration> {
        let start = self.report["start"].as_u64()?;
        at.as_nanos().checked_sub(start).map(Duration::from_nanos)
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
fn handovers(reports: [&Json; 2], [own, others]: [&str; 2], bound: Duration) -> Vec<String> {
    let took = |handover: &Json| -> Option<f64> {
        let end = |name: &str| {
            let stage = list(&handover["stages"]).iter().find(|stage| stage["name"] == name)?;
            stage["end"].as_u64()
        };
        Some((end("tunnel")?.saturating_sub(end("address")?)) as f64 / 1e6)
    };
    let [here, there] = reports.map(|report| list(&report["handovers"]));
    let bound = bound.as_secs_f64() * 1e3;
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
    use ntm_protocol::addr::Fqdn;
    use ntm_protocol::observe::{Observation, What};
    use ntm_sim::sequence::normalise;
    use serde_json::json;

    fn differences(one: Json, other: Json) -> Vec<String> {
        let [one, other] = [one, other].map(|report| Outcome { report, sequence: Sequence::default() });
        one.compare(&other, LINKS).differences
    }

    const LINKS: Slowest = Slowest { delay: Duration::from_millis(5), jitter: Duration::from_micros(500) };

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

    /// What is under way when a run ends is cut off: here 60 ms for its way, 36.9 ms for jitter and processes, and 837 ms for requests that nobody answers before that.
    #[test]
    fn what_happens_when_one_of_the_runs_has_ended_is_left_out() {
        let run = |start_ms: u64, length_ms: u64, at_ms: &[u64]| {
            let [start, end] = [start_ms, start_ms + length_ms].map(|ms| ms * 1_000_000);
            let trace = at_ms.iter().map(|ms| Observation {
                t: Instant::from_nanos(start + ms * 1_000_000),
                node: "mn".into(),
                what: What::Query { name: Fqdn::new(&format!("at-{ms}.test")).unwrap() },
            });
            let sequence = normalise(&trace.collect::<Vec<_>>(), |_| None);
            Outcome { report: json!({ "start": start, "end": end }), sequence }
        };
        let both = |emulated: Outcome, simulated: Outcome| {
            let compared = emulated.compare(&simulated, LINKS);
            (compared.differences, compared.left_out, compared.until_s.map(|until| (until * 1e3).round()))
        };
        let early = "only in emulation: mn: query at-2000.test (mn to at-2000.test)".to_owned();
        let late = "only in emulation: mn: query at-2950.test (mn to at-2950.test), at 2.950 s".to_owned();
        assert_eq!(
            both(run(70, 3200, &[2000, 2950]), run(3, 3000, &[])),
            (vec![early.clone()], vec![late.clone()], Some(2066.0)),
            "the simulated run ended first"
        );
        assert_eq!(
            both(run(70, 3000, &[2000, 2950]), run(3, 3200, &[])),
            (vec![early], vec![late], Some(2066.0)),
            "the emulated run ended first"
        );
        assert_eq!(both(run(70, 3000, &[2950]), run(3, 3000, &[2950])), (vec![], vec![], Some(2066.0)));
        let simulated = both(run(70, 3200, &[]), run(3, 3000, &[2950]));
        assert_eq!(
            simulated.1,
            ["only in simulation: mn: query at-2950.test (mn to at-2950.test), at 2.950 s"]
        );
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
