//! Starts a lab in the background, and is the process that keeps it there.
//!
//! `up` starts the harness again in a session of its own ([`keep`]), which enters a world as a run does. Until the lab is ready it
//! writes to the terminal and dies with who started it; then it says so by a line on its standard output, and goes on alone.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::serve::{self, Setup};
use super::talk::{About, Request, Talk};
use super::{entry, find, show};
use crate::engine::{Engine, Engines};
use crate::exit::{Exit, Failure};
use crate::run::{self, Job, Print};
use crate::scenario::{self, find as files};
use crate::{doctor, state, world};

/// In a lab's folder: what the background process has to say.
pub const LOG: &str = "lab.log";
/// A lab that is told to end has ended by then, or is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What `up` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario: a path, or a name in `scenarios/`.
    pub file: PathBuf,
    /// The lab's name; the scenario's unless given.
    pub lab: Option<String>,
    /// Whether flows and timeline run once.
    pub play: bool,
    /// As of a run.
    pub out: Option<PathBuf>,
    /// As of a run.
    pub binaries: Option<PathBuf>,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// Starts a lab, and returns what was built once all is ready; else its exit code, when it has said why.
pub fn up(options: &Options) -> Result<Result<About, Exit>, Failure> {
    let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
    let mut command = Command::new(own);
    command.arg("up").arg("--keep").arg(&options.file);
    for (name, value) in [("--out", &options.out), ("--bin", &options.binaries)] {
        command.args(value.iter().flat_map(|value| [name.as_ref(), value.as_os_str()]));
    }
    command.args(options.lab.iter().flat_map(|name| ["--lab", name.as_str()]));
    command.args(options.play.then_some("--play")).args(options.quiet.then_some("--quiet"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: one system call, and nothing allocated, as is needed between fork and exec.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(Into::into));
    }
    let mut keeper: Child =
        command.spawn().map_err(Failure::during("the lab's process cannot be started"))?;
    let mut line = String::new();
    if let Some(out) = keeper.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(Failure::during("the lab's process"))?;
    }
    if line.is_empty() {
        let status = keeper.wait().map_err(Failure::during("the lab's process"))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(Err(code.map_or(Exit::Error, Exit::of)));
    }
    serde_json::from_str(&line).map(Ok).map_err(Failure::during("what was built"))
}

/// The background process: keeps a lab until it is told to end, and removes what it made.
pub fn keep(options: &Options, started: ntm_protocol::time::Instant) -> Result<Exit, Failure> {
    let source = files::open(&options.file).map_err(Failure::usage)?;
    let mut scenario = scenario::check(&source).map_err(Failure::usage)?;
    let plan = run::fit(&source, &scenario, Engines::Emulation)?;
    let world = entry::World::of(&source.text).map_err(Failure::usage)?;
    if !options.play {
        scenario.flows.clear();
        scenario.actions.clear();
    }
    doctor::require(&scenario, &plan)?;
    world::enter::hold_signals()?;
    let binaries = run::binaries(options.binaries.as_deref())?;
    let name = options.lab.clone().unwrap_or_else(|| scenario.name.clone());
    let stem = format!("{name}-lab");
    let folders = run::folders(options.out.as_deref(), &stem)?;
    let mut current = state::Current::begin_lab(&name, folders)?;
    let folder = current.run().to_owned();
    let kept =
        fs::write(folder.join("scenario.toml"), &source.text).map_err(Failure::during(folder.display()));
    let (engine, print, quiet) = (Engine::Emulation, Print::Nothing, options.quiet);
    let job = Job { scenario, plan, folder, binaries, engine, started, key_log: true, print, quiet };
    let ended = kept.and_then(|()| {
        let socket = current.socket();
        let bind = || UnixListener::bind(super::short(&socket)?.1);
        let listener = bind().map_err(Failure::during(socket.display()))?;
        let no_pipe = Failure::during::<std::io::Error>("the pipes to who started the lab");
        let ends = (|| {
            let lifeline = std::io::stdin().as_fd().try_clone_to_owned()?;
            Ok((File::from(std::io::stdout().as_fd().try_clone_to_owned()?), lifeline))
        })();
        let (ready, lifeline) = ends.map_err(no_pipe)?;
        let setup =
            Setup { job: &job, name: &name, world: &world, play: options.play, listener, ready, lifeline };
        let log = job.folder.join(LOG);
        let told = |child: nix::unistd::Pid| {
            current.world(child.as_raw())?;
            // What this process has to say from now on, it says when nobody watches.
            let file = OpenOptions::new().create(true).append(true).open(&log);
            let file = file.map_err(Failure::during(log.display()))?;
            nix::unistd::dup2_stderr(&file).map_err(Failure::during(log.display()))?;
            nix::unistd::dup2_stdout(&file).map_err(Failure::during(log.display()))
        };
        world::enter::world(told, || serve::inside(setup)).map(Exit::of)
    });
    // What is wanted of it is taken before: nothing of a lab stays.
    current.discard()?;
    ended
}

/// Ends the lab called `name`, the only one, or all, and what killed ones have left; says which.
pub fn down(name: Option<&str>, all: bool) -> Result<Vec<String>, Failure> {
    let folder = state::folder()?;
    let cleaned = state::clean(&folder)?;
    let labs = match (all, find(name)) {
        (true, _) => state::labs(&folder),
        (false, Ok(lab)) => vec![lab],
        // It was killed, and is gone by now.
        (false, Err(_)) if name.is_none() && !cleaned.removed.is_empty() => Vec::new(),
        (false, Err(failure)) => return Err(failure),
    };
    let mut ended: Vec<String> = cleaned
        .removed
        .iter()
        .map(|left| format!("removed {}, which a killed one left", left.display()))
        .collect();
    for lab in labs {
        let asked = Talk::to(&lab).and_then(|mut talk| {
            talk.ask::<serde_json::Value>(&Request::Down)?;
            talk.wait_for_end();
            Ok(())
        });
        // One that does not hear is ended all the same.
        let deadline = Instant::now() + if asked.is_ok() { END_WITHIN } else { Duration::ZERO };
        while lab.keeper.lives() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        if lab.keeper.lives() {
            lab.keeper.kill();
            while lab.keeper.lives() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        state::clean(&folder)?;
        ended.push(format!("the lab {} is down", lab.name));
    }
    Ok(ended)
}

/// What to type next in a lab.
pub fn hints(about: &About) -> String {
    show::hints(about, &std::env::var("NTM_CALLED_AS").unwrap_or_else(|_| "harness".to_owned()))
}
