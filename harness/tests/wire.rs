//! The wire on real packets: two hosts in network namespaces of their own, a wire between them, measured by ping, iperf3 and
//! counted datagrams. Needs root, ping and iperf3; lacking one, it fails and says so.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU64;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use ntm_harness::wire::{Achieved, Direction, Inner, LinkSpec, Report, Trains, Wire, WireError};
use ntm_sim::impair::Impairment;
use serde_json::Value;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// These tests measure time: one after another.
static ONE: Mutex<()> = Mutex::new(());

/// Two hosts and a namespace for the wire; all go when it is dropped.
struct Hosts {
    prefix: String,
}

impl Hosts {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        for (program, package) in [("ip", "iproute2"), ("ping", "iputils-ping"), ("iperf3", "iperf3")] {
            let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(found.is_ok(), "this test needs {program}: apt-get install {package}");
        }
        let prefix = format!("wiret{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hosts = Self { prefix };
        for name in ["a", "b", "w"] {
            run(Command::new("ip").args(["netns", "add", &hosts.name(name)]));
            for which in ["all", "default"] {
                let key = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                hosts.within(name, || std::fs::write(key, "1")).expect("IPv6 can be switched off");
            }
        }
        for (name, address) in [("a", A), ("b", B)] {
            let (host, wire) = (hosts.name(name), hosts.name("w"));
            run(Command::new("ip")
                .args(["link", "add", "eth0", "netns", &host, "type", "veth"])
                .args(["peer", "name", name, "netns", &wire]));
            hosts.ip("w", &format!("link set dev {name} up"));
            hosts.ip(name, "link set lo up");
            hosts.ip(name, "link set dev eth0 up");
            hosts.ip(name, &format!("address add {address}/24 dev eth0"));
        }
        hosts
    }

    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn ip(&self, name: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(name)]).args(arguments.split(' ')));
    }

    fn netns(&self, name: &str) -> File {
        File::open(format!("/run/netns/{}", self.name(name))).expect("the namespace was made")
    }

    /// Runs `work` in a namespace, on a thread of its own.
    fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns(name);
        let inside = || {
            setns(&netns, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).expect("the work does not panic")
    }

    fn command(&self, name: &str, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(name)]).args(words.split(' '));
        command
    }

    /// A wire between the hosts, and hosts that send no longer trains than it bears.
    fn wire(&self, up: Impairment, down: Impairment) -> Wire {
        for (host, asked) in [("a", up), ("b", down)] {
            let Trains { bytes, packets } = Trains::for_link(&asked, 1500);
            self.ip(host, &format!("link set dev eth0 gso_max_size {bytes} gso_max_segs {packets}"));
        }
        let inner = |name: &str| Inner { netns: self.netns("w").into(), interface: name.into() };
        let link = LinkSpec { name: "a-b".into(), a: inner("a"), b: inner("b"), up, down, seed: 7 };
        let wire = Wire::start(vec![link]).expect("the wire starts");
        // The first packet would wait for two ways of ARP.
        let output = self.command("a", &format!("ping -c 1 -W 5 {B}")).output().expect("ping runs");
        assert!(output.status.success() || up.loss > 0.0, "no ping passes: {output:?}");
        wire
    }

    /// Round trips in milliseconds, in order.
    fn ping(&self, options: &str) -> Vec<f64> {
        let output = self.command("a", &format!("ping -n {options} {B}")).output().expect("ping runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let times =
            text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
        times.collect()
    }

    fn iperf3_server(&self) -> Ended {
        let mut command = self.command("b", "iperf3 -s -1 --forceflush");
        let mut server = Ended(command.stdout(Stdio::piped()).spawn().expect("iperf3 runs"));
        let stdout = server.0.stdout.as_mut().expect("its stdout");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Server listening")), "iperf3 does not listen");
        server
    }

    /// The goodput of a TCP transfer from `a` to `b`, in Mbit/s; `meanwhile` is run beside it.
    fn tcp(&self, seconds: u32, options: &str, meanwhile: impl FnOnce()) -> f64 {
        let _server = self.iperf3_server();
        let words = format!("iperf3 -J -O 1 -t {seconds} -c {B}{options}");
        let client = self.command("a", &words).stdout(Stdio::piped()).spawn().expect("iperf3 runs");
        meanwhile();
        let output = client.wait_with_output().expect("iperf3 ends");
        let result: Value = serde_json::from_slice(&output.stdout).expect("iperf3 writes JSON");
        result["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap_or_else(|| panic!("no result: {result}"))
            / 1e6
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in ["a", "b", "w"] {
            // What was not made cannot be removed.
            let _ = Command::new("ip").args(["netns", "delete", &self.name(name)]).status();
        }
    }
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn alone<T>(test: impl FnOnce() -> T) -> T {
    // A test that failed before is no reason for this one to fail.
    let _guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    test()
}

fn delay(us: u64) -> Impairment {
    Impairment { delay: Duration::from_micros(us), ..Impairment::default() }
}

fn mbit(rate: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(rate * 1_000_000)
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn show(what: &str, way: &Achieved) {
    let (late, delay) = (way.lateness.summary(), way.delay.summary());
    println!(
        "{what}: {} packets in {} frames, {:.1} Mbit/s; late p50 {:.0} p95 {:.0} p99 {:.0} max {:.0} µs, {:.1} % within 200 µs; \
         delay p05 {:.0} p50 {:.0} p95 {:.0} µs; {:?}",
        way.packets,
        way.frames,
        way.rate() / 1e6,
        late.p50_us,
        late.p95_us,
        late.p99_us,
        late.max_us,
        way.lateness.within(Duration::from_micros(200)) * 100.0,
        delay.p05_us,
        delay.p50_us,
        delay.p95_us,
        way.dropped,
    );
}

fn report(wire: &Wire) -> Report {
    let report = wire.report().expect("the wire lives");
    println!("cpu {:?}, realtime {}", report.cpu, report.is_realtime);
    show("up", &report.links[0].up);
    show("down", &report.links[0].down);
    report
}

/// Sends `count` numbered datagrams from `a` to `b`, one every `gap`; returns the numbers that came, in the order they came.
fn datagrams(hosts: &Hosts, count: u32, gap: Duration) -> Vec<u32> {
    let receiver = hosts.within("b", || UdpSocket::bind((B, 9000))).expect("a port is free");
    // A receiver that gets no processor for a while must not lose what the wire delivered.
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).expect("root may have large buffers");
    receiver.set_read_timeout(Some(Duration::from_millis(1500))).expect("a socket has a timeout");
    let sender = hosts.within("a", || UdpSocket::bind((A, 0))).expect("a port is free");
    let collect = move || {
        let mut buffer = [0; 4];
        let mut numbers = Vec::new();
        // Silence is the end; nothing is under way that long.
        while receiver.recv(&mut buffer).is_ok() {
            numbers.push(u32::from_be_bytes(buffer));
        }
        numbers
    };
    let collector = thread::spawn(collect);
    let start = Instant::now();
    for number in 0..count {
        while start.elapsed() < gap * number {
            thread::sleep(gap / 4);
        }
        sender.send_to(&number.to_be_bytes(), (B, 9000)).expect("it is sent");
    }
    collector.join().expect("the collector ends")
}

#[test]
fn four_milliseconds_each_way_are_eight() {
    alone(|| {
        let hosts = Hosts::new();
        let wire = hosts.wire(delay(4000), delay(4000));
        let times = hosts.ping("-c 100 -i 0.02");
        let report = report(&wire);
        assert_eq!(times.len(), 100, "every ping is answered");
        let median = median(&times);
        println!("round trip {median} ms");
        assert!((median - 8.0).abs() <= 0.6, "{median} ms");
        for way in [&report.links[0].up, &report.links[0].down] {
            let achieved = way.delay.quantile(0.5).as_secs_f64() * 1e3;
            assert!((achieved - 4.0).abs() <= 0.3, "{achieved} ms");
        }
    });
}

#[test]
fn tcp_runs_at_the_rate_asked_and_the_delay_holds_under_load() {
    alone(|| {
        let hosts = Hosts::new();
        let up = Impairment { rate: mbit(150), ..delay(4000) };
        let wire = hosts.wire(up, delay(4000));
        let before = wire.report().expect("the wire lives");
        let goodput = hosts.tcp(5, "", || {});
        let report = report(&wire);
        // 1448 bytes of payload travel in 1514.
        let wanted = 150.0 * 1448.0 / 1514.0;
        println!(
            "goodput {goodput:.1} Mbit/s, at most {wanted:.1}; {:?} of processor in 6 s",
            report.cpu - before.cpu
        );
        assert!((goodput / wanted - 1.0).abs() <= 0.03, "{goodput} Mbit/s, wanted {wanted}");
        let up = &report.links[0].up;
        assert_eq!(
            (up.dropped.unread, up.dropped.refused, up.dropped.memory, up.dropped.oversize),
            (0, 0, 0, 0)
        );
        for way in [up, &report.links[0].down] {
            let late = way.lateness.quantile(0.5);
            assert!(late <= Duration::from_micros(300), "{late:?}");
        }
        assert!(report.cpu - before.cpu < Duration::from_secs(5), "{:?}", report.cpu);
    });
}

#[test]
fn trains_pass_whole_where_nothing_is_asked() {
    alone(|| {
        let hosts = Hosts::new();
        let wire = hosts.wire(Impairment::default(), Impairment::default());
        let goodput = hosts.tcp(3, "", || {});
        let report = report(&wire);
        println!("goodput {goodput:.0} Mbit/s");
        let up = &report.links[0].up;
        assert!(
            up.packets > 4 * up.frames,
            "trains are not cut up: {} packets in {} frames",
            up.packets,
            up.frames
        );
        assert!(goodput > 500.0, "{goodput} Mbit/s");
        assert_eq!(up.dropped.refused, 0);
    });
}

#[test]
fn a_tenth_is_lost_and_a_fifth_comes_twice() {
    alone(|| {
        let hosts = Hosts::new();
        let wire = hosts.wire(Impairment { loss: 0.1, duplicate: 0.2, ..delay(1000) }, Impairment::default());
        let numbers = datagrams(&hosts, 5000, Duration::from_micros(200));
        let report = report(&wire);
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let lost = 1.0 - distinct.len() as f64 / 5000.0;
        let twice = numbers.len() as f64 / distinct.len() as f64 - 1.0;
        println!("lost {lost:.3}, twice {twice:.3}");
        assert!((lost - 0.1).abs() <= 0.02, "{lost}");
        assert!((twice - 0.2).abs() <= 0.03, "{twice}");
        let dropped = report.links[0].up.dropped;
        assert!(
            (dropped.lost as i64 - (5000 - distinct.len() as i64)).abs() <= 3,
            "what is lost is counted: {dropped:?}"
        );
    });
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    alone(|| {
        let hosts = Hosts::new();
        let asked = Impairment { jitter: Duration::from_millis(1), ..delay(5000) };
        let wire = hosts.wire(asked, Impairment::default());
        let numbers = datagrams(&hosts, 4000, Duration::from_micros(250));
        let way = report(&wire).links[0].up.clone();
        assert_eq!(numbers.len(), 4000, "all arrive");
        assert!(numbers.is_sorted(), "in order");
        let spread = way.delay.quantile(0.8413) - way.delay.quantile(0.1587);
        assert!((spread.as_secs_f64() * 1e3 - 2.0).abs() < 0.8, "two standard deviations are {spread:?}");

        wire.set(0, Direction::Up, Impairment { reorder: 0.1, ..delay(5000) }).expect("the wire lives");
        let numbers = datagrams(&hosts, 2000, Duration::from_micros(250));
        let overtaken = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert_eq!(numbers.len(), 2000, "all arrive");
        assert!((100..300).contains(&overtaken), "{overtaken} of 2000 were overtaken");
    });
}

#[test]
fn an_idle_wire_uses_no_processor() {
    alone(|| {
        let hosts = Hosts::new();
        let wire = hosts.wire(delay(4000), delay(4000));
        let before = wire.report().expect("the wire lives");
        thread::sleep(Duration::from_secs(2));
        let after = wire.report().expect("the wire lives");
        let used = after.cpu - before.cpu;
        println!("{used:?} in {:?}", after.at.since(before.at));
        assert!(used < Duration::from_millis(10), "{used:?}");
    });
}

#[test]
fn a_link_that_goes_down_and_up_again_works_on() {
    alone(|| {
        let hosts = Hosts::new();
        let wire = hosts.wire(delay(1000), delay(1000));
        hosts.ip("w", "link set dev b down");
        assert!(hosts.ping("-c 3 -i 0.02 -W 0.2").is_empty(), "nothing passes");
        hosts.ip("w", "link set dev b up");
        assert_eq!(hosts.ping("-c 3 -i 0.02 -W 2").len(), 3, "it works again");
        let down = || report(&wire).links[0].up.dropped.down;
        let before = down();
        assert!(before >= 3, "what was dropped is counted");
        hosts.ip("b", "link set dev eth0 down");
        assert!(hosts.ping("-c 3 -i 0.02 -W 0.2").is_empty(), "without carrier nothing passes either");
        assert!(down() >= before + 3, "and that is counted too");
    });
}

#[test]
fn what_cannot_be_opened_is_named() {
    alone(|| {
        let hosts = Hosts::new();
        let inner = |name: &str| Inner { netns: hosts.netns("w").into(), interface: name.into() };
        let none = Impairment::default();
        let link = LinkSpec {
            name: "wifi".into(),
            a: inner("a"),
            b: inner("nothing"),
            up: none,
            down: none,
            seed: 0,
        };
        match Wire::start(vec![link]) {
            Err(WireError::End { link, interface, error }) => {
                assert_eq!((link.as_str(), interface.as_str()), ("wifi", "nothing"));
                assert_eq!(error.kind(), io::Error::from_raw_os_error(libc::ENODEV).kind());
            }
            other => panic!("{other:?}"),
        }
        let wire = hosts.wire(none, none);
        assert!(matches!(wire.set(1, Direction::Up, none), Err(WireError::NoLink(1))));
    });
}
