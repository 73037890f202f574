//! `handover = "fast"`, an extension of T4.1.4-a and T4.2.5-a: a terminal shows its new address at once, and packets flow one round trip after it
//! is there; the thesis's procedure follows.

mod common;

use std::net::SocketAddr;

use common::{BOTH, Lab, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::terminal::Handover::{self, Fast, Thesis};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{Header, Kind, Role};
use ntm_sim::{HostId, Interface, Link, TalkId};

/// Who MN talks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peer {
    /// A general node: RS-N.
    General,
    /// A terminal behind a symmetric NAT, and so is MN: RS-S.
    Symmetric,
    /// A terminal with a global address.
    Global,
}

const PEERS: [Peer; 3] = [Peer::General, Peer::Symmetric, Peer::Global];

struct Scene {
    lab: Lab,
    mn: HostId,
    cn: HostId,
    /// From MN to its peer, and back: each a packet a millisecond.
    talks: Vec<TalkId>,
    old: Interface,
    /// Where MN can move to, of the same kind.
    new: [Interface; 2],
}

/// MN talks to `peer` and moves as `how` says.
fn scene(how: Handover, peer: Peer, seed: u64) -> Scene {
    let mut lab = Lab::of(seed, how);
    let place = |lab: &mut Lab, n: u8| match peer {
        Peer::Symmetric => {
            let network = lab.nat(Behaviour::SYMMETRIC);
            inside(network, n)
        }
        Peer::General | Peer::Global => public(10 + n),
    };
    let (old, new) = (place(&mut lab, 2), [place(&mut lab, 3), place(&mut lab, 4)]);
    let mn = lab.mn(old);
    let cn = match peer {
        Peer::General => lab.gn,
        Peer::Symmetric => {
            let network = lab.nat(Behaviour::SYMMETRIC);
            lab.cn(inside(network, 2))
        }
        Peer::Global => lab.cn(public(40)),
    };
    lab.start();
    // So that some Path Keep-alives were said.
    let first = lab.talk(mn, cn);
    lab.world.run_for(secs(16));
    lab.world.hang_up(first);
    let mut talks = vec![lab.world.talk(mn, cn, ms(1))];
    lab.world.run_for(secs(1));
    if peer != Peer::General {
        talks.push(lab.world.talk(cn, mn, ms(1)));
    }
    lab.world.run_for(secs(1));
    let route = match peer {
        Peer::General => RouteName::Translated,
        Peer::Symmetric => RouteName::Switched,
        Peer::Global => RouteName::Direct,
    };
    assert_eq!(lab.route(mn), route);
    Scene { lab, mn, cn, talks, old, new }
}

impl Scene {
    /// When the first packet of the other direction came to MN, and of MN to its peer, since `from`.
    fn first_since(&self, from: Instant) -> (Option<Instant>, Option<Instant>) {
        let first = |times: &mut dyn Iterator<Item = Option<Instant>>| {
            times.flatten().filter(|time| *time >= from).min()
        };
        let own = &self.lab.world.heard(self.talks[0]).packets;
        let out = first(&mut own.iter().map(|packet| packet.arrived));
        // A general node only answers.
        let into = match self.talks.get(1) {
            Some(talk) => first(&mut self.lab.world.heard(*talk).packets.iter().map(|p| p.arrived)),
            None => first(&mut own.iter().map(|packet| packet.returned)),
        };
        (into, out)
    }

    /// Where the relay's table says that MN's tunnel ends.
    fn tunnel(&self) -> Option<SocketAddr> {
        let rows = self.lab.world.at_relay(self.lab.rs).expect("a running relay").table().rows();
        let tunnels = rows.iter().flat_map(|row| &row.tunnels);
        tunnels.filter(|tunnel| tunnel.side == Role::Initiator).find_map(|tunnel| tunnel.tunnel)
    }

    /// Where the peer sends what is for MN.
    fn peer_sends_to(&self) -> Option<SocketAddr> {
        self.lab.world.at_terminal(self.cn).and_then(|cn| cn.paths()[0].remote)
    }

    /// MN's DC is gone: what follows is done without it.
    fn silence_the_dc(&mut self) {
        self.lab.world.crash(self.lab.dc[0]);
    }

    fn epoch(&self) -> u8 {
        self.lab.world.at_terminal(self.mn).expect("a running terminal").paths()[0].epoch
    }
}

/// T4.1.4-a, T4.2.5-a: after a gap, packets flow in both directions one round trip after the new address is there, where the procedure alone takes several.
/// The round trip is that to the relay, or where the way is direct to the peer.
#[test]
fn packets_flow_one_round_trip_after_the_address_is_there() {
    for peer in PEERS {
        // One way to the relay or peer that is shown the address, and on to the peer.
        let (first, second) = match peer {
            Peer::General => (ms(4), ms(4)),
            Peer::Symmetric => (ms(6), ms(6)),
            Peer::Global => (ms(4), ms(0)),
        };
        for how in BOTH {
            let mut scene = scene(how, peer, 3);
            let sources = scene.lab.world.sources_heard(scene.cn);
            let epoch = scene.epoch();
            scene.lab.world.move_to(scene.mn, &[]);
            scene.lab.world.run_for(ms(50));
            scene.lab.world.move_to(scene.mn, &[scene.new[0]]);
            let up = scene.lab.world.now();
            // A packet of before may still be under way; it was sent to the old address.
            scene.lab.world.run_for(secs(1));
            let (into, out) = scene.first_since(up + ms(1));
            let [into, out] = [into, out].map(|at| at.expect("packets flow again") - up);
            println!("{peer:?}, {how:?}: in {into:?}, out {out:?}");
            let round_trip = first * 2;
            // What comes from a general node is an answer, which takes its time.
            let answer = if peer == Peer::General { round_trip + second * 2 } else { Duration::ZERO };
            let bounds = [round_trip + answer, round_trip + first + second];
            let within = [into, out].iter().zip(bounds).all(|(took, bound)| *took <= bound + ms(1));
            let beyond = [into, out].iter().zip(bounds).all(|(took, bound)| *took > bound + round_trip);
            match how {
                Fast => assert!(
                    within,
                    "{peer:?}: {into:?} and {out:?}, not {bounds:?}\n{}",
                    scene.lab.sequence(0)
                ),
                Thesis => assert!(
                    beyond,
                    "{peer:?}: the procedure is not told from its extension: {into:?}, {out:?}"
                ),
            }
            // The procedure took the place of what was done meanwhile; T4.2.5-b: a general node sees who it saw.
            assert_eq!(scene.epoch(), epoch + 2);
            assert_eq!(scene.lab.world.sources_heard(scene.cn), sources);
            scene.talks.clone().into_iter().for_each(|talk| scene.lab.assert_flowing(talk));
        }
    }
}

/// Both ends of a path through an RS-S move at once: each shows the relay where it is.
#[test]
fn both_ends_may_show_the_relay_where_they_are() {
    let mut scene = scene(Fast, Peer::Symmetric, 5);
    let there = scene.lab.nat(Behaviour::SYMMETRIC);
    for end in [scene.mn, scene.cn] {
        scene.lab.world.move_to(end, &[]);
    }
    scene.lab.world.run_for(ms(30));
    scene.lab.world.move_to(scene.mn, &[scene.new[0]]);
    scene.lab.world.move_to(scene.cn, &[inside(there, 2)]);
    let up = scene.lab.world.now();
    scene.lab.world.run_for(secs(1));
    let (into, out) = scene.first_since(up + ms(1));
    for took in [into, out].map(|at| at.expect("packets flow again") - up) {
        // A round trip of 12 ms to the relay, and the way.
        assert!(took <= ms(25), "{took:?}\n{}", scene.lab.sequence(0));
    }
    scene.talks.clone().into_iter().for_each(|talk| scene.lab.assert_flowing(talk));
}

/// It needs no DC: the tunnel, and what the Relay Table shows of it (TA-c), follow the terminal while its DC is silent.
#[test]
fn the_dc_has_no_part_in_it() {
    for peer in PEERS {
        let mut scene = scene(Fast, peer, 7);
        scene.silence_the_dc();
        let before = scene.tunnel();
        scene.lab.world.move_to(scene.mn, &[scene.new[0]]);
        scene.lab.world.run_for(ms(100));
        for talk in scene.talks.clone() {
            scene.lab.assert_flowing(talk);
        }
        match peer {
            Peer::Global => {
                assert_eq!(scene.peer_sends_to(), Some(SocketAddr::new(scene.new[0].address, 4330)))
            }
            _ => assert_ne!(scene.tunnel(), before),
        }
    }
}

/// What was said where the terminal was before, and comes later than what it said since, moves nothing back: neither Path Keep-alives nor the
/// word of a place between.
#[test]
fn what_comes_late_moves_nothing_back() {
    for peer in PEERS {
        let mut scene = scene(Fast, peer, 11);
        scene.silence_the_dc();
        // Whatever leaves the old network is 400 ms under way; and a Path Keep-alive leaves it every five seconds.
        let mut slow = Link::of(ms(2));
        slow.up.delay = ms(400);
        let (old, world) = (Interface { link: slow, ..scene.old }, &mut scene.lab.world);
        world.relink(&old);
        let kept_open = |world: &ntm_sim::World, from: usize| {
            let is_it = |what: &What| matches!(what, What::Sent { message: Kind::PathKeepAlive, .. });
            world.trace()[from..].iter().any(|o| o.node == "mn" && is_it(&o.what))
        };
        let from = world.trace().len();
        assert!(world.wait(secs(6), |world| kept_open(world, from)));
        let between = Interface { link: slow, ..scene.new[0] };
        world.move_to(scene.mn, &[between]);
        world.run_for(ms(20));
        world.move_to(scene.mn, &[scene.new[1]]);
        world.run_for(ms(30));
        let (tunnel, remote, from) = (scene.tunnel(), scene.peer_sends_to(), scene.lab.world.trace().len());
        scene.lab.world.run_for(ms(600));
        let late = scene.lab.world.trace()[from..].iter().filter(|o| {
            matches!(o.what, What::Received { message: Kind::TunnelRequest | Kind::PathKeepAlive, .. })
                && (o.node == "rs" || o.node == "cn")
        });
        assert!(late.count() >= 2, "nothing came late: the test shows nothing");
        assert_eq!(
            (scene.tunnel(), scene.peer_sends_to()),
            (tunnel, remote),
            "{peer:?}\n{}",
            scene.lab.ladder(from)
        );
        scene.talks.clone().into_iter().for_each(|talk| scene.lab.assert_flowing(talk));
    }
}

/// While the peer has the path directed anew, again and again, and this end does not hear of it: its tunnel still stands, and can be moved.
#[test]
fn directions_that_never_come_change_nothing() {
    let mut scene = scene(Fast, Peer::Symmetric, 12);
    let world = &mut scene.lab.world;
    // All of MN's networks, at the NATs' outer addresses, lie beyond what the DC reaches.
    for router in 1..=8 {
        world.cut_one_way([203, 0, 113, 3].into(), [203, 0, 113, 100 + router].into());
    }
    let homes = [0; 3].map(|_| scene.lab.nat(Behaviour::SYMMETRIC));
    let from = scene.lab.world.trace().len();
    for home in homes {
        scene.lab.world.move_to(scene.cn, &[inside(home, 2)]);
        scene.lab.world.run_for(ms(300));
    }
    let directed = scene.lab.world.trace()[from..]
        .iter()
        .filter(|o| o.node == "rs" && matches!(o.what, What::Received { message: Kind::RelayDirection, .. }));
    assert!(directed.count() >= 2, "{}", scene.lab.ladder(from));
    let before = scene.tunnel();
    scene.lab.world.move_to(scene.mn, &[scene.new[0]]);
    scene.lab.world.run_for(ms(50));
    assert_ne!(scene.tunnel(), before, "{}", scene.lab.ladder(from));
}

/// Whoever sends again what a terminal said, from elsewhere, or changes it, moves nothing.
#[test]
fn nobody_else_moves_a_path() {
    for peer in PEERS {
        let mut scene = scene(Fast, peer, 13);
        scene.silence_the_dc();
        scene.lab.world.record();
        for place in [scene.new[0], scene.new[1], scene.new[0]] {
            scene.lab.world.move_to(scene.mn, &[place]);
            scene.lab.world.run_for(ms(100));
        }
        let (tunnel, remote) = (scene.tunnel(), scene.peer_sends_to());
        let recorded = scene.lab.world.recorded().to_vec();
        let shows = recorded.iter().filter(|datagram| {
            Header::parse(&datagram.bytes).is_ok_and(|header| header.kind == Kind::TunnelRequest)
        });
        let mut count = 0;
        for show in shows {
            count += 1;
            let stranger: SocketAddr = "203.0.113.66:6666".parse().unwrap();
            let mut again = vec![show.bytes.clone()];
            // As if it were newer, in another epoch, of the other side, of another tunnel.
            for (at, mask) in [(15, 0x40), (8, 0x01), (3, 0x10), (2, 0x02), (2, 0x04), (40, 0x01)] {
                let mut changed = show.bytes.clone();
                changed[at] ^= mask;
                again.push(changed);
            }
            for bytes in again {
                for host in
                    [scene.lab.rs, scene.mn, scene.cn].into_iter().filter(|host| *host != scene.lab.gn)
                {
                    let reaction = scene.lab.world.inject(host, stranger, show.to, bytes.clone());
                    assert_eq!(
                        (reaction.refused, reaction.sent.len(), reaction.events),
                        (1, 0, 0),
                        "{reaction:#?}"
                    );
                    assert!(!reaction.changed);
                }
            }
        }
        assert!(count >= 3, "{count} Tunnel Requests");
        assert_eq!((scene.tunnel(), scene.peer_sends_to()), (tunnel, remote));
        scene.talks.clone().into_iter().for_each(|talk| scene.lab.assert_flowing(talk));
    }
}

/// The new network is there a little before the old one goes, for less time than the procedure takes: nothing is lost, nor comes twice, once
/// the terminal shows its address at once; the procedure alone loses some.
#[test]
fn a_short_overlap_is_enough() {
    for peer in PEERS {
        let lost = BOTH.map(|how| {
            let mut scene = scene(how, peer, 17);
            let begin = scene.lab.world.now();
            scene.lab.world.set_interfaces(scene.mn, &[scene.new[0], scene.old]);
            scene.lab.world.run_for(ms(36));
            scene.lab.world.set_interfaces(scene.mn, &[scene.new[0]]);
            scene.lab.world.run_for(secs(10));
            let until = scene.lab.world.now();
            scene.talks.iter().fold(0, |lost, talk| {
                let heard = scene.lab.world.heard(*talk);
                assert_eq!((heard.again, heard.astray), (0, 0));
                let sent = heard.packets.iter().filter(|p| p.sent >= begin && p.sent + secs(1) < until);
                lost + sent.filter(|packet| packet.returned.is_none()).count()
            })
        });
        println!("{peer:?}: lost {lost:?}");
        assert!(lost[0] > 0, "{peer:?}: the procedure is done that soon: the test shows nothing");
        assert_eq!(lost[1], 0, "{peer:?}");
    }
}

/// Where a NAT lets nothing in from the new address, the direct way is left for the relay by the end that moved, until it is proved anew (T4.1.2-b); what
/// the peer sends waits for the procedure.
#[test]
fn a_nat_may_let_nothing_in_from_the_new_address() {
    let mut lab = Lab::of(19, Fast);
    let [a, b, c] = [0; 3].map(|_| lab.nat(Behaviour::PORT_RESTRICTED));
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
    lab.start();
    let talk = lab.world.talk(mn, cn, ms(1));
    lab.world.run_for(secs(4));
    assert_eq!([mn, cn].map(|end| lab.route(end)), [RouteName::Direct; 2]);
    lab.world.move_to(mn, &[inside(c, 3)]);
    let moved = lab.world.now();
    assert_eq!(lab.route(mn), RouteName::Switched);
    lab.world.run_for(ms(40));
    let arrived =
        lab.world.heard(talk).packets.iter().filter(|p| p.sent > moved + ms(12) && p.arrived.is_some());
    assert!(arrived.count() > 10, "{}", lab.sequence(0));
    lab.world.run_for(secs(2));
    assert_eq!([mn, cn].map(|end| lab.route(end)), [RouteName::Direct; 2]);
    lab.assert_flowing(talk);
}

/// Where the peer is reached from the new address and does not reach it, it is not shown it while the old one is still there: nothing is lost.
#[test]
fn a_place_that_the_peer_does_not_reach_is_not_shown_early() {
    let mut scene = scene(Fast, Peer::Global, 23);
    scene.silence_the_dc();
    let (there, begin) = (scene.new[0], scene.lab.world.now());
    scene.lab.world.cut_one_way(public(40).address, there.address);
    scene.lab.world.set_interfaces(scene.mn, &[there, scene.old]);
    scene.lab.world.run_for(secs(1));
    assert_eq!(scene.peer_sends_to().map(|remote| remote.ip()), Some(scene.old.address));
    for talk in &scene.talks {
        let sent = scene.lab.world.heard(*talk).packets.iter();
        let sent = sent.filter(|p| p.sent >= begin && p.sent + ms(100) < scene.lab.world.now());
        assert_eq!(sent.filter(|packet| packet.returned.is_none()).count(), 0);
    }
    assert!(scene.lab.world.trace().iter().any(|o| {
        o.node == "cn" && matches!(o.what, What::Received { message: Kind::PathKeepAlive, from, .. } if from.ip() == there.address)
    }));
}
