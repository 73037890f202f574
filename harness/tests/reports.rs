//! What becomes of a run afterwards: compared, bundled, described. With the folder of a real run; nothing is run here.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use common::{Home, code};
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/handover")
}

/// A run's folder with the fixture's report, changed.
fn run(home: &Home, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let folder = home.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    let mut report: Value =
        serde_json::from_str(&fs::read_to_string(fixture().join("report.json")).unwrap()).unwrap();
    change(&mut report);
    fs::write(folder.join("report.json"), report.to_string()).unwrap();
    folder
}

fn compare(home: &Home, a: &Path, b: &Path, more: &[&str]) -> Output {
    home.command(&["compare"]).arg(a).arg(b).args(more).output().unwrap()
}

#[test]
fn a_run_compares_with_itself_and_a_worse_one_is_exit_1() {
    let home = Home::new();
    let same = compare(&home, &fixture(), &fixture(), &[]);
    assert_eq!(code(&same), 0, "{same:?}");
    let slower = run(&home, "slower", |report| {
        let rate = report["quantities"]["flow.bulk.mbits"].as_f64().unwrap();
        report["quantities"]["flow.bulk.mbits"] = json!(rate * 0.9);
    });
    let worse = compare(&home, &fixture(), &slower, &[]);
    let text = String::from_utf8_lossy(&worse.stdout);
    assert!(code(&worse) == 1 && text.contains("REGRESSION") && text.contains("-10.0 %"), "{worse:?}");
    for more in [&["--bound", "20%"][..], &["--only", "handover."]] {
        assert_eq!(code(&compare(&home, &fixture(), &slower, more)), 0, "{more:?}");
    }
    let json = compare(&home, &fixture(), &slower, &["--format", "json"]);
    let told: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(told["rows"].as_array().unwrap().iter().any(|row| row["regression"] == true));
}

/// Several runs on each side, in a folder each.
#[test]
fn sets_of_runs_are_tested_for_significance() {
    let home = Home::new();
    for (side, rates) in [("a", [100.0, 104.0, 96.0]), ("b", [95.0, 90.0, 99.0]), ("c", [80.0, 78.0, 82.0])] {
        for (n, rate) in rates.into_iter().enumerate() {
            run(&home, &format!("{side}/{n}"), |report| {
                report["quantities"]["flow.bulk.mbits"] = json!(rate);
            });
        }
    }
    let side = |name: &str| home.path().join(name);
    let within = compare(&home, &side("a"), &side("b"), &["--only", "flow.bulk.mbits"]);
    assert_eq!(code(&within), 0, "5.3 % less, and no more than chance: {within:?}");
    let beyond = compare(&home, &side("a"), &side("c"), &["--only", "flow.bulk.mbits"]);
    let text = String::from_utf8_lossy(&beyond.stdout);
    assert!(code(&beyond) == 1 && text.contains("A has 3 runs, B has 3"), "{beyond:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let home = Home::new();
    let other = run(&home, "other", |report| report["scenario"] = json!("direct"));
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (folder, why) in [(&other, "only runs of one scenario"), (&empty, "neither a run")] {
        let refused = compare(&home, &fixture(), folder, &[]);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(code(&refused) == 2 && text.contains(why), "{refused:?}");
    }
    for bad in [&["--bound", "much"][..], &["--bound=-5%"], &["--alpha", "1.5"]] {
        assert_eq!(code(&compare(&home, &fixture(), &fixture(), bad)), 2, "{bad:?}");
    }
}

#[test]
fn a_bundle_is_made_and_schemas_are_told() {
    let home = Home::new();
    let to = home.path().join("bundle.tar.gz");
    let made = home.command(&["bundle"]).arg(fixture()).arg("--out").arg(&to).output().unwrap();
    assert!(code(&made) == 0 && to.metadata().unwrap().len() > 1000, "{made:?}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (of, published) in
        [(&["schema"][..], "report.schema.json"), (&["schema", "scenario"], "scenario.schema.json")]
    {
        let schema = home.command(of).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&schema.stdout),
            fs::read_to_string(docs.join(published)).unwrap()
        );
    }
}

/// As `harness list | head -0`: nobody reads what is printed. That is no error, and a full disk is one.
#[test]
fn a_reader_that_has_seen_enough_ends_nothing() {
    let home = Home::new();
    let same = fixture();
    let same = same.to_str().unwrap();
    for arguments in [&["list"][..], &["schema", "scenario"], &["compare", same, same], &["doctor", "--help"]]
    {
        let printing =
            |stdout: Stdio| home.command(arguments).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let ended = printing(writer.into());
        assert_eq!((code(&ended), String::from_utf8_lossy(&ended.stderr).as_ref()), (0, ""), "{arguments:?}");
        if arguments != ["doctor", "--help"] {
            let full = printing(fs::File::create("/dev/full").unwrap().into());
            assert_eq!(code(&full), 3, "{arguments:?}");
            assert!(String::from_utf8_lossy(&full.stderr).contains("standard output: No space"), "{full:?}");
        }
    }
}
