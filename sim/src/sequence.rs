//! Normalised sequences: what of a trace is the same in both worlds.
//!
//! Names, kinds and order stay; times, ports, IDs, sequence numbers, keep-alives and repetitions go, and what applications ask for again. Between two nodes the messages
//! stand in the order in which they were sent; two that cross, so that neither end knew of the other's when it sent its own, stand in
//! the order of the senders' names. What a node did by itself — asking the DNS, answering an application, taking another path — stands
//! in a part of its own. Where several paths are built at once, nothing says whose step comes first: what is about one path or name
//! is compared with what is about the same in the other world.
//!
//! The trace of a real run is compared with that of a simulated one by [`Sequence::differences`]; both are shown by
//! [`Sequence::parts`], or as one list by [`Sequence::woven`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{Observation, TableChange, What};
use ntm_protocol::wire::Kind;

use crate::ladder::{lookup_name, mode_name, role_name, route_name};

/// What happened between two nodes, or within one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    from: String,
    to: String,
    text: String,
    /// The path or the name that it is about, where it says so.
    subject: Option<String>,
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

    /// What may come in any order: each is about another node or side.
    fn is_unordered(&self) -> bool {
        self.from == self.to && (self.text.starts_with("registered") || self.text.contains(" tunnel "))
    }
}

/// Two nodes, the lesser name first; twice the same for what happens within a node.
type Pair = (String, String);

/// A normalised sequence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sequence {
    parts: BTreeMap<Pair, Vec<Step>>,
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
    // The first sending of each request, for its repetitions; what is on its way, for its arrival.
    let mut requests: BTreeMap<(&str, IpAddr, Kind, Option<PathId>), usize> = BTreeMap::new();
    let mut under_way: Vec<(usize, Kind, u64)> = Vec::new();
    // Path IDs differ from world to world; the order in which paths came to be does not.
    let mut paths: Vec<PathId> = Vec::new();
    let mut asked: BTreeSet<(&String, String)> = BTreeSet::new();
    for (at, Observation { node, what, .. }) in trace.into_iter().enumerate() {
        let subject = subject(what, &mut paths);
        match what {
            What::Sent { message, .. } | What::Received { message, .. } if is_periodic(*message) => {}
            What::Sent { message, to, seq, path, attempt, .. } => {
                let key = (node.as_str(), to.ip(), *message, *path);
                let step = match requests.get(&key) {
                    Some(first) if *attempt > 1 => *first,
                    _ => {
                        let (from, to, text) = (node.clone(), name(to.ip()), message.name().to_owned());
                        steps.push(Step { from, to, text, subject, sent: at, came: None });
                        steps.len() - 1
                    }
                };
                requests.insert(key, step);
                under_way.push((step, *message, *seq));
            }
            What::Received { message, from, seq, .. } => {
                let origin = name(from.ip());
                let found = under_way.iter().position(|(step, kind, number)| {
                    let Step { from, to, .. } = &steps[*step];
                    (kind, number) == (message, seq)
                        && from != node
                        && may_be(&origin, from)
                        && may_be(to, node)
                });
                if let Some(found) = found {
                    let step = &mut steps[under_way.swap_remove(found).0];
                    step.to.clone_from(node);
                    step.came.get_or_insert(at);
                }
            }
            what => {
                // How often an application asks for a name is its own affair: curl once, iperf3 for each of its connections.
                let asks = matches!(what, What::Query { .. } | What::Answer { .. });
                if let Some(text) = own(what)
                    && (!asks || asked.insert((node, text.clone())))
                {
                    let (from, to) = (node.clone(), node.clone());
                    steps.push(Step { from, to, text, subject, sent: at, came: Some(at) });
                }
            }
        }
    }
    let mut sequence = Sequence::default();
    for step in steps {
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

/// The path, by its number in the order of their making, or the name that an observation is about.
fn subject(what: &What, paths: &mut Vec<PathId>) -> Option<String> {
    let path = match what {
        What::Asked { name, .. } | What::Answered { name, .. } => return Some(name.to_string()),
        What::Query { name } | What::Answer { name, .. } => return Some(name.to_string()),
        What::Sent { path, .. } | What::Received { path, .. } => (*path)?,
        What::Directed { path, .. } | What::PathChanged { path, .. } | What::RelayTable { path, .. } => *path,
        _ => return None,
    };
    let number = paths.iter().position(|known| *known == path).unwrap_or_else(|| {
        paths.push(path);
        paths.len() - 1
    });
    Some(format!("path {}", number + 1))
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
    steps.dedup_by(|next, kept| next.line() == kept.line() && next.subject == kept.subject);
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

    /// How many paths there were.
    fn paths(&self) -> usize {
        let subjects = self.parts.values().flatten().filter_map(|step| step.subject.as_deref());
        subjects.filter(|subject| subject.starts_with("path ")).collect::<BTreeSet<_>>().len()
    }

    /// Where the sequences of two worlds, called `own` and `others`, differ: each line names the nodes.
    pub fn differences(&self, other: &Self, own: &str, others: &str) -> Vec<String> {
        let none = Vec::new();
        let pairs: BTreeSet<&Pair> = self.parts.keys().chain(other.parts.keys()).collect();
        let mut out = Vec::new();
        let both_about = |pair| {
            let steps = [self, other].into_iter().flat_map(|of| of.parts.get(pair).unwrap_or(&none));
            steps.map(|step| (pair, step.subject.as_deref())).collect::<BTreeSet<_>>()
        };
        // With one path in the world, the order of everything counts.
        let several = [self, other].iter().any(|of| of.paths() > 1);
        let parts =
            pairs.into_iter().flat_map(both_about).map(|(pair, about)| (pair, several.then_some(about)));
        for (pair, about) in parts.collect::<BTreeSet<_>>() {
            let lines = |of: &Self| -> Vec<String> {
                let steps = of.parts.get(pair).unwrap_or(&none).iter();
                let its = steps.filter(|step| about.is_none_or(|about| step.subject.as_deref() == about));
                its.map(Step::line).collect()
            };
            let (here, there) = (lines(self), lines(other));
            let first = here.iter().zip(&there).position(|(a, b)| a != b);
            let at = first.unwrap_or(here.len().min(there.len()));
            if (here.len(), there.len()) != (at, at) {
                let shown =
                    |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "nothing more".to_owned());
                out.push(format!("step {}: {own}: {}; {others}: {}", at + 1, shown(&here), shown(&there)));
            }
        }
        out
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
        assert_eq!(crossing(1, 2).differences(&crossing(2, 1), "one", "other"), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_named() {
        let registered =
            json!({"t": 1, "node": "a", "what": "registered", "fqdn": "a.test", "seen": "10.0.0.0:1"});
        let query = json!({"t": 2, "node": "a", "what": "query", "name": "b.test"});
        let (one, other) = (trace(&[registered.clone(), query]), trace(&[registered]));
        let differences = normalise(&one, name_of).differences(&normalise(&other, name_of), "one", "other");
        assert_eq!(differences, ["step 2: one: a: query b.test; other: nothing more"]);
    }
}
