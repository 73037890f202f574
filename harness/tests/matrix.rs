//! `harness matrix`: the grid of route optimisation, in the simulator and on real packets (T4.1.2-b).

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{Home, code};
use nix::sys::signal::Signal;
use serde_json::Value;

fn grid_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/nat-matrix.toml")
}

fn matrix(home: &Home, file: &Path, more: &[&str]) -> Output {
    let mut command = home.command(&["matrix"]);
    command.arg(file).args(more).arg("--quiet");
    if !more.contains(&"--resume") {
        command.arg("--out").arg(home.path().join("runs"));
    }
    command.output().expect("the harness runs")
}

/// What a harness printed.
fn text_of(run: &Output) -> String {
    text(&run.stdout) + &text(&run.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("matrix.json")).expect("a matrix")).expect("JSON")
}

/// Each of the hundred cells has the way that the NATs on both sides allow, and all of them are both direct and relayed ones.
fn assert_is_the_oracle(report: &Value, world: &str) {
    let cells = report["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 100);
    let mut direct = 0;
    for cell in cells {
        let quantities = &cell[world]["quantities"];
        for (from, to) in [("mn", "cn"), ("cn", "mn")] {
            let of = |what: &str| quantities[format!("path.{from}.{to}.{what}")].as_str();
            assert_eq!(of("route"), of("oracle"), "{cell:#}");
            assert!(of("route").is_some());
        }
        direct += usize::from(cell[world]["shown"] == "direct");
    }
    assert_eq!(direct, 76, "in the other cells the relay stays");
}

/// T4.1.2-b: every NAT type on both sides, in under a second.
#[test]
fn the_grid_is_the_oracle_in_the_simulator() {
    let home = Home::new();
    let started = Instant::now();
    let run = matrix(&home, &grid_file(), &["--engine", "sim"]);
    let took = started.elapsed();
    assert_eq!(code(&run), 0, "{}{}", text(&run.stdout), text(&run.stderr));
    assert_is_the_oracle(&report(&home.only_run()), "simulation");
    insta::assert_snapshot!(
        text(&run.stdout).lines().filter(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n")
    );
    assert!(took < Duration::from_secs(1) || cfg!(debug_assertions), "{took:?}");
    let csv = fs::read_to_string(home.only_run().join("matrix.csv")).expect("numbers");
    assert_eq!(csv.lines().count(), 101);
}

/// T4.1.2-b: the same on real packets; the two worlds agree in every cell, and it takes less than three minutes.
#[test]
fn the_grid_is_the_oracle_in_both_worlds() {
    let home = Home::new();
    let started = Instant::now();
    let run = matrix(&home, &grid_file(), &["--engine", "both"]);
    let took = started.elapsed();
    assert_eq!(code(&run), 0, "{}{}", text(&run.stdout), text(&run.stderr));
    let report = report(&home.only_run());
    for world in ["emulation", "simulation"] {
        assert_is_the_oracle(&report, world);
    }
    assert!(took < Duration::from_secs(180), "{took:?}");
    assert!(home.states().is_empty());
}

const SMALL: &str = r#"
schema = 1
name   = "small"
about  = "Two hosts, one of them behind a NAT"
seed   = 1
[router.nat]
nat = "symmetric"
[node]
a = { role = "general", at = "nat" }
b = { role = "general", at = "internet", name = "b.test" }
[[flow]]
id   = "echo"
ping = { from = "a", to = "b.test", count = 2, interval = "10ms" }
[[expect]]
check = "flow.echo.received == 2"
fail  = "an answer did not come"
[matrix]
show = "flow.echo.received"
[[matrix.axis]]
name   = "count"
path   = "flow.0.ping.count"
values = [2, 3]
"#;

#[test]
fn a_cell_that_fails_is_marked_and_can_be_run_by_itself() {
    let home = Home::new();
    let run = matrix(&home, &home.scenario("small", SMALL), &["--engine", "sim"]);
    let said = text(&run.stdout);
    assert_eq!(code(&run), 1, "{said}");
    assert!(
        said.contains("| 3     | 3 !")
            && said.contains("FAILED  count=3 in simulation: an answer did not come"),
        "{said}"
    );
    let cell = home.only_run().join("cells/count=3/scenario.toml");
    let alone = home.run(&cell, &["--engine", "sim"]);
    assert_eq!(code(&alone), 1, "{}{}", text(&alone.stdout), text(&alone.stderr));
}

#[test]
fn a_file_without_a_matrix_is_refused() {
    let home = Home::new();
    let plain = SMALL.split("[matrix]").next().expect("a beginning");
    let run = matrix(&home, &home.scenario("plain", plain), &["--engine", "sim"]);
    assert_eq!(code(&run), 2);
    assert!(text(&run.stderr).contains("has no [matrix]"), "{}", text(&run.stderr));
}

/// ^C ends the cells under way, keeps what is done, and the matrix goes on where it was.
#[test]
fn an_interrupted_matrix_goes_on_later() {
    let home = Home::new();
    let slow = SMALL
        .replace("interval = \"10ms\"", "interval = \"1s\"")
        .replace("flow.echo.received == 2", "flow.echo.lost == 0");
    let file = home.scenario("slow", &slow);
    let mut command = home.command(&["matrix"]);
    command.arg(&file).args(["--jobs", "1", "--quiet", "--out"]).arg(home.path().join("runs"));
    let child = command.stdout(Stdio::piped()).spawn().expect("the harness starts");
    let done =
        |id: &str| home.runs().iter().any(|run| run.join("cells").join(id).join("emulation.json").exists());
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done("count=2") {
        assert!(Instant::now() < deadline, "the first cell does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    common::signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stdout));
    let folder = home.only_run();
    assert!(!done("count=3") && home.states().is_empty());
    assert!(text(&output.stdout).contains("| 3     | –"), "{}", text(&output.stdout));
    let other = home.scenario("other", &slow.replace("seed   = 1", "seed   = 2"));
    let folder = folder.to_str().expect("a name");
    assert_eq!(code(&matrix(&home, &other, &["--resume", folder])), 2, "another scenario");
    let kept = fs::metadata(format!("{folder}/cells/count=2/emulation.json"))
        .expect("kept")
        .modified()
        .expect("a time");
    let resumed = matrix(&home, &file, &["--resume", folder]);
    assert_eq!(code(&resumed), 0, "{}{}", text(&resumed.stdout), text(&resumed.stderr));
    assert_eq!(
        fs::metadata(format!("{folder}/cells/count=2/emulation.json"))
            .expect("kept")
            .modified()
            .expect("a time"),
        kept
    );
    assert!(done("count=3"));
}

/// Two cells, each to be run in rounds.
const ROUNDS: &str = r#"
schema = 1
name   = "rounds"
about  = "A ping over two links"
seed   = 5
[link.l]
both = { delay = "2ms", jitter = "0.4ms" }
[node]
a = { role = "general", at = "internet", link = "l" }
b = { role = "general", at = "internet", name = "b.test" }
[[flow]]
id   = "echo"
ping = { from = "a", to = "b.test", count = 5, interval = "5ms" }
[[expect]]
check = "flow.echo.lost == 0"
fail  = "an answer did not come"
[matrix]
rounds = 4
show   = "flow.echo.rtt_avg_ms"
[[matrix.cell]]
name = "near"
[[matrix.cell]]
name  = "far"
set   = { "link.l.both.delay" = "9ms" }
check = "flow.echo.rtt_min_ms > 15"
[[matrix.expect]]
check = "cell.near.n == 4 and cell.far.mean > cell.near.mean + 10 and cell.far.ci95 < 2"
fail  = "the far host is no further"
[[matrix.table]]
title   = "Far and near"
columns = ["cell", "published", "here", "verdict"]
rows    = [["near", 4.1, "=cell.near.mean", "=cell.near.mean < 6"], ["far", 18, "=cell.far.p50", "=cell.far.p50 < 6"]]
"#;

/// Rounds of one scenario: each with a seed of its own, one result over all of them, the same every time; `compare` takes it for so many runs.
#[test]
fn rounds_are_one_result() {
    let run = |text: &str, more: &[&str]| {
        let home = Home::new();
        let run = home.run(&home.scenario("rounds", text), &[&["--engine", "sim", "--quiet"], more].concat());
        (code(&run), text_of(&run), home)
    };
    let (exit, said, home) = run(ROUNDS, &[]);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("| far  | 18") && said.contains("| FAILS"), "{said}");
    let report = home.report();
    let near = report["samples"]["cell.near.flow.echo.rtt_avg_ms"].as_array().expect("samples");
    assert_eq!(near.len(), 4);
    assert!(near.iter().any(|value| *value != near[0]), "each round has a seed of its own: {near:?}");
    let mean = near.iter().filter_map(Value::as_f64).sum::<f64>() / 4.0;
    let told = report["quantities"]["cell.near.flow.echo.rtt_avg_ms.mean"].as_f64().expect("a mean");
    assert!((mean - told).abs() < 1e-9, "{mean} {told}");
    for file in
        ["report.html", "summary.md", "junit.xml", "env.json", "matrix.csv", "cells/far/4/scenario.toml"]
    {
        assert!(home.only_run().join(file).exists(), "{file}");
    }
    let (_, _, again) = run(ROUNDS, &[]);
    assert_eq!(again.report()["samples"], report["samples"]);

    let other = ROUNDS.replace("\"9ms\"", "\"12ms\"").replace("seed   = 5", "seed   = 50");
    let (_, _, slower) = run(&other, &[]);
    let compared =
        home.command(&["compare"]).arg(home.only_run()).arg(slower.only_run()).output().expect("it runs");
    let told = text_of(&compared);
    assert!(code(&compared) == 1 && told.contains("A has 4 runs, B has 4"), "{told}");
    let regressed: Vec<&str> = told.lines().filter(|line| line.ends_with("REGRESSION")).collect();
    assert!(!regressed.is_empty() && regressed.iter().all(|line| line.starts_with("cell.far.")), "{told}");
}

#[test]
fn a_round_that_fails_and_an_expectation_over_all_are_told() {
    let home = Home::new();
    let broken =
        ROUNDS.replace("rtt_min_ms > 15", "rtt_min_ms > 50").replace("cell.near.n == 4", "cell.near.n == 5");
    let run = home.run(&home.scenario("rounds", &broken), &["--engine", "sim", "--quiet", "--rounds", "2"]);
    let said = text_of(&run);
    assert_eq!(code(&run), 1, "{said}");
    for part in [
        "this is not what `far` is to be",
        "held in 0 of 2 runs",
        "far 2: flow.echo.rtt_min_ms = ",
        "the far host is no further",
        "cell.near.n = 2",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let cell = home.only_run().join("cells/far/2/scenario.toml");
    let alone = Home::new();
    let run = alone.run(&cell, &["--engine", "sim"]);
    assert_eq!(code(&run), 1, "{}", text_of(&run));
    assert_eq!(alone.report()["seed"], 6);
}

/// Any scenario can be run in rounds.
#[test]
fn a_file_without_rounds_is_run_in_them_if_asked() {
    let home = Home::new();
    let plain = ROUNDS.split("[matrix]").next().expect("a beginning");
    let file = home.scenario("plain", plain);
    let run = home.run(&file, &["--engine", "sim", "--quiet", "--rounds", "3"]);
    let said = text_of(&run);
    assert!(code(&run) == 0 && said.contains("| flow.echo.rtt_avg_ms | 3"), "{said}");
    assert!(home.report()["quantities"]["flow.echo.rtt_max_ms.p95"].is_number());
    let both = home.run(&file, &["--engine", "both", "--rounds", "3"]);
    assert_eq!(code(&both), 2, "{}", text_of(&both));
    let seedless = home.scenario("seedless", &plain.replace("seed   = 5", ""));
    let refused = home.run(&seedless, &["--engine", "sim", "--rounds", "3"]);
    assert!(code(&refused) == 2 && text(&refused.stderr).contains("a `seed`"), "{}", text(&refused.stderr));
}
