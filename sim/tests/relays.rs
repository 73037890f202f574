//! Several relays: which one a DC picks (T4-a, T4-b, T7-a), which stays (T4.2.5-b), and what comes of one that dies.

mod common;

use std::net::IpAddr;

use common::{Lab, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::addr::NodeId;
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::time::Duration;
use ntm_protocol::wire::{Kind, NodeKind};
use ntm_sim::{HostId, Link, TalkId, World};

/// The lab's relay, and two more with links of these delays.
fn three(lab: &mut Lab, delays: [u64; 2]) -> [HostId; 3] {
    let [second, third] = [("rs2", "203.0.113.6", delays[0]), ("rs3", "203.0.113.7", delays[1])]
        .map(|(name, at, delay)| lab.world.relay(name, &lab.dc, at, Link::of(ms(delay))));
    [lab.rs, second, third]
}

fn entries(world: &World, relay: HostId) -> usize {
    world.at_relay(relay).map_or(0, |relay| relay.table().len())
}

fn loads(lab: &Lab, relays: &[HostId]) -> Vec<usize> {
    relays.iter().map(|relay| entries(&lab.world, *relay)).collect()
}

/// T4-a, T7-a: the relay with the least RTT(MN–RS) + RTT(RS–peer) is used, in both modes.
#[test]
fn the_nearest_relay_is_used() {
    // The lab's own relay is 2 ms away from everybody.
    for (delays, nearest) in [([10, 30], 0), ([1, 30], 1), ([10, 1], 2)] {
        let mut lab = Lab::new(1);
        let relays = three(&mut lab, delays);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        // A relay that registered after a terminal is named to it in the answer to its next Keep-alive.
        lab.world.run_for(secs(6));
        lab.talk(mn, cn);
        lab.talk(mn, lab.gn);
        let mut wanted = [0; 3];
        wanted[nearest] = 2;
        assert_eq!(loads(&lab, &relays), wanted, "links of {delays:?} ms\n{}", lab.sequence(0));
        // The terminal's status shows what it measured: two of its own links, its NAT's uplink and the relay's, there and back.
        let status = lab.world.at_terminal(mn).expect("a running terminal").relays();
        for (relay, one_way) in relays.iter().zip([2, delays[0], delays[1]]) {
            let id = NodeId::of(lab.world.fqdn(*relay));
            let known = status.iter().find(|known| known.relay == id).expect("it was named");
            assert_eq!(known.rtt_us, Some(u32::try_from(2 * (2 + 2 + one_way) * 1000).unwrap()));
        }
    }
}

/// T4-a: both ends' round trips count, not only that of the end that asks.
#[test]
fn the_peers_round_trip_counts() {
    let mut lab = Lab::new(2);
    let relays = three(&mut lab, [2, 2]);
    let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
    let at = |n: u8| IpAddr::from([203, 0, 113, n]);
    // MN's NAT is 101, CN's 102. The first is MN's nearest and far from CN.
    for (relay, to_mn, to_cn) in [(5, 0, 50), (6, 10, 10), (7, 30, 5)] {
        lab.world.part(at(relay), at(101), ms(to_mn));
        lab.world.part(at(relay), at(102), ms(to_cn));
    }
    lab.start();
    lab.talk(mn, cn);
    assert_eq!(loads(&lab, &relays), [0, 1, 0]);
    lab.talk(mn, lab.gn);
    assert_eq!(loads(&lab, &relays), [1, 1, 0], "with a general node only MN's counts");
}

/// T4-a: a relay that is nearer but has much to do is left alone.
#[test]
fn a_loaded_relay_is_avoided() {
    let mut lab = Lab::new(3);
    lab.world.settings.capacity = 10;
    let relays = three(&mut lab, [3, 30]);
    let general: Vec<HostId> = (0..6)
        .map(|n| lab.world.general(&format!("g{n}"), &[&format!("www.g{n}.test")], public(90 + n)))
        .collect();
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let mn = lab.mn(inside(nat, 2));
    lab.start();
    for gn in &general {
        lab.talk(mn, *gn);
    }
    assert_eq!(loads(&lab, &relays), [6, 0, 0], "before it has said so, nobody knows");
    // The next Keep-alive tells the DC; the round trip is 12 ms, and by the load 19 ms, to the other one's 14 ms.
    lab.world.run_for(secs(6));
    lab.talk(mn, lab.gn);
    assert_eq!(loads(&lab, &relays), [6, 1, 0]);
}

/// A full relay says so, and another takes the path.
#[test]
fn a_full_relay_passes_the_path_on() {
    let mut lab = Lab::new(4);
    lab.world.settings.capacity = 1;
    let relays = three(&mut lab, [3, 30]);
    let other = lab.world.general("gn2", &["www.other.test"], public(81));
    let mn = lab.mn(public(10));
    lab.start();
    let talks = [lab.talk(mn, lab.gn), lab.talk(mn, other)];
    assert_eq!(loads(&lab, &relays), [1, 1, 0]);
    talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
}

/// T4-a: `random` spreads paths over all relays, `first` has one for all, wherever they are.
#[test]
fn random_and_first_are_what_they_say() {
    for selection in [Selection::Random, Selection::First] {
        let mut lab = Lab::new(5);
        lab.world.settings.selection = selection;
        let relays = three(&mut lab, [1, 30]);
        let general: Vec<HostId> = (0..24)
            .map(|n| lab.world.general(&format!("g{n}"), &[&format!("www.g{n}.test")], public(120 + n)))
            .collect();
        let mn = lab.mn(public(10));
        lab.start();
        for gn in general {
            lab.talk(mn, gn);
        }
        let loads = loads(&lab, &relays);
        match selection {
            Selection::First => {
                let first = relays.iter().min_by_key(|relay| NodeId::of(lab.world.fqdn(**relay))).unwrap();
                let wanted: Vec<usize> = relays.iter().map(|r| if r == first { 24 } else { 0 }).collect();
                assert_eq!(loads, wanted);
            }
            // One in 2000 would have less than three of 24 at one of three.
            _ => assert!(loads.iter().all(|n| *n >= 3) && loads.iter().sum::<usize>() == 24, "{loads:?}"),
        }
    }
}

/// T3.1-a: a relay that comes later is named to terminals by the next Keep-alive, measured and used.
#[test]
fn a_relay_that_comes_later_is_used() {
    let mut lab = Lab::new(6);
    let relays = three(&mut lab, [1, 30]);
    let mn = lab.mn(public(10));
    lab.start();
    lab.world.crash(relays[1]);
    lab.world.run_for(secs(25));
    lab.talk(mn, lab.gn);
    assert_eq!(loads(&lab, &relays), [1, 0, 0]);
    lab.world.start(relays[1]);
    lab.world.run_for(secs(11));
    let gn2 = lab.world.general("gn2", &["www.late.test"], public(82));
    lab.world.start(gn2);
    lab.talk(mn, gn2);
    assert_eq!(loads(&lab, &relays), [1, 1, 0]);
}

/// From now to the first packet that was sent from now on and came back.
fn back_after(lab: &mut Lab, talk: TalkId, limit: Duration) -> Duration {
    let from = lab.world.now();
    let back = |world: &World| world.heard(talk).first_return_of_sent_since(from).is_some();
    assert!(lab.world.wait(limit, back), "nothing came back within {limit:?}\n{}", lab.sequence(0));
    lab.world.now() - from
}

/// T4-b, T4.1.4-b, T4.2.5-b: MN moves to a network that is nearer to another relay. The path to a terminal goes over that one at once;
/// the one to a general node stays where it is, though another would be nearer.
#[test]
fn a_handover_brings_the_relay_of_the_new_network_for_rs_s_alone() {
    let at = |n: u8| IpAddr::from([203, 0, 113, n]);
    for slow_dc in [0, 40] {
        let mut lab = Lab::new(7);
        let relays = three(&mut lab, [2, 2]);
        let nats =
            [lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC)];
        let (mn, cn, gn) = (lab.mn(inside(nats[0], 2)), lab.cn(inside(nats[1], 2)), lab.gn);
        // The first relay is near the first network, the second near the third.
        lab.world.part(at(6), at(101), ms(25));
        lab.world.part(at(5), at(103), ms(25));
        for nat in [101, 103] {
            lab.world.part(at(7), at(nat), ms(40));
            lab.world.part(at(3), at(nat), ms(slow_dc));
        }
        lab.world.start_all();
        lab.world.run_for(secs(2));
        let (talk, general) = (lab.talk(mn, cn), lab.talk(mn, gn));
        assert_eq!(loads(&lab, &relays), [2, 0, 0]);
        let sources = lab.world.sources_heard(gn);
        lab.world.move_to(mn, &[inside(nats[2], 2)]);
        let took = back_after(&mut lab, talk, secs(2));
        // Of the order of the sequence: no wait for a measurement is in it.
        assert!(took < ms(250) + ms(slow_dc) * 8, "{took:?}");
        lab.world.run_for(secs(2));
        let remotes = lab.world.at_terminal(mn).expect("a running terminal").paths();
        let way = |peer: HostId| {
            let path = remotes.iter().find(|path| path.peer == *lab.world.fqdn(peer)).expect("a path");
            (path.route, path.remote.map(|remote| remote.ip()))
        };
        assert_eq!(way(cn), (RouteName::Switched, Some(at(6))), "DC at {slow_dc} ms\n{}", lab.sequence(0));
        assert_eq!(way(gn), (RouteName::Translated, Some(at(5))));
        lab.assert_flowing(talk);
        lab.assert_flowing(general);
        assert_eq!(lab.world.sources_heard(gn), sources);
        // A general node that is new gets the relay that is best here.
        let other = lab.world.general("gn2", &["www.other.test"], public(81));
        lab.world.start(other);
        lab.talk(mn, other);
        let ips: Vec<IpAddr> = lab.world.sources_heard(other).iter().map(|source| source.ip()).collect();
        assert_eq!(ips, [at(6)]);
    }
}

/// T4.1.4-b: a relay dies, and the DCs do not know it yet. Both ends find out by themselves; the path goes over another relay within three
/// keep-alives and the sequence, and nobody asks the dead one.
#[test]
fn rs_s_leaves_a_dead_relay_before_the_dc_knows() {
    for seed in 0..5 {
        let mut lab = Lab::new(seed);
        let relays = three(&mut lab, [10, 30]);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        lab.world.run_for(secs(6));
        let talk = lab.talk(mn, cn);
        assert_eq!(loads(&lab, &relays), [1, 0, 0]);
        // At any moment of a keep-alive period.
        lab.world.run_for(ms(1000 * seed + 100));
        let start = lab.world.trace().len();
        lab.world.crash(relays[0]);
        let took = back_after(&mut lab, talk, secs(17));
        assert!(took < secs(15) + ms(500), "{took:?}");
        for dc in lab.dc {
            let dc = lab.world.at_coordinator(dc).expect("a running DC");
            assert_eq!(dc.registered(NodeKind::Relay), 3, "the DC knows already: the test shows nothing");
        }
        let asked = |what: &What| matches!(what, What::Sent { message: Kind::RelayDirection, to, .. } if to.ip() == IpAddr::from([203, 0, 113, 5]));
        assert!(!lab.world.trace()[start..].iter().any(|o| asked(&o.what)), "{}", lab.sequence(start));
        assert_eq!(loads(&lab, &relays)[1..], [1, 0]);
        lab.assert_flowing(talk);
    }
}

/// Whether the application of `talk` was told of a packet that it sent lately.
fn is_told(world: &World, talk: TalkId) -> bool {
    world.heard(talk).packets.last().is_some_and(|packet| !packet.had_path)
}

fn reasons(world: &World, host: HostId) -> Vec<String> {
    world.at_terminal(host).expect("a running terminal").paths().into_iter().map(|path| path.reason).collect()
}

/// T4.2.5-b: with its relay a path to a general node ends. Applications are told, within three keep-alives and what the DC takes to find the
/// relay silent; nothing is mapped anew behind their backs. Who asks for the name again gets the same VIP (T4.2.4-a) through another.
#[test]
fn rs_n_ends_with_its_relay_and_a_new_query_leads_through_another() {
    let at = |n: u8| IpAddr::from([203, 0, 113, n]);
    for cut_only in [false, true] {
        let mut lab = Lab::new(8);
        let relays = three(&mut lab, [10, 30]);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
        lab.start();
        lab.world.run_for(secs(6));
        let (general, switched) = (lab.talk(mn, gn), lab.talk(mn, cn));
        assert_eq!(loads(&lab, &relays), [2, 0, 0]);
        let vip = lab.world.heard(general).vip();
        if cut_only {
            // It lives, and MN does not reach it: the DC believes that all is well.
            lab.world.cut(at(5), at(101));
        } else {
            lab.world.crash(relays[0]);
        }
        let gone = lab.world.now();
        assert!(lab.world.wait(secs(30), |world| is_told(world, general)), "{}", lab.sequence(0));
        assert!(lab.world.now() - gone < secs(15) + if cut_only { secs(6) } else { secs(4) });
        assert!(
            reasons(&lab.world, mn).iter().any(|why| why.starts_with("lost: ")),
            "{:?}",
            reasons(&lab.world, mn)
        );
        // And so it stays, while the other path has found another relay.
        lab.world.run_for(secs(30));
        assert!(is_told(&lab.world, general));
        assert_eq!(lab.world.sources_heard(gn).len(), 1, "nothing was mapped anew");
        lab.assert_flowing(switched);
        lab.world.hang_up(general);
        let again = lab.talk(mn, gn);
        assert_eq!(lab.world.heard(again).vip(), vip);
        let sources: Vec<IpAddr> = lab.world.sources_heard(gn).iter().map(|source| source.ip()).collect();
        assert_eq!(sources, [at(5), at(6)]);
        lab.assert_flowing(again);
        assert_eq!(lab.world.at_terminal(mn).expect("a running terminal").paths().len(), 2);
        // The relay comes back: nobody is disturbed by what is left of the first path.
        lab.world.mend();
        if !cut_only {
            lab.world.start(relays[0]);
        }
        lab.world.run_for(secs(60));
        lab.assert_flowing(again);
        assert_eq!(lab.world.sources_heard(gn).len(), 2);
    }
}

/// A query that comes while the path is being found lost is answered, through another relay.
#[test]
fn a_query_that_waits_for_a_lost_path_gets_another() {
    let mut lab = Lab::new(9);
    three(&mut lab, [10, 30]);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    lab.world.run_for(secs(6));
    let talk = lab.talk(mn, gn);
    lab.world.crash(lab.rs);
    let broken = |world: &World| reasons(world, mn).iter().any(|why| why.starts_with("broken: "));
    assert!(lab.world.wait(secs(20), broken), "{:?}", reasons(&lab.world, mn));
    let waiting = lab.world.ask(mn, "www.example.test");
    assert!(lab.world.wait(secs(9), |world| world.heard(waiting).vip().is_some()), "{}", lab.sequence(0));
    assert_eq!(lab.world.heard(waiting).vip(), lab.world.heard(talk).vip());
}

/// T4.2.5-b: with one relay alone, which comes back, the same path serves again under the same source, and nobody asks for the name anew.
#[test]
fn a_lost_path_serves_again_when_its_relay_is_back() {
    let mut lab = Lab::new(10);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    let talk = lab.talk(mn, gn);
    lab.world.crash(lab.rs);
    assert!(lab.world.wait(secs(30), |world| is_told(world, talk)));
    lab.world.run_for(secs(20));
    lab.world.start(lab.rs);
    back_after(&mut lab, talk, secs(12));
    lab.assert_flowing(talk);
    assert_eq!(lab.world.sources_heard(gn).len(), 1);
}

/// Where the terminal itself has no network, no relay is to blame: applications are told nothing, and packets wait.
#[test]
fn a_terminals_own_outage_loses_no_path() {
    let mut lab = Lab::new(11);
    three(&mut lab, [10, 30]);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    lab.world.run_for(secs(6));
    let talk = lab.talk(mn, gn);
    lab.world.move_to(mn, &[]);
    lab.world.run_for(secs(40));
    lab.world.move_to(mn, &[inside(nat, 2)]);
    lab.world.run_for(secs(5));
    lab.assert_flowing(talk);
    let packets = &lab.world.heard(talk).packets;
    assert!(packets.iter().all(|packet| packet.had_path), "an application was told that its path is lost");
    assert_eq!(lab.world.sources_heard(gn).len(), 1);
}
