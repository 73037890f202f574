//! The world of a test: the relay's machine, a terminal's, and one that is everybody else, on one network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The relay's real address.
pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// The same in IPv6.
pub(crate) const RELAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20);
/// RIP_GN of a general node that has only IPv6.
pub(crate) const GENERAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);
/// The DC's.
pub(crate) const DC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The terminal's.
pub(crate) const TERMINAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// RIP_GN of two general nodes.
pub(crate) const GENERAL: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 80), Ipv4Addr::new(203, 0, 113, 81)];
/// An address of another network, which the terminal reaches through the relay's machine if that forwards.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Returns when `done` says so; fails where that takes too long.
#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "it does not come about");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Does `call` until no signal interrupts it: the kernel restarts no call on a socket that has a timeout.
pub(crate) fn steadily<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A network namespace; it goes with the last handle.
#[derive(Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
                panic!("this test makes network namespaces, which needs root: {error}")
            });
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let namespace = Self(Arc::new(made.join().expect("a namespace: see above")));
        namespace.must("ip link set lo up");
        namespace
    }

    /// Runs `work` in it. Sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs the program that `line` names.
    pub(crate) fn output(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let ran = self.run(|| Command::new(program).args(words).output());
        ran.unwrap_or_else(|error| {
            panic!("{program}: {error}: apt-get install iproute2 nftables iputils-ping util-linux")
        })
    }

    /// What a program prints that must succeed.
    #[track_caller]
    pub(crate) fn must(&self, line: &str) -> String {
        let output = self.output(line);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    /// A UDP socket in it.
    pub(crate) fn udp(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        let end = Instant::now() + PATIENCE;
        let socket = loop {
            match self.run(|| UdpSocket::bind(address)) {
                // A process that another test starts has a copy of a socket that was closed just now, until it executes its program.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(2));
                }
                bound => break bound.unwrap_or_else(|error| panic!("{address}: {error}")),
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// A name by which ip takes it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// The namespaces.
pub(crate) struct World {
    /// The relay's.
    pub(crate) relay: Namespace,
    /// The terminal's.
    pub(crate) terminal: Namespace,
    /// The DC's and the general nodes'.
    pub(crate) others: Namespace,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { relay: Namespace::new(), terminal: Namespace::new(), others: Namespace::new() };
        let others = &world.others;
        others.must("ip link add net type bridge");
        for address in [DC, GENERAL[0], GENERAL[1]] {
            others.must(&format!("ip addr add {address}/24 dev net"));
        }
        others.must(&format!("ip addr add {ELSEWHERE}/24 dev net"));
        others.must("ip link set net up");
        for (node, address, port) in [(&world.relay, RELAY, "rs"), (&world.terminal, TERMINAL, "mn")] {
            others.must(&format!("ip link add {port} type veth peer name eth0 netns {}", node.path()));
            others.must(&format!("ip link set {port} master net up"));
            node.must(&format!("ip addr add {address}/24 dev eth0"));
            node.must("ip link set eth0 up");
        }
        others.must(&format!("ip addr add {GENERAL6}/64 dev net nodad"));
        world.relay.must(&format!("ip addr add {RELAY6}/64 dev eth0 nodad"));
        world.relay.must("ip route add 192.0.2.0/24 dev eth0");
        world.relay.must(&format!("ip route add default via {DC}"));
        world.terminal.must(&format!("ip route add 192.0.2.0/24 via {RELAY}"));
        // Interfaces carry packets a moment after they are up.
        for node in [RELAY, TERMINAL] {
            until(|| others.output(&format!("ping -n -c 1 -W 1 {node}")).status.success());
        }
        // The strictest check of sources that there is: RS-N does not need it off.
        world.relay.must("sysctl -q -w net.ipv4.conf.all.rp_filter=1");
        world
    }
}
