//! Paths that nobody uses end, at both ends and at the relay; and come back when they are wanted.

mod common;

use common::{Lab, inside, secs};
use ntm_nat::Behaviour;
use ntm_protocol::addr::PathId;
use ntm_protocol::observe::What;
use ntm_sim::HostId;

const LIFETIME: u64 = 60;

/// MN and CN behind two NATs that need a relay, or that do not.
fn lab(nat: Behaviour) -> (Lab, [HostId; 2]) {
    let mut lab = Lab::new(61);
    lab.world.settings.lifetime = secs(LIFETIME);
    let networks = [lab.nat(nat), lab.nat(nat)];
    let ends = [lab.mn(inside(networks[0], 2)), lab.cn(inside(networks[1], 2))];
    lab.start();
    (lab, ends)
}

fn paths(lab: &Lab, end: HostId) -> Vec<PathId> {
    lab.world.at_terminal(end).expect("a running terminal").paths().iter().map(|path| path.path).collect()
}

fn entries(lab: &Lab) -> usize {
    lab.world.at_relay(lab.rs).expect("a running relay").table().len()
}

#[test]
fn what_nobody_uses_ends_everywhere_and_what_is_used_does_not() {
    for nat in [Behaviour::SYMMETRIC, Behaviour::FULL_CONE] {
        let (mut lab, ends) = lab(nat);
        let talks = [lab.talk(ends[0], ends[1]), lab.talk(ends[0], lab.gn)];
        lab.world.run_for(secs(LIFETIME * 5));
        talks.into_iter().for_each(|talk| lab.assert_flowing(talk));
        assert_eq!((ends.map(|end| paths(&lab, end).len()), entries(&lab)), ([2, 1], 2), "{nat}");
        talks.into_iter().for_each(|talk| lab.world.hang_up(talk));
        lab.world.run_for(secs(LIFETIME - 1));
        assert_eq!(ends.map(|end| paths(&lab, end).len()), [2, 1], "{nat}");
        // A keep-alive's period later nobody believes in them any more, nor mends them.
        lab.world.run_for(secs(11));
        assert_eq!(ends.map(|end| paths(&lab, end)), [vec![], vec![]], "{nat}\n{}", lab.sequence(0));
        lab.world.run_for(secs(LIFETIME));
        assert_eq!(entries(&lab), 0, "{nat}");
        let start = lab.world.trace().len();
        lab.world.run_for(secs(600));
        let quiet = lab.world.trace()[start..].iter().all(|observation| match &observation.what {
            What::Sent { message, .. } | What::Received { message, .. } => {
                ["KeepAlive", "KeepAliveAnswer"].contains(&message.name())
            }
            _ => false,
        });
        assert!(quiet, "{nat}\n{}", lab.ladder(start));
    }
}

/// An application that is silent for longer than a path lives: its next packet brings the same path back, and a general node sees the
/// source that it saw (T4.2.5-b).
#[test]
fn a_packet_without_a_path_brings_it_back() {
    for (nat, general) in
        [(Behaviour::SYMMETRIC, false), (Behaviour::FULL_CONE, false), (Behaviour::SYMMETRIC, true)]
    {
        for caller in 0..2 {
            let (mut lab, ends) = lab(nat);
            let (from, to) = (ends[caller], if general { lab.gn } else { ends[1 - caller] });
            // One packet every two lifetimes.
            let slow = lab.world.talk(from, to, secs(LIFETIME * 2));
            lab.world.run_for(secs(LIFETIME));
            let before = paths(&lab, from);
            lab.world.run_for(secs(LIFETIME - 5));
            assert_eq!((before.len(), paths(&lab, from)), (1, vec![]));
            lab.world.run_for(secs(10));
            assert_eq!(lab.world.heard(slow).packets.len(), 2);
            assert!(!lab.world.heard(slow).packets[1].had_path);
            assert_eq!(paths(&lab, from), before, "the same path\n{}", lab.sequence(0));
            let talk = lab.talk(from, to);
            lab.assert_flowing(talk);
            assert_eq!(lab.world.heard(talk).vip(), lab.world.heard(slow).vip());
            assert_eq!(paths(&lab, from), before);
        }
    }
}
