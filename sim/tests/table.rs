//! The Relay Table over time.

mod common;

use common::{Lab, inside, public, secs};
use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, TableChange, What};
use ntm_protocol::time::Duration;
use ntm_sim::{HostId, TalkId};

/// MN behind a NAT talks to the general node.
fn talking() -> (Lab, HostId, TalkId) {
    let mut lab = Lab::new(71);
    let nat = lab.nat(Behaviour::PORT_RESTRICTED);
    let (mn, gn) = (lab.mn(inside(nat, 2)), lab.gn);
    lab.start();
    let talk = lab.talk(mn, gn);
    (lab, mn, talk)
}

/// An entry lives as long as its terminal keeps the tunnel open, and ends 300 s after it was used last, to the nanosecond.
#[test]
fn an_unused_entry_ends_after_its_lifetime() {
    let (mut lab, mn, _) = talking();
    let lifetime = lab.world.settings.lifetime;
    assert_eq!(lifetime, secs(300));
    lab.world.run_for(2 * lifetime);
    let rows = |lab: &Lab| lab.world.at_relay(lab.rs).expect("it runs").table().rows();
    assert_eq!(rows(&lab).len(), 1, "it is in use");

    lab.world.crash(mn);
    // What is under way may still come.
    lab.world.run_for(secs(1));
    let used = rows(&lab)[0].used;
    let left = used + lifetime - lab.world.now();
    lab.world.run_for(left - Duration::from_nanos(1));
    assert_eq!(rows(&lab).len(), 1, "its time is not over");
    let seen = lab.world.trace().len();
    lab.world.run_for(Duration::from_nanos(1));
    assert!(rows(&lab).is_empty());
    let ended = lab.world.trace()[seen..]
        .iter()
        .find(|it| matches!(it.what, What::RelayTable { change: TableChange::Ended, .. }));
    assert_eq!(ended.expect("the trace says so").t, used + lifetime);
}

/// TA-c: the moment at which each field was filled stays, while the entry is used on; it is that of the message which filled it.
#[test]
fn the_moments_of_the_fields_stay_while_the_entry_is_used() {
    let (mut lab, _, talk) = talking();
    lab.world.run_for(secs(30));
    lab.assert_flowing(talk);
    let at = |such: fn(&TableChange) -> bool| {
        let changes = lab
            .world
            .trace()
            .iter()
            .filter(|it| matches!(&it.what, What::RelayTable { change, .. } if such(change)));
        changes.map(|it| it.t).collect::<Vec<_>>()
    };
    let made = at(|change| matches!(change, TableChange::Made));
    let filled = at(|change| matches!(change, TableChange::Tunnel { .. }));
    assert_eq!((made.len(), filled.len()), (1, 1));
    let row = lab.world.at_relay(lab.rs).expect("it runs").table().rows().remove(0);
    let tunnel = &row.tunnels[0];
    assert_eq!((row.made, tunnel.temp_key), (made[0], made[0]));
    assert_eq!((tunnel.common_key, tunnel.tunnel_filled), (Some(filled[0]), Some(filled[0])));
    assert!(row.used > filled[0] + secs(20), "keep-alives use it: {row:?}");
}

/// TA-b: what each message fills, and that a handover fills temporary key, common key and tunnel anew while the rest stays:
/// among it MN's virtual address (T3.1-b).
#[test]
fn a_handover_fills_anew_what_changes() {
    let (mut lab, mn, talk) = talking();
    let row = |lab: &Lab| lab.world.at_relay(lab.rs).expect("it runs").table().rows().remove(0);
    let before = row(&lab);
    let [old] = &before.tunnels[..] else { panic!("a general node has no tunnel: {before:?}") };
    assert_eq!(old.temp_key, before.made);
    assert!(old.common_key > Some(old.temp_key) && old.tunnel_filled == old.common_key, "{before:?}");

    lab.world.run_for(secs(1));
    lab.world.move_to(mn, &[public(10)]);
    lab.assert_flowing(talk);
    assert_eq!(lab.route(mn), RouteName::Translated);
    let after = row(&lab);
    let kept = |row: &ntm_protocol::relay::table::Row| {
        (row.path, row.mode, row.virtual_ip, row.peer_virtual_ip, row.peer_real_ip, row.made)
    };
    assert_eq!(kept(&after), kept(&before));
    let new = &after.tunnels[0];
    assert_eq!(new.tunnel.map(|tunnel| tunnel.to_string()).as_deref(), Some("203.0.113.10:4330"));
    assert!(new.temp_key > old.temp_key && new.common_key > old.common_key, "{after:?}");
    assert!(new.common_key > Some(new.temp_key) && new.tunnel_filled == new.common_key, "{after:?}");
    assert_ne!(old.tunnel, new.tunnel);
}
