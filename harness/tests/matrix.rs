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
    let run = matrix(&home, &grid_file(), &["--engine", "sim"]);
    assert_eq!(code(&run), 0, "{}{}", text(&run.stdout), text(&run.stderr));
    assert_is_the_oracle(&report(&home.only_run()), "simulation");
    insta::assert_snapshot!(
        text(&run.stdout).lines().filter(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n")
    );
    let csv = fs::read_to_string(home.only_run().join("matrix.csv")).expect("numbers");
    assert_eq!(csv.lines().count(), 101);
    // A machine that does something else besides is slow now and then.
    let mut times = (0..10).map(|_| {
        let (home, started) = (Home::new(), Instant::now());
        matrix(&home, &grid_file(), &["--engine", "sim"]);
        started.elapsed()
    });
    let is_quick = |took: Duration| took < Duration::from_secs(1) || cfg!(debug_assertions);
    assert!(times.any(is_quick), "it takes more than a second");
}

/// T4.1.2-b: the same on real packets; in every cell the two worlds agree on ways, headers and verdicts, and all takes less than three minutes.
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
    let none = serde_json::json!([]);
    for cell in report["cells"].as_array().expect("cells") {
        assert_eq!(cell["emulation"]["comparison"]["differences"], none, "{}", cell["id"]);
    }
    assert!(
        text(&run.stdout).contains("100 cells compared in both worlds: no difference"),
        "{}",
        text(&run.stdout)
    );
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

/// Seven cells of a lossy link: what comes of each depends on its seed.
fn sweep() -> String {
    SMALL
        .replace(
            "[router.nat]",
            "[link.l]\nboth = { delay = \"3ms\", jitter = \"1ms\", loss = \"5%\" }\n[router.nat]",
        )
        .replace("at = \"nat\" }", "at = \"nat\", link = \"l\" }")
        .replace("flow.echo.received == 2", "flow.echo.received > 0")
        .replace("[2, 3]", "[5, 6, 7, 8, 9, 10, 11]")
        .replace("[matrix]\nshow = \"flow.echo.received\"", "[matrix]\nshow = \"flow.echo.rtt_avg_ms\"")
}

/// The tasks of a job array, by the script that the documents show, in a plain loop. Together they are what one run of the whole is, byte for byte;
/// with a part missing they are nothing; a task that is started again runs what is missing and no more.
#[test]
fn the_parts_of_a_job_array_are_the_whole() {
    let home = Home::new();
    let file = home.scenario("sweep", &sweep());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/job-array.sh");
    let folder = home.path().join("sweep");
    fs::create_dir(&folder).expect("a folder");
    let task = |id: usize| {
        let mut command = std::process::Command::new("sh");
        command.arg(&script).arg(&file).arg(&folder).env("HARNESS", env!("CARGO_BIN_EXE_harness"));
        command.env("XDG_STATE_HOME", home.path().join("state"));
        command.env("SLURM_ARRAY_TASK_ID", id.to_string()).env("SLURM_ARRAY_TASK_COUNT", "3");
        let run = command.output().expect("the script runs");
        assert_eq!(code(&run), 0, "{}", text_of(&run));
    };
    let part = |id: usize| folder.join(format!("part-{id}"));
    let merge = |parts: &[usize], into: &Path| {
        let mut command = home.command(&["report"]);
        command.args(parts.iter().map(|id| part(*id))).arg("--into").arg(into);
        command.output().expect("the harness runs")
    };
    (1..=3).for_each(task);
    let outcome = |id: usize, count: usize| part(id).join(format!("cells/count={count}/simulation.json"));
    let all: Vec<bool> = (5..=11).map(|count| outcome(2, count).exists()).collect();
    assert_eq!(all, [false, true, false, false, true, false, false], "the second of three parts");

    let whole = home.path().join("whole");
    let lacking = merge(&[1, 3], &whole);
    assert_eq!(code(&lacking), 3, "{}", text_of(&lacking));
    assert!(
        text(&lacking.stderr).contains("2 of 7 runs are in no part, the first of them count=6"),
        "{}",
        text_of(&lacking)
    );
    assert!(!whole.exists(), "nothing is left of it");

    // One outcome is lost, of another the task had written half when it was killed.
    let (lost, torn) = (outcome(1, 5), outcome(1, 8));
    let (before, kept) = (
        fs::read(&torn).expect("kept"),
        fs::metadata(outcome(1, 11)).expect("kept").modified().expect("a time"),
    );
    fs::remove_file(&lost).expect("it is there");
    fs::write(&torn, &before[..before.len() / 2]).expect("it is ours");
    assert_eq!(code(&merge(&[1, 2, 3], &whole)), 3, "what was written half is no outcome");
    task(1);
    assert_eq!(fs::read(&torn).expect("made again"), before);
    assert_eq!(
        fs::metadata(outcome(1, 11)).expect("kept").modified().expect("a time"),
        kept,
        "what was done is not run again"
    );

    let merged = merge(&[3, 1, 2], &whole);
    assert_eq!(code(&merged), 0, "{}", text_of(&merged));
    let alone = matrix(&home, &file, &["--engine", "sim"]);
    assert_eq!(code(&alone), 0, "{}", text_of(&alone));
    let alone = home.only_run();
    let cells = (5..=11).map(|count| format!("cells/count={count}/simulation.json"));
    let files = ["matrix.csv", "matrix.md", "matrix.json", "matrix.html", "scenario.toml"].map(str::to_owned);
    for file in files.into_iter().chain(cells) {
        let read =
            |folder: &Path| fs::read(folder.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(read(&whole) == read(&alone), "{file} differs");
    }
    let told: Value = report(&whole);
    let shown: std::collections::BTreeSet<String> = told["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(|cell| cell["simulation"]["shown"].to_string())
        .collect();
    assert!(shown.len() > 3, "cells differ, so that an exchange would be seen: {shown:?}");
    assert_eq!(code(&merge(&[1, 2, 3], &whole)), 2, "it is there already");
    let other = home.scenario("other", &sweep().replace("seed   = 1", "seed   = 2"));
    let run = matrix(&home, &other, &["--engine", "sim", "--shard", "4/3"]);
    assert_eq!(code(&run), 2, "{}", text_of(&run));
}

/// In rounds, parts are each some rounds of some cells; the result over all is made of all.
#[test]
fn parts_of_rounds_are_one_result() {
    let home = Home::new();
    let file = home.scenario("rounds", ROUNDS);
    let parts: Vec<PathBuf> = (1..=2).map(|id| home.path().join(format!("part-{id}"))).collect();
    for (folder, shard) in parts.iter().zip(["1/2", "2/2"]) {
        let mut command = home.command(&["matrix"]);
        command.arg(&file).args(["--engine", "sim", "--quiet", "--shard", shard, "--folder"]).arg(folder);
        let run = command.output().expect("the harness runs");
        assert_eq!(code(&run), 0, "{}", text_of(&run));
        assert!(!folder.join("report.json").exists(), "half of the rounds are no result");
    }
    let whole = home.path().join("whole");
    let merged =
        home.command(&["report"]).args(&parts).arg("--into").arg(&whole).output().expect("the harness runs");
    assert_eq!(code(&merged), 0, "{}", text_of(&merged));
    let alone = home.run(&file, &["--engine", "sim", "--quiet"]);
    assert_eq!(code(&alone), 0, "{}", text_of(&alone));
    let read = |folder: &Path| {
        let text = fs::read_to_string(folder.join("report.json")).expect("a report");
        let mut report: Value = serde_json::from_str(&text).expect("JSON");
        // When and where it was made.
        (report["seconds"], report["folder"]) = (Value::Null, Value::Null);
        report
    };
    assert_eq!(read(&whole), read(&home.only_run()));
}
