//! Random worlds against the model: thousands of them, each of a minute in virtual time.

use std::collections::BTreeMap;
use std::thread::available_parallelism;

use ntm_sim::worlds::census::Census;
use ntm_sim::worlds::{ONCE_FAILED, STILL_FAIL, examine, generate, many, of_datagrams, play::play};

/// How many worlds the test takes; more: `harness worlds --seeds A..B`.
const WORLDS: u64 = 10_000;

fn jobs() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Safety under faults, then liveness: what the model says holds in every world; and no rare event is missing.
#[test]
fn every_world_is_as_the_model_says() {
    let known = ONCE_FAILED.iter().chain(STILL_FAIL).map(|(seed, _)| *seed);
    let seeds: Vec<u64> = known.chain(0..WORLDS).collect();
    let (mut census, mut failed, mut events) = (Census::default(), BTreeMap::new(), 0);
    many(
        &seeds,
        jobs(),
        |seed| examine(&generate(seed)),
        |seed, seen| {
            census.merge(&seen.census);
            events += seen.events;
            if let Some(fault) = seen.fault {
                failed.insert(seed, fault);
            }
        },
    );
    println!("{} worlds, {events} events\n{census}", seeds.len());
    for (seed, fault) in failed.iter().take(50) {
        println!("seed {seed}: {:?} at {:?}: {}\n  harness replay {seed}", fault.rule, fault.at, fault.what);
    }
    for (seed, why) in STILL_FAIL {
        assert!(failed.remove(seed).is_some(), "seed {seed} holds now, take it off the list: {why}");
    }
    let mut rules: BTreeMap<_, usize> = BTreeMap::new();
    failed.values().for_each(|fault| *rules.entry(fault.rule).or_default() += 1);
    assert!(failed.is_empty(), "{} worlds failed: {rules:?}", failed.len());
    assert_eq!(census.missing(), Vec::<&str>::new(), "the search never met these");
}

/// Worlds that failed before there were connections in any, as they were then.
#[test]
fn what_once_failed_holds_without_connections_too() {
    for (seed, why) in ONCE_FAILED {
        let script = of_datagrams(*seed);
        assert!(script.connected().is_empty());
        assert_eq!(examine(&script).fault, None, "seed {seed}: {why}");
    }
}

/// One seed, one trace, byte for byte: again, and in other threads in another order.
#[test]
fn one_seed_gives_one_trace() {
    let seeds: Vec<u64> = (0..60).collect();
    let trace = |seed| play(&generate(seed)).world.json_lines();
    let mut first = BTreeMap::new();
    many(&seeds, 1, trace, |seed, trace| drop(first.insert(seed, trace)));
    let backwards: Vec<u64> = seeds.iter().rev().copied().collect();
    let mut compared = 0;
    many(&backwards, 4, trace, |seed, trace| {
        assert!(!trace.is_empty() && trace == first[&seed], "seed {seed}: another trace");
        compared += 1;
    });
    assert_eq!(compared, seeds.len());
}
