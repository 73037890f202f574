//! How a benchmark's results look: a table in Markdown, and one page with plots. PURE.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value as Json;

use super::ratios::{Bound, Judged, Verdict};
use super::world::{Configuration, Extent};
use crate::report::page;
use crate::statistics::percentile;

/// Configuration → measure → quantity → what each round measured.
pub type Measured = BTreeMap<String, BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>>;

/// What came of a benchmark.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// All numbers.
    pub measured: Measured,
    /// Those that are judged.
    pub ratios: Vec<Judged>,
    /// What came to no measurement: exit code and reason.
    pub problems: Vec<(u8, String)>,
    /// Peers that are not installed.
    pub missing: Vec<String>,
    /// Whether it was ended before its end.
    pub interrupted: bool,
    /// How much was measured.
    pub extent: Extent,
    /// How often.
    pub rounds: u64,
    /// The machine.
    pub machine: Json,
    /// How long all took.
    pub seconds: f64,
}

/// The middle of at least one value.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

const TEMPLATE: &str = include_str!("bench.html");

/// A column: its heading, measure and quantity, by what it is multiplied, and the digits behind the point.
type Column = (&'static str, &'static str, &'static str, f64, usize);

const COLUMNS: &[Column] = &[
    ("TCP, Mbit/s", "tcp", "mbits", 1.0, 0),
    ("CPU s per GB", "tcp", "cpu_s_per_gb", 1.0, 2),
    ("4 streams", "tcp_4", "mbits", 1.0, 0),
    ("reverse", "tcp_reverse", "mbits", 1.0, 0),
    ("without offload", "tcp_bare", "mbits", 1.0, 0),
    ("UDP 1372 B", "udp_1372", "mbits", 1.0, 0),
    ("UDP 64 B", "udp_64", "mbits", 1.0, 1),
    ("ping-pong p50, µs", "ping_pong", "rtt_p50_ms", 1e3, 0),
    ("p99, µs", "ping_pong", "rtt_p99_ms", 1e3, 0),
    ("relay, µs per packet", "relayed", super::relayed::COST, 1.0, 2),
];

impl Outcome {
    fn values(&self, configuration: &str, measure: &str, quantity: &str) -> Option<&[f64]> {
        let values = self.measured.get(configuration)?.get(measure)?.get(quantity)?;
        (!values.is_empty()).then_some(values)
    }

    /// Median, and in several rounds the least and the greatest.
    fn cell(&self, configuration: &str, (_, measure, quantity, times, digits): &Column) -> String {
        let Some(values) = self.values(configuration, measure, quantity) else { return String::new() };
        let shown = |part| format!("{:.digits$}", percentile(values, part) * times);
        match values.len() {
            1 => shown(0.5),
            _ => format!("{} ({}–{})", shown(0.5), shown(0.0), shown(1.0)),
        }
    }

    /// The tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "# Benchmark: {}\n\nMedians (least–greatest) of {} interleaved round{}; transfers of {} s; the rates are what the receiver got, in Mbit/s.\n\n",
            self.verdict(),
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            self.extent.seconds
        );
        let is_there = |column: &&Column| {
            self.measured.keys().any(|name| self.values(name, column.1, column.2).is_some())
        };
        let columns: Vec<&Column> = COLUMNS.iter().filter(is_there).collect();
        let headings: String = columns.iter().map(|column| format!(" {} |", column.0)).collect();
        let _ = writeln!(out, "| |{headings}\n|---|{}", "---:|".repeat(columns.len()));
        for configuration in Configuration::all() {
            let name = &configuration.name;
            if self.measured.contains_key(name) {
                let cells: String =
                    columns.iter().map(|column| format!(" {} |", self.cell(name, column))).collect();
                let _ = writeln!(out, "| {name} |{cells}");
            }
        }
        out += "\n| ratio of medians | is | must be | |\n|---|---:|---:|---|\n";
        for judged in &self.ratios {
            let (of, by) = (&judged.rule.of, &judged.rule.by);
            let (bound, word) = match judged.rule.bound {
                Bound::AtLeast(bound) => (bound, "≥"),
                Bound::AtMost(bound) => (bound, "≤"),
            };
            let verdict = match &judged.verdict {
                Verdict::Held => "held".to_owned(),
                Verdict::Failed => "**failed**".to_owned(),
                Verdict::Inconclusive => "inconclusive: the machine was disturbed".to_owned(),
                Verdict::NotMeasured(why) => format!("not measured: {why}"),
            };
            let ratio = judged.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let what = (of.measure, of.configuration.as_str(), by.configuration.as_str());
            let _ = writeln!(
                out,
                "| {}: {} / {} | {ratio} | {word} {bound} | {verdict} |",
                what.0, what.1, what.2
            );
        }
        if !self.missing.is_empty() {
            let _ = writeln!(out, "\nNot installed, and so not measured: {}.", self.missing.join(", "));
        }
        for (_, problem) in &self.problems {
            let _ = writeln!(out, "\nProblem: {problem}");
        }
        let of = |key: &str| self.machine[key].as_str().unwrap_or("?").to_owned();
        let number = |key: &str| self.machine[key].as_u64().unwrap_or(0);
        let _ = writeln!(
            out,
            "\nMachine: {}, {} processors, {} MB; Linux {}, {}.",
            of("processor"),
            number("processors"),
            number("memory_mb"),
            of("kernel"),
            of("system")
        );
        out
    }

    /// One page with the tables and a plot of each measure, which needs nothing else.
    pub fn page(&self, json: &Json) -> String {
        let mut data = json.clone();
        data["order"] = Configuration::all().into_iter().map(|one| one.name).collect::<Vec<_>>().into();
        page::fill(TEMPLATE, "Benchmark", &data)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ratios;
    use super::*;

    fn outcome() -> Outcome {
        let of = |values: &[f64]| BTreeMap::from([("tcp", BTreeMap::from([("mbits", values.to_vec())]))]);
        let measured = Measured::from([
            ("kernel".to_owned(), of(&[9.0, 12.0, 10.0])),
            ("none-direct".to_owned(), of(&[5.0])),
        ]);
        let median = |number: &ratios::Number| match number.configuration.as_str() {
            "none-direct" => Ok(5.0),
            "kernel" => Ok(10.0),
            other => Err(format!("{other} is not installed")),
        };
        let ratios = ratios::judge(ratios::rules(&Configuration::all()), &median, &|_| false);
        let extent = Extent { seconds: 2, quick: false };
        let (problems, missing) = (Vec::new(), vec!["gotatun".to_owned()]);
        let machine = serde_json::json!({ "processor": "P", "processors": 2, "memory_mb": 1, "kernel": "6", "system": "D" });
        Outcome {
            measured,
            ratios,
            problems,
            missing,
            interrupted: false,
            extent,
            rounds: 3,
            machine,
            seconds: 1.0,
        }
    }

    #[test]
    fn the_table_has_medians_with_their_spread_and_says_what_is_missing() {
        let text = outcome().markdown();
        assert!(text.contains("| kernel | 10 (9–12) |") && text.contains("| none-direct | 5 |"), "{text}");
        assert!(text.contains("| tcp: none-direct / kernel | 0.50 | ≥ 0.42 | held |"), "{text}");
        let absent = "| tcp: none-direct / gotatun |  | ≥ 9 | not measured: gotatun is not installed |";
        assert!(text.contains(absent), "{text}");
        assert!(text.contains("Not installed, and so not measured: gotatun."), "{text}");
        assert!(!text.contains("UDP"), "a column without numbers");
    }

    #[test]
    fn the_page_holds_its_data_and_needs_nothing_else() {
        let outcome = outcome();
        let page = outcome.page(&outcome.json());
        assert!(page.contains("\"none-direct.tcp.mbits\":[5.0]") && page.contains("uPlot"));
        assert!(!page.contains("{{") && !page.contains("src=\"http"), "all of it is in the file");
    }
}
