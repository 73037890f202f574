//! The Wireshark dissector, `wireshark/ntmobile.lua`, in tshark: every kind of message is opened with a run's keys and says what the
//! message says; and a real run's capture is opened with its keys. Needs the package `tshark`, and what runs need.

#![allow(clippy::unwrap_used, reason = "the helpers are part of the tests")]

mod common;

use std::borrow::Cow;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Home, code};
use ntm_protocol::addr::{Fqdn, NodeId, PathId, Vip};
use ntm_protocol::crypto::{DataKeys, Purpose, SharedKey, Suite, sealed_len};
use ntm_protocol::observe::What;
use ntm_protocol::session::{Mail, Session, TunnelSession};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::*;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgBlock;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;

const PATH: PathId = PathId([0xab; 16]);
const EPOCH: u8 = 3;

fn name(text: &str) -> Fqdn {
    Fqdn::new(text).unwrap()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn key(n: u8) -> SharedKey {
    SharedKey::new([n; 32])
}

/// A packet of IPv4 around UDP from port 4330 to port 4330.
fn packet(datagram: &[u8]) -> Vec<u8> {
    let (udp, total) = ((8 + datagram.len()) as u16, (28 + datagram.len()) as u16);
    let mut out = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    out.extend([203, 0, 113, 4, 203, 0, 113, 7]);
    out.extend([0x10, 0xea, 0x10, 0xea, (udp >> 8) as u8, udp as u8, 0, 0]);
    out.extend(datagram);
    out
}

/// A capture of packets, each cut to at most `snap` bytes.
fn capture(folder: &Path, packets: &[Vec<u8>], snap: usize) -> PathBuf {
    let file = folder.join("test.pcapng");
    let mut writer = PcapNgWriter::new(fs::File::create(&file).unwrap()).unwrap();
    let interface =
        InterfaceDescriptionBlock { linktype: DataLink::RAW, snaplen: snap as u32, options: Vec::new() };
    writer.write_block(&interface.into_block()).unwrap();
    for (n, packet) in packets.iter().enumerate() {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_secs(n as u64),
            original_len: packet.len() as u32,
            data: Cow::Borrowed(&packet[..packet.len().min(snap)]),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).unwrap();
    }
    file
}

/// What tshark says of each packet: the values of `fields`, each a list.
fn told(capture: &Path, keys: &Path, fields: &[&str]) -> Vec<Vec<Vec<String>>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wireshark/ntmobile.lua");
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).arg("-X").arg(format!("lua_script:{}", script.display()));
    command.arg("-o").arg(format!("ntmobile.keys:{}", keys.display()));
    command.args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is installed: the package `tshark`");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("Lua"), "{complaints}");
    let list = |cell: &str| cell.split(';').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.split('\t').map(list).collect()).collect()
}

fn key_file(folder: &Path, pairs: &[(&str, &str, u8)]) -> PathBuf {
    let line = |(a, b, n): &(&str, &str, u8)| {
        let id = |text: &str| NodeId::of(&name(text));
        format!("{} {} {} {a} {b}\n", id(a), id(b), format!("{n:02x}").repeat(32))
    };
    let file = folder.join("keys.txt");
    fs::write(&file, pairs.iter().map(line).collect::<String>()).unwrap();
    file
}

/// A body's values as the dissector writes them: `name=value`, lists and parts flattened.
fn flat(name: &str, value: &Shown, out: &mut Vec<String>) {
    match value {
        Shown::Truth(value) => out.push(format!("{name}={value}")),
        Shown::Number(value) => out.push(format!("{name}={value}")),
        Shown::Text(value) => out.push(format!("{name}={value}")),
        Shown::List(values) => values.iter().for_each(|value| flat(name, value, out)),
        Shown::Table(fields) => {
            let kind = fields.get("kind");
            match kind {
                Some(Shown::Text(kind)) => out.push(format!("{name}={kind}")),
                _ => out.push(format!("{name}=")),
            }
            for (inner, value) in fields.iter().filter(|(inner, _)| *inner != "kind") {
                flat(inner, value, out);
            }
        }
    }
}

/// One of each kind that two nodes with a shared key exchange, with every optional part somewhere there.
fn messages() -> Vec<Message> {
    let request = RequestId(1_795_590_766_463_769);
    let addresses = || [socket("192.0.2.2:4330"), socket("[2001:db8::2]:4330")].into_iter().collect();
    let (epoch, relay) = (Epoch::new(EPOCH), NodeId::of(&name("rs.dc.test")));
    let rtts = || [RelayRtt { relay, micros: 1800 }].into_iter().collect();
    let vip = |n: u8| Vip(Ipv4Addr::new(198, 18, 0, n));
    let seen = socket("203.0.113.3:1025");
    let direction = |route: Route, path_key| RouteDirection {
        request,
        answers: Some(RequestId(9)),
        target: NodeId::of(&name("mn.dc.test")),
        life: 0xfedc_ba98,
        seen,
        path: PATH,
        epoch,
        role: Role::Responder,
        peer: name("cn.dc.test"),
        peer_vip: vip(2),
        path_key,
        suite: Suite::Aes128Cbc,
        route,
    };
    let relayed = Route::Relayed {
        relay,
        address: socket("203.0.113.7:4330"),
        mode: RelayMode::Switch,
        temp_key: key(21),
        optimise: addresses(),
    };
    let switch = RelayOrder::Switch {
        initiator_key: key(21),
        responder_key: key(22),
        initiator: vip(1),
        responder: vip(2),
    };
    let translate = RelayOrder::Translate {
        temp_key: key(23),
        terminal: vip(1),
        general: vip(200),
        real: "203.0.113.5".parse().unwrap(),
        suite: Suite::None,
    };
    let renewal =
        Renewal { path: PATH, role: Role::Initiator, epoch, peer_vip: vip(2), keep_relay: Some(relay) };
    let terminal =
        TerminalInformation { node: relay, life: 6, vip: vip(2), addresses: addresses(), seen, rtts: rtts() };
    let to_measure = RelayToMeasure { relay, address: socket("203.0.113.7:4330"), key: key(24) };
    let registration = RegistrationRequest {
        request,
        fqdn: name("mn.dc.test"),
        kind: NodeKind::Terminal,
        life: 7,
        addresses: addresses(),
        rtts: rtts(),
        vips: Some("198.18.0.0/16".parse().unwrap()),
    };
    let response = RegistrationResponse {
        request,
        vip: Some(vip(1)),
        seen,
        keep_alive: Duration::from_secs(5),
        relays: [to_measure.clone()].into_iter().collect(),
        vips: None,
    };
    vec![
        registration.into(),
        response.into(),
        KeepAlive { request, load: Some(123), rtts: rtts() }.into(),
        KeepAliveAnswer { request, seen, load: 7, relays: [to_measure].into_iter().collect() }.into(),
        DirectionRequest { request, fqdn: name("www.example.test"), renewal: None, avoid: None }.into(),
        DirectionRequest { request, fqdn: name("cn.dc.test"), renewal: Some(renewal), avoid: Some(relay) }
            .into(),
        DirectionRefusal { request, error: DnsError::NxDomain }.into(),
        InformationRequest { request, fqdn: name("cn.dc.test") }.into(),
        InformationResponse { request, terminal: Some(terminal), known: true }.into(),
        InformationResponse { request, terminal: None, known: false }.into(),
        RelayDirection { request, path: PATH, epoch, order: switch }.into(),
        RelayDirection { request, path: PathId([0xcd; 16]), epoch, order: translate }.into(),
        RelayResponse { request, answer: RelayAnswer::CannotTranslate }.into(),
        direction(relayed, Some(key(25))).into(),
        direction(Route::Direct { addresses: addresses(), start: true }, None).into(),
        RouteResponse { request, accepted: false }.into(),
        Error { sequence: u64::MAX, code: ErrorCode::Stale { floor: 1 << 40 } }.into(),
        Error { sequence: 7, code: ErrorCode::NotRegistered }.into(),
        Error { sequence: 8, code: ErrorCode::Overlap { vips: "198.18.0.0/16".parse().unwrap() } }.into(),
    ]
}

/// A message's kind, and its body's values as the dissector writes them.
type Said = (Kind, Vec<String>);

/// Sends everything and returns the packets, with what each message says.
fn sent() -> (Vec<Vec<u8>>, Vec<Said>) {
    let mut mail = Mail::new([7; 32], 1);
    let (to, now) = (socket("203.0.113.7:4330"), Instant::ZERO);
    let id = |text: &str| NodeId::of(&name(text));
    let mut session = Session::new(&key(20), id("ns.dc.test"), id("mn.dc.test"), 1 << 40);
    for message in messages() {
        mail.send(&mut session, to, &message, 1, now);
    }
    // What the DC handed out above opens the rest: the relay's measuring key, temporary keys, the path's, and the common key.
    let mut measuring = Session::new(&key(24), id("mn.dc.test"), id("rs.dc.test"), 5);
    let keep_alive = KeepAlive { request: RequestId(2), load: None, rtts: List::default() };
    mail.send(&mut measuring, to, &keep_alive.into(), 1, now);
    let request = |common_key| TunnelRequest { request: RequestId(3), moved: true, common_key }.into();
    let response: Message =
        TunnelResponse { request: RequestId(3), seen: socket("203.0.113.3:1025"), peer_ready: true }.into();
    let tunnel = |n: u8, purpose, leg, role| TunnelSession::new(&key(n), purpose, PATH, EPOCH, leg, role);
    let mut leg = tunnel(21, Purpose::Tunnel, true, Role::Initiator);
    mail.send_on(&mut leg, to, &request(Some(key(26))), 1, now);
    mail.send_on(&mut tunnel(21, Purpose::Tunnel, true, Role::Responder), to, &response, 1, now);
    mail.send_on(&mut tunnel(25, Purpose::Tunnel, false, Role::Initiator), to, &request(None), 1, now);
    let mut common = tunnel(26, Purpose::Leg, true, Role::Initiator);
    mail.send_on(&mut common, to, &PathKeepAlive { request: RequestId(4) }.into(), 1, now);
    let answer = PathKeepAliveAnswer { request: RequestId(4), seen: socket("[2001:db8::9]:1025") };
    mail.send_on(&mut tunnel(26, Purpose::Leg, true, Role::Responder), to, &answer.into(), 1, now);

    let mut packets = Vec::new();
    while let Some(transmit) = mail.poll_transmit() {
        packets.push(packet(&transmit.bytes));
    }
    let mut said = Vec::new();
    while let Some((_, what)) = mail.journal.poll() {
        if let What::Sent { message, fields, .. } = what {
            let mut lines = Vec::new();
            fields.iter().for_each(|(name, value)| flat(name, value, &mut lines));
            lines.sort();
            said.push((message, lines));
        }
    }
    (packets, said)
}

/// With the keys shared beforehand alone; all others are found in the messages.
#[test]
fn every_message_says_what_it_says() {
    let (packets, said) = sent();
    let kinds: std::collections::BTreeSet<Kind> = said.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds.len(), Kind::ALL.len() - 1, "every kind but data");
    let folder = tempfile::tempdir().unwrap();
    let file = capture(folder.path(), &packets, 65535);
    let keys = key_file(folder.path(), &[("ns.dc.test", "mn.dc.test", 20)]);
    let told = told(&file, &keys, &["ntmobile.type", "ntmobile.field", "ntmobile.malformed", "ntmobile.seq"]);
    assert_eq!(told.len(), said.len());
    for (row, (kind, lines)) in told.iter().zip(&said) {
        assert_eq!(row[0], [format!("0x{:02x}", *kind as u8)], "{kind:?}");
        let mut fields: Vec<String> =
            row[1].iter().filter(|line| !line.ends_with("=(a key)")).cloned().collect();
        fields.sort();
        assert_eq!(fields, *lines, "{kind:?}");
        assert!(row[2].is_empty(), "{kind:?}");
    }
}

#[test]
fn without_its_key_or_with_a_bit_changed_a_message_stays_closed() {
    let (mut packets, _) = sent();
    let folder = tempfile::tempdir().unwrap();
    let whole = capture(folder.path(), &packets, 65535);
    let wrong = key_file(folder.path(), &[("ns.dc.test", "mn.dc.test", 99)]);
    for row in told(&whole, &wrong, &["ntmobile.field", "ntmobile.unopened"]) {
        assert!(row[0].is_empty() && row[1].len() == 1, "{row:?}");
    }
    for packet in &mut packets {
        let last = packet.len() - 20;
        packet[last] ^= 1;
    }
    let changed = capture(folder.path(), &packets, 65535);
    let right = key_file(folder.path(), &[("ns.dc.test", "mn.dc.test", 20)]);
    for row in told(&changed, &right, &["ntmobile.field", "ntmobile.unopened"]) {
        assert!(row[0].is_empty() && row[1].len() == 1, "{row:?}");
    }
}

/// The packet inside is shown, whole and where the capture has only its beginning.
#[test]
fn a_data_packet_shows_the_packet_inside() {
    let (mut packets, _) = sent();
    let control = packets.len();
    let inner = |suite: Suite, from: Role, payload: usize| {
        let mut inside = packet(&vec![0x55; payload]);
        inside[12..20].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
        inside[20..24].copy_from_slice(&[0x30, 0x39, 0x9c, 0x40]);
        let keys = DataKeys::new(&key(25), PATH, EPOCH, suite, from);
        let mut buffer = vec![0; sealed_len(suite, inside.len())];
        buffer[HEADER_LEN..HEADER_LEN + inside.len()].copy_from_slice(&inside);
        let sealed = keys.place(77, inside.len(), &mut buffer).unwrap();
        keys.seal_all(&mut buffer, std::slice::from_ref(&(0..sealed)));
        buffer.truncate(sealed);
        buffer
    };
    let small = inner(Suite::Aes128Cbc, Role::Responder, 33);
    packets.push(packet(&inner(Suite::Aes128Cbc, Role::Initiator, 1000)));
    packets.push(packet(&small));
    packets.push(packet(&inner(Suite::None, Role::Initiator, 100)));
    packets.push(packet(&inner(Suite::Aes128Gcm, Role::Initiator, 101)));
    packets.push(packet(&inner(Suite::Aes128Gcm, Role::Responder, 1001)));
    // As a node hands several to its kernel in one piece.
    packets.push(packet(&[small.clone(), small].concat()));
    let folder = tempfile::tempdir().unwrap();
    let keys = key_file(folder.path(), &[("ns.dc.test", "mn.dc.test", 20)]);
    let source = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 12345);
    for snap in [65535, 700] {
        let file = capture(folder.path(), &packets, snap);
        let told = told(&file, &keys, &["ip.src", "udp.srcport", "ntmobile.cut"]);
        let (train, alone) = told[control..].split_last().unwrap();
        assert_eq!(train[0].len(), 3, "the frame's own header and both packets inside");
        for (n, row) in alone.iter().enumerate() {
            assert_eq!(row[0], ["203.0.113.4", &source.ip().to_string()], "packet {n} at {snap}");
            assert_eq!(row[1], ["4330", "12345"], "packet {n} at {snap}");
            assert_eq!(row[2].is_empty(), snap > 700 || ![0, 4].contains(&n), "packet {n} at {snap}");
        }
    }
}

/// MN behind a NAT pings a general node through RS-N.
const PING: &str = r#"
schema = 1
name   = "ping"
about  = "a terminal pings a general node"
[router.nat]
nat = "port-restricted"
[node]
root = { role = "dns", at = "internet", zone = "." }
dc   = { role = "coordinator", at = "internet", zone = "dc.ntm.test", vips = "198.18.0.0/16" }
rs   = { role = "relay", at = "internet" }
gn   = { role = "general", at = "internet", name = "www.example.test" }
mn   = { role = "terminal", at = "nat" }
[[flow]]
id = "name"
ping = { from = "mn", to = "www.example.test", count = 3, interval = "50ms" }
[[expect]]
check = "flow.name.lost == 0"
fail  = "an answer is missing"
"#;

/// One file for the whole run: every place an interface with its name, in the order of time, and open with the run's keys.
#[test]
fn a_runs_capture_is_opened_with_its_keys() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let run = home.undisturbed(&home.scenario("ping", PING), &["--keylog"]);
    assert_eq!(code(&run), 0, "{run:?}");
    let folder = home.only_run();
    let keys = folder.join("keys.txt");
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let fields = ["frame.interface_name", "frame.time_epoch", "ntmobile.field", "ip.src", "icmp.type"];
    let told = told(&folder.join("run.pcapng"), &keys, &fields);
    let places: std::collections::BTreeSet<&str> = told.iter().map(|row| row[0][0].as_str()).collect();
    for place in ["mn eth0", "mn ntm0", "rs eth0", "dc eth0", "gn eth0", "root eth0", "nat wan0"] {
        assert!(places.contains(place), "{place}: {places:?}");
    }
    let times: Vec<f64> = told.iter().map(|row| row[1][0].parse().unwrap()).collect();
    assert!(times.is_sorted(), "in the order of time");
    let said = |line: &str| told.iter().any(|row| row[2].iter().any(|field| field == line));
    for line in [
        "fqdn=www.example.test",
        "order=RS-N",
        "peer=www.example.test",
        "general=198.18.128.1",
        "peer_ready=true",
    ] {
        assert!(said(line), "{line}");
    }
    let inside = |place: &str, kind: &str| {
        let is = |row: &&Vec<Vec<String>>| {
            row[0][0] == place
                && row[4] == [kind]
                && row[3].len() == 2
                && row[3].iter().any(|ip| ip.starts_with("198.18."))
        };
        told.iter().filter(is).count()
    };
    for place in ["mn eth0", "nat wan0", "rs eth0"] {
        assert_eq!((inside(place, "8"), inside(place, "0")), (3, 3), "echo inside data packets at {place}");
    }
}
