//! The table in the kernel: one element a translation, set by netlink, seen by nft.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ntm_protocol::addr::Vip;
use ntm_relay::rs_n::RsN;

use crate::peers::VIP_GN;
use crate::world::{GENERAL, Namespace, RELAY, World};

/// RS-N within a namespace; the runtime is its TUN's.
fn open(namespace: &Namespace) -> RsN {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let vips = "198.18.0.0/15".parse().expect("a range");
        runtime
            .block_on(RsN::open("ntm0", vips, vec![RELAY.into()], 4330))
            .unwrap_or_else(|failure| panic!("RS-N: {failure}"))
    })
}

/// The elements of the map as nft shows them, in order.
fn elements(namespace: &Namespace) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let listed = namespace.must("nft -j list map ip ntm-relay-ntm0 general");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let map = listed["nftables"].as_array().and_then(|all| all.iter().find_map(|one| one.get("map")));
    let address = |value: &serde_json::Value| value.as_str().expect("text").parse().expect("an address");
    let pairs = map.expect("the map")["elem"].as_array().cloned().unwrap_or_default();
    let mut pairs: Vec<_> = pairs.iter().map(|pair| (address(&pair[0]), address(&pair[1]))).collect();
    pairs.sort();
    pairs
}

#[test]
fn translations_are_elements_of_the_kernels_map() {
    let world = World::new();
    world.relay.must("nft add table ip another");
    let mut rs_n = open(&world.relay);
    assert_eq!(elements(&world.relay), []);
    let [first, second] = VIP_GN;
    rs_n.translate(Vip(first), GENERAL[0].into()).expect("translated");
    rs_n.translate(Vip(second), GENERAL[1].into()).expect("translated");
    rs_n.translate(Vip(second), GENERAL[1].into()).expect("once more");
    assert_eq!(elements(&world.relay), [(first, GENERAL[0]), (second, GENERAL[1])]);
    rs_n.translate(Vip(second), GENERAL[0].into()).expect("another address");
    rs_n.untranslate(Vip(first)).expect("no more");
    rs_n.untranslate(Vip(first)).expect("nothing to do");
    assert_eq!(elements(&world.relay), [(second, GENERAL[0])]);
    assert!(rs_n.translations().iter().eq([(&second, &GENERAL[0].into())]));
    drop(rs_n);
    assert_eq!(world.relay.must("nft list tables"), "table ip another\n");
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let world = World::new();
    let mut rs_n = open(&world.relay);
    world.relay.must("nft delete table ip ntm-relay-ntm0");
    let error = rs_n.translate(Vip(VIP_GN[0]), GENERAL[0].into()).expect_err("there is no table");
    insta::assert_snapshot!(error, @"the kernel does not take the translation 198.18.128.1 : 203.0.113.80: No such file or directory (os error 2)");
    assert!(rs_n.translations().is_empty());
}

/// Design: adding an entry takes less than a millisecond. Much less, but a busy machine measures itself.
#[test]
fn adding_a_translation_takes_less_than_a_millisecond() {
    let world = World::new();
    let mut rs_n = open(&world.relay);
    let real = |n: u16| IpAddr::from([203, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    let general = |n: u16| Vip([198, 19, n.to_be_bytes()[0], n.to_be_bytes()[1]].into());
    let mut took: Vec<Duration> = (0..2000)
        .map(|n| {
            let start = Instant::now();
            rs_n.translate(general(n), real(n)).expect("translated");
            start.elapsed()
        })
        .collect();
    took.sort();
    let (median, late) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!("adding one of 2000 translations: median {median:?}, 99 % within {late:?}");
    assert!(median < Duration::from_millis(1), "median {median:?}");
    assert_eq!(elements(&world.relay).len(), 2000);
}
