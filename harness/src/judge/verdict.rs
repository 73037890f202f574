//! The verdict: every expectation against what was measured and the trace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::sequence::{self, Outcome, Owners};
use crate::flow::Quantities;
use crate::scenario::model::{After, Check, Expectation};

/// An expectation after the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judged {
    /// The expression, or the sequence's steps.
    pub check: String,
    /// Whether it held.
    pub held: bool,
    /// The scenario's sentence.
    pub fail: String,
    /// What was measured, or where the sequence stopped.
    pub found: Vec<String>,
    /// Where it failed, and the machine disturbed what it is about: what disturbed it. It is inconclusive then.
    #[serde(default)]
    pub disturbed: Vec<String>,
}

impl Judged {
    /// Whether it did not hold, and nothing disturbed what it is about.
    pub fn failed(&self) -> bool {
        !self.held && self.disturbed.is_empty()
    }

    /// `held`, `FAILED`, or `UNSURE` where it is inconclusive.
    pub fn word(&self) -> &'static str {
        match (self.held, self.failed()) {
            (true, _) => "held",
            (false, true) => "FAILED",
            (false, false) => "UNSURE",
        }
    }
}

/// What the judge looks at.
pub struct Evidence<'a, O: Owners> {
    /// Everything measured.
    pub quantities: &'a Quantities,
    /// The merged trace, sorted by time.
    pub trace: &'a [Json],
    /// Who has which address.
    pub owners: &'a O,
    /// When time began, in nanoseconds of the run's clock.
    pub start: u64,
    /// When the first handover's new address was up.
    pub handover: Option<u64>,
}

/// Judges one expectation.
pub fn judge(expectation: &Expectation, evidence: &Evidence<'_, impl Owners>) -> Judged {
    let (check, held, found) = match &expectation.check {
        Check::Expression(expr) => {
            let expr = expr.get_ref();
            let value_of = |name: &str| match evidence.quantities.get(name) {
                Some(value) => value.clone().map_err(|why| format!("{name} was not measured: {why}")),
                None => Err(format!("{name} was not measured")),
            };
            let mut found = Vec::new();
            for (name, _) in expr.names() {
                let line = match value_of(name) {
                    Ok(value) => format!("{name} = {value}"),
                    Err(why) => why,
                };
                if !found.contains(&line) {
                    found.push(line);
                }
            }
            (expr.text.clone(), expr.holds(&value_of) == Ok(true), found)
        }
        Check::Sequence { steps, after } => {
            let texts: Vec<&str> = steps.iter().map(|step| step.get_ref().text.as_str()).collect();
            let (held, found) = search(steps.iter().map(toml::Spanned::get_ref), *after, evidence);
            (texts.join(" · "), held, found)
        }
    };
    Judged { check, held, fail: expectation.fail.clone(), found, disturbed: Vec::new() }
}

fn search<'a>(
    steps: impl Iterator<Item = &'a sequence::Step> + Clone,
    after: Option<After>,
    evidence: &Evidence<'_, impl Owners>,
) -> (bool, Vec<String>) {
    let since = match after {
        None => 0,
        Some(After::Time(time)) => {
            evidence.start.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        }
        Some(After::Handover) => match evidence.handover {
            Some(moment) => moment,
            None => return (false, vec!["no handover took place".to_owned()]),
        },
    };
    let first = evidence.trace.partition_point(|record| time(record) < since);
    let outcome = sequence::search(steps.clone(), evidence.trace, first, evidence.owners);
    let (indices, missing) = match outcome {
        Outcome::Held(found) => (found, None),
        Outcome::Stopped { found, missing } => (found, Some(missing)),
    };
    let steps: Vec<&sequence::Step> = steps.collect();
    let mut lines: Vec<String> = indices
        .iter()
        .zip(&steps)
        .map(|(index, step)| {
            let record = evidence.trace.get(*index);
            let ms = record.map_or(0.0, |record| (time(record) as f64 - evidence.start as f64) / 1e6);
            format!("{ms:>9.1} ms  {step}")
        })
        .collect();
    if let Some(step) = missing.and_then(|missing| steps.get(missing)) {
        lines.push(format!("  stopped at  {step}"));
    }
    (missing.is_none(), lines)
}

fn time(record: &Json) -> u64 {
    record.get("t").and_then(Json::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::expr::Value;
    use crate::scenario::{check, source::Source};
    use serde_json::json;
    use std::net::IpAddr;

    struct Nobody;

    impl Owners for Nobody {
        fn owns(&self, _: &str, _: IpAddr) -> bool {
            false
        }
    }

    fn judged(expectation: &str, quantities: &Quantities, trace: &[Json]) -> Judged {
        let text = format!(
            "schema = 1\nname = \"t\"\nabout = \"t\"\n[node]\na = {{ role = \"general\", at = \"internet\", name = \"a.test.test\" }}\n\
             [[flow]]\nid = \"f\"\nping = {{ from = \"a\", to = \"a.test.test\" }}\n[[expect]]\nfail = \"sentence\"\n{expectation}\n"
        );
        let scenario =
            check(&Source { name: "t".into(), text }).unwrap_or_else(|message| panic!("{message}"));
        let evidence = Evidence { quantities, trace, owners: &Nobody, start: 1_000_000, handover: None };
        judge(&scenario.expectations[0], &evidence)
    }

    #[test]
    fn what_was_measured_is_shown_with_the_verdict() {
        let mut quantities = Quantities::new();
        quantities.insert("flow.f.lost".into(), Ok(Value::Number(2.0)));
        let verdict = judged("check = \"flow.f.lost == 0\"", &quantities, &[]);
        assert!(!verdict.held);
        assert_eq!(verdict.found, ["flow.f.lost = 2"]);
        assert!(judged("check = \"flow.f.lost == 2\"", &quantities, &[]).held);
    }

    #[test]
    fn what_was_not_measured_does_not_hold_whatever_is_expected() {
        let quantities = Quantities::from([("flow.f.lost".into(), Err("ping died".into()))]);
        for check in ["flow.f.lost == 0", "flow.f.lost != 0", "not flow.f.lost == 0"] {
            let verdict = judged(&format!("check = \"{check}\""), &quantities, &[]);
            assert!(!verdict.held, "{check}");
            assert_eq!(verdict.found, ["flow.f.lost was not measured: ping died"]);
        }
    }

    #[test]
    fn a_sequence_says_where_it_stopped() {
        let trace = [
            json!({"t": 2_000_000, "node": "a", "what": "query", "name": "x"}),
            json!({"t": 3_000_000, "node": "a", "what": "answer", "name": "x"}),
        ];
        let none = Quantities::new();
        let held = judged("sequence = [\"a: query\", \"a: answer\"]", &none, &trace);
        assert!(held.held);
        assert_eq!(held.found, ["      1.0 ms  a: query", "      2.0 ms  a: answer"]);
        let stopped = judged("sequence = [\"a: answer\", \"a: query\"]", &none, &trace);
        assert_eq!((stopped.held, stopped.found.len()), (false, 2));
        assert_eq!(stopped.found[1], "  stopped at  a: query");
        let late = judged("after = \"1500us\"\nsequence = [\"a: query\"]", &none, &trace);
        assert!(!late.held, "the query came before");
        assert!(!judged("after = \"handover\"\nsequence = [\"a: query\"]", &none, &trace).held);
    }
}
