//! The cells of a matrix, each run and what came of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::clock;
use crate::disturbance::again::undisturbed;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::judge::verdict::Judged;
use crate::plan::Plan;
use crate::run::compare::Comparison;
use crate::run::{Job, Print, both, result};
use crate::scenario::matrix::{Cell, Matrix};
use crate::scenario::model::Scenario;
use crate::scenario::source::Source;
use crate::simulation;

/// A cell that can be run.
pub struct Prepared {
    /// Which it is.
    pub cell: Cell,
    /// Which round of it, from 1, if it is run in rounds.
    pub round: Option<u64>,
    /// Its file.
    pub source: Source,
    /// What the file says.
    pub scenario: Scenario,
    /// Its world.
    pub plan: Plan,
}

impl Prepared {
    /// Names it, the same every time: the cell, and the round behind it.
    pub fn name(&self) -> String {
        match self.round {
            Some(round) => format!("{} {round}", self.cell.id),
            None => self.cell.id.clone(),
        }
    }
}

/// What came of a cell in one world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `held`, `failed`, …, as in a run's report.
    pub verdict: String,
    /// The exit code of its run.
    pub exit: u8,
    /// The quantity that is shown; nothing where it was not measured.
    pub shown: Option<Json>,
    /// Each expectation of its file.
    #[serde(default)]
    pub expectations: Vec<Judged>,
    /// Whether the machine disturbed it.
    #[serde(default)]
    pub disturbed: bool,
    /// The sentences of the expectations that did not hold, with what was found, and what else went wrong.
    pub failed: Vec<String>,
    /// Everything measured.
    pub quantities: BTreeMap<String, Json>,
    /// What differs from what the cell's run in the simulator came to, where both were to be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comparison: Option<Comparison>,
}

impl Outcome {
    /// Whether it says nothing, because the machine disturbed it.
    fn is_unsure(&self) -> bool {
        let unsure = Some(Exit::Inconclusive);
        Exit::of(self.exit) == Exit::Inconclusive
            || self.comparison.as_ref().and_then(Comparison::exit) == unsure
    }
}

/// The outcomes so far, by cell and world.
pub type Done = BTreeMap<(usize, Engine), Outcome>;

/// All cells, and where they are run.
pub struct Bench {
    /// The axes.
    pub matrix: Matrix,
    /// Every cell, in its place: round by round, if it has rounds.
    pub cells: Vec<Prepared>,
    /// The order in which they are run: each place once.
    pub order: Vec<usize>,
    /// The matrix's folder.
    pub folder: PathBuf,
    /// Where the daemons' binaries are, if not beside the harness.
    pub binaries: Option<PathBuf>,
    /// Whether each cell is compared in both worlds: it is simulated first.
    pub compares: bool,
}

impl Bench {
    /// A folder for each cell, with its file in it.
    pub fn lay_out(&self) -> Result<(), Failure> {
        for prepared in self.order.iter().filter_map(|at| self.cells.get(*at)) {
            let folder = self.folder_of(prepared);
            let file = folder.join("scenario.toml");
            fs::create_dir_all(&folder)
                .and_then(|()| fs::write(&file, &prepared.source.text))
                .map_err(Failure::during(folder.display()))?;
        }
        Ok(())
    }

    fn folder_of(&self, prepared: &Prepared) -> PathBuf {
        let cell = self.folder.join("cells").join(&prepared.cell.id);
        prepared.round.map_or(cell.clone(), |round| cell.join(round.to_string()))
    }

    /// Runs every cell that has no outcome yet in `engine`, `jobs` at a time, until all are done or `stop` is set. `progress` hears of each
    /// how many are done, its name and what came of it.
    pub fn run(
        &self,
        engine: Engine,
        jobs: usize,
        stop: &Stop,
        done: &mut Done,
        progress: impl Fn(usize, &str, &str),
    ) -> Result<(), Failure> {
        let (next, (sender, receiver)) = (AtomicUsize::new(0), mpsc::channel());
        thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, self.cells.len().max(1)) {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || {
                    while !stop.is_set() {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(at) = self.order.get(at).copied() else { return };
                        let Some(prepared) = self.cells.get(at) else { return };
                        // Nobody listens any more once a cell could not be run.
                        if sender.send((at, self.run_or_read(prepared, engine, stop))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (finished, (at, outcome)) in receiver.iter().enumerate() {
                let outcome = match outcome {
                    Ok(outcome) => outcome,
                    Err(failure) => {
                        stop.set();
                        return Err(failure);
                    }
                };
                // What was interrupted says nothing.
                if outcome.exit == Exit::Interrupted as u8 {
                    stop.set();
                    continue;
                }
                let shown = outcome.shown.as_ref().map_or("nothing measured".to_owned(), plain);
                progress(finished + 1, &self.cells[at].name(), &format!("{shown} ({})", outcome.verdict));
                done.insert((at, engine), outcome);
            }
            Ok(())
        })
    }

    /// Where what came of a cell is kept.
    pub(super) fn outcome_file(&self, prepared: &Prepared, engine: Engine) -> PathBuf {
        self.folder_of(prepared).join(format!("{}.json", engine.word()))
    }

    /// What came of a cell, if the folder has it: whole, for what was being written when the harness was killed is none.
    pub(super) fn kept(&self, prepared: &Prepared, engine: Engine) -> Option<Outcome> {
        serde_json::from_str(&fs::read_to_string(self.outcome_file(prepared, engine)).ok()?).ok()
    }

    /// The outcome that the folder has, else that of a run, which is kept there.
    fn run_or_read(&self, prepared: &Prepared, engine: Engine, stop: &Stop) -> Result<Outcome, Failure> {
        let file = self.outcome_file(prepared, engine);
        if let Some(outcome) = self.kept(prepared, engine) {
            return Ok(outcome);
        }
        let outcome = match engine {
            Engine::Emulation if prepared.round.is_some() => {
                undisturbed(|| self.emulate(prepared, stop), Outcome::is_unsure, || stop.is_set())?
            }
            Engine::Emulation if self.compares => {
                undisturbed(|| self.compared(prepared, stop), Outcome::is_unsure, || stop.is_set())?
            }
            Engine::Emulation => self.emulate(prepared, stop)?,
            Engine::Simulation => self.simulate(prepared)?,
        };
        if outcome.exit != Exit::Interrupted as u8 {
            let text = serde_json::to_string_pretty(&outcome).map_err(Failure::during(file.display()))?;
            fs::write(&file, text + "\n").map_err(Failure::during(file.display()))?;
        }
        Ok(outcome)
    }

    fn simulate(&self, prepared: &Prepared) -> Result<Outcome, Failure> {
        let (scenario, plan) = (prepared.scenario.clone(), prepared.plan.clone());
        let folder = self.folder_of(prepared).join(Engine::Simulation.word());
        let (binaries, started) = (PathBuf::new(), clock::now());
        let (engine, print, quiet) = (Engine::Simulation, Print::Nothing, true);
        let job = Job { scenario, plan, folder, binaries, engine, started, key_log: false, print, quiet };
        let (record, ending) = match simulation::run(&job.scenario, &job.plan) {
            Ok(run) => run,
            Err(failure) => return Ok(broken(failure.exit as u8, failure.message)),
        };
        let (exit, report) = if self.compares {
            fresh(&job.folder)?;
            fs::create_dir(&job.folder).map_err(Failure::during(job.folder.display()))?;
            let exit = result::conclude(&job, &record, ending, &[])?;
            (exit, read(&job.folder.join("report.json")).unwrap_or_default())
        } else {
            let (report, exit) = result::report(&job, &record, ending);
            (exit, serde_json::to_value(&report).unwrap_or_default())
        };
        Ok(self.outcome(exit as u8, &report))
    }

    /// Emulates a cell that was simulated, and compares the two.
    fn compared(&self, prepared: &Prepared, stop: &Stop) -> Result<Outcome, Failure> {
        let mut outcome = self.emulate(prepared, stop)?;
        let [emulated, simulated] = [Engine::Emulation, Engine::Simulation]
            .map(|engine| self.folder_of(prepared).join(engine.word()));
        // One that came to no end has nothing to compare.
        if [&emulated, &simulated].iter().all(|folder| folder.join("report.json").exists()) {
            outcome.comparison = Some(both::compare([&emulated, &simulated], &prepared.scenario)?);
        }
        Ok(outcome)
    }

    /// A harness of its own for the cell: its world is entered by a process with one thread.
    fn emulate(&self, prepared: &Prepared, stop: &Stop) -> Result<Outcome, Failure> {
        let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
        let cell = self.folder_of(prepared);
        let folder = cell.join(Engine::Emulation.word());
        fresh(&folder)?;
        let mut command = Command::new(own);
        command.arg("run").arg(cell.join("scenario.toml")).arg("--folder").arg(&folder);
        command.args(["--quiet", "--format", "json"]);
        if let Some(binaries) = &self.binaries {
            command.arg("--bin").arg(binaries);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = stop.spawn(&mut command)?;
        let Some(child) = child else { return Ok(broken(Exit::Interrupted as u8, String::new())) };
        let pid = child.id();
        let output = child.wait_with_output();
        stop.ended(pid);
        let output = output.map_err(Failure::during("waiting for a cell"))?;
        if stop.is_set() && output.status.code().is_none() {
            return Ok(broken(Exit::Interrupted as u8, String::new()));
        }
        let exit = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Error as u8);
        match read(&folder.join("report.json")) {
            Some(report) => Ok(self.outcome(exit, &report)),
            None => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                if exit == Exit::Unable as u8 {
                    return Err(Failure::unable(said));
                }
                Ok(broken(exit, said))
            }
        }
    }

    fn outcome(&self, exit: u8, report: &Json) -> Outcome {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
        let expectations: Vec<Judged> =
            serde_json::from_value(report["expectations"].clone()).unwrap_or_default();
        let failed = expectations.iter().filter(|judged| !judged.held);
        let failed = failed.map(|judged| {
            let why = judged.found.iter().chain(&judged.disturbed).cloned().collect::<Vec<_>>();
            format!("{}: {}", judged.fail, why.join("; "))
        });
        let problems = list(&report["problems"]).into_iter().map(|problem| text(&problem));
        let failed = failed.chain(problems).collect();
        let quantities: BTreeMap<String, Json> =
            report["quantities"].as_object().cloned().unwrap_or_default().into_iter().collect();
        let shown = self.matrix.show.first().and_then(|show| quantities.get(show.get_ref()).cloned());
        let disturbed = !list(&report["disturbances"]).is_empty();
        let verdict = text(&report["verdict"]);
        let comparison = None;
        Outcome { verdict, exit, shown, expectations, disturbed, failed, quantities, comparison }
    }
}

/// A cell that came to no verdict.
fn broken(exit: u8, message: String) -> Outcome {
    let (verdict, expectations, quantities) = ("error".to_owned(), Vec::new(), BTreeMap::new());
    let (shown, disturbed, failed, comparison) = (None, false, vec![message], None);
    Outcome { verdict, exit, shown, expectations, disturbed, failed, quantities, comparison }
}

/// Makes room for a run: what an interrupted matrix left there is no outcome.
fn fresh(folder: &Path) -> Result<(), Failure> {
    let there = folder.exists().then(|| fs::remove_dir_all(folder)).transpose();
    there.map(drop).map_err(Failure::during(folder.display()))
}

fn read(file: &Path) -> Option<Json> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}

/// A value as a grid shows it: texts without quotes, whole numbers without a point.
pub fn plain(value: &Json) -> String {
    match (value.as_str(), value.as_f64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => number.to_string(),
        (None, None) => value.to_string(),
    }
}

/// SIGINT and SIGTERM: no further cell begins, and those under way are told to end.
#[derive(Clone)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_set: AtomicBool,
    running: Mutex<Vec<u32>>,
}

impl Stop {
    /// Listens from now on. To be called while the process has one thread: those that come later let the signals to the one that waits.
    pub fn on_signals() -> Result<Self, Failure> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().map_err(Failure::during("signals cannot be held back"))?;
        let stop = Self(Arc::default());
        let listener = stop.clone();
        // It ends with the process.
        thread::spawn(move || {
            while signals.wait().is_ok() {
                listener.set();
            }
        });
        Ok(stop)
    }

    /// Whether it is over.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// It is over.
    pub fn set(&self) {
        self.0.is_set.store(true, Ordering::Release);
        for pid in self.running().iter().filter_map(|pid| i32::try_from(*pid).ok()) {
            // It may just have ended; until it is waited for, its number is no other's.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Starts a process that is told when it is over; nothing if it is over already.
    pub fn spawn(&self, command: &mut Command) -> Result<Option<Child>, Failure> {
        let mut running = self.running();
        if self.is_set() {
            return Ok(None);
        }
        let child = command.spawn().map_err(Failure::during("a cell cannot be started"))?;
        running.push(child.id());
        Ok(Some(child))
    }

    /// The process `pid` has ended, and need not be told any more.
    pub fn ended(&self, pid: u32) {
        self.running().retain(|running| *running != pid);
    }

    fn running(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
