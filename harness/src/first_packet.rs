//! How long an application waits for its first packet by name, and how much of that is our own work. PURE: trace and captures in.
//!
//! The way back from the DNS answer is followed through the trace: what a node received last before it acted, who sent that, what that
//! node had received last, and so on to the application's query. On this chain a message is on the network from the moment at which
//! it leaves the sender's real interface to that at which it comes to the receiver's, and a DNS lookup from its question to its answer.
//! All the rest is our own work; and so is the time that the first packet takes from the virtual interface to the real one. What the
//! application does between its answer and its first packet is its own.

use std::collections::BTreeMap;

use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::observe::{Observation, What};
use ntm_protocol::wire::Kind;
use schemars::JsonSchema;
use serde::Serialize;

use crate::flow::{Quantities, unmeasured};
use crate::judge::expr::Value;
use crate::transitions::sighting::{Body, Message, Point, Sighting};

/// An application's first packet by name.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FirstPacket {
    /// From the query to the moment at which the first packet leaves the terminal, encapsulated; in milliseconds.
    pub first_packet_ms: f64,
    /// Of this, on the network and at DNS servers.
    pub network_ms: f64,
    /// Of this, in terminal, coordinators and relay.
    pub own_work_ms: f64,
    /// What was on the network, one after the other.
    pub legs: Vec<Leg>,
}

/// A message or a lookup that the application's answer waited for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Leg {
    /// Who sent it or asked.
    pub from: String,
    /// Who received it; `DNS` of a lookup.
    pub to: String,
    /// The message, or the record type and the name.
    pub what: String,
    /// How long, in milliseconds.
    pub ms: f64,
}

/// The names of the quantities.
pub const QUANTITIES: [&str; 3] = ["first_packet_ms", "network_ms", "own_work_ms"];

/// As quantities of a flow.
pub fn quantities(measured: &Result<FirstPacket, String>) -> Quantities {
    match measured {
        Ok(first) => [first.first_packet_ms, first.network_ms, first.own_work_ms]
            .into_iter()
            .zip(QUANTITIES)
            .map(|(value, name)| (name.to_owned(), Ok(Value::Number(value))))
            .collect(),
        Err(why) => unmeasured(&QUANTITIES, why),
    }
}

/// Trace and captures of one clock, both in the order of time.
pub struct Recorded<'a> {
    trace: &'a [Observation],
    /// When each control message left and came to a real interface.
    passed: BTreeMap<(&'a str, bool, Message), Vec<u64>>,
    /// Applications' packets at virtual interfaces, and data packets that leave real ones.
    packets: Vec<&'a Sighting>,
}

impl<'a> Recorded<'a> {
    /// What was recorded of a run.
    pub fn new(trace: &'a [Observation], sightings: &'a [Sighting]) -> Self {
        let mut passed: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        let mut packets = Vec::new();
        for it in sightings {
            match &it.body {
                Body::Control(message) if it.point == Point::Real => {
                    passed.entry((&*it.node, it.outgoing, *message)).or_default().push(it.t);
                }
                Body::Open { .. } if it.point == Point::Application && it.outgoing => packets.push(it),
                Body::Sealed { .. } if it.point == Point::Real && it.outgoing => packets.push(it),
                _ => {}
            }
        }
        Self { trace, passed, packets }
    }

    /// The first packet that an application of `node` sent to `name` after it asked for it at `start` or later.
    pub fn first_packet(&self, node: &str, name: &Fqdn, start: u64) -> Result<FirstPacket, String> {
        let of_node = |it: &&Observation| it.node == node && it.t.as_nanos() >= start;
        let query = self
            .trace
            .iter()
            .position(|it| of_node(&it) && matches!(&it.what, What::Query { name: asked } if asked == name));
        let query = query.ok_or_else(|| format!("no application of `{node}` asked for {name}"))?;
        let answered = |it: &Observation| match &it.what {
            What::Answer { name: asked, vip, .. } if it.node == node && asked == name => Some(*vip),
            _ => None,
        };
        let answer = (query..self.trace.len()).find_map(|at| Some((at, answered(&self.trace[at])?)));
        let (answer, vip) = answer.ok_or_else(|| format!("`{node}` was not answered for {name}"))?;
        let Vip(vip) = vip.ok_or_else(|| format!("`{node}` was told that {name} has no address"))?;
        let t = |at: usize| self.trace[at].t.as_nanos();

        let of_host = self.packets.iter().filter(|it| *it.node == *node && it.t >= t(answer));
        let mut of_host = of_host.skip_while(|it| it.point != Point::Application || it.destination != vip);
        let first =
            of_host.next().ok_or_else(|| format!("no application of `{node}` sent a packet to {name}"))?;
        let left = of_host.find(|it| it.point == Point::Real && it.length() == first.length());
        let left = left.ok_or_else(|| format!("the first packet to {name} did not leave `{node}`"))?;

        let legs = self.legs(query, answer);
        let network_ms = legs.iter().fold(0.0, |sum, leg| sum + leg.ms);
        let ms = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
        Ok(FirstPacket {
            first_packet_ms: ms(t(query), left.t),
            network_ms,
            own_work_ms: ms(t(query), t(answer)) - network_ms + ms(first.t, left.t),
            legs,
        })
    }

    /// What the answer at `answer` waited for since `query`, in the order of time; both are places in the trace.
    fn legs(&self, query: usize, answer: usize) -> Vec<Leg> {
        let (mut legs, mut at) = (Vec::new(), answer);
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        let t = |at: usize| self.trace[at].t.as_nanos();
        loop {
            let node = &self.trace[at].node;
            let came = (query + 1..at)
                .rev()
                .find(|it| self.trace[*it].node == *node && is_input(&self.trace[*it].what));
            let Some(came) = came else { break };
            let origin = (query..came).rev().find(|it| is_origin(&self.trace[*it], &self.trace[came]));
            let Some(origin) = origin else { break };
            let sender = &self.trace[origin].node;
            let leg = match &self.trace[came].what {
                What::Answered { lookup, name, .. } => {
                    let what = format!("{} {name}", format!("{lookup:?}").to_uppercase());
                    Leg { from: sender.clone(), to: "DNS".to_owned(), what, ms: ms(t(origin), t(came)) }
                }
                What::Received { message, seq, .. } => {
                    let left = self.passing(sender, true, *message, *seq, t(origin), t(came)).min();
                    let arrived = self.passing(node, false, *message, *seq, t(origin), t(came)).max();
                    let ms = ms(left.unwrap_or(t(origin)), arrived.unwrap_or(t(came)));
                    Leg { from: sender.clone(), to: node.clone(), what: message.name().to_owned(), ms }
                }
                _ => break,
            };
            legs.push(leg);
            at = origin;
        }
        legs.reverse();
        legs
    }

    /// When a message passed the real interfaces of `node`, between these times.
    fn passing(
        &self,
        node: &str,
        outgoing: bool,
        kind: Kind,
        sequence: u64,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = u64> {
        let same = move |message: &Message| (message.kind, message.sequence) == (kind, sequence);
        let of_node = self
            .passed
            .iter()
            .filter(move |((at, out, message), _)| (*at, *out) == (node, outgoing) && same(message));
        of_node.flat_map(|(_, times)| times).copied().filter(move |t| (from..=to).contains(t))
    }
}

/// Whether a node can have waited for it.
fn is_input(what: &What) -> bool {
    match what {
        What::Answered { .. } => true,
        What::Received { message, .. } => {
            use Kind::{KeepAlive, KeepAliveAnswer, PathKeepAlive, PathKeepAliveAnswer};
            !matches!(message, KeepAlive | KeepAliveAnswer | PathKeepAlive | PathKeepAliveAnswer)
        }
        _ => false,
    }
}

/// Whether `came` came of `it`.
fn is_origin(it: &Observation, came: &Observation) -> bool {
    match (&it.what, &came.what) {
        (What::Asked { lookup, name }, What::Answered { lookup: l, name: n, .. }) => {
            it.node == came.node && (lookup, name) == (l, n)
        }
        (What::Sent { message, seq, path, .. }, What::Received { message: m, seq: s, path: p, .. }) => {
            it.node != came.node && (message, seq, path) == (m, s, p)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MS: u64 = 1_000_000;

    fn observations(lines: &[serde_json::Value]) -> Vec<Observation> {
        lines.iter().map(|line| serde_json::from_value(line.clone()).unwrap()).collect()
    }

    fn seen(t: u64, node: &str, point: Point, outgoing: bool, body: Body) -> Sighting {
        let address = |text: &str| text.parse().unwrap();
        let destination = if point == Point::Application { "198.18.128.1" } else { "203.0.113.9" };
        let (source, destination) = (address("198.18.0.1"), address(destination));
        Sighting { t, node: node.into(), point, outgoing, source, destination, body }
    }

    fn control(t: u64, node: &str, outgoing: bool, kind: Kind, sequence: u64) -> Sighting {
        seen(t, node, Point::Real, outgoing, Body::Control(Message { kind, sequence }))
    }

    /// MN asks at 10 ms; its DC asks the DNS for 7 ms; the message there takes 3 ms, that back 4 ms. A keep-alive in between is nothing
    /// that anybody waited for. Between the two lines of each node is our own work, and the first packet takes one more millisecond.
    #[test]
    fn what_is_not_on_the_network_is_our_own_work() {
        let name = "www.example.test";
        let trace = observations(&[
            json!({"t": 10 * MS, "node": "mn", "what": "query", "name": name}),
            json!({"t": 11 * MS, "node": "mn", "what": "sent", "message": "DirectionRequest", "to": "203.0.113.9:4330", "seq": 5}),
            json!({"t": 15 * MS, "node": "dc", "what": "received", "message": "DirectionRequest", "from": "203.0.113.2:4330", "seq": 5}),
            json!({"t": 16 * MS, "node": "dc", "what": "asked", "lookup": "A", "name": name}),
            json!({"t": 17 * MS, "node": "dc", "what": "received", "message": "KeepAlive", "from": "203.0.113.2:4330", "seq": 6}),
            json!({"t": 23 * MS, "node": "dc", "what": "answered", "lookup": "A", "name": name, "answer": "203.0.113.5"}),
            json!({"t": 24 * MS, "node": "dc", "what": "sent", "message": "RouteDirection", "to": "203.0.113.2:4330", "seq": 9}),
            json!({"t": 30 * MS, "node": "mn", "what": "received", "message": "RouteDirection", "from": "203.0.113.9:4330", "seq": 9}),
            json!({"t": 31 * MS, "node": "mn", "what": "answer", "name": name, "vip": "198.18.128.1"}),
        ]);
        let open = |t| seen(t, "mn", Point::Application, true, Body::Open { length: 84, carried: 1 });
        let key = crate::capture::sealed::Key {
            path: ntm_protocol::addr::PathId([1; 16]),
            back: false,
            epoch: 0,
            sequence: 0,
        };
        let sealed = Body::Sealed { key, length: 84, inner: None };
        let mut sightings = vec![
            control(11 * MS + MS / 2, "mn", true, Kind::DirectionRequest, 5),
            control(14 * MS + MS / 2, "dc", false, Kind::DirectionRequest, 5),
            control(25 * MS, "dc", true, Kind::RouteDirection, 9),
            control(29 * MS, "mn", false, Kind::RouteDirection, 9),
            open(30 * MS),
            open(40 * MS),
            seen(41 * MS, "mn", Point::Real, true, sealed),
        ];
        let measured =
            Recorded::new(&trace, &sightings).first_packet("mn", &name.parse().unwrap(), 0).unwrap();
        let legs: Vec<_> =
            measured.legs.iter().map(|leg| (leg.from.as_str(), leg.to.as_str(), leg.ms)).collect();
        assert_eq!(legs, [("mn", "dc", 3.0), ("dc", "DNS", 7.0), ("dc", "mn", 4.0)]);
        assert_eq!((measured.first_packet_ms, measured.network_ms, measured.own_work_ms), (31.0, 14.0, 8.0));

        sightings.truncate(6);
        let error =
            Recorded::new(&trace, &sightings).first_packet("mn", &name.parse().unwrap(), 0).unwrap_err();
        assert_eq!(error, "the first packet to www.example.test did not leave `mn`");
        let error = Recorded::new(&trace, &[]).first_packet("cn", &name.parse().unwrap(), 0).unwrap_err();
        assert_eq!(error, "no application of `cn` asked for www.example.test");
    }
}
