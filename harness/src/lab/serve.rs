//! The lab inside its world: everything is started as in a run, and then it does what it is asked, until it is told to end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use futures::stream::FuturesUnordered;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, Notify, mpsc};

use super::entry;
use super::keeper::LOG;
use super::measured;
use super::show;
use super::talk::{About, Daemon, Done, Moved, NAMESPACES, Request, Status};
use crate::daemons::{END_SOON, control};
use crate::exit::{Exit, Failure};
use crate::plan::config::{Daemon as Configured, Folders};
use crate::progress::Progress;
use crate::report::topology::Topology;
use crate::run::Job;
use crate::run::result::Record;
use crate::run::session::{Hands, Interrupts, Lab as Session, Prepared, spaces};
use crate::scenario::model::ActionKind;
use crate::timeline::{self, Addresses, Handover, Order};
use crate::trace::Trace;
use crate::world::build::World;
use crate::world::space::Space;
use crate::{clock, doctor, flow};

/// A request is no longer than this.
const LONGEST: u64 = 1 << 16;
/// A terminal that has not registered by then is shown without its virtual address.
const REGISTER_WITHIN: Duration = Duration::from_secs(2);
/// How often a daemon's answer is looked at that is not there yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a lab is made from.
pub(super) struct Setup<'a> {
    /// The world; and with `play` what happens in it.
    pub(super) job: &'a Job,
    /// The lab's name.
    pub(super) name: &'a str,
    /// The world as text, to check what shall happen.
    pub(super) world: &'a entry::World,
    /// Whether flows and timeline run once.
    pub(super) play: bool,
    /// Where requests come to.
    pub(super) listener: UnixListener,
    /// Gets [`About`] as a line of JSON once all is ready; afterwards this process's own messages go to the lab's log.
    pub(super) ready: File,
    /// Its end ends the lab, as long as it is not ready.
    pub(super) lifeline: OwnedFd,
}

/// Everything after the world was entered; returns the exit code.
pub(super) fn inside(setup: Setup<'_>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(Failure::during("no asynchronous runtime"))
        .and_then(|runtime| runtime.block_on(lab(setup)));
    match ended {
        Ok(exit) => exit as u8,
        Err(failure) => {
            // Nobody may read it any more.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            failure.exit as u8
        }
    }
}

async fn lab(setup: Setup<'_>) -> Result<Exit, Failure> {
    let Setup { job, name, world: text, play, listener, ready, lifeline } = setup;
    doctor::require_kernel(&job.plan)?;
    let mut interrupts = Interrupts::listen()?;
    let no_listener = |error| Failure::during("the lab's socket")(error);
    listener.set_nonblocking(true).map_err(no_listener)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(no_listener)?;
    let mut session = Session::new(job, false)?;
    let stopped = async {
        tokio::select! {
            () = interrupts.next() => {}
            () = end_of(lifeline) => {}
        }
    };
    let (world, flows) = tokio::select! {
        built = set_up(job, &mut session) => built?,
        () = stopped => return Ok(Exit::Interrupted),
    };
    let mut daemons = std::mem::take(&mut session.daemons);
    let (orders, mut ordered) = mpsc::channel(1);
    let hosts = spaces(&world, &job.plan)?;
    let routers =
        job.plan.routers.iter().map(|router| Ok((router.name.clone(), world.space(&router.name)?.clone())));
    let mut places = routers.collect::<Result<BTreeMap<_, _>, Failure>>()?;
    places.extend(hosts.iter().map(|(name, space)| (name.clone(), space.clone())));
    let up = job.plan.hosts.iter().map(|host| {
        let up = host.interfaces.iter().filter(|interface| interface.up);
        (host.name.clone(), up.map(|interface| interface.name.clone()).collect())
    });
    let lab = Lab {
        job,
        name,
        text,
        places,
        folders: &session.paths.daemons,
        configs: &session.configs,
        trace: session.trace.clone(),
        stage: Mutex::new(Stage { world, addresses: Addresses::default(), up: up.collect() }),
        dead: RefCell::default(),
        orders,
        began: tokio::time::Instant::now(),
        ended: Notify::new(),
    };
    lab.registered().await;
    tell(job, ready, &lab.about().await)?;

    // Holds the daemons, as in a run; but a lab outlives them.
    let hands = Hands { configs: &session.configs, spaces: &hosts, job, paths: &session.paths };
    let hold = async {
        loop {
            tokio::select! {
                death = daemons.death() => {
                    daemons.forget(&death.node);
                    let why = death.message.lines().next().unwrap_or_default().to_owned();
                    let _ = writeln!(std::io::stderr(), "{}", death.message);
                    lab.dead.borrow_mut().insert(death.node, why);
                }
                Some(order) = ordered.recv() => hands.obey(order, &mut daemons).await,
            }
        }
    };
    let played = async {
        if play && let Err(failure) = lab.play(flows).await {
            let _ = writeln!(std::io::stderr(), "error: {failure}");
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = hold => {}
        () = played => {}
        () = lab.listen(&listener) => {}
        () = lab.ended.notified() => {}
        () = interrupts.next() => {}
    }
    drop(lab);
    for complaint in daemons.end(END_SOON).await {
        let _ = writeln!(std::io::stderr(), "{complaint}");
    }
    Ok(Exit::Held)
}

/// Builds the world and starts everything in it.
async fn set_up(job: &Job, session: &mut Session<'_>) -> Result<(World, Prepared), Failure> {
    // Any link may be changed by hand.
    let links = job.scenario.links.keys().cloned().collect();
    let world = World::build(&job.plan, &job.scenario, links).await?;
    let progress = Progress::new(job.started, job.quiet);
    progress.say("the world is built");
    let flows = session.set_up(&world, &mut Record::default()).await?;
    progress.say("all daemons are ready");
    progress.end();
    Ok((world, flows))
}

/// Returns when nobody holds the other end any more.
async fn end_of(lifeline: OwnedFd) {
    if let Ok(mut lifeline) = pipe::Receiver::from_owned_fd(lifeline) {
        let _ = lifeline.read(&mut [0]).await;
    }
}

/// Says that the lab is ready, after which who started it may be gone, and with it the terminal.
fn tell(job: &Job, mut ready: File, about: &About) -> Result<(), Failure> {
    let log = job.folder.join(LOG);
    let file =
        OpenOptions::new().create(true).append(true).open(&log).map_err(Failure::during(log.display()))?;
    nix::unistd::dup2_stderr(&file).map_err(Failure::during(log.display()))?;
    let text = serde_json::to_string(about).map_err(Failure::during("what was built"))?;
    // Who does not listen any more has its lab all the same.
    let _ = ready.write_all((text + "\n").as_bytes());
    Ok(())
}

/// What changes when something happens.
struct Stage {
    world: World,
    addresses: Addresses,
    /// Interfaces that are up, by host, in the order in which they came up: the last is preferred.
    up: BTreeMap<String, Vec<String>>,
}

struct Lab<'a> {
    job: &'a Job,
    name: &'a str,
    text: &'a entry::World,
    /// Of hosts and routers.
    places: BTreeMap<String, Arc<Space>>,
    folders: &'a Folders,
    configs: &'a BTreeMap<String, Configured>,
    trace: Trace,
    stage: Mutex<Stage>,
    /// Nodes whose daemon does not run, and why.
    dead: RefCell<BTreeMap<String, String>>,
    orders: mpsc::Sender<Order>,
    began: tokio::time::Instant,
    ended: Notify,
}

impl Lab<'_> {
    async fn listen(&self, listener: &tokio::net::UnixListener) {
        let mut talks = FuturesUnordered::new();
        loop {
            tokio::select! {
                // One that cannot be taken is told by its end.
                Ok((stream, _)) = listener.accept() => talks.push(self.talk(stream)),
                Some(()) = talks.next() => {}
            }
        }
    }

    /// Answers one connection's requests, in their order.
    async fn talk(&self, mut stream: UnixStream) {
        let (read, mut write) = stream.split();
        let mut read = BufReader::new(read.take(LONGEST));
        let mut line = String::new();
        while read.read_line(&mut line).await.is_ok_and(|count| count > 0) {
            let answered = match serde_json::from_str(&line) {
                Ok(request) => self.answer(request).await,
                Err(error) => Err(Failure::usage(format!("no request: {error}"))),
            };
            let (answer, descriptors) = match answered {
                Ok((answer, descriptors)) => (json!({ "ok": answer }), descriptors),
                Err(failure) => (json!({ "error": failure.message }), Vec::new()),
            };
            let text = format!("{answer}\n");
            let sent = if descriptors.is_empty() {
                write.write_all(text.as_bytes()).await
            } else {
                let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
                let stream: &UnixStream = write.as_ref();
                let send = || {
                    let (part, rights) = ([IoSlice::new(text.as_bytes())], [ControlMessage::ScmRights(&raw)]);
                    let sent =
                        sendmsg::<()>(stream.as_raw_fd(), &part, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
                    if sent == text.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
                };
                stream.async_io(Interest::WRITABLE, send).await
            };
            if sent.is_err() {
                return;
            }
            line.clear();
            read.get_mut().set_limit(LONGEST);
        }
    }

    /// The answer, and file descriptors that go with it.
    async fn answer(&self, request: Request) -> Result<(Json, Vec<File>), Failure> {
        let alone = |answer: Json| Ok((answer, Vec::new()));
        match request {
            Request::About => alone(json!(self.about().await)),
            Request::Status => alone(json!(self.status().await)),
            Request::Enter { node } => Ok((json!({}), self.namespaces(&node)?)),
            Request::Act { entry } => {
                let action = self.checked(&entry)?;
                self.act(&action).await?;
                alone(json!(Done { t: clock::now().as_nanos() }))
            }
            Request::Handover { node, to, gap, overlap } => {
                alone(json!(self.handover(&node, &to, gap, overlap).await?))
            }
            Request::Down => {
                self.ended.notify_one();
                alone(json!({}))
            }
        }
    }

    fn namespaces(&self, node: &str) -> Result<Vec<File>, Failure> {
        let space = self.places.get(node).ok_or_else(|| {
            Failure::usage(show::unknown("node or router", node, self.places.keys().map(String::as_str)))
        })?;
        let files = NAMESPACES.map(|name| match name {
            "mnt" => space.mounts().try_clone(),
            "net" => space.network().try_clone(),
            name => File::open(format!("/proc/self/ns/{name}")),
        });
        files
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(Failure::during(format!("the namespaces of `{node}`")))
    }

    fn checked(&self, entry: &str) -> Result<ActionKind, Failure> {
        let dead: BTreeSet<String> = self.dead.borrow().keys().cloned().collect();
        self.text.action(entry, &dead).map_err(Failure::usage)
    }

    /// Does it, if the lab is as it needs.
    async fn act(&self, action: &ActionKind) -> Result<Option<Handover>, Failure> {
        let mut stage = self.stage.lock().await;
        let Stage { world, addresses, up } = &mut *stage;
        entry::fits(action, up).map_err(Failure::usage)?;
        let done = timeline::act(action, &self.job.plan, addresses, world, &self.trace, &self.orders).await?;
        entry::happened(action, up);
        match action {
            ActionKind::Kill { node } => {
                self.dead.borrow_mut().insert(node.get_ref().clone(), "it was killed".to_owned());
            }
            ActionKind::Start { node } => {
                self.dead.borrow_mut().remove(node.get_ref());
            }
            _ => {}
        }
        Ok(done)
    }

    async fn handover(
        &self,
        node: &str,
        to: &str,
        gap: Option<String>,
        overlap: Option<String>,
    ) -> Result<Moved, Failure> {
        let from = self.stage.lock().await.up.get(node).and_then(|up| up.last().cloned());
        // Of an unknown node and of one without a network the check says more.
        let entry =
            entry::handover(node, from.as_deref().unwrap_or(to), to, gap.as_deref(), overlap.as_deref());
        let action = self.checked(&entry)?;
        let place = self.places.get(node).ok_or_else(|| Failure::error(format!("`{node}` has no place")))?;
        let is_terminal = self.job.plan.host(node).is_some_and(crate::plan::HostPlan::is_terminal);
        let before = if is_terminal { self.said(node).await } else { Json::Null };
        let watch = measured::Watch::start(place)?;
        let mark = measured::Mark::of(&self.folders.trace_of(node));
        let Some(done) = self.act(&action).await? else {
            return Err(Failure::error("a handover that was none"));
        };
        let has_paths = before["paths"].as_array().is_some_and(|paths| !paths.is_empty());
        let told = measured::follow(&done, &watch, &mark, &self.trace, is_terminal, has_paths).await;
        let paths = if is_terminal { self.said(node).await["paths"].take() } else { Json::Null };
        Ok(Moved { paths, ..told })
    }

    /// Flows and timeline of the scenario, once.
    async fn play(&self, prepared: Prepared) -> Result<(), Failure> {
        let begin = tokio::time::Instant::now();
        let flows = self.job.scenario.flows.iter().zip(prepared).map(|(flow, (place, server))| async move {
            tokio::time::sleep_until(begin + flow.start).await;
            let (node, id) = (flow::ends(flow, &self.job.plan).0, flow.id.get_ref());
            self.trace.note(node, "flow-started", json!({ "flow": id }));
            flow::run(flow, &place, server).await?;
            self.trace.note(node, "flow-ended", json!({ "flow": id }));
            Ok::<(), Failure>(())
        });
        let actions = async {
            for action in &self.job.scenario.actions {
                tokio::time::sleep_until(begin + action.time).await;
                self.act(&action.kind).await?;
            }
            Ok(())
        };
        tokio::try_join!(try_join_all(flows), actions).map(|_| ())
    }

    /// Waits until all terminals have registered, if they do so soon.
    async fn registered(&self) {
        let terminals = self.job.plan.hosts.iter().filter(|host| host.is_terminal());
        let each = terminals.map(|host| async {
            while self.said(&host.name).await["registered"] != true {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        // Else its status says that it has not.
        let _ = tokio::time::timeout(REGISTER_WITHIN, join_all(each)).await;
    }

    /// What the daemon of `node` says of itself.
    async fn said(&self, node: &str) -> Json {
        let answer = control::ask(&self.folders.control_of(node), "status").await;
        answer.unwrap_or_else(|error| json!({ "error": error }))
    }

    async fn about(&self) -> About {
        let (job, scenario) = (self.job, &self.job.scenario);
        let terminals = job.plan.hosts.iter().filter(|host| host.is_terminal());
        let said = join_all(terminals.map(|host| self.said(&host.name))).await;
        About {
            lab: self.name.to_owned(),
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            topology: Topology::of(&job.plan),
            links: scenario.links.iter().map(|(name, link)| (name.clone(), show::link(link))).collect(),
            virtual_names: said
                .iter()
                .flat_map(virtual_names)
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            folder: job.folder.clone(),
        }
    }

    async fn status(&self) -> Status {
        let dead = self.dead.borrow().clone();
        let living = self.configs.keys().filter(|node| !dead.contains_key(*node));
        let said = join_all(living.map(|node| async { (node.clone(), self.said(node).await) })).await;
        let daemons = self.configs.iter().map(|(node, daemon)| {
            (node.clone(), Daemon { program: daemon.program.to_owned(), dead: dead.get(node).cloned() })
        });
        Status {
            about: self.about().await,
            seconds: self.began.elapsed().as_secs_f64(),
            daemons: daemons.collect(),
            // While something happens it may take its time.
            up: self.stage.lock().await.up.clone(),
            said: Json::Object(said.into_iter().collect()),
        }
    }
}

/// Virtual addresses with their names, as far as a terminal knows them.
fn virtual_names(said: &Json) -> Vec<(IpAddr, String)> {
    let own = (said["vip"].as_str(), said["fqdn"].as_str());
    let paths = said["paths"].as_array().into_iter().flatten();
    let peers = paths.map(|path| (path["peer_vip"].as_str(), path["peer"].as_str()));
    let known = [own].into_iter().chain(peers);
    known.filter_map(|(vip, name)| Some((vip?.parse().ok()?, name?.to_owned()))).collect()
}
