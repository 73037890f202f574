//! Two hosts behind a router, two hosts outside, a switch on either side: each a network namespace of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The router's outer address.
pub(crate) const NAT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    /// Inside.
    A,
    /// Inside.
    B,
    /// Outside.
    X,
    /// Outside.
    Y,
    /// The router itself, at its outer address.
    Router,
}

impl Host {
    const ALL: [Self; 4] = [Self::A, Self::B, Self::X, Self::Y];

    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::X => "x",
            Self::Y => "y",
            Self::Router => "r",
        }
    }

    fn is_inside(self) -> bool {
        matches!(self, Self::A | Self::B)
    }

    /// Its address with `port`.
    pub(crate) fn at(self, port: u16) -> SocketAddr {
        let address = match self {
            Self::A => [10, 0, 0, 2],
            Self::B => [10, 0, 0, 3],
            Self::X => [192, 0, 2, 10],
            Self::Y => [192, 0, 2, 11],
            Self::Router => NAT.octets(),
        };
        SocketAddr::from((address, port))
    }
}

/// The namespaces, and a folder for files; all go when it is dropped.
///
/// One at a time: a process that another test started would hold copies of this one's sockets until it executes, and with them ports that
/// were closed, and connections that were given up.
pub(crate) struct World {
    _alone: MutexGuard<'static, ()>,
    /// What all names of this world begin with.
    prefix: String,
    made: Vec<String>,
    folder: TempDir,
}

impl World {
    /// Builds it. Panics with what this machine lacks.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        for program in ["ip", "nft", "ping"] {
            let found = Command::new(program).arg("-V").output();
            assert!(
                found.is_ok(),
                "this test needs root and the programs ip, nft and ping (apt-get install iproute2 nftables iputils-ping): {program} is missing"
            );
        }
        let prefix = format!("natt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = Self { _alone: alone, prefix, made: Vec::new(), folder };
        for name in ["r", "s"].into_iter().chain(Host::ALL.map(Host::name)) {
            let namespace = world.namespace(name);
            run(Command::new("ip").args(["netns", "add", &namespace]));
            world.made.push(namespace);
            world.ip(name, "link set lo up");
        }
        for side in ["lan", "wan"] {
            world.ip("s", &format!("link add {side} type bridge"));
            world.ip("s", &format!("link set {side} up"));
        }
        world.plug("r", "lan0", "10.0.0.1/24", "lan");
        world.plug("r", "wan0", &format!("{NAT}/24"), "wan");
        for host in Host::ALL {
            let side = if host.is_inside() { "lan" } else { "wan" };
            world.plug(host.name(), "eth0", &format!("{}/24", host.at(0).ip()), side);
            if host.is_inside() {
                world.ip(host.name(), "route add default via 10.0.0.1");
            }
        }
        world
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn ip(&self, name: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.namespace(name)]).args(arguments.split(' ')));
    }

    /// Gives the namespace `name` an interface on one of the switches.
    fn plug(&self, name: &str, interface: &str, address: &str, side: &str) {
        let port = format!("{name}-{side}");
        let switch = self.namespace("s");
        self.ip(name, &format!("link add {interface} type veth peer name {port} netns {switch}"));
        self.ip("s", &format!("link set {port} master {side} up"));
        self.ip(name, &format!("addr add {address} dev {interface}"));
        self.ip(name, &format!("link set {interface} up"));
    }

    /// Runs `work` in a host's namespace. Sockets made there stay there.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        host: Host,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let path = format!("/run/netns/{}", self.namespace(host.name()));
        let thread = thread::spawn(move || {
            let namespace = fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("entering a network namespace needs root");
            work()
        });
        thread.join().expect("the work in a namespace")
    }

    /// A UDP socket of `host` on `port`.
    pub(crate) fn udp(&self, host: Host, port: u16) -> UdpSocket {
        self.within(host, move || {
            let socket = UdpSocket::bind(host.at(port)).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        })
    }

    /// A command in a namespace: `r` is the router's.
    pub(crate) fn command(&self, name: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(name), program]);
        command
    }

    /// `ntm-nat` in the router's namespace with this configuration; nothing waits for it yet.
    pub(crate) fn nat(&self, config: &str) -> Command {
        let path = self.folder.path().join("nat.toml");
        fs::write(
            &path,
            format!("name = 'nat'\ninside = 'lan0'\ncontrol = 'control'\ntrace = 'trace'\n{config}"),
        )
        .expect("a configuration");
        let mut command = self.command("r", env!("CARGO_BIN_EXE_ntm-nat"));
        command.arg("--config").arg(path).env_remove("NOTIFY_SOCKET").env("NTM_LOG", "warn");
        command
    }

    /// Starts `ntm-nat` with `config` added to the usual, and waits until it says that it is ready.
    pub(crate) fn start(&self, config: &str) -> Router {
        let path = self.folder.path().join("notify");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).expect("a socket");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let process = self.nat(&format!("outside = 'wan0'\n{config}")).env("NOTIFY_SOCKET", &path).spawn();
        let folder = self.folder.path().to_owned();
        let router = Router { process: process.expect("ntm-nat starts"), folder, notify };
        let mut text = [0; 512];
        let length = uninterrupted(|| router.notify.recv(&mut text)).expect("ntm-nat says that it is ready");
        assert!(text[..length].starts_with(b"READY=1\n"), "{}", String::from_utf8_lossy(&text[..length]));
        router
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in &self.made {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Runs a command to its end; panics with what it said if it failed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed (this test needs root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A running `ntm-nat`; killed when dropped.
pub(crate) struct Router {
    process: Child,
    folder: PathBuf,
    /// Where it tells of itself; open as long as it lives.
    notify: UnixDatagram,
}

impl Router {
    /// Its answer to `status`.
    pub(crate) fn status(&self) -> Value {
        self.ask("status")
    }

    /// Its answer to a command.
    pub(crate) fn ask(&self, command: &str) -> Value {
        let mut stream = UnixStream::connect(self.folder.join("control")).expect("the control socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(format!("{{\"command\":\"{command}\"}}\n").as_bytes()).expect("a request");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("an answer in JSON");
        answer.get("ok").unwrap_or_else(|| panic!("{command} was refused: {line}")).clone()
    }

    /// How many packets it has refused, and how many of them because two hosts were given one port.
    pub(crate) fn refused(&self) -> (u64, u64) {
        let status = self.status();
        let counts = status["refusals"].as_object().expect("refusals");
        let count = |value: &Value| value.as_u64().expect("a count");
        (counts.values().map(count).sum(), counts.get("conflict").map_or(0, count))
    }

    /// The records of its trace.
    pub(crate) fn trace(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("trace")).expect("a trace");
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// Whether its control socket is there.
    pub(crate) fn has_control_socket(&self) -> bool {
        self.folder.join("control").exists()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGTERM).expect("a signal");
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("waiting") {
                return status;
            }
            assert!(Instant::now() < end, "ntm-nat does not end at SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Does `send`, which makes one packet, and says whether it arrives at `to`: from where, or `None` once the router has counted it
    /// as refused. Neither is ever guessed from silence.
    pub(crate) fn arrival(&self, to: &UdpSocket, send: impl FnOnce()) -> Option<SocketAddr> {
        let (refused, _) = self.refused();
        send();
        to.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let end = Instant::now() + PATIENCE;
        let mut bytes = [0; 64];
        let seen = loop {
            match uninterrupted(|| to.recv_from(&mut bytes)) {
                Ok((_, from)) => break Some(from),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => panic!("{error}"),
            }
            if self.refused().0 > refused {
                break None;
            }
            assert!(Instant::now() < end, "a packet has neither come nor been refused: {}", self.status());
        };
        to.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        seen
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Sends a datagram and receives it at `at`, which must be its destination: the source it is seen with.
pub(crate) fn seen(from: &UdpSocket, at: &UdpSocket) -> SocketAddr {
    from.send_to(b"probe", at.local_addr().expect("an address")).expect("sent");
    let mut bytes = [0; 64];
    uninterrupted(|| at.recv_from(&mut bytes)).expect("a datagram that must pass").1
}

/// Does `receive` again when a signal came between: a receive with a timeout is not restarted by itself.
fn uninterrupted<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
