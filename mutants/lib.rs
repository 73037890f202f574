//! The search of the random worlds (`ntm_sim::worlds`) with a fault of the past put back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ntm_protocol::mutants::{Mutant, put_back};
use ntm_sim::worlds::script::Script;
use ntm_sim::worlds::{Fault, examine, generate, many};

/// What the model says of a world whose machines have the fault `mutant`.
pub fn fault_of(script: &Script, mutant: Option<Mutant>) -> Option<Fault> {
    put_back(mutant);
    let seen = examine(script);
    put_back(None);
    seen.fault
}

/// The first world found among those of `seeds` that `mutant` makes fail; `jobs` are played at a time.
pub fn find(seeds: &[u64], mutant: Option<Mutant>, jobs: usize) -> Option<(u64, Fault)> {
    let (found, first) = (AtomicBool::new(false), Mutex::new(None));
    many(
        seeds,
        jobs,
        |seed| {
            if found.load(Ordering::Relaxed) {
                return None;
            }
            let fault = fault_of(&generate(seed), mutant);
            found.fetch_or(fault.is_some(), Ordering::Relaxed);
            fault
        },
        |seed, fault| {
            let mut first = first.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(fault) = fault
                && first.as_ref().is_none_or(|(known, _)| seed < *known)
            {
                *first = Some((seed, fault));
            }
        },
    );
    first.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}
