//! What a run leaves in its folder, and what it prints.
//!
//! | file | what |
//! |---|---|
//! | `tables.md` | transitions and Relay Tables, to read ([`crate::transitions`], [`relay_table`]) |
//! | `report.json` | [`Report`], after `docs/report.schema.json` ([`schema`]): verdict, expectations, quantities, world, handovers, address transitions, Relay Tables |
//! | `report.html` | everything, on one page ([`page`]) |
//! | `junit.xml`, `summary.md` | the verdict for CI systems ([`junit`], [`summary`]) |
//! | `series.json` | curves over time ([`Series`](series::Series)) |
//! | `events.jsonl` | every observation of every node and of the harness, sorted by time |
//! | `env.json` | the machine, kernel and programs ([`environment`]) |
//! | `status.json` | each daemon's answer to `status` at the end |
//! | `run.pcapng` | all captures in one ([`crate::capture::merge`]) |
//! | `logs/`, `config/`, `flows/`, `rulesets/` | logs, configurations, programs' output, nftables' rules |

pub mod breakdown;
pub mod clauses;
pub mod environment;
pub mod events;
pub mod junit;
pub mod ladder;
pub mod page;
pub mod relay_table;
pub mod schema;
pub mod series;
pub mod summary;
pub mod tables;
pub mod text;
pub mod topology;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::disturbance::Disturbance;
use crate::engine::Engine;
use crate::first_packet::FirstPacket;
use crate::flow::Quantities;
use crate::judge::verdict::Judged;
use crate::transitions::Transition;
use breakdown::Breakdown;
use relay_table::RelayTables;
use topology::Topology;

/// A run's result, as `report.json` has it.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this format.
    pub schema: u32,
    /// The world that it was run in.
    pub engine: Engine,
    /// The scenario's name.
    pub scenario: String,
    /// Its sentence.
    pub about: String,
    /// Its seed.
    pub seed: u64,
    /// `held`, `failed`, `inconclusive`, `error`, `timed out`, `interrupted`.
    pub verdict: &'static str,
    /// The exit code.
    pub exit: u8,
    /// Why there is no verdict on the scenario, where there is none; daemons that did not end cleanly.
    pub problems: Vec<String>,
    /// What a reader should know, without effect on the verdict.
    pub notes: Vec<String>,
    /// Each expectation.
    pub expectations: Vec<Judged>,
    /// When the machine disturbed the run, and by what.
    #[serde(default)]
    pub disturbances: Vec<Disturbance>,
    /// What was measured.
    pub quantities: BTreeMap<String, Json>,
    /// Of a scenario that was run in rounds: quantity → what each round measured, in their order. Empty for a single run.
    #[serde(default)]
    pub samples: BTreeMap<String, Vec<f64>>,
    /// What could not be measured, and why.
    pub unmeasured: BTreeMap<String, String>,
    /// What each flow's first packet by name waited for.
    #[serde(default)]
    pub first_packets: BTreeMap<String, FirstPacket>,
    /// What stood in the headers of packets at every hop, for every way that a path took (Figs. 4.2 and 4.4).
    pub transitions: Vec<Transition>,
    /// The Relay Table of every relay at the end (TA-c).
    pub relay_table: RelayTables,
    /// The world that the run was made in.
    pub topology: Topology,
    /// Each handover, stage by stage.
    pub handovers: Vec<Breakdown>,
    /// Results as tables, such as a comparison with the thesis's figures.
    pub tables: Vec<Table>,
    /// When time began, in nanoseconds of the trace's clock.
    pub start: u64,
    /// When all flows and actions had come to their ends, in nanoseconds of the trace's clock; 0 over rounds.
    #[serde(default)]
    pub end: u64,
    /// Seconds from the harness's start to the report.
    pub seconds: f64,
    /// Where everything is.
    pub folder: String,
}

/// A table of results.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The columns' headings.
    pub columns: Vec<String>,
    /// The rows; each as long as `columns`, of texts, numbers, truths, or null for an empty cell.
    pub rows: Vec<Vec<Json>>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

/// Splits quantities into what was measured and what was not.
pub fn split(quantities: &Quantities) -> (BTreeMap<String, Json>, BTreeMap<String, String>) {
    let mut out = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in quantities {
        match value {
            Ok(value) => {
                out.0.insert(name.clone(), serde_json::to_value(value).unwrap_or(Json::Null));
            }
            Err(why) => {
                out.1.insert(name.clone(), why.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A run of which one expectation failed, with something of everything.
    pub(super) fn report() -> Report {
        let judged = |held: bool, check: &str, found: &str| Judged {
            check: check.into(),
            held,
            fail: "the general node did not answer every ping".into(),
            found: vec![found.into()],
            disturbed: Vec::new(),
        };
        Report {
            schema: 1,
            scenario: "ping".into(),
            about: "MN pings a general node".into(),
            seed: 7,
            verdict: "failed",
            exit: 1,
            notes: vec!["the capture at eth0 of `gn` lost 3 packets".into()],
            expectations: vec![
                judged(true, "flow.name.virtual", "flow.name.virtual = true"),
                judged(false, "flow.name.lost == 0 and flow.name.rtt_avg_ms < 20", "flow.name.lost = 2"),
            ],
            quantities: [("flow.name.lost", json!(2.0)), ("flow.name.rtt_avg_ms", json!(4.273_19))]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            tables: vec![Table {
                title: "Table 6.1".into(),
                columns: vec!["pair".into(), "thesis, ms".into(), "here, ms".into()],
                rows: vec![
                    vec![json!("MN–RS"), json!(7.8), json!(7.6)],
                    vec![json!("CN–RS"), json!(6.7), Json::Null],
                ],
                notes: vec!["100 pings of 64 bytes".into()],
            }],
            seconds: 9.5,
            folder: "runs/ping".into(),
            ..Report::default()
        }
    }
}
