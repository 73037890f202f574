//! Each fault of the past, put back, is found by the random worlds; and what is found is replayed and made smaller.

use std::thread::available_parallelism;

use ntm_mutants::{fault_of, find};
use ntm_protocol::mutants::Mutant;
use ntm_sim::worlds::{Rule, STILL_FAIL, generate, shrink};

/// How many worlds each may take to be found: a fifth of what `sim/tests/worlds.rs` plays.
const WORLDS: u64 = 2000;

/// Without those that fail as things are.
fn seeds() -> Vec<u64> {
    (0..WORLDS).filter(|seed| !STILL_FAIL.iter().any(|(known, _)| known == seed)).collect()
}

fn jobs() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Asserts that the worlds find `mutant` by one of `rules`, that the seed finds it again, and that the smallest world still does, and only
/// with the fault.
fn assert_found(mutant: Mutant, rules: &[Rule]) {
    let Some((seed, fault)) = find(&seeds(), Some(mutant), jobs()) else {
        panic!("{mutant:?} was not found in {WORLDS} worlds");
    };
    println!("{mutant:?}: seed {seed}: {:?} at {:?}: {}", fault.rule, fault.at, fault.what);
    assert!(rules.contains(&fault.rule), "{mutant:?}, seed {seed}: {fault:?}");
    let script = generate(seed);
    assert_eq!(fault_of(&script, Some(mutant)).as_ref(), Some(&fault), "seed {seed}: not again");
    let again = |script: &_| fault_of(script, Some(mutant)).is_some_and(|other| other.rule == fault.rule);
    let smallest = shrink(&script, again);
    println!("{} entries of {} are enough:\n{smallest}", smallest.timeline.len(), script.timeline.len());
    assert!(again(&smallest), "seed {seed}: the smallest does not fail");
    assert_eq!(fault_of(&smallest, None), None, "seed {seed}: the smallest fails without the mutant");
    // Nothing more can go: without any one entry it does not fail.
    for n in 0..smallest.timeline.len() {
        let mut without = smallest.clone();
        without.timeline.remove(n);
        assert!(!again(&without), "seed {seed}: entry {n} was not needed\n{smallest}");
    }
}

#[test]
fn a_replay_window_off_by_one_is_found() {
    assert_found(Mutant::ReplayWindow, &[Rule::Twice]);
}

#[test]
fn a_lost_keep_alive_timer_is_found() {
    assert_found(Mutant::KeepAliveTimer, &[Rule::Registered, Rule::Answered, Rule::Flows]);
}

#[test]
fn an_rs_n_chosen_anew_is_found() {
    assert_found(Mutant::RelayChosenAnew, &[Rule::RelayKept]);
}

#[test]
fn a_vip_given_twice_after_a_crash_is_found() {
    assert_found(Mutant::VipGivenTwice, &[Rule::VipUnique, Rule::VipKept]);
}

#[test]
fn a_direct_path_used_before_it_is_proved_is_found() {
    assert_found(Mutant::DirectUnproved, &[Rule::Proved]);
}

/// Datagrams come through as before: only connections tell.
#[test]
fn a_connection_that_is_reset_too_soon_is_found() {
    assert_found(Mutant::ResetTooSoon, &[Rule::Reset]);
}

#[test]
fn a_general_node_at_an_address_to_which_no_relay_leads_is_found() {
    assert_found(Mutant::GeneralByIpv4, &[Rule::Answered, Rule::Flows]);
}

/// The same worlds find nothing where nothing is put back.
#[test]
fn without_a_mutant_nothing_is_found() {
    assert_eq!(find(&seeds(), None, jobs()), None);
}
