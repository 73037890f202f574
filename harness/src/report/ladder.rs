//! The message ladder: every control message of the trace once, with both its ends, what it said and what it shows. PURE.
//!
//! A sender and a receiver each note a message by its type and sequence number; numbers are counted per pair of nodes, so the
//! addresses decide which notes belong together. What only one of the two noted stands alone: a message that was lost.

use std::collections::{HashMap, VecDeque};

use ntm_protocol::observe::RouteName;
use ntm_protocol::wire::Kind;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::clauses::{self, About};
use super::topology::Topology;

/// So many messages and notes are shown; a page with more would not open.
const MOST: usize = 20_000;

/// A control message, or a DNS query with its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Its type, or `DNS NS`.
    pub kind: String,
    /// The node that sent it, or the router it came from.
    pub from: Option<String>,
    /// The node that got it, or that it was sent to.
    pub to: Option<String>,
    /// The address it was seen from, and the one it was sent to.
    pub addresses: (Option<String>, Option<String>),
    /// When it was sent, in nanoseconds of the run's clock; `None` if no sender noted it.
    pub sent: Option<u64>,
    /// When it was taken; `None` if it was lost, refused or still under way at the end.
    pub received: Option<u64>,
    /// Its sequence number.
    pub seq: Option<u64>,
    /// The path that it is about.
    pub path: Option<String>,
    /// Which sending of the same request.
    pub attempt: u64,
    /// What its body said.
    pub fields: Json,
    /// Clauses that it shows.
    pub clauses: Vec<&'static str>,
    /// The thesis's sequence that it belongs to.
    pub figure: Option<&'static str>,
}

impl Message {
    /// When it was first seen.
    fn time(&self) -> u64 {
        self.sent.or(self.received).unwrap_or(0)
    }
}

/// The trace, told as messages and as what happened at one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ladder {
    /// By time.
    pub messages: Vec<Message>,
    /// Observations that are no messages, by time.
    pub notes: Vec<Json>,
    /// How many more there were than are shown.
    pub omitted: usize,
}

/// Puts the records of `trace`, which is sorted by time, together.
pub fn of(trace: &[Json], world: &Topology) -> Ladder {
    let directions = Directions::of(trace);
    let mut messages: Vec<Message> = Vec::new();
    // Sendings that nobody has taken yet, by type and number.
    let mut open: HashMap<(&str, u64), VecDeque<usize>> = HashMap::new();
    let mut notes = Vec::new();
    for record in trace {
        let node = text(record, "node").unwrap_or_default();
        let (what, t) = (text(record, "what").unwrap_or_default(), number(record, "t").unwrap_or(0));
        let kind = text(record, "message").unwrap_or_default();
        match what {
            "sent" => {
                let to = text(record, "to").unwrap_or_default();
                let seq = number(record, "seq");
                open.entry((kind, seq.unwrap_or(0))).or_default().push_back(messages.len());
                messages.push(Message {
                    from: Some(node.to_owned()),
                    to: world.named(to).map(str::to_owned),
                    addresses: (None, Some(to.to_owned())),
                    sent: Some(t),
                    ..message(record, kind)
                });
            }
            "received" => {
                let from = text(record, "from").unwrap_or_default();
                let waiting = open.entry((kind, number(record, "seq").unwrap_or(0))).or_default();
                let fits = |index: &usize| {
                    let sent: &Message = &messages[*index];
                    let sender = sent.from.as_deref().unwrap_or_default();
                    sender != node
                        && world.stands_for(from, sender)
                        && sent.addresses.1.as_deref().is_some_and(|to| world.stands_for(to, node))
                };
                match waiting.iter().position(fits).and_then(|place| waiting.remove(place)) {
                    Some(index) => {
                        let one = &mut messages[index];
                        one.to = Some(node.to_owned());
                        one.addresses.0 = Some(from.to_owned());
                        one.received = Some(t);
                    }
                    None => messages.push(Message {
                        from: world.named(from).map(str::to_owned),
                        to: Some(node.to_owned()),
                        addresses: (Some(from.to_owned()), None),
                        received: Some(t),
                        ..message(record, kind)
                    }),
                }
            }
            "dns-answer" => messages.push(lookup(record, node, t, world)),
            _ => notes.push(record.clone()),
        }
    }
    messages.sort_by_key(Message::time);
    for message in &mut messages {
        directions.explain(message, world);
    }
    let omitted = messages.len().saturating_sub(MOST) + notes.len().saturating_sub(MOST);
    messages.truncate(MOST);
    notes.truncate(MOST);
    Ladder { messages, notes, omitted }
}

fn message(record: &Json, kind: &str) -> Message {
    Message {
        kind: kind.to_owned(),
        from: None,
        to: None,
        addresses: (None, None),
        sent: None,
        received: None,
        seq: number(record, "seq"),
        path: text(record, "path").map(str::to_owned),
        attempt: number(record, "attempt").unwrap_or(1),
        fields: record.get("fields").cloned().unwrap_or_else(|| Json::Object(Map::new())),
        clauses: Vec::new(),
        figure: None,
    }
}

/// A query that a DNS server answered at `t`.
fn lookup(record: &Json, server: &str, t: u64, world: &Topology) -> Message {
    let from = text(record, "from").unwrap_or_default();
    let record_type = text(record, "type").unwrap_or("?");
    let fields = ["name", "type", "code"].into_iter();
    let fields = fields.filter_map(|name| Some((name.to_owned(), record.get(name)?.clone())));
    Message {
        from: world.named(from).map(str::to_owned),
        to: Some(server.to_owned()),
        addresses: (Some(from.to_owned()), None),
        sent: Some(t),
        received: Some(t),
        fields: Json::Object(fields.collect()),
        clauses: clauses::of_lookup(record_type).to_vec(),
        ..message(record, &format!("DNS {record_type}"))
    }
}

/// How coordinators directed paths, and which request led to which path.
struct Directions {
    /// Path → when, and the route.
    routes: HashMap<String, Vec<(u64, RouteName)>>,
    /// The node that asked and the ID of its Direction Request → path.
    requests: HashMap<(String, u64), String>,
}

impl Directions {
    fn of(trace: &[Json]) -> Self {
        let mut out = Self { routes: HashMap::new(), requests: HashMap::new() };
        for record in trace {
            let Some(path) = text(record, "path") else { continue };
            if let (Some("directed"), Some(t), Some(route)) =
                (text(record, "what"), number(record, "t"), record.get("route"))
                && let Ok(route) = serde_json::from_value(route.clone())
            {
                out.routes.entry(path.to_owned()).or_default().push((t, route));
            }
            // Each node counts its own requests, so only who gets the answer tells whose it was.
            let answered = record.get("fields").and_then(|fields| number(fields, "answers"));
            if let (Some("received"), Some(node), Some(request)) =
                (text(record, "what"), text(record, "node"), answered)
            {
                out.requests.entry((node.to_owned(), request)).or_insert_with(|| path.to_owned());
            }
        }
        out
    }

    /// The route of `path` at `t`; a request comes before its direction. And whether the path was directed before.
    fn route(&self, path: &str, t: u64, ahead: bool) -> Option<(RouteName, bool)> {
        let all = self.routes.get(path)?;
        let past = all.partition_point(|(at, _)| *at <= t);
        let index = if ahead { past.min(all.len() - 1) } else { past.saturating_sub(1) };
        Some((all[index].1, index > 0))
    }

    /// Adds clauses and figure to a message of NTMobile.
    fn explain(&self, message: &mut Message, world: &Topology) {
        let Ok(kind) = serde_json::from_value::<Kind>(Json::String(message.kind.clone())) else { return };
        if message.path.is_none()
            && kind == Kind::DirectionRequest
            && let (Some(from), Some(request)) = (&message.from, number(&message.fields, "request"))
        {
            message.path = self.requests.get(&(from.clone(), request)).cloned();
        }
        let ahead = kind == Kind::DirectionRequest;
        let route = message.path.as_deref().and_then(|path| self.route(path, message.time(), ahead));
        let relay = |node: &Option<String>| {
            let host = node.as_deref().and_then(|node| world.host(node));
            host.is_some_and(|host| host.role == "relay")
        };
        message.clauses = clauses::clauses(About {
            kind,
            route: route.map(|(route, _)| route),
            renewal: route.is_some_and(|(_, renewal)| renewal) || message.fields.get("renewal").is_some(),
            between_ends: !relay(&message.from) && !relay(&message.to),
        });
        message.figure = route.and_then(|(route, _)| clauses::figure(route));
    }
}

fn text<'a>(record: &'a Json, field: &str) -> Option<&'a str> {
    record.get(field).and_then(Json::as_str)
}

fn number(record: &Json, field: &str) -> Option<u64> {
    record.get(field).and_then(Json::as_u64)
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::small;
    use super::*;
    use serde_json::json;

    fn told(trace: &[Json]) -> Vec<String> {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".into());
        of(trace, &small())
            .messages
            .iter()
            .map(|one| {
                let (from, to) = (shown(&one.from), shown(&one.to));
                format!("{} {from} {:?} {to} {:?}", one.kind, one.sent, one.received)
            })
            .collect()
    }

    /// A DC counts its messages to each node by itself: the same number to two nodes is two messages.
    #[test]
    fn equal_numbers_to_two_nodes_are_told_apart() {
        let trace = [
            json!({"t": 1, "node": "dc", "what": "sent", "message": "KeepAlive", "seq": 7, "to": "203.0.113.7:4330"}),
            json!({"t": 2, "node": "dc", "what": "sent", "message": "KeepAlive", "seq": 7, "to": "203.0.113.3:9"}),
            json!({"t": 5, "node": "mn", "what": "received", "message": "KeepAlive", "seq": 7, "from": "203.0.113.4:4330"}),
            json!({"t": 6, "node": "rs", "what": "received", "message": "KeepAlive", "seq": 7, "from": "203.0.113.4:4330"}),
        ];
        assert_eq!(told(&trace), ["KeepAlive dc Some(1) rs Some(6)", "KeepAlive dc Some(2) mn Some(5)"]);
    }

    #[test]
    fn what_was_lost_stands_alone() {
        let trace = [
            json!({"t": 1, "node": "mn", "what": "sent", "message": "KeepAlive", "seq": 1, "to": "203.0.113.4:4330"}),
            json!({"t": 3, "node": "dc", "what": "received", "message": "KeepAlive", "seq": 2, "from": "203.0.113.3:9"}),
        ];
        assert_eq!(told(&trace), ["KeepAlive mn Some(1) dc None", "KeepAlive apnat_a None dc Some(3)"]);
    }

    /// A Direction Request names no path; the Route Direction that answers it does, and the DC's decision tells the figure.
    #[test]
    fn a_message_bears_the_clauses_of_its_path() {
        let trace = [
            json!({"t": 1, "node": "mn", "what": "sent", "message": "DirectionRequest", "seq": 1, "to": "203.0.113.4:4330", "fields": {"request": 4}}),
            json!({"t": 2, "node": "dc", "what": "directed", "path": "ab", "route": "RS-N", "reason": "…"}),
            json!({"t": 3, "node": "dc", "what": "sent", "message": "RelayDirection", "seq": 1, "to": "203.0.113.7:4330", "path": "ab"}),
            json!({"t": 4, "node": "dc", "what": "sent", "message": "RouteDirection", "seq": 1, "to": "203.0.113.3:4330", "path": "ab", "fields": {"answers": 4}}),
            json!({"t": 5, "node": "mn", "what": "received", "message": "RouteDirection", "seq": 1, "from": "203.0.113.4:4330", "path": "ab", "fields": {"answers": 4}}),
            json!({"t": 6, "node": "mn", "what": "sent", "message": "TunnelRequest", "seq": 1, "to": "203.0.113.7:4330", "path": "ab"}),
        ];
        let ladder = of(&trace, &small());
        let figures: Vec<_> = ladder.messages.iter().map(|one| one.figure).collect();
        assert_eq!(figures, [Some("Fig. 4.3, through RS-N"); 4]);
        for message in &ladder.messages {
            let kind = serde_json::from_value(json!(message.kind)).unwrap();
            let about = About {
                kind,
                route: Some(RouteName::Translated),
                renewal: false,
                between_ends: kind == Kind::DirectionRequest || kind == Kind::RouteDirection,
            };
            assert_eq!(message.clauses, clauses::clauses(about));
        }
        assert_eq!(ladder.notes.len(), 1);
    }
}
