//! T3.1-b, T4.1.4-b, T4.2.5-b: TCP connections, by a real TCP, live through handovers; and what becomes of them where nothing helps.

mod common;

use std::collections::BTreeSet;

use common::{BOTH, Lab, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::time::Instant;
use ntm_sim::Link;
use ntm_sim::flow::{
    Datagrams, Echo, Echoed, Exchanged, Fetched, FlowId, Outcome, Page, Probes, Task, Transfer, Transferred,
    Turns,
};

fn transfer(seconds: u64, rate: u64) -> Transfer {
    Transfer {
        duration: secs(seconds),
        omit: ms(0),
        reverse: false,
        rate: Some(rate),
        block: Transfer::BLOCK,
        window: 1 << 20,
        streams: 1,
    }
}

fn transferred(lab: &mut Lab, flow: FlowId) -> Transferred {
    match lab.end(flow) {
        Outcome::Transferred(out) => out,
        other => panic!("{other:?}"),
    }
}

/// Every byte that the sender gave at `rate` came, once and in its place.
fn assert_whole(out: &Transferred, seconds: u64, rate: u64) {
    assert_eq!(
        (out.completed, out.failure.as_deref(), out.wrong, out.connections),
        (true, None, 0, 1),
        "{out:?}"
    );
    let (got, given) = (out.stretches.iter().sum::<u64>(), seconds * rate / 8);
    assert!((given..given + (256 << 10)).contains(&got), "{got} of {given}");
    assert_eq!(out.stretches.len() as u64, seconds * 10);
}

/// Peers: a terminal behind a NAT of another DC, and a general node; both directions of data.
#[test]
fn t4_1_4_b_a_connection_lives_through_handovers() {
    for how in BOTH {
        for (general, reverse) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut lab = Lab::of(5, how);
            let home = lab.nat(Behaviour::PORT_RESTRICTED);
            let (there, new) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::FULL_CONE));
            let mn = lab.mn(inside(home, 2));
            let cn = if general { lab.gn } else { lab.cn(inside(there, 2)) };
            lab.start();
            let flow = lab.flow(mn, cn, Task::Transfer(Transfer { reverse, ..transfer(6, 5_000_000) }));
            lab.world.run_for(secs(2));
            lab.world.move_to(mn, &[inside(new, 2)]);
            lab.world.run_for(secs(2));
            lab.world.move_to(mn, &[public(50)]);
            let out = transferred(&mut lab, flow);
            assert_whole(&out, 6, 5_000_000);
        }
    }
}

/// A link's rate bounds a transfer of which no more is under way than its queue holds; losses are sent again.
#[test]
fn a_transfer_fills_its_link_and_survives_losses() {
    let mut lab = Lab::new(3);
    let slow = |loss: f64| {
        let mut link = Link::of(ms(5));
        for way in [&mut link.up, &mut link.down] {
            way.rate = std::num::NonZero::new(20_000_000);
            way.loss = loss;
        }
        link
    };
    let at = |n: u8, loss: f64| ntm_sim::Interface { link: slow(loss), ..public(n) };
    let (mn, lossy) = (lab.mn(at(50, 0.0)), lab.world.terminal("lossy", lab.dc[0], at(51, 0.01)));
    let cn = lab.cn(public(52));
    lab.start();
    let task = Task::Transfer(Transfer { rate: None, omit: secs(1), ..transfer(3, 0) });
    let flow = lab.flow(mn, cn, task);
    let out = transferred(&mut lab, flow);
    let mbits = out.stretches.iter().sum::<u64>() as f64 * 8.0 / 3e6;
    assert!((17.0..20.0).contains(&mbits) && out.completed, "{mbits} {out:?}");
    let flow = lab.flow(lossy, cn, Task::Transfer(transfer(4, 1_000_000)));
    let out = transferred(&mut lab, flow);
    assert_whole(&out, 4, 1_000_000);
    assert!(out.retransmits > 0, "{out:?}");
}

#[test]
fn a_transfer_that_is_cut_off_fails_in_bounded_time() {
    let mut lab = Lab::new(4);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let flow = lab.flow(mn, cn, Task::Transfer(transfer(3, 1_000_000)));
    lab.world.run_for(secs(1));
    lab.world.set_interfaces(cn, &[]);
    let began = lab.world.now();
    let out = transferred(&mut lab, flow);
    assert!(!out.completed && out.failure.is_some(), "{out:?}");
    assert!(lab.world.now() - began < secs(20));
}

#[test]
fn a_page_comes_whole() {
    let mut lab = Lab::new(6);
    let home = lab.nat(Behaviour::SYMMETRIC);
    let mn = lab.mn(inside(home, 2));
    lab.start();
    let gn = lab.gn;
    let flow = lab.flow(mn, gn, Task::Page(Page { size: 200_000 }));
    let Outcome::Fetched(Fetched { bytes, wrong, done, whole }) = lab.end(flow) else { panic!() };
    assert_eq!((bytes, wrong, done.is_some(), whole), (200_000, 0, true, true));
    // A server that is not there.
    lab.world.crash(gn);
    let flow = lab.flow(mn, gn, Task::Page(Page { size: 200_000 }));
    let Outcome::Fetched(out) = lab.end(flow) else { panic!() };
    assert!(!out.whole && out.bytes == 0, "{out:?}");
}

#[test]
fn probes_and_datagrams_go_both_ways() {
    let mut lab = Lab::new(7);
    let home = lab.nat(Behaviour::SYMMETRIC);
    let (mn, cn) = (lab.mn(inside(home, 2)), lab.cn(public(51)));
    lab.start();
    for to in [cn, lab.gn] {
        let probes = Task::Probes(Probes { count: 100, interval: ms(5), size: 100 });
        let flow = lab.flow(mn, to, probes);
        let Outcome::Probed(out) = lab.end(flow) else { panic!() };
        for row in [&out.out, &out.back] {
            assert_eq!((row.sent.len(), row.arrived.len()), (100, 100));
            assert!(row.arrived.iter().map(|(number, _)| *number).eq(0..100));
        }
        for listen in [true, false] {
            let datagrams =
                Datagrams { size: 1000, reply: 500, count: 5, interval: ms(100), listen, whole: false };
            let flow = lab.flow(mn, to, Task::Datagrams(datagrams));
            let Outcome::Exchanged(out) = lab.end(flow) else { panic!() };
            let expected = match listen {
                true => Exchanged { sent: 5, arrived: 5, answered: 5, received: 5, ..Exchanged::default() },
                // T4.2.3-a: an error finds back as an answer does.
                false => Exchanged { sent: 5, icmp_unreachable: 5, ..Exchanged::default() },
            };
            assert_eq!(out, expected);
        }
    }
}

/// T4.2.5-b: the relay's entry is gone, and with it the connection: the application learns of it by a reset, at once.
#[test]
fn t4_2_5_b_an_rs_n_connection_that_is_lost_is_reset() {
    let mut lab = Lab::new(8);
    let mn = lab.mn(public(50));
    lab.start();
    let gn = lab.gn;
    let flow = lab.flow(mn, gn, Task::Transfer(transfer(30, 1_000_000)));
    lab.world.run_for(secs(2));
    let rs = lab.rs;
    lab.world.crash(rs);
    let died = lab.world.now();
    let out = transferred(&mut lab, flow);
    assert!(
        !out.completed && lab.world.now() - died < secs(20),
        "{out:?} after {:?}",
        lab.world.now() - died
    );
}

fn echo(key: u32) -> Task {
    Task::Echo(Echo { key, size: 32, period: ms(250), turns: None })
}

fn echoed(lab: &Lab, flow: FlowId) -> Echoed {
    match lab.world.outcome(flow) {
        Outcome::Echoed(out) => out,
        other => panic!("{other:?}"),
    }
}

/// T4.2.5-b: every message of a slow stream is answered, over a handover too; the general node sees it come from one address and port.
#[test]
fn t4_2_5_b_a_slow_stream_goes_on_and_its_server_sees_it_come_from_one_place() {
    let mut lab = Lab::new(9);
    let home = lab.nat(Behaviour::SYMMETRIC);
    let mn = lab.mn(public(50));
    lab.start();
    let gn = lab.gn;
    let flow = lab.flow(mn, gn, echo(1));
    lab.world.run_for(secs(2));
    lab.world.move_to(mn, &[inside(home, 2)]);
    lab.world.run_for(secs(5));
    let out = echoed(&lab, flow);
    assert_eq!((out.wrong, out.reset()), (None, None));
    let given = out.messages().count();
    let answered = out.messages().filter(|message| message.returned.is_some()).count();
    assert!((25..=28).contains(&given) && answered + 1 >= given, "{out:?}");
    let segments = lab.world.segments(flow).expect("those of a slow stream are noted");
    assert_eq!((segments.again, segments.astray, segments.sources.len()), (0, 0, 1), "{segments:?}");
    let (from, to) = (Instant::ZERO + secs(5), Instant::ZERO + secs(7));
    let recent: Vec<_> = segments.sent.iter().filter(|it| (from..to).contains(&it.sent)).collect();
    assert!(recent.len() > 10 && recent.iter().all(|segment| segment.came.is_some()), "{recent:?}");
}

/// A server's host stops and starts again: the client's connection is reset, and one that is made then is served.
#[test]
fn a_slow_stream_is_reset_by_a_server_that_forgot_it() {
    let mut lab = Lab::new(10);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let flow = lab.flow(mn, cn, echo(1));
    lab.world.run_for(secs(2));
    assert!(echoed(&lab, flow).messages().any(|message| message.returned.is_some()));
    lab.world.crash(cn);
    lab.world.end_applications(cn);
    lab.world.start(cn);
    lab.world.run_for(secs(20));
    let out = echoed(&lab, flow);
    assert!(out.reset().is_some() && out.wrong.is_none(), "{out:?}");
    let name = lab.world.fqdn(cn).clone();
    let again = lab.world.flow(mn, cn, &name, 5202, echo(2));
    lab.world.run_for(secs(2));
    let out = echoed(&lab, again);
    assert!(out.wrong.is_none() && out.messages().any(|message| message.returned.is_some()), "{out:?}");
}

/// Connections of 1.5 s, each of which its other end closes 0.8 s after the first, and half a second between them.
fn turns(by_server: bool) -> Turns {
    Turns { lasts: ms(1500), by_server, half: ms(800), pause: ms(500), ports: 12, asks: false }
}

fn conversation(key: u32, turns: Turns) -> Task {
    Task::Echo(Echo { key, size: 32, period: ms(250), turns: Some(turns) })
}

/// Asserts that every connection but the last was closed by both ends, by the right one first, and lost nothing: how many there were.
fn assert_closed(out: &Echoed, Turns { by_server, half, .. }: Turns) -> usize {
    assert_eq!((out.wrong, out.reset()), (None, None), "{out:?}");
    let (_, over) = out.turns.split_last().expect("there was a connection");
    for turn in over {
        let (first, other) = if by_server { (turn.server, turn.client) } else { (turn.client, turn.server) };
        let (heard, closed) = (first.heard.expect("it was heard"), other.closed.expect("both ends closed"));
        assert!(closed >= heard + half && other.heard.is_some(), "{turn:?}");
        assert!(by_server || turn.client.given == turn.server.given, "half-closed it is answered: {turn:?}");
        assert!(!by_server || turn.client.given > turn.server.given, "half-closed it is heard: {turn:?}");
    }
    over.len()
}

/// Whichever end closes first, and however its terminal moves meanwhile, a connection is closed, and another made to the same peer and port, where it comes from
/// the one place that its server sees.
#[test]
fn connections_are_closed_and_made_again_over_handovers() {
    for (general, by_server) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut lab = Lab::new(12);
        let (home, there) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::PORT_RESTRICTED));
        let mn = lab.mn(public(50));
        let cn = if general { lab.gn } else { lab.cn(inside(there, 2)) };
        lab.start();
        let flow = lab.flow(mn, cn, conversation(1, turns(by_server)));
        for n in 0..10 {
            // A connection and the pause behind it take some 3 s: the moves come at other moments of each.
            lab.world.run_for(ms(1900));
            lab.world.move_to(mn, &[if n % 2 == 0 { inside(home, 2) } else { public(50) }]);
        }
        lab.world.run_for(secs(5));
        let out = echoed(&lab, flow);
        assert!(assert_closed(&out, turns(by_server)) >= 5, "{out:?}");
        let segments = lab.world.segments(flow).expect("those of a slow stream are noted");
        assert_eq!((segments.again, segments.astray), (0, 0));
        let from: Vec<usize> = segments.sources.iter().map(|(_, connection, _)| *connection).collect();
        assert_eq!(from, (0..out.turns.len()).collect::<Vec<_>>());
    }
}

/// A port serves again as soon as TCP has forgotten what was there.
#[test]
fn a_connection_is_made_again_from_the_same_port() {
    for by_server in [false, true] {
        let mut lab = Lab::new(13);
        let mn = lab.mn(public(50));
        lab.start();
        let gn = lab.gn;
        let same = Turns { ports: 1, pause: secs(11), asks: true, ..turns(by_server) };
        let flow = lab.flow(mn, gn, conversation(1, same));
        lab.world.run_for(secs(35));
        let out = echoed(&lab, flow);
        assert!(assert_closed(&out, same) >= 2, "{out:?}");
        let segments = lab.world.segments(flow).expect("those of a slow stream are noted");
        let sources: BTreeSet<_> = segments.sources.iter().map(|(_, _, source)| *source).collect();
        assert_eq!((sources.len(), segments.sources.len()), (1, out.turns.len()));
    }
}

/// What opens a connection comes twice or not at all: it belongs to that connection, and none is reset.
#[test]
fn connections_are_closed_and_made_again_over_links_that_lose_and_repeat() {
    let mut lab = Lab::new(14);
    let mut bad = Link::of(ms(20));
    for way in [&mut bad.up, &mut bad.down] {
        (way.loss, way.duplicate, way.reorder) = (0.1, 0.3, 0.3);
    }
    let mn = lab.mn(ntm_sim::Interface { link: bad, ..public(50) });
    lab.start();
    let gn = lab.gn;
    for (key, by_server) in [(1, false), (2, true)] {
        let name = lab.world.fqdn(gn).clone();
        let flow = lab.world.flow(mn, gn, &name, 6000 + key as u16, conversation(key, turns(by_server)));
        lab.world.run_for(secs(80));
        let out = echoed(&lab, flow);
        assert!(assert_closed(&out, turns(by_server)) >= 8, "{out:?}");
        lab.world.end_flow(flow);
    }
}

/// Two servers at one port of one host: the first takes the connection that is for the second, and notices that its bytes are not its own.
#[test]
fn bytes_of_another_conversation_are_noticed() {
    let mut lab = Lab::new(11);
    let (mn, cn) = (lab.mn(public(50)), lab.cn(public(51)));
    lab.start();
    let nobody = "nobody.example.test".parse().expect("a name");
    let first = lab.world.flow(mn, cn, &nobody, 5201, echo(1));
    let second = lab.flow(mn, cn, echo(2));
    lab.world.run_for(secs(3));
    let (first, second) = (echoed(&lab, first), echoed(&lab, second));
    assert!(first.wrong.is_some() && first.connected().is_none(), "{first:?}");
    assert!(second.connected().is_some(), "{second:?}");
}
