//! `harness matrix`: a scenario once for each cell of its `[matrix]`, in one world or both, and the grid of what came of it. Or in rounds:
//! each round runs all cells, and what came of all rounds is one result, with a report like that of a run.
//!
//! [`shard`] lets several machines share the work. [`cells`] runs them: in the simulator in threads of this process, in emulation each in a harness of its own. [`grid`] shows them,
//! [`rounds`] makes the report of all rounds.

pub mod cells;
pub mod grid;
pub mod rounds;
pub mod shard;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use ntm_protocol::time::Instant;

use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::run::{Print, absolute, fit, folders};
use crate::scenario::matrix::Matrix;
use crate::scenario::model::Scenario;
use crate::scenario::source::Source;
use crate::scenario::{self, find};
use crate::{clock, doctor, state, stdout};
use cells::{Bench, Done, Stop};
use grid::Grid;
use rounds::Rounds;
use shard::{Asked, Shard};

/// What `matrix` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario: a path, or a name in `scenarios/`.
    pub file: PathBuf,
    /// Where its cells are run.
    pub engines: Engines,
    /// How many cells at once; what suits the machine unless given.
    pub jobs: Option<usize>,
    /// How many rounds, in place of the file's own.
    pub rounds: Option<u64>,
    /// Where the folder is made; the project's `reports/runs` unless given.
    pub out: Option<PathBuf>,
    /// The folder of an interrupted matrix to go on with.
    pub resume: Option<PathBuf>,
    /// The matrix's own folder: begun where it is not there yet, gone on with where it is.
    pub folder: Option<PathBuf>,
    /// The part of the runs that is made here.
    pub shard: Option<Shard>,
    /// Folders of parts that have all outcomes: nothing is run.
    pub parts: Vec<PathBuf>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// How the grid is printed.
    pub print: Print,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// Makes one of the parts of a matrix in `parts`, in the folder `into`.
pub fn merge(parts: Vec<PathBuf>, into: PathBuf, print: Print, started: Instant) -> Result<Exit, Failure> {
    let asked = shard::same(&parts, KEPT)?;
    if into.exists() {
        return Err(Failure::usage(format!("{} is there already", into.display())));
    }
    let options = Options {
        file: parts[0].join(KEPT),
        engines: asked.engines(),
        jobs: None,
        rounds: asked.rounds,
        out: None,
        resume: None,
        folder: Some(into),
        shard: None,
        parts,
        binaries: None,
        print,
        quiet: true,
    };
    run(&options, started)
}

/// Runs all cells; 0 if every expectation held in every cell and the worlds agree, 1 if not. `started` is when the harness was.
pub fn run(options: &Options, started: Instant) -> Result<Exit, Failure> {
    let source = find::open(&options.file).map_err(Failure::usage)?;
    let scenario = scenario::check(&source).map_err(Failure::usage)?;
    let matrix = matrix(&source, &scenario, options.rounds)?;
    if let (Some(_), Engines::Both) = (matrix.rounds, options.engines) {
        return Err(Failure::usage("rounds are run in one world at a time: choose an --engine"));
    }
    let (folder, binaries) = (PathBuf::new(), options.binaries.clone());
    let compares = options.engines == Engines::Both;
    let mut bench = Bench { matrix, cells: Vec::new(), order: Vec::new(), folder, binaries, compares };
    let cells = bench.matrix.cells();
    for cell in &cells {
        let rounds = bench.matrix.rounds.map_or(vec![None], |rounds| (1..=rounds).map(Some).collect());
        for round in rounds {
            let source = bench.matrix.source(&source, cell, round);
            let scenario = scenario::check_cell(&source).map_err(Failure::usage)?;
            let plan = fit(&source, &scenario, options.engines)?;
            bench.cells.push(cells::Prepared { cell: cell.clone(), round, source, scenario, plan });
        }
    }
    bench.order = interleaved(cells.len(), bench.cells.len() / cells.len().max(1));
    if let Some(shard) = options.shard {
        bench.order = shard.of(bench.order);
    }
    // Over all rounds nothing can be said without all of them.
    let is_whole = bench.order.len() == bench.cells.len();
    let engines = options.engines.all();
    let in_emulation = engines.contains(&Engine::Emulation) && options.parts.is_empty();
    if let (true, Some(first)) = (in_emulation, bench.cells.first()) {
        doctor::require(&first.scenario, &first.plan)?;
    }
    let stop = Stop::on_signals()?;
    let begun = options.folder.as_ref().filter(|folder| folder.join(KEPT).exists());
    let current = match options.resume.as_ref().or(begun) {
        Some(folder) => {
            resumable(folder, &source.text)?;
            bench.folder.clone_from(folder);
            None
        }
        None => {
            let name = match bench.matrix.rounds {
                Some(_) => scenario.name.clone(),
                None => format!("{}-matrix", scenario.name),
            };
            let current = match &options.folder {
                Some(folder) => state::Current::begin([absolute(folder)?])?,
                None => state::Current::begin(folders(options.out.as_deref(), &name)?)?,
            };
            bench.folder = current.run().to_owned();
            let file = bench.folder.join(KEPT);
            fs::write(&file, &source.text).map_err(Failure::during(file.display()))?;
            Asked::new(options.engines, options.rounds).write(&bench.folder)?;
            Some(current)
        }
    };
    bench.lay_out()?;
    if !options.parts.is_empty()
        && let Err(failure) = bench.merge(engines, &options.parts)
    {
        current.map_or(Ok(()), state::Current::discard)?;
        return Err(failure);
    }
    let processors = thread::available_parallelism().map_or(2, usize::from);
    let mut done = Done::default();
    // The quick one first, with which the other is compared.
    for engine in engines.iter().rev() {
        let jobs = options.jobs.unwrap_or(match engine {
            // Rounds are there to measure, which nothing else should disturb.
            Engine::Emulation if bench.matrix.rounds.is_some() => 1,
            // They mostly wait, and more would be done sooner: but whole worlds come and go, for which the kernel has one lock. Daemons that
            // wait for it in each other's way are late to start and to end.
            Engine::Emulation | Engine::Simulation => processors,
        });
        let (all, world) = (bench.order.len(), engine.word());
        let shown = Progress::new(started, options.quiet);
        shown.counted(if bench.matrix.rounds.is_some() { "runs" } else { "cells" }, all);
        let progress = |finished: usize, id: &str, what: &str| {
            shown.part(finished, &format!("{world} {finished}/{all} {id}: {what}"));
        };
        bench.run(*engine, jobs, &stop, &mut done, progress)?;
    }
    let grid = Grid {
        name: &scenario.name,
        matrix: &bench.matrix,
        cells: &bench.cells,
        done: &done,
        engines,
        part: (!is_whole).then_some(bench.order.len()),
    };
    let mut exit = if stop.is_set() { Exit::Interrupted } else { grid.exit() };
    if bench.matrix.rounds.is_some() && is_whole {
        let rounds = Rounds { bench: &bench, scenario: &scenario, done: &done, engine: engines[0], started };
        if let Some(first) = bench.cells.first() {
            exit = rounds.conclude(&first.plan, exit, options.print)?;
        }
    }
    grid.write(&bench.folder, exit)?;
    match options.print {
        _ if bench.matrix.rounds.is_some() && is_whole => {}
        Print::Text => {
            let seconds = clock::now().since(started).as_secs_f64();
            stdout::say(grid.markdown() + &grid.summary(&bench.folder, seconds));
        }
        Print::Json => stdout::json(&grid.json(exit)),
        Print::Nothing => {}
    }
    current.map_or(Ok(()), state::Current::finish)?;
    Ok(exit)
}

/// What is to be run of `scenario`: its own matrix, or the whole file in rounds; `rounds` in place of the file's own.
fn matrix(source: &Source, scenario: &Scenario, rounds: Option<u64>) -> Result<Matrix, Failure> {
    let matrix = match (&scenario.matrix, rounds) {
        (Some(matrix), None) => matrix.clone(),
        (Some(matrix), Some(_)) => Matrix { rounds, ..matrix.clone() },
        (None, Some(rounds)) => {
            let seed = scenario.seed_place.clone().map(|place| (place, scenario.seed));
            Matrix::of_rounds(rounds, seed)
        }
        (None, None) => {
            return Err(Failure::usage(format!(
                "{} has no [matrix]: write one, or run it with `run`",
                source.name
            )));
        }
    };
    if matrix.rounds.is_some() && matrix.seed.is_none() {
        return Err(Failure::usage(format!(
            "{}: each round has a seed of its own: give the file a `seed`",
            source.name
        )));
    }
    Ok(matrix)
}

/// The order in which `cells` cells, each `rounds` times in a row, are run: round after round, each beginning with another cell, so that
/// no cell always comes after the same one's work or at the same time of a slow change.
pub fn interleaved(cells: usize, rounds: usize) -> Vec<usize> {
    let of_round = |round: usize| (0..cells).map(move |at| (at + round) % cells * rounds + round);
    (0..rounds).flat_map(of_round).collect()
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

#[cfg(test)]
mod tests {
    use super::interleaved;

    /// Three cells of two rounds each, whose places are 0 and 1, 2 and 3, 4 and 5.
    #[test]
    fn rounds_are_interleaved_and_begin_with_another_cell_each() {
        assert_eq!(interleaved(3, 2), [0, 2, 4, 3, 5, 1]);
        assert_eq!(interleaved(1, 3), [0, 1, 2]);
        assert_eq!(interleaved(4, 1), [0, 1, 2, 3]);
    }
}
