//! ICMP echo: between terminals, through RS-N, between general nodes, and over links with a rate.

mod common;

use common::{Lab, inside, ms, public, secs};
use ntm_nat::{Behaviour, Protocol};
use ntm_protocol::addr::Fqdn;
use ntm_sim::capture::Point;
use ntm_sim::impair::Impairment;
use ntm_sim::{INTERNET, Interface, Link, Talk, World};

fn name(text: &str) -> Fqdn {
    text.parse().expect("a name")
}

fn round_trips(talk: &Talk) -> Vec<u128> {
    talk.packets.iter().map(|p| p.returned.expect("an answer").since(p.sent).as_millis()).collect()
}

/// T4.2.3-a, T5.4.1-a: an echo request's answer finds back through RS-N and NAT; T4.2.3-b: the general node sees the RS alone.
#[test]
fn a_general_node_answers_through_rs_n() {
    let mut lab = Lab::new(1);
    let nat = lab.nat(Behaviour::SYMMETRIC);
    let mn = lab.mn(inside(nat, 2));
    lab.start();
    lab.world.capture_all();
    let ping = lab.world.ping(mn, &name("www.example.test"), 5, ms(50));
    lab.world.run_for(secs(2));
    // MN, its NAT's uplink, RS twice and GN: five links of 2 ms, there and back.
    assert_eq!(round_trips(lab.world.heard(ping)), [20; 5], "{}", lab.sequence(0));
    assert_eq!((lab.world.heard(ping).again, lab.world.heard(ping).astray), (0, 0));
    let at_gn: Vec<_> = lab.world.captured().iter().filter(|seen| seen.host == lab.gn).collect();
    let requests = at_gn.iter().filter(|seen| !seen.outgoing && seen.packet.protocol == Protocol::Icmp);
    assert_eq!(requests.clone().count(), 5);
    assert!(requests.clone().all(|seen| seen.packet.source.ip() == public(5).address));
    let virtually = |outgoing| {
        let of_mn =
            lab.world.captured().iter().filter(|seen| (seen.host, seen.point) == (mn, Point::Virtual));
        of_mn.filter(|seen| seen.outgoing == outgoing).count()
    };
    assert_eq!((virtually(true), virtually(false)), (5, 5));
}

#[test]
fn terminals_answer_each_other() {
    let mut lab = Lab::new(2);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, cn) = (lab.mn(inside(nat, 2)), lab.cn(public(11)));
    lab.start();
    let ping = lab.world.ping(mn, &lab.world.fqdn(cn).clone(), 5, ms(50));
    lab.world.run_for(secs(2));
    assert_eq!(round_trips(lab.world.heard(ping)), [12; 5], "{}", lab.sequence(0));
    assert!(lab.world.heard(ping).has_sent_all());
}

/// Without NTMobile: from behind a NAT to the public network, whose hosts do not reach in by themselves.
#[test]
fn general_nodes_need_no_terminal() {
    let mut world = World::new(3);
    let link = Link::of(ms(1));
    let home = world.router("home", Behaviour::PORT_RESTRICTED, INTERNET, "203.0.113.1", link);
    let campus = world.router("campus", Behaviour::None, INTERNET, "203.0.113.2", link);
    let at = |network, address: [u8; 4]| Interface { network, address: address.into(), link };
    let a = world.general("a", &["a.test"], at(home, [10, 1, 0, 2]));
    let b = world.general("b", &["b.test"], at(campus, [192, 0, 2, 2]));
    world.start_all();
    let (out, back) = (world.ping(a, &name("b.test"), 3, ms(10)), world.ping(b, &name("a.test"), 3, ms(10)));
    let unknown = world.ping(a, &name("c.test"), 3, ms(10));
    world.run_for(secs(1));
    assert_eq!(round_trips(world.heard(out)), [8; 3]);
    assert_eq!((world.heard(back).packets.len(), world.heard(back).returned()), (3, 0));
    assert!(world.heard(unknown).answer.expect("an answer").1.is_err());
}

/// The two directions of a link are its own, and packets take turns at its rate.
#[test]
fn a_link_has_a_rate_and_two_directions() {
    let mut world = World::new(4);
    let up = Impairment { rate: std::num::NonZeroU64::new(8_000), ..Impairment::default() };
    let at = |n: u8, link| Interface { network: INTERNET, address: [203, 0, 113, n].into(), link };
    let slow = Link { up, down: Impairment { delay: ms(7), ..Impairment::default() } };
    let a = world.general("a", &["a.test"], at(1, slow));
    world.general("b", &["b.test"], at(2, Link::default()));
    world.start_all();
    let ping = world.ping(a, &name("b.test"), 2, ms(1));
    world.run_for(secs(1));
    // 98 bytes at 1 kB/s; the second waits for the first.
    assert_eq!(round_trips(world.heard(ping)), [105, 202]);
}

/// T3.2.3-b: the answer comes once the tunnel stands, so the first packet is answered too, even if it overtakes the Tunnel Response on its
/// way to the end that is called; as it does where a machine hands data to the kernel before it looks at its control messages.
#[test]
fn the_first_packet_is_answered_even_if_it_overtakes_the_tunnel_response() {
    for seed in 0..40 {
        let mut lab = Lab::new(seed);
        let nat = lab.nat(Behaviour::PORT_RESTRICTED);
        let down = Impairment { delay: ms(30), reorder: 0.5, ..Impairment::default() };
        let (mn, mut home) = (lab.mn(public(10)), inside(nat, 2));
        home.link.down = down;
        let cn = lab.cn(home);
        lab.start();
        let ping = lab.world.ping(mn, &lab.world.fqdn(cn).clone(), 3, ms(10));
        lab.world.run_for(secs(2));
        assert_eq!(lab.world.heard(ping).returned(), 3, "seed {seed}\n{}", lab.sequence(0));
    }
}
