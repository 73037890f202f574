//! What is done with scenario files beside bench and matrix: they are run, checked, listed; and what runs of them left is removed.

use std::path::{Path, PathBuf};

use ntm_protocol::time::Instant;

use crate::engine::Engines;
use crate::exit::{Exit, Failure};
use crate::run::{self, Options};
use crate::scenario::{self, find};
use crate::{matrix, plan, state, stdout};

/// Runs `files`, of which the first is that of `options`: one in one world or in rounds, or several one after another.
pub(super) fn run(
    options: Options,
    files: &[PathBuf],
    rounds: Option<u64>,
    once: bool,
    started: Instant,
) -> Result<Exit, Failure> {
    let is_one = files.len() == 1;
    let in_rounds = !once && (rounds.is_some() || has_rounds(&options.file));
    if (in_rounds || !is_one) && options.key_log {
        return Err(Failure::usage("--keylog is of one run: choose one file, and --once"));
    }
    if !is_one && (rounds.is_some() || options.folder.is_some()) {
        return Err(Failure::usage("--rounds and --folder are of one file"));
    }
    let in_both = options.engines == Engines::Both && rounds.is_none();
    if in_rounds && is_one && !in_both {
        let Options { file, engines, out, binaries, print, quiet, .. } = options;
        let (jobs, resume, folder, shard, parts) = (None, None, None, None, Vec::new());
        let options = matrix::Options {
            file,
            engines,
            jobs,
            rounds,
            out,
            resume,
            folder,
            shard,
            parts,
            binaries,
            print,
            quiet,
        };
        return matrix::run(&options, started);
    }
    match is_one && !in_rounds {
        true => run::run(&options, started),
        false => run::both::several(&options, files, once),
    }
}

/// Whether the file says that it is run in rounds. One with mistakes is told them when it is run.
fn has_rounds(file: &Path) -> bool {
    let scenario = find::open(file).and_then(|source| scenario::check(&source));
    scenario.is_ok_and(|scenario| scenario.matrix.is_some_and(|matrix| matrix.rounds.is_some()))
}

/// All files, each with all its mistakes.
pub(super) fn check(files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut wrong = String::new();
    for file in files {
        let checked = find::open(file).and_then(|source| {
            let scenario = scenario::check(&source)?;
            plan::address::plan(&scenario)
                .map_err(|message| format!("error: {}: {message}\n", source.name))?;
            Ok((source.name, scenario))
        });
        match checked {
            Ok((name, scenario)) => stdout::line(format_args!(
                "{name}: {} nodes, {} flows, {} expectations",
                scenario.nodes.len(),
                scenario.flows.len(),
                scenario.expectations.len()
            )),
            Err(message) => wrong += &message,
        }
    }
    if wrong.is_empty() { Ok(Exit::Held) } else { Err(Failure::usage(wrong)) }
}

pub(super) fn list() -> Result<Exit, Failure> {
    let folder =
        find::folder().ok_or_else(|| Failure::usage("no folder `scenarios` was found here or above"))?;
    for file in find::all(&folder) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = match find::open(&file).and_then(|source| scenario::check(&source)) {
            Ok(scenario) => scenario.about,
            Err(_) => format!("has mistakes: harness check {name}"),
        };
        stdout::line(format_args!("{name:<24} {about}"));
    }
    Ok(Exit::Held)
}

pub(super) fn clean() -> Result<Exit, Failure> {
    let cleaned = state::clean(&state::folder()?)?;
    for run in &cleaned.removed {
        stdout::line(format_args!("removed {}", run.display()));
    }
    for run in &cleaned.running {
        stdout::line(format_args!("under way, left alone: {}", run.display()));
    }
    if cleaned.removed.is_empty() && cleaned.running.is_empty() {
        stdout::line("nothing to clean");
    }
    Ok(Exit::Held)
}
