//! Who begins anew, and what others still know of before: a direction that names where a terminal was, numbers of a node that lost its disk,
//! records of a DC that lost its own. All was found by the random worlds (`ntm_sim::worlds`).

mod common;

use common::{Lab, PERIOD, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::RouteName;
use ntm_sim::{HostId, TalkId, World};

/// The one path of each of two ends, and whether packets take it directly.
fn are_direct(lab: &Lab, ends: [HostId; 2]) -> bool {
    ends.into_iter().all(|end| lab.route(end) == RouteName::Direct)
}

fn is_answered(world: &World, talk: TalkId) -> bool {
    matches!(world.heard(talk).answer, Some((_, Ok(_))))
}

/// T4.1.2-b, T4.1.4-a: CN is called while it is nowhere, and comes back in MN's network before the DCs know of it. What both are told names where
/// CN was: the relay serves, and CN, which knows where it was seen, has the path directed anew at once. Then the direct way is found.
#[test]
fn t4_1_2_b_a_terminal_that_is_elsewhere_since_it_was_called_is_directed_anew() {
    let mut lab = Lab::new(1);
    let (home, there) = (lab.nat(Behaviour::PORT_RESTRICTED), lab.nat(Behaviour::PORT_RESTRICTED));
    let (mn, cn) = (lab.mn(inside(home, 2)), lab.cn(inside(there, 2)));
    lab.start();
    lab.world.set_interfaces(cn, &[]);
    let talk = lab.world.talk(mn, cn, PERIOD);
    lab.world.run_for(ms(500));
    lab.world.set_interfaces(cn, &[inside(home, 3)]);
    assert!(lab.world.wait(secs(3), |world| is_answered(world, talk)), "{}", lab.sequence(0));
    lab.world.run_for(secs(1));
    assert!(are_direct(&lab, [mn, cn]), "{}", lab.sequence(0));
    lab.assert_flowing(talk);
}

/// T4.1.2-b: where the peer's requests come from is where to try, though nobody could name it: behind MN's NAT each way has a
/// port of its own. What MN sends CN is lost just while CN proves its direction.
#[test]
fn t4_1_2_b_where_the_peer_is_heard_from_is_tried_again() {
    let mut lab = Lab::new(2);
    let (home, there) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::FULL_CONE));
    let (mn, cn) = (lab.mn(inside(home, 2)), lab.cn(inside(there, 2)));
    lab.start();
    let talk = lab.world.talk(mn, cn, PERIOD);
    let proved = |world: &World| common::route(world, mn) == RouteName::Direct;
    let asked = |world: &World| common::route(world, cn) == RouteName::Switched;
    assert!(lab.world.wait(secs(3), asked), "{}", lab.sequence(0));
    // MN's request is on its way; the answers to CN's are not.
    lab.world.run_for(ms(6));
    lab.world.cut_one_way([203, 0, 113, 101].into(), [203, 0, 113, 102].into());
    // CN gives up its try, and MN does not miss an answer to a keep-alive yet.
    lab.world.run_for(ms(4_800));
    assert!(proved(&lab.world) && !are_direct(&lab, [mn, cn]), "{}", lab.sequence(0));
    lab.world.mend();
    assert!(
        lab.world.wait(secs(20), |world| common::route(world, cn) == RouteName::Direct),
        "{}",
        lab.sequence(0)
    );
    lab.assert_flowing(talk);
}

/// T3.2.3-b: MN asks for CN and is not heard, and CN calls MN. The path serves both: MN need not wait for its own, nor asks once more when it moves.
#[test]
fn t3_2_3_b_a_path_that_stands_serves_who_asked_before() {
    let mut lab = Lab::new(3);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    lab.start();
    lab.world.cut_one_way([203, 0, 113, 10].into(), [203, 0, 113, 3].into());
    let talk = lab.world.talk(mn, cn, PERIOD);
    lab.world.run_for(ms(100));
    assert!(!is_answered(&lab.world, talk));
    let back = lab.world.talk(cn, mn, PERIOD);
    let both = |world: &World| is_answered(world, talk) && is_answered(world, back);
    assert!(lab.world.wait(secs(1), both), "{}", lab.sequence(0));
    lab.world.move_to(mn, &[public(14)]);
    lab.world.run_for(secs(5));
    for end in [mn, cn] {
        let paths = lab.world.at_terminal(end).expect("a running terminal").paths();
        assert_eq!(paths.len(), 1, "{paths:#?}\n{}", lab.sequence(0));
    }
    [talk, back].into_iter().for_each(|talk| lab.assert_flowing(talk));
}

/// T3.2.2-c: a DC that lost its disk counts from the start again. The other is registered with a number above all that came before, not the
/// registrations alone, so that what follows is taken.
#[test]
fn t3_2_2_c_a_dc_that_lost_its_disk_is_understood_by_the_next() {
    let mut lab = Lab::new(4);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    lab.start();
    for n in 0..20 {
        lab.world.ask(mn, &format!("nobody{n}.b.ntm.test"));
        lab.world.run_for(ms(200));
    }
    lab.world.crash(lab.dc[0]);
    lab.world.lose_disk(lab.dc[0]);
    lab.world.start(lab.dc[0]);
    lab.world.run_for(secs(20));
    let from = lab.world.trace().len();
    let talk = lab.world.talk(mn, cn, PERIOD);
    assert!(lab.world.wait(secs(1), |world| is_answered(world, talk)), "{}", lab.sequence(from));
    lab.assert_flowing(talk);
}

/// T3.2.2-a: a terminal that lost its disk asks what it asked in its life before, at the same point of it. It is another request, not a
/// repeated one: the answer of before names a path that is gone.
#[test]
fn t3_2_2_a_a_terminal_that_lost_its_disk_is_not_answered_as_before() {
    let mut lab = Lab::new(5);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    lab.start();
    lab.talk(mn, cn);
    lab.world.crash(mn);
    lab.world.lose_disk(mn);
    // CN's end of the path is given up meanwhile.
    lab.world.crash(cn);
    lab.world.start(cn);
    lab.world.run_for(ms(200));
    lab.world.start(mn);
    lab.world.run_for(secs(1));
    let from = lab.world.trace().len();
    let talk = lab.world.talk(mn, cn, PERIOD);
    assert!(lab.world.wait(secs(3), |world| is_answered(world, talk)), "{}", lab.sequence(from));
    lab.assert_flowing(talk);
}

/// T4.2.4-a, T4.2.5-b: a DC that lost its disk gives the VIP_GN of one general node to another, while a relay still translates it for the one
/// before. The relay knows better: the connection there goes on, and the other general node gets another VIP.
#[test]
fn t4_2_5_b_a_vip_that_a_relay_knows_as_anothers_is_given_back() {
    let mut lab = Lab::new(6);
    // In this order they get their VIPs, before and after.
    let other = lab.world.terminal("other", lab.dc[0], public(12));
    let mn = lab.mn(public(10));
    let second = lab.world.general("gn2", &["www2.example.test"], public(81));
    lab.start();
    let before = lab.talk(mn, lab.gn);
    lab.world.crash(lab.dc[0]);
    lab.world.lose_disk(lab.dc[0]);
    // Nobody says yet whose the VIP was.
    lab.world.cut([203, 0, 113, 10].into(), [203, 0, 113, 3].into());
    lab.world.start(lab.dc[0]);
    lab.world.run_for(secs(20));
    let talk = lab.world.talk(other, second, PERIOD);
    assert!(lab.world.wait(secs(1), |world| is_answered(world, talk)), "{}", lab.sequence(0));
    assert_ne!(lab.world.heard(talk).vip(), lab.world.heard(before).vip());
    lab.world.mend();
    lab.world.run_for(secs(20));
    for (talk, general) in [(before, lab.gn), (talk, second)] {
        lab.assert_flowing(talk);
        assert!(lab.world.heard(talk).reached.iter().eq([&general]), "{}", lab.sequence(0));
    }
    let stored = lab.world.store(lab.dc[0]).generals();
    assert_eq!(stored.len(), 2, "{stored:?}");
}

/// T4.2.4-a, T4.2.5-b: a DC that lost its disk hears from terminals, which have their paths directed anew, what VIP each general node had. It
/// gives the same: connections live through moves, and who asks anew is told what the others were.
#[test]
fn t4_2_4_a_terminals_tell_a_dc_that_lost_its_disk_whose_a_vip_was() {
    let mut lab = Lab::new(7);
    let (mn, other) = (lab.mn(public(10)), lab.world.terminal("other", lab.dc[0], public(12)));
    let mut generals = vec![lab.gn];
    for n in 2..6 {
        generals.push(lab.world.general(
            &format!("gn{n}"),
            &[&format!("www{n}.example.test")],
            public(80 + n),
        ));
    }
    lab.start();
    let talks: Vec<_> = generals.iter().map(|general| (lab.talk(mn, *general), *general)).collect();
    let told: Vec<_> = talks.iter().map(|(talk, _)| lab.world.heard(*talk).vip()).collect();
    for n in 0..4 {
        lab.world.crash(lab.dc[0]);
        lab.world.lose_disk(lab.dc[0]);
        lab.world.start(lab.dc[0]);
        lab.world.move_to(mn, &[public(20 + n)]);
        lab.world.run_for(secs(20));
        for (talk, general) in &talks {
            lab.assert_flowing(*talk);
            assert!(lab.world.heard(*talk).reached.iter().eq([general]), "{}", lab.sequence(0));
        }
    }
    let asked: Vec<_> = generals.iter().map(|general| lab.world.talk(other, *general, PERIOD)).collect();
    lab.world.run_for(secs(2));
    assert_eq!(asked.iter().map(|talk| lab.world.heard(*talk).vip()).collect::<Vec<_>>(), told);
}
