//! Two nodes in network namespaces of their own, a veth between them, a plane in each: real programs speak through it.
//!
//! The tables here have no cryptography: 48 bytes ahead of each packet stand for NTM header and MAC. Needs root, iproute2, ping and
//! iperf3; where one is missing the test fails and says so.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use ntm_protocol::data::{NotSent, Verdict};
use ntm_protocol::wire::{Reason, Refusal};
use ntm_tunnel::{
    Counts, Egress, Event, Ingress, Plane, PlaneError, PlaneOptions, Tun, TunConfig, TunError, Udp, UdpConfig,
};
use tokio::sync::oneshot;

const PREFIX: usize = 48;
const PORT: u16 = 4330;

/// Puts 48 bytes ahead of what goes to the peer.
struct Wrap {
    peer: SocketAddr,
}

impl Egress for Wrap {
    type Update = ();

    fn apply(&mut self, _update: &()) {}

    fn seal(&mut self, inner: &[u8], out: &mut [u8]) -> Result<(usize, SocketAddr), NotSent> {
        if inner[0] >> 4 != 4 {
            return Err(NotSent::Malformed);
        }
        let room = out.get_mut(..PREFIX + inner.len()).ok_or(NotSent::TooLarge)?;
        room[..PREFIX].fill(0xa5);
        room[PREFIX..].copy_from_slice(inner);
        Ok((room.len(), self.peer))
    }
}

/// Takes them off again; what does not begin so is for the control side.
struct Unwrap;

impl Ingress for Unwrap {
    type Update = ();

    fn apply(&mut self, _update: &()) {}

    fn judge(&mut self, datagram: &mut [u8], _from: SocketAddr) -> Verdict {
        match datagram.get(..PREFIX) {
            Some([0xa5, ..]) if datagram.len() > PREFIX => Verdict::Deliver(PREFIX..datagram.len()),
            Some(_) => Verdict::Refused(Refusal::new("prefix", Reason::Unexpected)),
            None => Verdict::Control,
        }
    }
}

fn run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program).args(words).output().unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): apt-get install iproute2 iputils-ping iperf3")
    })
}

#[track_caller]
fn must(command: &str) -> String {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Two namespaces joined by a veth; they go when this is dropped.
struct World {
    names: [String; 2],
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let id = format!("ntmtun{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let world = Self { names: ["a", "b"].map(|side| format!("{id}{side}")) };
        for name in &world.names {
            must(&format!("ip netns add {name}"));
            must(&format!("ip -n {name} link set lo up"));
        }
        let [a, b] = &world.names;
        must(&format!("ip link add eth0 netns {a} type veth peer name eth0 netns {b}"));
        for (index, name) in world.names.iter().enumerate() {
            must(&format!("ip -n {name} addr add {}/24 dev eth0", real(index)));
            must(&format!("ip -n {name} link set eth0 up"));
        }
        world
    }

    /// Runs a program within a namespace.
    #[track_caller]
    fn exec(&self, side: usize, command: &str) -> String {
        must(&format!("ip netns exec {} {command}", self.names[side]))
    }

    /// Calls `act` on a thread that is in a namespace.
    fn within<T: Send>(&self, side: usize, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.names[side])).expect("the namespace");
        let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).expect("the thread enters the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a plane in each namespace.
    fn nodes(&self, offload: bool, spin: Duration) -> [Node; 2] {
        [0, 1].map(|side| Node::start(&self.names[side], side, offload, spin))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.names {
            run(&format!("ip netns del {name}"));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn real(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + side as u8)
}

fn vip(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, 1 + side as u8)
}

/// A thread in a namespace that runs a plane until it is told to stop.
struct Node {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Counts>,
    control: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl Node {
    fn start(namespace: &str, side: usize, offload: bool, spin: Duration) -> Self {
        let namespace = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (control_sender, control) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("the thread enters the namespace");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let config = TunConfig { offload, ..TunConfig::terminal("ntm0") };
                let tun = Tun::open(&config).await.expect("a TUN");
                assert_eq!(tun.has_offload(), offload);
                tun.add_address(vip(side)).await.expect("an address");
                tun.add_route("198.18.0.0/15".parse().expect("a range")).await.expect("a route");
                let mut bind = UdpConfig::port(PORT);
                bind.offload = offload;
                let udp = Udp::bind(&bind).expect("a socket");
                let egress = Wrap { peer: SocketAddr::from((real(1 - side), PORT)) };
                let options = PlaneOptions { spin };
                let mut plane = Plane::start(Some(tun), udp, egress, Unwrap, options).expect("a plane");
                ready.send(()).expect("the test waits");
                tokio::pin!(stopped);
                loop {
                    tokio::select! {
                        _ = &mut stopped => break,
                        event = plane.next() => match event {
                            Event::Control { datagram, .. } => drop(control_sender.send(datagram)),
                            Event::Notice(_) => {}
                            Event::Failed(error) => panic!("{error}"),
                        }
                    }
                }
                let start = Instant::now();
                let counts = plane.stop().expect("a clean end");
                assert!(start.elapsed() < Duration::from_secs(1), "it took {:?} to stop", start.elapsed());
                counts
            })
        });
        is_ready.recv().expect("the node starts");
        Self { stop, thread, control }
    }

    fn stop(self) -> Counts {
        self.stop.send(()).expect("the node runs");
        self.thread.join().expect("the node did not panic")
    }
}

/// iperf3's report on a test from one side to the other's VIP. The server serves one test and ends; it tells on stdout when it
/// listens.
fn iperf3(world: &World, from: usize, arguments: &str) -> String {
    use std::io::{BufRead, BufReader};
    let to = 1 - from;
    let mut server = Command::new("ip")
        .args([
            "netns",
            "exec",
            &world.names[to],
            "iperf3",
            "-s",
            "-1",
            "--forceflush",
            "-B",
            &vip(to).to_string(),
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("iperf3 starts: apt-get install iperf3");
    let mut lines = BufReader::new(server.stdout.take().expect("its stdout")).lines();
    let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Server listening"));
    assert!(listens, "the iperf3 server ended at once");
    let report = world.exec(from, &format!("iperf3 -c {} {arguments}", vip(to)));
    // Reads on, so that the server never blocks on its output.
    lines.for_each(drop);
    assert!(server.wait().expect("the server ends").success());
    report
}

fn pings(world: &World, from: usize, arguments: &str) {
    let report = world.exec(from, &format!("ping -c 5 -i 0.02 -W 2 {arguments} {}", vip(1 - from)));
    assert!(report.contains(" 0% packet loss"), "{report}");
}

/// Of a UDP test: what the receiver missed, in per cent.
fn lost_percent(report: &str) -> Option<f64> {
    let line = report.lines().find(|line| line.contains("receiver"))?;
    line.split_once('(')?.1.split_once('%')?.0.parse().ok()
}

/// Everything that must hold, offload on or off.
fn everything(offload: bool, spin: Duration) {
    let world = World::new();
    let nodes = world.nodes(offload, spin);
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
        let report = iperf3(&world, 0, &format!("-u -b 5M -t 1 -l {length}"));
        println!("offload {offload}, UDP {length}:\n{report}");
        // What the tunnel loses is counted below; iperf3 itself may be too slow on a busy machine.
        let lost = lost_percent(&report).expect("the receiver's line");
        assert!(lost < 10.0, "{report}");
    }
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
        assert_eq!(received.tun_out_bytes, received.udp_in_bytes - PREFIX as u64 * received.udp_in_packets);
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

/// A way whose MTU a sealed packet exceeds takes no trains: they are sent packet by packet, which the kernel fragments.
#[test]
fn a_way_that_takes_no_trains_still_carries_everything() {
    let world = World::new();
    let nodes = world.nodes(true, Duration::ZERO);
    for name in &world.names {
        must(&format!("ip -n {name} link set eth0 mtu 1400"));
    }
    pings(&world, 0, "-M do -s 1396");
    let report = iperf3(&world, 0, "-n 10M");
    assert!(report.contains("receiver"), "{report}");
    let [a, b] = nodes.map(Node::stop);
    assert!(a.trains_resent > 0, "{a:?}");
    assert_eq!(a.drop_not_sent, 0, "{a:?}");
    assert_eq!(a.udp_out_packets, b.udp_in_packets);
}

#[test]
fn datagrams_that_are_no_data_go_to_the_control_side_or_are_refused() {
    let world = World::new();
    let nodes = world.nodes(true, Duration::ZERO);
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
    let [a, b] = world.nodes(true, Duration::ZERO);
    b.stop();
    let name = &world.names[0];
    run(&format!("ip netns exec {name} ping -c 5 -i 0.02 -W 1 {}", vip(1)));
    must(&format!("ip -n {name} link set eth0 down"));
    run(&format!("ip netns exec {name} ping -c 5 -i 0.02 -W 1 {}", vip(1)));
    must(&format!("ip -n {name} link set eth0 up"));
    let b = Node::start(&world.names[1], 1, true, Duration::ZERO);
    pings(&world, 0, "");
    let counts = a.stop();
    assert!(counts.drop_not_sent > 0, "the way was down: {counts:?}");
    b.stop();
}

#[test]
fn a_name_that_is_taken_is_told() {
    let world = World::new();
    let [a, b] = world.nodes(true, Duration::ZERO);
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
            let egress = Wrap { peer: SocketAddr::from((real(1), PORT)) };
            let mut plane =
                Plane::start(Some(tun), udp, egress, Unwrap, PlaneOptions::default()).expect("a plane");
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
