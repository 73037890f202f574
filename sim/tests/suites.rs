//! The suites of data packets, and that no number comes twice under one key.

mod common;

use std::collections::BTreeSet;

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

/// CN's answer to its Route Direction is lost; it has sent packets, and is started again. Its DC repeats the direction, with the key that it had: no
/// number comes twice under it, so no nonce.
#[test]
fn an_end_that_is_started_again_under_one_key_repeats_no_number() {
    let mut lab = Lab::new(62);
    lab.world.settings.suite = Suite::Aes128Gcm;
    let a = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, cn) = (lab.mn(inside(a, 2)), lab.cn(public(20)));
    lab.start();
    lab.world.record();
    lab.world.cut_one_way([203, 0, 113, 20].into(), [203, 0, 113, 4].into());
    let talk = lab.world.talk(mn, cn, PERIOD);
    assert!(lab.world.wait(secs(3), |world| world.heard(talk).returned() > 5), "{}", lab.ladder(0));
    lab.world.crash(cn);
    lab.world.mend();
    lab.world.start(cn);
    let restarted = lab.world.now();
    lab.world.run_for(secs(3));

    let name = lab.world.name(cn);
    let taken: Vec<_> = (lab.world.trace().iter())
        .filter(|seen| {
            seen.node == name && matches!(seen.what, What::Received { message: Kind::RouteDirection, .. })
        })
        .map(|seen| seen.t)
        .collect();
    let again = |t: &&ntm_protocol::time::Instant| **t > restarted && **t < restarted + ms(2500);
    assert!(taken.iter().any(|t| *t < restarted) && taken.iter().any(|t| again(&t)), "{}", lab.ladder(0));
    let from_cn: Vec<_> = data(&lab.world, mn).into_iter().map(|(header, _)| header).collect();
    let keys: BTreeSet<_> = from_cn.iter().map(|header| (header.id, header.epoch)).collect();
    let numbers: BTreeSet<_> =
        from_cn.iter().map(|header| (header.id, header.epoch, header.sequence)).collect();
    assert_eq!(numbers.len(), from_cn.len(), "a number came twice");
    assert_eq!(keys.len(), 1, "both instances sent under one key, which is what this is about");
    let gaps = from_cn.windows(2).filter(|two| two[1].sequence != two[0].sequence + 1).count();
    assert_eq!(gaps, 1, "the second began elsewhere");
}
