//! Which way packets take, between whom (T3.1-d, T4.1.2-b), and RS-N's translation (4.2).

mod common;

use common::{Lab, PERIOD, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_nat::direct_possible;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::wire::{DnsError, Kind};
use std::net::SocketAddr;

#[test]
fn one_end_global_is_direct_whoever_calls() {
    for caller in 0..2 {
        let mut lab = Lab::new(1);
        let nat = lab.nat(Behaviour::SYMMETRIC);
        let ends = [lab.mn(inside(nat, 2)), lab.cn(public(11))];
        lab.start();
        let talk = lab.talk(ends[caller], ends[1 - caller]);
        lab.assert_flowing(talk);
        assert_eq!(ends.map(|end| lab.route(end)), [RouteName::Direct; 2], "called by {caller}");
        let relays = lab.world.trace().iter().filter(|o| matches!(o.what, What::RelayTable { .. })).count();
        assert_eq!(relays, 0, "no relay was needed");
    }
}

#[test]
fn both_global_is_direct() {
    let mut lab = Lab::new(2);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    lab.start();
    let talk = lab.talk(mn, cn);
    lab.assert_flowing(talk);
    assert_eq!([lab.route(mn), lab.route(cn)], [RouteName::Direct; 2]);
}

/// T3.2.2-c: what the peer's DC answers holds its real address beside the one that the NAT shows.
#[test]
fn behind_one_nat_the_real_addresses_serve() {
    let mut lab = Lab::new(3);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn) = (lab.mn(inside(nat, 2)), lab.cn(inside(nat, 3)));
    lab.start();
    let talk = lab.talk(mn, cn);
    lab.assert_flowing(talk);
    for (end, peer) in [(mn, "10.0.0.3:4330"), (cn, "10.0.0.2:4330")] {
        let paths = lab.world.at_terminal(end).expect("a running terminal").paths();
        assert_eq!((paths[0].route, paths[0].remote), (RouteName::Direct, Some(peer.parse().unwrap())));
    }
}

/// T4.1.2-b: RS-S first; then direct exactly where the NATs allow it, by the NAT library's oracle. T3.2.2-c: each end is told what the
/// other's NAT shows, though another DC saw it.
#[test]
fn routes_are_optimised_where_the_nats_allow_it() {
    let classic = [
        Behaviour::FULL_CONE,
        Behaviour::ADDRESS_RESTRICTED,
        Behaviour::PORT_RESTRICTED,
        Behaviour::SYMMETRIC,
    ];
    for a in classic {
        for b in classic {
            let mut lab = Lab::new(4);
            let networks = [lab.nat(a), lab.nat(b)];
            let (mn, cn) = (lab.mn(inside(networks[0], 2)), lab.cn(inside(networks[1], 2)));
            lab.start();
            let start = lab.world.trace().len();
            let talk = lab.talk(mn, cn);
            lab.world.run_for(secs(5));
            lab.assert_flowing(talk);
            let wanted = if direct_possible(a, b) { RouteName::Direct } else { RouteName::Switched };
            assert_eq!([lab.route(mn), lab.route(cn)], [wanted; 2], "{a} and {b}\n{}", lab.sequence(start));
            let first = lab.world.trace()[start..].iter().find_map(|observation| match &observation.what {
                What::PathChanged { route, .. } => Some(*route),
                _ => None,
            });
            assert_eq!(first, Some(RouteName::Switched), "the relayed path carries first");
            let heard = lab.world.heard(talk);
            assert_eq!(heard.packets.iter().filter(|packet| !packet.had_path).count(), 0);
            assert!(
                heard.packets[..heard.packets.len() - 10].iter().all(|packet| packet.returned.is_some()),
                "{a} and {b}: optimisation lost a packet"
            );
        }
    }
}

/// A direct path that stops answering is left for the relay within three keep-alives, and not before it stops.
#[test]
fn a_dead_direct_path_falls_back_to_the_relay() {
    for one_way in [1, 5, 40, 120] {
        let mut lab = Lab::new(5);
        let (a, b) = (lab.nat(Behaviour::FULL_CONE), lab.nat(Behaviour::FULL_CONE));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.world.impair(|link| link.delay = ms(one_way));
        lab.world.start_all();
        lab.world.run_for(secs(10));
        let talk = lab.world.talk(mn, cn, PERIOD);
        lab.world.run_for(secs(60));
        assert_eq!([lab.route(mn), lab.route(cn)], [RouteName::Direct; 2]);
        lab.world.cut([203, 0, 113, 101].into(), [203, 0, 113, 102].into());
        lab.world.run_for(secs(15));
        assert_eq!(
            [lab.route(mn), lab.route(cn)],
            [RouteName::Switched; 2],
            "{one_way} ms\n{}",
            lab.ladder(0)
        );
        lab.assert_flowing(talk);
    }
}

#[test]
fn rs_n_carries_both_ways_and_hides_the_terminal() {
    let mut lab = Lab::new(6);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    let talk = lab.talk(mn, gn);
    lab.assert_flowing(talk);
    assert_eq!(lab.route(mn), RouteName::Translated);
    // T4.2.3-b.
    let sources = lab.world.sources_heard(gn);
    let ips: Vec<_> = sources.iter().map(SocketAddr::ip).collect();
    assert_eq!(ips, [std::net::IpAddr::from([203, 0, 113, 5])]);
    let vip = lab.world.heard(talk).vip().unwrap();
    assert!(vip.0.octets()[..2] == [198, 18], "T4.2.4-a: from the DC's own range, not {vip}");
}

/// T4.2.4-a, decided: two names of one address share one VIP_GN.
#[test]
fn two_names_of_one_address_have_one_vip() {
    let mut lab = Lab::new(7);
    let (mn, gn) = (lab.mn(public(10)), lab.gn);
    lab.start();
    let first = lab.talk(mn, gn);
    let second = lab.world.talk_to(mn, "alias.example.test", PERIOD);
    lab.world.run_for(secs(2));
    let vips = [first, second].map(|talk| lab.world.heard(talk).vip());
    assert!(vips[0].is_some() && vips[0] == vips[1], "{vips:?}");
    lab.world.run_for(secs(30));
    lab.assert_flowing(first);
    lab.assert_flowing(second);
    // Asked for in turns, they disturb nothing: the path knows both names.
    let from = lab.world.now();
    for name in ["www.example.test", "alias.example.test", "www.example.test"] {
        lab.world.ask(mn, name);
        lab.world.run_for(secs(1));
    }
    let silence = lab.world.heard(first).longest_silence(from, lab.world.now());
    assert!(silence < PERIOD * 2, "{silence:?}\n{}", lab.ladder(0));
    assert_eq!(lab.world.at_terminal(mn).expect("a running terminal").paths().len(), 1);
    assert_eq!(lab.world.at_relay(lab.rs).expect("a running relay").table().len(), 1);
}

/// TA-a: one terminal talks to two general nodes and two terminals.
#[test]
fn two_general_nodes_and_two_terminals_at_once() {
    let mut lab = Lab::new(8);
    let other = lab.world.general("gn2", &["www.other.test"], public(81));
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn, gn) = (lab.mn(inside(nat, 2)), lab.cn(inside(nat, 3)), lab.gn);
    lab.start();
    let talks = [(mn, gn), (mn, other), (cn, gn), (cn, other), (mn, cn)]
        .map(|(from, to)| lab.world.talk(from, to, PERIOD));
    lab.world.run_for(secs(2));
    for talk in talks {
        lab.assert_flowing(talk);
    }
    let vips: std::collections::BTreeSet<_> = talks.iter().map(|talk| lab.world.heard(*talk).vip()).collect();
    assert_eq!(vips.len(), 5, "two of each DC, and the terminal's");
}

/// Names that lead nowhere get the error that DNS has for it, and in time.
#[test]
fn names_that_lead_nowhere_get_an_error() {
    let mut lab = Lab::new(9);
    let mn = lab.mn(public(10));
    let absent = lab.world.terminal("absent", lab.dc[1], public(12));
    lab.start();
    lab.world.crash(absent);
    lab.world.run_for(secs(30));
    for (name, error) in [
        ("nobody.b.ntm.test", DnsError::NxDomain),
        ("absent.b.ntm.test", DnsError::ServFail),
        ("www.nowhere.example", DnsError::NxDomain),
        ("nobody.example.test", DnsError::NxDomain),
    ] {
        let asked = lab.world.now();
        let ask = lab.world.ask(mn, name);
        assert!(
            lab.world.wait(secs(3), |world| world.heard(ask).answer.is_some()),
            "{name}\n{}",
            lab.ladder(0)
        );
        let (at, answer) = lab.world.heard(ask).answer.unwrap();
        assert_eq!(answer, Err(error), "{name}");
        assert!(at - asked < secs(2));
    }
}

/// T3.2.2-b: whoever serves a zone may say that it is a DC, and even that it is another's, at an address of his own. Nobody believes him: the
/// application gets SERVFAIL, the cause stands in the trace, and that other DC is found where it was.
#[test]
fn a_zone_that_lies_about_its_dc_misleads_nobody() {
    let mut lab = Lab::new(12);
    let (mn, cn) = (lab.mn(public(10)), lab.cn(public(11)));
    let evil = public(66);
    lab.world.general("evil", &["www.evil.test"], evil);
    let theirs = lab.world.fqdn(lab.dc[1]).clone();
    for (zone, server) in [("liar.test", "ns.liar.test".parse().unwrap()), ("mimic.test", theirs)] {
        let data = lab.world.dns.zone(&zone.parse().unwrap());
        data.servers = vec![(server, vec![evil.address])];
        data.texts = vec!["ntm-dc=1".to_owned()];
    }
    lab.start();
    for (name, reason) in
        [("mn.liar.test", "not known here"), ("mn.mimic.test", "contradicts what is known here")]
    {
        let (asked, from) = (lab.world.now(), lab.world.trace().len());
        let ask = lab.world.ask(mn, name);
        assert!(lab.world.wait(secs(2), |world| world.heard(ask).answer.is_some()), "{name}");
        assert_eq!(lab.world.heard(ask).answer.map(|(_, answer)| answer), Some(Err(DnsError::ServFail)));
        assert!(lab.world.now() - asked < ms(200));
        let why = lab.world.trace()[from..].iter().find_map(|o| match &o.what {
            What::Refused { from, field, reason } if o.node == "dc-a" => {
                Some((*from, field.clone(), reason.clone()))
            }
            _ => None,
        });
        let at = SocketAddr::new(evil.address, 4330);
        assert_eq!(why, Some((at, "dc record".to_owned(), reason.to_owned())), "{name}");
    }
    let talk = lab.talk(mn, cn);
    lab.assert_flowing(talk);
}

/// Every request is repeated until answered, and then no more: a quiet world sends keep-alives alone, and seldom tries whether a path that
/// is relayed can be direct by now (T4.1.2-b).
#[test]
fn a_quiet_world_sends_keep_alives_alone() {
    let mut lab = Lab::new(10);
    let (a, b) = (lab.nat(Behaviour::PORT_RESTRICTED), lab.nat(Behaviour::SYMMETRIC));
    let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
    lab.start();
    lab.talk(mn, cn);
    lab.talk(cn, gn);
    lab.world.run_for(secs(30));
    let start = lab.world.trace().len();
    lab.world.run_for(secs(600));
    let mut tries = 0;
    for observation in &lab.world.trace()[start..] {
        let quiet = match &observation.what {
            What::Sent { message: Kind::TunnelRequest, to, .. } => {
                tries += 1;
                to.ip() != std::net::IpAddr::from([203, 0, 113, 5])
            }
            What::GaveUp { message, .. } => *message == Kind::TunnelRequest,
            What::Sent { message, attempt, .. } => *attempt == 1 && message.name().contains("KeepAlive"),
            What::Received { message, .. } => *message != Kind::Error,
            _ => false,
        };
        assert!(quiet, "{observation:?}");
    }
    // At each end five more tries, of six sendings to the one address.
    assert!(tries <= 2 * 5 * 6, "{tries} Tunnel Requests");
}

/// Both ends ask for each other at once: whatever paths come of it, packets flow, also when one of them dies.
#[test]
fn two_that_call_each_other_at_once() {
    for apart in [0, 1, 2, 5, 9, 14, 20, 40] {
        let mut lab = Lab::new(apart + 11);
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        let first = lab.world.talk(mn, cn, PERIOD);
        lab.world.run_for(ms(apart));
        let second = lab.world.talk(cn, mn, PERIOD);
        lab.world.run_for(secs(3));
        lab.assert_flowing(first);
        lab.assert_flowing(second);
        lab.world.move_to(mn, &[inside(b, 7)]);
        lab.world.run_for(secs(1));
        lab.assert_flowing(first);
        lab.assert_flowing(second);
        lab.world.crash(lab.rs);
        lab.world.start(lab.rs);
        lab.world.run_for(secs(40));
        lab.assert_flowing(first);
        lab.assert_flowing(second);
    }
}
