//! The suites of data packets, and that no number comes twice under one key.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Lab, PERIOD, inside, ms, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::crypto::Suite;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::wire::{Header, Kind};
use ntm_sim::{HostId, World};

/// The headers of the data packets that came to `host`, and the packets.
fn data(world: &World, host: HostId) -> Vec<(Header, Vec<u8>)> {
    let of = world.recorded().iter().filter(|datagram| datagram.host == host);
    of.filter_map(|datagram| Some((Header::parse(&datagram.bytes).ok()?, datagram.bytes.clone())))
        .filter(|(header, _)| header.kind == Kind::Data)
        .collect()
}

/// Packets flow in each suite through RS-S and RS-N, and an RS-S switches them as they are (T4.1.3-a).
#[test]
fn each_suite_carries_packets_through_both_kinds_of_relay() {
    for suite in Suite::ALL {
        let mut lab = Lab::new(61);
        lab.world.settings.suite = suite;
        let (a, b) = (lab.nat(Behaviour::SYMMETRIC), lab.nat(Behaviour::SYMMETRIC));
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)));
        lab.start();
        lab.world.record();
        let talk = lab.talk(mn, cn);
        assert_eq!(lab.route(cn), RouteName::Switched);
        lab.assert_flowing(talk);
        lab.world.hang_up(talk);
        lab.world.run_for(secs(1));
        let [switched, arrived] = [lab.rs, cn].map(|host| data(&lab.world, host));
        assert!(arrived.len() > 50 && arrived.iter().all(|packet| packet.0.suite == suite as u8));
        assert!(arrived.iter().all(|packet| switched.contains(packet)), "{suite:?}: switched as it is");
        let talk = lab.talk(mn, lab.gn);
        lab.assert_flowing(talk);
        assert!(data(&lab.world, mn).iter().all(|(header, _)| header.suite == suite as u8));
    }
}

/// Messages that say that CN took its direction are lost, its own or its DC's; it has sent packets, and is started again. So the direction is repeated to
/// another life of CN, which must take no key of it: it has the path directed anew.
#[test]
fn an_end_that_is_started_again_takes_no_key_of_its_life_before() {
    let addresses = [20, 4, 3].map(|n| std::net::IpAddr::from([203, 0, 113, n]));
    for lost in addresses.windows(2) {
        let mut lab = Lab::new(62);
        lab.world.settings.suite = Suite::Aes128Gcm;
        let a = lab.nat(Behaviour::PORT_RESTRICTED);
        let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(public(20)));
        lab.start();
        lab.world.record();
        let talk = lab.world.talk(mn, cn, PERIOD);
        let [dc, name] = [lab.dc[1], cn].map(|host| lab.world.name(host).to_owned());
        let directions = |world: &World, node: &str, since| {
            let is_one = |what: &What| matches!(what, What::Received { message: Kind::RouteDirection, .. });
            let of_node = world.trace().iter().filter(|seen| seen.t >= since && seen.node == node);
            of_node.filter(|seen| is_one(&seen.what)).count()
        };
        let begun = lab.world.now();
        assert!(lab.world.wait(secs(3), |world| directions(world, &dc, begun) > 0), "{}", lab.ladder(0));
        lab.world.cut_one_way(lost[0], lost[1]);
        assert!(lab.world.wait(secs(3), |world| world.heard(talk).returned() > 5), "{}", lab.ladder(0));
        lab.world.crash(cn);
        // What was under way is lost as well.
        lab.world.run_for(ms(50));
        lab.world.mend();
        lab.world.start(cn);
        let restarted = lab.world.now();
        lab.world.run_for(secs(3));

        assert!(directions(&lab.world, &name, restarted) > 0, "{}", lab.ladder(0));
        let mut numbers: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (header, _) in data(&lab.world, mn) {
            numbers.entry((header.id, header.epoch)).or_default().push(header.sequence);
        }
        assert_eq!(numbers.len(), 2, "each life has a key of its own");
        assert_eq!(
            numbers.keys().map(|(path, _)| path).collect::<BTreeSet<_>>().len(),
            1,
            "for the same path"
        );
        for numbers in numbers.values() {
            assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "one life counts: {numbers:?}");
        }
        lab.assert_flowing(talk);
    }
}
