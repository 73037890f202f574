//! The NATs of a world are what their scenario says, or the run does not begin. Needs what `tests/runs.rs` needs.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Home, code};

const DEPENDENCES: [&str; 3] = ["endpoint-independent", "address-dependent", "address-and-port-dependent"];

const HEAD: &str = r#"
schema = 1
name   = "nats"
about  = "routers, and a host behind the first"
[node]
a = { role = "general", at = "n0" }
x = { role = "general", at = "internet", name = "x.example.test" }
[[flow]]
id   = "echo"
ping = { from = "a", to = "x.example.test", count = 2, interval = "50ms" }
[[flow]]
id   = "left"
exec = { node = "a", command = ["sh", "-c", "ls /run/netns; for n in /run/netns/*; do nsenter --net=$n ip -o addr 2>&1; done; true"] }
[[expect]]
check = "flow.echo.lost == 0 and flow.left.exit == 0"
fail  = "the first router does not translate"
"#;

/// The text of a router, and of the expectation of what is found out about it.
fn router(name: &str, nat: &str, found: &str) -> String {
    format!(
        "[router.{name}]\nnat = {{ {nat} }}\n[[expect]]\ncheck = \"{}\"\nfail = \"{name}: {nat}\"\n",
        found.replace("NAT", &format!("nat.{name}"))
    )
}

/// All pairs of RFC 4787, by preserved and by random ports, and what else can be declared: all probed at once, on real packets. The hosts
/// that probed are gone before anything is recorded (T3.1-f: these are the NATs, unmodified, that all else meets).
#[test]
fn every_nat_is_found_to_be_as_declared() {
    let mut text = HEAD.to_owned();
    let mut count = 0;
    let mut add = |nat: &str, found: &str| {
        text += &router(&format!("n{count}"), nat, found);
        count += 1;
    };
    for mapping in DEPENDENCES {
        for filtering in DEPENDENCES {
            for allocation in ["preserve", "random"] {
                let nat =
                    format!("mapping = '{mapping}', filtering = '{filtering}', allocation = '{allocation}'");
                let hairpin =
                    if [mapping, filtering].contains(&DEPENDENCES[0]) { "and NAT.hairpin" } else { "" };
                let found = format!(
                    "NAT.mapping == '{mapping}' and NAT.filtering == '{filtering}' and NAT.allocation == '{allocation}' {hairpin}"
                );
                add(&nat, &found);
            }
        }
    }
    add("preset = 'port-restricted', hairpin = false", "not NAT.hairpin");
    add("preset = 'symmetric', ports = '40000-40999', timeouts = { udp = '30s' }", "NAT.udp_timeout_s == 30");
    add("preset = 'full-cone', ports = '40000-40999'", "NAT.ports == '40000-40999'");
    add("preset = 'address-restricted', timeouts = { udp = '400ms' }", "NAT.udp_timeout_s == 0.4");

    let home = Home::new();
    let run = home.undisturbed(&home.scenario("nats", &text), &[]);
    let said = String::from_utf8_lossy(&run.stdout);
    assert_eq!(code(&run), 0, "{said}");

    let folder = home.only_run();
    let status: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("status.json")).unwrap()).unwrap();
    for (name, said) in status.as_object().unwrap() {
        assert_eq!(
            (said["mappings"].to_string(), said["refusals"].to_string()),
            ("[]".into(), "{}".into()),
            "{name}"
        );
        assert_eq!(said["probed"]["found"]["faults"].to_string(), "[]", "{name}");
    }
    let left = fs::read_to_string(folder.join("flows/left.out")).unwrap();
    assert!(left.contains("203.0.113.1") && !left.contains("192.88.99."), "{left}");
    assert_eq!(
        left.lines().filter(|line| line.starts_with('-')).count(),
        2,
        "the internet and the wire: {left}"
    );
    let recorded = fs::read(folder.join("run.pcapng")).unwrap();
    assert!(!recorded.windows(3).any(|bytes| bytes == [192, 88, 99]), "a capture shows the probe");
}

/// The links of the scenario do not touch the probe, nor the probe what is reported of the links.
#[test]
fn a_bad_link_is_no_bad_nat() {
    let link = "[link.bad]\nboth = { delay = '40ms', loss = '20%' }\n[router.n0]\nnat = 'port-restricted'\nlink = 'bad'\n";
    let text =
        format!("{}{link}", HEAD.replace("flow.echo.lost == 0", "nat.n0.mapping == 'endpoint-independent'"));
    let home = Home::new();
    let run = home.undisturbed(&home.scenario("bad", &text), &[]);
    assert_eq!(code(&run), 0, "{run:?}");
    if let Ok(links) = fs::read_to_string(home.only_run().join("links.json")) {
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        let frames = links["links"][0]["up"]["frames"].as_u64().unwrap();
        assert!(frames < 10, "two pings, not a probe: {frames}");
    }
}

/// What the probe cannot tell is said, and stops nothing.
#[test]
fn what_cannot_be_probed_is_said() {
    let text = HEAD.to_owned() + "[router.n0]\nnat = { preset = 'symmetric', ports = '40000-40009' }\n";
    let home = Home::new();
    let run = home.undisturbed(&home.scenario("small", &text), &[]);
    assert_eq!(code(&run), 0, "{run:?}");
    assert_eq!(home.report()["unmeasured"]["nat.n0.mapping"], "a probe needs 64 ports, and it has 10");
}

/// Programs of which `ntm-nat` does `wrong` before it begins; `$2` is its configuration.
fn programs(home: &Home, wrong: &str) -> PathBuf {
    let real = Path::new(env!("CARGO_BIN_EXE_harness")).with_file_name("ntm-nat");
    let folder = home.path().join("bin");
    fs::create_dir_all(&folder).expect("a folder");
    let script = folder.join("ntm-nat");
    fs::write(&script, format!("#!/bin/sh\n{wrong}\nexec {} \"$@\"\n", real.display())).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    folder
}

/// What a run says whose routers do `wrong`.
fn refusal(nat: &str, wrong: &str) -> String {
    let home = Home::new();
    let text = format!("{HEAD}[router.n0]\nnat = {nat}\n[router.n1]\nnat = 'none'\n");
    let bin = programs(&home, wrong);
    let run = home.run(&home.scenario("wrong", &text), &["--bin", &bin.display().to_string()]);
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(code(&run), 3, "{said}");
    assert_eq!(home.report()["verdict"], "error");
    assert!(said.contains("the router `n0` is not the NAT that it was declared to be:"), "{said}");
    said
}

#[test]
fn a_router_that_is_not_as_declared_stops_the_run() {
    let change = |from: &str, to: &str| format!("sed -i 's/{from}/{to}/' \"$2\"");
    let said = refusal("'port-restricted'", &change("port-restricted", "address-restricted"));
    assert!(
        said.contains("filtering: declared address-and-port-dependent, observed address-dependent"),
        "{said}"
    );
    let said = refusal("'full-cone'", &change("full-cone", "symmetric"));
    assert!(
        said.contains("mapping: declared endpoint-independent, observed address-and-port-dependent"),
        "{said}"
    );
    assert!(said.contains("allocation: declared preserve, observed random"), "{said}");
    let said =
        refusal("{ preset = 'full-cone', hairpin = false }", &change("hairpin = false", "hairpin = true"));
    assert!(said.contains("hairpin: declared false, observed true"), "{said}");
    let said =
        refusal("{ preset = 'symmetric', ports = '40000-40999' }", &change("40000-40999", "41000-41999"));
    assert!(said.contains("ports: declared 40000-40999, observed port 41"), "{said}");
    let said = refusal(
        "{ preset = 'symmetric', timeouts = { udp = '30s' } }",
        &change("udp = \"30s\"", "udp = \"31s\""),
    );
    assert!(said.contains("UDP timeout: declared 30s, observed 31s"), "{said}");
    let said = refusal("{ preset = 'symmetric', timeouts = { udp = '400ms' } }", &change("400ms", "900ms"));
    assert!(said.contains("UDP timeout: declared 400ms, observed a longer one"), "{said}");
}

/// What Linux does by itself, with masquerade and no more, is no NAT of RFC 4787.
#[test]
fn masquerade_alone_is_refused() {
    let masquerade = "sed -i 's/port-restricted/none/' \"$2\"\n\
        nft 'table ip m { chain c { type nat hook postrouting priority 100; oifname \"wan0\" masquerade; }; }'";
    let said = refusal("'port-restricted'", masquerade);
    assert!(said.contains("two hosts have one outer port"), "{said}");
    assert!(said.contains("an early packet of a peer moved a mapping"), "{said}");
}
