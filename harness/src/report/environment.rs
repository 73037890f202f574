//! The machine a run was made on, and the programs it used.

use std::process::Command;

use serde_json::{Value, json};

use crate::scenario::find;

/// Programs whose versions matter, and how each tells it.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("iperf3", &["--version"]),
    ("ping", &["-V"]),
    ("curl", &["--version"]),
    ("nft", &["--version"]),
    ("tc", &["-V"]),
    ("busybox", &["--help"]),
];

/// Everything about the machine that a reader of the report may want.
pub fn describe() -> Value {
    let uname = nix::sys::utsname::uname().ok();
    let text = |value: Option<&std::ffi::OsStr>| value.map(|value| value.to_string_lossy().into_owned());
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| Some(line.strip_prefix("PRETTY_NAME=")?.trim_matches('"').to_owned()));
    let programs: serde_json::Map<String, Value> = PROGRAMS
        .iter()
        .map(|(name, arguments)| ((*name).to_owned(), json!(version(name, arguments))))
        .collect();
    json!({
        "harness": env!("CARGO_PKG_VERSION"),
        "revision": revision(),
        "kernel": text(uname.as_ref().map(|uname| uname.release())),
        "machine": text(uname.as_ref().map(|uname| uname.machine())),
        "system": system,
        "processor": value_of("/proc/cpuinfo", "model name"),
        "memory_mb": memory_mb(),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "programs": programs,
    })
}

/// The first value of `key` in a file of `key: value` lines.
fn value_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    found.map(|(_, value)| value.trim().to_owned())
}

fn memory_mb() -> Option<u64> {
    let kib: u64 = value_of("/proc/meminfo", "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024 / 1_000_000)
}

/// The commit that the project's folder is at, and whether it was changed since; nothing outside of a clone. What `reference` keeps there
/// of runs changes no run.
fn revision() -> Option<String> {
    let folder = find::folder()?;
    let git = |arguments: &[&str]| {
        // Without locks: where a run is killed, one would stay in the clone.
        let output = Command::new("git")
            .arg("--no-optional-locks")
            .arg("-C")
            .arg(&folder)
            .args(arguments)
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports"])
        .is_some_and(|changed| changed.is_empty());
    Some(if clean { commit } else { format!("{commit}, changed") })
}

/// The first line that the program says of itself.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}
