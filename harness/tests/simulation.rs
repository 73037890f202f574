//! Scenarios in the simulator, and in both worlds: the same file, the same verdict.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Home, code};
use serde_json::Value;

/// MN pings a general node and a terminal, and moves from a NAT to the public network.
const MOVES: &str = r#"
schema = 1
name   = "moves"
about  = "MN behind a NAT pings GN and CN, and moves"
seed   = 42
[link.wifi]
both = { rate = "150mbit", delay = "2ms" }
[router.apnat_a]
nat = "port-restricted"
[router.ap]
nat = "none"
[node]
root = { role = "dns",         at = "internet", zone = "." }
dc   = { role = "coordinator", at = "internet", zone = "dc.ntm.test", vips = "198.18.0.0/16" }
rs   = { role = "relay",       at = "internet" }
gn   = { role = "general",     at = "internet", name = "www.example.test" }
cn   = { role = "terminal",    at = "internet" }
[node.mn]
role  = "terminal"
wlan0 = { at = "apnat_a", link = "wifi" }
wlan1 = { at = "ap", link = "wifi", state = "down" }
[[flow]]
id   = "name"
ping = { from = "mn", to = "www.example.test", count = 5 }
[[flow]]
id    = "probe"
start = "1s"
ping  = { from = "mn", to = "www.example.test", count = 200, interval = "10ms" }
[[flow]]
id    = "peer"
start = "1s"
ping  = { from = "mn", to = "cn.dc.ntm.test", count = 40, interval = "50ms" }
[[at]]
time     = "2s"
handover = { node = "mn", from = "wlan0", to = "wlan1", gap = "100ms" }
[[expect]]
check = "flow.name.lost == 0 and flow.name.virtual and flow.name.rtt_min_ms >= 4"
fail  = "the general node did not answer every ping"
[[expect]]
check = "handover.interruption_ms < 10 * flow.name.rtt_avg_ms + 50 and flow.probe.lost <= 2"
fail  = "the path came back too late after MN's new address was up"
[[expect]]
check = "path.mn.gn.route == 'RS-N' and path.mn.cn.route == path.mn.cn.oracle and path.cn.mn.route == 'direct'"
fail  = "the ways are not those that there should be"
[[expect]]
after    = "handover"
sequence = [
    "mn: sent RegistrationRequest to=dc",
    "dc: received RegistrationRequest from=mn",
    "*: relay-table renewed mode=RS-N",
    "mn: path-changed RS-N remote=rs",
]
fail = "after the handover, MN did not build its tunnel anew"
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// T4.2.5-a, T4.2.5-b in virtual time; one seed gives one trace, byte for byte.
#[test]
fn the_same_file_runs_in_virtual_time_and_always_alike() {
    let traces = [0, 1].map(|_| {
        let home = Home::new();
        let run = home.run(&home.scenario("moves", MOVES), &["--engine", "sim"]);
        assert_eq!(code(&run), 0, "{}{}", text(&run.stdout), text(&run.stderr));
        let report = home.report();
        assert_eq!(
            (report["engine"].as_str(), report["verdict"].as_str()),
            (Some("simulation"), Some("held"))
        );
        assert_eq!(report["quantities"]["handover.gap_ms"], 100.0);
        assert!(report["relay_table"]["rs"].as_array().is_some_and(|rows| !rows.is_empty()), "{report:#}");
        for left in ["scenario.toml", "status.json", "tables.md", "series.json", "report.html"] {
            assert!(home.only_run().join(left).exists(), "{left}");
        }
        assert!(home.states().is_empty());
        fs::read_to_string(home.only_run().join("events.jsonl")).expect("a trace")
    });
    assert!(traces[0].lines().count() > 100);
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn an_expectation_that_fails_ends_with_1_and_a_run_without_end_with_124() {
    let home = Home::new();
    let failing = MOVES.replace("flow.name.lost == 0", "flow.name.lost == 1");
    let run = home.run(&home.scenario("fails", &failing), &["--engine", "sim"]);
    assert_eq!(code(&run), 1, "{}", text(&run.stdout));
    assert!(text(&run.stdout).contains("| flow.name.lost = 0"), "{}", text(&run.stdout));
    let short = MOVES.replace("seed   = 42", "timeout = \"2050ms\"");
    let run = home.run(&home.scenario("long", &short), &["--engine", "sim"]);
    assert_eq!(code(&run), 124, "{}", text(&run.stdout));
}

#[test]
fn what_the_simulator_does_not_run_is_refused_by_name() {
    let home = Home::new();
    let flows = "[[flow]]\nid = \"bulk\"\niperf3 = { from = \"cn\", to = \"www.example.test\", duration = \"1s\" }\n\
        [[flow]]\nid = \"routes\"\nexec = { node = \"mn\", command = \"ip\" }\n";
    let run = home.run(&home.scenario("bulk", &format!("{MOVES}{flows}")), &["--engine", "both"]);
    assert_eq!(code(&run), 2, "{}", text(&run.stdout));
    let said = text(&run.stderr);
    for wanted in
        ["how much flow `bulk` transfers", "`exec` so, which flow `routes` is", "--engine emulation"]
    {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(home.runs().is_empty());
}

/// Every scenario of the project holds in virtual time as it does on real packets, but for those that are refused, each for what the simulator does not do.
#[test]
fn every_scenario_holds_in_the_simulator_or_is_refused_by_name() {
    let refused = [
        ("large-datagrams", "cuts nothing up"),
        ("relay-dies", "`exec`"),
        ("rs-n-6", "only IPv6"),
        ("rs-n-ftp", "`ftp`"),
        ("rs-n-sip", "`sip`"),
        ("soak", "`exec`"),
        ("terminals-200", "`node.t1.memory_mb`"),
        ("thesis-throughput-unlimited", "nothing bounds"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let next = AtomicUsize::new(0);
    let one = |file: &Path| {
        let home = Home::new();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = home.run(file, &["--engine", "sim", "--once"]);
        let said = text(&run.stdout) + &text(&run.stderr);
        match refused.iter().find(|(refused, _)| *refused == name) {
            Some((_, why)) => assert!(code(&run) == 2 && said.contains(why), "{name}: {said}"),
            None => assert_eq!(code(&run), 0, "{name}: {said}"),
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(file);
                }
            });
        }
    });
    assert!(files.len() > 25 && next.into_inner() >= files.len());
}

/// T3.2-seq, T4.2.2-seq, T4.2.5-a: the messages between each two nodes, what each does by itself, and the routes of paths are the same.
#[test]
fn both_worlds_see_the_same() {
    let home = Home::new();
    let run = home.run(&home.scenario("moves", MOVES), &["--engine", "both"]);
    assert_eq!(code(&run), 0, "{}{}", text(&run.stdout), text(&run.stderr));
    let folder = home.only_run();
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).expect(name)).expect("JSON")
    };
    assert_eq!(read("differences.json"), serde_json::json!([]));
    for engine in ["emulation", "simulation"] {
        assert_eq!(read(&format!("{engine}/report.json"))["engine"], engine);
    }
}
