//! What tests of whole runs share: a home of their own, so that no state or run folder of others is met.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ntm_harness::exit::Exit;
use serde_json::Value;

/// A folder with a harness's whole state.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn scenario(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(format!("{name}.toml"));
        fs::write(&path, text).expect("a scenario");
        path
    }

    /// The harness with its state and its runs here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.args(arguments).env("XDG_STATE_HOME", self.path().join("state")).stdin(Stdio::null());
        if matches!(arguments.first(), Some(&"run" | &"up")) {
            command.arg("--out").arg(self.path().join("runs"));
        }
        command
    }

    pub(crate) fn run(&self, scenario: &Path, more: &[&str]) -> Output {
        self.command(&["run"]).arg(scenario).args(more).output().expect("the harness runs")
    }

    /// The same, for what is to hold: a run that the machine disturbed says nothing, and is repeated.
    pub(crate) fn undisturbed(&self, scenario: &Path, more: &[&str]) -> Output {
        let [run] = self.repeated_if_disturbed(|| [self.run(scenario, more)]);
        run
    }

    /// What `runs` gives, again if one of these was disturbed.
    pub(crate) fn repeated_if_disturbed<const N: usize>(
        &self,
        runs: impl Fn() -> [Output; N],
    ) -> [Output; N] {
        for _ in 0..4 {
            let outputs = runs();
            let Some(run) = outputs.iter().find(|run| code(run) == Exit::Inconclusive as i32) else {
                return outputs;
            };
            println!("disturbed, once more: {}", String::from_utf8_lossy(&run.stdout));
            fs::remove_dir_all(self.path().join("runs")).expect("its folder");
        }
        runs()
    }

    pub(crate) fn start(&self, scenario: &Path) -> Child {
        let mut command = self.command(&["run"]);
        command.arg(scenario).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the harness starts")
    }

    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        entries(&self.path().join("runs"))
    }

    pub(crate) fn states(&self) -> Vec<PathBuf> {
        entries(&self.path().join("state/ntm-harness"))
    }

    pub(crate) fn only_run(&self) -> PathBuf {
        let runs = self.runs();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }

    pub(crate) fn report(&self) -> Value {
        let text = fs::read_to_string(self.only_run().join("report.json")).expect("a report");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Returns when the first flow's program has made its output file: the run is in full swing.
    pub(crate) fn wait_until_begun(&self, run: &mut Child) {
        self.wait_for(run, "flows/bulk.out");
    }

    /// Returns when a run has made `file` in its folder.
    pub(crate) fn wait_for(&self, run: &mut Child, file: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.runs().iter().any(|run| run.join(file).exists()) {
            assert!(Instant::now() < deadline, "the run does not begin");
            assert!(run.try_wait().expect("its status").is_none(), "the run ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a PID")), signal).expect("it lives");
}

/// Processes with an argument below `home`, whichever user namespace or PID namespace they are in.
pub(crate) fn processes(home: &Path) -> Vec<String> {
    let needle = home.to_str().expect("a path").to_owned();
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let line = fs::read(path.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&needle).then(|| format!("{} {line}", path.display()))
        })
        .collect()
}

/// Waits for what the kernel does by and by after a kill.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The address transitions of a run as its folder has them, without what differs from run to run.
pub(crate) fn transitions(home: &Home) -> String {
    let text = fs::read_to_string(home.only_run().join("tables.md")).expect("the tables");
    let figures = text.split("# Relay Tables").next().unwrap_or_default();
    let lines = figures.lines().filter(|line| line.starts_with('|') || line.starts_with("## "));
    lines.map(|line| line.split(", since").next().unwrap_or_default().to_owned() + "\n").collect()
}
