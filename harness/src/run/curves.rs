//! What is plotted over time: each flow's throughput from the recordings, each ping's round trips from what it printed.

use std::fs;

use super::Job;
use super::result::Record;
use crate::clock;
use crate::flow;
use crate::plan::HostPlan;
use crate::plan::config::TUN;
use crate::report::series::{self, Series, Way};
use crate::scenario::model::FlowKind;

/// What is plotted over time.
pub(super) fn of(job: &Job, record: &Record) -> Series {
    let bin_ms = series::bin_ms(record.end.saturating_sub(record.start));
    let mut out = Series { bin_ms, throughput: Vec::new(), rtt: Vec::new() };
    let seen = |node: &str| {
        let terminal = job.plan.host(node).is_some_and(HostPlan::is_terminal);
        let node = node.to_owned();
        let of = move |key: &&(String, String)| key.0 == node && (key.1 == TUN) == terminal;
        record.recordings.keys().filter(of).flat_map(|key| &record.recordings[key].packets)
    };
    let offset = clock::wall().wrapping_sub(clock::now().as_nanos());
    for (index, flow) in job.scenario.flows.iter().enumerate() {
        let (client, Some(server)) = flow::ends(flow, &job.plan) else { continue };
        let id = flow.id.get_ref();
        if let FlowKind::Ping { interval, .. } = &flow.kind {
            let points = record.round_trips.get(id).cloned().unwrap_or_else(|| {
                let file = record.flows_folder.join(format!("{id}.out"));
                let printed = fs::read_to_string(file).unwrap_or_default();
                let interval = interval.as_secs_f64() * 1e3;
                series::round_trips(&printed, offset, record.start, interval)
            });
            let (from, to) = (client.to_owned(), server.to_owned());
            out.rtt.push(series::RoundTrips { flow: id.clone(), from, to, points });
            continue;
        }
        for (way, from, to) in [(Way::ToServer, client, server), (Way::ToClient, server, client)] {
            let bytes = series::bytes(seen(to), flow::port(index), way, record.start, bin_ms);
            if !bytes.is_empty() {
                let (from, to) = (from.to_owned(), to.to_owned());
                out.throughput.push(series::Throughput { flow: id.clone(), from, to, bytes });
            }
        }
    }
    out
}
