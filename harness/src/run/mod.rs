//! One run of a scenario, from the file to the verdict.
//!
//! This module is the part outside the world: it checks, makes the run's folder, enters the world ([`crate::world::enter`]) and
//! keeps the state file. Inside, [`session`] does the work and [`result`] turns what was recorded into quantities and a verdict.

mod curves;
pub mod result;
pub mod session;

use std::fs;
use std::path::{Path, PathBuf};

use ntm_protocol::time::Instant;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::doctor;
use crate::exit::{Exit, Failure};
use crate::plan::{Plan, address};
use crate::scenario::model::Scenario;
use crate::scenario::{self, find};
use crate::state;
use crate::world;

/// What `run` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario: a path, or a name in `scenarios/`.
    pub file: PathBuf,
    /// Where run folders are made; the project's `reports/runs` unless given.
    pub out: Option<PathBuf>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// Print the report as JSON.
    pub json: bool,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
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
    /// When the harness started.
    pub started: Instant,
    /// As in [`Options`].
    pub json: bool,
    /// As in [`Options`].
    pub quiet: bool,
}

/// Runs a scenario; the exit code is that of its verdict. `started` is when the harness was.
pub fn run(options: &Options, started: Instant) -> Result<Exit, Failure> {
    let source = find::open(&options.file).map_err(Failure::usage)?;
    let scenario = scenario::check(&source).map_err(Failure::usage)?;
    scenario::check_emulation(&source, &scenario).map_err(Failure::usage)?;
    let plan =
        address::plan(&scenario).map_err(|message| Failure::usage(format!("{}: {message}", source.name)))?;
    doctor::require(&scenario, &plan)?;
    let binaries = binaries(options)?;
    let mut current = state::Current::begin(folders(options, &scenario.name)?)?;
    let folder = current.run().to_owned();
    let kept =
        fs::write(folder.join("scenario.toml"), &source.text).map_err(Failure::during(folder.display()));
    let job = Job { scenario, plan, folder, binaries, started, json: options.json, quiet: options.quiet };
    let code = kept
        .and_then(|()| world::enter::world(|child| current.world(child.as_raw()), || session::inside(&job)));
    if matches!(&code, Err(failure) if failure.exit == Exit::Unable) || code == Ok(Exit::Unable as u8) {
        // Nothing was run: there is nothing to keep.
        current.discard()?;
    } else {
        current.finish()?;
    }
    code.map(exit)
}

fn exit(code: u8) -> Exit {
    let known = [
        Exit::Held,
        Exit::Failed,
        Exit::Usage,
        Exit::Unable,
        Exit::Inconclusive,
        Exit::TimedOut,
        Exit::Interrupted,
    ];
    known.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Error)
}

/// `reports/runs/20260131-235959-NAME`, and with a number behind, in case that is taken.
fn folders(options: &Options, name: &str) -> Result<impl Iterator<Item = PathBuf>, Failure> {
    let project = || find::folder().and_then(|scenarios| Some(scenarios.parent()?.to_owned()));
    let base = options.out.clone().unwrap_or_else(|| project().unwrap_or_default().join("reports/runs"));
    fs::create_dir_all(&base).map_err(Failure::during(base.display()))?;
    let base = base.canonicalize().map_err(Failure::during(base.display()))?;
    if base.starts_with("/run") {
        return Err(Failure::usage(format!(
            "{} is below /run, which a run's world has of its own: choose another folder with --out",
            base.display()
        )));
    }
    let form = format_description!("[year][month][day]-[hour][minute][second]");
    let time =
        OffsetDateTime::now_utc().format(&form).map_err(Failure::during("the time cannot be written"))?;
    let stem = format!("{time}-{name}");
    Ok((0..100).map(move |number| match number {
        0 => base.join(&stem),
        number => base.join(format!("{stem}-{number}")),
    }))
}

fn binaries(options: &Options) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
    let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
    let folder = options.binaries.clone().unwrap_or(beside);
    folder.canonicalize().map_err(Failure::during(folder.display()))
}
