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

const ROUTES: &str = "[[flow]]\nid = \"routes\"\nexec = { node = \"mn\", command = \"ip\" }\n";
const BULK: &str =
    "[[flow]]\nid = \"bulk\"\niperf3 = { from = \"cn\", to = \"www.example.test\", duration = \"1s\" }\n";

fn text_of(run: &std::process::Output) -> String {
    text(&run.stdout) + &text(&run.stderr)
}

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
    let run = home.run(&home.scenario("bulk", &format!("{MOVES}{BULK}")), &["--engine", "both"]);
    assert_eq!(code(&run), 2, "{}", text(&run.stdout));
    let said = text(&run.stderr);
    assert!(said.contains("how much flow `bulk` transfers"), "{said}");
    let (network, _) = MOVES.split_once("[[flow]]").expect("flows");
    let run = home.run(&home.scenario("alone", &format!("{network}{ROUTES}")), &["--engine", "sim"]);
    let said = text(&run.stderr);
    for wanted in [
        "all flows are programs of the host, which the simulation has not: `routes` is `exec`",
        "--engine emulation",
    ] {
        assert!(code(&run) == 2 && said.contains(wanted), "{said}");
    }
    assert!(home.runs().is_empty());
}

/// Where there is more to see, what is a program of the host is left out, by name, and what is expected of it is not judged.
#[test]
fn programs_of_the_host_are_left_out_by_name() {
    let home = Home::new();
    let more = "[[expect]]\ncheck = \"flow.routes.exit == 0\"\nfail = \"it failed\"\n";
    let run = home.run(&home.scenario("moves", &format!("{MOVES}{ROUTES}{more}")), &["--engine", "sim"]);
    let said = text(&run.stdout);
    assert_eq!(code(&run), 0, "{said}{}", text(&run.stderr));
    for wanted in [
        "note: left out of the simulation",
        "flow `routes`, which is `exec`",
        "what is expected of `flow.routes.exit`",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    let report = home.report();
    assert_eq!(report["expectations"].as_array().map(Vec::len), Some(4));
    assert_eq!(report["unmeasured"]["flow.routes.exit"], "the simulation has no programs of the host");
}

/// Every scenario of the project holds in virtual time as it does on real packets, but for those that are refused, each for what the simulator does not do.
#[test]
fn every_scenario_holds_in_the_simulator_or_is_refused_by_name() {
    let refused =
        [("rs-n-ftp", "`ftp`"), ("rs-n-sip", "`sip`"), ("thesis-throughput-unlimited", "nothing bounds")];
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

/// T3.2-seq, T4.2.2-seq, T4.2.5-a: the messages between each two nodes, what each does by itself, the ways of paths, their hops, and what the handover takes are the
/// same. What one of them refuses is skipped and named, and is no difference.
#[test]
fn both_worlds_see_the_same_and_what_one_cannot_run_is_skipped() {
    let home = Home::new();
    let refused = home.scenario("refused", &format!("{MOVES}{BULK}").replace("\"moves\"", "\"refused\""));
    let group = "[node.t]\nrole = \"terminal\"\nat = \"internet\"\ncount = 2000\n[[flow]]";
    let large = MOVES.replacen("[[flow]]", group, 1).replace("\"moves\"", "\"large\"");
    let large = home.scenario("large", &large);
    let too_large = large.to_str().expect("a path");
    let file = home.scenario("moves", MOVES);
    let path = file.to_str().expect("a path");
    let run = home.run(&refused, &[too_large, path, "--engine", "both"]);
    let said = text(&run.stdout);
    assert_eq!(code(&run), 0, "{said}{}", text(&run.stderr));
    let of = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(
        of("refused").contains("skipped: not in simulation: nothing bounds how much flow `bulk`"),
        "{said}"
    );
    assert!(of("large").contains("skipped: not in emulation: `t` are 2000 terminals"), "{said}");
    assert!(said.ends_with("moves    held, no difference\n1 compared: no difference; 2 skipped\n"), "{said}");
    let folder = home.only_run();
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).expect(name)).expect("JSON")
    };
    let compared = read("differences.json");
    assert_eq!([&compared["differences"], &compared["left_out"]], [&serde_json::json!([]); 2]);
    assert!(compared["until_s"].as_f64().is_some_and(|until| until > 2.0), "{compared}");
    for engine in ["emulation", "simulation"] {
        assert_eq!(read(&format!("{engine}/report.json"))["engine"], engine);
    }
    assert_eq!(code(&home.run(&refused, &[refused.to_str().expect("a path"), "--engine", "both"])), 2);
}

/// Every kind of flow that both worlds run and `MOVES` has not.
const FLOWS: &str = r#"
schema = 1
name   = "flows"
about  = "Several connections, datagrams at a rate, small messages, questions to the DNS"
seed   = 7
[link.dsl]
both = { rate = "20mbit", delay = "3ms" }
[router.home]
nat = "port-restricted"
[node]
root = { role = "dns",         at = "internet", zone = "." }
dc   = { role = "coordinator", at = "internet", zone = "dc.ntm.test", vips = "198.18.0.0/16" }
rs   = { role = "relay",       at = "internet" }
gn   = { role = "general",     at = "internet", name = "www.example.test" }
cn   = { role = "terminal",    at = "internet" }
mn   = { role = "terminal",    at = "home", link = "dsl" }
[[flow]]
id     = "many"
iperf3 = { from = "mn", to = "cn.dc.ntm.test", duration = "1s", streams = 3, rate = "1mbit", length = "1kB" }
[[flow]]
id     = "back"
iperf3 = { from = "mn", to = "www.example.test", duration = "1s", reverse = true, streams = 2, rate = "2mbit" }
[[flow]]
id     = "out"
iperf3 = { from = "mn", to = "cn.dc.ntm.test", duration = "1s", udp = true, rate = "2mbit", length = "1kB" }
[[flow]]
id     = "in"
iperf3 = { from = "mn", to = "www.example.test", duration = "1s", udp = true, rate = "1mbit", streams = 2, reverse = true }
[[flow]]
id       = "small"
start    = "2s"
pingpong = { from = "mn", to = "cn.dc.ntm.test", count = 50, size = "100B" }
[[flow]]
id   = "own"
ends = "complete"
dns  = { node = "mn", name = "cn.dc.ntm.test", count = 3 }
[[flow]]
id   = "six"
ends = "failed"
dns  = { node = "mn", name = "cn.dc.ntm.test", record = "AAAA", count = 3 }
[[flow]]
id   = "nobody"
ends = "failed"
dns  = { node = "mn", name = "nobody.dc.ntm.test", count = 2 }
[[flow]]
id   = "real"
ends = "complete"
dns  = { node = "mn", name = "www.example.test", server = "root", count = 3 }
[[flow]]
id   = "terminal"
ends = "complete"
dns  = { node = "gn", name = "cn.dc.ntm.test", record = "TXT", server = "dc", count = 2 }
[[flow]]
id   = "elsewhere"
ends = "failed"
dns  = { node = "mn", name = "www.example.org", server = "dc", count = 1 }
[[expect]]
check = "flow.many.completed and flow.many.connections == 3 and flow.many.virtual and flow.many.bytes > 360e3 and flow.many.bytes < 420e3"
fail  = "three connections did not carry 3 Mbit/s together"
[[expect]]
check = "flow.back.completed and flow.back.connections == 2 and flow.back.bytes > 480e3 and flow.back.bytes < 900e3"
fail  = "two connections did not carry 4 Mbit/s together"
[[expect]]
check = "flow.out.completed and flow.out.sent > 245 and flow.out.sent < 255 and flow.out.lost == 0 and flow.out.bytes > 245e3 and flow.out.jitter_ms < 10"
fail  = "datagrams of 1 kB did not come at 2 Mbit/s"
[[expect]]
check = "flow.in.completed and flow.in.received == flow.in.sent and flow.in.bytes / flow.in.received > 1371.9 and flow.in.bytes / flow.in.received < 1372.1"
fail  = "a datagram is not as long as a segment of the control connection"
[[expect]]
check = "flow.in.mbits > 1.9 and flow.in.mbits < 2.1"
fail  = "two streams did not come at 1 Mbit/s each"
[[expect]]
check = "flow.small.exchanged == 50 and flow.small.rtt_min_ms >= 6 and flow.small.rtt_p50_ms < 30 and flow.small.virtual"
fail  = "small messages did not take a round trip"
[[expect]]
check = "flow.own.resolved == 3 and flow.own.virtual and flow.own.rcode == 'NOERROR'"
fail  = "the terminal did not answer with a virtual address once the tunnel stood"
[[expect]]
check = "flow.six.answered == 3 and flow.six.resolved == 0 and flow.six.rcode == 'NOERROR' and flow.nobody.rcode == 'NXDOMAIN' and flow.nobody.answered == 2"
fail  = "the terminal answered what there is not"
[[expect]]
check = "flow.real.remote_address == node.gn.address and not flow.real.virtual and flow.real.time_first_ms >= 6"
fail  = "a server did not answer with the real address"
[[expect]]
check = "flow.terminal.resolved == 2 and flow.elsewhere.answered == 1 and flow.elsewhere.rcode == 'REFUSED'"
fail  = "the coordinator does not answer for its zone, and for no other"
"#;

/// T3.2.2-a, T3.2.2-b: iperf3 with several connections and over UDP, small messages and questions to the DNS measure the same in both worlds.
#[test]
fn flows_of_every_kind_measure_the_same_in_both_worlds() {
    let home = Home::new();
    let run = home.undisturbed(&home.scenario("flows", FLOWS), &["--engine", "both"]);
    assert_eq!(code(&run), 0, "{}", text_of(&run));
    let of = |engine: &str| {
        let file = home.only_run().join(engine).join("report.json");
        let report: Value = serde_json::from_str(&fs::read_to_string(file).expect("a report")).expect("JSON");
        let flows = report["quantities"].as_object().expect("quantities").clone();
        flows.into_iter().filter(|(name, _)| name.starts_with("flow.")).collect::<Vec<_>>()
    };
    // Processor time is that of processes.
    let names = |engine: &str| {
        let names =
            of(engine).into_iter().map(|(name, _)| name).filter(|name| !name.ends_with(".cpu_s_per_gb"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("simulation"), names("emulation"));
    let told = |engine: &str| {
        let told = of(engine).into_iter().filter(|(_, value)| !value.is_number());
        told.filter(|(name, _)| !name.ends_with("source_address")).collect::<Vec<_>>()
    };
    assert_eq!(told("simulation"), told("emulation"));
}

/// A process's memory is judged where there is a process; a run without one says so.
#[test]
fn what_is_expected_of_a_process_is_not_judged_in_the_simulator() {
    let home = Home::new();
    let more = "[[expect]]\ncheck = \"node.mn.memory_mb < 1\"\nfail = \"too much\"\n";
    let run = home.run(&home.scenario("moves", &format!("{MOVES}{more}")), &["--engine", "sim"]);
    let said = text(&run.stdout);
    assert_eq!(code(&run), 0, "{said}{}", text(&run.stderr));
    assert!(
        said.contains("note: not judged in the simulation") && said.contains("`node.mn.memory_mb`"),
        "{said}"
    );
    assert_eq!(home.report()["expectations"].as_array().map(Vec::len), Some(4));
}

/// No root, no network, no clock: where no namespace can be made, nobody has a capability, there is no network and no TUN, a simulated run is what
/// it is elsewhere, and emulation says that it cannot.
#[test]
fn no_privilege_is_needed() {
    let home = Home::new();
    let file = home.scenario("moves", MOVES);
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_net_namespaces \
                  && if [ -d /dev/net ]; then mount -t tmpfs none /dev/net; fi \
                  && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"";
    let bare = |engine: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", script, "sh"]);
        command
            .arg(env!("CARGO_BIN_EXE_harness"))
            .arg("run")
            .arg(&file)
            .args(["--quiet", "--engine", engine]);
        command.arg("--out").arg(home.path().join("bare")).env("XDG_STATE_HOME", home.path().join("state"));
        command.output().expect("unshare is there")
    };
    let emulated = bare("emulation");
    assert_eq!(
        code(&emulated),
        4,
        "it has no privilege: {}{}",
        text(&emulated.stdout),
        text(&emulated.stderr)
    );
    let simulated = bare("sim");
    assert_eq!(code(&simulated), 0, "{}{}", text(&simulated.stdout), text(&simulated.stderr));
    assert_eq!(code(&home.run(&file, &["--engine", "sim", "--quiet"])), 0);
    let runs: Vec<_> =
        fs::read_dir(home.path().join("bare")).expect("runs").map(|run| run.expect("a run").path()).collect();
    let [bare] = runs.as_slice() else { panic!("{runs:?}") };
    let trace = |run: &Path| fs::read(run.join("events.jsonl")).expect("a trace");
    assert!(trace(bare) == trace(&home.only_run()), "one seed, one trace");
}

/// T4-a, T7-a: of three hundred paths the nearest relay has all, the first all, or each its share, by the coordinator's policy.
#[test]
fn relays_share_paths_by_the_policy() {
    let home = Home::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/scale-relays.toml");
    let run = home.run(&file, &["--engine", "sim", "--quiet"]);
    assert_eq!(code(&run), 0, "{}", text_of(&run));
    let report = home.report();
    let share = |cell: &str, relay: &str| {
        report["samples"][format!("cell.{cell}.relay.{relay}.share")][0].as_f64().expect("a share")
    };
    assert_eq!((share("best", "rs_near"), share("best", "rs_far")), (1.0, 0.0));
    let all = ["rs_near", "rs_mid", "rs_far"].map(|relay| share("random", relay));
    assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-9 && all.iter().all(|share| *share < 0.5), "{all:?}");
}

/// What is too large for real packets, and what happens to many at once, is told by name.
#[test]
fn emulation_refuses_what_is_too_large_for_it() {
    let home = Home::new();
    let many = |count: u32, more: &str| {
        let text = format!(
            "schema = 1\nname = \"many\"\nabout = \"many\"\n[internet]\nprefix = \"100.64.0.0/16\"\n[node]\n\
             root = {{ role = \"dns\", at = \"internet\", zone = \".\" }}\n\
             dc = {{ role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }}\n\
             crowd = {{ role = \"terminal\", at = \"internet\", count = {count} }}\n{more}"
        );
        let run = home.run(&home.scenario("many", &text), &["--quiet", "--engine", "emulation"]);
        (code(&run), text_of(&run))
    };
    let (exit, said) = many(1001, "");
    assert_eq!(exit, 2, "{said}");
    assert!(said.contains("`crowd` are 1001 terminals") && said.contains("--engine sim"), "{said}");
    let (exit, said) = many(3, "[[at]]\ntime = \"1s\"\nkill = { node = \"crowd\" }\n");
    assert_eq!(exit, 2, "{said}");
    assert!(said.contains("`crowd` is a group") && said.contains("as `crowd1`"), "{said}");
    let (exit, said) = many(3, "[[at]]\ntime = \"1s\"\nkill = { node = \"crowds\" }\n");
    assert_eq!(exit, 2, "{said}");
    assert!(said.contains("did you mean `crowd`?"), "{said}");
}
