//! What a user sees of a bad scenario: every mistake at once, with file, line and nearest name, and exit code 2.

use std::path::Path;
use std::process::{Command, Output};

fn harness(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(arguments).current_dir(folder).output().expect("the harness runs")
}

/// What `check` says, which is also what `run` says before it builds anything.
fn refusal(file: &str) -> String {
    let checked = harness(&["check", file]);
    let text = String::from_utf8(checked.stderr).expect("text");
    assert_eq!(checked.status.code(), Some(2), "{text}");
    assert!(checked.stdout.is_empty());
    let run = harness(&["run", file]);
    assert_eq!((run.status.code(), String::from_utf8_lossy(&run.stderr).as_ref()), (Some(2), text.as_str()));
    text
}

#[test]
fn unknown_keys() {
    insta::assert_snapshot!(refusal("keys.toml"));
}

#[test]
fn wrong_units_and_kinds() {
    insta::assert_snapshot!(refusal("units.toml"));
}

#[test]
fn references_to_what_is_not_there() {
    insta::assert_snapshot!(refusal("references.toml"));
}

#[test]
fn expectations_about_what_is_not_measured() {
    insta::assert_snapshot!(refusal("expectations.toml"));
}

/// Flows, handovers, NATs and links that are there, but of which this is not measured; and a flow to a name that nobody has.
#[test]
fn quantities_that_this_scenario_does_not_have() {
    insta::assert_snapshot!(refusal("unmeasured.toml"));
}

#[test]
fn capture_points_and_names_that_are_not_there() {
    insta::assert_snapshot!(refusal("points.toml"));
}

#[test]
fn flows_that_cannot_be() {
    insta::assert_snapshot!(refusal("flows.toml"));
}

#[test]
fn tunnels_that_cannot_be() {
    insta::assert_snapshot!(refusal("tunnels.toml"));
}

#[test]
fn nodes_described_together() {
    insta::assert_snapshot!(refusal("alike.toml"));
}

#[test]
fn what_is_no_toml() {
    insta::assert_snapshot!(refusal("syntax.toml"));
}

#[test]
fn a_file_that_is_not_there() {
    insta::assert_snapshot!(refusal("kyes.toml"));
    // The name of a scenario of the project needs no folder.
    let found = harness(&["check", "handover"]);
    assert_eq!(found.status.code(), Some(0), "{}", String::from_utf8_lossy(&found.stderr));
}

#[test]
fn usage() {
    for arguments in
        [&["runn"][..], &[], &["run"], &["run", "a", "b"], &["run", "handover", "--format", "xml"]]
    {
        let output = harness(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_projects_own_scenarios_are_right() {
    let list = harness(&["list"]);
    let text = String::from_utf8(list.stdout).expect("text");
    assert!(text.contains("handover.toml") && !text.contains("has mistakes"), "{text}");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let check = harness(&[&["check"], names.as_slice()].concat());
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
}
