//! IPv4 and IPv6 outside the tunnels (T3.1-d): ends, relays and DCs with addresses of one family or both.

mod common;

use common::{PERIOD, link, ms, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{Observation, RouteName, What};
use ntm_protocol::terminal::PathStatus;
use ntm_protocol::wire::DnsError;
use ntm_sim::worlds::families::{Has, Nats, way};
use ntm_sim::{HostId, INTERNET, Interface, NetworkId, TalkId, World};

/// The interfaces of host `n`, which has these families, in a network.
fn at(has: Has, network: NetworkId, n: u8) -> Vec<Interface> {
    let v4 = if network == INTERNET { format!("203.0.113.{n}") } else { format!("10.0.0.{n}") };
    let interface =
        |address: String| Interface { network, address: address.parse().expect("an address"), link: link() };
    has.of(v4, format!("2001:db8::{n}")).into_iter().map(interface).collect()
}

/// A world with a DC, a relay and general nodes.
struct Lab {
    world: World,
    dc: HostId,
    relay: HostId,
}

impl Lab {
    fn new(dc: Has, relay: Has) -> Self {
        let mut world = World::new(1);
        let dc = world.coordinator_at(
            "dc",
            "ntm.test",
            "198.18.0.0/16",
            &dc.of("203.0.113.3", "2001:db8::3"),
            link(),
        );
        let relay = world.relay_at("rs", &[dc], &relay.of("203.0.113.5", "2001:db8::5"), link());
        world.general("old", &["old.example.test"], at(Has::V4, INTERNET, 80)[0]);
        world.general("new", &["new.example.test"], at(Has::V6, INTERNET, 81)[0]);
        Self { world, dc, relay }
    }

    /// A network behind a NAT through which no two can speak directly.
    fn nat(&mut self, n: u8) -> NetworkId {
        let external = format!("203.0.113.{n}");
        self.world.router(&format!("nat{n}"), Behaviour::SYMMETRIC, INTERNET, &external, link())
    }

    fn terminal(&mut self, name: &str, at: &[Interface]) -> HostId {
        self.world.terminal_at(name, self.dc, at)
    }

    fn start(&mut self) {
        self.world.start_all();
        self.world.run_for(secs(1));
    }

    fn path(&self, host: HostId) -> Option<PathStatus> {
        self.world.at_terminal(host).expect("a running terminal").paths().first().cloned()
    }

    /// The two talk, for some time; whether every packet of the last second came back.
    fn flows(&mut self, talk: TalkId) -> bool {
        self.world.run_for(secs(3));
        let now = self.world.now();
        let heard = self.world.heard(talk);
        let due = heard.packets.iter().filter(|packet| (ms(500)..secs(2)).contains(&(now - packet.sent)));
        let due: Vec<_> = due.collect();
        due.len() > 50 && due.iter().all(|packet| packet.returned.is_some())
    }

    /// Why the DC directed no path.
    fn undirected(&self) -> Vec<(DnsError, String)> {
        let undirected = self.world.trace().iter().filter_map(|observation| match &observation.what {
            What::Undirected { error, reason, .. } => Some((*error, reason.clone())),
            _ => None,
        });
        undirected.collect()
    }
}

/// T3.1-d: a common family serves directly where NATs allow it, a relay stands between the families, and where it cannot, DNS says so.
#[test]
fn every_pair_of_families_takes_the_way_that_it_can() {
    let mut ways = Vec::new();
    for natted in [false, true] {
        for relay in Has::ALL {
            for a in Has::ALL {
                for b in Has::ALL {
                    let mut lab = Lab::new(Has::Both, relay);
                    let places = if natted { [lab.nat(101), lab.nat(102)] } else { [INTERNET; 2] };
                    let mn = lab.terminal("mn", &at(a, places[0], 10));
                    let cn = lab.terminal("cn", &at(b, places[1], 11));
                    lab.start();
                    let talk = lab.world.talk(mn, cn, PERIOD);
                    let flows = lab.flows(talk);
                    let nats = if natted { Nats::Closed } else { Nats::Open };
                    let case = format!("{a:?} and {b:?}, relay {relay:?}, NATs {natted}");
                    let wanted = way([a, b], nats, &[relay]);
                    ways.push(wanted);
                    let found = [mn, cn].map(|end| lab.path(end).map(|path| path.route));
                    assert_eq!(found, [wanted; 2], "{case}");
                    assert_eq!(flows, wanted.is_some(), "{case}");
                    for (end, has) in [(mn, a), (cn, b)] {
                        let remote = lab.path(end).and_then(|path| path.remote);
                        assert!(
                            remote.is_none_or(|it| if it.is_ipv4() { has.v4() } else { has.v6() }),
                            "{case}"
                        );
                    }
                    let reason = "no relay has an address of each family that the ends have";
                    let refused = wanted.is_none().then(|| (DnsError::ServFail, reason.to_owned()));
                    assert_eq!(lab.undirected(), Vec::from_iter(refused), "{case}");
                }
            }
        }
    }
    let count = |way| ways.iter().filter(|found| **found == way).count();
    assert!(
        [Some(RouteName::Direct), Some(RouteName::Switched), None].into_iter().all(|way| count(way) >= 6)
    );
}

/// A DC is reached in a family that the node has; in IPv4, where NATs stand whose mapping it must see, when there are both.
#[test]
fn a_dc_is_reached_in_a_family_that_the_node_has() {
    for dc in Has::ALL {
        for end in Has::ALL {
            let mut lab = Lab::new(dc, dc);
            let mn = lab.terminal("mn", &at(end, INTERNET, 10));
            lab.start();
            let registered = lab.world.at_terminal(mn).unwrap().is_registered();
            assert_eq!(registered, dc.shares(end), "{dc:?} {end:?}");
            let seen = lab.world.trace().iter().find_map(|observation| match &observation.what {
                What::Registered { seen, .. } if observation.node == "mn" => Some(seen.ip()),
                _ => None,
            });
            let wanted = registered.then_some(dc.v4() && end.v4());
            assert_eq!(seen.map(|seen| seen.is_ipv4()), wanted, "{dc:?} {end:?}");
        }
    }
}

/// Where the DC does not answer in one family, the other serves until it does.
#[test]
fn a_dc_that_is_silent_in_one_family_is_asked_in_the_other() {
    let mut lab = Lab::new(Has::Both, Has::Both);
    let mn = lab.terminal("mn", &at(Has::Both, INTERNET, 10));
    lab.world.cut([203, 0, 113, 3].into(), [203, 0, 113, 10].into());
    lab.world.start_all();
    let registered = |world: &World| world.at_terminal(mn).unwrap().is_registered();
    assert!(lab.world.wait(secs(30), registered), "{:#?}", lab.world.trace());
    let talk = lab.world.talk_to(mn, "new.example.test", PERIOD);
    assert!(lab.flows(talk));
    let by_v4 = |world: &World| {
        let seen = |observation: &Observation| match &observation.what {
            What::Registered { seen, .. } if observation.node == "mn" => Some(seen.is_ipv4()),
            _ => None,
        };
        world.trace().iter().rev().find_map(seen).expect("it was registered")
    };
    lab.world.run_for(secs(60));
    assert!(!by_v4(&lab.world));
    lab.world.mend();
    assert!(lab.world.wait(secs(25), by_v4), "what its NAT shows is for the DC to see");
    assert!(lab.flows(talk));
}

/// Who knows no address where the peer could be asked waits to be asked, and no longer than it would ask: the DC was spoken to in IPv6 alone, so that
/// it does not know where the peer's NAT shows it, and the peer does not hear its direction.
#[test]
fn who_is_not_asked_and_cannot_ask_gives_up() {
    let mut lab = Lab::new(Has::Both, Has::Both);
    let home = lab.nat(100);
    let mn = lab.terminal("mn", &at(Has::V4, INTERNET, 10));
    let cn = lab.terminal("cn", &at(Has::Both, home, 11));
    lab.world.cut([203, 0, 113, 3].into(), [203, 0, 113, 100].into());
    lab.world.start_all();
    let registered = |world: &World| world.at_terminal(cn).unwrap().is_registered();
    assert!(lab.world.wait(secs(30), registered));
    let [dc, peer] = [3, 11].map(|n| format!("2001:db8::{n}").parse().expect("an address"));
    lab.world.cut_one_way(dc, peer);
    let talk = lab.world.talk(mn, cn, PERIOD);
    lab.world.run_for(secs(1));
    assert_eq!(lab.world.heard(talk).answer, None);
    let directed = lab.world.trace().iter().filter(|it| matches!(it.what, What::Directed { .. })).count();
    assert_eq!(directed, 1, "a path, of which the peer has not heard");
    lab.world.run_for(secs(20));
    assert!(matches!(lab.world.heard(talk).answer, Some((_, Err(_)))), "{:?}", lab.world.heard(talk).answer);
    lab.world.mend();
    let talk = lab.world.talk(mn, cn, PERIOD);
    assert!(lab.flows(talk));
}

/// A handover between a network that has only IPv4 and one that has only IPv6, and back: the flow with a terminal, and those with general
/// nodes, whose relay stays (T4.2.5-b), live on.
#[test]
fn flows_live_through_a_change_of_family() {
    let mut lab = Lab::new(Has::Both, Has::Both);
    let nat = lab.nat(101);
    let mn = lab.terminal("mn", &at(Has::V4, nat, 10));
    let cn = lab.terminal("cn", &at(Has::V4, INTERNET, 11));
    lab.start();
    let talks = [
        lab.world.talk(mn, cn, PERIOD),
        lab.world.talk_to(mn, "old.example.test", PERIOD),
        lab.world.talk_to(mn, "new.example.test", PERIOD),
    ];
    lab.world.run_for(secs(1));
    let route = |lab: &Lab| {
        let paths = lab.world.at_terminal(mn).unwrap().paths();
        paths.iter().find(|path| path.peer.as_str() == "cn.ntm.test").map(|path| path.route)
    };
    for (place, way) in [
        (at(Has::V6, nat, 10), RouteName::Switched),
        (at(Has::V4, INTERNET, 12), RouteName::Direct),
        (at(Has::V6, INTERNET, 13), RouteName::Switched),
        (at(Has::Both, nat, 14), RouteName::Direct),
    ] {
        lab.world.move_to(mn, &place);
        lab.world.run_for(ms(500));
        for talk in talks {
            assert!(lab.flows(talk), "{:?} to {way:?}", lab.world.heard(talk).peer);
        }
        assert_eq!(route(&lab), Some(way));
    }
    let general: Vec<_> =
        lab.world.hosts().filter(|host| ["old", "new"].contains(&lab.world.name(*host))).collect();
    for host in general {
        assert_eq!(
            lab.world.sources_heard(host).len(),
            1,
            "the general node saw one address and port all along"
        );
    }
}

/// A general node that has only AAAA is reached through a relay that has IPv6; where none has, the DNS answer is NODATA.
#[test]
fn a_general_node_with_only_aaaa_needs_a_relay_with_ipv6() {
    for relay in Has::ALL {
        for end in Has::ALL.into_iter().filter(|end| end.shares(relay)) {
            let mut lab = Lab::new(Has::Both, relay);
            let mn = lab.terminal("mn", &at(end, INTERNET, 10));
            lab.start();
            let talk = lab.world.talk_to(mn, "new.example.test", PERIOD);
            let flows = lab.flows(talk);
            assert_eq!(flows, relay.v6(), "{relay:?} {end:?}");
            let answer = lab.world.heard(talk).answer.map(|(_, answer)| answer);
            if relay.v6() {
                assert!(answer.is_some_and(|answer| answer.is_ok()));
                let heard = lab.world.hosts().find(|host| lab.world.name(*host) == "new").unwrap();
                let sources: Vec<_> =
                    lab.world.sources_heard(heard).iter().map(|at| at.ip().to_string()).collect();
                assert_eq!(sources, ["2001:db8::5"], "T4.2.3-b: the general node sees the relay alone");
            } else {
                assert_eq!(answer, Some(Err(DnsError::NoData)));
                let reason = "the name has only IPv6 addresses, and no relay has IPv6";
                assert_eq!(lab.undirected(), [(DnsError::NoData, reason.to_owned())]);
            }
        }
    }
}

/// A relay that one end cannot reach is not chosen.
#[test]
fn of_several_relays_one_that_serves_both_ends_is_chosen() {
    let mut lab = Lab::new(Has::Both, Has::V4);
    let both = lab.world.relay_at("rs2", &[lab.dc], &Has::Both.of("203.0.113.6", "2001:db8::6"), link());
    lab.world.relay_at("rs3", &[lab.dc], &Has::V6.of("", "2001:db8::7"), link());
    let mn = lab.terminal("mn", &at(Has::V4, INTERNET, 10));
    let cn = lab.terminal("cn", &at(Has::V6, INTERNET, 11));
    lab.start();
    let talk = lab.world.talk(mn, cn, PERIOD);
    assert!(lab.flows(talk));
    let entries = |lab: &Lab, relay| lab.world.at_relay(relay).unwrap().table().len();
    assert_eq!((entries(&lab, both), entries(&lab, lab.relay)), (1, 0));
    let remotes = [mn, cn].map(|end| lab.path(end).unwrap().remote.unwrap().to_string());
    assert_eq!(remotes, ["203.0.113.6:4330", "[2001:db8::6]:4330"]);
}
