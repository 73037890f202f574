//! Namespaces, nodes and programs for tests.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use ntm_tunnel::{Counts, Egress, Event, Ingress, Plane, PlaneOptions, Tun, TunConfig, Udp, UdpConfig};
use tokio::sync::oneshot;

/// The UDP port of both nodes.
pub(crate) const PORT: u16 = 4330;

/// Does `call` until no signal interrupts it: the kernel restarts no call on a socket that has a timeout.
pub(crate) fn steadily<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Runs a program.
pub(crate) fn run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program).args(words).output().unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): apt-get install iproute2 iputils-ping iperf3")
    })
}

/// Runs a program that must succeed: what it wrote to stdout.
#[track_caller]
pub(crate) fn must(command: &str) -> String {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Two namespaces joined by a veth; they go when this is dropped.
///
/// One at a time: a process that another test started would hold copies of this one's descriptors until it executes, and with them a TUN or a
/// port that was closed.
pub(crate) struct World {
    _alone: MutexGuard<'static, ()>,
    /// The namespaces' names.
    pub(crate) names: [String; 2],
}

impl World {
    /// Makes them.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let id = format!("ntmtun{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let world = Self { _alone: alone, names: ["a", "b"].map(|side| format!("{id}{side}")) };
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
    pub(crate) fn exec(&self, side: usize, command: &str) -> String {
        must(&format!("ip netns exec {} {command}", self.names[side]))
    }

    fn open(&self, side: usize) -> File {
        File::open(format!("/run/netns/{}", self.names[side])).expect("the namespace")
    }

    /// Calls `act` on a thread that is in a namespace.
    pub(crate) fn within<T: Send>(&self, side: usize, act: impl FnOnce() -> T + Send) -> T {
        let namespace = self.open(side);
        let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).expect("the thread enters the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.names {
            run(&format!("ip netns del {name}"));
        }
    }
}

/// As the daemons have it.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A node's address on the veth.
pub(crate) fn real(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + side as u8)
}

/// A node's virtual address.
pub(crate) fn vip(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, 1 + side as u8)
}

/// A thread in a namespace that runs a plane until it is told to stop.
pub(crate) struct Node {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Counts>,
    /// What came for the control side.
    pub(crate) control: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl Node {
    /// Starts a plane with these tables in a namespace of `world`, and returns when it carries packets.
    pub(crate) fn start<E, I>(
        world: &World,
        side: usize,
        offload: bool,
        spin: Duration,
        egress: E,
        ingress: I,
    ) -> Self
    where
        E: Egress,
        I: Ingress<Update = E::Update>,
    {
        let namespace = world.open(side);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (control_sender, control) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("the thread enters the namespace");
            runtime().block_on(async move {
                let config = TunConfig { offload, ..TunConfig::terminal("ntm0") };
                let tun = Tun::open(&config).await.expect("a TUN");
                assert_eq!(tun.has_offload(), offload);
                tun.add_address(vip(side)).await.expect("an address");
                tun.add_route("198.18.0.0/15".parse().expect("a range")).await.expect("a route");
                let mut bind = UdpConfig::port(PORT);
                bind.offload = offload;
                let udp = Udp::bind(&bind).expect("a socket");
                let options = PlaneOptions { spin, answer: true, translate: false };
                let mut plane = Plane::start(Some(tun), udp, egress, ingress, options).expect("a plane");
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
                assert!(start.elapsed() < Duration::from_secs(5), "it took {:?} to stop", start.elapsed());
                counts
            })
        });
        is_ready.recv().expect("the node starts");
        Self { stop, thread, control }
    }

    /// Stops the plane: what it counted.
    pub(crate) fn stop(self) -> Counts {
        self.stop.send(()).expect("the node runs");
        self.thread.join().expect("the node did not panic")
    }
}

/// iperf3's report on a test from one side to the other's VIP. The server serves one test and ends; it tells on stdout when it
/// listens.
pub(crate) fn iperf3(world: &World, from: usize, arguments: &str) -> String {
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
        .stdout(Stdio::piped())
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

/// Pings the peer's virtual address; no answer may be missing.
pub(crate) fn pings(world: &World, from: usize, arguments: &str) {
    let report = world.exec(from, &format!("ping -c 5 -i 0.02 -W 10 {arguments} {}", vip(1 - from)));
    assert!(report.contains(" 0% packet loss"), "{report}");
}

/// Waits until nothing is under way between the two: no TCP connection has anything more to say, and what it said last has arrived, since
/// each direction keeps its order.
pub(crate) fn settle(world: &World) {
    let end = Instant::now() + Duration::from_secs(20);
    for side in [0, 1] {
        let open = || world.exec(side, "ss -Htn state connected exclude time-wait");
        while !open().is_empty() {
            assert!(Instant::now() < end, "connections are still open: {}", open());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    pings(world, 0, "");
}
