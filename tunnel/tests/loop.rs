//! Two nodes in network namespaces of their own, a veth between them, a plane in each: real programs speak through it.
//!
//! Most tables here have no cryptography: 48 bytes around each packet stand for NTM header and MAC. Needs root, iproute2, ping and
//! iperf3; where one is missing the test fails and says so.

mod world;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use ntm_protocol::addr::PathId;
use ntm_protocol::crypto::{DataKeys, SharedKey, Suite};
use ntm_protocol::data::{DataUpdate, Flow, Inbound, NotSent, Outbound, Verdict, Way};
use ntm_protocol::wire::{HEADER_LEN, MAC_LEN, Reason, Refusal, Role};
use ntm_tunnel::{
    Egress, Event, Ingress, Plane, PlaneError, PlaneOptions, Tun, TunConfig, TunError, Udp, UdpConfig,
};
use world::{Node, PORT, World, iperf3, must, pings, real, run, runtime, settle, steadily, vip};

/// What stands around each packet.
const AROUND: usize = HEADER_LEN + MAC_LEN;

/// Puts a header's length ahead of what goes to the peer, and a MAC's behind it.
struct Wrap {
    peer: Way,
}

impl Egress for Wrap {
    type Update = ();

    fn apply(&mut self, _update: &()) {}

    fn place(&mut self, length: usize, buffer: &mut [u8]) -> Result<(usize, &Way), NotSent> {
        if buffer[HEADER_LEN] >> 4 != 4 {
            return Err(NotSent::Malformed);
        }
        buffer[..HEADER_LEN].fill(0xa5);
        buffer[HEADER_LEN + length..AROUND + length].fill(0xa5);
        Ok((AROUND + length, &self.peer))
    }

    fn seal_placed(&mut self, _buffer: &mut [u8], _places: &[Range<usize>]) {}
}

/// Takes them off again; what does not begin so is for the control side.
struct Unwrap;

impl Ingress for Unwrap {
    type Update = ();

    fn apply(&mut self, _update: &()) {}

    fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>) {
        verdicts.clear();
        verdicts.extend(places.iter().map(|place| match buffer[place.clone()].get(..AROUND) {
            Some([0xa5, ..]) if place.len() > AROUND => Verdict::Deliver(HEADER_LEN..place.len() - MAC_LEN),
            Some(_) => Verdict::Refused(Refusal::new("prefix", Reason::Unexpected)),
            None => Verdict::Control,
        }));
    }
}

impl Wrap {
    fn from(side: usize) -> Self {
        Self { peer: SocketAddr::from((real(1 - side), PORT)).into() }
    }
}

fn plain_nodes(world: &World, offload: bool, spin: Duration) -> [Node; 2] {
    [0, 1].map(|side| Node::start(world, side, offload, spin, Wrap::from(side), Unwrap))
}

/// Of a UDP test: how many datagrams the receiver missed.
fn lost(report: &str) -> Option<u64> {
    let line = report.lines().find(|line| line.contains("receiver"))?;
    let (lost, _) = line.split_once('(')?.0.split_whitespace().last()?.split_once('/')?;
    lost.parse().ok()
}

/// How many datagrams found no room in the buffer of their socket, in the namespace of a side.
fn without_room(world: &World, side: usize) -> u64 {
    let counters = world.exec(side, "nstat -asz UdpRcvbufErrors");
    let line = counters.lines().find(|line| line.starts_with("UdpRcvbufErrors")).expect("the counter");
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count")
}

/// Everything that must hold, offload on or off.
fn everything(offload: bool, spin: Duration) {
    let world = World::new();
    let nodes = plain_nodes(&world, offload, spin);
    let link = must(&format!("ip -n {} -d link show ntm0", world.names[0]));
    assert!(link.contains("mtu 1424 ") && link.contains("gso_max_segs 44 ") == offload, "{link}");
    for from in [0, 1] {
        pings(&world, from, "");
        // A full packet, and datagrams that are fragmented inside the tunnel.
        pings(&world, from, "-M do -s 1396");
        pings(&world, from, "-s 20000");
    }
    let megabytes = 40;
    for (from, direction) in [(0, ""), (0, "-R"), (1, "")] {
        let report = iperf3(&world, from, &format!("-n {megabytes}M {direction}"));
        println!("offload {offload}, TCP {direction}:\n{report}");
        assert!(report.contains("receiver"), "{report}");
    }
    for length in [100, 1300, 8000] {
        let before = without_room(&world, 1);
        let report = iperf3(&world, 0, &format!("-u -b 5M -t 1 -l {length}"));
        println!("offload {offload}, UDP {length}:\n{report}");
        // What the tunnel loses is counted below; iperf3 itself may be too slow on a busy machine.
        let lost = lost(&report).expect("the receiver's line");
        assert!(lost <= without_room(&world, 1) - before, "{report}");
    }
    settle(&world);
    // No segment was sent again for being wrong: neither kernel saw a bad checksum.
    for side in [0, 1] {
        let counters = world.exec(side, "nstat -asz TcpInCsumErrors UdpInCsumErrors TcpInErrs");
        let bad: Vec<_> =
            counters.lines().skip(1).filter(|line| line.split_whitespace().nth(1) != Some("0")).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
    let counts = nodes.map(Node::stop);
    println!("{counts:#?}");
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let (sent, received) = (&counts[sender], &counts[receiver]);
        // What is malformed is the kernel's own IPv6 greeting on each new interface.
        assert_eq!(sent.udp_out_packets, sent.tun_in_packets - sent.drop_malformed);
        assert!(sent.drop_malformed < 20, "{sent:?}");
        assert_eq!(received.udp_in_packets, sent.udp_out_packets, "the veth loses nothing");
        assert_eq!(received.udp_in_bytes, sent.udp_out_bytes);
        assert_eq!(received.tun_out_packets, received.udp_in_packets);
        assert_eq!(received.tun_out_bytes, received.udp_in_bytes - AROUND as u64 * received.udp_in_packets);
        let drops = sent.drop_no_path + sent.drop_too_large + sent.drop_not_sent + sent.drop_refused;
        assert_eq!(drops + sent.drop_not_delivered + sent.drop_truncated + sent.trains_resent, 0, "{sent:?}");
    }
    // Side 1 sent two of the three TCP streams.
    if offload {
        assert!(counts[1].tun_in_packets > 4 * counts[1].tun_reads, "the TUN gave no trains: {counts:#?}");
        assert!(counts[0].udp_in_packets > 4 * counts[0].udp_receives, "no batches came: {counts:#?}");
        assert!(counts[0].tun_out_packets > 4 * counts[0].tun_writes, "the TUN got no trains: {counts:#?}");
    } else {
        for counts in &counts {
            assert_eq!(
                (counts.tun_reads, counts.tun_writes),
                (counts.tun_in_packets, counts.tun_out_packets)
            );
        }
    }
}

/// An application's trains of UDP datagrams pass as trains, and come out as the datagrams that they were.
#[test]
fn trains_of_datagrams_pass_as_trains_both_ways() {
    const TRAINS: usize = 20;
    let world = World::new();
    let nodes = plain_nodes(&world, true, Duration::ZERO);
    let at = |side: usize| SocketAddr::from((vip(side), 9000));
    let sockets =
        [0, 1].map(|side| world.within(side, || std::net::UdpSocket::bind(at(side)).expect("a socket")));
    for (from, to) in [(0, 1), (1, 0)] {
        sockets[to].set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        setsockopt(&sockets[from], UdpGsoSegment, &1300).expect("UDP_SEGMENT");
        for train in 0..TRAINS {
            let bytes: Vec<u8> = (0..40 * 1300 - 500).map(|n| (n / 7 + train) as u8).collect();
            sockets[from].send_to(&bytes, at(to)).expect("sent");
            let mut datagram = [0; 2000];
            for expected in bytes.chunks(1300) {
                let (length, sender) = steadily(|| sockets[to].recv_from(&mut datagram)).expect("a datagram");
                assert_eq!((&datagram[..length], sender), (expected, at(from)));
            }
        }
    }
    for counts in nodes.map(Node::stop) {
        assert!(counts.tun_in_packets > 4 * counts.tun_reads, "the TUN gave no trains: {counts:#?}");
        assert!(counts.tun_out_packets > 4 * counts.tun_writes, "the TUN got no trains: {counts:#?}");
    }
}

/// A way whose MTU a sealed packet exceeds takes no trains: they are sent packet by packet, which the kernel fragments.
#[test]
fn a_way_that_takes_no_trains_still_carries_everything() {
    let world = World::new();
    let nodes = plain_nodes(&world, true, Duration::ZERO);
    for name in &world.names {
        must(&format!("ip -n {name} link set eth0 mtu 1400"));
    }
    pings(&world, 0, "-M do -s 1396");
    let report = iperf3(&world, 0, "-n 10M");
    assert!(report.contains("receiver"), "{report}");
    settle(&world);
    let [a, b] = nodes.map(Node::stop);
    assert!(a.trains_resent > 0, "{a:?}");
    assert_eq!(a.drop_not_sent, 0, "{a:?}");
    assert_eq!(a.udp_out_packets, b.udp_in_packets);
}

#[test]
fn datagrams_that_are_no_data_go_to_the_control_side_or_are_refused() {
    let world = World::new();
    let nodes = plain_nodes(&world, true, Duration::ZERO);
    let sender = world.within(0, || std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    let to = SocketAddr::from((real(1), PORT));
    sender.send_to(&[7; 100], to).expect("sent");
    sender.send_to(b"hello", to).expect("sent");
    assert_eq!(nodes[1].control.recv_timeout(Duration::from_secs(10)), Ok(b"hello".to_vec()));
    let [_, counts] = nodes.map(Node::stop);
    assert_eq!((counts.drop_refused, counts.control_packets), (1, 1));
}

/// Nobody listens at the other end: what ICMP says of it ends nothing.
#[test]
fn a_peer_that_is_not_there_ends_nothing() {
    let world = World::new();
    let [a, b] = plain_nodes(&world, true, Duration::ZERO);
    b.stop();
    let name = &world.names[0];
    run(&format!("ip netns exec {name} ping -c 5 -i 0.02 -W 1 {}", vip(1)));
    must(&format!("ip -n {name} link set eth0 down"));
    run(&format!("ip netns exec {name} ping -c 5 -i 0.02 -W 1 {}", vip(1)));
    must(&format!("ip -n {name} link set eth0 up"));
    let b = Node::start(&world, 1, true, Duration::ZERO, Wrap::from(1), Unwrap);
    pings(&world, 0, "");
    let counts = a.stop();
    assert!(counts.drop_not_sent > 0, "the way was down: {counts:?}");
    b.stop();
}

#[test]
fn a_name_that_is_taken_is_told() {
    let world = World::new();
    let [a, b] = plain_nodes(&world, true, Duration::ZERO);
    let config = TunConfig::terminal("ntm0");
    let error = world.within(0, || runtime().block_on(Tun::open(&config)).expect_err("the name is taken"));
    assert!(matches!(error, TunError::Taken(_)), "{error}");
    a.stop();
    b.stop();
}

/// The device is taken away: the thread says so, and the plane can still be stopped.
#[test]
fn a_device_that_goes_away_is_told() {
    let world = World::new();
    let config = TunConfig::terminal("ntm0");
    world.within(0, || {
        runtime().block_on(async {
            let tun = Tun::open(&config).await.expect("a TUN");
            let udp = Udp::bind(&UdpConfig::port(PORT)).expect("a socket");
            let mut plane = Plane::start(Some(tun), udp, Wrap::from(0), Unwrap, PlaneOptions::default())
                .expect("a plane");
            must(&format!("ip -n {} link del ntm0", world.names[0]));
            let failed = async {
                loop {
                    if let Event::Failed(error) = plane.next().await {
                        break error;
                    }
                }
            };
            let error = tokio::time::timeout(Duration::from_secs(10), failed).await.expect("it is told");
            assert!(matches!(error, PlaneError::Io { thread: "ntm-out", .. }), "{error}");
            plane.stop().expect("it was told already");
        });
    });
}

#[test]
fn programs_speak_through_the_tunnel_with_offload() {
    everything(true, Duration::ZERO);
}

#[test]
fn programs_speak_through_the_tunnel_without_offload() {
    everything(false, Duration::ZERO);
}

#[test]
fn programs_speak_through_the_tunnel_while_the_threads_spin() {
    everything(true, Duration::from_micros(60));
}

/// The real tables, with the keys that a DC would have directed.
fn tables(side: usize, suite: Suite) -> (Outbound, Inbound) {
    tables_to(side, suite, SocketAddr::from((real(1 - side), PORT)))
}

/// The same, with the other side at `remote`.
fn tables_to(side: usize, suite: Suite, remote: SocketAddr) -> (Outbound, Inbound) {
    let keys = |from| Arc::new(DataKeys::new(&SharedKey::new([7; 32]), PathId([1; 16]), 0, suite, from));
    let roles =
        if side == 0 { [Role::Initiator, Role::Responder] } else { [Role::Responder, Role::Initiator] };
    let flow = Flow { source: vip(side), destination: vip(1 - side) };
    let (mut out, mut inb) = (Outbound::default(), Inbound::default());
    out.apply(&DataUpdate::Send { flow, remote, keys: keys(roles[0]), first: 1 });
    inb.apply(&DataUpdate::Receive { flow: flow.reversed(), keys: keys(roles[1]) });
    (out, inb)
}

#[test]
fn sealed_packets_are_carried_and_none_is_refused() {
    for suite in Suite::ALL {
        let world = World::new();
        let nodes = [0, 1].map(|side| {
            let (out, inb) = tables(side, suite);
            Node::start(&world, side, true, Duration::ZERO, out, inb)
        });
        // 1424 bytes in all: sealed they fill 1500.
        pings(&world, 0, "-M do -s 1396");
        for direction in ["", "-R"] {
            let report = iperf3(&world, 0, &format!("-n 10M {direction}"));
            assert!(report.contains("receiver"), "{report}");
        }
        settle(&world);
        let [a, b] = nodes.map(Node::stop);
        for (sent, received) in [(&a, &b), (&b, &a)] {
            assert_eq!(received.drop_refused, 0, "{received:?}");
            assert_eq!(received.tun_out_packets, sent.udp_out_packets);
            // iperf3 throws away what waits in a socket when the other end has said that the test is over: not all 10 MB travel.
            assert!(sent.udp_out_packets > 1_000, "{sent:?}");
            assert_eq!(sent.drop_not_sent + sent.drop_too_large + sent.trains_resent, 0, "{sent:?}");
        }
    }
}

/// T3.1-d: over IPv6 outside nothing travels in two parts: what must not be cut up is answered with the MTU, and TCP follows; what may be
/// is cut up inside the tunnel.
#[test]
fn over_ipv6_outside_no_datagram_is_cut_up() {
    let world = World::new();
    let outside = |side: usize| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, side as u16 + 1);
    for (side, name) in world.names.iter().enumerate() {
        must(&format!("ip -n {name} addr add {}/64 dev eth0 nodad", outside(side)));
    }
    let nodes = [0, 1].map(|side| {
        let remote = SocketAddr::from((outside(1 - side), PORT));
        let (out, inb) = tables_to(side, Suite::Aes128Cbc, remote);
        Node::start(&world, side, true, Duration::ZERO, out, inb)
    });
    // First, so that TCP learns it by itself.
    for direction in ["", "-R"] {
        let report = iperf3(&world, 0, &format!("-n 10M {direction}"));
        assert!(report.contains("receiver"), "{report}");
    }
    pings(&world, 0, "-M do -s 1364");
    let told = run(&format!("ip netns exec {} ping -c 1 -W 10 -M do -s 1365 {}", world.names[0], vip(1)));
    let told = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
    assert!(told.contains("mtu = 1392") || told.contains("mtu=1392"), "{told}");
    pings(&world, 1, "-M dont -s 1396");
    pings(&world, 0, "-s 20000");
    for side in [0, 1] {
        let counters = world.exec(side, "nstat -asz Ip6FragCreates Ip6ReasmReqds");
        let cut: Vec<_> =
            counters.lines().skip(1).filter(|line| line.split_whitespace().nth(1) != Some("0")).collect();
        assert!(cut.is_empty(), "outside: {cut:?}");
    }
    let [a, b] = nodes.map(Node::stop);
    assert!(b.cut_up > 0 && a.drop_too_big > 0, "{a:?} {b:?}");
    assert_eq!((a.drop_too_large, a.drop_not_sent, a.drop_refused), (0, 0, 0), "{a:?}");
}

/// T4.2.5-b: an application learns at once that its path is lost, by a reset or by ICMP, and of what has no path, by ICMP: real sockets say so.
#[test]
fn applications_are_told_where_no_way_leads() {
    for offload in [true, false] {
        let world = World::new();
        let (mut out, inb) = tables(0, Suite::Aes128Cbc);
        out.apply(&DataUpdate::Lose { path: PathId([1; 16]) });
        let node = Node::start(&world, 0, offload, Duration::ZERO, out, inb);
        let (lost, nowhere) = (vip(1), std::net::Ipv4Addr::new(198, 18, 0, 9));
        let start = std::time::Instant::now();
        world.within(0, || {
            let connect = |to: std::net::Ipv4Addr| {
                let to = SocketAddr::from((to, 7));
                let error = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10));
                error.expect_err("nobody is there").raw_os_error()
            };
            assert_eq!(connect(lost), Some(libc::ECONNREFUSED));
            assert_eq!(connect(nowhere), Some(libc::EHOSTUNREACH));
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            socket.connect((lost, 7)).expect("a destination");
            socket.send(b"hello").expect("sent");
            let error = steadily(|| socket.recv(&mut [0; 9])).expect_err("nobody answers").raw_os_error();
            assert_eq!(error, Some(libc::EHOSTUNREACH));
        });
        let told = run(&format!("ip netns exec {} ping -c 1 -W 10 {lost}", world.names[0]));
        let told = String::from_utf8_lossy(&told.stdout);
        assert!(told.contains("Destination Host Prohibited"), "{told}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let counts = node.stop();
        // An answer that comes while the kernel holds the socket is a hint only, and the SYN comes again.
        assert!(counts.drop_lost >= 3 && counts.drop_no_path >= 1, "{counts:?}");
        assert_eq!(counts.answers, counts.drop_lost + counts.drop_no_path);
    }
}
