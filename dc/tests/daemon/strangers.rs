//! What an application gets whose terminal, or whose peer, the DC does not take: an error in bounded time, and the cause in the trace.

use std::time::{Duration, Instant};

use ntm_protocol::crypto::SharedKey;
use ntm_protocol::terminal::TerminalConfig;
use ntm_protocol::wire::DnsError;
use serde_json::json;

use crate::client::{Client, register, run};
use crate::names::Names;
use crate::process::{Dc, Files, SITE, fqdn, traced};
use crate::space::Space;

/// How long these terminals let an application wait.
const SHORT: Duration = Duration::from_secs(1);
/// How long an application's own resolver waits.
const RESOLVER: Duration = Duration::from_secs(5);

/// The application's answer, and the refusals that the DC traced of 127.0.0.31.
fn asked(change: impl FnOnce(&mut TerminalConfig)) -> (Result<(), DnsError>, Vec<String>) {
    let space = Space::new();
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Client::terminal_but(&space, &SITE, "mn.dc.test", 31, |config| {
        config.patience = SHORT;
        change(config);
    });
    let start = Instant::now();
    mn.query(1, "www.example.test");
    run([&mut mn], |[mn]| mn.answer(1).is_some());
    assert!(start.elapsed() < RESOLVER, "{:?}", start.elapsed());
    let trace = dc.files.trace();
    let refused = traced(&trace, "refused").into_iter().filter(|line| line["from"] == "127.0.0.31:4330");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut refused: Vec<String> =
        refused.map(|line| format!("{}: {}", text(&line["field"]), text(&line["reason"]))).collect();
    refused.dedup();
    (mn.answer(1).expect("an answer").map(drop), refused)
}

/// T3.1-e: a key that does not match.
#[test]
fn a_key_that_does_not_match_is_servfail_and_traced() {
    let (answer, refused) = asked(|config| config.key = SharedKey::new([7; 32]));
    assert_eq!((answer, refused), (Err(DnsError::ServFail), vec!["mac: does not match".to_owned()]));
}

/// T3.2.1-a: a terminal that its DC does not know.
#[test]
fn an_unknown_terminal_is_servfail_and_traced() {
    let (answer, refused) = asked(|config| config.fqdn = fqdn("nobody.dc.test"));
    assert_eq!((answer, refused), (Err(DnsError::ServFail), vec!["node id: not known here".to_owned()]));
}

/// T3.2.1-a: a registration whose number is not above the last one, of a terminal whose clock went back: it is refused, the terminal is told
/// how far to skip, and registers. A registration that ended is no registration: who asks for that terminal is answered SERVFAIL.
#[test]
fn a_stale_registration_is_refused_and_mended_and_one_that_ended_is_servfail() {
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE).with("\"1h\"", "\"300ms\""));
    let mut before = Client::terminal_but(&space, &SITE, "cn.dc.test", 32, |c| c.first_sequence = 5_000);
    register([&mut before]);
    drop(before);
    let mut cn = Client::terminal(&space, &SITE, "cn.dc.test", 32);
    let start = Instant::now();
    register([&mut cn]);
    assert!(start.elapsed() < RESOLVER, "{:?}", start.elapsed());
    let trace = dc.files.trace();
    let refused = traced(&trace, "refused");
    assert_eq!(
        (refused.len(), &refused[0]["field"], &refused[0]["reason"]),
        (1, &json!("sequence"), &json!("the number 1 was seen before or is too old"))
    );
    // CN stops, and three and a half keep-alives later it counts as gone.
    drop(cn);
    let mut mn = Client::terminal(&space, &SITE, "mn.dc.test", 31);
    register([&mut mn]);
    run([&mut mn], |_| {
        traced(&dc.files.trace(), "unregistered").iter().any(|line| line["fqdn"] == "cn.dc.test")
    });
    let start = Instant::now();
    mn.query(1, "cn.dc.test");
    run([&mut mn], |[mn]| mn.answer(1).is_some());
    assert_eq!(mn.answer(1), Some(Err(DnsError::ServFail)));
    assert!(start.elapsed() < RESOLVER, "{:?}", start.elapsed());
}
