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
