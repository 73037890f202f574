//! A scenario in both worlds, and what differs; and several, one after another.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ntm_protocol::observe::Observation;
use ntm_sim::sequence::{Sequence, normalise};
use serde_json::{Value as Json, json};

use super::compare::{Comparison, Outcome, Slowest};
use super::{Job, Options, Print, emulation, folders, simulation};
use crate::disturbance::again::undisturbed;
use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::matrix::cells::Stop;
use crate::plan::{Plan, address};
use crate::scenario::model::Scenario;
use crate::scenario::source::Source;
use crate::scenario::{self, find};
use crate::{doctor, state, stdout};

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
    let is_judged = |exit: &Exit| matches!(exit, Exit::Held | Exit::Failed | Exit::Inconclusive);
    if let Some(exit) = exits.into_iter().find(|exit| !is_judged(exit)) {
        return Ok(exit);
    }
    let left = [read(&emulated.folder, &job.plan)?, read(&simulated.folder, &job.plan)?];
    let comparison = left[0].compare(&left[1], Slowest::of(&job.scenario));
    let file = job.folder.join(DIFFERENCES);
    let text = serde_json::to_string_pretty(&comparison).map_err(Failure::during(file.display()))?;
    fs::write(&file, text + "\n").map_err(Failure::during(file.display()))?;
    match job.print {
        Print::Text => stdout::say(comparison.text()),
        Print::Json => {
            let [emulation, simulation] = left.map(|outcome| outcome.report);
            let mut all = json!(&comparison);
            all["emulation"] = emulation;
            all["simulation"] = simulation;
            stdout::json(&all);
        }
        Print::Nothing => {}
    }
    Ok(worst(exits.into_iter().chain(comparison.exit())))
}

/// Compares what two runs of a grid's cell came to, by their folders, the emulated and the simulated one: all but the messages. Nothing in a grid keeps two ends apart whose requests open
/// their NATs, and then it is the moment that decides which of them are let in.
pub(crate) fn compare(folders: [&Path; 2], scenario: &Scenario) -> Result<Comparison, Failure> {
    let of = |folder| Ok::<_, Failure>(Outcome { report: report(folder)?, sequence: Sequence::default() });
    let [emulated, simulated] = folders.map(of);
    Ok(emulated?.compare(&simulated?, Slowest::of(scenario)))
}

/// How several runs ended together: an error before a failure before what came to no verdict.
fn worst(exits: impl IntoIterator<Item = Exit>) -> Exit {
    let rank = |exit: &Exit| match exit {
        Exit::Held => 0,
        Exit::Inconclusive => 1,
        Exit::Failed => 2,
        _ => 3,
    };
    exits.into_iter().fold(Exit::Held, |worst, exit| if rank(&exit) > rank(&worst) { exit } else { worst })
}

fn read(folder: &Path, plan: &Plan) -> Result<Outcome, Failure> {
    let events = text(&folder.join("events.jsonl"))?;
    Ok(Outcome { report: report(folder)?, sequence: sequence(&events, plan) })
}

/// A run's `report.json`.
fn report(folder: &Path) -> Result<Json, Failure> {
    let file = folder.join("report.json");
    serde_json::from_str(&text(&file)?).map_err(Failure::during(file.display()))
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(Failure::during(file.display()))
}

/// The normalised sequence of a run's `events.jsonl`. What the harness itself noted is no part of it.
pub fn sequence(events: &str, plan: &Plan) -> Sequence {
    let observations: Vec<Observation> =
        events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    normalise(&observations, |address| plan.owner(address).map(str::to_owned))
}

/// What came of a file, or of a cell of it.
enum Came {
    /// It was run; in both worlds, what differs, if both came to an end.
    Ran(Exit, Option<Comparison>),
    /// A world refuses it, for this reason.
    Skipped(String),
    /// All was over before.
    NotRun,
}

/// Runs several files, and of a file that is run in rounds each cell once, and says at the end what came of each. What a world refuses is skipped, and 2 if that is all of them.
/// In both worlds, what came to no verdict because the machine disturbed it is run again, at most twice. Each is run by a harness of its own: a world is entered by a process once.
pub fn several(options: &Options, files: &[PathBuf], once: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for file in files {
        let source = find::open(file).map_err(Failure::usage)?;
        all.extend(sources(&source, once)?);
    }
    let stop = Stop::on_signals()?;
    let mut came: Vec<(String, Came)> = Vec::new();
    for (name, source) in all {
        if stop.is_set() {
            came.push((name, Came::NotRun));
            continue;
        }
        let say = |line: &str| {
            if options.print == Print::Text {
                stdout::line(line);
            }
        };
        say(&format!("== {name}"));
        let scenario = scenario::check_cell(&source).map_err(Failure::usage)?;
        if let Some(why) = refused(options.engines, &source, &scenario) {
            say(&format!("skipped: {why}"));
            came.push((name, Came::Skipped(why)));
            continue;
        }
        let in_both = options.engines == Engines::Both;
        let is_disturbed = |ran: &(Exit, _)| in_both && ran.0 == Exit::Inconclusive;
        let mut run = || by_itself(options, &source, &name, &stop);
        let (exit, comparison) = undisturbed(&mut run, is_disturbed, || stop.is_set())?;
        came.push((name, Came::Ran(exit, comparison)));
        if exit == Exit::Interrupted {
            stop.set();
        }
    }
    if options.print == Print::Text {
        stdout::say(summary(&came));
    }
    let ran = came.iter().filter_map(|(_, came)| match came {
        Came::Ran(exit, _) => Some(*exit),
        Came::Skipped(_) => None,
        Came::NotRun => Some(Exit::Interrupted),
    });
    Ok(if ran.clone().next().is_none() { Exit::Usage } else { worst(ran) })
}

/// Which of the worlds that are asked for refuses a scenario, and why first; nothing where all run it. What this machine cannot hold is a matter of the comparison alone: without it, the
/// run itself says so.
fn refused(engines: Engines, source: &Source, scenario: &Scenario) -> Option<String> {
    let of = |engine: Engine, checked: Result<(), String>| {
        let why = checked.err()?;
        let first = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Some(format!("not in {}: {first}", engine.word()))
    };
    let by = |engine: &Engine| match engine {
        Engine::Simulation => of(*engine, simulation::apps::check(source, scenario)),
        Engine::Emulation => of(*engine, scenario::check_emulation(source, scenario)),
    };
    engines.all().iter().rev().find_map(by).or_else(|| {
        let plan = address::plan(scenario).ok().filter(|_| engines == Engines::Both)?;
        let held = doctor::require_neighbours(&plan, doctor::neighbours_held());
        of(Engine::Emulation, held.map_err(|failure| failure.message))
    })
}

/// Runs `source` by a harness of its own: how it ended, and in both worlds what differs.
fn by_itself(
    options: &Options,
    source: &Source,
    name: &str,
    stop: &Stop,
) -> Result<(Exit, Option<Comparison>), Failure> {
    let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
    let free = folders(options.out.as_deref(), name)?.find(|folder| !folder.exists());
    let folder = free.ok_or_else(|| Failure::error(format!("no folder is left for `{name}`")))?;
    // What is run may be a cell, which is no file.
    let file = folder.with_extension("toml");
    fs::write(&file, &source.text).map_err(Failure::during(file.display()))?;
    let mut command = Command::new(own);
    command
        .arg("run")
        .arg(&file)
        .args(["--once", "--engine", options.engines.word(), "--folder"])
        .arg(&folder);
    if options.print == Print::Json {
        command.args(["--format", "json"]);
    }
    if options.quiet {
        command.arg("--quiet");
    }
    if let Some(binaries) = &options.binaries {
        command.arg("--bin").arg(binaries);
    }
    let ended = match stop.spawn(command.stdin(Stdio::null()))? {
        Some(mut child) => {
            let ended = child.wait();
            stop.ended(child.id());
            ended.map_err(Failure::during("waiting for a run"))?.code()
        }
        None => None,
    };
    fs::remove_file(&file).map_err(Failure::during(file.display()))?;
    let exit = match ended.and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Exit::of(code),
        None if stop.is_set() => Exit::Interrupted,
        None => Exit::Error,
    };
    let told = fs::read_to_string(folder.join(DIFFERENCES)).ok();
    Ok((exit, told.and_then(|text| serde_json::from_str(&text).ok())))
}

/// What was compared and what differs, in a run's folder.
const DIFFERENCES: &str = "differences.json";

/// What is run of a file, with a name for each: the whole, or each cell of one that is run in rounds.
fn sources(source: &Source, once: bool) -> Result<Vec<(String, Source)>, Failure> {
    let scenario = scenario::check(source).map_err(Failure::usage)?;
    let whole = || (scenario.name.clone(), Source { name: source.name.clone(), text: source.text.clone() });
    match &scenario.matrix {
        Some(matrix) if matrix.rounds.is_some() && !once => {
            let cells = matrix.cells();
            let name = |id: &str| match cells.len() {
                1 => scenario.name.clone(),
                _ => format!("{}-{id}", scenario.name),
            };
            Ok(cells.iter().map(|cell| (name(&cell.id), matrix.source(source, cell, None))).collect())
        }
        _ => Ok(vec![whole()]),
    }
}

/// A line for each, and how many of each kind there are.
fn summary(came: &[(String, Came)]) -> String {
    let width = came.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, came) in came {
        let told = match came {
            Came::Skipped(why) => format!("skipped: {why}"),
            Came::NotRun => "not run".to_owned(),
            Came::Ran(exit, None) => exit.word().to_owned(),
            Came::Ran(exit, Some(comparison)) => format!("{}, {}", exit.word(), comparison.counted()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<width$}  {told}");
    }
    let count = |is: fn(&Came) -> bool| came.iter().filter(|(_, came)| is(came)).count();
    let differ = count(|came| matches!(came, Came::Ran(_, Some(found)) if !found.differences.is_empty()));
    let counts = [
        (
            count(
                |came| matches!(came, Came::Ran(Exit::Failed, Some(found)) if found.differences.is_empty()),
            ),
            "failed what is expected",
        ),
        (
            count(|came| matches!(came, Came::Ran(Exit::Inconclusive, _))),
            "inconclusive, for the machine disturbed it",
        ),
        (count(|came| matches!(came, Came::Skipped(_))), "skipped"),
        (count(|came| matches!(came, Came::Ran(_, None))), "came to no comparison"),
        (count(|came| matches!(came, Came::NotRun)), "not run"),
    ];
    let compared = count(|came| matches!(came, Came::Ran(_, Some(_))));
    // In one world there is nothing to compare.
    if compared > 0 {
        let told = if differ == 0 { "no difference".to_owned() } else { format!("{differ} differ") };
        let others = counts.iter().filter(|(count, _)| *count > 0);
        let others: String = others.map(|(count, what)| format!("; {count} {what}")).collect();
        let _ = writeln!(out, "{compared} compared: {told}{others}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_no_difference_and_errors_come_first() {
        let ran = |exit: Exit, differences: &[&str], left_out: &[&str]| {
            let [differences, left_out] =
                [differences, left_out].map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            Came::Ran(exit, Some(Comparison { differences, left_out, ..Comparison::default() }))
        };
        let came = [
            ("a".to_owned(), ran(Exit::Held, &[], &["only in emulation: x"])),
            ("longer".to_owned(), Came::Skipped("it has `exec`".to_owned())),
            ("b".to_owned(), ran(Exit::Failed, &["y", "z"], &[])),
            ("c".to_owned(), Came::Ran(Exit::TimedOut, None)),
            ("d".to_owned(), Came::NotRun),
            ("e".to_owned(), ran(Exit::Inconclusive, &[], &[])),
            ("f".to_owned(), ran(Exit::Failed, &[], &[])),
        ];
        insta::assert_snapshot!(summary(&came));
        assert!(summary(&came[..2]).ends_with("1 compared: no difference; 1 skipped\n"));
        assert_eq!(summary(&came[1..2]), "longer  skipped: it has `exec`\n", "nothing was compared");
        assert_eq!(worst([Exit::Held, Exit::Inconclusive]), Exit::Inconclusive);
        assert_eq!(worst([Exit::Failed, Exit::Held, Exit::Inconclusive]), Exit::Failed);
        assert_eq!(worst([Exit::Failed, Exit::TimedOut, Exit::Held]), Exit::TimedOut);
        assert_eq!(worst([]), Exit::Held);
    }
}
