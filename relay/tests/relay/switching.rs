//! Both ways of switching tunnels (RS-S): the data thread, and the kernel's program. Each test of what becomes of a packet runs on both.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::libc;
use ntm_protocol::wire::{RelayAnswer, Role};
use serde_json::{Value, json};

use crate::appendix::{ENDS, switch};
use crate::peers::{Dc, Path, RELAY_PORT, tunnel_request, tunnel_response};
use crate::process::Daemon;
use crate::translation::set_option;
use crate::world::{RELAY6, TERMINAL, World, steadily, until};

const WAYS: [&str; 2] = ["userspace", "tcx"];
const TERMINAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x30);

/// A relay that switches in one way, and a path of which both ends are ports of the terminal's machine.
struct Set {
    world: World,
    dc: Dc,
    daemon: Daemon,
    path: Path,
    relay: SocketAddr,
}

impl Set {
    fn new(way: &str) -> Self {
        let world = World::new();
        world.terminal.must(&format!("ip addr add {TERMINAL6}/64 dev eth0 nodad"));
        let mut dc = Dc::new(&world.others);
        let mut daemon = Daemon::start_with(&world.relay, &format!("rs_s = '{way}'"));
        daemon.told();
        dc.register();
        assert!(daemon.told().starts_with("READY=1"));
        let path = Path::new(2);
        assert_eq!(dc.direct(path, switch(path)), RelayAnswer::Ready);
        assert_eq!(daemon.status()["rs_s"]["path"], json!(way));
        Self { world, dc, daemon, path, relay: RELAY_PORT }
    }

    /// The socket of an end, whose tunnel is built.
    fn end(&self, end: Role, address: impl Into<SocketAddr>) -> UdpSocket {
        let socket = self.world.terminal.udp(address);
        // As terminals' sockets are: what they send may be cut up.
        set_option(&socket, (libc::SOL_IP, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_OMIT);
        let (mut session, request) = tunnel_request(self.path, end);
        socket.send_to(&request, self.relay).expect("sent");
        let mut buffer = [0; 2048];
        let length = steadily(|| socket.recv(&mut buffer)).expect("a Tunnel Response");
        tunnel_response(&mut session, &buffer[..length]);
        socket
    }

    fn ends(&self) -> [UdpSocket; 2] {
        let sockets = ENDS.map(|end| self.end(end, (TERMINAL, 5001 + end.index() as u16)));
        // That the other end is there now.
        steadily(|| sockets[0].recv(&mut [0; 2048])).expect("the initiator is told");
        sockets
    }

    /// A data packet from `end`, as no key of this world makes it.
    fn data(&self, end: usize, length: usize) -> Vec<u8> {
        let mut datagram: Vec<u8> = (0..=255).cycle().take(length).collect();
        datagram[..8].copy_from_slice(&[1, 0x30, 1 + 2 * end as u8, 0x11, 0, 60, 0, 0]);
        datagram[16..32].copy_from_slice(&self.path.id.0);
        datagram
    }

    fn count(&self, of: &str, name: &str) -> u64 {
        self.daemon.status()[of][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
    }

    /// What was switched in all, and of that by the kernel.
    fn switched(&self) -> (u64, u64) {
        (self.count("counters", "forwarded_packets"), self.count("rs_s", "packets"))
    }

    /// Sends `datagram` from one end, and has it at the other as it was, from the relay.
    fn passes(&self, from: &UdpSocket, to: &UdpSocket, datagram: &[u8]) {
        from.send_to(datagram, self.relay).expect("sent");
        let mut buffer = [0; 4096];
        let (length, source) = steadily(|| to.recv_from(&mut buffer)).expect("it is passed on");
        assert!(buffer[..length] == *datagram, "another datagram of {length} bytes");
        assert_eq!(source, self.relay);
    }

    /// Where the kernel switches, all of `packets`; else none.
    fn kernels(&self, way: &str, packets: u64) -> (u64, u64) {
        (packets, if way == "tcx" { packets } else { 0 })
    }
}

/// T4.1.3-a, T5.2-a: packets of any length go on byte for byte, to the other side than they came from, from the relay's address; both ways count
/// the same, and what is not for switching is refused by the relay in both.
#[test]
fn packets_are_passed_on_unchanged_either_way() {
    for way in WAYS {
        let set = Set::new(way);
        let ends = set.ends();
        let lengths = [32, 33, 80, 200, 1471, 1472];
        for length in lengths {
            for (from, to) in [(0, 1), (1, 0)] {
                set.passes(&ends[from], &ends[to], &set.data(from, length));
            }
        }
        let packets = 2 * lengths.len() as u64;
        until(|| set.switched() == set.kernels(way, packets));
        let bytes: usize = lengths.iter().sum();
        until(|| set.count("counters", "forwarded_bytes") == 2 * bytes as u64);

        // An unknown path, a reserved byte, a flag that there is not, a header that is too short: to the relay, which refuses them.
        let good = set.data(0, 100);
        let mut strangers = vec![good[..31].to_vec()];
        for (at, value) in [(16, 9), (6, 1), (2, 9), (0, 2)] {
            let mut bad = good.clone();
            bad[at] = value;
            strangers.push(bad);
        }
        for bad in &strangers {
            ends[0].send_to(bad, RELAY_PORT).expect("sent");
        }
        until(|| set.count("counters", "refused") == strangers.len() as u64);
        set.passes(&ends[0], &ends[1], &good);
        until(|| set.switched() == set.kernels(way, packets + 1));
        assert_eq!(set.count("rs_s", "failed"), 0);
    }
}

/// A train goes on as one, in the order of its datagrams; what came in fragments is passed on by the data thread.
#[test]
fn trains_and_fragments_are_passed_on_either_way() {
    for way in WAYS {
        let set = Set::new(way);
        let ends = set.ends();
        let train: Vec<Vec<u8>> = (0..20)
            .map(|n| {
                let mut datagram = set.data(0, if n == 19 { 77 } else { 1456 });
                datagram[15] = n;
                datagram
            })
            .collect();
        set_option(&ends[0], (libc::SOL_UDP, libc::UDP_SEGMENT), 1456);
        ends[0].send_to(&train.concat(), RELAY_PORT).expect("a train");
        set_option(&ends[0], (libc::SOL_UDP, libc::UDP_SEGMENT), 0);
        let mut buffer = [0; 4096];
        for datagram in &train {
            let length = steadily(|| ends[1].recv(&mut buffer)).expect("it is passed on");
            assert!(buffer[..length] == datagram[..], "{way}: datagram {} of {length}", buffer[15]);
        }
        until(|| set.switched() == set.kernels(way, 20));
        let bytes: usize = train.iter().map(Vec::len).sum();
        until(|| set.count("counters", "forwarded_bytes") == bytes as u64);
        // One for all.
        until(|| set.count("rs_s", "trains") == u64::from(way == "tcx"));

        set.passes(&ends[1], &ends[0], &set.data(1, 3000));
        until(|| set.switched() == (21, set.kernels(way, 20).1));
    }
}

/// T4.2.5-a: an end that shows another address gets its packets there at once; what comes from the old one still goes on.
#[test]
fn a_handover_moves_the_tunnel_either_way() {
    for way in WAYS {
        let set = Set::new(way);
        let [old, peer] = set.ends();
        set.passes(&peer, &old, &set.data(1, 100));
        let path = Path { epoch: 1, ..set.path };
        let mut set = Set { path, ..set };
        assert_eq!(set.dc.direct(path, switch(path)), RelayAnswer::Ready);
        let new = set.end(Role::Initiator, (TERMINAL, 5003));
        set.passes(&peer, &new, &set.data(1, 100));
        set.passes(&old, &peer, &set.data(0, 100));
        set.passes(&new, &peer, &set.data(0, 100));
        until(|| set.switched() == set.kernels(way, 4));
        old.set_nonblocking(true).expect("set");
        assert_eq!(old.recv(&mut [0; 9]).expect_err("nothing more").kind(), ErrorKind::WouldBlock);
    }
}

/// T3.1-d: between two ends with IPv6 the kernel switches too; between two families the data thread does.
#[test]
fn over_ipv6_and_between_families_packets_are_passed_on_either_way() {
    for way in WAYS {
        let mut set = Set::new(way);
        let sixth = SocketAddr::from((RELAY6, 4330));
        let mn = set.end(Role::Initiator, (TERMINAL, 5001));
        set.relay = sixth;
        let cn = set.end(Role::Responder, (TERMINAL6, 5002));
        set.relay = RELAY_PORT;
        steadily(|| mn.recv(&mut [0; 2048])).expect("the initiator is told");
        mn.send_to(&set.data(0, 500), RELAY_PORT).expect("sent");
        let mut buffer = [0; 2048];
        let (length, from) = steadily(|| cn.recv_from(&mut buffer)).expect("it is passed on");
        assert!(buffer[..length] == set.data(0, 500)[..] && from == sixth, "{from}");
        until(|| set.switched() == (1, 0));

        // Both in IPv6 now. The kernel takes over once nothing of the path went the other way for a while.
        set.path = Path { epoch: 1, ..set.path };
        assert_eq!(set.dc.direct(set.path, switch(set.path)), RelayAnswer::Ready);
        set.relay = sixth;
        let mn = set.end(Role::Initiator, (TERMINAL6, 5003));
        set.passes(&mn, &cn, &set.data(0, 1452));
        thread::sleep(Duration::from_millis(150));
        for length in [32, 200, 1452] {
            set.passes(&mn, &cn, &set.data(0, length));
            set.passes(&cn, &mn, &set.data(1, length));
        }
        until(|| set.count("counters", "forwarded_packets") == 8);
        if way == "tcx" {
            assert_eq!(set.count("rs_s", "packets"), 6);
        }
    }
}

/// The kernel's table follows the Relay Table: what has ended is refused by the relay, and the next path is the kernel's at once.
#[test]
fn the_kernels_table_follows_the_relay_table() {
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    // Long enough for what is done with a path before it ends.
    let mut daemon = Daemon::start_with(&world.relay, "lifetime = '3s'");
    daemon.told();
    dc.register();
    daemon.told();
    let mut set = Set { world, dc, daemon, path: Path::new(2), relay: RELAY_PORT };
    let interfaces = |set: &Set| set.daemon.status()["rs_s"]["interfaces"].clone();
    for number in [2, 3] {
        set.path = Path::new(number);
        assert_eq!((interfaces(&set), set.count("rs_s", "paths")), (json!(["eth0"]), 0));
        assert_eq!(set.dc.direct(set.path, switch(set.path)), RelayAnswer::Ready);
        let ends = set.ends();
        assert_eq!(set.count("rs_s", "paths"), 1);
        set.passes(&ends[0], &ends[1], &set.data(0, 200));
        until(|| set.count("rs_s", "packets") == u64::from(number) - 1);
        until(|| set.daemon.ask("table")["ok"] == json!([]));
        ends[0].send_to(&set.data(0, 200), RELAY_PORT).expect("sent");
        until(|| set.count("counters", "refused") == u64::from(number) - 1);
    }
    assert_eq!(set.count("rs_s", "paths"), 0);
    let (status, log) = set.daemon.end("TERM");
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Without the right to load the program tunnels are switched in user space, and that is said once.
#[test]
fn without_the_right_it_is_user_space_and_said_once() {
    let why = "no CAP_BPF with CAP_NET_ADMIN in the machine's first user namespace";
    let world = World::new();
    let mut dc = Dc::new(&world.others);
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-bpf,-sys_admin",
        "--inh-caps=-bpf,-sys_admin",
        env!("CARGO_BIN_EXE_ntm-relay"),
    ]);
    let mut daemon = Daemon::start_as(&world.relay, command);
    daemon.told();
    dc.register();
    daemon.told();
    let path = Path::new(2);
    assert_eq!(dc.direct(path, switch(path)), RelayAnswer::Ready);
    let set = Set { world, dc, daemon, path, relay: RELAY_PORT };
    let ends = set.ends();
    set.passes(&ends[0], &ends[1], &set.data(0, 200));
    until(|| set.switched() == (1, 0));
    let rs_s: Value = set.daemon.status()["rs_s"].clone();
    assert_eq!((&rs_s["path"], &rs_s["why"]), (&json!("userspace"), &json!(why)));
    let (_, log) = set.daemon.end("TERM");
    assert_eq!(log.matches(why).count(), 1, "{log}");
}
