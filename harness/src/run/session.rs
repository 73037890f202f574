//! The work inside the world: build it, start daemons and servers, let flows and the timeline run, end everything, report.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::{Value as Json, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::result::{self, Ending, Record};
use super::{Job, limit};
use crate::capture::Point;
use crate::capture::point::Framing;
use crate::daemons::{self, Daemons, Started, Usage, control};
use crate::disturbance;
use crate::disturbance::pulse::Pulse;
use crate::disturbance::watch::Watch;
use crate::exit::{Exit, Failure};
use crate::flow::process::Process;
use crate::flow::shared::Shared;
use crate::flow::{self, Place, Quantities, Server};
use crate::judge::expr::Value;
use crate::plan::config::{self, Folders, SharedKey, TUN};
use crate::plan::{Plan, VIRTUAL};
use crate::probe::{self, Probes};
use crate::progress::Progress;
use crate::report::{environment, events};
use crate::scenario::model::{FlowKind, Role};
use crate::timeline::{self, Order, OrderKind};
use crate::trace::Trace;
use crate::world::build::{STUB, World, impaired_later};
use crate::world::enter::{SOCKETS, release_signals};
use crate::world::space::Space;
use crate::{capture, clock, doctor, foreign, transitions};

/// The run's folders.
pub(crate) struct Paths {
    /// Configurations, traces and control sockets.
    pub(crate) daemons: Folders,
    /// What daemons print.
    pub(crate) logs: PathBuf,
    flows: PathBuf,
    captures: PathBuf,
}

impl Paths {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let daemons =
            Folders { config: folder.join("config"), trace: folder.join("trace"), control: SOCKETS.into() };
        let paths = Self {
            daemons,
            logs: folder.join("logs"),
            flows: folder.join("flows"),
            captures: folder.join("pcap"),
        };
        for folder in
            [&paths.daemons.config, &paths.daemons.trace, &paths.logs, &paths.flows, &paths.captures]
        {
            fs::create_dir_all(folder).map_err(Failure::during(folder.display()))?;
        }
        Ok(paths)
    }
}

/// Everything after the world was entered; returns the exit code.
pub fn inside(job: &Job) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(Failure::during("no asynchronous runtime"))
        .and_then(|runtime| runtime.block_on(session(job)));
    match ended {
        Ok(exit) => exit as u8,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit as u8
        }
    }
}

async fn session(job: &Job) -> Result<Exit, Failure> {
    let progress = Progress::new(job.started, job.quiet);
    doctor::require_kernel(&job.plan)?;
    let machine = std::thread::spawn(environment::describe);
    let mut interrupted = Interrupts::listen()?;
    let bounds = &job.scenario.disturbance;
    let watch = Watch::start(bounds.window).map_err(Failure::during("the machine cannot be watched"))?;
    let pulse = Pulse::start(bounds.still).map_err(Failure::during("the processors cannot be watched"))?;
    let mut lab = Lab::new(job, true)?;
    let mut record = Record { origin: job.started, ..Record::default() };

    let mut world = tokio::select! {
        world = World::build(&job.plan, &job.scenario, impaired_later(&job.scenario)) => world?,
        () = interrupted.next() => {
            // There was no world yet in which anything could be measured.
            progress.end();
            return result::conclude(job, &record, Ending::Interrupted, &[]);
        }
    };
    progress.say("the world is built");
    record.built = clock::now().as_nanos();
    let mut used = BTreeMap::new();
    let started = tokio::select! {
        started = lab.set_up(&world, &mut record) => started,
        () = interrupted.next() => Err(Failure { exit: Exit::Interrupted, message: String::new() }),
    };
    let ending = match started {
        Ok(flows) => {
            progress.say("all daemons are ready");
            record.ready = clock::now().as_nanos();
            used = lab.daemons.used();
            progress.timed("flows and timeline", job.scenario.horizon());
            lab.play(&mut world, flows, &mut record, &mut interrupted, &progress).await
        }
        // What this machine cannot do is not a result.
        Err(failure) if failure.exit == Exit::Unable => return Err(failure),
        Err(failure) if failure.exit == Exit::Interrupted => Ending::Interrupted,
        Err(failure) => Ending::Broken(failure),
    };
    record.end = clock::now().as_nanos();
    let carries = job.scenario.is_shaped().then_some(record.start);
    record.disturbances = disturbance::find(&watch.end(), bounds, carries);
    record.disturbances.extend(pulse.end());
    for (node, (pid, at_end)) in lab.daemons.used() {
        // One that was started again has begun anew.
        if let Some((_, at_start)) = used.get(&node).filter(|(before, _)| *before == pid) {
            let cpu_s = at_end.cpu_s - at_start.cpu_s;
            record.usage.insert(node, Usage { cpu_s, ..at_end });
        }
    }
    progress.say("ending");
    let (mut recordings, lost, mut problems) = lab.end_captures();
    let status = lab.status(&record.probes).await;
    lab.rule_sets(&world).await?;
    record.links = world.achieved();
    let late = record.links.iter().flat_map(|links| disturbance::late(links, bounds));
    record.disturbances.extend(late);
    let within = if matches!(ending, Ending::Interrupted) { daemons::END_SOON } else { daemons::END_WITHIN };
    problems.extend(lab.daemons.end(within).await);
    recordings.values_mut().for_each(|recording| record.seals.append(&mut recording.seals));
    record.seals.sort_unstable();
    record.recordings = recordings;
    record.sightings = transitions::read::run(&lab.paths.captures, &job.plan)
        .map_err(Failure::during("the captures cannot be read"))?;
    record.notes.extend(lost);
    record.problems.extend(problems);
    record.own = lab.trace.all();
    let (trace, complaints) = events::merge(&lab.paths.daemons.trace, record.own.clone());
    record.trace = trace;
    record.problems.extend(complaints);
    record.status = status;
    record.flows_folder = lab.paths.flows.clone();
    let machine = machine.join().unwrap_or(Json::Null);
    let links = record.links.as_ref().map(|links| ("links.json", json!(links)));
    let files: Vec<_> = [("env.json", machine)].into_iter().chain(links).collect();
    result::conclude(job, &record, ending, &files)
}

/// The progress of flows and timeline.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// SIGINT and SIGTERM.
pub(crate) struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(Failure::during("signals cannot be handled"));
        let all = Self { int: of(SignalKind::interrupt())?, term: of(SignalKind::terminate())? };
        release_signals()?;
        Ok(all)
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// What a session holds besides its world.
pub(crate) struct Lab<'a> {
    job: &'a Job,
    pub(crate) paths: Paths,
    pub(crate) trace: Trace,
    pub(crate) daemons: Daemons,
    /// What each node's daemon was started with.
    pub(crate) configs: BTreeMap<String, config::Daemon>,
    /// The two ends of each tunnel by another program.
    foreign: Vec<Process>,
    points: Vec<Point>,
    /// Whether every interface is captured.
    captures: bool,
}

/// Each flow's place and server.
pub(crate) type Prepared = Vec<(Place, Server)>;

impl<'a> Lab<'a> {
    /// Nothing yet, and the run's folders.
    pub(crate) fn new(job: &'a Job, captures: bool) -> Result<Self, Failure> {
        Ok(Self {
            job,
            paths: Paths::make(&job.folder)?,
            trace: Trace::default(),
            daemons: Daemons::default(),
            configs: BTreeMap::new(),
            foreign: Vec::new(),
            points: Vec::new(),
            captures,
        })
    }

    /// Starts the routers and probes them, and then everything else, with links as the scenario has them.
    pub(crate) async fn set_up(&mut self, world: &World, record: &mut Record) -> Result<Prepared, Failure> {
        let plan = &self.job.plan;
        let keys = keys(plan)?;
        if self.job.key_log {
            let file = self.job.folder.join("keys.txt");
            secret(&file, &config::key_log(plan, &keys)).map_err(Failure::during(file.display()))?;
        }
        let all = config::daemons(plan, &keys, &self.paths.daemons).map_err(Failure::error)?;
        self.configs = all.iter().map(|daemon| (daemon.node.clone(), daemon.clone())).collect();
        let (routers, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|daemon| plan.routers.iter().any(|router| router.name == daemon.node));
        self.start_all(world, routers).await?;
        record.probes = probe::probe(world, plan, self.job.scenario.seed, &self.paths.daemons).await?;
        world.shape_all(plan).await?;
        self.capture_links(world).await?;
        self.start(world, others).await
    }

    /// Starts daemons and the flows' servers, as far as possible at once, and waits until all are ready.
    async fn start(&mut self, world: &World, all: Vec<config::Daemon>) -> Result<Prepared, Failure> {
        let (last, first): (Vec<_>, Vec<_>) = all.into_iter().partition(|daemon| daemon.last);
        let servers = self.servers(world);
        let started = self.started(world, first);
        let foreign = foreign::start(world, &self.job.plan, &self.paths.logs);
        let (started, servers, foreign) = tokio::try_join!(started, servers, foreign)?;
        self.foreign = foreign;
        started.into_iter().for_each(|started| self.daemons.watch(started));
        self.start_all(world, last).await?;
        self.capture_tuns(world).await?;
        Ok(servers)
    }

    /// Starts some daemons at once, and watches them from when all are ready.
    async fn start_all(&mut self, world: &World, daemons: Vec<config::Daemon>) -> Result<(), Failure> {
        let started = self.started(world, daemons).await?;
        started.into_iter().for_each(|started| self.daemons.watch(started));
        Ok(())
    }

    /// Some daemons, once all are ready.
    async fn started(&self, world: &World, daemons: Vec<config::Daemon>) -> Result<Vec<Started>, Failure> {
        let (paths, binaries) = (&self.paths, &self.job.binaries);
        let start = |daemon: config::Daemon| async move {
            let space = world.space(&daemon.node)?;
            daemons::start(daemon, binaries, space, &paths.daemons, &paths.logs).await
        };
        try_join_all(daemons.into_iter().map(start)).await
    }

    async fn servers(&self, world: &World) -> Result<Prepared, Failure> {
        let job = self.job;
        let shared = Shared::default();
        let prepare = |(index, one): (usize, &'_ _)| {
            let flow: &crate::scenario::model::Flow = one;
            let (from_name, to) = flow::ends(flow, &job.plan);
            let place = world.space(from_name).and_then(|from| {
                let address = |node: &str| job.plan.host(node).map(crate::plan::HostPlan::address);
                let peer = match &flow.kind {
                    // Without another server it is the node's own.
                    FlowKind::Dns { server: None, .. } => Some(STUB.into()),
                    _ => to.and_then(address),
                };
                let peer = peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                let is_terminal = job.plan.host(from_name).is_some_and(crate::plan::HostPlan::is_terminal);
                let towards = VIRTUAL.host(1).filter(|_| is_terminal).map_or(peer, IpAddr::V4);
                Ok(Place {
                    from: from.clone(),
                    to: to.map(|to| world.space(to).cloned()).transpose()?,
                    folder: self.paths.flows.clone(),
                    index,
                    port: flow::port(index),
                    peer,
                    towards,
                    limit: flow.duration,
                    shared: shared.clone(),
                    pages: Path::new(SOCKETS).join("pages"),
                })
            });
            let flow = flow.clone();
            async move {
                let place = place?;
                let server = flow::prepare(&flow, &place, job.scenario.seed).await?;
                Ok::<_, Failure>((place, server))
            }
        };
        try_join_all(job.scenario.flows.iter().enumerate().map(prepare)).await
    }

    /// From the first moment: every real interface of every host, and every router's outer side.
    async fn capture_links(&mut self, world: &World) -> Result<(), Failure> {
        if !self.job.scenario.captures {
            return Ok(());
        }
        for host in &self.job.plan.hosts {
            for interface in &host.interfaces {
                self.capture(world, &host.name, &interface.name, Framing::Ethernet).await?;
            }
        }
        for router in &self.job.plan.routers {
            self.capture(world, &router.name, config::OUTSIDE, Framing::Ethernet).await?;
        }
        Ok(())
    }

    /// What applications see: terminals' TUN devices, which their daemons have made by now.
    async fn capture_tuns(&mut self, world: &World) -> Result<(), Failure> {
        if !self.job.scenario.captures {
            return Ok(());
        }
        for host in self.job.plan.hosts.iter().filter(|host| matches!(host.role, Role::Terminal(_))) {
            self.capture(world, &host.name, TUN, Framing::Ip).await?;
        }
        Ok(())
    }

    async fn capture(
        &mut self,
        world: &World,
        node: &str,
        interface: &str,
        framing: Framing,
    ) -> Result<(), Failure> {
        if !self.captures {
            return Ok(());
        }
        let space = world.space(node)?;
        let index = space.net()?.index(interface).await?;
        let file = self.paths.captures.join(format!("{node}.{interface}.pcapng"));
        let point = space.within(|| Point::start(node, interface, index, framing, &file))?;
        self.points.push(point.map_err(Failure::during(format!("capturing {interface} of `{node}`")))?);
        Ok(())
    }

    /// Recordings, what they lack, and what went wrong.
    fn end_captures(&mut self) -> (crate::measure::Recordings, Vec<String>, Vec<String>) {
        let (mut recordings, mut lost, mut problems) = (BTreeMap::new(), Vec::new(), Vec::new());
        self.points.iter().for_each(Point::stop);
        for point in std::mem::take(&mut self.points) {
            let key = (point.node.clone(), point.interface.clone());
            let shown = format!("the capture at {} of `{}`", key.1, key.0);
            match point.end() {
                Ok(recording) => {
                    if recording.lost > 0 {
                        lost.push(format!("{shown} lost {} packets", recording.lost));
                    }
                    recordings.insert(key, recording);
                }
                Err(error) => problems.push(format!("{shown} broke off: {error}")),
            }
        }
        (recordings, lost, problems)
    }

    /// Lets flows and timeline run to their ends, or until something stops the run.
    async fn play(
        &mut self,
        world: &mut World,
        prepared: Prepared,
        record: &mut Record,
        interrupted: &mut Interrupts,
        progress: &Progress,
    ) -> Ending {
        let (scenario, plan) = (&self.job.scenario, &self.job.plan);
        let begin = tokio::time::Instant::now();
        record.start = clock::now().as_nanos();
        let limit = limit(scenario);
        let Record { handovers, flows, .. } = record;
        let results = std::cell::RefCell::new(flows);
        let (trace, results) = (&self.trace, &results);
        let (meter, folder) =
            (&self.daemons.meter(self.foreign.iter().filter_map(Process::pid)), &self.paths.flows);
        let clients = scenario.flows.iter().zip(prepared).map(|(flow, (place, server))| async move {
            tokio::time::sleep_until(begin + flow.start).await;
            let (node, id) = (flow::ends(flow, plan).0, flow.id.get_ref());
            trace.note(node, "flow-started", json!({ "flow": id }));
            let used = meter.seconds();
            let mut quantities = flow::run(flow, &place, server).await?;
            if let FlowKind::Iperf3 { reverse, .. } = &flow.kind {
                let used = used.zip(meter.seconds()).map(|(before, after)| after - before);
                let cost = flow::iperf3::Reports::load(id, folder, *reverse).cost(used);
                quantities.insert("cpu_s_per_gb".to_owned(), cost.map(Value::Number));
            }
            trace.note(node, "flow-ended", json!({ "flow": id }));
            results.borrow_mut().push((id.clone(), quantities));
            Ok::<(), Failure>(())
        });
        let flows = try_join_all(clients);
        let (orders, mut ordered) = mpsc::channel(1);
        let spaces = match spaces(world, plan) {
            Ok(spaces) => spaces,
            Err(failure) => return Ending::Broken(failure),
        };
        let actions = timeline::play(&scenario.actions, plan, world, trace, begin, &orders, handovers);
        let daemons = &mut self.daemons;
        let hands = Hands { configs: &self.configs, spaces: &spaces, job: self.job, paths: &self.paths };
        // Holds the daemons: does what the timeline orders, and hears of a death.
        let death = async {
            loop {
                tokio::select! {
                    death = daemons.death() => return death,
                    Some(order) = ordered.recv() => hands.obey(order, daemons).await,
                };
            }
        };
        let all = async { tokio::try_join!(flows, actions).map(|_| ()) };
        let shown = async {
            loop {
                tokio::time::sleep(SHOWN_EVERY).await;
                progress.move_to(begin.elapsed());
            }
        };
        tokio::select! {
            ended = all => match ended {
                Ok(()) => Ending::Complete,
                Err(failure) => Ending::Broken(failure),
            },
            death = death => Ending::Broken(Failure::error(death.message)),
            () = interrupted.next() => Ending::Interrupted,
            () = tokio::time::sleep(limit) => Ending::TimedOut(limit),
            () = shown => Ending::Complete,
        }
    }

    /// What nftables does in each router and relay: `rulesets/NODE.nft`. Where it does nothing, there is no file.
    async fn rule_sets(&self, world: &World) -> Result<(), Failure> {
        let folder = self.job.folder.join("rulesets");
        let relays = self.job.plan.hosts.iter().filter(|host| matches!(host.role, Role::Relay { .. }));
        let routers = self.job.plan.routers.iter().map(|router| router.name.as_str());
        for node in relays.map(|host| host.name.as_str()).chain(routers) {
            let listed = world.space(node)?.output(Space::command("nft").args(["list", "ruleset"])).await;
            if let Ok(listed) = listed
                && !listed.stdout.is_empty()
            {
                let file = folder.join(format!("{node}.nft"));
                fs::create_dir_all(&folder)
                    .and_then(|()| fs::write(&file, listed.stdout))
                    .map_err(Failure::during(file.display()))?;
            }
        }
        Ok(())
    }

    /// What every daemon says of itself, and of routers what was found out before the run.
    async fn status(&self, probes: &Probes) -> Json {
        let asked = self.daemons.nodes().into_iter().map(|node| async move {
            let answer = control::ask(&self.paths.daemons.control_of(&node), "status").await;
            let mut status = answer.unwrap_or_else(|error| json!({ "error": error }));
            if let (Some(probed), Some(status)) = (probes.get(&node), status.as_object_mut()) {
                status.insert("probed".to_owned(), json!(probed));
            }
            (node, status)
        });
        Json::Object(join_all(asked).await.into_iter().collect())
    }
}

/// Each host's place, by name.
pub(crate) type Spaces = BTreeMap<String, Arc<Space>>;

/// The places of a world's hosts.
pub(crate) fn spaces(world: &World, plan: &Plan) -> Result<Spaces, Failure> {
    plan.hosts.iter().map(|host| Ok((host.name.clone(), world.space(&host.name)?.clone()))).collect()
}

/// What it takes to do something to a daemon during a run.
pub(crate) struct Hands<'a> {
    pub(crate) configs: &'a BTreeMap<String, config::Daemon>,
    pub(crate) spaces: &'a Spaces,
    pub(crate) job: &'a Job,
    pub(crate) paths: &'a Paths,
}

impl Hands<'_> {
    /// Does what the timeline orders, and says so.
    pub(crate) async fn obey(&self, order: Order, daemons: &mut Daemons) {
        let Order { node, kind, done } = order;
        let result = match (kind, self.configs.get(&node), self.spaces.get(&node)) {
            (OrderKind::Kill, ..) => daemons.kill(&node).await,
            (OrderKind::Start, Some(config), Some(space)) => {
                let (binaries, paths) = (&self.job.binaries, self.paths);
                let start = daemons::start(config.clone(), binaries, space, &paths.daemons, &paths.logs);
                start.await.map(|started| daemons.watch(started))
            }
            (OrderKind::Start, ..) => Err(Failure::error(format!("`{node}` has no daemon"))),
        };
        // Who ordered it is gone when the run ends.
        let _ = done.send(result);
    }
}

/// Writes a file that its owner alone can read.
fn secret(file: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

/// Fresh keys from the kernel for every pair that shares one.
fn keys(plan: &Plan) -> Result<Vec<SharedKey>, Failure> {
    let mut source = fs::File::open("/dev/urandom").map_err(Failure::during("/dev/urandom"))?;
    let made: io::Result<Vec<SharedKey>> = config::pairs(plan)
        .into_iter()
        .map(|(left, right)| {
            let mut key = [0; 32];
            source.read_exact(&mut key)?;
            Ok(SharedKey { left, right, key })
        })
        .collect();
    made.map_err(Failure::during("/dev/urandom"))
}

/// The packets of a recording, or none.
pub(super) fn recording<'a>(
    recordings: &'a crate::measure::Recordings,
    node: &str,
    interface: &str,
) -> Option<&'a capture::Recording> {
    recordings.get(&(node.to_owned(), interface.to_owned()))
}

/// Quantities of a flow under their full names.
pub(super) fn named(id: &str, quantities: Quantities) -> Quantities {
    quantities.into_iter().map(|(name, value)| (format!("flow.{id}.{name}"), value)).collect()
}
