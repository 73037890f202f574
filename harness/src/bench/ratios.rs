//! What a benchmark is judged by: ratios of medians inside one run. PURE.
//!
//! Rates of different runs are never compared: machines change from hour to hour by more than any of these ratios.

use serde::Serialize;

use super::world::{Configuration, Kind};
use crate::foreign::program::Program;

/// A measured number: of a configuration, what, and which quantity of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Number {
    /// The configuration's name.
    pub configuration: String,
    /// The measure's name.
    pub measure: &'static str,
    /// The quantity.
    pub quantity: &'static str,
}

impl Number {
    fn new(configuration: &str, measure: &'static str, quantity: &'static str) -> Self {
        Self { configuration: configuration.to_owned(), measure, quantity }
    }

    /// Its name among all that was measured.
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.configuration, self.measure, self.quantity)
    }
}

/// What a ratio must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// At least so much.
    AtLeast(f64),
    /// At most so much.
    AtMost(f64),
}

/// A ratio that is judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// What is divided.
    pub of: Number,
    /// By what.
    pub by: Number,
    /// What it must be.
    pub bound: Bound,
}

/// How a ratio came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// As it must be.
    Held,
    /// It is not.
    Failed,
    /// It is not, and the machine disturbed what it is of.
    Inconclusive,
    /// One of its two numbers is not there, for this reason.
    NotMeasured(String),
}

/// A ratio with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Which.
    #[serde(flatten)]
    pub rule: Rule,
    /// What it was.
    pub ratio: Option<f64>,
    /// How it came out.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What direct paths must reach by their suite: times what gotatun does, and the share of what the kernel does.
const DIRECT: &[(&str, f64, f64)] =
    &[("aes-128-cbc", 7.0, 0.33), ("none", 9.0, 0.42), ("aes-128-gcm", 9.0, 0.42)];
/// Of a direct path's rate, through a relay that switches, and through one that translates.
const RELAYED: &[(&str, f64)] = &[("rs-s", 0.95), ("rs-s-tcx", 0.95), ("rs-n", 0.9)];
/// Of coturn's time for a packet, a relay's: in user space, and of the kernel's program.
const RELAYS: &[(&str, f64)] = &[("aes-128-cbc-rs-s", 0.5), ("aes-128-cbc-rs-s-tcx", 0.1)];

/// The ratios of `configurations` that are judged.
pub fn rules(configurations: &[Configuration]) -> Vec<Rule> {
    let (peer, kernel) = (Program::Gotatun.word(), "kernel");
    let rate = |name: &str, measure| Number::new(name, measure, "mbits");
    let trip = |name: &str| Number::new(name, "ping_pong", "rtt_p50_ms");
    let mut suites: Vec<&str> = Vec::new();
    for configuration in configurations {
        if let Kind::Ours { suite, .. } = configuration.kind
            && !suites.contains(&suite)
        {
            suites.push(suite);
        }
    }
    let mut rules = Vec::new();
    let mut add = |of, by, bound| rules.push(Rule { of, by, bound });
    for (suite, times, share) in DIRECT.iter().filter(|(suite, ..)| suites.contains(suite)) {
        let direct = format!("{suite}-direct");
        add(rate(&direct, "tcp"), rate(peer, "tcp"), Bound::AtLeast(*times));
        add(rate(&direct, "tcp"), rate(kernel, "tcp"), Bound::AtLeast(*share));
    }
    for suite in &suites {
        for (way, share) in RELAYED {
            let (of, by) = (format!("{suite}-{way}"), format!("{suite}-direct"));
            add(rate(&of, "tcp"), rate(&by, "tcp"), Bound::AtLeast(*share));
        }
    }
    let ours = "aes-128-cbc-direct";
    add(rate(ours, "tcp_bare"), rate(peer, "tcp_bare"), Bound::AtLeast(2.5));
    add(rate(ours, "tcp_bare"), rate(kernel, "tcp_bare"), Bound::AtLeast(0.9));
    add(trip("aes-128-cbc-direct-spin"), trip(kernel), Bound::AtMost(1.0));
    add(trip(ours), trip(peer), Bound::AtMost(1.0));
    let relayed = |name: &str| Number::new(name, "relayed", super::relayed::COST);
    for (name, most) in RELAYS {
        add(relayed(name), relayed("coturn"), Bound::AtMost(*most));
    }
    rules
}

/// Judges `rules`. `median` is that of a number over all rounds, or why there is none; `is_disturbed` whether the machine disturbed a round of
/// a configuration.
pub fn judge(
    rules: Vec<Rule>,
    median: &impl Fn(&Number) -> Result<f64, String>,
    is_disturbed: &impl Fn(&str) -> bool,
) -> Vec<Judged> {
    let of = |rule: Rule| {
        let measured = median(&rule.of).and_then(|of| Ok((of, median(&rule.by)?)));
        let (ratio, verdict) = match measured {
            Err(why) => (None, Verdict::NotMeasured(why)),
            Ok((_, by)) if by <= 0.0 => (None, Verdict::NotMeasured(format!("{} is zero", rule.by.name()))),
            Ok((of, by)) => {
                let ratio = of / by;
                let holds = match rule.bound {
                    Bound::AtLeast(least) => ratio >= least,
                    Bound::AtMost(most) => ratio <= most,
                };
                let disturbed = || [&rule.of, &rule.by].iter().any(|it| is_disturbed(&it.configuration));
                let verdict = match holds {
                    true => Verdict::Held,
                    false if disturbed() => Verdict::Inconclusive,
                    false => Verdict::Failed,
                };
                (Some(ratio), verdict)
            }
        };
        Judged { rule, ratio, verdict }
    };
    rules.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Rule> {
        rules(&Configuration::all())
    }

    /// Every configuration as fast as the kernel but what `of` says.
    fn judged(of: impl Fn(&Number) -> Result<f64, String>, disturbed: &str) -> Vec<Judged> {
        judge(all(), &of, &|name: &str| name == disturbed)
    }

    fn find<'a>(all: &'a [Judged], of: &str, by: &str) -> &'a Judged {
        let is = |it: &&Judged| it.rule.of.name() == of && it.rule.by.name() == by;
        all.iter().find(is).unwrap_or_else(|| panic!("{of} by {by}"))
    }

    #[test]
    fn a_ratio_holds_from_its_bound_on() {
        let with = |gotatun: f64| {
            let of =
                move |number: &Number| Ok(if number.configuration == "gotatun" { gotatun } else { 7000.0 });
            judged(of, "")
        };
        let of =
            |all: &[Judged]| find(all, "aes-128-cbc-direct.tcp.mbits", "gotatun.tcp.mbits").verdict.clone();
        assert_eq!(of(&with(1000.0)), Verdict::Held);
        assert_eq!(of(&with(1000.1)), Verdict::Failed);
        let trips = with(6999.0);
        let trip = |of, by| find(&trips, of, by).verdict.clone();
        assert_eq!(
            trip("aes-128-cbc-direct.ping_pong.rtt_p50_ms", "gotatun.ping_pong.rtt_p50_ms"),
            Verdict::Failed,
            "a longer round trip is worse"
        );
        assert_eq!(
            trip("aes-128-cbc-direct-spin.ping_pong.rtt_p50_ms", "kernel.ping_pong.rtt_p50_ms"),
            Verdict::Held
        );
    }

    #[test]
    fn what_is_not_there_is_not_measured_and_never_held() {
        let of = |number: &Number| match number.configuration.as_str() {
            "gotatun" => Err("gotatun is not installed".to_owned()),
            "kernel" => Ok(0.0),
            _ => Ok(1.0),
        };
        let all = judged(of, "");
        for judged in &all {
            let needs = ["gotatun", "kernel"].contains(&judged.rule.by.configuration.as_str());
            assert_eq!(matches!(judged.verdict, Verdict::NotMeasured(_)), needs, "{judged:?}");
            assert_eq!(judged.ratio.is_none(), needs);
        }
    }

    #[test]
    fn what_fails_on_a_disturbed_machine_is_inconclusive() {
        let of = |number: &Number| Ok(if number.configuration == "none-rs-s" { 1.0 } else { 2.0 });
        for (disturbed, verdict) in [
            ("none-rs-s", Verdict::Inconclusive),
            ("none-direct", Verdict::Inconclusive),
            ("kernel", Verdict::Failed),
        ] {
            let all = judged(of, disturbed);
            assert_eq!(find(&all, "none-rs-s.tcp.mbits", "none-direct.tcp.mbits").verdict, verdict);
        }
    }

    #[test]
    fn every_suite_is_judged_through_both_relays() {
        let relayed = all().into_iter().filter(|rule| rule.by.configuration.ends_with("-direct"));
        assert_eq!(relayed.count(), 3 * crate::scenario::model::SUITES.len());
    }
}
