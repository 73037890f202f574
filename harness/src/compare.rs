//! `compare A B`: two runs, or two sets of runs of one scenario, side by side: what changed, whether that is more than chance, and whether
//! it is worse.
//!
//! With several runs on each side a difference counts as real by Welch's t test (unequal variances, two-sided), with Holm's correction over all
//! quantities that were tested, so that looking at many of them does not make chance findings. With one run on a side nothing can be
//! tested, and the bound alone decides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::exit::Failure;
use crate::statistics::Summary;

/// What a comparison is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// A change for the worse of more than this share is a regression.
    pub bound: f64,
    /// A difference is real where chance makes one as large with less than this probability.
    pub alpha: f64,
    /// Only quantities whose names begin with one of these; all where empty.
    pub only: Vec<String>,
}

/// One side: a run, or several of one scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    /// The scenario's name.
    pub scenario: String,
    /// How many runs there are.
    pub runs: usize,
    /// Quantity → what each run measured.
    pub numbers: BTreeMap<String, Vec<f64>>,
    /// Quantity → every value that is no number, as text.
    pub texts: BTreeMap<String, Vec<String>>,
    /// Expectation → in how many runs it held.
    pub held: BTreeMap<String, usize>,
}

impl Side {
    /// The runs in `folder`: itself, if it has a report, else its folders that have one.
    pub fn load(folder: &Path) -> Result<Self, Failure> {
        let reports: Vec<PathBuf> = if folder.join(FILE).is_file() {
            vec![folder.join(FILE)]
        } else {
            let entries = fs::read_dir(folder)
                .map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
            let mut found: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path().join(FILE)))
                .filter(|file| file.is_file())
                .collect();
            found.sort();
            found
        };
        if reports.is_empty() {
            let message = format!("{}: neither a run (with a {FILE}) nor a folder of runs", folder.display());
            return Err(Failure::usage(message));
        }
        let mut out = Self::default();
        for file in reports {
            let text = fs::read_to_string(&file).map_err(Failure::during(file.display()))?;
            let report: Json = serde_json::from_str(&text)
                .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
            out.add(&report).map_err(|why| Failure::usage(format!("{}: {why}", file.display())))?;
        }
        Ok(out)
    }

    fn add(&mut self, report: &Json) -> Result<(), String> {
        let scenario = report["scenario"].as_str().ok_or("it names no scenario")?;
        if self.runs == 0 {
            self.scenario = scenario.to_owned();
        } else if self.scenario != scenario {
            return Err(format!("a run of `{scenario}` among runs of `{}`", self.scenario));
        }
        let mut rounds = 1;
        let samples = report["samples"].as_object().filter(|samples| !samples.is_empty());
        if let Some(samples) = samples {
            // Rounds are runs. What was reckoned from them is no measurement of its own.
            for (name, values) in samples {
                let values: Vec<f64> =
                    values.as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
                rounds = rounds.max(values.len());
                self.numbers.entry(name.clone()).or_default().extend(values);
            }
        }
        self.runs += rounds;
        let measured = report["quantities"].as_object().filter(|_| samples.is_none());
        for (name, value) in measured.into_iter().flatten() {
            match value.as_f64() {
                Some(number) => self.numbers.entry(name.clone()).or_default().push(number),
                None => {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    self.texts.entry(name.clone()).or_default().push(text);
                }
            }
        }
        for judged in report["expectations"].as_array().into_iter().flatten() {
            let check = judged["check"].as_str().unwrap_or_default();
            *self.held.entry(check.to_owned()).or_default() +=
                if judged["held"] == true { rounds } else { 0 };
        }
        Ok(())
    }
}

const FILE: &str = "report.json";

/// Which way a quantity gets worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Worse {
    /// When it grows.
    Higher,
    /// When it shrinks.
    Lower,
    /// It is neither good nor bad.
    Neither,
}

/// Which way the quantity `name` gets worse. What the scenario sets, and what only tells about the machine, does neither.
pub fn worse(name: &str) -> Worse {
    match name.rsplit('.').next().unwrap_or_default() {
        "mbits" | "received" | "out_arrived" | "in_arrived" => Worse::Lower,
        "out_lost" | "in_lost" | "out_interruption_ms" | "in_interruption_ms" => Worse::Higher,
        "out_delay_p50_ms" | "in_delay_p50_ms" | "out_longest_stall_ms" | "in_longest_stall_ms" => {
            Worse::Higher
        }
        "lost" | "longest_stall_ms" | "interruption_ms" | "control_ms" | "resolve_ms" => Worse::Higher,
        "rtt_min_ms" | "rtt_avg_ms" | "rtt_max_ms" | "rtt_p50_ms" | "rtt_p99_ms" | "cpu_s_per_gb" => {
            Worse::Higher
        }
        "time_ms" | "first_byte_ms" => Worse::Higher,
        _ => Worse::Neither,
    }
}

/// A quantity on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The quantity.
    pub name: String,
    /// Mean and standard deviation in A, and how many runs measured it.
    pub a: Summary,
    /// The same in B.
    pub b: Summary,
    /// B's mean less A's, as a share of A's; nothing where A's is zero.
    pub change: Option<f64>,
    /// The probability that chance makes such a difference, corrected; nothing where it cannot be tested.
    pub p: Option<f64>,
    /// Which way it gets worse.
    pub worse: Worse,
    /// Worse by more than the bound, and not by chance as far as that can be told.
    pub regression: bool,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The scenario of both.
    pub scenario: String,
    /// Runs in A and in B.
    pub runs: (usize, usize),
    /// Quantities that both measured.
    pub rows: Vec<Row>,
    /// What is no number and differs: quantity, A's values, B's.
    pub texts: Vec<(String, String, String)>,
    /// Expectations that hold less often in B: expectation, share in A, share in B.
    pub expectations: Vec<(String, f64, f64)>,
    /// Quantities that one side alone measured.
    pub missing: Vec<String>,
    /// The bound.
    pub bound: f64,
    /// The level of the test.
    pub alpha: f64,
}

impl Comparison {
    /// Whether B is worse.
    pub fn regressed(&self) -> bool {
        !self.expectations.is_empty() || self.rows.iter().any(|row| row.regression)
    }
}

/// Compares `b` with `a`. They are of one scenario.
pub fn compare(a: &Side, b: &Side, options: &Options) -> Result<Comparison, Failure> {
    if a.scenario != b.scenario {
        return Err(Failure::usage(format!(
            "A is of the scenario `{}`, B of `{}`: only runs of one scenario can be compared",
            a.scenario, b.scenario
        )));
    }
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|start| name.starts_with(start));
    let names = a.numbers.keys().chain(a.texts.keys()).chain(b.numbers.keys()).chain(b.texts.keys());
    let has = |side: &Side, name: &str| side.numbers.contains_key(name) || side.texts.contains_key(name);
    let mut missing: Vec<String> =
        names.filter(|name| wanted(name) && has(a, name) != has(b, name)).cloned().collect();
    missing.sort();
    missing.dedup();

    let mut rows: Vec<Row> = a
        .numbers
        .iter()
        .filter(|(name, _)| wanted(name))
        .filter_map(|(name, before)| {
            let (left, right) = (Summary::of(before), Summary::of(b.numbers.get(name)?));
            let change = (left.mean != 0.0).then(|| (right.mean - left.mean) / left.mean.abs());
            let p = welch(left, right);
            Some(Row {
                name: name.clone(),
                a: left,
                b: right,
                change,
                p,
                worse: worse(name),
                regression: false,
            })
        })
        .collect();
    // What can neither improve nor regress is shown with its own p: only the others are looked at for a finding.
    let tested = rows.iter_mut().filter(|row| row.worse != Worse::Neither).filter_map(|row| row.p.as_mut());
    holm(tested.collect());
    for row in &mut rows {
        let grown = match row.worse {
            Worse::Higher => row.b.mean - row.a.mean,
            Worse::Lower => row.a.mean - row.b.mean,
            Worse::Neither => 0.0,
        };
        let real = row.p.is_none_or(|p| p < options.alpha);
        row.regression = grown > options.bound * row.a.mean.abs() && grown > 0.0 && real;
    }
    let texts = a.texts.iter().filter(|(name, _)| wanted(name)).filter_map(|(name, before)| {
        let (left, right) = (distinct(before), distinct(b.texts.get(name)?));
        (left != right).then(|| (name.clone(), left, right))
    });
    let expectations = a.held.iter().filter_map(|(check, held)| {
        let (before, after) = (*held as f64 / a.runs as f64, *b.held.get(check)? as f64 / b.runs as f64);
        (after < before).then(|| (check.clone(), before, after))
    });
    Ok(Comparison {
        scenario: a.scenario.clone(),
        runs: (a.runs, b.runs),
        texts: texts.collect(),
        expectations: expectations.collect(),
        rows,
        missing,
        bound: options.bound,
        alpha: options.alpha,
    })
}

fn distinct(values: &[String]) -> String {
    let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
    values.sort_unstable();
    values.dedup();
    values.join(", ")
}

/// Welch's t test: the probability that two samples of one mean differ so much; `None` where a side has fewer than two values.
fn welch(a: Summary, b: Summary) -> Option<f64> {
    if a.n < 2 || b.n < 2 {
        return None;
    }
    let (va, vb) = (a.deviation.powi(2) / a.n as f64, b.deviation.powi(2) / b.n as f64);
    if va + vb == 0.0 {
        // Without any scatter a difference is one, and none is none.
        return Some(if a.mean == b.mean { 1.0 } else { 0.0 });
    }
    let t = (a.mean - b.mean) / (va + vb).sqrt();
    let freedom = (va + vb).powi(2) / (va.powi(2) / (a.n - 1) as f64 + vb.powi(2) / (b.n - 1) as f64);
    let distribution = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(2.0 * (1.0 - distribution.cdf(t.abs())))
}

/// Holm's correction: with m tests, the smallest p counts m times, the next m − 1 times, and none less than one before it.
fn holm(mut tested: Vec<&mut f64>) {
    tested.sort_by(|a, b| a.total_cmp(b));
    let (m, mut least) = (tested.len(), 0.0f64);
    for (rank, p) in tested.into_iter().enumerate() {
        least = least.max((*p * (m - rank) as f64).min(1.0));
        *p = least;
    }
}

/// The comparison for people.
pub fn render(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{}: A has {} runs, B has {}\n",
        comparison.scenario, comparison.runs.0, comparison.runs.1
    );
    let mut table = vec![["quantity", "A", "B", "change", "p", ""].map(str::to_owned)];
    for row in &comparison.rows {
        let verdict = match row {
            Row { regression: true, .. } => "REGRESSION",
            Row { worse: Worse::Neither, .. } => "",
            Row { p: Some(p), .. } if *p < comparison.alpha => "differs",
            _ => "",
        };
        table.push([
            row.name.clone(),
            shown(row.a),
            shown(row.b),
            row.change.map_or_else(|| "–".into(), |change| format!("{:+.1} %", change * 100.0)),
            row.p.map_or_else(|| "–".into(), |p| format!("{p:.3}")),
            verdict.to_owned(),
        ]);
    }
    let widths: Vec<usize> =
        (0..6).map(|n| table.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    for row in &table {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    for (name, a, b) in &comparison.texts {
        let _ = writeln!(out, "{name}: {a} in A, {b} in B");
    }
    for name in &comparison.missing {
        let _ = writeln!(out, "{name}: measured on one side only");
    }
    for (check, a, b) in &comparison.expectations {
        let _ =
            writeln!(out, "REGRESSION  holds in {:.0} % of A, {:.0} % of B: {check}", a * 100.0, b * 100.0);
    }
    let (bound, alpha) = (comparison.bound * 100.0, comparison.alpha);
    let test = if comparison.runs.0 < 2 || comparison.runs.1 < 2 {
        "one run on a side: nothing can be tested, the bound alone decides".to_owned()
    } else {
        format!("p by Welch's t test with Holm's correction, level {alpha}")
    };
    let verdict = if comparison.regressed() { "B is worse" } else { "no regression" };
    let _ = writeln!(out, "\n{verdict} (beyond {bound} %; {test})");
    out
}

fn shown(summary: Summary) -> String {
    let number = |value: f64| {
        if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.3}") }
    };
    match summary.n {
        1 => number(summary.mean),
        n => format!("{} ± {} ({n})", number(summary.mean), number(summary.deviation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OPTIONS: Options = Options { bound: 0.05, alpha: 0.05, only: Vec::new() };

    fn side(runs: &[(f64, f64, bool)]) -> Side {
        let mut out = Side::default();
        for (rate, rtt, held) in runs {
            out.add(&json!({
                "scenario": "s",
                "quantities": { "flow.a.mbits": rate, "flow.b.rtt_avg_ms": rtt, "flow.a.bytes": rate * 10.0, "flow.a.completed": true, "node.mn.address": "10.0.0.2" },
                "expectations": [{ "check": "flow.a.completed", "held": held }],
            }))
            .unwrap();
        }
        out
    }

    fn row<'a>(comparison: &'a Comparison, name: &str) -> &'a Row {
        comparison.rows.iter().find(|row| row.name == name).unwrap()
    }

    /// t = −1.9215 with 7.0868 degrees of freedom; the tails by numerical integration.
    #[test]
    fn the_test_agrees_with_another_implementation() {
        let p =
            welch(Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]), Summary::of(&[3.0, 4.0, 5.0, 6.0, 9.0])).unwrap();
        assert!((p - 0.095_602).abs() < 1e-5, "{p}");
        assert_eq!(welch(Summary::of(&[1.0]), Summary::of(&[2.0, 3.0])), None);
        assert_eq!(welch(Summary::of(&[2.0, 2.0]), Summary::of(&[2.0, 2.0])), Some(1.0));
        assert_eq!(welch(Summary::of(&[2.0, 2.0]), Summary::of(&[3.0, 3.0])), Some(0.0));
    }

    #[test]
    fn many_looks_make_no_finding() {
        let mut values = [0.01, 0.04, 0.03];
        holm(values.iter_mut().collect());
        assert_eq!(values, [0.03, 0.06, 0.06]);
    }

    #[test]
    fn worse_beyond_the_bound_and_beyond_chance_is_a_regression() {
        let a = side(&[(100.0, 10.0, true), (101.0, 10.1, true), (99.0, 9.9, true)]);
        let slower = side(&[(90.0, 10.0, true), (91.0, 10.1, true), (89.0, 9.9, true)]);
        let comparison = compare(&a, &slower, &OPTIONS).unwrap();
        assert!(comparison.regressed() && row(&comparison, "flow.a.mbits").regression);
        assert!(!row(&comparison, "flow.b.rtt_avg_ms").regression);
        assert!(!row(&comparison, "flow.a.bytes").regression, "bytes are neither good nor bad");
        // The other way round it is better.
        assert!(!compare(&slower, &a, &OPTIONS).unwrap().regressed());
        // Within the bound.
        assert!(!compare(&a, &slower, &Options { bound: 0.2, ..OPTIONS }).unwrap().regressed());
        // Scatter as wide as the difference.
        let wild = side(&[(60.0, 10.0, true), (95.0, 10.1, true), (118.0, 9.9, true)]);
        let comparison = compare(&a, &wild, &OPTIONS).unwrap();
        assert!(row(&comparison, "flow.a.mbits").change.unwrap() < -0.05 && !comparison.regressed());
        // With one run on a side the bound alone decides.
        let one = compare(&side(&[(100.0, 10.0, true)]), &side(&[(90.0, 10.0, true)]), &OPTIONS).unwrap();
        assert!(one.regressed() && row(&one, "flow.a.mbits").p.is_none());
    }

    #[test]
    fn an_expectation_that_holds_no_longer_is_a_regression() {
        let comparison = compare(&side(&[(1.0, 1.0, true)]), &side(&[(1.0, 1.0, false)]), &OPTIONS).unwrap();
        assert_eq!(comparison.expectations, [("flow.a.completed".to_owned(), 1.0, 0.0)]);
        assert!(comparison.regressed());
    }

    #[test]
    fn a_comparison_is_shown_as_a_table() {
        let a = side(&[(100.0, 10.0, true), (101.0, 10.1, true), (99.0, 9.9, true)]);
        let mut b = side(&[(90.0, 10.0, true), (91.0, 10.1, false), (89.0, 9.9, true)]);
        b.texts.insert("node.mn.address".into(), vec!["10.0.0.3".into()]);
        b.numbers.insert("flow.c.lost".into(), vec![1.0]);
        insta::assert_snapshot!(render(&compare(&a, &b, &OPTIONS).unwrap()));
    }

    #[test]
    fn different_scenarios_are_refused() {
        let other = Side { scenario: "t".into(), ..side(&[(1.0, 1.0, true)]) };
        let refused = compare(&side(&[(1.0, 1.0, true)]), &other, &OPTIONS).unwrap_err();
        assert!(refused.message.contains("only runs of one scenario"), "{refused}");
    }
}
