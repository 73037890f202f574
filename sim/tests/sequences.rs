//! The sequences of Figs. 3.2, 4.1 and 4.3, as reviewed snapshots of the trace.

mod common;

use common::{Lab, PERIOD, inside, public, secs};
use ntm_nat::Behaviour;

/// T3.2-seq: direct, with two DCs.
#[test]
fn fig_3_2_direct() {
    let mut lab = Lab::new(32);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, cn) = (lab.mn(inside(nat, 2)), lab.cn(public(11)));
    lab.start();
    let start = lab.world.trace().len();
    let talk = lab.world.talk(mn, cn, PERIOD);
    lab.world.run_for(secs(3));
    insta::assert_snapshot!(lab.sequence(start));
    lab.assert_flowing(talk);
}

/// T4.1.2-seq: RS-S, both behind NATs between which there is no direct way.
#[test]
fn fig_4_1_rs_s() {
    let mut lab = Lab::new(41);
    let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
    lab.start();
    let start = lab.world.trace().len();
    let talk = lab.world.talk(mn, cn, PERIOD);
    lab.world.run_for(secs(3));
    insta::assert_snapshot!(lab.sequence(start));
    lab.assert_flowing(talk);
}

/// T4.2.2-seq: RS-N.
#[test]
fn fig_4_3_rs_n() {
    let mut lab = Lab::new(43);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    let start = lab.world.trace().len();
    let talk = lab.world.talk(mn, gn, PERIOD);
    lab.world.run_for(secs(3));
    insta::assert_snapshot!(lab.sequence(start));
    lab.assert_flowing(talk);
}

/// T4.2.5-a: on a handover, Registration Request, then T4.2.2 again, with the same relay.
#[test]
fn handover_with_a_general_node() {
    let mut lab = Lab::new(44);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    let talk = lab.talk(mn, gn);
    lab.world.run_for(secs(1));
    let start = lab.world.trace().len();
    lab.world.move_to(mn, &[public(10)]);
    lab.world.run_for(secs(3));
    insta::assert_snapshot!(lab.sequence(start));
    lab.assert_flowing(talk);
}

/// T4.1.4-a: on a handover, Registration Request, then T4.1.2 again.
#[test]
fn handover_with_a_terminal() {
    let mut lab = Lab::new(45);
    let [a, b, c] = [(); 3].map(|()| lab.nat(Behaviour::PORT_RESTRICTED));
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
    lab.start();
    let talk = lab.talk(mn, cn);
    lab.world.run_for(secs(1));
    let start = lab.world.trace().len();
    lab.world.move_to(mn, &[inside(c, 2)]);
    lab.world.run_for(secs(3));
    insta::assert_snapshot!(lab.sequence(start));
    lab.assert_flowing(talk);
}

/// The normalised form of T4.1.2-seq does not depend on the seed, nor on how far apart the nodes are.
#[test]
fn a_normalised_sequence_is_that_of_the_protocol_alone() {
    let run = |seed: u64, one_way: u64| {
        let mut lab = Lab::new(seed);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.world.impair(|way| way.delay = common::ms(one_way));
        lab.start();
        let start = lab.world.trace().len();
        lab.world.talk(mn, cn, PERIOD);
        lab.world.run_for(secs(1));
        let owner = |address| lab.world.owner(address).map(str::to_owned);
        ntm_sim::sequence::normalise(&lab.world.trace()[start..], owner)
    };
    let sequence = run(46, 2);
    insta::assert_snapshot!(sequence.woven());
    for (seed, one_way) in [(47, 2), (46, 1), (48, 5)] {
        assert_eq!(sequence.differences(&run(seed, one_way), "2 ms", "other"), []);
    }
}
