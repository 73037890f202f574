//! The project's own scenarios, run whole: real daemons, real packets. One at a time, for they measure.
//!
//! The evidence for T6.2-b, T3.2-seq, T4.1.2-seq, T4.2.2-seq and what else the scenario files cite.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use common::{Home, code};
use serde_json::Value;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `scenarios/NAME.toml`; it must hold. Its report.
fn holds(name: &str) -> (Home, Value) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    let file: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(name).with_extension("toml");
    let run = home.run(&file, &[]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(code(&run), 0, "{name}\n{}\n{}", text(&run.stdout), text(&run.stderr));
    let report = home.report();
    (home, report)
}

fn quantity(report: &Value, name: &str) -> f64 {
    report["quantities"][name].as_f64().unwrap_or_else(|| panic!("{name} was not measured: {report:#}"))
}

#[test]
fn direct() {
    holds("direct");
}

#[test]
fn rs_s() {
    holds("rs-s");
}

#[test]
fn rs_n() {
    holds("rs-n");
}

/// The main job. Beside the file's own expectations: the first byte comes within three seconds of the start, and the run adds less
/// than three to its scenario's nine.
#[test]
fn handover() {
    let (_home, report) = holds("handover");
    assert!(quantity(&report, "run.first_byte_ms") < 3000.0);
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds < 9.0 + 3.0), "{report:#}");
}

#[test]
fn handover_rs_s() {
    holds("handover-rs-s");
}

#[test]
fn handover_direct() {
    holds("handover-direct");
}
