//! Route optimisation (T4.1.2-b): the relayed path carries the traffic until the direct one is proved both ways; a direct one that dies
//! is left, and tried again later; one that is blocked in one direction never flaps.

mod common;

use common::{Lab, inside, ms, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::time::{Duration, Instant};
use ntm_sim::{HostId, TalkId};

/// Between two packets.
const STEP: Duration = Duration::from_millis(100);

/// MN and CN behind two NATs that let them talk directly, MN's at 203.0.113.101 and CN's at .102.
struct Pair {
    lab: Lab,
    ends: [HostId; 2],
}

/// Which direction does not get through.
#[derive(Clone, Copy, Debug)]
enum Blocked {
    ToCn,
    ToMn,
    Both,
}

const BLOCKS: [Blocked; 3] = [Blocked::ToCn, Blocked::ToMn, Blocked::Both];

impl Pair {
    fn new(nat: Behaviour) -> Self {
        let mut lab = Lab::new(41);
        let networks = [lab.nat(nat), lab.nat(nat)];
        let ends = [lab.mn(inside(networks[0], 2)), lab.cn(inside(networks[1], 2))];
        lab.start();
        Self { lab, ends }
    }

    fn block(&mut self, blocked: Blocked) {
        let (mn, cn) = ([203, 0, 113, 101].into(), [203, 0, 113, 102].into());
        if !matches!(blocked, Blocked::ToMn) {
            self.lab.world.cut_one_way(mn, cn);
        }
        if !matches!(blocked, Blocked::ToCn) {
            self.lab.world.cut_one_way(cn, mn);
        }
    }

    fn talk(&mut self) -> TalkId {
        self.lab.world.talk(self.ends[0], self.ends[1], STEP)
    }

    fn routes(&self) -> [RouteName; 2] {
        self.ends.map(|end| self.lab.route(end))
    }

    /// Every way that each end took, in order, with the moment.
    fn changes(&self) -> [Vec<(Instant, RouteName)>; 2] {
        ["mn", "cn"].map(|node| {
            let changes = self.lab.world.trace().iter().filter(|observation| observation.node == node);
            changes
                .filter_map(|observation| match observation.what {
                    What::PathChanged { route, .. } => Some((observation.t, route)),
                    _ => None,
                })
                .collect()
        })
    }

    fn routes_taken(&self) -> [Vec<RouteName>; 2] {
        self.changes().map(|changes| changes.into_iter().map(|(_, route)| route).collect())
    }

    /// Of the packets sent from `from` until a second ago, those that did not come back.
    fn lost(&self, talk: TalkId, from: Instant) -> usize {
        let packets = &self.lab.world.heard(talk).packets;
        let asked = packets.iter().filter(|p| p.sent >= from && p.sent + secs(1) < self.lab.world.now());
        assert!(asked.clone().count() > 100, "few packets were sent: the test shows nothing");
        asked.filter(|packet| packet.returned.is_none()).count()
    }

    /// Why each end's packets take their way.
    fn reasons(&self) -> [String; 2] {
        self.ends.map(|end| {
            let paths = self.lab.world.at_terminal(end).expect("a running terminal").paths();
            format!("{:?}: {}", paths[0].route, paths[0].reason)
        })
    }
}

/// T4.1.2-b: a direct way that works in one direction, or in none, is not taken: for a quarter of an hour nothing changes, and nothing is lost.
#[test]
fn a_way_that_is_blocked_from_the_start_is_never_taken() {
    for nat in [Behaviour::FULL_CONE, Behaviour::PORT_RESTRICTED] {
        for blocked in BLOCKS {
            let mut pair = Pair::new(nat);
            pair.block(blocked);
            let start = pair.lab.world.now();
            let talk = pair.talk();
            pair.lab.world.run_for(secs(900));
            let taken = pair.routes_taken();
            assert_eq!(taken, [[RouteName::Switched]; 2].map(Vec::from), "{nat}, {blocked:?}");
            assert_eq!(pair.lost(talk, start), 0, "{nat}, {blocked:?}");
            // Tried again ever more seldom: a quarter of an hour has room for 9 tries at most, each of 6 sendings for at most two addresses.
            let asked = pair.lab.world.trace().iter().filter(|observation| {
                observation.node == "mn"
                    && matches!(observation.what, What::Sent { message, .. } if message.name() == "TunnelRequest")
            });
            let asked = asked.count();
            assert!(asked < 9 * 6 * 2 * 2, "{nat}, {blocked:?}: {asked} Tunnel Requests");
        }
    }
}

/// T4.1.2-b: a direct way that dies, be it in one direction, is left by both ends within three keep-alives, once and for as long as it is
/// dead; packets are lost in no longer time than that.
#[test]
fn a_way_that_gets_blocked_is_left_once() {
    for nat in [Behaviour::FULL_CONE, Behaviour::PORT_RESTRICTED] {
        for blocked in BLOCKS {
            let mut pair = Pair::new(nat);
            let talk = pair.talk();
            pair.lab.world.run_for(secs(60));
            assert_eq!(pair.routes(), [RouteName::Direct; 2]);
            let cut = pair.lab.world.now();
            pair.block(blocked);
            pair.lab.world.run_for(secs(15));
            let what = format!("{nat}, {blocked:?}");
            assert_eq!(pair.routes(), [RouteName::Switched; 2], "{what}\n{}", pair.lab.ladder(0));
            pair.lab.world.run_for(secs(900));
            let taken = [RouteName::Switched, RouteName::Direct, RouteName::Switched];
            assert_eq!(pair.routes_taken(), [taken; 2].map(Vec::from), "{what}");
            let left = pair.changes().map(|changes| changes[2].0).into_iter().max().expect("two ends");
            assert!(left - cut < secs(15), "{what}: {:?}", left - cut);
            assert_eq!(pair.lost(talk, left), 0, "{what}");
        }
    }
}

/// T4.1.2-b: what was left is taken again when it works again: once it is proved anew, with the relayed way carrying meanwhile.
#[test]
fn a_way_that_works_again_is_taken_again() {
    for nat in [Behaviour::FULL_CONE, Behaviour::PORT_RESTRICTED] {
        for blocked in BLOCKS {
            for down in [20, 60, 300] {
                let mut pair = Pair::new(nat);
                let talk = pair.talk();
                pair.lab.world.run_for(secs(60));
                pair.block(blocked);
                pair.lab.world.run_for(secs(down));
                pair.lab.world.mend();
                let mended = pair.lab.world.now();
                // A wait is at most as long as all before it together, but for the first, and never longer than five minutes.
                let limit = secs(down.min(300) + 15);
                let back = |world: &ntm_sim::World| {
                    pair.ends.iter().all(|end| common::route(world, *end) == RouteName::Direct)
                };
                let what = format!("{nat}, {blocked:?} for {down} s");
                assert!(pair.lab.world.wait(limit, back), "{what}\n{}", pair.lab.sequence(0));
                pair.lab.world.run_for(secs(60));
                use RouteName::{Direct, Switched};
                let taken = [Switched, Direct, Switched, Direct];
                assert_eq!(pair.routes_taken(), [taken; 2].map(Vec::from), "{what}");
                assert_eq!(pair.lost(talk, mended), 0, "{what}: the way back lost a packet");
            }
        }
    }
}

/// T4.1.2-b: a way that comes and goes is believed in ever less: each time it is proved, it is used, but the times come seldom.
#[test]
fn a_way_that_comes_and_goes_is_tried_ever_more_seldom() {
    let mut pair = Pair::new(Behaviour::FULL_CONE);
    let talk = pair.talk();
    pair.lab.world.run_for(secs(5));
    // Every 40 s it works for 20 s: an hour has 90 such times.
    for _ in 0..90 {
        pair.block(Blocked::ToCn);
        pair.lab.world.run_for(secs(20));
        pair.lab.world.mend();
        pair.lab.world.run_for(secs(20));
    }
    for (taken, end) in pair.routes_taken().iter().zip(["mn", "cn"]) {
        let direct = taken.iter().filter(|route| **route == RouteName::Direct).count();
        assert!((2..20).contains(&direct), "{end}: direct {direct} times");
    }
    let calm = pair.lab.world.now();
    pair.lab.world.run_for(secs(20));
    assert_eq!(pair.lost(talk, calm), 0);
}

/// `status` says of each state which way packets take, and why (T4.1.2-b).
#[test]
fn the_status_says_why() {
    let mut pair = Pair::new(Behaviour::FULL_CONE);
    let mut said = Vec::new();
    let mut say = |pair: &Pair, moment: &str| {
        for (end, reason) in ["mn", "cn"].into_iter().zip(pair.reasons()) {
            said.push(format!("{moment}, {end}: {reason}"));
        }
    };
    pair.talk();
    pair.lab.world.wait(secs(1), |world| {
        pair.ends.iter().all(|end| world.at_terminal(*end).is_some_and(|t| !t.paths().is_empty()))
    });
    say(&pair, "directed");
    pair.lab
        .world
        .wait(secs(1), |world| pair.ends.iter().all(|end| common::route(world, *end) == RouteName::Switched));
    say(&pair, "relayed");
    pair.lab.world.run_for(secs(5));
    say(&pair, "optimised");
    pair.block(Blocked::ToCn);
    pair.lab.world.wait(secs(15), |world| {
        pair.ends.iter().all(|end| common::route(world, *end) == RouteName::Switched)
    });
    say(&pair, "blocked towards CN");
    pair.lab.world.run_for(secs(60));
    say(&pair, "a minute later");
    pair.lab.world.mend();
    pair.block(Blocked::Both);
    pair.lab.world.run_for(secs(600));
    say(&pair, "blocked both ways for ten minutes");
    pair.lab.world.crash(pair.lab.rs);
    pair.lab.world.run_for(secs(16));
    say(&pair, "the relay is gone");
    insta::assert_snapshot!(said.join("\n"), @"
    directed, mn: None: the tunnel to the relay 203.0.113.5:4330 is being built
    directed, cn: None: the tunnel to the relay 203.0.113.5:4330 is being built
    relayed, mn: Switched: the direct way to 203.0.113.102:4330 is being proved
    relayed, cn: Switched: the direct way to 203.0.113.101:4330 is being proved
    optimised, mn: Direct: the peer answers at 203.0.113.102:4330: both directions are proved
    optimised, cn: Direct: the peer answers at 203.0.113.101:4330: both directions are proved
    blocked towards CN, mn: Switched: the peer stopped answering directly at 203.0.113.102:4330; it is tried again later
    blocked towards CN, cn: Switched: the peer stopped answering directly at 203.0.113.101:4330; it is tried again later
    a minute later, mn: Switched: one direction only: the peer's Tunnel Request came from 203.0.113.102:4330, ours was not answered; it is tried again later
    a minute later, cn: Switched: no direct answer from 203.0.113.101:4330; it is tried again later
    blocked both ways for ten minutes, mn: Switched: no direct answer from 203.0.113.102:4330; it is tried again later
    blocked both ways for ten minutes, cn: Switched: no direct answer from 203.0.113.101:4330; it is tried again later
    the relay is gone, mn: None: broken: the relay does not answer; it is to be directed anew
    the relay is gone, cn: None: broken: the relay does not answer; it is to be directed anew
    ");
}

/// `status` of the paths that need no optimisation (T3.1-d).
#[test]
fn the_status_of_other_paths_says_why() {
    let mut lab = Lab::new(42);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn) = (lab.mn(inside(nat, 2)), lab.cn(common::public(11)));
    lab.start();
    lab.talk(mn, cn);
    lab.talk(mn, lab.gn);
    let reasons = |lab: &Lab| {
        let paths = lab.world.at_terminal(mn).expect("a running terminal").paths();
        let mut reasons: Vec<_> =
            paths.iter().map(|path| format!("{}: {:?}: {}", path.peer, path.route, path.reason)).collect();
        reasons.sort();
        reasons.join("\n")
    };
    let before = reasons(&lab);
    lab.world.move_to(mn, &[inside(nat, 3)]);
    lab.world.wait(secs(1), |world| {
        world.trace().iter().rev().take(5).any(|o| {
            o.node == "mn"
                && matches!(&o.what, What::Received { message, .. } if message.name() == "RouteDirection")
        })
    });
    let moving = reasons(&lab);
    lab.world.crash(cn);
    lab.world.crash(lab.rs);
    lab.world.run_for(ms(18_000));
    let gone = reasons(&lab);
    insta::assert_snapshot!(format!("{before}\n\nMN moves\n{moving}\n\nCN and the relay are gone\n{gone}"), @"
    cn.b.ntm.test: Direct: the peer answers at 203.0.113.11:4330: both directions are proved
    www.example.test: Translated: the peer is a general node: a relay translates addresses

    MN moves
    cn.b.ntm.test: Direct: it is directed anew: packets take the way of before until the new one stands
    www.example.test: Translated: the peer is a general node: a relay translates addresses

    CN and the relay are gone
    cn.b.ntm.test: None: broken: the peer does not answer; it is to be directed anew
    www.example.test: None: lost: the relay is gone, and no other can take its place; applications are told so, and who asks for the name anew gets another
    ");
}
