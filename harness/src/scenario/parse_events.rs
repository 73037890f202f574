//! From TOML to the model: flows, the timeline and the expectations.

use std::collections::BTreeMap;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use toml::Spanned;

use super::model::{Action, ActionKind, After, Check, End, Ends, Expectation, Flow, FlowKind, Group};
use super::parse::{STATES, link, need_duration};
use super::read::{Table, Value};
use super::schema::tables::{AT, FLOW};
use super::source::{Problem, suggest};
use super::units;
use crate::flow::ftp::Mode;
use crate::flow::{datagrams, dns, iperf3, pingpong, probes};
use crate::judge::{expr, sequence};

/// So often something may be repeated.
pub(super) const MOST_REPEATED: u64 = 100_000;
/// So many calls one flow may make.
pub(super) const MOST_CALLS: u64 = 1000;

/// `[[flow]]`
pub(super) fn flows(top: &Table<'_, '_>) -> Vec<Flow> {
    let mut out = Vec::new();
    for table in top.tables("flow") {
        let id = table.need_text("id");
        let start = table.duration("start").unwrap_or_default();
        let duration = table.duration("duration");
        if let (Some(Duration::ZERO), Some(value)) = (duration, table.get("duration")) {
            table.problem(value.span(), "a flow lasts for some time, as in \"10s\"");
        }
        let ends = table.choice("ends", End::WORDS);
        if let (Some(End::Cut), None, Some(value)) =
            (ends.as_ref().map(|ends| *ends.get_ref()), duration, table.get("ends"))
        {
            table.problem(value.span(), "what ends a flow is its `duration`: give it one");
        }
        let kind = tagged(&table, FLOW.one_of).and_then(|(tag, inner)| {
            let kind = flow_kind(tag, &inner);
            inner.finish();
            kind
        });
        table.finish();
        if let (Some(id), Some(kind)) = (id, kind) {
            out.push(Flow { id, of: None, start, duration, ends: ends.map(Spanned::into_inner), kind });
        }
    }
    out
}

/// A flow whose client is a group is one flow for each of its terminals, named as they are: `ID1`, `ID2` and so on.
pub(super) fn of_groups(flows: Vec<Flow>, groups: &BTreeMap<String, Group>) -> Vec<Flow> {
    let mut out = Vec::new();
    for flow in flows {
        let client = flow.kind.ends().map(|ends| ends.from.get_ref());
        let Some(group) = client.and_then(|client| groups.get(client)) else {
            out.push(flow);
            continue;
        };
        out.extend(group.nodes.iter().zip(1..).map(|(node, number)| {
            let id = Spanned::new(flow.id.span(), format!("{}{number}", flow.id.get_ref()));
            let (of, kind) = (Some(flow.id.get_ref().clone()), flow.kind.clone().with_client(node));
            Flow { id, of, kind, ..flow.clone() }
        }));
    }
    out
}

fn flow_kind(tag: &str, table: &Table<'_, '_>) -> Option<FlowKind> {
    Some(match tag {
        "iperf3" => {
            let ends = ends(table);
            let duration = need_duration(table, "duration");
            let reverse = table.flag("reverse").unwrap_or(false);
            let rate = table.parsed("rate", units::rate).map(Spanned::into_inner);
            let omit = table.duration("omit").unwrap_or_default();
            for (key, time) in [("duration", duration), ("omit", omit)] {
                if let Some(value) = table.get(key)
                    && !time.is_zero()
                    && (time.subsec_nanos() != 0 || time > Duration::from_secs(3600))
                {
                    table.problem(value.span(), "iperf3 runs for whole seconds, at most 3600");
                }
            }
            let congestion = table.parsed("congestion", congestion).map(Spanned::into_inner);
            let window = table.parsed("window", units::bytes).map(Spanned::into_inner);
            let udp = table.flag("udp").unwrap_or(false);
            if let (true, Some(value), None) = (udp, table.get("udp"), rate) {
                table.problem(value.span(), "datagrams are sent at a rate: give the `rate`");
            }
            if let (true, Some(value)) = (udp, table.get("congestion")) {
                table.problem(value.span(), "UDP has no congestion control");
            }
            let streams = table.integer("streams", 1, iperf3::MOST_STREAMS).unwrap_or(1);
            let length = table.parsed("length", units::bytes);
            let most = if udp { datagrams::MOST } else { iperf3::LONGEST_WRITE };
            if let Some(length) = &length
                && !(iperf3::SHORTEST..=most).contains(length.get_ref())
            {
                let least = iperf3::SHORTEST;
                table.problem(length.span(), format!("`length` is from {least} to {most} bytes here"));
            }
            let length = length.map(Spanned::into_inner);
            let ends = ends?;
            FlowKind::Iperf3 { ends, duration, udp, reverse, rate, omit, congestion, window, streams, length }
        }
        "ping" => {
            let ends = ends(table);
            let count = table.integer("count", 1, MOST_REPEATED).unwrap_or(5);
            let interval = table.duration("interval").unwrap_or(Duration::from_millis(200));
            FlowKind::Ping { ends: ends?, count, interval }
        }
        "dns" => {
            let (node, name) = (table.need_text("node"), table.need_text("name"));
            if let Some(name) = &name
                && let Err(error) = hickory_proto::rr::Name::from_ascii(name.get_ref())
            {
                table.problem(name.span(), format!("{:?} is no DNS name: {error}", name.get_ref()));
            }
            let record = table.choice("record", dns::TYPES).map_or(RecordType::A, Spanned::into_inner);
            let count = table.integer("count", 1, MOST_REPEATED).unwrap_or(5);
            let interval = table.duration("interval").unwrap_or(Duration::from_millis(100));
            FlowKind::Dns { node: node?, server: table.text("server"), name: name?, record, count, interval }
        }
        "http" => {
            let ends = ends(table);
            let size = table.parsed("size", units::bytes).map_or(64_000, Spanned::into_inner);
            FlowKind::Http { ends: ends?, size }
        }
        "ftp" => {
            let ends = ends(table);
            table.need("mode");
            let mode = table.choice("mode", Mode::WORDS).map(Spanned::into_inner);
            let size = table.parsed("size", units::bytes).map_or(64_000, Spanned::into_inner);
            let rate = table.parsed("rate", units::rate).map(Spanned::into_inner);
            FlowKind::Ftp { ends: ends?, mode: mode?, size, rate }
        }
        "sip" => {
            let ends = ends(table);
            let calls = table.integer("calls", 1, MOST_CALLS).unwrap_or(1);
            let duration = table.duration("duration").unwrap_or(Duration::from_secs(1));
            let media = table.flag("media").unwrap_or(true);
            if let Some(value) = table.get("duration")
                && !duration.subsec_nanos().is_multiple_of(1_000_000)
            {
                table.problem(value.span(), "sipp's calls last whole milliseconds");
            }
            FlowKind::Sip { ends: ends?, calls, duration, media }
        }
        "udp" => {
            let ends = ends(table);
            let bounds = (datagrams::LEAST, datagrams::MOST);
            let size = payload(table, "size", bounds).unwrap_or(1000);
            let reply = payload(table, "reply", bounds).unwrap_or(size);
            let count = table.integer("count", 1, MOST_REPEATED).unwrap_or(5);
            let interval = table.duration("interval").unwrap_or(Duration::from_millis(100));
            let whole = table.flag("whole").unwrap_or(false);
            let listen = table.flag("listen").unwrap_or(true);
            FlowKind::Udp { ends: ends?, size, reply, count, interval, whole, listen }
        }
        "pingpong" => {
            let ends = ends(table);
            let count = table.integer("count", 1, pingpong::MOST).unwrap_or(2000);
            let size = table.parsed("size", units::bytes);
            if let Some(size) = &size
                && !(1..=pingpong::LARGEST).contains(size.get_ref())
            {
                let most = pingpong::LARGEST;
                table.problem(size.span(), format!("a message here has 1 to {most} bytes"));
            }
            FlowKind::PingPong { ends: ends?, count, size: size.map_or(64, Spanned::into_inner) }
        }
        "probe" => {
            let ends = ends(table);
            let duration = need_duration(table, "duration");
            let interval = table.duration("interval").unwrap_or(Duration::from_millis(5));
            let size = payload(table, "size", (probes::LEAST, probes::MOST)).unwrap_or(100);
            if let Some(value) = table.get("interval")
                && interval < Duration::from_micros(100)
            {
                table.problem(value.span(), "probes come every 100us or less often");
            }
            let count = probes::Probes { duration, interval, size }.count();
            if let Some(value) = table.get("duration")
                && count > probes::COUNT
            {
                table.problem(
                    value.span(),
                    format!("these are {count} probes; at most {} are sent", probes::COUNT),
                );
            }
            FlowKind::Probe { ends: ends?, duration, interval, size }
        }
        _ => {
            let node = table.need_text("node");
            table.need("command");
            let command = table.texts("command").into_iter().map(Spanned::into_inner).collect();
            let timeout = table.duration("timeout").unwrap_or(Duration::from_secs(10));
            FlowKind::Exec { node: node?, command, timeout }
        }
    })
}

/// The name of a congestion control.
fn congestion(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.len() < 16 && name.chars().all(good) {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} names no congestion control: write it as \"cubic\""))
    }
}

/// The size of a datagram's payload, within `bounds`.
fn payload(table: &Table<'_, '_>, key: &str, (least, most): (u64, u64)) -> Option<u64> {
    let size = table.parsed(key, units::bytes)?;
    if !(least..=most).contains(size.get_ref()) {
        table.problem(size.span(), format!("a datagram here has {least} to {most} bytes"));
    }
    Some(size.into_inner())
}

fn ends(table: &Table<'_, '_>) -> Option<Ends> {
    table.need("to");
    let (from, to) = (table.need_text("from"), table.from_str("to"));
    Some(Ends { from: from?, to: to? })
}

/// `[[at]]`
pub(super) fn actions(top: &Table<'_, '_>) -> Vec<Action> {
    let mut out: Vec<Action> = Vec::new();
    for table in top.tables("at") {
        let time = need_duration(&table, "time");
        if let (Some(value), Some(before)) = (table.get("time"), out.last())
            && time < before.time
        {
            table.problem(
                value.span(),
                format!("times out of order: this comes after an entry at {:?}", before.time),
            );
        }
        let kind = tagged(&table, AT.one_of).and_then(|(tag, inner)| {
            let kind = action_kind(tag, &inner);
            inner.finish();
            kind
        });
        table.finish();
        if let Some(kind) = kind {
            out.push(Action { time, kind });
        }
    }
    out
}

fn action_kind(tag: &str, table: &Table<'_, '_>) -> Option<ActionKind> {
    match tag {
        "handover" => {
            let (node, from, to) = (table.need_text("node"), table.need_text("from"), table.need_text("to"));
            let gap = table.duration("gap").unwrap_or_default();
            let overlap = table.duration("overlap").unwrap_or_default();
            if let (Some(_), Some(second)) = (table.get("gap"), table.get("overlap")) {
                table.problem(second.span(), "a handover has either a `gap` or an `overlap`");
            }
            Some(ActionKind::Handover { node: node?, from: from?, to: to?, gap, overlap })
        }
        "address" => {
            let (node, interface) = (table.need_text("node"), table.need_text("interface"));
            table.need("address");
            let address = table.address("address");
            Some(ActionKind::Address { node: node?, interface: interface?, address: address? })
        }
        "interface" => {
            let (node, name) = (table.need_text("node"), table.need_text("name"));
            table.need("state");
            let up = table.choice("state", STATES);
            Some(ActionKind::Interface { node: node?, name: name?, up: up?.into_inner() })
        }
        "kill" => table.need_text("node").map(|node| ActionKind::Kill { node }),
        "start" => table.need_text("node").map(|node| ActionKind::Start { node }),
        _ => {
            let name = table.need_text("name");
            let shape = link(table);
            Some(ActionKind::Link { name: name?, shape })
        }
    }
}

/// What flows say themselves of how they should end.
pub(super) fn implied(flows: &[Flow]) -> impl Iterator<Item = Expectation> {
    flows.iter().filter_map(|flow| {
        let (id, ends) = (flow.id.get_ref(), flow.ends?.word());
        let text = format!("flow.{id}.end == '{ends}'");
        // An id that makes it none is refused by itself.
        let check = Check::Expression(Spanned::new(flow.id.span(), expr::parse(&text).ok()?));
        Some(Expectation { check, fail: format!("flow `{id}` did not end as its `ends` says") })
    })
}

/// `[[expect]]`
pub(super) fn expectations(top: &Table<'_, '_>) -> Vec<Expectation> {
    let mut out = Vec::new();
    for table in top.tables("expect") {
        let check = match (table.get("check"), table.get("sequence")) {
            (Some(_), None) => expression(&table),
            (None, Some(_)) => Some(Check::Sequence { steps: steps(&table), after: after(&table) }),
            (Some(_), Some(second)) => {
                table.problem(second.span(), "an expectation is either a `check` or a `sequence`");
                None
            }
            (None, None) => {
                table.problem(table.head(), "[[expect]] lacks `check` or `sequence`");
                None
            }
        };
        let fail = table.need_text("fail").map(Spanned::into_inner);
        table.finish();
        if let (Some(check), Some(fail)) = (check, fail) {
            out.push(Expectation { check, fail });
        }
    }
    out
}

fn expression(table: &Table<'_, '_>) -> Option<Check> {
    let text = table.text("check")?;
    match expr::parse(text.get_ref()) {
        Ok(parsed) => Some(Check::Expression(Spanned::new(text.span(), parsed))),
        Err(error) => {
            table.problem(within(&text, &error.span), error.message);
            None
        }
    }
}

fn steps(table: &Table<'_, '_>) -> Vec<Spanned<sequence::Step>> {
    let texts = table.texts("sequence");
    if texts.is_empty() {
        table.problem(table.head(), "`sequence` lists at least one observation");
    }
    texts
        .into_iter()
        .filter_map(|text| match sequence::parse_step(text.get_ref()) {
            Ok(step) => Some(Spanned::new(text.span(), step)),
            Err(message) => {
                table.problem(text.span(), message);
                None
            }
        })
        .collect()
}

fn after(table: &Table<'_, '_>) -> Option<After> {
    table
        .parsed("after", |text| match text {
            "handover" => Ok(After::Handover),
            time => units::duration(time)
                .map(After::Time)
                .map_err(|_| format!("{time:?}: write after = \"handover\" or a time as \"5s\"")),
        })
        .map(Spanned::into_inner)
}

/// A place inside a quoted string, in bytes of the file. The quote is one character.
pub(super) fn within<T>(text: &Spanned<T>, inner: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let start = text.span().start + 1;
    (start + inner.start).min(text.span().end)..(start + inner.end).min(text.span().end)
}

/// The one table of `table` whose key is among `tags`.
fn tagged<'a, 'i>(table: &Table<'a, 'i>, tags: &[&'static str]) -> Option<(&'static str, Table<'a, 'i>)> {
    let present: Vec<(&'static str, &'a Value<'i>)> =
        tags.iter().filter_map(|tag| table.get(tag).map(|value| (*tag, value))).collect();
    match present.as_slice() {
        [(tag, value)] => {
            Some((tag, Table::of(format!("`{tag}` of {}", table.what()), value, table.problems())?))
        }
        [] => {
            // The key that no one knows is most likely the one that was meant.
            let rest = table.rest();
            match rest.first() {
                Some((name, span, _)) => table.problems().add(
                    Problem::new(span.clone(), format!("unknown key `{name}` in {}", table.what()))
                        .hint(suggest(name, tags.iter().copied())),
                ),
                None => {
                    table.problem(table.head(), format!("{} needs one of {}", table.what(), tags.join(", ")))
                }
            }
            None
        }
        [_, (_, second), ..] => {
            table
                .problem(second.span(), format!("{} has more than one of {}", table.what(), tags.join(", ")));
            None
        }
    }
}
