//! The Relay Table as a running relay shows it (appendix A), and both modes side by side (chapter 5).

use std::net::{Ipv4Addr, SocketAddr};

use ntm_protocol::addr::Vip;
use ntm_protocol::wire::{RelayAnswer, RelayOrder, Role};
use serde_json::{Value, json};

use crate::peers::{Dc, Path, RELAY_PORT, Terminal, VIP_GN, VIP_MN, tunnel_request, tunnel_response};
use crate::process::Daemon;
use crate::world::{GENERAL, RELAY, TERMINAL, World, steadily, until};

const VIP_CN: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
pub(crate) const ENDS: [Role; 2] = [Role::Initiator, Role::Responder];

pub(crate) fn switch(path: Path) -> RelayOrder {
    let [initiator_key, responder_key] = ENDS.map(|end| path.temp_key(end));
    let [initiator, responder] = [VIP_MN, VIP_CN].map(Vip);
    RelayOrder::Switch { initiator_key, responder_key, initiator, responder }
}

/// A relay that one DC has registered.
fn start(world: &World) -> (Dc, Daemon) {
    let mut dc = Dc::new(&world.others);
    let mut daemon = Daemon::start(&world.relay);
    daemon.told();
    dc.register();
    assert!(daemon.told().starts_with("READY=1"));
    (dc, daemon)
}

/// When the trace says that `path`'s entry changed so.
fn changed(daemon: &Daemon, path: Path, kind: &str) -> Vec<Value> {
    let about = |line: &Value| {
        line["what"] == "relay-table" && line["path"] == json!(path.id) && line["change"]["kind"] == kind
    };
    daemon.trace().into_iter().filter(about).map(|line| line["t"].clone()).collect()
}

/// Sends the Tunnel Request of `end` from a port of the terminal's, and takes the answer.
fn build_tunnel(world: &World, path: Path, end: Role, port: u16) {
    let socket = world.terminal.udp(([0, 0, 0, 0], port));
    let (mut session, request) = tunnel_request(path, end);
    socket.send_to(&request, RELAY_PORT).expect("sent");
    let mut buffer = [0; 2048];
    let length = steadily(|| socket.recv(&mut buffer)).expect("a Tunnel Response");
    assert_eq!(tunnel_response(&mut session, &buffer[..length]).seen, SocketAddr::from((TERMINAL, port)));
}

/// TA-b, TA-c: the Relay Direction fills Path ID, Temp Key, VIP_MN, VIP_GN and RIP_GN; the Tunnel Request fills Common Key, Tunnel IP and
/// Tunnel Port. The running relay shows each with its moment, which is that of the message; of a key, nothing but the moment.
#[test]
fn each_field_is_shown_with_the_moment_of_the_message_that_filled_it() {
    let world = World::new();
    let (mut dc, daemon) = start(&world);
    let (translated, switched) = (Path::new(1), Path::new(2));
    assert_eq!(dc.direct(translated, translated.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    assert_eq!(dc.direct(switched, switch(switched)), RelayAnswer::Ready);
    let table = || daemon.ask("table")["ok"].take();

    let shown = table();
    let made = |path| changed(&daemon, path, "made").remove(0);
    let coordinator = daemon.status()["coordinators"][0]["node"].take();
    let empty = |side: &str, made: &Value| json!({ "side": side, "temp_key": made, "common_key": null, "tunnel": null, "tunnel_filled": null });
    let (first, second) = (made(translated), made(switched));
    let expected = json!([
        {
            "path": translated.id, "mode": "RS-N", "coordinator": coordinator, "virtual_ip": VIP_MN,
            "peer_virtual_ip": VIP_GN[0], "peer_real_ip": GENERAL[0], "made": first, "used": first,
            "tunnels": [empty("initiator", &first)],
        },
        {
            "path": switched.id, "mode": "RS-S", "coordinator": coordinator, "virtual_ip": VIP_MN,
            "peer_virtual_ip": VIP_CN, "peer_real_ip": null, "made": second, "used": second,
            "tunnels": [empty("initiator", &second), empty("responder", &second)],
        },
    ]);
    assert_eq!(shown, expected);

    build_tunnel(&world, translated, Role::Initiator, 5001);
    build_tunnel(&world, switched, Role::Responder, 5002);
    let shown = table();
    let filled = |path| changed(&daemon, path, "tunnel").remove(0);
    let (first, second) = (filled(translated), filled(switched));
    let tunnel = &shown[0]["tunnels"][0];
    assert_eq!(
        [&tunnel["common_key"], &tunnel["tunnel_filled"], &shown[0]["used"]],
        [&first, &first, &first],
        "{shown:#}"
    );
    assert_eq!(tunnel["tunnel"], json!(format!("{TERMINAL}:5001")));
    assert_eq!(shown[1]["tunnels"][0], expected[1]["tunnels"][0], "the other side is as it was");
    let tunnel = &shown[1]["tunnels"][1];
    assert_eq!([&tunnel["common_key"], &tunnel["tunnel_filled"]], [&second, &second], "{shown:#}");
    assert_eq!(tunnel["tunnel"], json!(format!("{TERMINAL}:5002")));

    // Directed anew: the temporary key is another, and what the Tunnel Request filled was filled when it was.
    let anew = Path { epoch: 2, ..translated };
    assert_eq!(dc.direct(anew, anew.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    let shown = table();
    let (tunnel, renewed) = (&shown[0]["tunnels"][0], changed(&daemon, translated, "renewed").remove(0));
    assert_eq!([&tunnel["temp_key"], &shown[0]["used"]], [&renewed, &renewed], "{shown:#}");
    assert_eq!(
        [&shown[0]["made"], &tunnel["tunnel_filled"], &tunnel["common_key"]],
        [&made(translated), &first, &first]
    );

    let text = daemon.ask("status").to_string();
    let keys = [translated, switched]
        .into_iter()
        .flat_map(|path| ENDS.into_iter().flat_map(move |end| [path.temp_byte(end), path.common_byte(end)]));
    for byte in keys {
        let shown = [format!("{byte:02x}").repeat(4), format!("{byte},{byte},{byte}")];
        assert!(!shown.iter().any(|key| text.contains(key)), "a key is shown: {text}");
    }
}

/// T5.1.1-a, T5.2-a: one relay does both modes at once. The Path ID of a data packet finds the entry, and the entry says whether the
/// packet is opened and translated or passed on as it is. T5.3-a: each direction and each Tunnel Request was answered.
#[test]
fn the_path_id_of_a_packet_selects_the_mode() {
    let world = World::new();
    let (mut dc, daemon) = start(&world);
    let (translated, switched) = (Path::new(1), Path::new(2));
    assert_eq!(dc.direct(switched, switch(switched)), RelayAnswer::Ready);
    assert_eq!(dc.direct(translated, translated.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    let mut terminal = Terminal::new(&world.terminal);
    terminal.connect(translated, VIP_GN[0]);
    for (end, port) in ENDS.into_iter().zip([5001, 5002]) {
        build_tunnel(&world, switched, end, port);
    }

    let server = world.others.udp((GENERAL[0], 7));
    world.terminal.udp((VIP_MN, 40_000)).send_to(b"opened", (VIP_GN[0], 7)).expect("sent");
    let mut buffer = [0; 2048];
    let (length, from) = steadily(|| server.recv_from(&mut buffer)).expect("the general node has it");
    assert_eq!((&buffer[..length], from), (&b"opened"[..], (RELAY, 40_000).into()));
    let counted = |name: &str| daemon.status()["counters"][name].as_u64().expect("a count");
    until(|| counted("tun_out_packets") == 1);
    assert_eq!(counted("forwarded_packets"), 0);

    // The relay could not open this if it wanted to: there is no key in the world that made it.
    let mut sealed: Vec<u8> = (0..=255).cycle().take(32 + 64 + 16).collect();
    sealed[..8].copy_from_slice(&[1, 0x30, 0x01, 0x01, 0, 60, 0, 0]);
    sealed[16..32].copy_from_slice(&switched.id.0);
    let [mn, cn] = [5001, 5002].map(|port| world.terminal.udp(([0, 0, 0, 0], port)));
    mn.send_to(&sealed, RELAY_PORT).expect("sent");
    let length = steadily(|| cn.recv(&mut buffer)).expect("it is passed on");
    assert_eq!(buffer[..length], sealed);
    until(|| counted("forwarded_packets") == 1);
    assert_eq!(counted("tun_out_packets"), 1);
}
