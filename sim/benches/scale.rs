//! What a world costs as it grows (`cargo bench -p ntm-sim --bench scale -- --out reports/simulator-scale`): terminals that register within a
//! minute and then send Keep-alives for another minute of virtual time. Each size runs in a process of its own, so that its memory is known.
//! The results go to `scale.json`, and with a plot to `scale.html`; what does not hold makes the exit code 1.

// The time that it takes is what is measured.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use ntm_sim::{INTERNET, Interface, Link, World};
use serde_json::{Value as Json, json};

/// Measures what a world of many terminals costs.
#[derive(Parser)]
struct Options {
    /// Numbers of terminals
    #[arg(default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    terminals: Vec<u32>,
    /// Where scale.json and scale.html are put [default: nowhere]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How often each size is measured, in turn; the median counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: u16,
    /// Runs one size in this process
    #[arg(long, hide = true)]
    alone: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long terminals take to come, and then how long they stay.
const MINUTE: Duration = Duration::from_secs(60);

/// What every world of this benchmark is to do: events in a second, ...
const LEAST_RATE: f64 = 1e6;
/// ... and the largest: seconds for the minute of Keep-alives, and bytes.
const MOST_SECONDS: f64 = 120.0;
const MOST_MEMORY: f64 = 4.0 * 1024.0 * 1024.0 * 1024.0;

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.alone {
        options.terminals.iter().for_each(|terminals| println!("{}", measure(*terminals)));
        return ExitCode::SUCCESS;
    }
    options.terminals.sort_unstable();
    let mut samples = vec![Vec::new(); options.terminals.len()];
    for _ in 0..options.rounds {
        for (terminals, samples) in options.terminals.iter().zip(&mut samples) {
            samples.push(alone(*terminals));
        }
    }
    let rows: Vec<Json> = samples.into_iter().map(median).collect();
    let judged = judge(&rows);
    println!(
        "| terminals | registered | registering | keep-alives, 60 s | events | a second | ns an event | memory |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        println!(
            "| {} | {} | {:.2} s | {:.2} s | {} | {:.0} | {:.0} | {:.0} MB |",
            row["terminals"],
            row["registered"],
            number("registering_s"),
            number("keep_alives_s"),
            row["events"],
            number("events_per_s"),
            number("ns_per_event"),
            number("memory_bytes") / 1e6
        );
    }
    for one in &judged {
        println!(
            "{}: {}",
            if one["held"] == true { "holds" } else { "FAILS" },
            one["what"].as_str().unwrap_or_default()
        );
    }
    let held = judged.iter().all(|one| one["held"] == true);
    if let Some(out) = &options.out {
        let report = json!({ "schema": 1, "machine": machine(), "rounds": options.rounds, "worlds": rows, "judged": judged });
        let text = serde_json::to_string_pretty(&report).expect("it is JSON") + "\n";
        fs::create_dir_all(out)
            .and_then(|()| fs::write(out.join("scale.json"), text))
            .and_then(|()| fs::write(out.join("scale.html"), page(&report)))
            .unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One size in a process of its own.
fn alone(terminals: u32) -> Json {
    let this = std::env::current_exe().expect("this program has a path");
    // Large pages, where the system gives them to who asks: half of what a large world waits for is the way to its pages.
    let tunables = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    let mut run = Command::new(this);
    run.args(["--alone", &terminals.to_string()]).env(tunables.0, tunables.1).stderr(Stdio::inherit());
    let output = run.output().expect("this program can be started");
    assert!(output.status.success(), "{terminals} terminals did not come to their end");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Of several measurements of one size that with the median time.
fn median(mut samples: Vec<Json>) -> Json {
    let time = |row: &Json| row["keep_alives_s"].as_f64().unwrap_or(f64::INFINITY);
    let all: Vec<f64> = samples.iter().map(time).collect();
    samples.sort_by(|a, b| time(a).total_cmp(&time(b)));
    let mut row = samples.swap_remove(samples.len() / 2);
    row["keep_alives_s_all"] = json!(all);
    row
}

fn measure(terminals: u32) -> Json {
    let mut world = World::new(42);
    world.forget();
    let link = Link::of(Duration::from_millis(5));
    let dc = world.coordinator("dc", "ntm.test", "10.0.0.0/8", "203.0.113.3", link);
    let first = u32::from(Ipv4Addr::new(100, 64, 0, 1));
    let ids: Vec<_> = (0..terminals)
        .map(|n| {
            let address = IpAddr::V4(Ipv4Addr::from(first + n));
            world.terminal(&format!("t{n}"), dc, Interface { network: INTERNET, address, link })
        })
        .collect();
    world.start(dc);
    let begin = Instant::now();
    let apart = MINUTE / terminals;
    for id in &ids {
        world.start(*id);
        world.run_for(apart);
    }
    let (registering, before, middle) = (begin.elapsed().as_secs_f64(), world.events(), Instant::now());
    world.run_for(MINUTE);
    let (took, events) = (middle.elapsed().as_secs_f64(), world.events() - before);
    let registered = ids
        .iter()
        .filter(|id| world.at_terminal(**id).is_some_and(|terminal| terminal.is_registered()))
        .count();
    // Taking it down piece by piece takes as long, and tells nothing.
    std::mem::forget(world);
    json!({
        "terminals": terminals,
        "registered": registered,
        "registering_s": registering,
        "keep_alives_s": took,
        "events": events,
        "events_per_s": events as f64 / took,
        "ns_per_event": took * 1e9 / events as f64,
        "memory_bytes": memory(),
    })
}

/// What the numbers are to be.
fn judge(rows: &[Json]) -> Vec<Json> {
    let number = |row: &Json, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let mut out = Vec::new();
    let mut say = |held: bool, what: String| out.push(json!({ "held": held, "what": what }));
    for row in rows {
        let terminals = number(row, "terminals");
        say(
            number(row, "registered") == terminals,
            format!("all of {terminals} terminals are registered at the end"),
        );
        let rate = number(row, "events_per_s");
        say(
            rate >= LEAST_RATE,
            format!("{terminals} terminals: {rate:.0} events a second on one core, at least {LEAST_RATE}"),
        );
    }
    if let [first, .., last] = rows {
        for row in &rows[1..] {
            let grows = number(row, "ns_per_event") / number(first, "ns_per_event");
            let most = number(row, "terminals").ln() / number(first, "terminals").ln();
            let (from, to) = (&first["terminals"], &row["terminals"]);
            say(
                grows <= most,
                format!(
                    "from {from} to {to} terminals an event's cost grows {grows:.2} times, log n {most:.2} times"
                ),
            );
        }
        let (seconds, memory) = (number(last, "keep_alives_s"), number(last, "memory_bytes"));
        let terminals = &last["terminals"];
        say(
            seconds < MOST_SECONDS,
            format!(
                "{terminals} terminals with Keep-alives: 60 virtual seconds in {seconds:.1} s, less than {MOST_SECONDS}"
            ),
        );
        let mb = memory / 1e6;
        say(memory < MOST_MEMORY, format!("{terminals} terminals: {mb:.0} MB, less than 4 GiB"));
    }
    out
}

/// The most memory that this process held, in bytes.
fn memory() -> u64 {
    value_of("/proc/self/status", "VmHWM").and_then(|text| kib(&text)).unwrap_or_default() * 1024
}

fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The first value of `key` in a file of `key: value` lines.
fn value_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    found.map(|(_, value)| value.trim().to_owned())
}

/// What the numbers were measured on.
fn machine() -> Json {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    json!({
        "processor": value_of("/proc/cpuinfo", "model name"),
        "cache": value_of("/proc/cpuinfo", "cache size"),
        "processors": thread::available_parallelism().map_or(0, usize::from),
        "memory_mb": value_of("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)).map(|kib| kib * 1024 / 1_000_000),
        "kernel": said("uname", &["-sr"]),
        "revision": said("git", &["describe", "--always", "--dirty=, changed", "--abbrev=12"]),
    })
}

/// The plot: an event's cost over the number of terminals, and beside it what grows as log n from the same beginning.
fn page(report: &Json) -> String {
    let column = |name: &str| -> Vec<f64> {
        let rows = report["worlds"].as_array().into_iter().flatten();
        rows.map(|row| row[name].as_f64().unwrap_or(f64::NAN)).collect()
    };
    let (terminals, costs) = (column("terminals"), column("ns_per_event"));
    let logarithm = |n: &f64| costs[0] * n.ln() / terminals[0].ln();
    let curve: Vec<f64> = terminals.iter().map(logarithm).collect();
    let data = json!({ "report": report, "plot": [terminals, costs, curve] });
    // Within a script, `<` could end it.
    let data = data.to_string().replace('<', "\\u003c");
    include_str!("scale.html")
        .replace("{{uplot.css}}", include_str!("../../harness/src/report/html/uplot/uPlot.min.css"))
        .replace("{{uplot.js}}", include_str!("../../harness/src/report/html/uplot/uPlot.iife.min.js"))
        .replace("{{data}}", &data)
}
