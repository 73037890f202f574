//! What a run leaves in its folder, and what it prints.
//!
//! | file | what |
//! |---|---|
//! | `report.json` | [`Report`]: verdict, expectations, quantities, address transitions, Relay Tables |
//! | `tables.md` | transitions and Relay Tables, to read ([`crate::transitions`], [`relay_table`]) |
//! | `events.jsonl` | every observation of every node and of the harness, sorted by time |
//! | `env.json` | the machine, kernel and programs ([`environment`]) |
//! | `status.json` | each daemon's answer to `status` at the end |
//! | `logs/`, `config/`, `flows/`, `pcap/` | logs, configurations, programs' output, captures (pcapng) |

pub mod environment;
pub mod events;
pub mod relay_table;
pub mod text;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use crate::flow::Quantities;
use crate::judge::verdict::Judged;
use crate::transitions::Transition;
use relay_table::RelayTables;

/// A run's result, as `report.json` has it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this format.
    pub schema: u32,
    /// The scenario's name.
    pub scenario: String,
    /// Its sentence.
    pub about: String,
    /// Its seed.
    pub seed: u64,
    /// `held`, `failed`, `error`, `timed out`, `interrupted`.
    pub verdict: &'static str,
    /// The exit code.
    pub exit: u8,
    /// Why there is no verdict on the scenario, where there is none; daemons that did not end cleanly.
    pub problems: Vec<String>,
    /// What a reader should know, without effect on the verdict.
    pub notes: Vec<String>,
    /// Each expectation.
    pub expectations: Vec<Judged>,
    /// What was measured.
    pub quantities: BTreeMap<String, Json>,
    /// What could not be measured, and why.
    pub unmeasured: BTreeMap<String, String>,
    /// What stood in the headers of packets at every hop, for every way that a path took (Figs. 4.2 and 4.4).
    pub transitions: Vec<Transition>,
    /// The Relay Table of every relay at the end (TA-c).
    pub relay_table: RelayTables,
    /// When time began, in nanoseconds of the trace's clock.
    pub start: u64,
    /// Seconds from the harness's start to the report.
    pub seconds: f64,
    /// Where everything is.
    pub folder: String,
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
