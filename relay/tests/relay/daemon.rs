//! The daemon's life: readiness, status, refused input, no rights, the clean end, and one that is none.

use std::fs;
use std::process::Command;

use ntm_protocol::addr::Vip;
use ntm_protocol::wire::{RelayAnswer, RelayOrder, Role};
use serde_json::json;

use crate::peers::{Dc, Path, RELAY_PORT, VIP_GN, VIP_MN, tunnel_request, tunnel_response};
use crate::process::Daemon;
use crate::world::{ELSEWHERE, GENERAL, World, steadily, until};

const WAITS: &str = "STATUS=rs1 waits to be registered at dc.ntm.test (203.0.113.10:4330)";

#[test]
fn it_is_ready_when_every_dc_has_registered_it_and_leaves_nothing() {
    let world = World::new();
    world.relay.must("nft add table ip another");
    let mut dc = Dc::new(&world.others);
    let mut daemon = Daemon::start(&world.relay);
    assert_eq!(daemon.told(), WAITS);
    assert_eq!(daemon.status()["registered"], json!(false));
    dc.register();
    let ready = daemon.told();
    let serves = "READY=1\nSTATUS=rs1 relays at 203.0.113.20:4330: RS-S, RS-N with";
    assert!(ready.starts_with(serves), "{ready}");
    // What RS-N needs stands.
    assert!(world.relay.must("nft list tables").contains("table ip ntm-relay-ntm0\n"));
    assert!(world.relay.must("ip route show dev ntm0").contains("198.18.0.0/15"));
    assert!(world.relay.must("ip link show ntm0").contains("mtu 1424"));

    let path = Path::new(1);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    let status = daemon.status();
    assert_eq!(status["registered"], json!(true));
    assert_eq!(status["coordinators"][0]["fqdn"], json!("dc.ntm.test"));
    assert_eq!(status["rs_n"]["translations"], json!({ "198.18.128.1": "203.0.113.80" }));
    let row = &daemon.ask("table")["ok"][0];
    assert_eq!(row, &status["table"][0]);
    assert_eq!(row["coordinator"], status["coordinators"][0]["node"]);
    assert_eq!(
        [&row["path"], &row["mode"], &row["virtual_ip"], &row["peer_virtual_ip"], &row["peer_real_ip"]],
        [&json!(path.id), &json!("RS-N"), &json!(VIP_MN), &json!(VIP_GN[0]), &json!(GENERAL[0])]
    );
    assert!(row["made"].is_u64() && row["tunnels"][0]["temp_key"] == row["made"], "{row}");
    assert!(row["tunnels"][0]["tunnel"].is_null(), "{row}");
    let unknown = daemon.ask("sing");
    assert_eq!(unknown, json!({ "error": "there is no command 'sing'; there is: status, table" }));

    let (status, log) = daemon.end("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(world.relay.must("nft list tables"), "table ip another\n");
    assert!(!world.relay.must("ip link").contains("ntm0"));
    assert!(!world.relay.must("ip route").contains("198.18."));
    assert_eq!(world.relay.must("sysctl -n net.ipv4.ip_forward"), "0\n");
}

/// Garbage, truncated, wrongly keyed and replayed datagrams: counted, traced, nothing else changes.
#[test]
fn refused_input_is_counted_and_traced() {
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    let mut daemon = Daemon::start(&world.relay);
    daemon.told();
    dc.register();
    let registration = dc.sent.clone();
    daemon.told();
    let path = Path::new(1);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    let direction = dc.sent.clone();
    let before = daemon.ask("table");
    assert_eq!(daemon.status()["counters"]["refused"], json!(0));

    let mut wrongly_keyed = direction.clone();
    *wrongly_keyed.last_mut().expect("a byte") ^= 1;
    let (_, stranger) = tunnel_request(Path::new(9), Role::Initiator);
    let mut data = vec![0; 100];
    data[..2].copy_from_slice(&[1, 0x30]);
    let refused: Vec<Vec<u8>> = vec![
        b"garbage".to_vec(),
        vec![0xff; 1472],
        direction[..direction.len() - 1].to_vec(),
        direction[..20].to_vec(),
        wrongly_keyed,
        direction.clone(),
        registration,
        stranger[..40].to_vec(),
        stranger,
        data,
    ];
    for datagram in &refused {
        dc.send_bytes(datagram);
    }
    // Asked for after them, answered after them; and it serves as before.
    let other = Path::new(2);
    assert_eq!(dc.direct(other, other.translate(VIP_GN[1], GENERAL[1])), RelayAnswer::Ready);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[1])), RelayAnswer::Conflict);
    // The thread that refuses data tells of it on another way than that of control messages.
    until(|| daemon.status()["counters"]["refused"] == json!(refused.len()));
    let trace = daemon.trace();
    let traced: Vec<_> = trace.iter().filter(|line| line["what"] == json!("refused")).collect();
    assert_eq!(traced.len(), refused.len());
    assert!(
        traced.iter().all(|line| line["node"] == json!("rs1") && line["from"] == json!("203.0.113.10:4330"))
    );
    let after = daemon.ask("table");
    assert_eq!(before["ok"][0]["tunnels"], after["ok"][0]["tunnels"]);
    assert_eq!(after["ok"].as_array().map(Vec::len), Some(2));
}

/// Without nft, and without the right to make a TUN: tunnels are switched all the same, byte for byte (T4.1.3-a), each request is answered
/// (T5.3-a), and a DC is told what is not to be had.
#[test]
fn without_rs_n_it_still_switches() {
    let binary = env!("CARGO_BIN_EXE_ntm-relay");
    let mut no_nft = Command::new(binary);
    no_nft.env("PATH", "/nonexistent");
    let mut no_right = Command::new("setpriv");
    no_right.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", binary]);
    let cases = [
        (no_nft, "the program nft is not found: install the package nftables (apt-get install nftables)"),
        (no_right, "the TUN 'ntm0' cannot be made without the right CAP_NET_ADMIN: run as root"),
    ];
    for (command, why) in cases {
        let world = World::new();
        let mut dc = Dc::new(&world.others);
        let mut daemon = Daemon::start_as(&world.relay, command);
        assert_eq!(daemon.told(), WAITS);
        dc.register();
        assert_eq!(daemon.told(), "READY=1\nSTATUS=rs1 relays at 203.0.113.20:4330: RS-S only");
        assert_eq!(daemon.status()["rs_n"], json!({ "available": false, "why": why }));
        let path = Path::new(1);
        assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::CannotTranslate);

        let path = Path::new(2);
        let ends = [Role::Initiator, Role::Responder];
        let [initiator_key, responder_key] = ends.map(|end| path.temp_key(end));
        let [initiator, responder] = [Vip(VIP_MN), Vip([198, 18, 0, 2].into())];
        let order = RelayOrder::Switch { initiator_key, responder_key, initiator, responder };
        assert_eq!(dc.direct(path, order), RelayAnswer::Ready);
        let sockets = ends.map(|end| {
            let socket = world.terminal.udp(([0, 0, 0, 0], 5000 + end.index() as u16));
            let (mut session, request) = tunnel_request(path, end);
            socket.send_to(&request, RELAY_PORT).expect("sent");
            let mut buffer = [0; 2048];
            let length = steadily(|| socket.recv(&mut buffer)).expect("a Tunnel Response");
            let response = tunnel_response(&mut session, &buffer[..length]);
            assert_eq!(
                (response.peer_ready, response.seen.port()),
                (end == Role::Responder, 5000 + end.index() as u16)
            );
            socket
        });
        let mut buffer = [0; 2048];
        steadily(|| sockets[0].recv(&mut buffer)).expect("the initiator is told that the other end is there");
        for (from, to) in [(0, 1), (1, 0)] {
            // Only the header is read: version 1, data, from which end, the Path ID.
            let mut datagram: Vec<u8> = (0..=255).cycle().take(1472).collect();
            datagram[..8].copy_from_slice(&[1, 0x30, if from == 1 { 2 } else { 0 }, 0, 0, 0, 0, 0]);
            datagram[4..6].copy_from_slice(&1424u16.to_be_bytes());
            datagram[16..32].copy_from_slice(&path.id.0);
            sockets[from].send_to(&datagram, RELAY_PORT).expect("sent");
            let length = steadily(|| sockets[to].recv(&mut buffer)).expect("it is passed on");
            assert_eq!(buffer[..length], datagram);
        }
        let (status, log) = daemon.end("INT");
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(log.matches(why).count(), 1, "{log}");
    }
}

/// An entry that nobody uses ends at its time, and its translation with it.
#[test]
fn an_unused_entry_ends() {
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    let mut daemon = Daemon::start_with(&world.relay, "lifetime = '300ms'");
    daemon.told();
    dc.register();
    daemon.told();
    let path = Path::new(1);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    until(|| daemon.ask("table")["ok"] == json!([]));
    let ruleset = world.relay.must("nft list map ip ntm-relay-ntm0 general");
    assert!(!ruleset.contains("203.0.113.80"), "{ruleset}");
    let trace = daemon.trace();
    let change = |kind: &str| {
        let find =
            |line: &&serde_json::Value| line["what"] == "relay-table" && line["change"]["kind"] == kind;
        trace
            .iter()
            .find(find)
            .and_then(|line| line["t"].as_u64())
            .unwrap_or_else(|| panic!("{kind}: {trace:?}"))
    };
    let lived = change("ended") - change("made");
    assert!(lived >= 300_000_000, "{lived} ns");
}

/// A machine that did not forward packets does so for RS-N only; of one that did, the other packets are none of the relay's business.
#[test]
fn nothing_else_is_forwarded_for_its_sake() {
    for forwards in [false, true] {
        let world = World::new();
        world.relay.must(&format!("sysctl -q -w net.ipv4.ip_forward={}", u8::from(forwards)));
        // An answer is waited for longer than its absence.
        let wait = if forwards { 10 } else { 1 };
        let ping = format!("ping -n -c 1 -W {wait} {ELSEWHERE}");
        let passes = || world.terminal.output(&ping).status.success();
        assert_eq!(passes(), forwards);
        let mut daemon = Daemon::start(&world.relay);
        daemon.told();
        assert_eq!(world.relay.must("sysctl -n net.ipv4.ip_forward"), "1\n");
        assert_eq!(passes(), forwards, "while it runs");
        // Killed, it can put nothing in order; the next run still knows what the machine did by itself.
        daemon.end("KILL");
        assert_eq!(passes(), forwards, "after it was killed");
        let mut daemon = Daemon::start(&world.relay);
        daemon.told();
        assert_eq!(passes(), forwards, "in the next run");
        daemon.end("TERM");
        assert_eq!(world.relay.must("sysctl -n net.ipv4.ip_forward"), format!("{}\n", u8::from(forwards)));
    }
}

#[test]
fn a_bad_configuration_ends_it_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.toml");
    fs::write(&path, "name = 'rs1'\nadress = '203.0.113.20'\n").expect("a configuration");
    let said = [&["--check"][..], &[]].map(|arguments| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ntm-relay"));
        let output = command.arg("--config").arg(&path).args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).replace(&format!("{}/", folder.path().display()), "")
    });
    assert_eq!(said[0], said[1]);
    insta::assert_snapshot!(said[0].trim_end(), @"
    ntm-relay: relay.toml:2:1: unknown field `adress`, expected one of `name`, `fqdn`, `address`, `port`, `keys`, `vips`, `tun`, `lifetime`, `capacity`, `rs_s`, `coordinator`, `trace`, `control`
      2 | adress = '203.0.113.20'
        | ^^^^^^
    ");
}

#[test]
fn a_taken_port_is_told() {
    let world = World::new();
    let _taken = world.relay.udp(([0, 0, 0, 0], 4330));
    let (status, log) = Daemon::start(&world.relay).wait();
    assert_eq!(status.code(), Some(3), "{log}");
    let told = "ntm-relay: UDP [::]:4330 cannot be bound: Address already in use (os error 98) (another process has this \
                port: end it, or configure another port)";
    assert_eq!(log.trim_end(), told);
}

#[test]
fn another_relays_tun_and_table_stay_its_own() {
    let world = World::new();
    let mut first = Daemon::start(&world.relay);
    assert_eq!(first.told(), WAITS);
    let table = world.relay.must("nft list table ip ntm-relay-ntm0");
    let (status, log) = Daemon::start_with(&world.relay, "port = 4331").wait();
    assert_eq!(status.code(), Some(3), "{log}");
    let told = "ntm-relay: an interface 'ntm0' exists already: end the process that holds it, or configure another name";
    assert_eq!(log.lines().last(), Some(told), "{log}");
    assert_eq!(world.relay.must("nft list table ip ntm-relay-ntm0"), table);
}
