//! Packets through RS-N: a terminal's real sockets on one side, a general node's on the other (T4.2.3-a, T4.2.3-b, T5.4.1-a, T5.4.2-a).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use nix::libc;
use ntm_protocol::wire::RelayAnswer;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::peers::{Dc, Path, Terminal, VIP_GN, VIP_MN};
use crate::process::Daemon;
use crate::world::{GENERAL, Namespace, PATIENCE, RELAY, World, steadily, until};

/// A world in which VIP_GN[0] leads to GENERAL[0].
struct Set {
    world: World,
    dc: Dc,
    daemon: Daemon,
    terminal: Terminal,
}

fn set() -> Set {
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    let daemon = start(&world, &mut dc);
    let terminal = Terminal::new(&world.terminal);
    let mut set = Set { world, dc, daemon, terminal };
    set.connect(Path::new(1), VIP_GN[0], GENERAL[0]);
    set
}

fn start(world: &World, dc: &mut Dc) -> Daemon {
    let mut daemon = Daemon::start(&world.relay);
    daemon.told();
    dc.register();
    assert!(daemon.told().starts_with("READY=1"));
    daemon
}

impl Set {
    fn connect(&mut self, path: Path, general: Ipv4Addr, real: Ipv4Addr) {
        assert_eq!(self.dc.direct(path, path.translate(general, real)), RelayAnswer::Ready);
        self.terminal.connect(path, general);
    }
}

pub(crate) fn listen(namespace: &Namespace, address: impl Into<SocketAddr>) -> TcpListener {
    let address = address.into();
    namespace.run(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
}

pub(crate) fn connect(namespace: &Namespace, from: Ipv4Addr, to: impl Into<SocketAddr>) -> TcpStream {
    let (from, to) = (SocketAddr::from((from, 0)), to.into());
    let stream = namespace.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok::<_, std::io::Error>(socket.into())
    });
    patient(stream.unwrap_or_else(|error| panic!("connecting from {from} to {to}: {error}")))
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Sends a line from one end, reads it at the other.
#[track_caller]
pub(crate) fn line(from: &mut TcpStream, to: &mut BufReader<TcpStream>, text: &str) {
    writeln!(from, "{text}").expect("sent");
    assert_eq!(read(to), text);
}

#[track_caller]
pub(crate) fn read(from: &mut BufReader<TcpStream>) -> String {
    let mut text = String::new();
    from.read_line(&mut text).expect("a line");
    text.trim_end().to_owned()
}

pub(crate) fn reader(stream: &TcpStream) -> BufReader<TcpStream> {
    BufReader::new(stream.try_clone().expect("a handle"))
}

/// How many packets the rule with the comment `why` dropped.
pub(crate) fn dropped(relay: &Namespace, family: &str, why: &str) -> u64 {
    counted(relay, family, "ntm-relay-ntm0", why)
}

/// How many packets came to the rule of `table` with the comment `why`.
fn counted(relay: &Namespace, family: &str, table: &str, why: &str) -> u64 {
    let rules = relay.must(&format!("nft list table {family} {table}"));
    let rule =
        rules.lines().find(|line| line.contains(why)).unwrap_or_else(|| panic!("no rule '{why}': {rules}"));
    let count = rule.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).expect("a counter")
}

/// Conntrack keeps nothing of tunnels: it follows connections of terminals with general nodes, and control messages.
#[test]
fn data_packets_of_tunnels_are_not_followed() {
    let set = set();
    let relay = &set.world.relay;
    let data = "@th,64,16 0x0130 ct state";
    let rules = [("prerouting", "dport"), ("output", "sport")].map(|(hook, port)| {
        format!(
            "add chain ip watch {hook} {{ type filter hook {hook} priority 0 ; }} ; \
             add rule ip watch {hook} udp {port} 4330 {data} untracked counter comment \"{hook} alone\" ; \
             add rule ip watch {hook} udp {port} 4330 {data} new,established counter comment \"{hook} followed\" ; "
        )
    });
    relay.must(&format!("nft add table ip watch ; {}", rules.concat()));
    // One after the other: packets that meet at an interface are joined, and counted as one.
    for _ in 0..3 {
        set.world.terminal.must(&format!("ping -n -c 1 -W 10 {}", VIP_GN[0]));
    }
    for hook in ["prerouting", "output"] {
        assert_eq!(counted(relay, "ip", "watch", &format!("{hook} followed")), 0);
        assert_eq!(counted(relay, "ip", "watch", &format!("{hook} alone")), 3);
    }
}

/// T4.2.3-a, T4.2.3-b, T5.4.1-a, T5.4.2-a: both addresses are translated in both directions, and every checksum is right.
#[test]
fn udp_tcp_and_ping_reach_the_general_node_which_sees_the_relay_only() {
    let set = set();
    let (mn, gn) = (&set.world.terminal, &set.world.others);
    mn.must(&format!("ping -n -c 2 -i 0.01 -W 5 {}", VIP_GN[0]));

    let server = gn.udp((GENERAL[0], 7));
    let client = mn.udp((VIP_MN, 40_000));
    let mut buffer = [0; 2048];
    for length in [0, 1, 1396] {
        client.send_to(&vec![7; length], (VIP_GN[0], 7)).expect("sent");
        let (received, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        assert_eq!((received, from), (length, (RELAY, 40_000).into()), "T4.2.3-b");
        server.send_to(&buffer[..received], from).expect("answered");
        let (received, from) = steadily(|| client.recv_from(&mut buffer)).expect("the answer");
        assert_eq!((received, from), (length, (VIP_GN[0], 7).into()), "T4.2.3-a");
    }
    // An error comes back translated, too: nobody listens there.
    client.connect((VIP_GN[0], 9)).expect("connected");
    client.send(b"?").expect("sent");
    let error = steadily(|| client.recv(&mut buffer)).expect_err("port unreachable");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);

    // What has a wrong checksum would not arrive (T5.4.2-a).
    assert_eq!(megabyte_each_way(mn, listen(gn, (GENERAL[0], 80))), IpAddr::V4(RELAY));
}

/// A megabyte each way between the terminal `mn` and the general node that `listener` belongs to, at VIP_GN's port 80; whom that one sees.
pub(crate) fn megabyte_each_way(mn: &Namespace, listener: TcpListener) -> IpAddr {
    let serving = thread::spawn(move || {
        let (stream, from) = listener.accept().expect("a connection");
        let mut stream = patient(stream);
        let mut all = vec![0; 1 << 20];
        stream.read_exact(&mut all).expect("all of it");
        stream.write_all(&all).expect("sent back");
        from
    });
    let mut stream = connect(mn, VIP_MN, (VIP_GN[0], 80));
    assert_eq!(stream.peer_addr().expect("an address"), (VIP_GN[0], 80).into());
    let sent: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()).collect();
    let mut writing = stream.try_clone().expect("a handle");
    let copy = sent.clone();
    let writer = thread::spawn(move || writing.write_all(&copy).expect("sent"));
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).expect("all of it");
    writer.join().expect("written");
    assert!(received == sent, "it came back changed");
    serving.join().expect("served").ip()
}

pub(crate) fn set_option(socket: &UdpSocket, (level, name): (libc::c_int, libc::c_int), value: libc::c_int) {
    let size = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives over the call, and its size is told.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    assert_eq!(set, 0);
}

/// Datagrams that no tunnel carries as they are: cut up, or answered such that the general node's kernel understands. Nothing is lost in
/// silence, in either direction.
#[test]
fn large_datagrams_arrive_or_are_answered() {
    let set = set();
    let server = set.world.others.udp((GENERAL[0], 7));
    let client = set.world.terminal.udp((VIP_MN, 40_000));
    let discovery = |value| set_option(&server, (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), value);
    let mut buffer = vec![0; 1 << 16];
    // What the terminal's kernel cuts up already; on the way back the general node's kernel and the relay's do.
    discovery(libc::IP_PMTUDISC_DONT);
    for length in [1397, 4000, 65_507] {
        client.send_to(&vec![7; length], (VIP_GN[0], 7)).expect("sent");
        let (received, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        server.send_to(&buffer[..received], from).expect("answered");
        let answer = steadily(|| client.recv(&mut buffer)).expect("the answer");
        assert_eq!((received, answer), (length, length));
    }
    // The longest single packet on Ethernet.
    server.connect((RELAY, 40_000)).expect("connected");
    server.send(&[1; 1472]).expect("sent");
    assert_eq!(steadily(|| client.recv(&mut buffer)).expect("received"), 1472);
    // And one that must not be cut up.
    discovery(libc::IP_PMTUDISC_DO);
    server.send(&[2; 1472]).expect("sent");
    let told = steadily(|| server.recv(&mut buffer)).expect_err("too long");
    assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(
        server.send(&[3; 1397]).unwrap_err().raw_os_error(),
        Some(libc::EMSGSIZE),
        "it was told how long"
    );
    server.send(&[4; 1396]).expect("sent");
    assert_eq!(steadily(|| client.recv(&mut buffer)).expect("received"), 1396);
}

/// TA-a: one MN that talks to two GNs, from one port.
#[test]
fn one_terminal_speaks_to_two_general_nodes() {
    let mut set = set();
    set.connect(Path::new(2), VIP_GN[1], GENERAL[1]);
    let client = set.world.terminal.udp((VIP_MN, 40_000));
    let servers = GENERAL.map(|address| set.world.others.udp((address, 7)));
    let mut buffer = [0; 64];
    for (general, server) in VIP_GN.iter().zip(&servers) {
        client.send_to(b"hello", (*general, 7)).expect("sent");
        let (_, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        server.send_to(b"you too", from).expect("answered");
        assert_eq!(steadily(|| client.recv_from(&mut buffer)).expect("an answer").1, (*general, 7).into());
    }
}

/// T5.1.2-a: the source port is Netfilter's choice: the application's own while that is free, another where it is taken.
#[test]
fn a_taken_source_port_is_replaced_by_a_free_one() {
    let mut set = set();
    // A second virtual address of the same general node, so that one socket makes two connections which differ on this side only.
    set.connect(Path::new(2), VIP_GN[1], GENERAL[0]);
    let client = set.world.terminal.udp((VIP_MN, 40_000));
    let server = set.world.others.udp((GENERAL[0], 7));
    let mut buffer = [0; 64];
    let mut reach = |general: Ipv4Addr| {
        client.send_to(b"hello", (general, 7)).expect("sent");
        let (_, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        server.send_to(b"you too", from).expect("answered");
        let (_, answered) = steadily(|| client.recv_from(&mut buffer)).expect("an answer");
        assert_eq!(answered, (general, 7).into());
        from
    };
    let [first, second] = VIP_GN.map(&mut reach);
    assert_eq!((first, second.ip()), ((RELAY, 40_000).into(), IpAddr::V4(RELAY)));
    assert_ne!(second.port(), 40_000);
    assert_eq!(VIP_GN.map(reach), [first, second], "a translation that is made stays");
}

/// T5.4.1-a: before MN's first packet nothing passes the other way; that packet makes the translation, and answers follow it back.
#[test]
fn the_first_packet_makes_the_translation() {
    let set = set();
    let client = set.world.terminal.udp((VIP_MN, 40_000));
    let server = set.world.others.udp((GENERAL[0], 7));
    let known = || set.world.relay.must("cat /proc/net/nf_conntrack");
    let mut buffer = [0; 64];
    server.send_to(b"too early", (RELAY, 40_000)).expect("sent");
    assert!(!known().contains(&format!("src={VIP_MN}")), "{}", known());
    client.send_to(b"the first", (VIP_GN[0], 7)).expect("sent");
    let (_, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
    let made = known();
    let entry = made.lines().find(|line| line.contains(&format!("src={VIP_MN} dst={}", VIP_GN[0])));
    let entry = entry.unwrap_or_else(|| panic!("no translation: {made}"));
    assert!(
        entry.contains(&format!("src={} dst={RELAY} sport=7 dport={}", GENERAL[0], from.port())),
        "{entry}"
    );
    server.send_to(b"an answer", from).expect("sent");
    // One socket's packets keep their order: what was too early would come first.
    let length = steadily(|| client.recv(&mut buffer)).expect("the answer");
    assert_eq!(&buffer[..length], b"an answer");
}

/// What a terminal may not reach: the relay itself, another terminal, what has no translation; and nobody outside reaches a terminal.
#[test]
fn only_what_is_translated_passes() {
    let set = set();
    let World { relay, terminal, others } = &set.world;
    // From outside, to VIPs by way of the relay's machine.
    others.must(&format!("ip route add 198.18.0.0/15 via {RELAY}"));
    let client = terminal.udp((VIP_MN, 40_000));
    let outsider = others.udp((GENERAL[1], 7));
    outsider.send_to(b"let me in", (VIP_MN, 40_000)).expect("sent");
    until(|| dropped(relay, "ip", "no terminal asked for it") == 1);
    // And with a virtual source, straight from the terminal's real interface.
    others.must("ip addr add 198.18.0.9/32 dev net");
    let spoofer = others.udp(([198, 18, 0, 9], 7));
    spoofer.send_to(b"I am a terminal", (VIP_GN[0], 7)).expect("sent");
    until(|| dropped(relay, "ip", "nobody else has one") == 1);
    client.set_nonblocking(true).expect("set");
    assert_eq!(steadily(|| client.recv(&mut [0; 64])).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// A connection lives through the relay's death: conntrack knows it still, and the next run takes it on.
#[test]
fn a_tcp_connection_lives_through_a_restart() {
    let Set { world, mut dc, daemon, mut terminal } = set();
    let listener = listen(&world.others, (GENERAL[0], 80));
    let mut client = connect(&world.terminal, VIP_MN, (VIP_GN[0], 80));
    let mut server = patient(listener.accept().expect("a connection").0);
    line(&mut client, &mut reader(&server), "before");

    daemon.end("KILL");
    // With the TUN gone, nothing for a terminal leaves by another way, and no reset reaches the general node.
    writeln!(server, "meanwhile").expect("sent");
    until(|| dropped(&world.relay, "ip", "terminals are behind the TUN only") > 0);
    let _daemon = start(&world, &mut dc);
    let path = Path { epoch: 2, ..Path::new(1) };
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[0])), RelayAnswer::Ready);
    terminal.connect(path, VIP_GN[0]);
    let mut reading = reader(&client);
    assert_eq!(read(&mut reading), "meanwhile");
    line(&mut server, &mut reading, "after");
    line(&mut client, &mut reader(&server), "after, too");
}

/// A VIP_GN that stands for another general node leads nobody to the former one.
#[test]
fn connections_end_when_their_address_leads_elsewhere() {
    let Set { world, mut dc, daemon, mut terminal } = set();
    let [old, new] = GENERAL.map(|address| world.others.udp((address, 7)));
    let client = world.terminal.udp((VIP_MN, 40_000));
    let mut buffer = [0; 64];
    client.send_to(b"one", (VIP_GN[0], 7)).expect("sent");
    steadily(|| old.recv(&mut buffer)).expect("received");
    daemon.end("TERM");
    let daemon = start(&world, &mut dc);
    let path = Path::new(3);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL[1])), RelayAnswer::Ready);
    terminal.connect(path, VIP_GN[0]);
    assert_eq!(daemon.status()["rs_n"]["translations"], json!({ "198.18.128.1": "203.0.113.81" }));
    // From the same port, so that conntrack would know the connection.
    client.send_to(b"two", (VIP_GN[0], 7)).expect("sent");
    let length = steadily(|| new.recv(&mut buffer)).expect("it reaches the new one");
    assert_eq!(&buffer[..length], b"two");
    old.set_nonblocking(true).expect("set");
    assert_eq!(steadily(|| old.recv(&mut buffer)).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// T5.1.2-b: FTP carries addresses in its control connection (RFC 959); both ends must read such as they can reach.
#[test]
fn ftp_works_in_passive_and_in_active_mode() {
    let set = set();
    let helpers = set.daemon.status()["rs_n"]["helpers"].take();
    assert!(
        helpers.as_array().is_some_and(|all| all.contains(&json!("ftp"))),
        "this kernel has no nf_conntrack_ftp: {helpers}"
    );
    let (mn, gn) = (&set.world.terminal, &set.world.others);
    let listener = listen(gn, (GENERAL[0], 21));
    let mut client = connect(mn, VIP_MN, (VIP_GN[0], 21));
    let mut server = patient(listener.accept().expect("a connection").0);
    let (mut at_client, mut at_server) = (reader(&client), reader(&server));

    // The helper reads from the second line of each end on.
    line(&mut server, &mut at_client, "220 ready");
    line(&mut client, &mut at_server, "USER anonymous");

    // Passive: the server says where to connect to.
    let data = listen(gn, (GENERAL[0], 0));
    let port = data.local_addr().expect("an address").port();
    client.write_all(b"PASV\r\n").expect("sent");
    assert_eq!(read(&mut at_server), "PASV");
    let reply = format!("227 Entering Passive Mode ({})\r\n", host_port(GENERAL[0], port));
    server.write_all(reply.as_bytes()).expect("sent");
    let reply = read(&mut at_client);
    let (address, port) = parse_host_port(reply.split(['(', ')']).nth(1).expect("an address"));
    assert_eq!(address, VIP_GN[0], "{reply}");
    let mut from_server = BufReader::new(connect(mn, VIP_MN, (address, port)));
    let mut to_client = patient(data.accept().expect("a data connection").0);
    line(&mut to_client, &mut from_server, "a file, passively");

    // Active: the client says where to connect to.
    let data = listen(mn, (VIP_MN, 0));
    let port = data.local_addr().expect("an address").port();
    client.write_all(format!("PORT {}\r\n", host_port(VIP_MN, port)).as_bytes()).expect("sent");
    let command = read(&mut at_server);
    let (address, port) = parse_host_port(command.strip_prefix("PORT ").expect("PORT"));
    assert_eq!(address, RELAY, "{command}");
    let mut to_client = connect(gn, GENERAL[0], (address, port));
    let (from_server, from) = data.accept().expect("a data connection");
    assert_eq!(from.ip(), IpAddr::V4(VIP_GN[0]));
    line(&mut to_client, &mut BufReader::new(patient(from_server)), "a file, actively");
    // The control connection, whose texts changed their length, is in order still.
    line(&mut client, &mut at_server, "QUIT");
}

fn host_port(address: Ipv4Addr, port: u16) -> String {
    let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
    format!("{a},{b},{c},{d},{high},{low}")
}

fn parse_host_port(text: &str) -> (Ipv4Addr, u16) {
    let numbers: Vec<u8> = text.trim().split(',').map(|n| n.parse().expect("a number")).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("six numbers, not {text}") };
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))
}

/// T5.1.2-b: SIP carries addresses in its headers and in the session's description (RFC 3261, RFC 4566).
#[test]
fn sip_reaches_each_end_with_addresses_that_it_knows() {
    let set = set();
    let helpers = set.daemon.status()["rs_n"]["helpers"].take();
    assert!(
        helpers.as_array().is_some_and(|all| all.contains(&json!("sip-udp"))),
        "this kernel has no nf_conntrack_sip: {helpers}"
    );
    let client = set.world.terminal.udp((VIP_MN, 5060));
    let server = set.world.others.udp((GENERAL[0], 5060));
    let message = |first: &str, from: Ipv4Addr, to: Ipv4Addr, media: u16| {
        let body = format!(
            "v=0\r\no=- 1 1 IN IP4 {from}\r\ns=-\r\nc=IN IP4 {from}\r\nt=0 0\r\nm=audio {media} RTP/AVP 0\r\n"
        );
        format!(
            "{first}\r\nVia: SIP/2.0/UDP {VIP_MN}:5060;branch=z9hG4bK1\r\nFrom: <sip:mn@{from}>;tag=1\r\n\
             To: <sip:gn@{to}>\r\nCall-ID: 1@{from}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{from}:5060>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut buffer = [0; 2048];
    let invite = message(&format!("INVITE sip:gn@{} SIP/2.0", VIP_GN[0]), VIP_MN, VIP_GN[0], 4000);
    client.send_to(invite.as_bytes(), (VIP_GN[0], 5060)).expect("sent");
    let (length, from) = steadily(|| server.recv_from(&mut buffer)).expect("the INVITE");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert_eq!(from, (RELAY, 5060).into());
    assert!(text.starts_with(&format!("INVITE sip:gn@{}", GENERAL[0])), "{text}");
    for expected in [
        format!("Via: SIP/2.0/UDP {RELAY}:5060"),
        format!("<sip:x@{RELAY}:5060>"),
        format!("c=IN IP4 {RELAY}"),
    ] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    assert!(!text.contains(&format!("c=IN IP4 {VIP_MN}")), "{text}");

    // The media that it announces comes in, unasked.
    let media: u16 = text
        .split("m=audio ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("m=")
        .parse()
        .expect("a port");
    let phone = set.world.terminal.udp((VIP_MN, 4000));
    let speaker = set.world.others.udp((GENERAL[0], 6000));
    speaker.send_to(b"voice", (RELAY, media)).expect("sent");
    let (length, from) = steadily(|| phone.recv_from(&mut buffer)).expect("the voice");
    assert_eq!((&buffer[..length], from.ip()), (&b"voice"[..], IpAddr::V4(VIP_GN[0])));
}
