//! A matrix in parts, on machines that know nothing of each other: which runs a part has, and how the parts become the whole. What one run comes to
//! depends on its file alone, so the whole is what one machine would have made, byte for byte, where that was in the simulator.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cells::{Bench, Prepared};
use crate::engine::{Engine, Engines};
use crate::exit::Failure;

/// A part of a matrix's runs: every `count`th, beginning with the `index`th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    index: usize,
    /// How many parts there are.
    count: usize,
}

/// More parts than anybody has machines.
const MOST: usize = 100_000;

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) && count <= MOST => {
                Ok(Self { index, count })
            }
            _ => Err(format!("write it as 2/5, the second of five, from 1/5 to 5/5; at most {MOST}")),
        }
    }
}

impl Shard {
    /// Of `order`, what this part has.
    pub fn of(self, order: Vec<usize>) -> Vec<usize> {
        order.into_iter().skip(self.index - 1).step_by(self.count).collect()
    }
}

/// What a matrix's folder was asked for, which its parts must agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where cells are run.
    pub worlds: Vec<String>,
    /// As the command line had it.
    pub rounds: Option<u64>,
}

impl Asked {
    const FILE: &str = "asked.json";

    /// For `engines`, and `rounds` in place of the file's own.
    pub fn new(engines: Engines, rounds: Option<u64>) -> Self {
        Self { worlds: engines.all().iter().map(|engine| engine.word().to_owned()).collect(), rounds }
    }

    /// Writes it into a matrix's folder.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        let file = folder.join(Self::FILE);
        let text = serde_json::to_string(self).map_err(Failure::during(file.display()))?;
        fs::write(&file, text + "\n").map_err(Failure::during(file.display()))
    }

    fn read(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(Self::FILE);
        let no_matrix =
            |why: String| Failure::usage(format!("{}: no part of a matrix: {why}", file.display()));
        let text = fs::read_to_string(&file).map_err(|error| no_matrix(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| no_matrix(error.to_string()))
    }

    /// The worlds.
    pub fn engines(&self) -> Engines {
        match self.worlds.as_slice() {
            [world] if world == Engine::Simulation.word() => Engines::Simulation,
            [_] => Engines::Emulation,
            _ => Engines::Both,
        }
    }
}

/// What all `folders` were asked for; the error names two that are of different matrices.
pub fn same(folders: &[PathBuf], kept: &str) -> Result<Asked, Failure> {
    let of = |folder: &PathBuf| {
        let file = folder.join(kept);
        let text = fs::read_to_string(&file)
            .map_err(|error| Failure::usage(format!("{}: no part of a matrix: {error}", file.display())))?;
        Ok::<_, Failure>((Asked::read(folder)?, text))
    };
    let Some((first, others)) = folders.split_first() else { return Err(Failure::usage("no part is named")) };
    let all = of(first)?;
    for other in others {
        if of(other)? != all {
            let message =
                format!("{} and {} are parts of different matrices", first.display(), other.display());
            return Err(Failure::usage(message));
        }
    }
    Ok(all.0)
}

impl Bench {
    /// Takes over what `parts` have of `prepared` in `engine`. The error tells of two parts that came to different ends with it.
    fn take_over(&self, prepared: &Prepared, engine: Engine, parts: &[PathBuf]) -> Result<(), Failure> {
        let own = self.outcome_file(prepared, engine);
        let mut found: Option<(PathBuf, Vec<u8>)> = None;
        for part in parts {
            let file = part.join(own.strip_prefix(&self.folder).unwrap_or(&own));
            let Ok(bytes) = fs::read(&file) else { continue };
            match &found {
                Some((other, theirs)) if *theirs != bytes => {
                    let message =
                        format!("{} and {} came to different ends", other.display(), file.display());
                    return Err(Failure::error(message));
                }
                Some(_) => {}
                None => found = Some((file, bytes)),
            }
        }
        found.map_or(Ok(()), |(_, bytes)| fs::write(&own, bytes).map_err(Failure::during(own.display())))
    }

    /// Takes over the outcomes of `parts`, which are to be all there are. The error says how many are missing.
    pub fn merge(&self, engines: &[Engine], parts: &[PathBuf]) -> Result<(), Failure> {
        let runs =
            || self.cells.iter().flat_map(|prepared| engines.iter().map(move |engine| (prepared, *engine)));
        for (prepared, engine) in runs() {
            self.take_over(prepared, engine, parts)?;
        }
        let missing: Vec<_> =
            runs().filter(|(prepared, engine)| self.kept(prepared, *engine).is_none()).collect();
        let Some((first, engine)) = missing.first() else { return Ok(()) };
        let (lack, all) = (missing.len(), runs().count());
        Err(Failure::error(format!(
            "{lack} of {all} runs are in no part, the first of them {} in {}: run the parts that are missing, or go on with those that were interrupted",
            first.name(),
            engine.word()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_in_one_part() {
        let part = |text: &str| text.parse::<Shard>().unwrap().of((0..8).collect());
        assert_eq!([part("1/3"), part("2/3"), part("3/3")], [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
        assert_eq!(part("1/1"), (0..8).collect::<Vec<_>>());
        assert_eq!(part("9/9"), [0; 0], "there are more machines than runs");
        for wrong in ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/100001", "1/3/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
