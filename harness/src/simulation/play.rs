//! Flows and the timeline in virtual time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ntm_protocol::expiry::earliest;
use ntm_protocol::time::Instant;
use ntm_sim::flow::{DNS, FlowId, Outcome};
use ntm_sim::talk::Numbered;
use ntm_sim::{Talk, TalkId, World};
use serde_json::{Value as Json, json};

use super::apps::{self, Doing};
use super::build::{Built, configure};
use super::seen::Watch;
use super::{names, told};
use crate::exit::Failure;
use crate::flow::{self, Quantities, is_virtual, ping};
use crate::judge::expr::Value;
use crate::plan::{HostPlan, InterfacePlan, Plan};
use crate::run::limit;
use crate::run::result::{Ending, Record};
use crate::scenario::model::{ActionKind, End, Flow, Link, Role, Scenario};
use crate::timeline::{Addresses, Handover, about, interface};
use crate::trace;

/// How long ping waits for the last answer.
const LINGER: Duration = Duration::from_secs(2);

/// How often what passed the interfaces is noted.
const COLLECT: Duration = Duration::from_millis(100);

/// Something that happens at a moment.
enum Deed<'a> {
    Start(&'a Flow),
    Leave(&'a str, InterfacePlan),
    Join(&'a str, InterfacePlan),
    /// An interface has another address: as it was, and as it is.
    Readdress(&'a str, Box<[InterfacePlan; 2]>),
    Link(&'a str, &'a Link),
    /// The host's machine dies as by `kill -9`, or is started again with what its disk kept.
    Kill(&'a str),
    Revive(&'a str),
    /// A handover is done: when it left and joined, from the beginning.
    Done(Handover, Duration, Duration),
}

/// Lets everything happen, until all flows and actions have come to their ends or the time is over.
pub fn play<'a>(
    scenario: &'a Scenario,
    plan: &'a Plan,
    built: &mut Built,
    watch: &mut Watch<'a>,
    record: &mut Record,
) -> Result<Ending, Failure> {
    let begin = built.world.now();
    let limit = limit(scenario);
    let (up, running) = (BTreeMap::new(), Vec::new());
    let mut stage = Stage { scenario, plan, built, watch, record, begin, up, running };
    for host in &plan.hosts {
        let up = host.interfaces.iter().filter(|interface| interface.up).cloned().collect();
        stage.up.insert(&host.name, up);
    }
    for (after, deed) in agenda(scenario, plan)? {
        stage.wait_until(begin + after.min(limit), false);
        if after > limit {
            return Ok(Ending::TimedOut(limit));
        }
        stage.happen(deed)?;
    }
    stage.wait_until(begin + limit, true);
    Ok(if stage.running.is_empty() { Ending::Complete } else { Ending::TimedOut(limit) })
}

/// All deeds with their times from the beginning. An action begins when the one before it is done.
fn agenda<'a>(scenario: &'a Scenario, plan: &Plan) -> Result<Vec<(Duration, Deed<'a>)>, Failure> {
    let flows = scenario.flows.iter().filter(|flow| !flow.kind.is_of_the_host());
    let mut out: Vec<_> = flows.map(|flow| (flow.start, Deed::Start(flow))).collect();
    let mut done = Duration::ZERO;
    // Addresses that are no more as planned.
    let mut addresses = Addresses::default();
    for action in &scenario.actions {
        let at = action.time.max(done);
        done = at;
        match &action.kind {
            ActionKind::Handover { node, from, to, gap, overlap } => {
                let (left, joined) = if overlap.is_zero() { (at, at + *gap) } else { (at + *overlap, at) };
                done = left.max(joined);
                let mut handover = None;
                for member in scenario.members(node.get_ref()) {
                    let old = interface(plan, &addresses, member, from.get_ref())?;
                    let new = interface(plan, &addresses, member, to.get_ref())?;
                    handover.get_or_insert_with(|| Handover {
                        node: node.get_ref().clone(),
                        from: old.name.clone(),
                        to: new.name.clone(),
                        gap: *gap,
                        left: 0,
                        joined: 0,
                    });
                    let mut halves = [(left, Deed::Leave(member, old)), (joined, Deed::Join(member, new))];
                    if !overlap.is_zero() {
                        halves.reverse();
                    }
                    out.extend(halves);
                }
                out.extend(handover.map(|handover| (done, Deed::Done(handover, left, joined))));
            }
            ActionKind::Address { node, interface: name, address } => {
                let (node, name) = (node.get_ref(), name.get_ref());
                let old = interface(plan, &addresses, node, name)?;
                let new = InterfacePlan { address: (*address.get_ref()).into(), ..old.clone() };
                addresses.insert((node.clone(), name.clone()), new.address);
                out.push((at, Deed::Readdress(node, Box::new([old, new]))));
            }
            ActionKind::Interface { node, name, up } => {
                for member in scenario.members(node.get_ref()) {
                    let interface = interface(plan, &addresses, member, name.get_ref())?;
                    let deed =
                        if *up { Deed::Join(member, interface) } else { Deed::Leave(member, interface) };
                    out.push((at, deed));
                }
            }
            ActionKind::Link { name, shape } => out.push((at, Deed::Link(name.get_ref(), shape))),
            ActionKind::Kill { node } => {
                out.extend(scenario.members(node.get_ref()).map(|member| (at, Deed::Kill(member))));
            }
            ActionKind::Start { node } => {
                out.extend(scenario.members(node.get_ref()).map(|member| (at, Deed::Revive(member))));
            }
        }
    }
    out.sort_by_key(|(at, _)| *at);
    Ok(out)
}

/// What a flow is in the world.
#[derive(Clone, Copy)]
enum Subject {
    Ping(TalkId),
    Flow(FlowId),
}

impl Subject {
    /// How far it is, so that a change is noticed; at [`ENDED`] it needs no more time.
    fn stage(self, world: &World) -> u32 {
        match self {
            Self::Ping(talk) => stage(world.heard(talk)),
            Self::Flow(flow) if world.has_ended(flow) => ENDED,
            Self::Flow(_) => 0,
        }
    }
}

/// A flow that has started.
struct Running<'a> {
    flow: &'a Flow,
    subject: Subject,
    /// When its `duration` is over.
    until: Option<Instant>,
}

impl Running<'_> {
    /// When it waits no longer.
    fn deadline(&self, world: &World) -> Option<Instant> {
        let own = match self.subject {
            Subject::Ping(talk) => deadline(world.heard(talk)),
            Subject::Flow(_) => None,
        };
        earliest([own, self.until])
    }
}

struct Stage<'a, 'w> {
    scenario: &'a Scenario,
    plan: &'a Plan,
    built: &'w mut Built,
    watch: &'w mut Watch<'a>,
    record: &'w mut Record,
    /// When time began.
    begin: Instant,
    /// The interfaces of each host that are up, the preferred first: that is the one that came up last.
    up: BTreeMap<&'a str, Vec<InterfacePlan>>,
    running: Vec<Running<'a>>,
}

impl<'a> Stage<'a, '_> {
    fn happen(&mut self, deed: Deed<'a>) -> Result<(), Failure> {
        match deed {
            Deed::Start(flow) => self.start(flow),
            Deed::Leave(node, old) => {
                self.note(node, "left", about(&old));
                self.up.entry(node).or_default().retain(|interface| interface.name != old.name);
                self.switch(node)
            }
            Deed::Join(node, new) => {
                let about = about(&new);
                let up = self.up.entry(node).or_default();
                up.retain(|interface| interface.name != new.name);
                up.insert(0, new);
                self.switch(node)?;
                self.note(node, "joined", about);
                Ok(())
            }
            Deed::Readdress(node, both) => {
                let [old, new] = *both;
                self.note(node, "left", about(&old));
                let joined = about(&new);
                let up = self.up.entry(node).or_default();
                for interface in up.iter_mut().filter(|interface| interface.name == new.name) {
                    *interface = new.clone();
                }
                self.switch(node)?;
                self.note(node, "joined", joined);
                Ok(())
            }
            Deed::Link(name, link) => {
                self.note(name, "link", json!({ "up": link.up, "down": link.down }));
                self.built.change_link(self.plan, name, link)
            }
            Deed::Kill(node) => {
                let id = self.built.host(node)?;
                self.note(node, "killed", json!({}));
                self.built.world.crash(id);
                Ok(())
            }
            Deed::Revive(node) => {
                let id = self.built.host(node)?;
                if let Some(host) = self.plan.host(node) {
                    configure(&mut self.built.world.settings, &host.role);
                }
                self.note(node, "started", json!({}));
                self.built.world.start(id);
                Ok(())
            }
            Deed::Done(handover, left, joined) => {
                let at = |after: Duration| (self.begin + after).as_nanos();
                let (left, joined) = (at(left), at(joined));
                self.record.handovers.push(Handover { left, joined, ..handover });
                Ok(())
            }
        }
    }

    /// A host's interfaces are those that are up now.
    fn switch(&mut self, node: &str) -> Result<(), Failure> {
        let up = self.up.get(node).into_iter().flatten();
        let interfaces = up.map(|plan| self.built.interfaces(plan)).collect::<Result<Vec<_>, _>>()?.concat();
        let id = self.built.host(node)?;
        self.built.world.set_interfaces(id, &interfaces);
        Ok(())
    }

    fn start(&mut self, flow: &'a Flow) -> Result<(), Failure> {
        let id = flow.id.get_ref();
        let impossible = || Failure::error(format!("flow `{id}` cannot be simulated"));
        let (client, server) = flow::ends(flow, self.plan);
        let from = self.built.host(client)?;
        let doing = apps::doing(self.scenario, flow).map_err(|_| impossible())?;
        self.note(client, "flow-started", json!({ "flow": id }));
        let named = || flow.kind.ends().map(|ends| ends.to.get_ref()).ok_or_else(impossible);
        let subject = match doing {
            Doing::Ping { count, interval } => {
                let to = named()?;
                let relay = self.plan.host_named(to).filter(|host| matches!(host.role, Role::Relay { .. }));
                let addresses = relay.into_iter().flat_map(HostPlan::addresses);
                let real = addresses.filter_map(|address| match address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                });
                let world = &mut self.built.world;
                // A relay has its real address alone.
                Subject::Ping(match real.into_iter().next() {
                    Some(address) => world.ping_real(from, (to, address), count, interval),
                    None => world.ping(from, to, count, interval),
                })
            }
            Doing::Names => {
                let (name, task) = names::task(self.plan, flow)?;
                // Whoever asks himself is both ends.
                let server = server.map_or(Ok(from), |server| self.built.host(server))?;
                Subject::Flow(self.built.world.flow(from, server, &name, DNS, task))
            }
            Doing::Task(task) => {
                let server = self.built.host(server.ok_or_else(impossible)?)?;
                let index = self.scenario.flows.iter().position(|other| other.id.get_ref() == id);
                let port = flow::port(index.unwrap_or_default());
                Subject::Flow(self.built.world.flow(from, server, named()?, port, task))
            }
        };
        let until = flow.duration.map(|limit| self.built.world.now() + limit);
        self.running.push(Running { flow, subject, until });
        Ok(())
    }

    /// Lets time pass, and notes each flow that ends meanwhile; with `idle`, only for as long as one has not ended.
    fn wait_until(&mut self, until: Instant, idle: bool) {
        loop {
            self.end_flows();
            let now = self.built.world.now();
            if now >= until || (idle && self.running.is_empty()) {
                return;
            }
            let subjects: Vec<Subject> = self.running.iter().map(|running| running.subject).collect();
            let deadlines = self.running.iter().filter_map(|running| running.deadline(&self.built.world));
            let next = deadlines.chain([until, now + COLLECT]).min().unwrap_or(until).max(now);
            let stages = |world: &World| subjects.iter().map(|subject| subject.stage(world)).sum::<u32>();
            let before = stages(&self.built.world);
            let seen = Cell::new(self.built.world.progress());
            let has_changed =
                |world: &World| seen.replace(world.progress()) != world.progress() && stages(world) != before;
            self.built.world.wait(next - now, has_changed);
            self.watch.collect(self.built, self.record);
        }
    }

    fn end_flows(&mut self) {
        let now = self.built.world.now();
        let world = &self.built.world;
        let has_ended = |running: &Running<'_>| {
            let over = running.deadline(world).is_some_and(|deadline| now >= deadline);
            running.subject.stage(world) == ENDED || over
        };
        let (ended, running) = std::mem::take(&mut self.running).into_iter().partition(has_ended);
        self.running = running;
        for Running { flow, subject, until } in ended {
            let was_cut = until.is_some_and(|until| now >= until);
            let name = flow.id.get_ref();
            let mut quantities = match subject {
                Subject::Ping(talk) => {
                    self.built.world.hang_up(talk);
                    let heard = self.built.world.heard(talk);
                    self.record.round_trips.insert(name.clone(), round_trips(heard, self.begin));
                    measured(heard)
                }
                Subject::Flow(id) => {
                    self.built.world.end_flow(id);
                    let outcome = self.built.world.outcome(id);
                    match &outcome {
                        Outcome::Transferred(out) => {
                            let intervals = told::intervals(&flow.kind, &out.stretches);
                            self.record.transfers.insert(name.clone(), intervals);
                        }
                        Outcome::Probed(out) => {
                            self.record.ways.insert(name.clone(), told::ways(out));
                        }
                        _ => {}
                    }
                    let client = self.built.host(flow::ends(flow, self.plan).0).ok();
                    let own = client.and_then(|host| self.built.world.application_address(host));
                    told::measured(flow, &outcome, self.built.world.question_of(id), own)
                }
            };
            let end = match was_cut {
                true => End::Cut,
                false if flow::is_complete(&flow.kind, &quantities) => End::Complete,
                false => End::Failed,
            };
            quantities.insert("end".to_owned(), Ok(Value::Text(end.word().to_owned())));
            let (node, id) = (flow::ends(flow, self.plan).0, flow.id.get_ref());
            self.note(node, "flow-ended", json!({ "flow": id }));
            self.record.flows.push((id.clone(), quantities));
        }
    }

    fn note(&mut self, node: &str, what: &str, fields: Json) {
        self.record.own.push(trace::record(self.built.world.now(), node, what, fields));
    }
}

/// When each request was sent, in milliseconds from `begin`, and how many it took.
fn round_trips(talk: &Talk, begin: Instant) -> Vec<(f64, Option<f64>)> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let point = |packet: &Numbered| {
        let took = packet.returned.map(|returned| ms(returned.since(packet.sent)));
        (ms(packet.sent.since(begin)), took)
    };
    talk.packets.iter().map(point).collect()
}

/// How far a flow is, so that a change is noticed; at [`ENDED`] it needs no more time.
fn stage(talk: &Talk) -> u32 {
    match talk.answer {
        None => 0,
        Some((_, Err(_))) => ENDED,
        Some(_) if !talk.has_sent_all() => 1,
        Some(_) if talk.returned() < talk.packets.len() => 2,
        Some(_) => ENDED,
    }
}

const ENDED: u32 = 3;

/// When a flow that has sent everything waits no longer.
fn deadline(talk: &Talk) -> Option<Instant> {
    let last = talk.packets.last().filter(|_| talk.has_sent_all());
    last.map(|packet| packet.sent + LINGER)
}

/// What ping would have printed.
fn measured(talk: &Talk) -> Quantities {
    let why = match talk.answer {
        Some((_, Err(error))) => format!("{}: {error:?}", talk.peer),
        _ => "no answer came".to_owned(),
    };
    let mut out = flow::unmeasured(ping::NAMES, &format!("ping did not measure it: {why}"));
    let Some(address) = talk.address().map(|address| address.to_string()) else { return out };
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), Ok(value));
    set("virtual", Value::Truth(is_virtual(&address)));
    set("remote_address", Value::Text(address));
    let round_trips = talk.packets.iter().filter_map(|packet| Some(packet.returned?.since(packet.sent)));
    let times: Vec<f64> = round_trips.map(|time| time.as_secs_f64() * 1e3).collect();
    let (sent, received) = (talk.packets.len() as f64, times.len() as f64);
    set("sent", Value::Number(sent));
    set("received", Value::Number(received));
    set("lost", Value::Number(sent - received));
    set("unreachable", Value::Number(talk.unreachable.into()));
    if let (Some(least), Some(most)) =
        (times.iter().copied().reduce(f64::min), times.iter().copied().reduce(f64::max))
    {
        set("rtt_min_ms", Value::Number(least));
        set("rtt_avg_ms", Value::Number(times.iter().sum::<f64>() / received));
        set("rtt_max_ms", Value::Number(most));
    }
    out
}
