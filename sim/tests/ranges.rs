//! Virtual ranges of several DCs (T3.1-a): none hands out a VIP that is another's, however they are configured.

mod common;

use common::{link, public, secs};
use ntm_protocol::observe::What;
use ntm_protocol::wire::DnsError;
use ntm_sim::worlds::families::Has;
use ntm_sim::{HostId, World};

/// Two DCs with these ranges, which know each other's names and keys alone, and a terminal of each.
fn two(first: &str, second: &str) -> (World, [HostId; 2], [HostId; 2]) {
    two_of([Has::V4; 2], first, second)
}

/// The same, with addresses of these families.
fn two_of(has: [Has; 2], first: &str, second: &str) -> (World, [HostId; 2], [HostId; 2]) {
    let mut world = World::new(1);
    world.settings.ranges_known = false;
    let at = |n: usize| has[n].of(format!("203.0.113.{}", 3 + n), format!("2001:db8::{}", 3 + n));
    let dcs = [
        world.coordinator_at("dc-a", "a.ntm.test", first, &at(0), link()),
        world.coordinator_at("dc-b", "b.ntm.test", second, &at(1), link()),
    ];
    let terminals = [world.terminal("mn", dcs[0], public(10)), world.terminal("cn", dcs[1], public(11))];
    (world, dcs, terminals)
}

fn overlap(world: &World, dc: HostId) -> Option<(String, String, bool)> {
    let overlap = world.at_coordinator(dc).expect("a running DC").overlap()?;
    Some((overlap.peer.to_string(), overlap.vips.to_string(), overlap.at_start))
}

fn has_vip(world: &World, terminal: HostId) -> bool {
    world.at_terminal(terminal).is_some_and(|terminal| terminal.vip().is_some())
}

fn refused(world: &World, node: &str) -> usize {
    let is_it = |what: &What| matches!(what, What::Refused { field, .. } if field == "vips");
    world.trace().iter().filter(|o| o.node == node && is_it(&o.what)).count()
}

#[test]
fn a_dc_that_starts_beside_one_with_its_range_hands_out_nothing() {
    for ranges in [
        ("198.18.0.0/16", "198.18.0.0/16"),
        ("198.18.0.0/15", "198.19.4.0/24"),
        ("198.18.4.0/24", "198.18.0.0/16"),
    ] {
        let (mut world, dcs, terminals) = two(ranges.0, ranges.1);
        world.start(dcs[0]);
        world.start(terminals[0]);
        world.run_for(secs(15));
        assert!(has_vip(&world, terminals[0]), "nobody else was there: it goes on alone");
        assert_eq!(overlap(&world, dcs[0]), None);
        world.start(dcs[1]);
        world.start(terminals[1]);
        world.run_for(secs(30));
        let peer = world.fqdn(dcs[0]).to_string();
        assert_eq!(overlap(&world, dcs[1]), Some((peer, ranges.0.to_owned(), true)));
        assert!(!has_vip(&world, terminals[1]), "{}", ntm_sim::ladder::render(&world, world.trace()));
        assert_eq!(overlap(&world, dcs[0]), None, "who was there goes on");
        assert_eq!([refused(&world, "dc-a"), refused(&world, "dc-b")], [1, 1], "both trace it");
    }
}

#[test]
fn dcs_with_ranges_of_their_own_join_at_once_and_hand_out_soon() {
    let (mut world, dcs, terminals) = two("198.18.0.0/16", "198.19.0.0/16");
    dcs.into_iter().for_each(|dc| world.start(dc));
    terminals.into_iter().for_each(|terminal| world.start(terminal));
    world.run_for(secs(3));
    assert!(terminals.iter().all(|terminal| has_vip(&world, *terminal)));
    assert_eq!(dcs.map(|dc| overlap(&world, dc)), [None, None]);
    let talk = world.talk(terminals[0], terminals[1], common::PERIOD);
    world.run_for(secs(1));
    assert!(world.heard(talk).returned() > 30);
}

/// T3.1-d: whichever families they have, two that can reach each other say their ranges.
#[test]
fn dcs_find_each_other_in_a_family_that_both_have() {
    for has in Has::ALL.into_iter().flat_map(|first| Has::ALL.map(|second| [first, second])) {
        let (mut world, dcs, _) = two_of(has, "198.18.0.0/16", "198.18.0.0/16");
        world.start(dcs[0]);
        world.run_for(secs(15));
        world.start(dcs[1]);
        world.run_for(secs(15));
        let knows = overlap(&world, dcs[1]).is_some_and(|(.., at_start)| at_start);
        assert_eq!(knows, has[0].shares(has[1]), "{has:?}");
    }
}

/// Two that were cut off from each other come to know it later, when a terminal of one asks for a terminal of the other: the one that asks
/// hands out no VIP any more, the application gets SERVFAIL, and terminals that have their VIPs keep them.
#[test]
fn an_overlap_that_comes_out_late_stops_the_one_that_asks() {
    let (mut world, dcs, terminals) = two("198.18.0.0/16", "198.18.0.0/16");
    let late = world.terminal("late", dcs[0], public(12));
    world.cut([203, 0, 113, 3].into(), [203, 0, 113, 4].into());
    dcs.into_iter().for_each(|dc| world.start(dc));
    terminals.into_iter().for_each(|terminal| world.start(terminal));
    world.run_for(secs(30));
    assert!(terminals.iter().all(|terminal| has_vip(&world, *terminal)));
    world.mend();
    let asked = world.now();
    let ask = world.ask(terminals[0], "cn.b.ntm.test");
    assert!(world.wait(secs(8), |world| world.heard(ask).answer.is_some()));
    assert_eq!(world.heard(ask).answer.map(|(_, answer)| answer), Some(Err(DnsError::ServFail)));
    assert!(world.now() - asked < secs(1));
    assert_eq!(overlap(&world, dcs[0]).map(|overlap| overlap.2), Some(false));
    assert_eq!(overlap(&world, dcs[1]), None);
    world.start(late);
    world.run_for(secs(10));
    assert!(!has_vip(&world, late));
    assert!(world.at_terminal(terminals[0]).is_some_and(|terminal| terminal.is_registered()));
}

/// A third DC knows both: it takes in the first, and refuses the second, whose VIPs would be the same peers' to its terminals.
#[test]
fn a_third_dc_refuses_the_second_of_two_that_overlap() {
    let mut world = World::new(2);
    world.settings.ranges_known = false;
    let dcs = [
        ("dc-a", "a.ntm.test", "198.18.0.0/16", "203.0.113.3"),
        ("dc-b", "b.ntm.test", "198.18.128.0/17", "203.0.113.4"),
        ("dc-c", "c.ntm.test", "198.19.0.0/16", "203.0.113.5"),
    ]
    .map(|(name, zone, vips, at)| world.coordinator(name, zone, vips, at, link()));
    let at = |n: u8| std::net::IpAddr::from([203, 0, 113, n]);
    world.cut(at(3), at(4));
    world.start(dcs[2]);
    world.start(dcs[0]);
    world.run_for(secs(20));
    world.start(dcs[1]);
    world.run_for(secs(20));
    let peer = world.fqdn(dcs[2]).to_string();
    assert_eq!(overlap(&world, dcs[1]), Some((peer, "198.18.0.0/16".into(), true)));
    assert_eq!([overlap(&world, dcs[0]), overlap(&world, dcs[2])], [None, None]);
}
