//! Whether an expectation that failed says something, or only that the machine disturbed what it is about. PURE.

use super::verdict::Judged;
use crate::flow::Quantities;
use crate::scenario::model::{Check, Expectation};

/// Notes at `judged`, which is of `expectation`, why it is inconclusive, if it is: it failed, and would not have if only quantities that were
/// disturbed had been others. `reasons` tells what disturbed a quantity; nothing of one that is not sensitive.
pub fn excuse(
    judged: &mut Judged,
    expectation: &Expectation,
    quantities: &Quantities,
    reasons: &impl Fn(&str) -> Vec<String>,
) {
    let (false, Check::Expression(expr)) = (judged.held, &expectation.check) else { return };
    let expr = expr.get_ref();
    let is_open = |name: &str| !reasons(name).is_empty();
    let measured = |name: &str| matches!(quantities.get(name), Some(Ok(_)));
    if expr.names().iter().any(|(name, _)| !is_open(name) && !measured(name)) {
        return;
    }
    let value_of = |name: &str| quantities.get(name).cloned().unwrap_or(Err(String::new()));
    if expr.settled(&value_of, &is_open) == Some(false) {
        return;
    }
    for (name, _) in expr.names() {
        for reason in reasons(name) {
            let line = format!("{name}: {reason}");
            if !judged.disturbed.contains(&line) {
                judged.disturbed.push(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::catalogue::is_sensitive;
    use crate::judge::expr::Value;
    use crate::scenario::{check, source::Source};

    /// What becomes of `check` where everything that is sensitive was disturbed.
    fn disturbed(text: &str, quantities: &Quantities) -> Vec<String> {
        let file = format!(
            "schema = 1\nname = \"t\"\nabout = \"t\"\n[node]\na = {{ role = \"general\", at = \"internet\", name = \"a.test.test\" }}\n\
             [[flow]]\nid = \"f\"\niperf3 = {{ from = \"a\", to = \"a.test.test\", duration = \"1s\" }}\n\
             [[expect]]\nfail = \"sentence\"\n{text}\n"
        );
        let scenario =
            check(&Source { name: "t".into(), text: file }).unwrap_or_else(|message| panic!("{message}"));
        let reasons = |name: &str| match is_sensitive(&scenario, name) {
            true => vec!["busy".to_owned()],
            false => Vec::new(),
        };
        let mut judged =
            Judged { check: text.into(), held: false, fail: String::new(), found: vec![], disturbed: vec![] };
        excuse(&mut judged, &scenario.expectations[0], quantities, &reasons);
        judged.disturbed
    }

    fn measured() -> Quantities {
        Quantities::from([
            ("flow.f.mbits".into(), Ok(Value::Number(9.0))),
            ("flow.f.connections".into(), Ok(Value::Number(2.0))),
            ("flow.f.completed".into(), Ok(Value::Truth(true))),
            ("flow.f.longest_stall_ms".into(), Err("the flow did not come to its end".into())),
        ])
    }

    #[test]
    fn a_rate_that_was_disturbed_excuses_and_says_why() {
        assert_eq!(disturbed("check = \"flow.f.mbits > 10\"", &measured()), ["flow.f.mbits: busy"]);
        let both = disturbed("check = \"flow.f.mbits > 10 and flow.f.completed\"", &measured());
        assert_eq!(both, ["flow.f.mbits: busy"]);
        let doubled = "check = \"not (flow.f.mbits < 2 * flow.f.connections or flow.f.mbits < 10)\"";
        assert_eq!(disturbed(doubled, &measured()).len(), 1);
        assert_eq!(disturbed("check = \"flow.f.longest_stall_ms < 10\"", &measured()).len(), 1);
    }

    #[test]
    fn what_would_fail_with_any_rate_is_not_excused() {
        for check in [
            "flow.f.connections == 1",
            "flow.f.mbits > 10 and flow.f.connections == 1",
            "not (flow.f.mbits < 10 or flow.f.completed)",
            "flow.f.mbits > 10 and flow.f.virtual",
        ] {
            assert_eq!(
                disturbed(&format!("check = \"{check}\""), &measured()),
                Vec::<String>::new(),
                "{check}"
            );
        }
        assert_eq!(disturbed("sequence = [\"a: flow-ended f\"]", &measured()), Vec::<String>::new());
    }
}
