//! From what a session recorded to quantities, verdict and the run's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ntm_protocol::addr::Fqdn;
use ntm_protocol::observe::Observation;
use ntm_protocol::time::Instant;
use serde::Deserialize;
use serde_json::Value as Json;

use super::session::{named, recording};
use super::{Job, Print};
use super::{captures, curves, links, load, relays};
use crate::capture::packet::Content;
use crate::capture::sealed::Seal;
use crate::clock;
use crate::daemons::Usage;
use crate::disturbance::{self, Disturbance};
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::first_packet::{self, FirstPacket};
use crate::flow::iperf3::Interval;
use crate::flow::probes::Ways;
use crate::flow::{self, Quantities};
use crate::judge::excuse::excuse;
use crate::judge::expr::Value;
use crate::judge::verdict::{Evidence, Judged, judge};
use crate::judge::{catalogue, routes};
use crate::measure::{self, Recordings};
use crate::plan::config::TUN;
use crate::plan::{HostPlan, Plan};
use crate::probe::{self, Probes};
use crate::report::topology::Topology;
use crate::report::{Report, breakdown, events, junit, page, relay_table, split, summary, tables, text};
use crate::scenario;
use crate::scenario::model::{Expectation, FlowKind, Scenario};
use crate::timeline::Handover;
use crate::transitions::names::Names;
use crate::transitions::sighting::Sighting;
use crate::transitions::{self, table};
use crate::{stdout, wire};

/// Everything a session recorded.
#[derive(Default)]
pub struct Record {
    /// When the harness started, on the run's clock.
    pub origin: Instant,
    /// When all namespaces, links and routes were there, in nanoseconds of the run's clock.
    pub built: u64,
    /// When all daemons were ready.
    pub ready: u64,
    /// When time began.
    pub start: u64,
    /// When all had ended, or the run was.
    pub end: u64,
    /// Of each ping in the simulator, when each request was sent, in milliseconds, and how many it took.
    pub round_trips: BTreeMap<String, Vec<(f64, Option<f64>)>>,
    /// What iperf3's receivers counted, where it is not in files of the flows.
    pub transfers: BTreeMap<String, Vec<Interval>>,
    /// What probes told, likewise.
    pub ways: BTreeMap<String, Ways>,
    /// Each flow that came to its end.
    pub flows: Vec<(String, Quantities)>,
    /// Each handover that was done.
    pub handovers: Vec<Handover>,
    /// What passed the interfaces.
    pub recordings: Recordings,
    /// The same with all that whole packets tell, in the order of time.
    pub sightings: Vec<Sighting>,
    /// Every data packet at every real interface and a router's outer side, sorted.
    pub seals: Vec<Seal>,
    /// The harness's own observations.
    pub own: Vec<Json>,
    /// What each node's daemon used while flows and actions ran, where one process lasted throughout.
    pub usage: BTreeMap<String, Usage>,
    /// When the machine disturbed the run.
    pub disturbances: Vec<Disturbance>,
    /// What is known of the NATs.
    pub probes: Probes,
    /// Every observation, sorted by time.
    pub trace: Vec<Json>,
    /// What every daemon said of itself at the end.
    pub status: Json,
    /// What the links in user space did, where there are some.
    pub links: Option<wire::Report>,
    /// Where the flows' output is.
    pub flows_folder: PathBuf,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// What went wrong without ending the run.
    pub problems: Vec<String>,
}

/// How a session ended.
#[derive(Debug)]
pub enum Ending {
    /// All flows and actions came to their ends.
    Complete,
    /// It took longer than this.
    TimedOut(Duration),
    /// SIGINT or SIGTERM.
    Interrupted,
    /// Something that should not happen.
    Broken(Failure),
}

/// Measures and judges.
pub fn report(job: &Job, record: &Record, ending: Ending) -> (Report, Exit) {
    let mut quantities = quantities(job, record, &ending);
    let observations: Vec<_> =
        record.trace.iter().filter_map(|event| Observation::deserialize(event).ok()).collect();
    quantities.extend(load::quantities(job, record, &observations));
    let first_packets = first_packets(job, &record.trace, &observations, &record.sightings);
    for (id, measured) in &first_packets {
        quantities.extend(named(id, first_packet::quantities(measured)));
    }
    let evidence = Evidence {
        quantities: &quantities,
        trace: &record.trace,
        owners: &job.plan,
        start: record.start,
        // From when it left: it may speak in the new network before we know that it joined.
        handover: record.handovers.first().map(Handover::began),
    };
    let expectations: Vec<_> = match &ending {
        // Without the run's whole length, an expectation that fails says nothing.
        Ending::Broken(_) | Ending::Interrupted => Vec::new(),
        Ending::Complete | Ending::TimedOut(_) => {
            let of = |expectation| judged(job, record, expectation, &evidence);
            let here = job.scenario.expectations.iter().filter(|it| not_measured(job, it).is_none());
            here.map(of).collect()
        }
    };
    let mut problems = record.problems.clone();
    let (verdict, exit) = match ending {
        Ending::Interrupted => ("interrupted", Exit::Interrupted),
        Ending::TimedOut(limit) => {
            problems.insert(0, format!("the run took longer than {limit:?}"));
            ("timed out", Exit::TimedOut)
        }
        Ending::Broken(failure) => {
            problems.insert(0, failure.message);
            ("error", failure.exit)
        }
        Ending::Complete if expectations.iter().any(Judged::failed) => ("failed", Exit::Failed),
        // A daemon that does not end cleanly is a defect, whatever was measured.
        Ending::Complete if !problems.is_empty() => ("error", Exit::Error),
        Ending::Complete if expectations.iter().any(|judged| !judged.held) => {
            ("inconclusive", Exit::Inconclusive)
        }
        Ending::Complete => ("held", Exit::Held),
    };
    let handovers = record.handovers.iter().enumerate().map(|(index, done)| {
        let control = quantities.get(&format!("handover.{}.control_ms", index + 1));
        let first = match control {
            // Data may come before the harness knows that the address is up.
            Some(Ok(Value::Number(ms))) => Some(done.joined.saturating_add_signed((ms * 1e6) as i64)),
            _ => None,
        };
        breakdown::of(done, &record.trace, first)
    });
    let handovers = handovers.collect();
    let tables = job.scenario.tables.iter().map(|spec| tables::fill(spec, &quantities)).collect();
    let (measured, unmeasured) = split(&quantities);
    let relay_table = relay_table::of(&record.status, record.start);
    let names = Names::of(&job.plan, &observations);
    let transitions = transitions::of(&record.sightings, &record.seals, &observations, &names, record.start);
    let unjudged = job.scenario.expectations.iter().filter_map(|expectation| {
        let name = not_measured(job, expectation)?;
        Some(format!(
            "not judged in the simulation, where there are no processes: what is expected of `{name}`"
        ))
    });
    let left_out = scenario::left_out(&job.scenario).filter(|_| job.engine == Engine::Simulation).map(|flow| {
        let (id, word) = (flow.id.get_ref(), flow.kind.word());
        format!("left out of the simulation, which has no programs of the host: flow `{id}`, which is `{word}`")
    });
    let notes = record.notes.iter().cloned().chain(left_out).chain(unjudged).collect();
    let report = Report {
        schema: 1,
        engine: job.engine,
        scenario: job.scenario.name.clone(),
        about: job.scenario.about.clone(),
        seed: job.scenario.seed,
        verdict,
        exit: exit as u8,
        problems,
        notes,
        expectations,
        disturbances: record.disturbances.clone(),
        quantities: measured,
        samples: BTreeMap::new(),
        unmeasured,
        transitions,
        first_packets: first_packets.into_iter().filter_map(|(id, first)| Some((id, first.ok()?))).collect(),
        relay_table,
        topology: Topology::of(&job.plan),
        handovers,
        tables,
        start: record.start,
        end: record.end,
        seconds: clock::now().since(job.started).as_secs_f64(),
        folder: job.folder.display().to_string(),
    };
    (report, exit)
}

/// What an expectation is about that this world does not measure.
fn not_measured<'a>(job: &Job, expectation: &'a Expectation) -> Option<&'a str> {
    let of_host = || scenario::of_process(expectation).or_else(|| of_left_out(&job.scenario, expectation));
    (job.engine == Engine::Simulation).then(of_host).flatten()
}

/// The quantity of a flow that the simulation leaves out, that an expectation is about.
fn of_left_out<'a>(scenario: &Scenario, expectation: &'a Expectation) -> Option<&'a str> {
    let is_of = |name: &&str| {
        let mut parts = name.split('.');
        let id = parts.next().filter(|first| *first == "flow").and_then(|_| parts.next());
        scenario::left_out(scenario).any(|flow| Some(flow.id.get_ref().as_str()) == id)
    };
    scenario::names(expectation).find(is_of)
}

/// An expectation, and if it failed, whether only because the machine disturbed what it is about.
fn judged(job: &Job, record: &Record, expectation: &Expectation, evidence: &Evidence<'_, Plan>) -> Judged {
    let reasons = |name: &str| {
        if !catalogue::is_sensitive(&job.scenario, name) {
            return Vec::new();
        }
        let (from, to) = measured_in(record, name);
        disturbance::reasons(&record.disturbances, from, to, record.start)
    };
    let mut judged = judge(expectation, evidence);
    excuse(&mut judged, expectation, evidence.quantities, &reasons);
    judged
}

/// The time in which the quantity `name` was measured.
fn measured_in(record: &Record, name: &str) -> (u64, u64) {
    let whole = (record.origin.as_nanos(), record.end);
    let mut parts = name.split('.');
    match (parts.next(), parts.next()) {
        (Some("flow"), Some(id)) => {
            let of = |what: &str| moment(&record.own, what, id);
            (of("flow-started").unwrap_or(whole.0), of("flow-ended").unwrap_or(whole.1))
        }
        (Some("handover"), Some(second)) => {
            let index = second.parse::<usize>().map_or(0, |number| number.saturating_sub(1));
            let around = |done: &Handover| {
                let (began, over) = (done.began(), done.joined.max(done.left));
                (began.saturating_sub(AROUND), over.saturating_add(2 * AROUND))
            };
            record.handovers.get(index).map_or(whole, around)
        }
        _ => whole,
    }
}

/// So long before a handover, and twice as long after it, what disturbs disturbs the handover; in nanoseconds.
const AROUND: u64 = 1_000_000_000;

/// Measures, judges, writes the run's files, prints the verdict.
pub fn conclude(job: &Job, record: &Record, ending: Ending, files: &[(&str, Json)]) -> Result<Exit, Failure> {
    let (mut report, exit) = report(job, record, ending);
    let broken = captures::join(job, &job.folder.join("pcap"), &report.topology, &record.trace)?;
    report.notes.extend(broken);
    let tables = job.folder.join("tables.md");
    let text = [
        "# Address transitions\n\n",
        &table::render(&report.transitions),
        "\n# Relay Tables\n\n",
        &relay_table::render(&report.relay_table),
    ];
    fs::write(&tables, text.concat()).map_err(Failure::during(tables.display()))?;
    let events = job.folder.join("events.jsonl");
    events::write(&events, &record.trace).map_err(Failure::during(events.display()))?;
    let json = serde_json::to_value(&report).map_err(Failure::during("report.json"))?;
    for (name, content) in files
        .iter()
        .map(|(name, content)| (*name, content))
        .chain([("status.json", &record.status), ("report.json", &json)])
    {
        let path = job.folder.join(name);
        let text = serde_json::to_string_pretty(content).map_err(Failure::during(path.display()))?;
        fs::write(&path, text + "\n").map_err(Failure::during(path.display()))?;
    }
    // Thousands of numbers: a line each would be hard to look through.
    let path = job.folder.join("series.json");
    let series = curves::of(job, record);
    let text = serde_json::to_string(&series).map_err(Failure::during(path.display()))?;
    fs::write(&path, text + "\n").map_err(Failure::during(path.display()))?;
    for (name, text) in [("junit.xml", junit::render(&report)), ("summary.md", summary::render(&report))] {
        let path = job.folder.join(name);
        fs::write(&path, text).map_err(Failure::during(path.display()))?;
    }
    page::write(&job.folder)?;
    match job.print {
        Print::Text => stdout::say(text::render(&report)),
        Print::Json => stdout::json(&json),
        Print::Nothing => {}
    }
    Ok(exit)
}

fn quantities(job: &Job, record: &Record, ending: &Ending) -> Quantities {
    let mut out = fixed(&job.plan);
    out.extend(probe::quantities(&job.plan, &record.probes));
    for (index, flow) in job.scenario.flows.iter().enumerate() {
        let id = flow.id.get_ref();
        let Some((_, measured)) = record.flows.iter().find(|(name, _)| name == id) else {
            let why = match ending {
                _ if job.engine == Engine::Simulation && flow.kind.is_of_the_host() => {
                    "the simulation has no programs of the host"
                }
                Ending::Interrupted => "the run was interrupted",
                _ => "the flow did not come to its end",
            };
            for (name, ..) in catalogue::of_flow(&flow.kind).iter().chain([&catalogue::END]) {
                out.insert(format!("flow.{id}.{name}"), Err(why.to_owned()));
            }
            // What came until then is known.
            if let (FlowKind::Probe { .. }, Ok(ways)) = (&flow.kind, ways(record, id)) {
                out.extend(named(id, ways.quantities()));
            }
            continue;
        };
        out.extend(named(id, measured.clone()));
        let moment = |what: &str| moment(&record.own, what, id);
        if let (FlowKind::Sip { .. }, Some(from), Some(to)) =
            (&flow.kind, moment("flow-started"), moment("flow-ended"))
        {
            let (caller, called) = flow::ends(flow, &job.plan);
            let seen =
                |node: &str| recording(&record.recordings, node, application_interface(&job.plan, node));
            if let (Some(client), Some(server)) = (seen(caller), called.and_then(seen)) {
                let moved = record.handovers.first().map(|handover| handover.joined);
                out.extend(named(id, flow::sip::media(index, client, server, (from, to), moved)));
            }
        }
        if let FlowKind::Iperf3 { reverse, udp: false, .. } = &flow.kind {
            let (from, to) = flow::ends(flow, &job.plan);
            let seen =
                |node: &str| recording(&record.recordings, node, application_interface(&job.plan, node));
            let (client, server) = (seen(from), to.and_then(seen));
            let receiver = if *reverse { client } else { server };
            if let (Some(server), Some(receiver)) = (server, receiver) {
                let transfer = measure::transfer(server, receiver, flow::port(index));
                let intervals = record.transfers.get(id).cloned().unwrap_or_else(|| {
                    flow::iperf3::Reports::load(id, &record.flows_folder, *reverse).intervals()
                });
                let more = transfer.quantities(&intervals, record.handovers.first());
                out.extend(named(id, more));
            }
        }
    }
    for flow in &job.scenario.flows {
        let id = flow.id.get_ref();
        let moment = |what: &str| moment(&record.own, what, id);
        if let (FlowKind::Iperf3 { .. }, Some(from), Some(to)) =
            (&flow.kind, moment("flow-started"), moment("flow-ended"))
        {
            let node = flow::ends(flow, &job.plan).0;
            let peer = measure::outer_peer(&record.recordings, node, from, to);
            let peer = peer
                .map(Value::Text)
                .ok_or_else(|| format!("`{node}` sent and got no data packet of NTMobile"));
            out.insert(format!("flow.{id}.outer_peer"), peer);
        }
    }
    for (index, done) in record.handovers.iter().enumerate() {
        let tunnelled = job.plan.host(&done.node).is_some_and(crate::plan::HostPlan::is_terminal);
        for (name, value) in measure::handover(done, &record.recordings, tunnelled) {
            if index == 0 {
                out.insert(format!("handover.{name}"), value.clone());
            }
            out.insert(format!("handover.{}.{name}", index + 1), value);
        }
    }
    out.extend(probed(job, record));
    for (from, to) in routes::pairs(&job.scenario) {
        let name = job.plan.host(&to).and_then(|host| host.fqdn.as_ref()).map_or("", Fqdn::as_str);
        let route = routes::in_use(record.status.get(&from), name).map(Value::Text);
        out.insert(format!("path.{from}.{to}.route"), route);
        let oracle = routes::oracle(&job.scenario, &from, &to);
        out.insert(format!("path.{from}.{to}.oracle"), Ok(Value::Text(oracle.to_owned())));
    }
    out.extend(fragments(job, record));
    out.extend(relays::quantities(job, record));
    out.extend(links::quantities(job, record));
    let since = |t: u64| Value::Number(t.saturating_sub(record.origin.as_nanos()) as f64 / 1e6);
    if record.ready > 0 {
        out.insert("run.built_ms".into(), Ok(since(record.built)));
        out.insert("run.ready_ms".into(), Ok(since(record.ready)));
    }
    let clients: BTreeSet<(String, String)> = job
        .scenario
        .flows
        .iter()
        .map(|flow| flow::ends(flow, &job.plan).0)
        .map(|node| (node.to_owned(), application_interface(&job.plan, node).to_owned()))
        .collect();
    let first = measure::first_byte(&record.recordings, &clients);
    out.insert(
        "run.first_byte_ms".into(),
        first.map(since).ok_or_else(|| "no application got anything".to_owned()),
    );
    out.retain(|name, _| job.scenario.captures || !catalogue::from_packets(name));
    out
}

/// What the probes of a flow told; the error says why it is nothing.
fn ways(record: &Record, id: &str) -> Result<Ways, String> {
    record.ways.get(id).cloned().map_or_else(|| Ways::load(id, &record.flows_folder), Ok)
}

/// What probes tell of the handovers of their nodes.
fn probed(job: &Job, record: &Record) -> Quantities {
    let mut out = Quantities::new();
    for (index, done) in record.handovers.iter().enumerate() {
        let Some((flow, is_client)) = catalogue::probes_of(&job.scenario, &done.node) else { continue };
        let until = record.handovers.get(index + 1).map_or(u64::MAX, Handover::began);
        // A flow that left nothing is as one without a probe.
        let ways = ways(record, flow.id.get_ref()).unwrap_or_default();
        let (away, home) = if is_client { (&ways.out, &ways.back) } else { (&ways.back, &ways.out) };
        let both = away.handover(done, until, "out").into_iter().chain(home.handover(done, until, "in"));
        for (name, value) in both {
            if index == 0 {
                out.insert(format!("handover.{name}"), value.clone());
            }
            out.insert(format!("handover.{}.{name}", index + 1), value);
        }
    }
    out
}

/// Of every flow that has a name to ask for.
fn first_packets(
    job: &Job,
    trace: &[Json],
    observations: &[Observation],
    sightings: &[Sighting],
) -> BTreeMap<String, Result<FirstPacket, String>> {
    let recorded = first_packet::Recorded::new(observations, sightings);
    let mut started: BTreeMap<&str, u64> = BTreeMap::new();
    for event in trace.iter().filter(|event| event["what"] == "flow-started") {
        if let (Some(id), Some(at)) = (event["flow"].as_str(), event["t"].as_u64()) {
            started.entry(id).or_insert(at);
        }
    }
    let measured = job.scenario.flows.iter().filter_map(|flow| {
        let (id, name) = (flow.id.get_ref(), flow.kind.ends()?.to.get_ref());
        let from = flow::ends(flow, &job.plan).0;
        let first = match started.get(id.as_str()).copied() {
            _ if !job.plan.host(from).is_some_and(HostPlan::is_terminal) => {
                Err(format!("`{from}` is no terminal"))
            }
            None => Err("the flow did not start".to_owned()),
            Some(start) => recorded.first_packet(from, name, start),
        };
        Some((id.clone(), first))
    });
    measured.collect()
}

/// When `what` was noted of the flow `id`.
fn moment(own: &[Json], what: &str, id: &str) -> Option<u64> {
    let event = own.iter().find(|event| event["what"] == what && event["flow"] == id)?;
    event["t"].as_u64()
}

/// The parts of packets that were cut up outside, at each interface where packets were recorded.
fn fragments(job: &Job, record: &Record) -> Quantities {
    let interfaces =
        job.plan.hosts.iter().flat_map(|host| host.interfaces.iter().map(move |its| (host, its)));
    interfaces
        .map(|(host, interface)| {
            let count = recording(&record.recordings, &host.name, &interface.name)
                .map(|seen| seen.packets.iter().filter(|packet| packet.content == Content::Fragment).count());
            let value = count.map(|count| Value::Number(count as f64));
            let name = format!("node.{}.{}.fragments", host.name, interface.name);
            (name, value.ok_or_else(|| "no packets were recorded there".to_owned()))
        })
        .collect()
}

/// What the plan knows.
fn fixed(plan: &Plan) -> Quantities {
    let text = |address: std::net::IpAddr| Ok(Value::Text(address.to_string()));
    let mut out = Quantities::new();
    for host in &plan.hosts {
        out.insert(format!("node.{}.address", host.name), text(host.address()));
        if let Some(own) = host.addresses().into_iter().find(std::net::IpAddr::is_ipv6) {
            out.insert(format!("node.{}.address6", host.name), text(own));
        }
        for interface in &host.interfaces {
            out.insert(format!("node.{}.{}.address", host.name, interface.name), text(interface.address));
            if let Some((own, _)) = interface.v6 {
                out.insert(format!("node.{}.{}.address6", host.name, interface.name), text(own.into()));
            }
        }
    }
    for router in &plan.routers {
        out.insert(format!("router.{}.address", router.name), text(router.outer.into()));
    }
    out
}

/// Where an application's packets can be seen as the application sees them.
fn application_interface<'a>(plan: &'a Plan, node: &str) -> &'a str {
    match plan.host(node) {
        Some(host) if host.is_terminal() => TUN,
        Some(host) => host.interfaces.first().map_or("", |interface| interface.name.as_str()),
        None => "",
    }
}
