//! What the simulator's applications measured, in the terms of the real programs.

use std::net::Ipv4Addr;
use std::time::Duration;

use ntm_protocol::time::Instant;
use ntm_sim::Talk;
use ntm_sim::flow::{Exchanged, Fetched, Outcome, Probed, Row, Streamed, Transferred};

use super::names;
use crate::flow::iperf3::{self, Interval};
use crate::flow::probes::{Way, Ways};
use crate::flow::{Quantities, is_virtual, pingpong, unmeasured};
use crate::judge::catalogue;
use crate::judge::expr::Value;
use crate::scenario::model::{Flow, FlowKind};

/// What came of a flow, as its program would have told it; `own` is its client's address.
pub fn measured(
    flow: &Flow,
    outcome: &Outcome,
    question: Option<&Talk>,
    own: Option<Ipv4Addr>,
) -> Quantities {
    let names: Vec<&str> = catalogue::of_flow(&flow.kind).iter().map(|(name, ..)| *name).collect();
    let why = match question.and_then(|question| Some((&question.peer, question.answer?.1))) {
        Some((peer, Err(error))) => format!("{peer}: {error:?}"),
        None => "no answer came".to_owned(),
        Some(_) => "the flow did not come so far".to_owned(),
    };
    let mut out = unmeasured(&names, &why);
    let address = question.and_then(Talk::address);
    match (outcome, address) {
        (Outcome::Transferred(told), _) => out.extend(transferred(&flow.kind, told, &why, own)),
        (Outcome::Streamed(told), _) => out.extend(streamed(&flow.kind, told, &why)),
        (Outcome::Fetched(told), _) => out.extend(fetched(&flow.kind, told, question)),
        (Outcome::Answered(told), _) => out.extend(names::measured(&flow.kind, told)),
        (Outcome::Probed(told), Some(_)) => out.extend(ways(told).quantities()),
        (Outcome::Exchanged(told), Some(_)) => out.extend(exchanged(told)),
        (Outcome::Bounced(told), Some(address)) => {
            let why = told.failure.as_ref().unwrap_or(&why);
            out.extend(pingpong::quantities(&told.times, address.into(), why));
        }
        (Outcome::Probed(_) | Outcome::Exchanged(_) | Outcome::Bounced(_), None) => {}
        // No kind of a scenario's flows.
        (Outcome::Echoed(_), _) => {}
    }
    let told = address.map(|address| address.to_string()).filter(|_| names.contains(&"remote_address"));
    // What is asked of a DNS tells addresses, and is told none before.
    if let Some(address) = told.filter(|_| !matches!(flow.kind, FlowKind::Dns { .. })) {
        let both = own.is_none_or(|own| is_virtual(&own.to_string())) || !is_transfer(&flow.kind);
        out.insert("virtual".to_owned(), Ok(Value::Truth(is_virtual(&address) && both)));
        out.insert("remote_address".to_owned(), Ok(Value::Text(address)));
    }
    out
}

fn is_transfer(kind: &FlowKind) -> bool {
    matches!(kind, FlowKind::Iperf3 { .. })
}

fn number(value: u64) -> Result<Value, String> {
    Ok(Value::Number(value as f64))
}

/// What the receiver of a transfer counted in each tenth of a second.
pub fn intervals(kind: &FlowKind, stretches: &[u64]) -> Vec<Interval> {
    let FlowKind::Iperf3 { omit, .. } = kind else { return Vec::new() };
    let stretch = |(at, bytes): (usize, &u64)| {
        let start = omit.as_secs_f64() + at as f64 / 10.0;
        Interval { start, end: start + 0.1, bytes: *bytes as f64 }
    };
    stretches.iter().enumerate().map(stretch).collect()
}

fn transferred(kind: &FlowKind, told: &Transferred, why: &str, own: Option<Ipv4Addr>) -> Quantities {
    let FlowKind::Iperf3 { omit, .. } = kind else { return Quantities::new() };
    let mut out = iperf3::counted(&intervals(kind, &told.stretches), omit.as_secs_f64(), why);
    out.insert("completed".to_owned(), Ok(Value::Truth(told.completed)));
    if let Some(took) = told.took {
        out.insert("time_ms".to_owned(), Ok(Value::Number(took.as_secs_f64() * 1e3)));
    }
    if told.connections > 0 {
        out.insert("connections".to_owned(), number(told.connections.into()));
        out.insert("retransmits".to_owned(), number(told.retransmits));
        if let Some(own) = own {
            out.insert("local_address".to_owned(), Ok(Value::Text(own.to_string())));
        }
    }
    out
}

fn streamed(kind: &FlowKind, told: &Streamed, why: &str) -> Quantities {
    let FlowKind::Iperf3 { omit, .. } = kind else { return Quantities::new() };
    let mut out = iperf3::counted(&intervals(kind, &told.stretches), omit.as_secs_f64(), why);
    let numbers = (told.sent as f64, told.lost as f64);
    out.extend(iperf3::numbered(Some(numbers), Some(told.jitter.as_secs_f64() * 1e3), why));
    out.insert("completed".to_owned(), Ok(Value::Truth(told.completed)));
    out
}

fn fetched(kind: &FlowKind, told: &Fetched, question: Option<&Talk>) -> Quantities {
    let FlowKind::Http { size, .. } = kind else { return Quantities::new() };
    let mut out = Quantities::new();
    let ms = |time: Duration| Ok(Value::Number(time.as_secs_f64() * 1e3));
    out.insert("intact".to_owned(), Ok(Value::Truth(told.whole && told.wrong == 0 && told.bytes == *size)));
    out.insert("bytes".to_owned(), number(told.bytes));
    out.insert("status".to_owned(), number(if told.bytes > 0 { 200 } else { 0 }));
    let Some(question) = question else { return out };
    if let Some((answered, Ok(_))) = question.answer {
        out.insert("resolve_ms".to_owned(), ms(answered - question.asked));
    }
    if let Some(done) = told.done {
        out.insert("time_ms".to_owned(), ms(done - question.asked));
    }
    out
}

/// What probes told, in emulation's form.
pub fn ways(told: &Probed) -> Ways {
    let way = |row: &Row| Way {
        sent: row.sent.iter().map(|at: &Instant| at.as_nanos()).collect(),
        arrived: row.arrived.iter().map(|(number, at)| (*number, at.as_nanos())).collect(),
    };
    Ways { out: way(&told.out), back: way(&told.back) }
}

fn exchanged(told: &Exchanged) -> Quantities {
    let gone = (told.sent + told.answered).saturating_sub(told.arrived + told.received);
    let lost = gone.saturating_sub(told.icmp_too_big + told.icmp_unreachable);
    [
        ("sent", told.sent),
        ("arrived", told.arrived),
        ("answered", told.answered),
        ("received", told.received),
        ("too_big", told.too_big),
        ("answers_too_big", told.answers_too_big),
        ("icmp_too_big", told.icmp_too_big),
        ("icmp_unreachable", told.icmp_unreachable),
        ("lost", lost),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), number(value.into())))
    .collect()
}
