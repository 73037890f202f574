//! What applications do beside pages and one connection: several at once, datagrams at a rate, small messages, questions to the DNS.

mod common;

use std::net::IpAddr;
use std::num::NonZero;

use common::{BOTH, Lab, ONE_WAY, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::time::Duration;
use ntm_protocol::wire::DnsError;
use ntm_sim::flow::{
    Answered, Asked, Bounced, Names, Outcome, PingPong, Reply, Stream, Streamed, Task, Transfer,
};
use ntm_sim::{HostId, Link};

fn streamed(lab: &mut Lab, from: HostId, to: HostId, stream: Stream) -> Streamed {
    let flow = lab.flow(from, to, Task::Stream(stream));
    match lab.end(flow) {
        Outcome::Streamed(out) => out,
        other => panic!("{other:?}"),
    }
}

fn stream(seconds: u64, rate: u64) -> Stream {
    let (length, streams) = (Some(1000), 2);
    Stream { duration: secs(seconds), omit: ms(0), reverse: false, rate, length, streams }
}

fn bounced(lab: &mut Lab, to: HostId, from: HostId, count: u32, size: u64) -> Bounced {
    let flow = lab.flow(from, to, Task::PingPong(PingPong { warm_up: 5, count, size }));
    match lab.end(flow) {
        Outcome::Bounced(out) => out,
        other => panic!("{other:?}"),
    }
}

fn names(asked: Asked, count: u32) -> Task {
    Task::Names(Names { asked, count, interval: ms(100) })
}

/// A question that is not one of the DNS's, for the world does not read it.
fn to_server(n: u8, question: &[u8], answer: Option<&[u8]>) -> Asked {
    Asked::Server {
        at: [203, 0, 113, n].into(),
        question: question.to_vec(),
        answer: answer.map(<[u8]>::to_vec),
    }
}

fn ask(lab: &mut Lab, (from, server): (HostId, HostId), name: &str, task: Task) -> ntm_sim::flow::FlowId {
    let name = name.parse().expect("a name");
    lab.world.flow(from, server, &name, ntm_sim::flow::DNS, task)
}

fn answered(lab: &mut Lab, flow: ntm_sim::flow::FlowId) -> Answered {
    match lab.end(flow) {
        Outcome::Answered(out) => out,
        other => panic!("{other:?}"),
    }
}

/// T4.1.4-b: all connections of a transfer live through a handover, and every byte of each comes in its place.
#[test]
fn t4_1_4_b_several_connections_share_a_transfer() {
    for how in BOTH {
        for reverse in [false, true] {
            let mut lab = Lab::of(11, how);
            let (home, new) = (lab.nat(Behaviour::PORT_RESTRICTED), lab.nat(Behaviour::SYMMETRIC));
            let mn = lab.mn(inside(home, 2));
            let there = lab.nat(Behaviour::SYMMETRIC);
            let cn = lab.cn(inside(there, 2));
            lab.start();
            let (rate, streams) = (1_000_000, 4);
            let transfer = Transfer {
                duration: secs(4),
                omit: ms(0),
                reverse,
                rate: Some(rate),
                block: 1000,
                window: 1 << 18,
                streams,
            };
            let flow = lab.flow(mn, cn, Task::Transfer(transfer));
            lab.world.run_for(secs(2));
            lab.world.move_to(mn, &[inside(new, 2)]);
            let Outcome::Transferred(out) = lab.end(flow) else { panic!() };
            assert_eq!((out.completed, out.wrong, out.connections), (true, 0, 4), "{out:?}");
            let (got, given) = (out.stretches.iter().sum::<u64>(), 4 * 4 * rate / 8);
            assert!((given..given + 4 * 2000).contains(&got), "{got} of {given}");
        }
    }
}

#[test]
fn a_transfer_of_which_one_connection_breaks_fails() {
    let mut lab = Lab::new(12);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let transfer = Transfer {
        duration: secs(3),
        omit: ms(0),
        reverse: false,
        rate: Some(100_000),
        block: Transfer::BLOCK,
        window: 1 << 16,
        streams: 128,
    };
    // It is gone while the connections are opened one after the other.
    let flow = lab.flow(mn, cn, Task::Transfer(transfer));
    lab.world.run_for(ms(500));
    lab.world.set_interfaces(cn, &[]);
    let Outcome::Transferred(out) = lab.end(flow) else { panic!() };
    assert!(!out.completed && (1..128).contains(&out.connections) && out.stretches.is_empty(), "{out:?}");
}

/// Peers behind NATs and general nodes, in both directions: nothing is lost, and the receiver counts what was sent.
#[test]
fn datagrams_come_at_their_rate() {
    let mut lab = Lab::new(13);
    let home = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn) = (lab.mn(inside(home, 2)), lab.cn(public(51)));
    lab.start();
    for to in [cn, lab.gn] {
        for reverse in [false, true] {
            let out = streamed(&mut lab, mn, to, Stream { reverse, ..stream(3, 1_000_000) });
            // One every 8 ms in each of the two streams; those of the last milliseconds may be under way.
            assert!(out.completed && (744..=752).contains(&out.sent) && out.lost == 0, "{out:?}");
            assert_eq!(out.stretches.len(), 30);
            assert_eq!(out.stretches.iter().sum::<u64>(), out.sent * 1000);
            assert!(out.jitter < ms(1), "{out:?}");
        }
    }
    // What is not measured is not counted; a datagram is as long as a segment of TCP unless it is said.
    let out =
        streamed(&mut lab, mn, cn, Stream { omit: secs(1), length: None, ..stream(1, 1_372 * 8 * 100) });
    assert!(out.completed && (198..=202).contains(&out.sent) && out.lost == 0, "{out:?}");
    assert_eq!(out.stretches.iter().sum::<u64>(), out.sent * 1372);
}

/// What a link loses, what has no room before its rate, and what a handover loses is told by the numbers.
#[test]
fn lost_datagrams_are_told() {
    let mut lab = Lab::new(24);
    let slow = |loss: f64| {
        let mut link = Link::of(ms(5));
        link.up.rate = NonZero::new(10_000_000);
        link.up.loss = loss;
        link
    };
    let at = |n: u8, loss: f64| ntm_sim::Interface { link: slow(loss), ..public(n) };
    let (mn, lossy) = (lab.mn(at(50, 0.0)), lab.world.terminal("lossy", lab.dc[0], at(51, 0.05)));
    let (cn, home) = (lab.cn(public(52)), lab.nat(Behaviour::SYMMETRIC));
    lab.start();
    let share = |out: &Streamed| out.lost as f64 / out.sent as f64;
    let out = streamed(&mut lab, lossy, cn, stream(4, 1_000_000));
    assert!(out.completed && (0.02..0.08).contains(&share(&out)), "{out:?}");
    let out = streamed(&mut lab, mn, cn, Stream { streams: 1, ..stream(2, 20_000_000) });
    assert!(out.completed && (0.4..0.6).contains(&share(&out)), "twice the rate of the link: {out:?}");
    let flow = lab.flow(mn, cn, Task::Stream(Stream { reverse: true, ..stream(3, 1_000_000) }));
    lab.world.run_for(secs(1));
    lab.world.move_to(mn, &[inside(home, 2)]);
    let Outcome::Streamed(out) = lab.end(flow) else { panic!() };
    assert!(out.completed && (1..100).contains(&out.lost), "{out:?}");
}

#[test]
fn a_stream_without_a_server_ends() {
    let mut lab = Lab::new(15);
    let mn = lab.mn(public(50));
    lab.start();
    let gn = lab.gn;
    lab.world.crash(gn);
    let began = lab.world.now();
    let out = streamed(&mut lab, mn, gn, stream(1, 1_000_000));
    assert!(!out.completed && out.sent == 0 && out.stretches.is_empty() && out.failure.is_some(), "{out:?}");
    assert!(lab.world.now() - began < secs(15));
}

/// A round trip takes what the links take, for no end waits for more to send with it (RFC 896).
#[test]
fn small_messages_take_a_round_trip_each() {
    let mut lab = Lab::new(16);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let out = bounced(&mut lab, cn, mn, 50, 100);
    assert_eq!((out.times.len(), out.failure.as_deref()), (50, None));
    let round_trip = 4 * ONE_WAY;
    assert!(out.times.iter().all(|time| *time == round_trip), "{out:?}");
    // Through the relay, and of several segments.
    let gn = lab.gn;
    let out = bounced(&mut lab, gn, mn, 20, 5000);
    assert_eq!((out.times.len(), out.failure.as_deref()), (20, None));
    assert!(out.times.iter().all(|time| (2 * round_trip..3 * round_trip).contains(time)), "{out:?}");
}

#[test]
fn messages_that_are_not_answered_end() {
    let mut lab = Lab::new(17);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let flow = lab.flow(mn, cn, Task::PingPong(PingPong { warm_up: 0, count: 1000, size: 64 }));
    lab.world.run_for(secs(1));
    lab.world.set_interfaces(cn, &[]);
    let began = lab.world.now();
    let Outcome::Bounced(out) = lab.end(flow) else { panic!() };
    assert!((50..200).contains(&out.times.len()) && out.failure.is_some(), "{out:?}");
    assert!(lab.world.now() - began < secs(6));
    let out = bounced(&mut lab, cn, mn, 10, 64);
    assert!(out.times.is_empty() && out.failure.is_some(), "{out:?}");
}

/// T3.2.2-a, T3.2.3-b: the first question builds the tunnel, the others find it.
#[test]
fn a_terminals_own_dns_answers_when_the_tunnel_stands() {
    let mut lab = Lab::new(18);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let flow = ask(&mut lab, (mn, mn), "cn.b.ntm.test", names(Asked::Terminal, 5));
    let out = answered(&mut lab, flow);
    let vip = lab.world.application_address(cn).map(IpAddr::V4).expect("a VIP");
    assert_eq!(out.sent, 5);
    let replies: Vec<_> = out.replies.iter().map(|(_, reply)| reply.clone()).collect();
    assert_eq!(replies, vec![Reply::Address(Ok(vip)); 5]);
    assert!(out.replies[0].0 > 4 * ONE_WAY, "{out:?}");
    assert!(out.replies[1..].iter().all(|(time, _)| *time == Duration::ZERO), "{out:?}");
    let flow = ask(&mut lab, (mn, mn), "nobody.b.ntm.test", names(Asked::Terminal, 2));
    let out = answered(&mut lab, flow);
    assert!(
        out.replies.iter().all(|(_, reply)| *reply == Reply::Address(Err(DnsError::NxDomain))),
        "{out:?}"
    );
    let asked_before = lab.world.trace().len();
    let flow = ask(&mut lab, (mn, mn), "cn.b.ntm.test", names(Asked::AtOnce(Err(DnsError::NoData)), 3));
    let began = lab.world.now();
    assert_eq!(
        answered(&mut lab, flow).replies,
        vec![(Duration::ZERO, Reply::Address(Err(DnsError::NoData))); 3]
    );
    assert_eq!(lab.world.now() - began, ms(200), "the third question");
    let queries = lab.world.trace()[asked_before..].iter();
    let is_query =
        |what: &ntm_protocol::observe::What| matches!(what, ntm_protocol::observe::What::Query { .. });
    assert_eq!(queries.filter(|it| is_query(&it.what)).count(), 0, "it needs nobody for it");
}

/// Two applications behind one NAT ask one server, which knows their questions apart; a coordinator is a server too, and who is none does not answer.
#[test]
fn servers_are_asked_by_their_real_addresses() {
    let mut lab = Lab::new(19);
    let home = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn) = (lab.mn(inside(home, 2)), lab.cn(inside(home, 3)));
    lab.start();
    let (gn, dc) = (lab.gn, lab.dc[0]);
    for (server, at) in [(gn, 80), (dc, 3)] {
        let one = names(to_server(at, b"one?", Some(b"one!")), 4);
        let other = names(to_server(at, b"other?", Some(b"other!")), 4);
        let flows =
            [(mn, one), (cn, other)].map(|(from, task)| ask(&mut lab, (from, server), "x.test", task));
        for (flow, answer) in flows.into_iter().zip([&b"one!"[..], b"other!"]) {
            let out = answered(&mut lab, flow);
            assert_eq!((out.sent, out.replies.len()), (4, 4));
            // To the router, over its uplink, and over the server's link, and back.
            let expected = (6 * ONE_WAY, Reply::Message(answer.to_vec()));
            assert!(out.replies.iter().all(|it| *it == expected), "{out:?}");
        }
    }
    let nobody = names(to_server(80, b"one?", None), 2);
    let began = lab.world.now();
    let flow = ask(&mut lab, (mn, gn), "x.test", nobody);
    assert_eq!(answered(&mut lab, flow), Answered { sent: 2, replies: Vec::new() });
    assert_eq!(lab.world.now() - began, secs(10), "it waits as long as glibc does for each");
}
