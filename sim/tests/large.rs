//! What is longer than a tunnel, or than a network on the way: it is cut up, or whoever sent it is told (RFC 791, RFC 1191, RFC 8201).

mod common;

use common::{link, ms, secs};
use ntm_nat::Behaviour;
use ntm_sim::flow::{Datagrams, Exchanged, Fetched, Outcome, Page, Task};
use ntm_sim::{HostId, INTERNET, Interface, NetworkId, World};

const PORT: u16 = 6000;

struct Lab {
    world: World,
    mn: HostId,
    peers: Vec<HostId>,
}

fn at(network: NetworkId, address: &str) -> Interface {
    Interface { network, address: address.parse().expect("an address"), link: link() }
}

impl Lab {
    /// A terminal behind a NAT, and peers of every kind: a terminal that is reached directly and one over RS-S, a general node of each family.
    fn new() -> Self {
        let mut world = World::new(1);
        let dc = world.coordinator("dc", "ntm.test", "198.18.0.0/16", "203.0.113.3", link());
        world.relay_at("rs", &[dc], &["203.0.113.5", "2001:db8::5"], link());
        let mut nat = |n: u8| {
            let external = format!("203.0.113.{n}");
            world.router(&format!("nat{n}"), Behaviour::SYMMETRIC, INTERNET, &external, link())
        };
        let (home, there) = (nat(101), nat(102));
        let mn = world.terminal("mn", dc, at(home, "10.0.0.2"));
        let peers = vec![
            world.terminal("near", dc, at(INTERNET, "203.0.113.50")),
            world.terminal("far", dc, at(there, "10.0.0.2")),
            world.general("old", &["old.example.test"], at(INTERNET, "203.0.113.80")),
            world.general("new", &["new.example.test"], at(INTERNET, "2001:db8::81")),
        ];
        let mut lab = Self { world, mn, peers };
        lab.world.start_all();
        lab.world.run_for(secs(1));
        lab
    }

    fn run(&mut self, from: HostId, to: HostId, task: Task) -> Outcome {
        let name = self.world.fqdn(to).clone();
        let flow = self.world.flow(from, to, &name, PORT, task);
        assert!(self.world.wait(secs(60), |world| world.has_ended(flow)));
        let outcome = self.world.outcome(flow);
        self.world.end_flow(flow);
        outcome
    }

    fn exchange(&mut self, from: HostId, to: HostId, datagrams: Datagrams) -> Exchanged {
        let Outcome::Exchanged(out) = self.run(from, to, Task::Datagrams(datagrams)) else { panic!() };
        out
    }
}

fn datagrams(size: usize, reply: usize, whole: bool) -> Datagrams {
    Datagrams { size, reply, count: 3, interval: ms(100), listen: true, whole }
}

const ALL: Exchanged = Exchanged {
    sent: 3,
    arrived: 3,
    answered: 3,
    received: 3,
    too_big: 0,
    answers_too_big: 0,
    icmp_too_big: 0,
    icmp_unreachable: 0,
};

/// T3.1-d, T4.2.3-a: pieces travel through tunnels and relays, in whichever family, and are one again at the other end; lost is one with all.
#[test]
fn what_is_too_long_for_a_tunnel_is_cut_up_and_put_together_again() {
    let mut lab = Lab::new();
    for peer in lab.peers.clone() {
        let out = lab.exchange(lab.mn, peer, datagrams(60_000, 60_000, false));
        assert_eq!(out, ALL, "{}", lab.world.name(peer));
    }
    let (mn, peer) = (lab.mn, lab.peers[0]);
    lab.world.impair(|way| way.loss = 0.05);
    let out = lab.exchange(mn, peer, Datagrams { count: 20, ..datagrams(60_000, 4, false) });
    assert!(out.arrived < 10, "of 43 pieces each hardly ever all arrive: {out:?}");
}

/// RFC 1191: what must not be cut up is refused by the interface; the general node learns what passes by an error, and keeps to it.
#[test]
fn who_sends_what_no_tunnel_carries_is_told() {
    let mut lab = Lab::new();
    for peer in lab.peers.clone() {
        let name = lab.world.name(peer).to_owned();
        // 1424 bytes with both headers, and one more.
        assert_eq!(lab.exchange(lab.mn, peer, datagrams(1396, 100, true)), ALL, "{name}");
        let over = Exchanged { too_big: 3, ..Exchanged::default() };
        assert_eq!(lab.exchange(lab.mn, peer, datagrams(1397, 100, true)), over, "{name}");
    }
    for general in [lab.peers[2], lab.peers[3]] {
        let name = lab.world.name(general).to_owned();
        let told = Exchanged { received: 2, icmp_too_big: 1, ..ALL };
        assert_eq!(lab.exchange(lab.mn, general, datagrams(100, 1440, false)), told, "{name}");
        let refused = Exchanged { answered: 0, received: 0, answers_too_big: 3, ..ALL };
        assert_eq!(lab.exchange(lab.mn, general, datagrams(100, 1440, true)), refused, "{name}");
        let closed = Datagrams { listen: false, ..datagrams(3000, 4, false) };
        let unreachable = Exchanged { sent: 3, icmp_unreachable: 3, ..Exchanged::default() };
        assert_eq!(lab.exchange(lab.mn, general, closed), unreachable, "{name}");
    }
}

/// A router before a narrow network cuts up what may be, and tells the sender of the rest, on either side, through a NAT too.
#[test]
fn a_narrow_network_is_learned_of() {
    for behaviour in [Behaviour::None, Behaviour::SYMMETRIC] {
        let mut world = World::new(1);
        let inside = world.router("narrow", behaviour, INTERNET, "203.0.113.101", link());
        world.narrow_router("narrow", 1400);
        let a = world.general("a", &["a.example.test"], at(inside, "192.0.2.2"));
        let b = world.general("b", &["b.example.test"], at(INTERNET, "203.0.113.80"));
        world.start_all();
        let mut lab = Lab { world, mn: a, peers: vec![b] };
        assert_eq!(lab.exchange(a, b, datagrams(5000, 5000, false)), ALL);
        let told = Exchanged { sent: 1, icmp_too_big: 1, too_big: 2, ..Exchanged::default() };
        assert_eq!(lab.exchange(a, b, datagrams(1400, 4, true)), told);
        let answers = Exchanged { answered: 1, received: 0, icmp_too_big: 1, answers_too_big: 2, ..ALL };
        assert_eq!(lab.exchange(a, b, datagrams(4, 1400, true)), answers);
        let Outcome::Fetched(Fetched { bytes, wrong, whole, .. }) =
            lab.run(a, b, Task::Page(Page { size: 100_000 }))
        else {
            panic!()
        };
        assert_eq!((bytes, wrong, whole), (100_000, 0, true));
    }
}
