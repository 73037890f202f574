//! What many nodes are to their coordinators and relays: who is registered and since when, how many messages that took, which relay has which
//! paths. Told from the trace, so in both worlds alike.

use std::collections::{BTreeMap, BTreeSet};

use ntm_protocol::observe::{Observation, What};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::Kind;
use serde_json::Value as Json;

use super::Job;
use super::result::Record;
use crate::flow::Quantities;
use crate::judge::expr::Value;
use crate::scenario::model::{End, Role};

/// What the timeline does, as the trace names it.
const HAPPENINGS: &[&str] = &["left", "joined", "link", "killed", "started"];

/// `group.NAME.…`, `flow.ID.…` of flows of a group, and of relays and coordinators what they have of messages and paths.
pub(super) fn quantities(job: &Job, record: &Record, observations: &[Observation]) -> Quantities {
    let mut out = Quantities::new();
    groups(job, record, observations, &mut out);
    flows(job, record, &mut out);
    let number = |value: usize| Ok(Value::Number(value as f64));
    let directed = directed(observations);
    let all: usize = directed.values().map(BTreeSet::len).sum();
    for host in &job.plan.hosts {
        let name = &host.name;
        match host.role {
            Role::Relay { .. } => {
                let paths = directed.get(name.as_str()).map_or(0, BTreeSet::len);
                let share = Value::Number(paths as f64 / all as f64);
                out.insert(format!("relay.{name}.paths"), number(paths));
                let share =
                    if all == 0 { Err("no path was directed to a relay".to_owned()) } else { Ok(share) };
                out.insert(format!("relay.{name}.share"), share);
            }
            Role::Coordinator(_) => {
                let (mean, peak) = messages(record, observations, name);
                out.insert(format!("node.{name}.messages_s"), mean.map(Value::Number));
                out.insert(format!("node.{name}.messages_peak_s"), number(peak));
            }
            _ => {}
        }
    }
    out
}

/// Who of each group is registered, and when all were.
fn groups(job: &Job, record: &Record, observations: &[Observation], out: &mut Quantities) {
    if job.scenario.groups.is_empty() {
        return;
    }
    let happened = record
        .own
        .iter()
        .filter(|event| event["what"].as_str().is_some_and(|what| HAPPENINGS.contains(&what)));
    let since = happened.filter_map(|event| event["t"].as_u64()).max().unwrap_or(record.start);
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let after = observations.iter().filter(|seen| seen.t >= Instant::from_nanos(since));
    for seen in after.filter(|seen| matches!(seen.what, What::Registered { .. })) {
        first.entry(&seen.node).or_insert(seen.t.as_nanos());
    }
    for (name, group) in &job.scenario.groups {
        let is_registered = |node: &&String| {
            record.status.get(node.as_str()).is_some_and(|status| status["registered"] == Json::Bool(true))
        };
        let registered = group.nodes.iter().filter(is_registered).count();
        let times = group.nodes.iter().map(|node| {
            let time = first.get(node.as_str()).copied();
            time.ok_or_else(|| format!("`{node}` did not register"))
        });
        let last =
            times.collect::<Result<Vec<u64>, _>>().map(|times| times.into_iter().max().unwrap_or(since));
        let mut set = |what: &str, value| out.insert(format!("group.{name}.{what}"), value);
        set("members", Ok(Value::Number(group.nodes.len() as f64)));
        set("registered", Ok(Value::Number(registered as f64)));
        set("registered_ms", last.map(|last| Value::Number((last - since) as f64 / 1e6)));
    }
}

/// The flows of each group, together.
fn flows(job: &Job, record: &Record, out: &mut Quantities) {
    let mut all: BTreeMap<&str, (usize, usize, Option<f64>)> = BTreeMap::new();
    for flow in &job.scenario.flows {
        let Some(of) = &flow.of else { continue };
        let measured =
            record.flows.iter().find(|(id, _)| id == flow.id.get_ref()).map(|(_, measured)| measured);
        let value = |name: &str| measured.and_then(|measured| measured.get(name)?.as_ref().ok());
        let (members, complete, lost) = all.entry(of).or_insert((0, 0, Some(0.0)));
        *members += 1;
        *complete += usize::from(value("end") == Some(&Value::Text(End::Complete.word().to_owned())));
        *lost = match (*lost, value("lost")) {
            (Some(sum), Some(Value::Number(own))) => Some(sum + own),
            _ => None,
        };
    }
    for (id, (members, complete, lost)) in all {
        let mut set = |what: &str, value| out.insert(format!("flow.{id}.{what}"), value);
        set("members", Ok(Value::Number(members as f64)));
        set("complete", Ok(Value::Number(complete as f64)));
        set("lost", lost.map(Value::Number).ok_or_else(|| "not every flow told what it lost".to_owned()));
    }
}

/// The paths that each relay was directed to carry.
fn directed(observations: &[Observation]) -> BTreeMap<&str, BTreeSet<[u8; 16]>> {
    let mut out: BTreeMap<&str, BTreeSet<[u8; 16]>> = BTreeMap::new();
    for seen in observations {
        if let What::Received { message: Kind::RelayDirection, path: Some(path), .. } = &seen.what {
            out.entry(&seen.node).or_default().insert(path.0);
        }
    }
    out
}

/// How many messages `node` sent and took in a second: in the mean, and in the busiest.
fn messages(record: &Record, observations: &[Observation], node: &str) -> (Result<f64, String>, usize) {
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for seen in observations.iter().filter(|seen| seen.node == node) {
        if let (What::Sent { .. } | What::Received { .. }, Some(after)) =
            (&seen.what, seen.t.as_nanos().checked_sub(record.start))
        {
            *seconds.entry(after / 1_000_000_000).or_default() += 1;
        }
    }
    let length = record.end.saturating_sub(record.start) as f64 / 1e9;
    let all: usize = seconds.values().sum();
    let mean = if length > 0.0 { Ok(all as f64 / length) } else { Err("the run had no length".to_owned()) };
    (mean, seconds.into_values().max().unwrap_or(0))
}
