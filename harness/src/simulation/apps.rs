//! What flows are in the simulator, and what its applications measured in the terms of the real programs.

use std::net::Ipv4Addr;
use std::time::Duration;

use ntm_protocol::time::Instant;
use ntm_sim::Talk;
use ntm_sim::flow::{
    Datagrams, Exchanged, Fetched, Outcome, Page, Probed, Probes, Row, Task, Transfer, Transferred,
};

use crate::flow::iperf3::{self, Interval};
use crate::flow::probes::{self, Way, Ways};
use crate::flow::{Quantities, is_virtual, unmeasured};
use crate::judge::catalogue;
use crate::judge::expr::Value;
use crate::scenario::model::{Flow, FlowKind, Scenario};

/// The sockets' buffers where nothing is said of them, and no link is narrower, in bytes.
const WINDOW: u64 = 1 << 20;
/// The least that they are, in bytes.
const LEAST_WINDOW: u64 = 16 << 10;
/// The longest payload of a datagram that needs not be cut up.
pub const WHOLE: u64 = 1424 - 28;

/// What the sockets of a transfer hold if nothing is said of them: no more is under way than the queues of its ends' links hold, which have room for
/// 50 ms. smoltcp has no selective acknowledgements (RFC 2018) and a least timeout of a second (RFC 6298), so that where Linux's TCP finds a queue full and
/// goes on, it would stand still.
fn window(scenario: &Scenario, kind: &FlowKind) -> u64 {
    let Some(ends) = kind.ends() else { return WINDOW };
    let to = scenario.node_named(ends.to.get_ref()).map(|(_, node)| node);
    let nodes = [scenario.nodes.get(ends.from.get_ref()), to].into_iter().flatten();
    let links = nodes.flat_map(|node| &node.interfaces).flat_map(|interface| scenario.links_of(interface));
    let rates = links.flat_map(|link| [link.up.rate, link.down.rate]).flatten();
    // Four fifths of the 50 ms.
    rates.map(|rate| (rate / 200).clamp(LEAST_WINDOW, WINDOW)).min().unwrap_or(WINDOW)
}

/// What the simulator does for a flow of `scenario`; `None` for what it cannot do.
pub fn task(scenario: &Scenario, kind: &FlowKind) -> Option<Task> {
    Some(match kind {
        FlowKind::Iperf3 { duration, udp: false, streams: 1, reverse, rate, omit, window: asked, .. } => {
            let window = usize::try_from(asked.unwrap_or_else(|| window(scenario, kind))).ok()?;
            let (duration, omit, reverse, rate) = (*duration, *omit, *reverse, *rate);
            Task::Transfer(Transfer { duration, omit, reverse, rate, window })
        }
        FlowKind::Http { size, .. } => Task::Page(Page { size: *size }),
        FlowKind::Probe { duration, interval, size, .. } => {
            let count = probes::Probes { duration: *duration, interval: *interval, size: *size }.count();
            let (count, size) = (u32::try_from(count).ok()?, usize::try_from(*size).ok()?);
            Task::Probes(Probes { count, interval: *interval, size })
        }
        FlowKind::Udp { size, reply, count, interval, listen, .. } if (*size).max(*reply) <= WHOLE => {
            Task::Datagrams(Datagrams {
                size: usize::try_from(*size).ok()?,
                reply: usize::try_from(*reply).ok()?,
                count: u32::try_from(*count).ok()?,
                interval: *interval,
                listen: *listen,
            })
        }
        _ => return None,
    })
}

/// What came of a flow, as its program would have told it; `own` is its client's address.
pub fn measured(flow: &Flow, outcome: &Outcome, question: &Talk, own: Option<Ipv4Addr>) -> Quantities {
    let names: Vec<&str> = catalogue::of_flow(&flow.kind).iter().map(|(name, ..)| *name).collect();
    let why = match question.answer {
        Some((_, Err(error))) => format!("{}: {error:?}", question.peer),
        None => "no answer came".to_owned(),
        Some(_) => "the flow did not come so far".to_owned(),
    };
    let mut out = unmeasured(&names, &why);
    let address = question.address().map(|address| address.to_string());
    match outcome {
        Outcome::Transferred(told) => out.extend(transferred(&flow.kind, told, &why, own)),
        Outcome::Fetched(told) => out.extend(fetched(&flow.kind, told, question)),
        Outcome::Probed(told) if address.is_some() => out.extend(ways(told).quantities()),
        Outcome::Exchanged(told) if address.is_some() => out.extend(exchanged(told)),
        Outcome::Probed(_) | Outcome::Exchanged(_) => {}
    }
    if let Some(address) = address {
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

/// What the receiver of a transfer counted.
pub fn intervals(kind: &FlowKind, told: &Transferred) -> Vec<Interval> {
    let FlowKind::Iperf3 { omit, .. } = kind else { return Vec::new() };
    let stretch = |(at, bytes): (usize, &u64)| {
        let start = omit.as_secs_f64() + at as f64 / 10.0;
        Interval { start, end: start + 0.1, bytes: *bytes as f64 }
    };
    told.stretches.iter().enumerate().map(stretch).collect()
}

fn transferred(kind: &FlowKind, told: &Transferred, why: &str, own: Option<Ipv4Addr>) -> Quantities {
    let FlowKind::Iperf3 { omit, .. } = kind else { return Quantities::new() };
    let mut out = iperf3::counted(&intervals(kind, told), omit.as_secs_f64(), why);
    out.insert("completed".to_owned(), Ok(Value::Truth(told.completed)));
    if told.connections > 0 {
        out.insert("connections".to_owned(), number(told.connections.into()));
        out.insert("retransmits".to_owned(), number(told.retransmits));
        if let Some(own) = own {
            out.insert("local_address".to_owned(), Ok(Value::Text(own.to_string())));
        }
    }
    out
}

fn fetched(kind: &FlowKind, told: &Fetched, question: &Talk) -> Quantities {
    let FlowKind::Http { size, .. } = kind else { return Quantities::new() };
    let mut out = Quantities::new();
    let ms = |time: Duration| Ok(Value::Number(time.as_secs_f64() * 1e3));
    out.insert("intact".to_owned(), Ok(Value::Truth(told.whole && told.wrong == 0 && told.bytes == *size)));
    out.insert("bytes".to_owned(), number(told.bytes));
    out.insert("status".to_owned(), number(if told.bytes > 0 { 200 } else { 0 }));
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
    [
        ("sent", told.sent),
        ("arrived", told.arrived),
        ("answered", told.answered),
        ("received", told.received),
        ("too_big", 0),
        ("answers_too_big", 0),
        ("icmp_too_big", 0),
        ("icmp_unreachable", 0),
        ("lost", gone),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), number(value.into())))
    .collect()
}
