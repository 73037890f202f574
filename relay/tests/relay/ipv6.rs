//! A general node that has only IPv6 (T3.1-d): a terminal's sockets in IPv4 on one side, the general node's in IPv6 on the other.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::libc;
use ntm_protocol::wire::RelayAnswer;
use serde_json::json;

use crate::peers::{Dc, Path, Terminal, VIP_GN, VIP_MN};
use crate::process::Daemon;
use crate::translation::{
    connect, dropped, line, listen, megabyte_each_way, patient, read, reader, set_option,
};
use crate::world::{GENERAL, GENERAL6, RELAY, RELAY6, World, steadily, until};

/// A world in which VIP_GN[0] leads to GENERAL6.
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
    let mut terminal = Terminal::new(&world.terminal);
    let path = Path::new(1);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL6)), RelayAnswer::Ready);
    terminal.connect(path, VIP_GN[0]);
    Set { world, dc, daemon, terminal }
}

fn start(world: &World, dc: &mut Dc) -> Daemon {
    let mut daemon = Daemon::start_with_both(&world.relay);
    daemon.told();
    dc.register();
    assert!(daemon.told().starts_with("READY=1"));
    daemon
}

/// T3.1-d, T4.2.3-a, T4.2.3-b, T5.4.2-a: pings, datagrams and a megabyte of TCP each way; the general node sees the relay's IPv6 address alone, and
/// beside it another that has IPv4 is served as ever.
#[test]
fn a_general_node_with_only_ipv6_is_reached_and_sees_the_relay_only() {
    let mut set = set();
    let (mn, gn) = (set.world.terminal.clone(), set.world.others.clone());
    mn.must(&format!("ping -n -c 2 -i 0.01 -W 5 {}", VIP_GN[0]));
    let server = gn.udp((GENERAL6, 7));
    let client = mn.udp((VIP_MN, 40_000));
    let mut buffer = [0; 2048];
    for length in [0, 1, 1396] {
        client.send_to(&vec![7; length], (VIP_GN[0], 7)).expect("sent");
        let (received, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        assert_eq!((received, from), (length, (RELAY6, 40_000).into()), "T4.2.3-b");
        server.send_to(&buffer[..received], from).expect("answered");
        let (received, from) = steadily(|| client.recv_from(&mut buffer)).expect("the answer");
        assert_eq!((received, from), (length, (VIP_GN[0], 7).into()), "T4.2.3-a");
    }
    // An error comes back translated, too: nobody listens there.
    client.connect((VIP_GN[0], 9)).expect("connected");
    client.send(b"?").expect("sent");
    let error = steadily(|| client.recv(&mut buffer)).expect_err("port unreachable");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(megabyte_each_way(&mn, listen(&gn, (GENERAL6, 80))), IpAddr::V6(RELAY6));

    let path = Path::new(2);
    assert_eq!(set.dc.direct(path, path.translate(VIP_GN[1], GENERAL[1])), RelayAnswer::Ready);
    set.terminal.connect(path, VIP_GN[1]);
    let other = gn.udp((GENERAL[1], 7));
    mn.udp((VIP_MN, 0)).send_to(b"hello", (VIP_GN[1], 7)).expect("sent");
    assert_eq!(steadily(|| other.recv_from(&mut buffer)).expect("received").1.ip(), IpAddr::V4(RELAY));
    let status = set.daemon.status();
    let translations = json!({ "198.18.128.1": GENERAL6, "198.18.128.2": GENERAL[1] });
    assert_eq!(status["rs_n"]["translations"], translations);
    let rows: Vec<_> =
        status["table"].as_array().expect("rows").iter().map(|row| &row["peer_real_ip"]).collect();
    assert_eq!(rows, [&json!(GENERAL6), &json!(GENERAL[1])], "TA-c");
    assert_eq!(status["counters"]["drop_not_translated"], json!(0));
}

/// Datagrams that are too long are cut up, or answered such that the kernel at either end understands: ICMP's "fragmentation needed" and
/// ICMPv6's "packet too big" become each other.
#[test]
fn large_datagrams_arrive_or_are_answered_across_the_families() {
    let set = set();
    let server = set.world.others.udp((GENERAL6, 7));
    let client = set.world.terminal.udp((VIP_MN, 40_000));
    let mut buffer = vec![0; 1 << 16];
    for length in [1397, 4000, 60_000] {
        client.send_to(&vec![7; length], (VIP_GN[0], 7)).expect("sent");
        let (received, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        assert_eq!(received, length);
        // Its kernel learns on the way how long fragments may be, and loses what it sends before.
        client.set_nonblocking(true).expect("set");
        let mut sent = None;
        until(|| {
            if sent.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(300)) {
                server.send_to(&vec![7; length], from).expect("answered");
                sent = Some(Instant::now());
            }
            // Another length is what was sent twice, for the first came late.
            client.recv(&mut buffer).is_ok_and(|received| received == length)
        });
        client.set_nonblocking(false).expect("set");
    }
    // What comes once more still is no part of what follows.
    let client = set.world.terminal.udp((VIP_MN, 40_001));
    client.send_to(b"here", (VIP_GN[0], 7)).expect("sent");
    let from = loop {
        let (received, from) = steadily(|| server.recv_from(&mut buffer)).expect("received");
        if buffer[..received] == *b"here" {
            break from;
        }
    };
    // From the general node, whole: 1444 bytes pass, for 1424 of IPv4 do.
    set_option(&server, (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), libc::IPV6_PMTUDISC_DO);
    set_option(&server, (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG), 1);
    server.connect(from).expect("connected");
    let told = server.send(&[3; 1397]).unwrap_err();
    assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE), "it was told how long");
    server.send(&[4; 1396]).expect("sent");
    assert_eq!(steadily(|| client.recv(&mut buffer)).expect("received"), 1396);
    // From the terminal: the way behind the relay is narrower than the tunnel.
    set.world.relay.must(&format!("ip -6 route add {GENERAL6}/128 dev eth0 mtu lock 1300"));
    set_option(&client, (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_DO);
    client.connect((VIP_GN[0], 7)).expect("connected");
    client.send(&[5; 1300]).expect("sent");
    let told = steadily(|| client.recv(&mut buffer)).expect_err("too long");
    assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(client.send(&[5; 1253]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE), "1280 bytes pass");
    client.send(&[6; 1252]).expect("sent");
    assert_eq!(steadily(|| server.recv(&mut buffer)).expect("received"), 1252);
}

/// T4.2.5-b: a connection lives through the relay's death; and a relay that ends leaves nothing of IPv6 behind.
#[test]
fn a_connection_lives_through_a_restart_and_nothing_is_left() {
    let Set { world, mut dc, daemon, mut terminal } = set();
    let listener = listen(&world.others, (GENERAL6, 80));
    let mut client = connect(&world.terminal, VIP_MN, (VIP_GN[0], 80));
    let (server, from) = listener.accept().expect("a connection");
    let mut server = patient(server);
    line(&mut client, &mut reader(&server), "before");

    daemon.end("KILL");
    // With the TUN gone, nothing for a terminal leaves by another way, and no reset reaches the general node.
    world.relay.must("ip -6 route add default via 2001:db8::80");
    writeln!(server, "meanwhile").expect("sent");
    until(|| dropped(&world.relay, "ip6", "terminals are behind the TUN only") > 0);
    let daemon = start(&world, &mut dc);
    let path = Path { epoch: 2, ..Path::new(1) };
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL6)), RelayAnswer::Ready);
    terminal.connect(path, VIP_GN[0]);
    let mut reading = reader(&client);
    assert_eq!(read(&mut reading), "meanwhile");
    line(&mut server, &mut reading, "after");
    line(&mut client, &mut reader(&server), "after, too");
    assert_eq!(from.ip(), IpAddr::V6(RELAY6));

    let (status, log) = daemon.end("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(world.relay.must("nft list tables"), "");
    assert!(!world.relay.must("ip -6 route").contains("fd4e:2b1:"));
    assert_eq!(world.relay.must("sysctl -n net.ipv6.conf.all.forwarding"), "0\n");
}

/// T3.1-d: a relay that has no IPv6 says so, changes nothing of the machine's IPv6, and refuses such a general node.
#[test]
fn without_ipv6_it_says_so() {
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    let mut daemon = Daemon::start(&world.relay);
    daemon.told();
    dc.register();
    daemon.told();
    assert_eq!(daemon.status()["rs_n"]["without_ipv6"], json!("the relay has no IPv6 address"));
    let path = Path::new(1);
    assert_eq!(dc.direct(path, path.translate(VIP_GN[0], GENERAL6)), RelayAnswer::CannotTranslate);
    assert!(!world.relay.must("nft list tables").contains("ip6"));
    assert_eq!(world.relay.must("sysctl -n net.ipv6.conf.all.forwarding"), "0\n");
}
