//! Faults: loss, duplicates, reordering, crashes. Safety while they last; afterwards everything converges in bounded time.

mod common;

use common::{BOTH, Lab, PERIOD, inside, link, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::wire::Kind;
use ntm_sim::impair::Impairment;
use ntm_sim::{HostId, TalkId, World};

/// One seed, one trace, byte for byte: with every fault there is.
#[test]
fn one_seed_gives_one_trace() {
    let run = |seed: u64| {
        let mut lab = Lab::new(seed);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::PORT_RESTRICTED));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.world.impair(|link| (link.loss, link.duplicate, link.reorder) = (0.1, 0.05, 0.1));
        lab.world.start_all();
        lab.world.run_for(secs(2));
        lab.world.talk(mn, cn, PERIOD);
        lab.world.talk(mn, lab.gn, PERIOD);
        lab.world.run_for(secs(3));
        lab.world.move_to(mn, &[inside(b, 3)]);
        lab.world.run_for(secs(3));
        lab.world.crash(lab.dc[0]);
        lab.world.run_for(secs(1));
        lab.world.start(lab.dc[0]);
        lab.world.run_for(secs(20));
        (lab.world.json_lines(), lab.world.events())
    };
    let (trace, events) = run(1);
    assert!(trace.lines().count() > 500);
    assert_eq!((trace.clone(), events), run(1));
    assert_ne!(trace, run(2).0, "the seed is used");
}

/// The trace is in the daemons' form: each line reads back as the observation that it was.
#[test]
fn the_trace_reads_back() {
    let mut lab = Lab::new(2);
    let mn = lab.mn(public(10));
    lab.start();
    lab.talk(mn, lab.gn);
    let read: Vec<ntm_protocol::observe::Observation> =
        lab.world.json_lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, lab.world.trace());
    assert!(read.is_sorted_by_key(|observation| observation.t));
}

/// An application that asks again until it has an answer, as resolvers do.
fn persist(lab: &mut Lab, from: HostId, to: HostId, limit: u64) -> TalkId {
    let until = lab.world.now() + secs(limit);
    loop {
        let talk = lab.world.talk(from, to, ms(100));
        lab.world.wait(secs(limit), |world| world.heard(talk).answer.is_some());
        if lab.world.heard(talk).vip().is_some() {
            return talk;
        }
        assert!(lab.world.now() < until, "no answer within {limit} s\n{}", lab.ladder(0));
    }
}

/// MN and CN behind two NATs, and MN with a general node, under `impair` from the start; MN moves; then the faults stop.
fn survives(seed: u64, impair: impl Fn(&mut Impairment) + Copy) {
    let mut lab = Lab::of(seed, BOTH[(seed % 2) as usize]);
    let kinds = [Behaviour::PORT_RESTRICTED, Behaviour::SYMMETRIC, Behaviour::FULL_CONE];
    let pick = |n: u64| kinds[(seed / n % 3) as usize];
    let nets = [lab.nat(pick(1)), lab.nat(pick(3)), lab.nat(pick(9))];
    let (mn, cn, gn) = (lab.mn(inside(nets[0], 2)), lab.cn(inside(nets[1], 2)), lab.gn);
    lab.world.impair(impair);
    lab.world.start_all();
    let talks = [persist(&mut lab, mn, cn, 120), persist(&mut lab, mn, gn, 120)];
    lab.world.run_for(secs(10));
    let mut new = inside(nets[2], 2);
    impair(&mut new.link.up);
    impair(&mut new.link.down);
    lab.world.move_to(mn, &[new]);
    let moved = lab.world.now();
    for talk in talks {
        let back = |world: &World| world.heard(talk).first_return_of_sent_since(moved).is_some();
        assert!(lab.world.wait(secs(120), back), "seed {seed}: nothing came back\n{}", lab.sequence(0));
    }
    lab.world.impair(|way| *way = link().up);
    lab.world.run_for(secs(30));
    let calm = lab.world.now();
    lab.world.run_for(secs(5));
    for talk in talks {
        let packets = &lab.world.heard(talk).packets;
        let recent = packets.iter().filter(|p| p.sent >= calm && p.sent + secs(1) < lab.world.now());
        assert!(recent.clone().count() > 30);
        let lost = recent.filter(|packet| packet.returned.is_none()).count();
        assert_eq!(lost, 0, "seed {seed}: packets are lost on faultless links\n{}", lab.sequence(0));
        assert_eq!(lab.world.heard(talk).astray, 0, "seed {seed}: nothing comes elsewhere");
    }
    // Between relay and general node it is UDP, which may come twice; in tunnels it may not.
    assert_eq!(lab.world.heard(talks[0]).again, 0, "seed {seed}");
    for host in [mn, cn] {
        assert!(lab.world.at_terminal(host).expect("a running terminal").is_registered());
    }
    // An attempt that one end gave up may have succeeded at the other, and is mended beside the next: two at most for one peer.
    let paths = lab.world.at_terminal(mn).expect("a running terminal").paths();
    for peer in [cn, gn] {
        let to_peer = paths.iter().filter(|path| path.peer == *lab.world.fqdn(peer)).count();
        assert!((1..=2).contains(&to_peer), "seed {seed}: {paths:#?}\n{}", lab.sequence(0));
    }
}

#[test]
fn a_fifth_of_all_datagrams_lost_on_every_link() {
    (0..27).for_each(|seed| survives(seed, |link| link.loss = 0.2));
}

#[test]
fn duplicates_on_every_link() {
    (0..9).for_each(|seed| survives(seed, |link| link.duplicate = 0.3));
}

#[test]
fn reordering_on_every_link() {
    (0..9).for_each(|seed| survives(seed, |link| (link.delay, link.reorder) = (ms(30), 0.3)));
}

#[test]
fn all_at_once() {
    (0..9).for_each(|seed| {
        survives(seed, |link| {
            (link.loss, link.duplicate, link.delay, link.reorder) = (0.1, 0.2, ms(20), 0.3)
        });
    });
}

/// What a DC gave up by its deadline it does not take up again when the other DC answers at last: the terminal was told so, and may have asked
/// anew since. What was decided then would have been older than what is there.
#[test]
fn a_request_that_was_given_up_is_not_taken_up_again() {
    let mut lab = Lab::new(8);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    let other = lab.world.terminal("cn-2", lab.dc[1], public(12));
    // So far apart that the DCs' requests are repeated every two seconds, and the last repetition is later than the deadline.
    lab.world.impair(|link| link.delay = ms(400));
    lab.world.start_all();
    lab.world.run_for(secs(10));
    persist(&mut lab, mn, cn, 20);
    let (own, theirs) = ([203, 0, 113, 3].into(), [203, 0, 113, 4].into());
    lab.world.cut(own, theirs);
    let (asked, name) = (lab.world.trace().len(), lab.world.fqdn(other).clone());
    lab.world.ask(mn, name.as_str());
    let sent = |world: &World, kind| {
        let is_it = |what: &What| matches!(what, What::Sent { message, .. } if *message == kind);
        world.trace()[asked..].iter().filter(|it| it.node == "dc-a" && is_it(&it.what)).count()
    };
    assert!(lab.world.wait(secs(12), |world| sent(world, Kind::DirectionRefusal) > 0));
    lab.world.mend();
    let questions = sent(&lab.world, Kind::InformationRequest);
    assert!(questions > 2, "it was repeated until then");
    lab.world.run_for(secs(10));
    assert_eq!(sent(&lab.world, Kind::InformationRequest), questions, "{}", lab.sequence(asked));
    let is_directed = |what: &What| matches!(what, What::Received { message: Kind::RouteDirection, .. });
    assert!(!lab.world.trace().iter().any(|it| it.node == "cn-2" && is_directed(&it.what)));
}

fn vips(lab: &Lab, hosts: &[HostId]) -> Vec<Option<ntm_protocol::addr::Vip>> {
    hosts.iter().map(|host| lab.world.at_terminal(*host).expect("a running terminal").vip()).collect()
}

/// The DC is killed and comes back with its disk: VIPs stay, everyone registers again unaided, new paths work, old ones never stop.
#[test]
fn a_dc_crashes_and_comes_back() {
    for down in [ms(100), secs(3), secs(25), secs(120)] {
        let mut lab = Lab::new(20);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
        let late = lab.world.terminal("late", lab.dc[0], public(12));
        lab.start();
        let old = lab.talk(mn, gn);
        let before = (vips(&lab, &[mn, cn, late]), lab.world.heard(old).vip());
        lab.world.crash(lab.dc[0]);
        lab.world.run_for(down);
        lab.assert_flowing(old);
        lab.world.start(lab.dc[0]);
        let registered = |world: &World| {
            [mn, late].iter().all(|host| world.at_terminal(*host).is_some_and(|t| t.is_registered()))
                && world.at_coordinator(lab.dc[0]).is_some_and(|dc| {
                    dc.vip_of(world.fqdn(mn)).is_some()
                        && dc.registered(ntm_protocol::wire::NodeKind::Terminal) == 2
                        && dc.registered(ntm_protocol::wire::NodeKind::Relay) == 1
                })
        };
        assert!(lab.world.wait(secs(20), registered), "after {down:?} not all registered\n{}", lab.ladder(0));
        lab.assert_flowing(old);
        let talk = lab.talk(mn, cn);
        lab.assert_flowing(talk);
        let back = lab.talk(cn, late);
        lab.assert_flowing(back);
        let again = lab.world.talk_to(late, "alias.example.test", PERIOD);
        lab.world.run_for(secs(2));
        assert_eq!((vips(&lab, &[mn, cn, late]), lab.world.heard(again).vip()), before);
        lab.assert_flowing(again);
    }
}

/// T3.2.2-c: after a crash of the one, two DCs ask each other at about one moment. Each is refused what it asked before the other knew it, and neither
/// takes that for news: both conversations stand after the first registration.
#[test]
fn two_dcs_that_begin_anew_at_once_understand_each_other() {
    for moment in 0..40 {
        let mut lab = Lab::new(moment);
        let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
        let late = lab.world.terminal("late", lab.dc[0], public(12));
        let other = lab.world.terminal("other", lab.dc[1], public(13));
        lab.start();
        // The one asks the other, and no path comes of it.
        lab.world.talk_to(mn, "nobody.b.ntm.test", PERIOD);
        lab.world.run_for(secs(1));
        lab.world.crash(lab.dc[1]);
        lab.world.run_for(ms(100));
        lab.world.start(lab.dc[1]);
        let registered = |world: &World| {
            [cn, other].iter().all(|id| world.at_terminal(*id).is_some_and(|it| it.is_registered()))
        };
        lab.world.run_for(secs(30));
        assert!(registered(&lab.world), "{}", lab.ladder(0));
        let from = lab.world.trace().len();
        let one = lab.world.talk(late, cn, PERIOD);
        // Each moment is half a millisecond later: a round trip between the DCs takes eight.
        lab.world.run_for(std::time::Duration::from_micros(500 * moment));
        let back = lab.world.talk(other, mn, PERIOD);
        let answered = |world: &World| [one, back].iter().all(|talk| world.heard(*talk).returned() > 0);
        assert!(lab.world.wait(secs(2), answered), "{moment}\n{}", lab.sequence(from));
        let joins = lab.world.trace()[from..].iter().filter(|seen| {
            matches!(&seen.what, What::Sent { message: Kind::RegistrationRequest, attempt: 1, .. } if seen.node.starts_with("dc"))
        });
        let joins = joins.count();
        assert!((1..=2).contains(&joins), "{moment}: {joins} registrations\n{}", lab.sequence(from));
    }
}

/// A crash at any moment of a registration or of a first direction: no VIP is ever given twice.
#[test]
fn a_dc_crashes_at_any_moment_of_a_negotiation() {
    for moment in 0..60 {
        let mut lab = Lab::new(moment);
        let mn = lab.mn(public(10));
        let other = lab.world.terminal("other", lab.dc[0], public(12));
        lab.world.start(lab.dc[0]);
        lab.world.start(lab.dc[1]);
        lab.world.start(lab.rs);
        lab.world.start(lab.gn);
        lab.world.run_for(ms(500));
        lab.world.start(mn);
        lab.world.run_for(ms(6));
        lab.world.talk(mn, lab.gn, PERIOD);
        // Each moment is 400 µs later: writes take as long.
        lab.world.run_for(std::time::Duration::from_micros(400 * moment));
        let given = lab.world.at_terminal(mn).expect("a running terminal").vip();
        lab.world.crash(lab.dc[0]);
        lab.world.run_for(ms(50));
        lab.world.start(lab.dc[0]);
        lab.world.start(other);
        lab.world.run_for(secs(20));
        let vips = vips(&lab, &[mn, other]);
        assert!(vips[0].is_some() && vips[1].is_some() && vips[0] != vips[1], "{vips:?}");
        assert!(given.is_none() || given == vips[0], "what was given once stays: {given:?}, {vips:?}");
        let talks = [mn, other].map(|host| lab.world.talk(host, lab.gn, PERIOD));
        lab.world.run_for(secs(3));
        talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
    }
}

#[test]
fn a_relay_crashes_and_comes_back() {
    for down in [ms(50), secs(4), secs(30)] {
        let mut lab = Lab::new(21);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
        lab.start();
        let talks = [lab.talk(mn, cn), lab.talk(mn, gn)];
        lab.world.crash(lab.rs);
        lab.world.run_for(down);
        lab.world.start(lab.rs);
        let started = lab.world.now();
        for talk in talks {
            let back = |world: &World| world.heard(talk).first_return_of_sent_since(started).is_some();
            assert!(lab.world.wait(secs(30), back), "down for {down:?}\n{}", lab.sequence(0));
            println!("down for {down:?}: back after {:?}", lab.world.now() - started);
        }
        lab.world.run_for(secs(15));
        talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
        // T4.2.5-b holds over a crash as well: nobody else may have been given the terminal's source.
        assert_eq!(lab.world.sources_heard(gn).len(), 1);
    }
}

/// With a second relay, RS-S paths go on through that one.
#[test]
fn rs_s_goes_on_through_another_relay() {
    let mut lab = Lab::new(22);
    let second = lab.world.relay("rs2", &lab.dc, "203.0.113.6", common::link());
    let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
    lab.start();
    let talk = lab.talk(mn, cn);
    let rows = |world: &World, relay: HostId| world.at_relay(relay).map_or(0, |relay| relay.table().len());
    let (used, spare) = if rows(&lab.world, lab.rs) == 1 { (lab.rs, second) } else { (second, lab.rs) };
    assert_eq!((rows(&lab.world, used), rows(&lab.world, spare)), (1, 0));
    lab.world.crash(used);
    let gone = lab.world.now();
    let back = |world: &World| world.heard(talk).first_return_of_sent_since(gone).is_some();
    assert!(lab.world.wait(secs(40), back), "{}", lab.sequence(0));
    println!("back after {:?}", lab.world.now() - gone);
    assert_eq!(rows(&lab.world, spare), 1);
    lab.assert_flowing(talk);
    assert_eq!(lab.route(mn), RouteName::Switched);
}

/// A terminal that lost everything registers again, keeps its VIP, and both it and its peer build new paths.
#[test]
fn a_terminal_restarts() {
    let mut lab = Lab::new(23);
    let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
    let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
    lab.start();
    let talks = [lab.talk(mn, cn), lab.talk(cn, gn)];
    let vip = vips(&lab, &[cn]);
    lab.world.crash(cn);
    lab.world.run_for(ms(200));
    lab.world.start(cn);
    lab.world.run_for(secs(2));
    assert_eq!(vips(&lab, &[cn]), vip);
    // The peer still holds its end; a new question leads to a new path, or the old one is mended.
    let mended = lab.world.talk(cn, mn, PERIOD);
    lab.world.run_for(secs(30));
    lab.assert_flowing(mended);
    lab.assert_flowing(talks[0]);
    let general = lab.talk(cn, gn);
    lab.assert_flowing(general);
}

/// CN lost everything and asks for nothing: MN finds out, though the relay between them is well, and has the path directed anew.
#[test]
fn a_peer_restarts_and_stays_silent() {
    for behaviour in [Behaviour::SYMMETRIC, Behaviour::FULL_CONE] {
        let mut lab = Lab::new(25);
        let (a, b) = (lab.nat(behaviour), lab.nat(behaviour));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        let talk = lab.talk(mn, cn);
        lab.world.run_for(secs(6));
        lab.world.crash(cn);
        lab.world.run_for(ms(300));
        lab.world.start(cn);
        let started = lab.world.now();
        let back = |world: &World| world.heard(talk).first_return_of_sent_since(started).is_some();
        assert!(lab.world.wait(secs(45), back), "{behaviour}\n{}", lab.sequence(0));
        println!("{behaviour}: back after {:?}", lab.world.now() - started);
        lab.assert_flowing(talk);
    }
}

/// Datagrams recorded before the DC crashed change nothing afterwards, whoever gets them.
#[test]
fn what_was_recorded_before_a_crash_is_worth_nothing_after_it() {
    let mut lab = Lab::new(24);
    let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::PORT_RESTRICTED));
    let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
    lab.world.record();
    lab.start();
    let talks = [lab.talk(mn, cn), lab.talk(mn, gn)];
    lab.world.run_for(secs(12));
    let recorded = lab.world.recorded().to_vec();
    for dc in lab.dc {
        lab.world.crash(dc);
    }
    lab.world.run_for(secs(2));
    for dc in lab.dc {
        lab.world.start(dc);
    }
    // At once, before anyone has registered again, and when all have.
    for wait in [secs(0), secs(20)] {
        lab.world.run_for(wait);
        let mut kinds = std::collections::BTreeSet::new();
        for old in &recorded {
            if old.host == gn || old.from.ip() == std::net::IpAddr::from([203, 0, 113, 80]) {
                continue;
            }
            let reaction = lab.world.inject(old.host, old.from, old.to, old.bytes.clone());
            let kind = ntm_protocol::wire::Header::parse(&old.bytes).unwrap().kind;
            kinds.insert(kind);
            let what = format!("{kind:?} to {}: {reaction:#?}", lab.world.name(old.host));
            // An RS-S passes data on without a look at it: the end refuses it.
            if kind == Kind::Data && old.host == lab.rs && reaction.sent == [Kind::Data] {
                continue;
            }
            assert_eq!(reaction.refused, 1, "{what}");
            assert!(reaction.observations.iter().any(|what| matches!(what, What::Refused { .. })), "{what}");
            assert!(!reaction.changed && reaction.events == 0 && reaction.delivered == 0, "{what}");
            assert!(reaction.sent.iter().all(|kind| *kind == Kind::Error), "{what}");
        }
        assert!(kinds.len() >= 16, "{kinds:?}");
    }
    talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
}

/// Two terminals that ask for one general node at once are told one VIP: the second waits for the first one's to be durable.
#[test]
fn who_asks_at_once_is_told_one_vip() {
    let mut lab = Lab::new(26);
    let (mn, other) = (lab.mn(public(10)), lab.world.terminal("other", lab.dc[0], public(12)));
    lab.start();
    let talks = [mn, other].map(|host| lab.world.talk(host, lab.gn, PERIOD));
    lab.world.run_for(secs(3));
    let told = talks.map(|talk| lab.world.heard(talk).vip());
    assert!(told[0].is_some() && told[0] == told[1], "{told:?}");
    assert_eq!(lab.world.store(lab.dc[0]).generals().len(), 1);
    talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
}

/// A DC whose disk is lost gives VIPs anew. Who gets another one leaves the paths of the old one, and whoever asks gets new ones.
#[test]
fn a_terminal_that_gets_another_vip_begins_anew() {
    let mut lab = Lab::new(27);
    let (mn, gn) = (lab.mn(public(10)), lab.gn);
    let other = lab.world.terminal("other", lab.dc[0], public(12));
    lab.start();
    lab.talk(mn, gn);
    let before = vips(&lab, &[mn, other]);
    lab.world.crash(lab.dc[0]);
    lab.world.lose_disk(lab.dc[0]);
    lab.world.move_to(mn, &[]);
    lab.world.start(lab.dc[0]);
    lab.world.run_for(secs(30));
    lab.world.move_to(mn, &[public(10)]);
    lab.world.run_for(secs(20));
    let after = vips(&lab, &[mn, other]);
    assert_eq!(after, [before[1], before[0]], "the other one was first this time");
    let talk = lab.talk(mn, gn);
    lab.assert_flowing(talk);
}
