//! Hostile input: whatever comes to a machine's port that is not what its peers meant for it is refused, counted and observed, and
//! changes nothing else.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::{Lab, inside, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::What;
use ntm_protocol::terminal::Handover;
use ntm_protocol::wire::{Header, Kind};
use ntm_sim::{HostId, Reaction, Recorded};

/// A world in which every kind of message was sent to every host that takes it, and what came to each.
fn busy() -> (Lab, Vec<Recorded>) {
    let mut lab = Lab::of(99, Handover::Fast);
    let (a, b) = (lab.nat(Behaviour::PORT_RESTRICTED), lab.nat(Behaviour::FULL_CONE));
    let (mn, cn, gn) = (lab.mn(inside(a, 2)), lab.cn(inside(b, 2)), lab.gn);
    lab.world.record();
    lab.start();
    lab.world.ask(mn, "nobody.example.test");
    let talks = [lab.talk(mn, cn), lab.talk(cn, gn)];
    lab.world.run_for(secs(7));
    lab.world.move_to(mn, &[public(10)]);
    lab.world.run_for(secs(7));
    for talk in talks {
        lab.world.hang_up(talk);
    }
    lab.world.run_for(secs(1));
    let mut recorded = lab.world.recorded().to_vec();
    // Plain UDP to and from the general node is not for a machine.
    recorded.retain(|datagram| {
        datagram.host != gn && datagram.from.ip() != std::net::IpAddr::from([203, 0, 113, 80])
    });
    (lab, recorded)
}

/// Two of each kind for each host, the newest: they would be the ones to do harm.
fn samples(recorded: &[Recorded]) -> Vec<Recorded> {
    let mut samples: BTreeMap<(HostId, Kind), Vec<Recorded>> = BTreeMap::new();
    for datagram in recorded.iter().rev() {
        let kind = Header::parse(&datagram.bytes).expect("a good header").kind;
        let known = samples.entry((datagram.host, kind)).or_default();
        if known.len() < 2 {
            known.push(datagram.clone());
        }
    }
    let kinds: BTreeSet<Kind> = samples.keys().map(|(_, kind)| *kind).collect();
    let missing: Vec<_> = Kind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.iter().all(|kind| **kind == Kind::Error), "never sent: {missing:?}");
    samples.into_values().flatten().collect()
}

/// Asserts that `reaction` is a refusal and nothing more.
fn assert_refused(reaction: &Reaction, what: &str) {
    assert_eq!(reaction.refused, 1, "{what}: {reaction:#?}");
    let noted = reaction.observations.iter().any(|what| matches!(what, What::Refused { .. }));
    assert!(noted, "{what}: {reaction:#?}");
    assert!(!reaction.changed && reaction.events == 0 && reaction.delivered == 0, "{what}: {reaction:#?}");
    assert!(reaction.sent.is_empty(), "{what}: {reaction:#?}");
}

/// Whether an RS-S passes a data packet on by its header alone: the end refuses it.
fn is_passed_on(lab: &Lab, host: HostId, bytes: &[u8], reaction: &Reaction) -> bool {
    host == lab.rs
        && Header::parse(bytes).is_ok_and(|header| header.kind == Kind::Data)
        && reaction.sent == [Kind::Data]
        && reaction.refused == 0
        && reaction.events + reaction.delivered + reaction.observations.len() == 0
        && !reaction.changed
}

#[test]
fn every_truncation_is_refused() {
    let (mut lab, recorded) = busy();
    for datagram in samples(&recorded) {
        for length in 0..datagram.bytes.len() {
            let bytes = datagram.bytes[..length].to_vec();
            let reaction = lab.world.inject(datagram.host, datagram.from, datagram.to, bytes.clone());
            if !is_passed_on(&lab, datagram.host, &bytes, &reaction) {
                assert_refused(&reaction, &format!("{datagram:?} cut to {length}"));
            }
        }
        let mut longer = datagram.bytes.clone();
        longer.push(0);
        let reaction = lab.world.inject(datagram.host, datagram.from, datagram.to, longer.clone());
        if !is_passed_on(&lab, datagram.host, &longer, &reaction) {
            assert_refused(&reaction, &format!("{datagram:?} with a byte more"));
        }
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let (mut lab, recorded) = busy();
    for datagram in samples(&recorded) {
        for at in 0..datagram.bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = datagram.bytes.clone();
                bytes[at] ^= mask;
                let reaction = lab.world.inject(datagram.host, datagram.from, datagram.to, bytes.clone());
                if !is_passed_on(&lab, datagram.host, &bytes, &reaction) {
                    assert_refused(&reaction, &format!("byte {at} of {datagram:?} changed by {mask:#x}"));
                }
            }
        }
    }
}

/// Whatever was sent once is refused when it comes again: from the same address, from another, or to another host.
#[test]
fn every_replay_is_refused() {
    let (mut lab, recorded) = busy();
    let stranger: SocketAddr = "203.0.113.66:6666".parse().unwrap();
    let hosts: Vec<HostId> = lab.world.hosts().filter(|host| *host != lab.gn).collect();
    for datagram in &recorded {
        for host in &hosts {
            for from in [datagram.from, stranger] {
                let reaction = lab.world.inject(*host, from, datagram.to, datagram.bytes.clone());
                if is_passed_on(&lab, *host, &datagram.bytes, &reaction) {
                    continue;
                }
                // A Registration Request that is too old is told so, by which a node whose numbers were lost finds on.
                let told = reaction.sent == [Kind::Error];
                assert!(reaction.sent.is_empty() || told, "{datagram:?}: {reaction:#?}");
                let reaction = Reaction { sent: Vec::new(), ..reaction };
                assert_refused(&reaction, &format!("{datagram:?} again, to {}", lab.world.name(*host)));
            }
        }
    }
}

/// Noise, alone and behind headers that were once good.
#[test]
fn garbage_is_refused() {
    let (mut lab, recorded) = busy();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let hosts: Vec<HostId> = lab.world.hosts().filter(|host| *host != lab.gn).collect();
    let from: SocketAddr = "203.0.113.66:6666".parse().unwrap();
    let headers: Vec<&[u8]> = recorded.iter().map(|datagram| &datagram.bytes[..32]).collect();
    for round in 0..20_000 {
        let length = (random() % 300) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // Half of it behind a header that was once good, with a number that never was used.
        if round % 2 == 0 {
            let header = headers[random() as usize % headers.len()];
            let fresh = (u64::MAX - random() % 1000).to_be_bytes();
            bytes.splice(..0, [&header[..8], &fresh, &header[16..]].concat());
        }
        let host = hosts[random() as usize % hosts.len()];
        let to = SocketAddr::new([203, 0, 113, 3].into(), 4330);
        let reaction = lab.world.inject(host, from, to, bytes.clone());
        if !is_passed_on(&lab, host, &bytes, &reaction) {
            assert_refused(&reaction, &format!("{bytes:?}"));
        }
    }
}

/// After all of it the world goes on as if nothing had been.
#[test]
fn what_was_refused_did_no_harm() {
    let (mut lab, recorded) = busy();
    let mn = terminal(&lab);
    let talk = lab.world.talk_to(mn, "www.example.test", common::PERIOD);
    lab.world.run_for(secs(1));
    let from = lab.world.now();
    for datagram in &recorded {
        let mut bytes = datagram.bytes.clone();
        lab.world.inject(datagram.host, datagram.from, datagram.to, bytes.clone());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        lab.world.inject(datagram.host, datagram.from, datagram.to, bytes);
        lab.world.run_for(common::ms(5));
    }
    let silence = lab.world.heard(talk).longest_silence(from, lab.world.now());
    assert!(silence < common::PERIOD * 3, "{silence:?}");
    lab.assert_flowing(talk);
}

fn terminal(lab: &Lab) -> HostId {
    lab.world.hosts().find(|host| lab.world.name(*host) == "mn").expect("a terminal called mn")
}
