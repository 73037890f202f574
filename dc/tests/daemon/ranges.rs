//! Two DCs whose virtual ranges overlap (T3.1-a): the second is refused when it starts.

use serde_json::json;

use crate::hand::Hand;
use crate::names::Names;
use crate::process::{Dc, Files, LAB, SITE, traced};
use crate::space::Space;

/// The newcomer ends with exit code 2 and says whose range is in the way, having handed out nothing. Who was there goes on, and both have it
/// in their traces.
#[test]
fn t3_1_a_a_dc_whose_range_is_anothers_does_not_serve() {
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE));
    // It was not told its neighbour's range, so it asks.
    let files = Files::new(&LAB)
        .with("\"198.18.1.0/24\"", "\"198.18.0.0/25\"")
        .with("\"ns.dc.test\" = \"198.18.0.0/24\"", "");
    let (code, said, told) = files.run(&space);
    assert_eq!((code, said.as_str()), (Some(2), ""), "{told}");
    // Above it may stand what the library has to say of a look-up.
    let told = told.lines().last().unwrap_or_default();
    insta::assert_snapshot!(told, @"ntm-dc: the virtual range 198.18.0.0/25 overlaps with 198.18.0.0/24, says 'ns.dc.test': give each DC a range of its own ('vips')");
    for (trace, from) in [(dc.files.trace(), "127.0.0.20:4330"), (files.trace(), "127.0.0.10:4330")] {
        let refused = traced(&trace, "refused");
        let told: Vec<_> =
            refused.iter().map(|line| (&line["from"], &line["field"], &line["reason"])).collect();
        assert_eq!(told, [(&json!(from), &json!("vips"), &json!("contradicts what is known here"))]);
    }
    assert!(files.snapshot().nodes.is_empty());
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    assert!(mn.register(1).1.vip.is_some());
    assert_eq!(dc.status()["overlap"], json!(null));
}

/// One that cannot be asked holds nobody up for longer than a negotiation may take.
#[test]
fn t3_1_a_a_neighbour_that_is_not_there_is_not_waited_for_long() {
    let space = Space::new();
    let _names = Names::start(&space);
    let dc = Dc::start(&space, Files::new(&SITE).with("\"ns.lab.test\" = \"198.18.1.0/24\"", ""));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    let start = std::time::Instant::now();
    // Its request stays without an answer as long as nobody knows; it is repeated, as a terminal does.
    let answered = (1..100).find(|n| mn.tries_to_register(*n, std::time::Duration::from_millis(250)));
    assert!(
        answered.is_some() && start.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() > std::time::Duration::from_secs(1),
        "nobody was waited for: {:?}",
        start.elapsed()
    );
    assert_eq!(dc.status()["overlap"], json!(null));
}
