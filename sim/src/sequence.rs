//! Normalised sequences: what of a trace is the same in both worlds.
//!
//! Names, kinds and order stay; times, ports, IDs, sequence numbers, keep-alives and repetitions go, and what applications ask for again. Between two nodes the messages
//! stand in the order in which they were sent; two that cross, so that neither end knew of the other's when it sent its own, stand in
//! the order of the senders' names. What a node did by itself — asking the DNS, answering an application, taking another path — stands
//! in a part of its own.
//!
//! The trace of a real run is compared with that of a simulated one by [`Sequence::differences`] (`order`); both are shown by
//! [`Sequence::parts`], or as one list by [`Sequence::woven`].

mod order;
mod subject;

pub use order::Difference;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{Observation, TableChange, What};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::{Fields, Kind};

use crate::ladder::{lookup_name, mode_name, role_name, route_name};
use subject::{Subjects, number};

/// What happened between two nodes, or within one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    from: String,
    to: String,
    text: String,
    /// The path or the name that it is about, where it says so.
    subject: Option<String>,
    /// Whether it is a message that answers another.
    answers: bool,
    /// When it happened, or was sent first.
    at: Instant,
    /// Which observation of the trace was its first sending, and which its first arrival; both are one for what happens within a node.
    sent: usize,
    came: Option<usize>,
}

impl Step {
    fn line(&self) -> String {
        let Self { from, to, text, .. } = self;
        match self.came {
            _ if from == to => format!("{from}: {text}"),
            Some(_) => format!("{from} → {to}: {text}"),
            None => format!("{from} → {to}: {text} (never arrived)"),
        }
    }

    /// Whether the two crossed: sent by different ends, neither of which had the other's yet.
    fn crossed(&self, later: &Self) -> bool {
        self.from != later.from && self.came.is_none_or(|came| came > later.sent)
    }

    /// Whether `later` says the same again.
    fn is_again(&self, later: &Self) -> bool {
        (&self.from, &self.to, &self.text, self.answers)
            == (&later.from, &later.to, &later.text, later.answers)
    }

    /// Whether it is a DC's question to the DNS, or the answer.
    fn is_lookup(&self) -> bool {
        self.from == self.to && ["asked ", "answered "].iter().any(|word| self.text.starts_with(word))
    }

    /// What may come in any order: each is about another node or side.
    fn is_unordered(&self) -> bool {
        let free = ["registered", "gave-up"].iter().any(|word| self.text.starts_with(word));
        // A relay's entry is renewed by the DC, and its tunnels by the ends.
        let of_entry = [" tunnel initiator", " tunnel responder", " renewed"];
        self.from == self.to && (free || of_entry.iter().any(|change| self.text.ends_with(change)))
    }
}

/// By whom a message is sent, where to, what it is, and which path and request it is about: the same in each repetition.
type Sending<'a> = (&'a str, IpAddr, Kind, Option<PathId>, Option<u64>);

/// Two nodes, the lesser name first; twice the same for what happens within a node.
type Pair = (String, String);

/// A normalised sequence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sequence {
    parts: BTreeMap<Pair, Vec<Step>>,
    /// How many paths there were.
    paths: usize,
}

/// Normalises a trace, which is sorted by time. `name_of` gives the name of the node or router that has a real address.
///
/// What is sent to a router reaches a host behind it: the one that took a message of the same kind and number is its receiver. If
/// none did, it stays the router.
pub fn normalise<'a>(
    trace: impl IntoIterator<Item = &'a Observation>,
    name_of: impl Fn(IpAddr) -> Option<String>,
) -> Sequence {
    let trace: Vec<&Observation> = trace.into_iter().collect();
    let hosts: BTreeSet<&str> = trace.iter().map(|observation| observation.node.as_str()).collect();
    let name = |address: IpAddr| name_of(address).unwrap_or_else(|| "nobody".to_owned());
    // Behind the address of a router stands another.
    let may_be = |named: &str, host: &str| named == host || !hosts.contains(named);
    let mut steps: Vec<Step> = Vec::new();
    // The first sending of each message, for its repetitions and, of an answer, those to repetitions; what is on its way, for its arrival.
    let mut firsts: BTreeMap<Sending<'_>, usize> = BTreeMap::new();
    let mut under_way: Vec<(usize, Kind, u64, &Fields)> = Vec::new();
    // Who asked, by whom, from where and by which request: whom an answer is for, whether it arrives or not.
    let mut askers: BTreeMap<(&str, SocketAddr, u64), String> = BTreeMap::new();
    // The router that each node was last seen behind: alike messages of two nodes are told apart by it.
    let mut behind: BTreeMap<String, String> = BTreeMap::new();
    let mut subjects = Subjects::of(&trace);
    let mut asked: BTreeSet<(&String, String)> = BTreeSet::new();
    for (at, Observation { t, node, what }) in trace.into_iter().enumerate() {
        let subject = subjects.next(node, what);
        match what {
            What::Sent { message, .. } | What::Received { message, .. } if is_periodic(*message) => {}
            What::Sent { message, to, seq, path, attempt, fields } => {
                let answered = subject::answered(*message, fields);
                let key = (node.as_str(), to.ip(), *message, *path, answered.or(number(fields, "request")));
                let step = match firsts.get(&key) {
                    Some(first) if *attempt > 1 || answered.is_some() => *first,
                    _ => {
                        let asker = answered.and_then(|request| askers.get(&(node.as_str(), *to, request)));
                        let to = asker.cloned().unwrap_or_else(|| name(to.ip()));
                        let (from, text, answers) =
                            (node.clone(), message.name().to_owned(), answered.is_some());
                        steps.push(Step { from, to, text, subject, answers, at: *t, sent: at, came: None });
                        steps.len() - 1
                    }
                };
                firsts.insert(key, step);
                under_way.push((step, *message, *seq, fields));
            }
            What::Received { message, from, seq, fields, .. } => {
                let origin = name(from.ip());
                let fits = |(step, kind, number, said): &(usize, Kind, u64, &Fields)| {
                    let Step { from, to, .. } = &steps[*step];
                    (kind, number, *said) == (message, seq, fields)
                        && from != node
                        && may_be(&origin, from)
                        && may_be(to, node)
                };
                let is_from_there = |at: &usize| behind.get(&steps[under_way[*at].0].from) == Some(&origin);
                let all = || (0..under_way.len()).filter(|at| fits(&under_way[*at]));
                if let Some(found) = all().find(is_from_there).or_else(|| all().next()) {
                    let step = &mut steps[under_way.swap_remove(found).0];
                    step.to.clone_from(node);
                    step.came.get_or_insert(at);
                    if let Some(request) = number(fields, "request") {
                        askers.insert((node, *from, request), step.from.clone());
                    }
                    behind.insert(step.from.clone(), origin);
                }
            }
            what => {
                // How often an application asks for a name is its own affair: curl once, iperf3 for each of its connections.
                let asks = matches!(what, What::Query { .. } | What::Answer { .. });
                if let Some(text) = own(what)
                    && (!asks || asked.insert((node, text.clone())))
                {
                    let (from, to) = (node.clone(), node.clone());
                    let (answers, came) = (false, Some(at));
                    steps.push(Step { from, to, text, subject, answers, at: *t, sent: at, came });
                }
            }
        }
    }
    // A lost answer to a request that was asked anew: nobody waited for it any more.
    let anew = |at: usize, step: &Step| {
        step.answers
            && step.came.is_none()
            && steps[at + 1..]
                .iter()
                .any(|later| later.came.is_some() && step.is_again(later) && step.subject == later.subject)
    };
    let superseded: BTreeSet<usize> =
        steps.iter().enumerate().filter(|(at, step)| anew(*at, step)).map(|(at, _)| at).collect();
    let mut sequence = Sequence { paths: subjects.paths(), ..Sequence::default() };
    let kept = steps.into_iter().enumerate().filter(|(at, _)| !superseded.contains(at));
    for (_, step) in kept {
        let (from, to) = (step.from.clone(), step.to.clone());
        let pair = if from <= to { (from, to) } else { (to, from) };
        sequence.parts.entry(pair).or_default().push(step);
    }
    sequence.parts.values_mut().for_each(settle);
    sequence
}

/// Sent again and again, however long the run is.
fn is_periodic(kind: Kind) -> bool {
    use Kind::{Data, KeepAlive, KeepAliveAnswer, PathKeepAlive, PathKeepAliveAnswer};
    matches!(kind, KeepAlive | KeepAliveAnswer | PathKeepAlive | PathKeepAliveAnswer | Data)
}

/// What a node did by itself, without what differs from run to run; nothing for what depends on the moment alone.
fn own(what: &What) -> Option<String> {
    Some(match what {
        What::Asked { lookup, name } => format!("asked {} {name}", lookup_name(*lookup)),
        What::Answered { lookup, name, .. } => format!("answered {} {name}", lookup_name(*lookup)),
        What::Registered { fqdn, .. } => format!("registered {fqdn}"),
        What::Unregistered { fqdn } => format!("unregistered {fqdn}"),
        What::Query { name } => format!("query {name}"),
        What::Answer { name, error: None, .. } => format!("answer {name}"),
        What::Answer { name, error: Some(error), .. } => format!("answer {name}: {error:?}"),
        What::Directed { route, relay, .. } => {
            let relay = relay.as_ref().map(|relay| format!(" through {relay}")).unwrap_or_default();
            format!("directed {}{relay}", route_name(*route))
        }
        What::Undirected { fqdn, error, .. } => format!("undirected {fqdn}: {error:?}"),
        What::PathChanged { route, .. } => format!("path-changed {}", route_name(*route)),
        What::RelayTable { change, mode, .. } => {
            let change = match change {
                TableChange::Made => "made".to_owned(),
                TableChange::Renewed => "renewed".to_owned(),
                TableChange::Ended => "ended".to_owned(),
                TableChange::Tunnel { side, .. } => format!("tunnel {}", role_name(*side)),
            };
            format!("relay-table {} {change}", mode_name(*mode))
        }
        What::GaveUp { message, .. } => format!("gave-up {}", message.name()),
        What::Sent { .. } | What::Received { .. } | What::Refused { .. } | What::Addresses { .. } => {
            return None;
        }
    })
}

/// Brings a part into its one order, and leaves out what only repeats the step before it.
fn settle(steps: &mut Vec<Step>) {
    let swap = |first: &Step, second: &Step| {
        let crossed = first.crossed(second) && second.from < first.from;
        crossed || (first.is_unordered() && second.is_unordered() && second.text < first.text)
    };
    // No more rounds than a sort takes, should the trace be none that can be.
    for _ in 0..steps.len() {
        let mut moved = false;
        for at in 1..steps.len() {
            if swap(&steps[at - 1], &steps[at]) {
                steps.swap(at - 1, at);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let mut kept: Vec<Step> = Vec::new();
    for step in steps.drain(..) {
        let same = kept.iter_mut().rev().filter(|before| before.subject == step.subject);
        // What may come in any order repeats what came since the last that may not.
        let run =
            same.take_while(|before| step.is_unordered() && before.is_unordered() || before.is_again(&step));
        match run.filter(|before| before.is_again(&step)).last() {
            // Of those in a row, one that arrived is enough.
            Some(before) => before.came = before.came.or(step.came),
            None => kept.push(step),
        }
    }
    *steps = kept;
}

impl Sequence {
    /// The parts: for each two nodes, and for each node, a heading and its lines.
    pub fn parts(&self) -> impl Iterator<Item = (String, Vec<String>)> {
        self.parts.iter().map(|((left, right), steps)| {
            let heading = if left == right { left.clone() } else { format!("{left} – {right}") };
            (heading, steps.iter().map(Step::line).collect())
        })
    }

    /// All steps in one list: each after those that its sender knew of, and where nothing else decides, by the names of the nodes.
    pub fn woven(&self) -> String {
        let mut parts: Vec<std::iter::Peekable<std::slice::Iter<'_, Step>>> =
            self.parts.values().map(|steps| steps.iter().peekable()).collect();
        let mut out = String::new();
        loop {
            let waiting: Vec<&Step> = self
                .parts
                .values()
                .zip(&parts)
                .flat_map(|(all, rest)| &all[all.len() - rest.len()..])
                .collect();
            let is_free = |step: &Step| {
                let knows = |other: &&Step| {
                    let has = other.to == step.from && other.came.is_some_and(|came| came <= step.sent);
                    other.sent < step.sent && (other.from == step.from || has)
                };
                !waiting.iter().copied().any(|other| knows(&other))
            };
            let heads = parts.iter_mut().enumerate().filter_map(|(at, part)| Some((at, *part.peek()?)));
            let heads: Vec<(usize, &Step)> = heads.collect();
            let free = heads.iter().find(|(_, step)| is_free(step));
            // Where the order within a part contradicts the trace, the trace decides.
            let Some((at, step)) = free.or(heads.iter().min_by_key(|(_, step)| step.sent)) else {
                return out;
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}", step.line());
            parts[*at].next();
        }
    }
}

impl std::fmt::Display for Sequence {
    /// The parts one after another, each with its heading.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (heading, lines) in self.parts() {
            writeln!(f, "{heading}")?;
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trace(lines: &[serde_json::Value]) -> Vec<Observation> {
        lines.iter().map(|line| serde_json::from_value(line.clone()).unwrap()).collect()
    }

    fn name_of(address: IpAddr) -> Option<String> {
        let names = ["a", "b", "nat"];
        let IpAddr::V4(address) = address else { return None };
        names.get(usize::from(address.octets()[3])).map(|name| (*name).to_owned())
    }

    fn sent(t: u64, node: &str, message: &str, to: u8, seq: u64, attempt: u32) -> serde_json::Value {
        json!({"t": t, "node": node, "what": "sent", "message": message, "to": format!("10.0.0.{to}:1"), "seq": seq, "attempt": attempt})
    }

    fn received(t: u64, node: &str, message: &str, from: u8, seq: u64) -> serde_json::Value {
        json!({"t": t, "node": node, "what": "received", "message": message, "from": format!("10.0.0.{from}:1"), "seq": seq})
    }

    fn shown(lines: &[serde_json::Value]) -> String {
        normalise(&trace(lines), name_of).to_string()
    }

    #[test]
    fn repetitions_and_keep_alives_go_and_hosts_behind_routers_are_found() {
        let text = shown(&[
            sent(1, "a", "RegistrationRequest", 1, 7, 1),
            sent(2, "a", "RegistrationRequest", 1, 8, 2),
            received(3, "b", "RegistrationRequest", 2, 8),
            sent(4, "b", "RegistrationResponse", 2, 7, 1),
            received(5, "a", "RegistrationResponse", 1, 7),
            sent(6, "a", "KeepAlive", 1, 9, 1),
            sent(7, "b", "TunnelRequest", 2, 10, 1),
            sent(8, "b", "TunnelRequest", 9, 11, 1),
        ]);
        assert_eq!(
            text,
            "a – b\n  a → b: RegistrationRequest\n  b → a: RegistrationResponse\n\
             b – nat\n  b → nat: TunnelRequest (never arrived)\n\
             b – nobody\n  b → nobody: TunnelRequest (never arrived)\n"
        );
    }

    /// Two messages that cross stand in the same order whichever went first; an answer stands behind what it answers.
    #[test]
    fn messages_that_cross_have_one_order() {
        let crossing = |a: u64, b: u64| {
            let mut lines = [
                sent(a, "a", "TunnelRequest", 1, 1, 1),
                sent(b, "b", "TunnelRequest", 0, 1, 1),
                received(5, "a", "TunnelRequest", 1, 1),
                received(5, "b", "TunnelRequest", 0, 1),
                sent(6, "b", "TunnelResponse", 0, 2, 1),
                received(7, "a", "TunnelResponse", 1, 2),
            ];
            lines.sort_by_key(|line| line["t"].as_u64());
            normalise(&trace(&lines), name_of)
        };
        assert_eq!(crossing(1, 2).to_string(), crossing(2, 1).to_string());
        assert_eq!(
            crossing(1, 2).woven(),
            "a → b: TunnelRequest\nb → a: TunnelRequest\nb → a: TunnelResponse\n"
        );
        assert_eq!(crossing(1, 2).differences(&crossing(2, 1), "one", "other"), []);
    }

    /// Sent, and received a moment later, with what it said.
    fn passed(
        t: u64,
        message: &str,
        (from, to): (u8, u8),
        said: &serde_json::Value,
    ) -> [serde_json::Value; 2] {
        let node = |place: u8| ["a", "b"][usize::from(place)];
        let mut both = [sent(t, node(from), message, to, t, 1), received(t + 1, node(to), message, from, t)];
        for one in &mut both {
            one["fields"] = said.clone();
        }
        both
    }

    fn differ(one: Vec<serde_json::Value>, other: Vec<serde_json::Value>) -> Vec<String> {
        let [one, other] = [one, other].map(|lines| normalise(&trace(&lines), name_of));
        one.differences(&other, "one", "other").into_iter().map(|difference| difference.text).collect()
    }

    /// T4.1.4-a: a path is directed anew behind the registration, and not before it.
    #[test]
    fn an_answer_and_what_follows_from_it_keep_their_order() {
        let register = |t| {
            let said = json!({"request": 7, "fqdn": "a.test"});
            let answer = json!({"request": 7});
            [
                passed(t, "RegistrationRequest", (0, 1), &said),
                passed(t + 2, "RegistrationResponse", (1, 0), &answer),
            ]
            .concat()
        };
        let direct =
            |t| passed(t, "DirectionRequest", (0, 1), &json!({"request": 8, "fqdn": "c.test"})).to_vec();
        let right = [register(1), direct(5)].concat();
        assert_eq!(differ(right.clone(), right.clone()), Vec::<String>::new());
        let wrong = differ(right, [direct(1), register(5)].concat());
        assert_eq!(
            wrong,
            [
                "in another order: one: a → b: RegistrationRequest before a → b: DirectionRequest; other: the other way round"
            ]
        );
    }

    /// Requests of both ends, each with its answer, have no order; a lost one is missed all the same.
    #[test]
    fn exchanges_of_two_ends_may_come_in_either_order_and_none_may_be_missing() {
        let exchange = |t, from: u8, request: u64| {
            let said = json!({"request": request});
            [
                passed(t, "TunnelRequest", (from, 1 - from), &said),
                passed(t + 2, "TunnelResponse", (1 - from, from), &said),
            ]
            .concat()
        };
        let (first, second) = (|t| exchange(t, 0, 1), |t| exchange(t, 1, 2));
        let one = [first(1), second(5)].concat();
        assert_eq!(differ(one.clone(), [second(1), first(5)].concat()), Vec::<String>::new());
        let without: Vec<_> = one.iter().filter(|line| line["t"] != 8).cloned().collect();
        assert_eq!(
            differ(one.clone(), without),
            ["only in one: a → b: TunnelResponse", "only in other: a → b: TunnelResponse (never arrived)"]
        );
        assert_eq!(
            differ(one, first(1)),
            ["only in one: b → a: TunnelRequest", "only in one: a → b: TunnelResponse"]
        );
    }

    /// A way that leads nowhere may be tried once or several times; that it was tried is compared.
    #[test]
    fn what_never_arrives_counts_once() {
        // Something else passes between, so that the tries are none in a row.
        let passes = |t| passed(t, "TunnelRequest", (0, 1), &json!({"request": t})).to_vec();
        let lost = |t| vec![sent(t, "b", "TunnelRequest", 0, t, 1)];
        let never = || [passes(15), passes(25)].concat();
        let once = || [lost(10), never()].concat();
        let twice = [lost(10), passes(15), lost(20), passes(25)].concat();
        assert_eq!(differ(once(), twice), Vec::<String>::new());
        assert_eq!(differ(once(), never()), ["only in one: b → a: TunnelRequest (never arrived)"]);
    }

    /// An answer that came too late, to a request that was asked anew, is none that anybody missed.
    #[test]
    fn an_answer_that_nobody_waits_for_is_no_step() {
        let said = |request: u64| json!({"request": request});
        let whole = |t, request| {
            [
                passed(t, "RegistrationRequest", (0, 1), &said(request)),
                passed(t + 4, "RegistrationResponse", (1, 0), &said(request)),
            ]
            .concat()
        };
        let mut twice = [whole(1, 7), whole(2, 8)].concat();
        twice.retain(|line| line["t"] != 6 || line["what"] != "received");
        twice.sort_by_key(|line| line["t"].as_u64());
        assert_eq!(differ(twice, whole(1, 7)), Vec::<String>::new());
    }

    /// With several paths, each keeps its own order, whichever was first; an entry renewed by the DC has none against its tunnels.
    #[test]
    fn each_path_has_an_order_of_its_own() {
        let change = |t: u64, path: u8, kind: &str, side: Option<&str>| {
            let mut change = json!({"kind": kind});
            if let Some(side) = side {
                change["side"] = side.into();
                change["address"] = "10.0.0.1:1".into();
            }
            json!({"t": t, "node": "a", "what": "relay-table", "path": format!("{path:032x}"), "mode": "RS-S", "change": change})
        };
        let of =
            |t, path| vec![change(t, path, "made", None), change(t + 2, path, "tunnel", Some("initiator"))];
        let paths = |first: u64, second: u64| {
            let known = |path: u8, peer: &str| {
                json!({"t": 0, "node": "a", "what": "received", "message": "RouteDirection", "from": "10.0.0.1:1", "seq": path,
                    "path": format!("{path:032x}"), "fields": {"role": "initiator", "peer": peer}})
            };
            let mut all =
                [vec![known(1, "x.test"), known(2, "y.test")], of(first, 1), of(second, 2)].concat();
            all.sort_by_key(|line| line["t"].as_u64());
            all
        };
        assert_eq!(differ(paths(1, 2), paths(2, 1)), Vec::<String>::new());
        let mut wrong = paths(1, 2);
        wrong
            .iter_mut()
            .filter(|line| line["change"]["kind"] == "made")
            .for_each(|line| line["t"] = 9.into());
        wrong.sort_by_key(|line| line["t"].as_u64());
        assert_eq!(differ(paths(1, 2), wrong).len(), 1);
        let renewed = |t| [of(1, 1), vec![change(t, 1, "renewed", None)]].concat();
        let mut sorted = renewed(2);
        sorted.sort_by_key(|line| line["t"].as_u64());
        assert_eq!(differ(renewed(9), sorted), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_named() {
        let registered =
            json!({"t": 1, "node": "a", "what": "registered", "fqdn": "a.test", "seen": "10.0.0.0:1"});
        let query = json!({"t": 2, "node": "a", "what": "query", "name": "b.test"});
        let (one, other) = (trace(&[registered.clone(), query]), trace(&[registered]));
        let differences = normalise(&one, name_of).differences(&normalise(&other, name_of), "one", "other");
        let text = "only in one: a: query b.test (a to b.test)".to_owned();
        assert_eq!(differences, [Difference { text, at: Some((true, Instant::from_nanos(2))) }]);
    }
}
