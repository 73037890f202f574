//! Random worlds of the simulator: as many as wanted on all cores, and each again by its seed.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use ntm_protocol::time::Instant;
use ntm_sim::ladder;
use ntm_sim::worlds::census::Census;
use ntm_sim::worlds::play::play;
use ntm_sim::worlds::script::Script;
use ntm_sim::worlds::{Fault, examine, generate, many, shrink};

use crate::exit::Exit;
use crate::progress::Progress;
use crate::stdout;

/// The most failures that are shown one by one.
const MOST_SHOWN: usize = 20;

/// `A..B`: the seeds from A to before B.
pub fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let wrong = || format!("{text:?} is no range of seeds: write it as 0..10000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

/// Plays the world of each of `seeds`, `jobs` at a time, and prints what occurred and what failed.
pub fn search(seeds: std::ops::Range<u64>, jobs: Option<u16>, quiet: bool, started: Instant) -> Exit {
    let jobs = jobs.map_or_else(|| available_parallelism().map_or(1, NonZeroUsize::get), usize::from);
    let seeds: Vec<u64> = seeds.collect();
    let progress = Progress::new(started, quiet);
    progress.counted("worlds", seeds.len());
    let (mut census, mut failed, mut done) = (Census::default(), BTreeMap::<u64, Fault>::new(), 0);
    many(
        &seeds,
        jobs,
        |seed| examine(&generate(seed)),
        |seed, seen| {
            done += 1;
            census.merge(&seen.census);
            progress.done(done);
            if let Some(fault) = seen.fault {
                progress.part(done, &line(seed, &fault));
                failed.insert(seed, fault);
            }
        },
    );
    progress.end();
    stdout::say(&census);
    for (seed, fault) in failed.iter().take(MOST_SHOWN) {
        stdout::line(line(*seed, fault));
    }
    stdout::line(format_args!("{} of {} worlds failed", failed.len(), seeds.len()));
    if failed.is_empty() { Exit::Held } else { Exit::Failed }
}

fn line(seed: u64, fault: &Fault) -> String {
    let Fault { rule, at, what } = fault;
    format!("seed {seed}: {rule:?} at {at:?}: {what}\n  harness replay {seed}")
}

/// Plays the world of `seed` again, and prints what was in it, its trace up to the failure, and the failure; `smallest` prints the shortest
/// timeline that still fails by the same rule, instead.
pub fn replay(seed: u64, smallest: bool, started: Instant, quiet: bool) -> Exit {
    let mut script = generate(seed);
    let Some(mut fault) = examine(&script).fault else {
        show(&script, None);
        stdout::line(format_args!("seed {seed}: nothing failed"));
        return Exit::Held;
    };
    if smallest {
        let progress = Progress::new(started, quiet);
        progress.say("looking for the shortest timeline that still fails");
        let same = |script: &Script| examine(script).fault.is_some_and(|other| other.rule == fault.rule);
        script = shrink(&script, same);
        fault = examine(&script).fault.unwrap_or(fault);
    }
    show(&script, Some(&fault));
    stdout::line(line(seed, &fault));
    Exit::Failed
}

fn show(script: &Script, fault: Option<&Fault>) {
    stdout::line(script);
    // What panics has no trace.
    if let Some(fault) = fault.filter(|fault| fault.at > Instant::ZERO) {
        let played = play(script);
        let until = played.world.trace().iter().filter(|observation| observation.t <= fault.at);
        stdout::say(ladder::timed(&played.world, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_seeds_is_read_and_nonsense_refused() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        for text in ["", "7", "7..3", "3..3", "a..b", "-1..4"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }
}
