//! `harness matrix`: a scenario once for each cell of its `[matrix]`, in one world or both, and the grid of what came of it.
//!
//! [`cells`] runs them: in the simulator in threads of this process, in emulation each in a harness of its own. [`grid`] shows them.

pub mod cells;
pub mod grid;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use ntm_protocol::time::Instant;

use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::run::{Print, fit, folders};
use crate::scenario::{self, find};
use crate::{clock, doctor, state};
use cells::{Bench, Done, Stop};
use grid::Grid;

/// What `matrix` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario: a path, or a name in `scenarios/`.
    pub file: PathBuf,
    /// Where its cells are run.
    pub engines: Engines,
    /// How many cells at once; what suits the machine unless given.
    pub jobs: Option<usize>,
    /// Where the folder is made; the project's `reports/runs` unless given.
    pub out: Option<PathBuf>,
    /// The folder of an interrupted matrix to go on with.
    pub resume: Option<PathBuf>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// How the grid is printed.
    pub print: Print,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// Cells in emulation mostly wait: so many for each processor keep it busy without being late.
const CELLS_PER_PROCESSOR: usize = 4;

/// Runs all cells; 0 if every expectation held in every cell and the worlds agree, 1 if not. `started` is when the harness was.
pub fn run(options: &Options, started: Instant) -> Result<Exit, Failure> {
    let source = find::open(&options.file).map_err(Failure::usage)?;
    let scenario = scenario::check(&source).map_err(Failure::usage)?;
    let Some(matrix) = scenario.matrix.clone() else {
        return Err(Failure::usage(format!(
            "{} has no [matrix]: write one, or run it with `run`",
            source.name
        )));
    };
    let mut bench =
        Bench { matrix, cells: Vec::new(), folder: PathBuf::new(), binaries: options.binaries.clone() };
    for cell in bench.matrix.cells() {
        let source = bench.matrix.source(&source, &cell);
        let scenario = scenario::check_cell(&source).map_err(Failure::usage)?;
        let plan = fit(&source, &scenario, options.engines)?;
        bench.cells.push(cells::Prepared { cell, source, scenario, plan });
    }
    let engines = options.engines.all();
    if let (true, Some(first)) = (engines.contains(&Engine::Emulation), bench.cells.first()) {
        doctor::require(&first.scenario, &first.plan)?;
    }
    let stop = Stop::on_signals()?;
    let current = match &options.resume {
        Some(folder) => {
            resumable(folder, &source.text)?;
            bench.folder.clone_from(folder);
            None
        }
        None => {
            let name = format!("{}-matrix", scenario.name);
            let current = state::Current::begin(folders(options.out.as_deref(), &name)?)?;
            bench.folder = current.run().to_owned();
            let file = bench.folder.join(KEPT);
            fs::write(&file, &source.text).map_err(Failure::during(file.display()))?;
            Some(current)
        }
    };
    bench.lay_out()?;
    let processors = thread::available_parallelism().map_or(2, usize::from);
    let mut done = Done::default();
    for engine in engines {
        let jobs = options.jobs.unwrap_or(match engine {
            Engine::Emulation => processors * CELLS_PER_PROCESSOR,
            Engine::Simulation => processors,
        });
        let progress = |finished: usize, id: &str, what: &str| {
            if !options.quiet {
                let seconds = clock::now().since(started).as_secs_f64();
                eprintln!(
                    "[{seconds:6.2} s] {engine} {finished}/{all} {id}: {what}",
                    engine = engine.word(),
                    all = bench.cells.len()
                );
            }
        };
        bench.run(*engine, jobs, &stop, &mut done, progress)?;
    }
    let seconds = clock::now().since(started).as_secs_f64();
    let grid = Grid {
        name: &scenario.name,
        matrix: &bench.matrix,
        cells: &bench.cells,
        done: &done,
        engines,
        seconds,
    };
    let exit = if stop.is_set() { Exit::Interrupted } else { grid.exit() };
    grid.write(&bench.folder, exit)?;
    match options.print {
        Print::Text => print!("{}{}", grid.markdown(), grid.summary(&bench.folder)),
        Print::Json => println!("{}", serde_json::to_string_pretty(&grid.json(exit)).unwrap_or_default()),
        Print::Nothing => {}
    }
    current.map_or(Ok(()), state::Current::finish)?;
    Ok(exit)
}

/// The scenario in the matrix's folder.
const KEPT: &str = "scenario.toml";

/// A folder can be gone on with if it was made from this very scenario.
fn resumable(folder: &Path, text: &str) -> Result<(), Failure> {
    let file = folder.join(KEPT);
    match fs::read_to_string(&file) {
        Ok(kept) if kept == text => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{} was made from another scenario", folder.display()))),
        Err(error) => Err(Failure::usage(format!("{} is no folder of a matrix: {error}", file.display()))),
    }
}
