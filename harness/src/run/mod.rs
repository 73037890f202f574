//! One run of a scenario, from the file to the verdict.
//!
//! This module is the part outside the world: it checks, makes the run's folder, enters the world ([`crate::world::enter`]) and
//! keeps the state file. Inside, [`session`] does the work and [`result`] turns what was recorded into quantities and a verdict.
//! In the simulation there is no world to enter ([`crate::simulation`]); [`both`] compares the two.

pub mod both;
mod captures;
pub(crate) mod compare;
mod curves;
mod links;
mod load;
mod relays;
pub mod result;
pub mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntm_protocol::time::Instant;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::disturbance::watch;
use crate::doctor;
use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::plan::{Plan, address};
use crate::scenario::model::Scenario;
use crate::scenario::source::Source;
use crate::scenario::{self, find};
use crate::{simulation, state, world};

/// A run may take so much longer than its flows and actions.
const GRACE: Duration = Duration::from_secs(30);

/// What `run` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario: a path, or a name in `scenarios/`.
    pub file: PathBuf,
    /// Where it is run.
    pub engines: Engines,
    /// Where run folders are made; the project's `reports/runs` unless given.
    pub out: Option<PathBuf>,
    /// The run's own folder, in place of one below `out`.
    pub folder: Option<PathBuf>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// Write the keys that nodes share beforehand to the run's `keys.txt`, for the dissector.
    pub key_log: bool,
    /// How the report is printed.
    pub print: Print,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// In words.
    Text,
    /// As JSON.
    Json,
    /// Not at all: somebody reads it from the folder.
    Nothing,
}

/// Everything a run is made of, decided before its world is.
pub struct Job {
    /// The scenario.
    pub scenario: Scenario,
    /// Its world.
    pub plan: Plan,
    /// The run's folder; absolute.
    pub folder: PathBuf,
    /// Where the daemons' binaries are.
    pub binaries: PathBuf,
    /// The world that it is run in.
    pub engine: Engine,
    /// When the harness started.
    pub started: Instant,
    /// As in [`Options`].
    pub key_log: bool,
    /// As in [`Options`].
    pub print: Print,
    /// As in [`Options`].
    pub quiet: bool,
}

/// How long a run may take, from the moment all daemons are ready.
pub fn limit(scenario: &Scenario) -> Duration {
    scenario.timeout.unwrap_or_else(|| scenario.horizon() + GRACE)
}

/// Runs a scenario; the exit code is that of its verdict. `started` is when the harness was.
pub fn run(options: &Options, started: Instant) -> Result<Exit, Failure> {
    let source = find::open(&options.file).map_err(Failure::usage)?;
    let scenario = scenario::check(&source).map_err(Failure::usage)?;
    let plan = fit(&source, &scenario, options.engines)?;
    if options.engines.all().contains(&Engine::Emulation) {
        doctor::require(&scenario, &plan)?;
        world::enter::hold_signals()?;
    }
    let binaries = binaries(options.binaries.as_deref())?;
    let mut current = match &options.folder {
        Some(folder) => state::Current::begin([absolute(folder)?])?,
        None => state::Current::begin(folders(options.out.as_deref(), &scenario.name)?)?,
    };
    let folder = current.run().to_owned();
    let kept =
        fs::write(folder.join("scenario.toml"), &source.text).map_err(Failure::during(folder.display()));
    let (engine, key_log) = (options.engines.all()[0], options.key_log);
    let (print, quiet) = (options.print, options.quiet);
    let job = Job { scenario, plan, folder, binaries, engine, started, key_log, print, quiet };
    let ended = kept.and_then(|()| match options.engines {
        Engines::Emulation => emulation(&job, &mut current),
        Engines::Simulation => simulation(&job),
        Engines::Both => both::run(&job, &mut current),
    });
    if matches!(&ended, Err(failure) if failure.exit == Exit::Unable) || ended == Ok(Exit::Unable) {
        // Nothing was run: there is nothing to keep.
        current.discard()?;
    } else {
        current.finish()?;
    }
    ended
}

/// The plan of a scenario that was read from `source`, if it can be run in `engines`.
pub fn fit(source: &Source, scenario: &Scenario, engines: Engines) -> Result<Plan, Failure> {
    for engine in engines.all() {
        let fits = match engine {
            Engine::Emulation => scenario::check_emulation(source, scenario),
            Engine::Simulation => simulation::apps::check(source, scenario),
        };
        fits.map_err(Failure::usage)?;
    }
    address::plan(scenario).map_err(|message| Failure::usage(format!("{}: {message}", source.name)))
}

/// Runs `job` in a world of namespaces.
fn emulation(job: &Job, current: &mut state::Current) -> Result<Exit, Failure> {
    watch::open_outside();
    world::enter::world(|child| current.world(child.as_raw()), || session::inside(job)).map(Exit::of)
}

/// Runs `job` in the simulator.
fn simulation(job: &Job) -> Result<Exit, Failure> {
    let (record, ending) = simulation::run(&job.scenario, &job.plan)?;
    result::conclude(job, &record, ending, &[])
}

/// `reports/runs/20260131-235959-NAME`, and with a number behind, in case that is taken.
pub fn folders(out: Option<&Path>, name: &str) -> Result<impl Iterator<Item = PathBuf>, Failure> {
    let project = || find::folder().and_then(|scenarios| Some(scenarios.parent()?.to_owned()));
    let base = out.map(Path::to_owned).unwrap_or_else(|| project().unwrap_or_default().join("reports/runs"));
    let base = absolute(&base)?;
    let hint =
        |error| Failure::error(format!("{}: {error}: choose another folder with --out", base.display()));
    fs::create_dir_all(&base).map_err(hint)?;
    let form = format_description!("[year][month][day]-[hour][minute][second]");
    let time =
        OffsetDateTime::now_utc().format(&form).map_err(Failure::during("the time cannot be written"))?;
    let stem = format!("{time}-{name}");
    Ok((0..100).map(move |number| match number {
        0 => base.join(&stem),
        number => base.join(format!("{stem}-{number}")),
    }))
}

/// A folder that a run can use, whether or not it is there.
pub fn absolute(folder: &Path) -> Result<PathBuf, Failure> {
    let folder = std::path::absolute(folder).map_err(Failure::during(folder.display()))?;
    // Where it leads may be behind links.
    let there = folder.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    let real = there.canonicalize().map_err(Failure::during(there.display()))?;
    let folder = real.join(folder.strip_prefix(there).unwrap_or(Path::new("")));
    if folder.starts_with("/run") {
        return Err(Failure::usage(format!(
            "{} is below /run, which a run's world has of its own: choose another folder with --out",
            folder.display()
        )));
    }
    Ok(folder)
}

/// Where the daemons' binaries are: `given`, else beside this program.
pub fn binaries(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let folder = given.unwrap_or(beside);
    folder.canonicalize().map_err(Failure::during(folder.display()))
}
