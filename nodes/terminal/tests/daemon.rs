//! The daemon as a process, in network namespaces of its own: files, readiness, stub, status, handover, the end.
//!
//! No coordinator is needed: where one is spoken to, the test answers in its place. Needs root, iproute2 and unshare; where one is
//! missing the test fails and says so.

mod daemon {
    pub(crate) mod process;
    pub(crate) mod space;
}

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use daemon::process::{Daemon, Files, KEY, PATIENCE, query, steadily};
use daemon::space::Space;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use nix::net::if_::if_nametoindex;
use ntm_protocol::addr::{Fqdn, NodeId, Vip};
use ntm_protocol::crypto::{Entropy, SharedKey};
use ntm_protocol::session::Session;
use ntm_protocol::wire::{Header, List, Message as NtmMessage, RegistrationResponse};
use serde_json::{Value, json};

const STUB: &str = "127.0.0.53:53";
/// The DC's address in these tests.
const DC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 4);

#[test]
fn the_configuration_is_checked() {
    let files = Files::new("");
    let right = files.check();
    assert_eq!(
        (right.status.code(), files.text(&right.stdout).as_str()),
        (Some(0), "terminal.toml is right")
    );

    let wrong = Files::new("colour = 1\n").check();
    assert_eq!(wrong.status.code(), Some(2));
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(text.contains("terminal.toml:7:1: unknown field `colour`"), "{text}");
}

#[test]
fn without_the_tun_driver_it_says_what_to_do() {
    let space = Space::new();
    space.ip("link set lo up");
    let files = Files::new("");
    let hidden =
        ["--mount", "sh", "-c", "mount -t tmpfs -o ro none /dev/net && exec timeout 10 \"$0\" \"$@\""];
    let output =
        space.within(|| files.command_after("unshare", &hidden).output().expect("unshare (util-linux) runs"));
    let text = files.text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.starts_with("ntm-terminal: this machine has no /dev/net/tun: load the driver"), "{text}");
}

#[test]
fn a_taken_dns_address_is_told() {
    let space = Space::new();
    space.ip("link set lo up");
    let files = Files::new("");
    let output = space.within(|| {
        let _taken = UdpSocket::bind(STUB).expect("the stub's address");
        files.command().output().expect("the daemon runs")
    });
    let text = files.text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("dns_listen: UDP 127.0.0.53:53 cannot be bound"), "{text}");
}

#[test]
fn without_a_network_it_serves_what_it_can_and_ends_cleanly() {
    let space = Space::new();
    space.ip("link set lo up");
    let daemon = Daemon::start(&space, Files::new("patience = \"400ms\"\n"));
    assert_eq!(daemon.readiness(), "READY=1\nSTATUS=no network\n");

    let route = space.ip("route get 198.19.1.1");
    assert!(route.contains("dev ntm0"), "a packet to a VIP leaves by the TUN alone: {route}");
    let link = space.ip("link show ntm0");
    assert!(link.contains("mtu 1424") && link.contains("LOWER_UP"), "{link}");

    let localhost = ask(&space, &query(1, "localhost.", RecordType::A));
    assert_eq!(records(&localhost), ["127.0.0.1"]);
    assert_eq!(ask_by_tcp(&space, &query(2, "localhost.", RecordType::A)).answers, localhost.answers);
    assert_eq!(ask(&space, &query(3, "printer.", RecordType::A)).response_code, ResponseCode::NXDomain);
    let nothing = ask(&space, &query(4, "cn.dc.test.", RecordType::AAAA));
    assert_eq!((nothing.response_code, records(&nothing)), (ResponseCode::NoError, vec![]));

    // Nobody to ask: the error comes when the application's patience ends, by UDP and TCP.
    for ask in [ask, ask_by_tcp] {
        let start = Instant::now();
        let answer = ask(&space, &query(5, "cn.dc.test.", RecordType::A));
        assert_eq!((answer.id, answer.response_code), (5, ResponseCode::ServFail));
        assert!(start.elapsed() >= Duration::from_millis(400), "after {:?}", start.elapsed());
    }

    let status = daemon.status();
    assert_eq!((&status["fqdn"], &status["vip"]), (&json!("mn.dc.test"), &Value::Null));
    assert_eq!((&status["registered"], &status["addresses"]), (&json!(false), &json!([])));
    assert_eq!(status["queries_waiting"], 0);

    daemon.terminate_and_check(&space);
}

#[test]
fn garbage_is_counted_and_traced_and_nothing_else_changes() {
    let space = Space::new();
    space.ip("link set lo up");
    let daemon = Daemon::start(&space, Files::new(""));
    daemon.readiness();
    // Cut short; no version; a data packet of no path; a control message of a stranger.
    let mut stranger = vec![0; 80];
    stranger[..4].copy_from_slice(&[1, 1, 1, 1]);
    let garbage = [vec![1], vec![0xff; 31], vec![0xff; 1400], stranger];
    let from = space.within(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for datagram in &garbage {
            socket.send_to(datagram, "127.0.0.1:4330").expect("sent");
        }
        socket.local_addr().expect("its address")
    });
    let before = daemon.status();
    let status = daemon.await_status(|status| status["refused"] == json!(garbage.len()));
    for key in ["vip", "registered", "addresses", "paths", "queries_waiting"] {
        assert_eq!(status[key], before[key], "{key}");
    }
    let refused: Vec<Value> = daemon.trace().into_iter().filter(|line| line["what"] == "refused").collect();
    assert_eq!(refused.len(), garbage.len(), "{refused:?}");
    for line in refused {
        assert_eq!((&line["node"], &line["from"]), (&json!("mn"), &json!(from)), "{line}");
        assert!(line["field"].is_string() && line["reason"].is_string(), "{line}");
    }
    daemon.terminate_and_check(&space);
}

/// Two networks, as a laptop sees them, with the DC behind both.
fn two_networks() -> (Space, Space) {
    let (terminal, internet) = (Space::new(), Space::new());
    terminal.ip("link set lo up");
    internet.ip("link set lo up");
    internet.ip(&format!("address add {DC}/32 dev lo"));
    for n in [0, 1] {
        terminal.ip(&format!("link add wlan{n} type veth peer name ap{n} netns {}", internet.path()));
        internet.ip(&format!("address add 10.0.{n}.1/24 dev ap{n}"));
        internet.ip(&format!("link set ap{n} up"));
    }
    (terminal, internet)
}

fn join(terminal: &Space, n: u8) {
    terminal.ip(&format!("link set wlan{n} up"));
    terminal.ip(&format!("address add 10.0.{n}.2/24 dev wlan{n}"));
}

/// T4.1.4-a: a handover is a registration from the new address, as soon as a route leads to the DC, and not before.
#[test]
fn it_registers_at_each_network_as_soon_as_a_route_leads_to_the_dc() {
    let (terminal, internet) = two_networks();
    let dc = internet.within(|| UdpSocket::bind((DC, 4330)).expect("the DC's port"));
    dc.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let daemon = Daemon::start(&terminal, Files::new(""));
    daemon.readiness();
    for n in [0, 1] {
        if n == 1 {
            terminal.ip("link set wlan0 down");
            terminal.ip("address del 10.0.0.2/24 dev wlan0");
            // A daemon that looks late would never see that there was none in between.
            daemon.await_status(|status| status["addresses"] == json!([]));
        }
        join(&terminal, n);
        let routed = daemon::process::now();
        terminal.ip(&format!("route add default via 10.0.{n}.1"));
        let datagram = next_from(&dc, SocketAddr::from(([10, 0, n, 2], 4330)));
        let header = Header::parse(&datagram).expect("an NTM message");

        // An answer comes after the trace of all that was before it.
        assert_eq!(daemon.status()["addresses"], json!([format!("10.0.{n}.2")]));
        let trace = daemon.trace();
        let of_addresses = |line: &Value| line["what"] == "addresses";
        let changes: Vec<&Value> =
            trace.iter().filter(|line| of_addresses(line)).map(|line| &line["addresses"]).collect();
        let expected = [json!(["10.0.0.2"]), json!([]), json!(["10.0.1.2"])];
        assert_eq!(changes, expected.iter().take(1 + 2 * usize::from(n)).collect::<Vec<_>>());
        let at = trace.iter().rposition(of_addresses).expect("a change");
        assert!(trace[at]["t"].as_u64() > Some(routed), "an address without a route is not used");
        let sent = &trace[at + 1];
        assert_eq!((&sent["what"], &sent["message"]), (&json!("sent"), &json!("RegistrationRequest")));
        assert_eq!(
            sent["seq"].as_u64(),
            Some(header.sequence),
            "its first sending arrives: nothing was lost"
        );
    }
    daemon.terminate_and_check(&terminal);
}

/// The next datagram from `source`. Of an earlier network, some may still stand in the queue.
fn next_from(socket: &UdpSocket, source: SocketAddr) -> Vec<u8> {
    let mut buffer = [0; 2048];
    for _ in 0..100 {
        let (length, from) = steadily(|| socket.recv_from(&mut buffer)).expect("a datagram");
        if from == source {
            return buffer[..length].to_vec();
        }
    }
    panic!("no datagram of a hundred came from {source}");
}

/// The DC's side of a registration.
struct Dc {
    session: Session,
    socket: UdpSocket,
    rng: Entropy,
}

impl Dc {
    fn new(internet: &Space) -> Self {
        let socket = internet.within(|| UdpSocket::bind((DC, 4330)).expect("the DC's port"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let id = |name: &str| NodeId::of(&name.parse::<Fqdn>().expect("a name"));
        let session = Session::new(&SharedKey::new([KEY; 32]), id("ns.dc.test"), id("mn.dc.test"), 1);
        Self { session, socket, rng: Entropy::new([2; 32]) }
    }

    /// Answers the next Registration Request from `source`.
    fn grant(&mut self, vip: Ipv4Addr, source: SocketAddr) {
        let datagram = next_from(&self.socket, source);
        let header = Header::parse(&datagram).expect("an NTM message");
        let message = self.session.open(&header, &datagram).expect("from the terminal");
        let NtmMessage::RegistrationRequest(request) = message else { panic!("{message:?}") };
        assert_eq!(request.addresses[..], [source]);
        let response = RegistrationResponse {
            request: request.request,
            vip: Some(Vip(vip)),
            seen: source,
            keep_alive: Duration::from_secs(60),
            relays: List::default(),
            vips: None,
        };
        let (bytes, _) = self.session.seal(&response.into(), &mut self.rng);
        self.socket.send_to(&bytes, source).expect("sent");
    }
}

/// T3.2.1-a, T3.1-b: the VIP is the source of what applications send to VIPs, on whatever network the terminal is.
#[test]
fn registered_it_has_its_vip() {
    let (terminal, internet) = two_networks();
    let mut dc = Dc::new(&internet);
    join(&terminal, 0);
    terminal.ip("route add default via 10.0.0.1");
    let daemon = Daemon::start(&terminal, Files::new(""));
    let vip = Ipv4Addr::new(198, 18, 0, 7);
    dc.grant(vip, "10.0.0.2:4330".parse().expect("an address"));
    let ready = format!("READY=1\nSTATUS=mn.dc.test is registered and has the VIP {vip}\n");
    assert_eq!(daemon.readiness(), ready, "ready only now");

    let chosen = || {
        terminal.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect("198.19.1.1:9").expect("a route");
            socket.local_addr().expect("its address").ip().to_string()
        })
    };
    assert_eq!(chosen(), vip.to_string());
    let status = daemon.status();
    assert_eq!((&status["vip"], &status["registered"]), (&json!(vip), &json!(true)));

    let own = ask(&terminal, &query(1, "MN.dc.test.", RecordType::A));
    assert_eq!((records(&own), own.answers[0].ttl), (vec![vip.to_string()], 1));
    assert_eq!(
        records(&ask(&terminal, &query(2, "7.0.18.198.in-addr.arpa.", RecordType::PTR))),
        ["mn.dc.test."]
    );
    let unknown = ask(&terminal, &query(3, "8.0.18.198.in-addr.arpa.", RecordType::PTR));
    assert_eq!(unknown.response_code, ResponseCode::NXDomain);

    // A DC that lost its store gives another VIP: the first is gone then.
    terminal.ip("link set wlan0 down");
    join(&terminal, 1);
    terminal.ip("route add default via 10.0.1.1");
    let other = Ipv4Addr::new(198, 18, 0, 9);
    dc.grant(other, "10.0.1.2:4330".parse().expect("an address"));
    daemon.await_status(|status| status["vip"] == json!(other));
    assert_eq!(chosen(), other.to_string());
    let addresses = terminal.ip("-4 address show dev ntm0");
    assert!(addresses.contains("198.18.0.9/32") && !addresses.contains("198.18.0.7"), "{addresses}");
    daemon.terminate_and_check(&terminal);
}

fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn ask(space: &Space, query: &Message) -> Message {
    space.within(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(&query.to_vec().expect("a message"), STUB).expect("sent");
        let mut answer = [0; 512];
        let (length, from) = steadily(|| socket.recv_from(&mut answer)).expect("an answer");
        assert_eq!(from.to_string(), STUB);
        Message::from_vec(&answer[..length]).expect("a message")
    })
}

fn ask_by_tcp(space: &Space, query: &Message) -> Message {
    space.within(|| {
        let mut stream = TcpStream::connect(STUB).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let bytes = query.to_vec().expect("a message");
        let length = u16::try_from(bytes.len()).expect("a short query");
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).expect("sent");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a length");
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).expect("an answer");
        Message::from_vec(&answer).expect("a message")
    })
}

impl Daemon {
    /// Ends the daemon by SIGTERM; nothing of it is left.
    fn terminate_and_check(mut self, space: &Space) {
        let status = self.terminate();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(space.within(|| if_nametoindex("ntm0")).is_err(), "the TUN is gone");
        assert!(!fs::exists(self.control()).expect("the folder is there"), "the control socket is gone");
    }
}
