//! What the harness has to remember of itself beyond its own life: one small file for each run or lab under way, so that `clean` can
//! remove what a killed harness left, and nothing else, and that a lab is found by its name.
//!
//! A process is named by its PID, its start time and the boot, so a later process of the same PID is never taken for it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// In a run's folder as long as the run is not finished; holds the same text as the state file.
const MARK: &str = "unfinished";

/// A process that cannot be confused with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks from boot to its start: field 22 of /proc/PID/stat.
    started: u64,
    boot: String,
}

impl Process {
    /// The process `pid`, if there is one.
    pub fn of(pid: i32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self { pid, started: started(pid)?, boot: boot.trim().to_owned() })
    }

    /// Whether it still lives.
    pub fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Kills it, if it lives.
    pub fn kill(&self) {
        if self.lives() {
            // It may end by itself just now.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// A process that is a zombie has ended.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state is the first field after it, the start time the 20th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    harness: Process,
    world: Option<Process>,
    run: PathBuf,
    /// The lab's name, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lab: Option<String>,
}

/// The state of this process's run or lab.
pub struct Current {
    file: PathBuf,
    state: State,
}

/// Where the state files are: `$XDG_STATE_HOME/ntm-harness`, else `~/.local/state/ntm-harness`.
pub fn folder() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("ntm-harness")).ok_or_else(|| {
        Failure::error("neither XDG_STATE_HOME nor HOME is set: the harness has no place for its state")
    })
}

impl Current {
    /// Makes a run's folder, the first of `folders` that is free, and remembers that this process makes the run there.
    pub fn begin(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, Failure> {
        Self::begin_as(None, &folder()?, folders)
    }

    /// The same of the lab `name`, if there is none of that name.
    pub fn begin_lab(name: &str, folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, Failure> {
        let states = folder()?;
        fs::create_dir_all(&states).map_err(Failure::during(states.display()))?;
        // Of two that begin at once, one waits here and then finds the other.
        let lock = fs::File::open(&states).map_err(Failure::during(states.display()))?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| Failure::error(format!("{}: {error}", states.display())))?;
        if labs(&states).iter().any(|lab| lab.name == name) {
            return Err(Failure::usage(format!(
                "a lab called {name} is up already: end it with `harness down --lab {name}`, or name this one otherwise with --lab"
            )));
        }
        Self::begin_as(Some(name.to_owned()), &states, folders)
    }

    fn begin_as(
        lab: Option<String>,
        states: &Path,
        folders: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self, Failure> {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let harness = Process::of(pid).ok_or_else(|| Failure::error("/proc does not show this process"))?;
        fs::create_dir_all(states).map_err(Failure::during(states.display()))?;
        let file = states.join(format!("{pid}-{}.json", harness.started));
        let mut current = Self { file, state: State { harness, world: None, run: PathBuf::new(), lab } };
        for run in folders {
            // First the note, then the thing. A folder that is there already bears another's mark, or none.
            current.state.run = run;
            let run = &current.state.run;
            if run.exists() {
                continue;
            }
            current.write()?;
            match fs::create_dir(run) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made
                    .and_then(|()| fs::write(run.join(MARK), text(&current.state)))
                    .map_err(Failure::during(run.display()))?,
            }
            return Ok(current);
        }
        remove_file(&current.file)?;
        Err(Failure::error("no folder for the run is free: too many runs within a second"))
    }

    /// The run's folder.
    pub fn run(&self) -> &Path {
        &self.state.run
    }

    /// Where a lab's control socket is.
    pub fn socket(&self) -> PathBuf {
        socket(&self.file)
    }

    /// Remembers the world's first process.
    pub fn world(&mut self, pid: i32) -> Result<(), Failure> {
        self.state.world = Process::of(pid);
        self.write()
    }

    /// The run is over and its folder complete.
    pub fn finish(self) -> Result<(), Failure> {
        let mark = self.state.run.join(MARK);
        fs::remove_file(&mark).map_err(Failure::during(mark.display()))?;
        self.forget()
    }

    /// The run came to nothing, and its folder goes.
    pub fn discard(self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.state.run).map_err(Failure::during(self.state.run.display()))?;
        self.forget()
    }

    /// Last: what is left to `clean` if this process ends before.
    fn forget(&self) -> Result<(), Failure> {
        remove_file(&self.socket())?;
        fs::remove_file(&self.file).map_err(Failure::during(self.file.display()))
    }

    fn write(&self) -> Result<(), Failure> {
        // Whole or not at all.
        let part = self.file.with_extension("part");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&part)?;
            file.write_all(text(&self.state).as_bytes())?;
            fs::rename(&part, &self.file)
        };
        write().map_err(Failure::during(self.file.display()))
    }
}

fn socket(file: &Path) -> PathBuf {
    file.with_extension("sock")
}

/// A lab that is up, or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// The process that keeps it.
    pub keeper: Process,
}

/// The labs that the files in `folder` name and that live, by name.
pub fn labs(folder: &Path) -> Vec<Lab> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut out: Vec<Lab> = entries
        .filter_map(|entry| {
            let file = entry.ok()?.path();
            let state =
                file.extension().is_some_and(|extension| extension == "json").then(|| read(&file))??;
            let name = state.lab.filter(|_| state.harness.lives())?;
            Some(Lab { name, folder: state.run, socket: socket(&file), keeper: state.harness })
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn read(file: &Path) -> Option<State> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}

fn text(state: &State) -> String {
    serde_json::to_string(state).unwrap_or_default()
}

/// What `clean` found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Folders of unfinished runs that were removed.
    pub removed: Vec<PathBuf>,
    /// Runs that are under way, and were left alone.
    pub running: Vec<PathBuf>,
}

/// Removes what runs that were killed have left, as the files in `folder` name it.
pub fn clean(folder: &Path) -> Result<Cleaned, Failure> {
    let mut out = Cleaned::default();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(out) };
    for entry in entries {
        let path = entry.map_err(Failure::during(folder.display()))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {}
            // Cut short while it was written, or a socket whose file is gone: its owner is gone if no such process lives, and it names nothing.
            Some("part" | "sock") => {
                if owner(&path).is_none_or(|owner| !owner) {
                    remove_file(&path)?;
                }
                continue;
            }
            _ => continue,
        }
        let Some(state) = read(&path) else { continue };
        if state.harness.lives() {
            out.running.push(state.run);
            continue;
        }
        if let Some(world) = &state.world {
            world.kill();
        }
        // Only a folder that bears this very run's mark is ours to remove. The mark may lack the world's PID.
        let marked = fs::read_to_string(state.run.join(MARK)).ok();
        let mark = marked.and_then(|mark| serde_json::from_str::<State>(&mark).ok());
        if mark.is_some_and(|mark| mark.harness == state.harness && mark.run == state.run) {
            fs::remove_dir_all(&state.run).map_err(Failure::during(state.run.display()))?;
            out.removed.push(state.run.clone());
        } else {
            // Killed between making the folder and marking it: then it is empty, and only then removed.
            if fs::remove_dir(&state.run).is_ok() {
                out.removed.push(state.run.clone());
            }
        }
        remove_file(&socket(&path))?;
        remove_file(&path)?;
    }
    Ok(out)
}

/// Whether the process that a state file's name gives is alive; `None` if the name gives none.
fn owner(path: &Path) -> Option<bool> {
    let (pid, began) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(started(pid.parse().ok()?) == Some(began.parse().ok()?))
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::error(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, state: &State) {
        fs::write(folder.join(name), text(state)).unwrap();
    }

    #[test]
    fn only_the_dead_and_only_what_bears_our_mark_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let states = home.path().join("states");
        fs::create_dir(&states).unwrap();
        let me = Process::of(std::process::id() as i32).unwrap();
        let dead = Process { started: me.started + 1, ..me.clone() };
        assert!(me.lives() && !dead.lives());

        let folder = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            path
        };
        let state = |harness: &Process, run: &Path| State {
            harness: harness.clone(),
            world: None,
            run: run.to_owned(),
            lab: Some(format!("lab-{}", harness.started)),
        };
        let (ours, foreign, alive) = (folder("ours"), folder("foreign"), folder("alive"));
        for (run, process) in [(&ours, &dead), (&alive, &me)] {
            fs::write(run.join(MARK), text(&state(process, run))).unwrap();
        }
        fs::write(foreign.join(MARK), text(&state(&dead, &ours))).unwrap();
        put(&states, "1.json", &state(&dead, &ours));
        put(&states, "2.json", &state(&dead, &foreign));
        put(&states, "3.json", &state(&me, &alive));
        fs::write(states.join("1-1.part"), "{").unwrap();
        fs::write(states.join("notes.txt"), "someone else's").unwrap();

        fs::write(states.join("1.sock"), "").unwrap();
        fs::write(states.join("1-2.sock"), "").unwrap();
        // A lab is known as long as its process lives.
        let [lab] = &labs(&states)[..] else { panic!("one lab lives") };
        assert_eq!((&lab.folder, &lab.socket, &lab.keeper), (&alive, &states.join("3.sock"), &me));

        let cleaned = clean(&states).unwrap();
        assert_eq!(cleaned, Cleaned { removed: vec![ours.clone()], running: vec![alive.clone()] });
        assert!(!ours.exists() && foreign.join("file").exists() && alive.join("file").exists());
        let mut left: Vec<_> =
            fs::read_dir(&states).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["3.json", "notes.txt"]);
    }
}
