//! Negotiations through a real DNS: the sequences as a DC traces them, and what becomes of each failure.

use std::collections::BTreeSet;

use ntm_protocol::addr::Vip;
use ntm_protocol::observe::What;
use ntm_protocol::wire::{DnsError, Kind};
use serde_json::{Value, json};

use crate::client::{Client, register, run};
use crate::names::Names;
use crate::process::{Dc, Files, LAB, SITE, traced, vip};
use crate::space::Space;

/// What a DC noted in `lines` from the number `start` on, one line each, in order, but Keep-alives; what was repeated stands once, and not at all
/// where it was there before.
fn ladder(lines: &[Value], start: usize) -> String {
    let names = [
        ("127.0.0.10", "DC"),
        ("127.0.0.20", "LAB"),
        ("127.0.0.31", "MN"),
        ("127.0.0.32", "CN"),
        ("127.0.0.40", "RS"),
    ];
    let who = |address: &Value| {
        let address = address.as_str().expect("an address").trim_end_matches(":4330");
        names.iter().find(|(known, _)| *known == address).map_or(address, |(_, name)| name).to_owned()
    };
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let is_keep_alive =
        |line: &Value| line["message"].as_str().is_some_and(|kind| kind.starts_with("KeepAlive"));
    let step = |line: &Value| match line["what"].as_str()? {
        _ if is_keep_alive(line) => None,
        "received" => Some(format!("{} -> {}", who(&line["from"]), text(&line["message"]))),
        "sent" => Some(format!("-> {} {}", who(&line["to"]), text(&line["message"]))),
        "asked" => Some(format!("{} {} ?", text(&line["lookup"]), text(&line["name"]))),
        "answered" => {
            Some(format!("{} {}: {}", text(&line["lookup"]), text(&line["name"]), text(&line["answer"])))
        }
        "directed" => Some(format!("{}: {}", text(&line["route"]), text(&line["reason"]))),
        "refused" => Some(format!("refused {}: {}", text(&line["field"]), text(&line["reason"]))),
        _ => None,
    };
    let mut seen = BTreeSet::new();
    // When a terminal reports what it measured of the relays is its own affair.
    let is_step = |line: &&Value| !text(&line["message"]).contains("KeepAlive");
    seen.extend(lines[..start].iter().filter_map(step));
    let steps: Vec<_> = lines[start..]
        .iter()
        .filter(is_step)
        .filter_map(step)
        .filter(|step| seen.insert(step.clone()))
        .collect();
    steps.join("\n")
}

/// T4.2.2-seq (Fig. 4.3), T3.2.2-b, T5.3-b, T5.3-a, T3.2.3-b: a name without the DC's record leads to a relay, and to MN alone.
#[test]
fn t4_2_2_seq_a_general_node_is_reached_through_a_relay() {
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut rs = Client::relay(&space, &SITE, "rs1.dc.test", 40);
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    register([&mut rs, &mut mn]);
    let start = dc.files.trace().len();
    mn.query(1, "ftp.example.test");
    run([&mut rs, &mut mn], |[_, mn]| mn.answer(1).is_some());
    assert_eq!(mn.answer(1), Some(Ok(vip(129))));
    insta::assert_snapshot!(ladder(&dc.files.trace(), start), @"
    MN -> DirectionRequest
    NS ftp.example.test ?
    NS ftp.example.test: example.test at ns.example.test
    TXT example.test ?
    TXT example.test: no record
    A ftp.example.test ?
    A ftp.example.test: 192.0.2.21
    AAAA ftp.example.test ?
    AAAA ftp.example.test: 2001:db8::21
    RS-N: the peer is a general node
    -> RS RelayDirection
    RS -> RelayResponse
    -> MN RouteDirection
    ");

    // T3.2.3-b: the application's answer comes only once the tunnel stands.
    let position = |what: fn(&What) -> bool| mn.noted.iter().position(what).expect("it was noted");
    let tunnel = position(|what| matches!(what, What::Received { message: Kind::TunnelResponse, .. }));
    let answer = position(|what| matches!(what, What::Answer { .. }));
    assert!(tunnel < answer, "{:#?}", mn.noted);
    assert_eq!(dc.status()["refused"], 0);
}

/// T3.2-seq (Fig. 3.2), T3.2.2-c, T3.2.3-a: two DCs. The one asks the other, and directs CN through it. When that one was killed, the
/// conversation between the two begins anew by itself.
#[test]
fn t3_2_seq_a_terminal_of_another_dc_is_reached_over_its_crash_too() {
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut lab = Dc::start(&space, Files::new(&LAB).with("\"1h\"", "\"1s\""));
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    let mut cn = Client::terminal(&space, &LAB, "cn.lab.test", 32);
    register([&mut mn, &mut cn]);
    let starts = [&dc, &lab].map(|dc| dc.files.trace().len());
    mn.query(1, "cn.lab.test");
    run([&mut mn, &mut cn], |[mn, _]| mn.answer(1).is_some());
    let far = Vip([198, 18, 1, 1].into());
    assert_eq!((mn.answer(1), cn.vip()), (Some(Ok(far)), Some(far)));
    // CN's answer to its Route Direction comes back through both.
    run([&mut mn, &mut cn], |_| {
        traced(&dc.files.trace(), "received").iter().any(|line| line["message"] == "RouteResponse")
    });
    insta::assert_snapshot!(ladder(&dc.files.trace(), starts[0]), @"
    MN -> DirectionRequest
    NS cn.lab.test ?
    NS cn.lab.test: lab.test at ns.lab.test
    TXT lab.test ?
    TXT lab.test: ntm-dc=1
    -> LAB RegistrationRequest
    LAB -> RegistrationResponse
    -> LAB InformationRequest
    LAB -> InformationResponse
    direct: both have global addresses
    -> LAB RouteDirection
    -> MN RouteDirection
    LAB -> RouteResponse
    ");
    insta::assert_snapshot!(ladder(&lab.files.trace(), starts[1]), @"
    DC -> RegistrationRequest
    -> DC RegistrationResponse
    DC -> InformationRequest
    -> DC InformationResponse
    DC -> RouteDirection
    -> CN RouteDirection
    CN -> RouteResponse
    -> DC RouteResponse
    ");

    lab.kill();
    lab.restart();
    let start = dc.files.trace().len();
    run([&mut mn, &mut cn], |[_, cn]| cn.registrations() >= 2 && cn.is_registered());
    assert_eq!(cn.vip(), Some(far));
    let mut late = Client::terminal(&space, &SITE, "late.dc.test", 33);
    // All of them: CN must go on with its Keep-alives meanwhile.
    run([&mut mn, &mut cn, &mut late], |[_, _, late]| late.is_registered());
    late.query(1, "cn.lab.test");
    run([&mut mn, &mut cn, &mut late], |[_, _, late]| late.answer(1).is_some());
    assert_eq!(late.answer(1), Some(Ok(far)));
    // Who speaks first, for a path of its own terminal, opens the conversation.
    let trace = dc.files.trace();
    let opened = trace[start..].iter().any(|line| {
        line["message"] == "RegistrationRequest"
            && (line["to"] == "127.0.0.20:4330" || line["from"] == "127.0.0.20:4330")
    });
    assert!(opened, "{trace:#?}");
}

/// T3.2.2-b, T4.2.2-seq: what the DNS answers when there is no way becomes the answer that the application gets, and stands in the trace.
/// One name server that is silent holds up nobody else.
#[test]
fn t3_2_2_b_each_failure_of_the_dns_gives_its_refusal() {
    use DnsError::{NoData, NxDomain, ServFail};
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    register([&mut mn]);
    let start = dc.files.trace().len();
    let example = "NS: example.test at ns.example.test";
    // Name, refusal, what the DNS said of that name.
    let cases: [(&str, DnsError, &[&str]); 18] = [
        ("nothing.example.test", NxDomain, &["NS: NXDOMAIN"]),
        ("www.nothing", NxDomain, &["NS: NXDOMAIN"]),
        ("nobody.dc.test", NxDomain, &["NS: NXDOMAIN"]),
        // A name server that has no authority for the zone that it was given.
        ("www.refusing.test", ServFail, &["NS: SERVFAIL"]),
        ("www.silent.test", ServFail, &["NS: timeout"]),
        // Its name server says that it is a DC, and nobody shares a key with it.
        ("mn.liar.test", ServFail, &["NS: liar.test at ns.liar.test"]),
        // Two zones whose servers have their names in each other, and so no address.
        ("www.knot.test", ServFail, &["NS: SERVFAIL"]),
        // A zone delegated to our own DC, which has no such zone.
        ("www.astray.test", ServFail, &["NS: SERVFAIL"]),
        // Aliases: those of one zone are followed; round, into nothing, to the silent, to a terminal (whose VIP is nobody's by alias).
        ("alias.example.test", ServFail, &[example, "A: 192.0.2.80", "AAAA: no record"]),
        ("round.example.test", ServFail, &[example, "A: SERVFAIL"]),
        ("adrift.example.test", NxDomain, &["NS: NXDOMAIN"]),
        ("far.example.test", NxDomain, &["NS: NXDOMAIN"]),
        ("muted.example.test", ServFail, &["NS: timeout"]),
        ("to-ntm.example.test", NoData, &[example, "A: no record", "AAAA: no record"]),
        ("long0.example.test", ServFail, &[example, "A: 192.0.2.80", "AAAA: no record"]),
        // A terminal of our own that is not registered.
        ("cn.dc.test", ServFail, &["NS: dc.test at ns.dc.test"]),
        ("bare.example.test", NoData, &[example, "A: no record", "AAAA: no record"]),
        // All that the DNS can say is right, and there is no relay.
        ("www.example.test", ServFail, &[example, "A: 192.0.2.80", "AAAA: no record"]),
    ];
    for (id, (name, ..)) in (1..).zip(&cases) {
        mn.query(id, name);
    }
    run([&mut mn], |[mn]| mn.answers.len() == cases.len());

    let trace = &dc.files.trace()[start..];
    let text = |line: &Value, key: &str| line[key].as_str().expect("a text").to_owned();
    let mut other = Vec::new();
    for (id, (name, error, said)) in (1..).zip(&cases) {
        let answers: Vec<String> = traced(trace, "answered")
            .iter()
            .filter(|line| line["name"] == *name)
            .map(|line| format!("{}: {}", text(line, "lookup"), text(line, "answer")))
            .collect();
        if mn.answer(id) != Some(Err(*error)) || answers != *said {
            other.push((name, mn.answer(id), answers));
        }
    }
    assert!(other.is_empty(), "{other:#?}");
    let of = |lookup: &str, name: &str| {
        let lines = traced(trace, "answered");
        lines
            .iter()
            .find(|line| line["lookup"] == lookup && line["name"] == name)
            .map(|line| line["answer"].clone())
    };
    assert_eq!(of("TXT", "liar.test"), Some(json!("ntm-dc=1")));
    assert_eq!(of("TXT", "example.test"), Some(json!("no record")));
    let refused = traced(trace, "refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(
        (&refused[0]["from"], &refused[0]["field"], &refused[0]["reason"]),
        (&json!("127.0.0.5:4330"), &json!("dc record"), &json!("not known here"))
    );
    assert_eq!(dc.status()["refused"], 1);
    assert_eq!(traced(trace, "directed"), Vec::<&Value>::new());

    // Within the patience of an application's own resolver, five seconds; and every other name was answered before.
    let slow = of_time(trace, "asked", "www.silent.test");
    let given_up = of_time(trace, "answered", "www.silent.test");
    assert!(given_up - slow < 5_000_000_000, "{} ns", given_up - slow);
    let refusals = traced(trace, "sent").into_iter().filter(|line| line["message"] == "DirectionRefusal");
    let before = refusals.filter(|line| line["t"].as_u64().expect("a time") < given_up).count();
    assert!(
        before >= cases.len() - 2,
        "{before} of the others, but one that is an alias of the silent, were answered before"
    );
}

/// When the first record `what` about `name` was made.
fn of_time(trace: &[Value], what: &str, name: &str) -> u64 {
    let lines = traced(trace, what);
    let line = lines.iter().find(|line| line["name"] == name).expect("it was traced");
    line["t"].as_u64().expect("a time")
}
