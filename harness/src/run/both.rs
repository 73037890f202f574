//! A scenario in both worlds, and what differs: sequences, routes, verdicts.

use std::fs;
use std::path::Path;

use ntm_protocol::observe::Observation;
use ntm_sim::sequence::{Sequence, normalise};
use serde_json::{Value as Json, json};

use super::{Job, Print, emulation, simulation};
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::plan::Plan;
use crate::{state, stdout};

/// Runs `job` in both worlds, each in a folder of its own below the run's.
pub fn run(job: &Job, current: &mut state::Current) -> Result<Exit, Failure> {
    let of = |engine: Engine| {
        let folder = job.folder.join(engine.word());
        fs::create_dir(&folder).map_err(Failure::during(folder.display()))?;
        let print = if job.print == Print::Json { Print::Nothing } else { job.print };
        let (scenario, plan, binaries) = (job.scenario.clone(), job.plan.clone(), job.binaries.clone());
        Ok::<_, Failure>(Job { scenario, plan, folder, binaries, engine, print, ..*job })
    };
    let (simulated, emulated) = (of(Engine::Simulation)?, of(Engine::Emulation)?);
    // The quick one first.
    let exits = [simulation(&simulated)?, emulation(&emulated, current)?];
    if let Some(exit) = exits.into_iter().find(|exit| !matches!(exit, Exit::Held | Exit::Failed)) {
        return Ok(exit);
    }
    let left = [Outcome::read(&emulated.folder, &job.plan)?, Outcome::read(&simulated.folder, &job.plan)?];
    let differences = left[0].differences(&left[1]);
    let file = job.folder.join("differences.json");
    let text = serde_json::to_string_pretty(&differences).map_err(Failure::during(file.display()))?;
    fs::write(&file, text + "\n").map_err(Failure::during(file.display()))?;
    match job.print {
        Print::Text if differences.is_empty() => stdout::line("emulation and simulation: no difference"),
        Print::Text => {
            differences.iter().for_each(|difference| stdout::line(format_args!("differs: {difference}")))
        }
        Print::Json => {
            let [emulation, simulation] = left.map(|outcome| outcome.report);
            let all = json!({ "emulation": emulation, "simulation": simulation, "differences": differences });
            stdout::json(&all);
        }
        Print::Nothing => {}
    }
    let held = differences.is_empty() && exits == [Exit::Held; 2];
    Ok(if held { Exit::Held } else { Exit::Failed })
}

/// What a run left.
struct Outcome {
    report: Json,
    sequence: Sequence,
}

impl Outcome {
    fn read(folder: &Path, plan: &Plan) -> Result<Self, Failure> {
        let text = |name: &str| {
            let file = folder.join(name);
            fs::read_to_string(&file).map_err(Failure::during(file.display()))
        };
        let report = serde_json::from_str(&text("report.json")?).map_err(Failure::during("report.json"))?;
        Ok(Self { report, sequence: sequence(&text("events.jsonl")?, plan) })
    }

    /// Each difference from the other, in words.
    fn differences(&self, other: &Self) -> Vec<String> {
        let (here, there) = (Engine::Emulation.word(), Engine::Simulation.word());
        let mut out = self.sequence.differences(&other.sequence, here, there);
        let quantities =
            |outcome: &Self| outcome.report["quantities"].as_object().cloned().unwrap_or_default();
        let theirs = quantities(other);
        for (name, value) in quantities(self) {
            let other = theirs.get(&name);
            let is_route = name.starts_with("path.") && name.ends_with(".route");
            if is_route && other != Some(&value) {
                out.push(format!("{name}: {here}: {value}; {there}: {}", other.unwrap_or(&Json::Null)));
            }
        }
        let held = |outcome: &Self, at: usize| outcome.report["expectations"][at]["held"].as_bool();
        for (at, judged) in self.report["expectations"].as_array().into_iter().flatten().enumerate() {
            if held(self, at) != held(other, at) {
                let word = |held: Option<bool>| if held == Some(true) { "held" } else { "failed" };
                let (a, b) = (word(held(self, at)), word(held(other, at)));
                out.push(format!("{}: {here}: {a}; {there}: {b}", judged["check"]));
            }
        }
        out
    }
}

/// The normalised sequence of a run's `events.jsonl`. What the harness itself noted is no part of it.
pub fn sequence(events: &str, plan: &Plan) -> Sequence {
    let observations: Vec<Observation> =
        events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    normalise(&observations, |address| plan.owner(address).map(str::to_owned))
}
