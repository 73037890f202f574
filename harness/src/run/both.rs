//! A scenario in both worlds, and what differs; and several, one after another.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ntm_protocol::observe::Observation;
use ntm_sim::sequence::{Sequence, normalise};
use serde_json::json;

use super::compare::Outcome;
use super::{Job, Options, Print, emulation, folders, simulation};
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
    let differences = left[0].differences(&left[1], jitter(&job.scenario));
    let file = job.folder.join(DIFFERENCES);
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
    Ok(worst(exits.into_iter().chain((!differences.is_empty()).then_some(Exit::Failed))))
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

/// The greatest jitter of a link, now and later.
fn jitter(scenario: &Scenario) -> Duration {
    scenario.shapes().flat_map(|link| [link.up.jitter, link.down.jitter]).max().unwrap_or_default()
}

fn read(folder: &Path, plan: &Plan) -> Result<Outcome, Failure> {
    let text = |name: &str| {
        let file = folder.join(name);
        fs::read_to_string(&file).map_err(Failure::during(file.display()))
    };
    let report = serde_json::from_str(&text("report.json")?).map_err(Failure::during("report.json"))?;
    Ok(Outcome { report, sequence: sequence(&text("events.jsonl")?, plan) })
}

/// The normalised sequence of a run's `events.jsonl`. What the harness itself noted is no part of it.
pub fn sequence(events: &str, plan: &Plan) -> Sequence {
    let observations: Vec<Observation> =
        events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    normalise(&observations, |address| plan.owner(address).map(str::to_owned))
}

/// What came of a file, or of a cell of it.
enum Came {
    /// It was run.
    Ran(Exit, Option<usize>),
    /// One of the two worlds refuses it, for this reason.
    Skipped(String),
}

/// Runs several files, and of a file that is run in rounds each cell once, and says at the end what came of each. In both worlds, what one of them refuses is skipped: there is
/// nothing to compare. 2 if that is all of them. Each is run by a harness of its own: a world is entered by a process once.
pub fn several(options: &Options, files: &[PathBuf], once: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for file in files {
        let source = find::open(file).map_err(Failure::usage)?;
        all.extend(sources(&source, once, options.engines)?);
    }
    let stop = Stop::on_signals()?;
    let mut came: Vec<(String, Came)> = Vec::new();
    for (name, source) in all {
        let say = |line: &str| {
            if options.print == Print::Text {
                stdout::line(line);
            }
        };
        say(&format!("== {name}"));
        let scenario = scenario::check_cell(&source).map_err(Failure::usage)?;
        let refused = match options.engines {
            Engines::Both => refused(&source, &scenario),
            Engines::Emulation | Engines::Simulation => None,
        };
        if let Some(why) = refused {
            say(&format!("skipped: {why}"));
            came.push((name, Came::Skipped(why)));
            continue;
        }
        let (exit, differences) = by_itself(options, &source, &name, &stop)?;
        came.push((name, Came::Ran(exit, differences)));
        if stop.is_set() || exit == Exit::Interrupted {
            break;
        }
    }
    if options.print == Print::Text {
        stdout::say(summary(&came));
    }
    let ran = came.iter().filter_map(|(_, came)| match came {
        Came::Ran(exit, _) => Some(*exit),
        Came::Skipped(_) => None,
    });
    Ok(if ran.clone().next().is_none() { Exit::Usage } else { worst(ran) })
}

/// Which world refuses a scenario, and why first; nothing where both run it.
fn refused(source: &Source, scenario: &Scenario) -> Option<String> {
    let of = |engine: Engine, checked: Result<(), String>| {
        let why = checked.err()?;
        let first = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Some(format!("not in {}: {first}", engine.word()))
    };
    of(Engine::Simulation, simulation::apps::check(source, scenario))
        .or_else(|| of(Engine::Emulation, scenario::check_emulation(source, scenario)))
        .or_else(|| {
            let plan = address::plan(scenario).ok()?;
            let held = doctor::require_neighbours(&plan, doctor::neighbours_held());
            of(Engine::Emulation, held.map_err(|failure| failure.message))
        })
}

/// Runs `source` by a harness of its own: how it ended, and in both worlds how many differences there are.
fn by_itself(
    options: &Options,
    source: &Source,
    name: &str,
    stop: &Stop,
) -> Result<(Exit, Option<usize>), Failure> {
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
    let told = told.and_then(|text| serde_json::from_str::<Vec<String>>(&text).ok());
    Ok((exit, told.map(|told| told.len())))
}

/// The list of differences in a run's folder.
const DIFFERENCES: &str = "differences.json";

/// What is run of a file, with a name for each: the whole, or each cell of one that is run in rounds.
fn sources(source: &Source, once: bool, engines: Engines) -> Result<Vec<(String, Source)>, Failure> {
    let scenario = scenario::check(source).map_err(Failure::usage)?;
    let whole = || (scenario.name.clone(), Source { name: source.name.clone(), text: source.text.clone() });
    match &scenario.matrix {
        Some(matrix) if matrix.rounds.is_some() && !once => {
            if engines != Engines::Both {
                let message = "is run in rounds: run it by itself, or choose --once";
                return Err(Failure::usage(format!("{} {message}", source.name)));
            }
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

fn summary(came: &[(String, Came)]) -> String {
    let width = came.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, came) in came {
        let told = match came {
            Came::Skipped(why) => format!("skipped: {why}"),
            Came::Ran(exit, None) => exit.word().to_owned(),
            Came::Ran(exit, Some(0)) => format!("{}, no difference", exit.word()),
            Came::Ran(exit, Some(1)) => format!("{}, 1 difference", exit.word()),
            Came::Ran(exit, Some(count)) => format!("{}, {count} differences", exit.word()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<width$}  {told}");
    }
    let differences = came.iter().filter_map(|(_, came)| match came {
        Came::Ran(_, differences) => *differences,
        Came::Skipped(_) => None,
    });
    let compared = differences.clone().count();
    if compared > 0 {
        let differ = differences.filter(|count| *count > 0).count();
        let told = if differ == 0 { "no difference".to_owned() } else { format!("{differ} differ") };
        let skipped = came.iter().filter(|(_, came)| matches!(came, Came::Skipped(_))).count();
        let _ = writeln!(out, "{compared} compared: {told}; {skipped} skipped");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_no_difference_and_errors_come_first() {
        let came = [
            ("a".to_owned(), Came::Ran(Exit::Held, Some(0))),
            ("longer".to_owned(), Came::Skipped("it has `exec`".to_owned())),
            ("b".to_owned(), Came::Ran(Exit::Failed, Some(2))),
        ];
        assert_eq!(
            summary(&came),
            "a       held, no difference\nlonger  skipped: it has `exec`\nb       failed, 2 differences\n2 compared: 1 differ; 1 skipped\n"
        );
        assert!(summary(&came[..2]).ends_with("1 compared: no difference; 1 skipped\n"));
        assert_eq!(summary(&came[1..2]), "longer  skipped: it has `exec`\n", "nothing was compared");
        assert_eq!(worst([Exit::Held, Exit::Inconclusive]), Exit::Inconclusive);
        assert_eq!(worst([Exit::Failed, Exit::Held, Exit::Inconclusive]), Exit::Failed);
        assert_eq!(worst([Exit::Failed, Exit::TimedOut, Exit::Held]), Exit::TimedOut);
        assert_eq!(worst([]), Exit::Held);
    }
}
