//! The thesis's figures in both worlds: the sequences of Figs. 3.2, 4.1 and 4.3 and the address transitions of Figs. 4.2 and 4.4, one reviewed
//! snapshot each, which the simulation and real daemons on real packets must both give.

mod common;

use std::fs;

use common::{Home, code, transitions};
use ntm_harness::plan::address;
use ntm_harness::run::both;
use ntm_harness::scenario::{check, source::Source};

/// One ping by name; what MN, CN and GN are behind differs.
fn scenario(name: &str, mn: &str, cn: &str, to: &str) -> String {
    format!(
        r#"
schema = 1
name   = "{name}"
about  = "One ping by name"
seed   = 42
[router.nat_mn]
nat = "symmetric"
[router.nat_cn]
nat = "symmetric"
[node]
root = {{ role = "dns",         at = "internet", zone = "." }}
dc_a = {{ role = "coordinator", at = "internet", zone = "a.ntm.test", vips = "198.18.0.0/16" }}
dc_b = {{ role = "coordinator", at = "internet", zone = "b.ntm.test", vips = "198.19.0.0/16" }}
rs   = {{ role = "relay",       at = "internet", coordinator = ["dc_a", "dc_b"] }}
gn   = {{ role = "general",     at = "internet", name = "www.example.test" }}
mn   = {{ role = "terminal",    at = "{mn}", coordinator = "dc_a" }}
cn   = {{ role = "terminal",    at = "{cn}", coordinator = "dc_b" }}
[[flow]]
id   = "name"
ping = {{ from = "mn", to = "{to}", count = 2 }}
[[expect]]
check = "flow.name.lost == 0"
fail  = "a ping was lost"
"#
    )
}

/// The normalised sequence from the application's query on, and the address transitions, in each world.
fn figures(name: &str, text: &str) -> [[String; 2]; 2] {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let plan = address::plan(&check(&source).unwrap_or_else(|message| panic!("{message}"))).expect("a plan");
    ["emulation", "simulation"].map(|engine| {
        let home = Home::new();
        let run = home.undisturbed(&home.scenario(name, text), &["--engine", engine]);
        assert_eq!(code(&run), 0, "{engine}: {run:?}");
        let events = fs::read_to_string(home.only_run().join("events.jsonl")).expect("the events");
        let from = events.lines().position(|line| line.contains("\"what\":\"query\"")).expect("a query");
        let events: String = events.lines().skip(from).flat_map(|line| [line, "\n"]).collect();
        [both::sequence(&events, &plan).to_string(), transitions(&home)]
    })
}

/// T3.2-seq, T3.2.4-a: CN is global; the path is direct.
#[test]
fn fig_3_2_is_the_same_in_both_worlds() {
    let text = scenario("fig-3-2", "nat_mn", "internet", "cn.b.ntm.test");
    for [sequence, transitions] in figures("fig-3-2", &text) {
        insta::assert_snapshot!("fig_3_2_sequence", sequence);
        insta::assert_snapshot!("fig_3_2_transitions", transitions);
    }
}

/// T4.1.2-seq, T4.1.3-a (Fig. 4.2): both are behind NATs between which there is no direct way.
#[test]
fn fig_4_1_is_the_same_in_both_worlds() {
    let text = scenario("fig-4-1", "nat_mn", "nat_cn", "cn.b.ntm.test");
    for [sequence, transitions] in figures("fig-4-1", &text) {
        insta::assert_snapshot!("fig_4_1_sequence", sequence);
        insta::assert_snapshot!("fig_4_1_transitions", transitions);
    }
}

/// T4.2.2-seq, T4.2.3-a (Fig. 4.4): the peer is a general node.
#[test]
fn fig_4_3_is_the_same_in_both_worlds() {
    let text = scenario("fig-4-3", "nat_mn", "nat_cn", "www.example.test");
    for [sequence, transitions] in figures("fig-4-3", &text) {
        insta::assert_snapshot!("fig_4_3_sequence", sequence);
        insta::assert_snapshot!("fig_4_3_transitions", transitions);
    }
}
