//! `harness bench`: what our paths bear beside the kernel without a tunnel and beside other tunnels, in one run, on one topology.
//!
//! [`world`] says what is measured, [`ratios`] what it is judged by, [`show`] how it looks. A round measures every configuration once, each in a
//! world of its own, by the same machinery as rounds of a scenario ([`crate::matrix::cells`]); rounds are interleaved.

pub mod ratios;
pub mod relayed;
pub mod show;
pub mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, thread};

use ntm_protocol::time::Instant;
use serde_json::json;
use toml::Spanned;

use crate::doctor;
use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::foreign::program::Program;
use crate::matrix::cells::{self, Bench, Done, Prepared, Stop};
use crate::matrix::interleaved;
use crate::progress::Progress;
use crate::report::environment;
use crate::run::{Print, fit, folders};
use crate::scenario::matrix::{Cell, Matrix};
use crate::scenario::source::{Source, suggest};
use crate::{clock, scenario, state, stdout};
use ratios::{Judged, Number, Verdict};
use show::{Measured, Outcome};
use world::{Configuration, Extent, Kind, Wires};

/// What `bench` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each configuration is measured.
    pub rounds: Option<u64>,
    /// The length of each transfer, in seconds.
    pub seconds: Option<u64>,
    /// Only these configurations: names, or beginnings of names.
    pub only: Vec<String>,
    /// One short round of what is quick.
    pub quick: bool,
    /// Where the results are put, and below it the run's own folder; the project's `reports/runs` has that unless given.
    pub out: Option<PathBuf>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// How the result is printed.
    pub print: Print,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// Rounds unless told otherwise.
const ROUNDS: u64 = 3;
/// Seconds of a transfer unless told otherwise.
const SECONDS: u64 = 2;
/// Rounds begin with this seed.
const SEED: u64 = 42;

/// The peers that this machine has, and how to get the others; a line each.
pub fn peers() -> String {
    let of = |(_, program): &(&str, Program)| {
        let found = match doctor::is_installed(*program) {
            true => "found".to_owned(),
            false => format!("not found: {}", program.install()),
        };
        format!("  {:<13} {found}\n", program.word())
    };
    let lines: String = Program::WORDS.iter().map(of).collect();
    format!("Other tunnels are measured where they are on the PATH:\n{lines}")
}

/// Prints the configurations, what is measured of each, and the peers.
pub fn list() {
    let names: String = Configuration::all().iter().map(|one| format!("  {}\n", one.name)).collect();
    let measures = world::MEASURES.iter().map(|one| format!("  {:<12} {}\n", one.name, one.about));
    let measures: String = measures.collect();
    stdout::say(format_args!("Configurations:\n{names}\nMeasures:\n{measures}\n{}", peers()));
}

/// Those of `all` that `only` names; all without any. A name that is none is refused with the nearest.
fn chosen(all: Vec<Configuration>, only: &[String]) -> Result<Vec<Configuration>, Failure> {
    let means = |wanted: &str, name: &str| {
        name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for wanted in only {
        if !all.iter().any(|one| means(wanted, &one.name)) {
            let hint = suggest(wanted, all.iter().map(|one| one.name.as_str()));
            return Err(Failure::usage(format!("there is no configuration `{wanted}`: {hint}")));
        }
    }
    let is_wanted = |one: &Configuration| only.is_empty() || only.iter().any(|it| means(it, &one.name));
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// Measures, judges, and writes the results. 0: no ratio failed; those that were not measured are named.
pub fn run(options: &Options, started: Instant) -> Result<Exit, Failure> {
    let all = Configuration::all();
    let wanted = chosen(all.clone(), &options.only)?;
    let is_there = |one: &Configuration| match one.kind {
        Kind::Peer(program) => doctor::is_installed(program),
        Kind::Turn => TURN.iter().all(|program| doctor::find(program).is_some()),
        Kind::Kernel | Kind::Ours { .. } => true,
    };
    let (wanted, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_there);
    if wanted.is_empty() {
        return Err(Failure::unable(format!("nothing of what is wanted is installed. {}", peers())));
    }
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { ROUNDS });
    let seconds = options.seconds.unwrap_or(if options.quick { 1 } else { SECONDS });
    let extent = Extent { seconds, quick: options.quick };
    let mut bench = prepared(&wanted, extent, rounds, options)?;
    let stop = Stop::on_signals()?;
    let _measured = ProgramTimes::measure();
    let runs = options.out.as_ref().map(|out| out.join("runs"));
    let current = state::Current::begin(folders(runs.as_deref(), "bench")?)?;
    current.run().clone_into(&mut bench.folder);
    bench.lay_out()?;
    let machine = thread::spawn(environment::describe);
    let shown = Progress::new(started, options.quiet);
    shown.counted("worlds", bench.cells.len());
    let (mut done, all_cells) = (Done::new(), bench.cells.len());
    bench.run(Engine::Emulation, 1, &stop, &mut done, |finished, id: &str, what: &str| {
        shown.part(finished, &format!("{finished}/{all_cells} {id}: {what}"));
    })?;
    shown.end();
    let outcome = Outcome {
        measured: measured(&bench, &done, extent),
        ratios: judged(&bench, &done, extent, &missing),
        problems: problems(&bench, &done),
        missing: missing.iter().map(|one| one.name.clone()).collect(),
        interrupted: stop.is_set(),
        extent,
        rounds,
        machine: machine.join().unwrap_or_default(),
        seconds: clock::now().since(started).as_secs_f64(),
    };
    let exit = outcome.exit();
    write(&outcome, &bench.folder, "report.json")?;
    if let Some(out) = &options.out {
        fs::create_dir_all(out).map_err(Failure::during(out.display()))?;
        write(&outcome, out, "bench.json")?;
    }
    match options.print {
        Print::Text => {
            let folder = options.out.as_deref().unwrap_or(&bench.folder);
            stdout::say(format_args!("{}\n{}\n", outcome.markdown(), folder.join("bench.html").display()));
        }
        Print::Json => stdout::json(&outcome.json()),
        Print::Nothing => {}
    }
    current.finish()?;
    Ok(exit)
}

/// Writes the results into `folder`.
fn write(outcome: &Outcome, folder: &Path, json: &str) -> Result<(), Failure> {
    let value = outcome.json();
    let text = serde_json::to_string_pretty(&value).map_err(Failure::during(json))? + "\n";
    for (name, text) in [(json, text), ("bench.md", outcome.markdown()), ("bench.html", outcome.page(&value))]
    {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Failure::during(path.display()))?;
    }
    Ok(())
}

/// Every world of every round, and the order in which they are run.
fn prepared(
    wanted: &[Configuration],
    extent: Extent,
    rounds: u64,
    options: &Options,
) -> Result<Bench, Failure> {
    let mut matrix = Matrix::of_rounds(rounds, None);
    matrix.show = ["flow.tcp.mbits"].map(|name| Spanned::new(0..0, name.to_owned())).to_vec();
    let mut cells = Vec::new();
    for configuration in wanted {
        for (wires, end) in Wires::ALL.into_iter().filter(|(wires, _)| configuration.is_of(*wires)) {
            if world::measures(extent, wires).next().is_none() {
                continue;
            }
            let id = format!("{}{end}", configuration.name);
            for round in 1..=rounds {
                let text = world::scenario(configuration, extent, wires, SEED + round - 1);
                let source = Source { name: id.clone(), text };
                let scenario = scenario::check(&source).map_err(Failure::error)?;
                let plan = fit(&source, &scenario, Engines::Emulation)?;
                doctor::require(&scenario, &plan)?;
                let cell = Cell { id: id.clone(), values: Vec::new() };
                cells.push(Prepared { cell, round: Some(round), source, scenario, plan });
            }
        }
    }
    let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
    let order = interleaved(cells.len() / rounds.max(1), rounds);
    let (folder, binaries, compares) = (PathBuf::new(), options.binaries.clone(), false);
    Ok(Bench { matrix, cells, order, folder, binaries, compares })
}

/// What coturn's measurement needs on the PATH.
const TURN: [&str; 3] = ["turnserver", "turnutils_uclient", "turnutils_peer"];
/// Whether the kernel measures how long its programs run.
const PROGRAM_TIMES: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel measures how long its programs run, if it may be told so, until this is dropped.
struct ProgramTimes;

impl ProgramTimes {
    fn measure() -> Option<Self> {
        let is_off = fs::read_to_string(PROGRAM_TIMES).is_ok_and(|value| value.trim() == "0");
        (is_off && fs::write(PROGRAM_TIMES, "1").is_ok()).then_some(Self)
    }
}

impl Drop for ProgramTimes {
    fn drop(&mut self) {
        // Who could write it could not a moment later: then it stays on, which costs little.
        let _ = fs::write(PROGRAM_TIMES, "0");
    }
}

/// Each world that was measured, its configuration, its wires, and what came of it.
fn outcomes<'a>(
    bench: &'a Bench,
    done: &'a Done,
) -> impl Iterator<Item = (&'a str, Wires, &'a Prepared, &'a cells::Outcome)> {
    bench.cells.iter().enumerate().filter_map(move |(at, prepared)| {
        let outcome = done.get(&(at, Engine::Emulation))?;
        let id = prepared.cell.id.as_str();
        let ends = Wires::ALL.into_iter().rev();
        let (name, wires) = ends.filter_map(|(wires, end)| Some((id.strip_suffix(end)?, wires))).next()?;
        Some((name, wires, prepared, outcome))
    })
}

/// What each round measured, by configuration, measure and quantity.
fn measured(bench: &Bench, done: &Done, extent: Extent) -> Measured {
    let mut out = Measured::new();
    let all = Configuration::all();
    for (configuration, wires, _, outcome) in outcomes(bench, done) {
        // What went another way, or broke, says nothing.
        if outcome.exit != Exit::Held as u8 {
            continue;
        }
        let Some(of_all) = all.iter().find(|one| one.name == configuration) else { continue };
        // Where the machine has no program in its kernel, user space switched all the same.
        let switcher = outcome.quantities.get("relay.rs.switcher").and_then(serde_json::Value::as_str);
        if of_all.switcher().is_some_and(|wanted| switcher != Some(wanted)) {
            continue;
        }
        for measure in world::measures(extent, wires) {
            for quantity in measure.quantities {
                let value = match wires {
                    Wires::Relayed => relayed::cost(of_all, &outcome.quantities),
                    _ => {
                        let name = format!("flow.{}.{quantity}", measure.name);
                        outcome.quantities.get(&name).and_then(serde_json::Value::as_f64)
                    }
                };
                if let Some(value) = value {
                    let of = out.entry(configuration.to_owned()).or_default();
                    let of: &mut BTreeMap<_, Vec<f64>> = of.entry(measure.name).or_default();
                    of.entry(quantity).or_default().push(value);
                }
            }
        }
    }
    out
}

fn judged(bench: &Bench, done: &Done, extent: Extent, missing: &[Configuration]) -> Vec<Judged> {
    let measured = measured(bench, done, extent);
    let median = |number: &Number| {
        let values = measured
            .get(&number.configuration)
            .and_then(|of| of.get(number.measure)?.get(number.quantity))
            .filter(|values| !values.is_empty());
        if let Some(values) = values {
            return Ok(show::median(values));
        }
        let name = &number.configuration;
        Err(if missing.iter().any(|one| one.name == *name) {
            format!("{name} is not installed")
        } else if !bench.cells.iter().any(|one| one.cell.id.split('.').next() == Some(name)) {
            format!("{name} was left out")
        } else {
            format!("{} was not measured", number.name())
        })
    };
    let is_disturbed =
        |name: &str| outcomes(bench, done).any(|(its, _, _, outcome)| its == name && outcome.disturbed);
    ratios::judge(ratios::rules(&Configuration::all()), &median, &is_disturbed)
}

/// What came to no measurement, and why, with the exit code of each.
fn problems(bench: &Bench, done: &Done) -> Vec<(u8, String)> {
    let broken = outcomes(bench, done).filter(|(.., outcome)| outcome.exit != Exit::Held as u8);
    let of = |(_, _, prepared, outcome): (_, _, &Prepared, &cells::Outcome)| {
        (outcome.exit, format!("{}: {}: {}", prepared.name(), outcome.verdict, outcome.failed.join("; ")))
    };
    broken.map(of).collect()
}

impl Outcome {
    /// Interrupted; else broken; else a ratio that failed; else one that says nothing.
    pub fn exit(&self) -> Exit {
        let is = |verdict: Verdict| self.ratios.iter().any(|it| it.verdict == verdict);
        let worst = self.problems.iter().map(|(exit, _)| Exit::of(*exit)).next();
        match worst {
            _ if self.interrupted => Exit::Interrupted,
            Some(exit) => exit,
            None if is(Verdict::Failed) => Exit::Failed,
            None if is(Verdict::Inconclusive) => Exit::Inconclusive,
            None => Exit::Held,
        }
    }

    /// The word for it.
    pub fn verdict(&self) -> &'static str {
        match self.exit() {
            Exit::Held => "held",
            Exit::Failed => "failed",
            Exit::Inconclusive => "inconclusive",
            Exit::Interrupted => "interrupted",
            _ => "error",
        }
    }

    /// `report.json`, in a form that `compare` reads.
    pub fn json(&self) -> serde_json::Value {
        let names = |quantity: &dyn Fn(&[f64]) -> serde_json::Value| -> serde_json::Value {
            let mut out = serde_json::Map::new();
            for (configuration, measures) in &self.measured {
                for (measure, quantities) in measures {
                    for (name, values) in quantities {
                        out.insert(format!("{configuration}.{measure}.{name}"), quantity(values));
                    }
                }
            }
            out.into()
        };
        json!({
            "schema": 1,
            "scenario": "bench",
            "engine": "emulation",
            "verdict": self.verdict(),
            "exit": self.exit() as u8,
            "rounds": self.rounds,
            "transfer_s": self.extent.seconds,
            "quick": self.extent.quick,
            "seconds": self.seconds,
            "machine": self.machine,
            "not_installed": self.missing,
            "measures": world::MEASURES.iter().map(|one| (one.name, one.about)).collect::<BTreeMap<_, _>>(),
            "medians": names(&|values| json!(show::median(values))),
            "samples": names(&|values| json!(values)),
            "ratios": self.ratios,
            "problems": self.problems.iter().map(|(_, problem)| problem).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str]) -> Result<Vec<String>, String> {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        let all = chosen(Configuration::all(), &only).map_err(|failure| failure.message)?;
        Ok(all.into_iter().map(|one| one.name).collect())
    }

    #[test]
    fn configurations_are_chosen_by_name_or_its_beginning() {
        assert_eq!(names(&["none-rs-n", "kernel"]).unwrap(), ["kernel", "none-rs-n"]);
        assert_eq!(names(&["none-rs-s"]).unwrap(), ["none-rs-s", "none-rs-s-tcx"]);
        assert_eq!(names(&["none"]).unwrap(), ["none-direct", "none-rs-s", "none-rs-s-tcx", "none-rs-n"]);
        assert_eq!(names(&[]).unwrap().len(), Configuration::all().len());
        let message = names(&["gotaton"]).unwrap_err();
        assert_eq!(message, "there is no configuration `gotaton`: did you mean `gotatun`?");
        assert!(names(&["aes"]).is_ok() && names(&["aes-12"]).is_err(), "whole words");
    }

    fn outcome() -> Outcome {
        Outcome {
            measured: Measured::new(),
            ratios: Vec::new(),
            problems: Vec::new(),
            missing: Vec::new(),
            interrupted: false,
            extent: Extent { seconds: 1, quick: true },
            rounds: 1,
            machine: serde_json::Value::Null,
            seconds: 1.0,
        }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        let judged = |verdict: Verdict| {
            let rule = ratios::rules(&Configuration::all()).remove(0);
            Judged { rule, ratio: None, verdict }
        };
        let with = |verdicts: Vec<Verdict>| Outcome {
            ratios: verdicts.into_iter().map(judged).collect(),
            ..outcome()
        };
        let not_measured = || Verdict::NotMeasured("gotatun is not installed".into());
        assert_eq!(with(vec![Verdict::Held, not_measured()]).exit(), Exit::Held);
        assert_eq!(with(vec![Verdict::Inconclusive, Verdict::Held]).exit(), Exit::Inconclusive);
        let mut failed = with(vec![Verdict::Inconclusive, Verdict::Failed]);
        assert_eq!(failed.exit(), Exit::Failed);
        failed.problems.push((Exit::Error as u8, "broke".into()));
        assert_eq!(failed.exit(), Exit::Error);
        failed.interrupted = true;
        assert_eq!(failed.exit(), Exit::Interrupted);
    }
}
