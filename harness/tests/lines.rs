//! A scenario whose links have delays, on whatever this kernel offers for it. Needs root or user namespaces, ping and iperf3.

use std::path::Path;
use std::process::Command;

#[test]
fn links_have_the_delay_and_rate_they_are_asked_to_have() {
    let runs = tempfile::tempdir().expect("a folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lines.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.arg("run").arg(scenario).arg("--out").arg(runs.path());
    let output = command.output().expect("the harness runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}{}", said(&output.stdout), said(&output.stderr));
}
