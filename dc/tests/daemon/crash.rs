//! `kill -9` and a restart: what a node was told holds, and nothing recorded is taken again.

use std::collections::BTreeSet;

use ntm_protocol::observe::What;
use ntm_protocol::wire::{DirectionRequest, Error, ErrorCode, Message, RequestId};
use serde_json::{Value, json};

use crate::client::{Client, register, run};
use crate::hand::Hand;
use crate::names::Names;
use crate::process::{Dc, Files, SITE, fqdn, loopback, traced, vip};
use crate::space::Space;

/// T3.2.1-a, T3.2.1-b, T3.1-a: the DC is killed the moment that its answer is there. The terminals learn of it by their next Keep-alive,
/// register again by themselves, and have the VIPs that they had; who comes new gets one that nobody has.
#[test]
fn t3_2_1_terminals_keep_their_vips_over_kill_9() {
    let space = Space::new();
    let mut dc = Dc::start(&space, Files::new(&SITE).with("\"1h\"", "\"300ms\""));
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    let mut cn = Client::terminal(&space, &SITE, "cn.dc.test", 32);
    register([&mut mn]);
    register([&mut cn]);
    dc.kill();
    let vips = [mn.vip(), cn.vip()];
    assert_eq!(vips, [Some(vip(1)), Some(vip(2))]);
    let noted = [mn.noted.len(), cn.noted.len()];

    dc.restart();
    let status = dc.status();
    assert_eq!((&status["terminals"], &status["refused"]), (&json!(0), &json!(0)));
    // First of all, while the others have not come back.
    let mut late = Client::terminal(&space, &SITE, "late.dc.test", 33);
    register([&mut late]);
    assert_eq!(late.vip(), Some(vip(3)));

    run([&mut mn, &mut cn, &mut late], |clients| {
        clients[..2].iter().all(|client| client.registrations() >= 2 && client.is_registered())
    });
    assert_eq!([mn.vip(), cn.vip()], vips);
    for (client, noted) in [(&mn, noted[0]), (&cn, noted[1])] {
        let steps: Vec<String> = client.noted[noted..]
            .iter()
            .filter_map(|what| match what {
                What::Sent { message, .. } => Some(format!("-> {message:?}")),
                What::Received { message, .. } => Some(message.name().to_owned()),
                What::Unregistered { .. } => Some("unregistered".into()),
                What::Registered { .. } => Some("registered".into()),
                What::GaveUp { .. } => Some("gave up".into()),
                _ => None,
            })
            .collect();
        // A message that is repeated because this machine is busy changes nothing.
        let mut seen = BTreeSet::new();
        let unique: Vec<&String> = steps.iter().filter(|step| seen.insert(*step)).collect();
        let expected =
            ["-> KeepAlive", "Error", "unregistered", "-> RegistrationRequest", "RegistrationResponse"];
        assert_eq!(unique[..5], expected, "{steps:?}");
    }
    // The trace holds what was answered the moment before the kill, too.
    let registered: BTreeSet<_> = traced(&dc.files.trace(), "registered")
        .iter()
        .map(|line| (line["fqdn"].to_string(), line["vip"].to_string()))
        .collect();
    assert_eq!(registered.len(), 3, "one VIP for each, over both lives: {registered:?}");
    dc.kill();
    let nodes = dc.files.snapshot().nodes;
    let held: BTreeSet<_> = nodes.iter().map(|node| (node.fqdn.as_str(), node.vip)).collect();
    assert_eq!(
        held,
        BTreeSet::from([
            ("mn.dc.test", Some(vip(1))),
            ("cn.dc.test", Some(vip(2))),
            ("late.dc.test", Some(vip(3)))
        ])
    );
}

/// T4.2.4-a: a general node keeps its VIP_GN over a crash, and another one gets another.
#[test]
fn t4_2_4_a_general_node_keeps_its_vip_over_kill_9() {
    let space = Space::new();
    let _names = Names::start(&space);
    let mut dc = Dc::start(&space, Files::new(&SITE));
    let mut rs = Client::relay(&space, &SITE, "rs1.dc.test", 40);
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    register([&mut rs, &mut mn]);
    mn.query(1, "www.example.test");
    run([&mut rs, &mut mn], |[_, mn]| mn.answer(1).is_some());
    dc.kill();
    let www = mn.answer(1).expect("an answer").expect("a VIP_GN");
    assert_eq!(www, vip(129), "the upper half of the range is for general nodes");

    dc.restart();
    // New nodes: those from before would wait for their hourly Keep-alive.
    drop((rs, mn));
    let mut rs = Client::relay(&space, &SITE, "rs1.dc.test", 40);
    let mut late = Client::terminal(&space, &SITE, "late.dc.test", 33);
    register([&mut rs, &mut late]);
    late.query(1, "ftp.example.test");
    run([&mut rs, &mut late], |[_, late]| late.answer(1).is_some());
    late.query(2, "www.example.test");
    run([&mut rs, &mut late], |[_, late]| late.answer(2).is_some());
    assert_eq!([late.answer(1), late.answer(2)], [Some(Ok(vip(130))), Some(Ok(www))]);
}

/// Nothing that was recorded before a crash is taken after it: neither before its sender has registered again, nor afterwards.
#[test]
fn t3_1_e_replays_from_before_a_crash_are_refused_after_it() {
    let space = Space::new();
    let mut dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    let (registration, granted) = mn.register(1);
    let kept = mn.keep_alive(2);
    let request =
        DirectionRequest { request: RequestId(3), fqdn: fqdn("cn.dc.test"), renewal: None, avoid: None };
    let direction = mn.seal(request);
    let recorded = [registration, kept, direction];
    dc.kill();

    dc.restart();
    let thief = space.udp(loopback(66), 4330);
    let store = dc.files.store_bytes();
    let start = dc.files.trace().len();
    let replay = |dc: &Dc, refused: u64| {
        for datagram in &recorded {
            thief.send_to(datagram, SITE.socket()).expect("sent");
        }
        dc.await_status(|status| status["refused"] == refused)
    };
    let status = replay(&dc, 3);
    assert_eq!((&status["terminals"], &status["received"]), (&json!(0), &json!(3)));
    assert_eq!(dc.files.store_bytes(), store, "nothing was written");
    let replayed = "the number 1 was seen before or is too old";
    let refusals = |lines: &[Value]| -> Vec<(String, String)> {
        let refused = traced(lines, "refused");
        let pair = |line: &&Value| (line["field"].to_string(), line["reason"].to_string());
        refused.iter().map(pair).map(|(a, b)| (a.replace('"', ""), b.replace('"', ""))).collect()
    };
    let expect = |reasons: [&str; 3]| reasons.map(|reason| ("sequence".to_owned(), reason.to_owned()));
    let trace = dc.files.trace();
    assert_eq!(
        refusals(&trace[start..]),
        expect([replayed, "not expected here", "not expected here"]),
        "{trace:#?}"
    );

    // The terminal itself is told how far its numbers have come, and is registered with the VIP that it had.
    drop(mn);
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    let stale = mn.seal(mn.registration(1));
    mn.send(&stale);
    let told = Message::Error(Error { sequence: 1, code: ErrorCode::Stale { floor: 1 } });
    assert_eq!(mn.receive(), told);
    let (_, again) = mn.register(1);
    assert_eq!(again.vip, granted.vip);
    drop(mn);

    // Its numbers went on above those that were recorded: none of them comes through the open window.
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 100);
    let (_, again) = mn.register(2);
    assert_eq!(again.vip, granted.vip);
    let (store, start) = (dc.files.store_bytes(), dc.files.trace().len());
    let status = replay(&dc, 7);
    assert_eq!(status["terminals"], 1);
    assert_eq!(dc.files.store_bytes(), store, "nothing was written");
    let trace = dc.files.trace();
    let old = |n: u64| format!("the number {n} was seen before or is too old");
    assert_eq!(refusals(&trace[start..]), expect([&old(1), &old(2), &old(3)]));
    assert_eq!(traced(&trace[start..], "registered").len() + traced(&trace[start..], "asked").len(), 0);
    // Still known where it is, not where the replays came from.
    mn.keep_alive(4);
}
