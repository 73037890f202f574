//! Handovers (T4.1.4-a, T4.1.4-b, T4.2.5-a): a terminal changes its networks under traffic.

mod common;

use common::{BOTH, Lab, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::terminal::Handover;
use ntm_protocol::time::Duration;
use ntm_protocol::wire::Kind;
use ntm_sim::{HostId, Interface, Link, TalkId};

/// Where a terminal may be: each call makes a network of its own.
#[derive(Clone, Copy, Debug)]
enum Place {
    Global(u8),
    Nat(Behaviour),
}

fn at(lab: &mut Lab, place: Place) -> Interface {
    match place {
        Place::Global(n) => public(n),
        Place::Nat(behaviour) => {
            let network = lab.nat(behaviour);
            inside(network, 2)
        }
    }
}

/// The time from the last packet that came back before `from` to the first that was sent at or after it and came back; fails after 2 s.
fn interruption(lab: &mut Lab, talk: TalkId) -> Duration {
    let from = lab.world.now();
    let enough = |world: &ntm_sim::World| world.heard(talk).first_return_of_sent_since(from).is_some();
    assert!(lab.world.wait(secs(2), enough), "no packet came back within 2 s\n{}", lab.ladder(0));
    lab.world.now() - from
}

/// The round trip between two hosts behind NATs: eight links of 2 ms each, the worst case here.
const RTT: Duration = Duration::from_millis(16);

/// CN at a place; without one the general node.
fn peer_at(lab: &mut Lab, place: Option<Place>) -> HostId {
    match place {
        Some(place) => {
            let there = at(lab, place);
            lab.cn(there)
        }
        None => lab.gn,
    }
}

/// MN moves from one place to another while it talks to a peer; the interruption is bounded, and afterwards packets flow.
fn moves(how: Handover, from: Place, to: Place, peer: Option<Place>, wanted: &[RouteName]) -> Duration {
    let mut lab = Lab::of(77, how);
    let here = at(&mut lab, from);
    let mn = lab.mn(here);
    let cn = peer_at(&mut lab, peer);
    lab.start();
    let talk = lab.talk(mn, cn);
    lab.world.run_for(secs(4));
    lab.assert_flowing(talk);
    let (vip, sources) = (lab.world.heard(talk).vip(), lab.world.sources_heard(cn));
    let new = at(&mut lab, to);
    lab.world.move_to(mn, &[new]);
    let took = interruption(&mut lab, talk);
    lab.world.run_for(secs(4));
    lab.assert_flowing(talk);
    assert!(wanted.contains(&lab.route(mn)), "{from:?} to {to:?}, peer {peer:?}\n{}", lab.ladder(0));
    assert_eq!(lab.world.heard(talk).vip(), vip);
    assert_eq!(
        lab.world.sources_heard(cn),
        sources,
        "the peer sees the same address and port: T3.1-b, T4.2.5-b"
    );
    took
}

/// Name, from where, to where, the peer's place (none: a general node), and how MN may talk afterwards.
type Case = (&'static str, Place, Place, Option<Place>, &'static [RouteName]);

/// T4.1.4-b: after a handover the path is direct where the new network allows it, and through a relay where not.
#[test]
fn every_move_is_survived_with_a_bounded_interruption() {
    use RouteName::{Direct, Switched, Translated};
    let (cone, symmetric) = (Place::Nat(Behaviour::PORT_RESTRICTED), Place::Nat(Behaviour::SYMMETRIC));
    let (here, there) = (Place::Global(10), Place::Global(20));
    let cases: [Case; 10] = [
        ("RS-N, NAT to global", cone, there, None, &[Translated]),
        ("RS-N, global to NAT", here, symmetric, None, &[Translated]),
        ("RS-N, NAT to NAT", cone, symmetric, None, &[Translated]),
        ("RS-S, NAT to NAT", symmetric, symmetric, Some(symmetric), &[Switched]),
        ("RS-S to direct, NAT to global", symmetric, there, Some(symmetric), &[Direct]),
        ("direct to RS-S, global to NAT", here, symmetric, Some(symmetric), &[Direct, Switched]),
        ("optimised, NAT to NAT", cone, cone, Some(cone), &[Direct]),
        ("direct, global to global", here, there, Some(Place::Global(11)), &[Direct]),
        ("direct, NAT to global", cone, there, Some(Place::Global(11)), &[Direct]),
        ("direct, NAT to NAT", cone, symmetric, Some(Place::Global(11)), &[Direct]),
    ];
    for (name, from, to, peer, wanted) in cases {
        for how in BOTH {
            let took = moves(how, from, to, peer, wanted);
            let multiple = took.as_secs_f64() / RTT.as_secs_f64();
            println!("{name}, {how:?}: {:.1} ms, {multiple:.1} round trips", took.as_secs_f64() * 1e3);
            // Issue 2: less than 10 round trips and 50 ms.
            assert!(took < RTT * 10 + ms(50), "{name}: {took:?}");
        }
    }
}

/// The new network is there before the old one goes: not one packet is lost, nor comes twice, however the two talk; and the peer sees who
/// it saw (T4.1.4-a, T4.2.5-a, T4.2.5-b).
#[test]
fn a_new_network_before_the_old_one_goes_loses_nothing() {
    let (cone, symmetric) = (Place::Nat(Behaviour::PORT_RESTRICTED), Place::Nat(Behaviour::SYMMETRIC));
    let (here, there) = (Place::Global(10), Place::Global(20));
    let cases = [
        ("RS-N, NAT to NAT", cone, symmetric, None),
        ("RS-N, NAT to global", cone, there, None),
        ("RS-N, global to NAT", here, cone, None),
        ("RS-S, NAT to NAT", symmetric, symmetric, Some(symmetric)),
        ("optimised, NAT to NAT", cone, cone, Some(cone)),
        ("optimised to RS-S", cone, symmetric, Some(cone)),
        ("optimised to direct, NAT to global", cone, there, Some(cone)),
        ("direct, NAT to NAT", cone, symmetric, Some(Place::Global(11))),
        ("direct, global to global", here, there, Some(Place::Global(11))),
        ("direct, global to NAT", here, cone, Some(Place::Global(11))),
        ("direct to optimised, global to NAT", here, cone, Some(cone)),
    ];
    for (name, from, to, peer) in cases {
        for (overlap, how) in BOTH.into_iter().flat_map(|how| [200, 1000, 10_000].map(|ms| (ms, how))) {
            let mut lab = Lab::of(78, how);
            let old = at(&mut lab, from);
            let mn = lab.mn(old);
            let cn = peer_at(&mut lab, peer);
            lab.start();
            let talk = lab.world.talk(mn, cn, ms(5));
            lab.world.run_for(secs(4));
            let (begin, sources) = (lab.world.now(), lab.world.sources_heard(cn));
            let new = Interface { address: [10, 0, 0, 3].into(), ..at(&mut lab, to) };
            let new = if matches!(to, Place::Global(_)) { public(20) } else { new };
            lab.world.set_interfaces(mn, &[new, old]);
            lab.world.run_for(ms(overlap));
            lab.world.set_interfaces(mn, &[new]);
            lab.world.run_for(secs(20));
            let heard = lab.world.heard(talk);
            let sent = heard.packets.iter().filter(|p| p.sent >= begin && p.sent + secs(1) < lab.world.now());
            assert!(sent.clone().count() > 3000);
            let lost = sent.filter(|packet| packet.returned.is_none()).count();
            assert_eq!(
                (lost, heard.again, heard.astray),
                (0, 0, 0),
                "{name}, {how:?}, {overlap} ms\n{}",
                lab.sequence(0)
            );
            assert_eq!(lab.world.sources_heard(cn), sources, "{name}");
            let moved = lab.world.trace().iter().filter(|o| {
                o.node == "mn"
                    && matches!(&o.what, What::Sent { message: Kind::DirectionRequest, attempt: 1, .. })
            });
            assert_eq!(moved.count(), 2, "{name}: the path is directed anew once");
        }
    }
}

/// A system sends by a new network before the terminal hears of it. What goes by a path leaves meanwhile by the network that it stands in: no NAT that
/// knows nothing of the new one is asked to let it in.
#[test]
fn word_of_a_new_network_that_comes_late_costs_nothing() {
    let cone = Place::Nat(Behaviour::PORT_RESTRICTED);
    for (how, peer) in
        BOTH.into_iter().flat_map(|how| [Some(cone), Some(Place::Global(11)), None].map(|it| (how, it)))
    {
        let mut lab = Lab::of(79, how);
        let [old, new] = [0; 2].map(|_| at(&mut lab, cone));
        let new = Interface { address: [10, 0, 0, 3].into(), ..new };
        let mn = lab.mn(old);
        let cn = peer_at(&mut lab, peer);
        lab.start();
        let talk = lab.world.talk(mn, cn, ms(1));
        lab.world.run_for(secs(4));
        let (begin, trace) = (lab.world.now(), lab.world.trace().len());
        lab.world.attach_interfaces(mn, &[new, old]);
        lab.world.run_for(ms(30));
        assert!(lab.world.trace()[trace..].iter().all(|o| !matches!(o.what, What::Addresses { .. })));
        lab.world.hear_of_interfaces(mn);
        lab.world.run_for(secs(1));
        // Nor does it cost anything that the old one's end is heard of late, once nothing goes there.
        lab.world.attach_interfaces(mn, &[new]);
        lab.world.run_for(ms(30));
        lab.world.hear_of_interfaces(mn);
        lab.world.run_for(secs(2));
        let heard = lab.world.heard(talk);
        let mut sent = heard.packets.iter().filter(|p| p.sent >= begin && p.sent + secs(1) < lab.world.now());
        assert!(sent.clone().count() > 2000);
        assert!(sent.all(|packet| packet.returned.is_some()), "{how:?}, {peer:?}\n{}", lab.sequence(0));
        assert_eq!((heard.again, heard.astray), (0, 0), "{how:?}, {peer:?}");
    }
}

/// A new network that goes again at once, or an old one that goes too early, costs no more than a handover.
#[test]
fn a_new_network_may_vanish_or_the_old_one_go_early() {
    for overlap in [1, 3, 8, 15, 25, 40, 60] {
        for (stays, how) in BOTH.into_iter().flat_map(|how| [(true, how), (false, how)]) {
            let mut lab = Lab::of(overlap, how);
            let nets = [0, 1, 2].map(|_| lab.nat(Behaviour::PORT_RESTRICTED));
            let places = [inside(nets[0], 2), inside(nets[1], 3)];
            let (mn, cn) = (lab.mn(places[0]), lab.cn(inside(nets[2], 2)));
            lab.start();
            let talks = [lab.talk(mn, cn), lab.talk(mn, lab.gn)];
            lab.world.run_for(secs(4));
            lab.world.set_interfaces(mn, &[places[1], places[0]]);
            lab.world.run_for(ms(overlap));
            lab.world.set_interfaces(mn, &[places[usize::from(stays)]]);
            for talk in talks {
                let took = interruption(&mut lab, talk);
                assert!(took < RTT * 10 + ms(50), "{overlap} ms, stays {stays}, {how:?}: {took:?}");
            }
            talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
        }
    }
}

#[test]
fn the_called_end_may_move_as_well() {
    for (place, to) in
        [(Behaviour::SYMMETRIC, Behaviour::SYMMETRIC), (Behaviour::FULL_CONE, Behaviour::PORT_RESTRICTED)]
    {
        let mut lab = Lab::new(5);
        let (a, b, c) = (lab.nat(place), lab.nat(place), lab.nat(to));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        let talk = lab.talk(mn, cn);
        lab.world.run_for(secs(4));
        lab.world.move_to(cn, &[inside(c, 2)]);
        let took = interruption(&mut lab, talk);
        assert!(took < RTT * 10 + ms(50), "{took:?}");
        lab.assert_flowing(talk);
    }
}

#[test]
fn both_ends_may_move_at_once() {
    let places = [Behaviour::SYMMETRIC, Behaviour::PORT_RESTRICTED, Behaviour::FULL_CONE];
    // From the same instant to half a second apart, either first.
    for apart in [0, 1, 3, 7, 12, 20, 35, 60, 120, 500] {
        for first in 0..2 {
            for (place, how) in BOTH.into_iter().flat_map(|how| places.map(|place| (place, how))) {
                let mut lab = Lab::of(apart + 3, how);
                let nets = [lab.nat(place), lab.nat(place), lab.nat(place), lab.nat(place)];
                let ends: [HostId; 2] = [lab.mn(inside(nets[0], 2)), lab.cn(inside(nets[1], 2))];
                lab.start();
                let talk = lab.talk(ends[0], ends[1]);
                lab.world.run_for(secs(3));
                lab.world.move_to(ends[first], &[inside(nets[2], 2)]);
                lab.world.run_for(ms(apart));
                lab.world.move_to(ends[1 - first], &[inside(nets[3], 2)]);
                let took = interruption(&mut lab, talk);
                assert!(
                    took < secs(1),
                    "{place}, {how:?}, {apart} ms apart, {first} first: {took:?}\n{}",
                    lab.ladder(0)
                );
                lab.assert_flowing(talk);
            }
        }
    }
}

#[test]
fn both_global_ends_may_move_at_once() {
    for (apart, how) in BOTH.into_iter().flat_map(|how| [0, 1, 4, 9, 30].map(|ms| (ms, how))) {
        let mut lab = Lab::of(apart, how);
        let ends = [lab.mn(public(10)), lab.cn(public(11))];
        lab.start();
        let talk = lab.talk(ends[0], ends[1]);
        lab.world.run_for(secs(3));
        lab.world.move_to(ends[0], &[public(20)]);
        lab.world.run_for(ms(apart));
        lab.world.move_to(ends[1], &[public(21)]);
        let took = interruption(&mut lab, talk);
        assert!(took < secs(1), "{how:?}, {apart} ms apart: {took:?}\n{}", lab.ladder(0));
        lab.assert_flowing(talk);
        assert_eq!(ends.map(|end| lab.route(end)), [RouteName::Direct; 2]);
    }
}

/// A terminal is nowhere for 30 s, longer than the DC believes in it; it comes back elsewhere. T3.2.1-b: without the periodic messages
/// neither would know.
#[test]
fn an_outage_of_half_a_minute_is_survived() {
    for peer_is_general in [true, false] {
        for same in [true, false] {
            let mut lab = Lab::new(30);
            let (a, b, c) = (
                lab.nat(Behaviour::PORT_RESTRICTED),
                lab.nat(Behaviour::SYMMETRIC),
                lab.nat(Behaviour::SYMMETRIC),
            );
            let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
            let peer = if peer_is_general { lab.gn } else { cn };
            lab.start();
            let talk = lab.talk(mn, peer);
            lab.world.run_for(secs(4));
            let sources = lab.world.sources_heard(peer);
            lab.world.move_to(mn, &[]);
            lab.world.run_for(secs(30));
            lab.world.move_to(mn, &[if same { inside(a, 2) } else { inside(c, 2) }]);
            let took = interruption(&mut lab, talk);
            println!("general {peer_is_general}, same place {same}: {took:?}");
            lab.assert_flowing(talk);
            assert_eq!(lab.world.sources_heard(peer), sources);
        }
    }
}

#[test]
fn back_and_forth_ten_times() {
    for (peer, how) in BOTH.into_iter().flat_map(|how| [0, 1, 2].map(|peer| (peer, how))) {
        let mut lab = Lab::of(10, how);
        let nets = [
            lab.nat(Behaviour::PORT_RESTRICTED),
            lab.nat(Behaviour::SYMMETRIC),
            lab.nat(Behaviour::SYMMETRIC),
        ];
        let places = [inside(nets[0], 2), inside(nets[1], 2)];
        let mn = lab.mn(places[0]);
        let cn = match peer {
            0 => lab.gn,
            1 => lab.cn(inside(nets[2], 2)),
            _ => lab.cn(public(11)),
        };
        lab.start();
        let talk = lab.talk(mn, cn);
        for n in 1..=10 {
            lab.world.run_for(secs(1));
            lab.world.move_to(mn, &[places[n % 2]]);
            let took = interruption(&mut lab, talk);
            assert!(took < RTT * 10 + ms(50), "peer {peer}, {how:?}, move {n}: {took:?}\n{}", lab.ladder(0));
        }
        lab.assert_flowing(talk);
        assert_eq!(lab.world.sources_heard(cn).len(), 1);
        assert_eq!(lab.world.at_terminal(mn).expect("a running terminal").paths().len(), 1);
        let rows = lab.world.at_relay(lab.rs).expect("a running relay").table().rows();
        assert!(rows.len() <= 1, "one path, one entry: {rows:#?}");
    }
}

/// Moves faster than the protocol can follow do not confuse it.
#[test]
fn moves_in_quick_succession() {
    let gaps = [1, 3, 5, 8, 10, 13, 17, 20, 25, 30, 35, 40, 45, 50, 60, 80];
    for (gap, how) in BOTH.into_iter().flat_map(|how| gaps.map(|gap| (gap, how))) {
        let mut lab = Lab::of(gap, how);
        let nets = [
            lab.nat(Behaviour::PORT_RESTRICTED),
            lab.nat(Behaviour::SYMMETRIC),
            lab.nat(Behaviour::FULL_CONE),
        ];
        let (mn, cn) = (lab.mn(inside(nets[0], 2)), lab.cn(inside(nets[2], 3)));
        lab.start();
        let talk = lab.talk(mn, cn);
        let general = lab.talk(mn, lab.gn);
        for n in 0..40 {
            lab.world.move_to(mn, &[inside(nets[n % 3], 2)]);
            lab.world.run_for(ms(gap));
        }
        let took = interruption(&mut lab, talk);
        assert!(took < secs(2), "{took:?}");
        lab.world.run_for(secs(2));
        lab.assert_flowing(talk);
        lab.assert_flowing(general);
    }
}

/// MN hears of its new path before CN does, whose Route Direction travels by way of a distant DC_CN: MN's Tunnel Request, refused at first,
/// is taken as soon as CN's direction is there, and does not wait for its repetition.
#[test]
fn a_tunnel_request_that_is_early_costs_no_repetition() {
    let mut world = ntm_sim::World::new(5);
    let near = Link::of(ms(2));
    let dc_a = world.coordinator("dc-a", "a.ntm.test", "198.18.0.0/16", "203.0.113.3", near);
    let dc_b = world.coordinator("dc-b", "b.ntm.test", "198.19.0.0/16", "203.0.113.4", Link::of(ms(25)));
    let mn = world.terminal("mn", dc_a, public(10));
    let cn = world.terminal("cn", dc_b, public(11));
    world.start_all();
    world.run_for(secs(1));
    let talk = world.talk(mn, cn, ms(5));
    assert!(world.wait(secs(3), |world| world.heard(talk).returned() > 0));
    let early = |world: &ntm_sim::World| {
        let is_it = |what: &What| matches!(what, What::Refused { field, .. } if field == "epoch" || field == "path id");
        world.trace().iter().filter(|o| o.node == "cn" && is_it(&o.what)).count()
    };
    assert_eq!(early(&world), 1, "the request was not early: the test shows nothing");
    let repeated = |world: &ntm_sim::World| {
        let is_it =
            |what: &What| matches!(what, What::Sent { message: Kind::TunnelRequest, attempt: 2.., .. });
        world.trace().iter().any(|o| is_it(&o.what))
    };
    assert!(!repeated(&world), "a Tunnel Request was repeated");
    world.move_to(mn, &[public(20)]);
    world.run_for(secs(2));
    assert_eq!(early(&world), 2);
    assert!(!repeated(&world), "a Tunnel Request was repeated after the handover");
}
