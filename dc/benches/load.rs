//! What a DC bears (`cargo bench -p ntm-dc --bench load`): durable registrations, Direction Requests and DNS answers a second, and how long a restart with
//! all of that takes. `ntm-dc` runs as a process with its store on the disk, in a network namespace of this program's own; its terminals are
//! conversations of this program, at [`SLOTS`] sockets. Needs root and iproute2.
//!
//! A rate is told twice: by the clock, which depends on what else the machine does, and by the processor time that the DC used: that of its process alone, all
//! threads, the kernel's work for it included; this program's is not in it. By the latter it is judged: the program fails where one falls short.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::try_join_all;
use hickory_proto::op::{Message as Dns, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, unshare};
use ntm_daemon::trace::TraceSink;
use ntm_dns::answer::Zones;
use ntm_dns::server::{DnsServer, Traced};
use ntm_dns::zone::Zone;
use ntm_protocol::addr::{Fqdn, NTM_PORT, NodeId};
use ntm_protocol::crypto::{Entropy, SharedKey};
use ntm_protocol::session::Session;
use ntm_protocol::wire::{
    DirectionRequest, DnsError, Header, List, Message, NodeKind, RegistrationRequest, RequestId,
    RouteResponse,
};
use tokio::net::UdpSocket;

/// How many requests are under way at once.
const SLOTS: usize = 256;
/// What is not answered by then is asked again, as terminals do.
const REPEAT: Duration = Duration::from_secs(1);
/// How often.
const ATTEMPTS: usize = 20;
/// Where the DC is.
const DC: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10));
/// What a DC must bear in a second of one processor, and how soon it must serve again.
const REGISTRATIONS: f64 = 20_000.0;
const DIRECTIONS: f64 = 10_000.0;
const RESTART: Duration = Duration::from_secs(2);
/// Where the DNS root and the name server of all names above the DC's zone is.
const ROOT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const ROOT_ZONE: &str = "$TTL 3600\n. SOA a.root. h. 1 2 3 4 60\n. NS a.root.\na.root. A 127.0.0.1\n\
                         dc.test. NS ns.dc.test.\nns.dc.test. A 127.0.0.10\n\
                         far.test. NS ns.far.test.\nns.far.test. A 127.0.0.2\n";
/// Where the name server of another DC is, which is a stranger to this one.
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const FAR_ZONE: &str =
    "$TTL 3600\n@ SOA ns h 1 2 3 4 60\n@ NS ns\n@ TXT \"ntm-dc=1\"\nns A 127.0.0.2\n* TXT \"ntm-dc=1\"\n";

type Result<T> = anyhow::Result<T>;

/// Measures what a DC bears.
#[derive(Parser)]
struct Options {
    /// How many terminals register
    #[arg(long, default_value_t = 100_000)]
    terminals: usize,
    /// How many Direction Requests are made, each for another name, and how many DNS questions are asked
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| anyhow::anyhow!("no network namespace ({error}): run this as root"))?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    anyhow::ensure!(up.success(), "the loopback interface does not come up: {up}");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&options))
}

async fn measure(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    write_files(folder.path(), options.terminals)?;
    let _root = serve_names("root", ROOT, ".", ROOT_ZONE).await?;
    let _far = serve_names("far", FAR, "far.test.", FAR_ZONE).await?;
    let (mut dc, _) = start(folder.path())?;
    let mut slots = Vec::new();
    for number in 0..SLOTS {
        slots.push(Slot::new(number, options.terminals).await?);
    }
    let heads = ["number", "a second", "a CPU second", "at least"];
    println!("| {:<45} | {:>8} | {:>9} | {:>13} | {:>9} |", "what", heads[0], heads[1], heads[2], heads[3]);
    println!("|{:-<47}|{:->9}:|{:->10}:|{:->14}:|{:->10}:|", "", "", "", "", "");
    let mut failed = Vec::new();

    let meter = Meter::start(&dc)?;
    try_join_all(slots.iter_mut().map(Slot::register)).await?;
    failed.extend(meter.tell("registrations, new and durable", options.terminals, Some(REGISTRATIONS))?);

    let meter = Meter::start(&dc)?;
    try_join_all(slots.iter_mut().map(Slot::register)).await?;
    failed.extend(meter.tell("registrations, known and durable", options.terminals, Some(REGISTRATIONS))?);

    let each = options.requests.div_ceil(SLOTS);
    for what in ["Direction Requests, names new to the DC", "Direction Requests, names looked up before"] {
        let meter = Meter::start(&dc)?;
        let made = try_join_all(slots.iter_mut().map(|slot| slot.direct(each))).await?;
        failed.extend(meter.tell(what, made.iter().sum(), Some(DIRECTIONS))?);
    }

    let meter = Meter::start(&dc)?;
    let refused = try_join_all(slots.iter_mut().map(|slot| slot.direct_far(each))).await?;
    let what = "Direction Requests for a stranger's terminals";
    failed.extend(meter.tell(what, refused.iter().sum(), Some(DIRECTIONS))?);

    let meter = Meter::start(&dc)?;
    let asked = try_join_all(slots.iter_mut().map(|slot| slot.ask(each))).await?;
    failed.extend(meter.tell("DNS answers", asked.iter().sum(), None)?);
    println!("| {:<45} | {:>8} |", "memory of the DC in MB", memory(dc.0.id())? / 1_000_000);

    let repeated: usize = slots.iter().map(|slot| slot.repeated).sum();
    println!("| {:<45} | {repeated:>8} |", "asked again for want of an answer");

    // Not a clean end: nothing is written on the way out.
    dc.0.kill()?;
    dc.0.wait()?;
    let (_dc, took) = start(folder.path())?;
    println!("| {:<45} | {:>8} |", "restart after SIGKILL, in ms", took.as_millis());
    if took > RESTART {
        failed.push("restart");
    }
    anyhow::ensure!(failed.is_empty(), "too slow: {}", failed.join("; "));
    Ok(())
}

fn name(terminal: usize) -> String {
    format!("t{terminal}.dc.test")
}

fn key(terminal: usize) -> [u8; 32] {
    let half = NodeId::of(&fqdn(&name(terminal))).0;
    let mut key = [0; 32];
    key[..16].copy_from_slice(&half);
    key[16..].copy_from_slice(&half);
    key
}

fn fqdn(text: &str) -> Fqdn {
    text.parse().expect("a name that this program made")
}

fn write_files(folder: &Path, terminals: usize) -> Result<()> {
    let mut keys = String::new();
    for terminal in 0..terminals {
        let digits: String = key(terminal).iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(keys, "[[key]]\npeer = \"{}\"\nkind = \"terminal\"\nkey = \"{digits}\"", name(terminal))?;
    }
    let config = format!(
        "name = \"dc\"\nfqdn = \"ns.dc.test\"\nzone = \"dc.test\"\naddress = \"{DC}\"\nvips = \"10.0.0.0/8\"\nstore = \"store\"\n\
         roots = [\"{ROOT}\"]\nkeys = \"keys.toml\"\nkeepalive = \"1h\"\n"
    );
    for (file, text) in [("keys.toml", &keys), ("dc.toml", &config)] {
        fs::write(folder.join(file), text)?;
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

async fn serve_names(node: &str, at: IpAddr, origin: &str, zone: &str) -> Result<DnsServer> {
    let mut zones = Zones::default();
    zones.add(Zone::parse(&Name::from_ascii(origin)?, zone, Path::new(node))?);
    let at = [SocketAddr::new(at, 53)];
    DnsServer::start(node, zones, &at, TraceSink::open(None)?, Traced::Refusals).await
}

/// The DC's process, which ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Either may fail where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the DC, and says how long it took until it served.
fn start(folder: &Path) -> Result<(Process, Duration)> {
    let at = folder.join("ready");
    if at.exists() {
        fs::remove_file(&at)?;
    }
    let ready = UnixDatagram::bind(&at)?;
    ready.set_read_timeout(Some(REPEAT * ATTEMPTS as u32))?;
    let begin = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ntm-dc"));
    command.arg("--config").arg(folder.join("dc.toml")).stdin(Stdio::null());
    let dc = Process(command.env("NOTIFY_SOCKET", &at).env("NTM_LOG", "error").spawn()?);
    let mut buffer = [0; 4096];
    loop {
        let length = ready.recv(&mut buffer)?;
        if buffer[..length].starts_with(b"READY=1") {
            return Ok((dc, begin.elapsed()));
        }
    }
}

/// A socket, and the terminals that speak through it one after the other.
struct Slot {
    socket: UdpSocket,
    address: SocketAddr,
    /// Number and conversation.
    terminals: Vec<(usize, Session)>,
    entropy: Entropy,
    next: u64,
    /// How often something was asked again.
    repeated: usize,
}

impl Slot {
    async fn new(number: usize, terminals: usize) -> Result<Self> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, number as u8)), NTM_PORT);
        let dc = NodeId::of(&fqdn("ns.dc.test"));
        let session = |terminal: usize| {
            let local = NodeId::of(&fqdn(&name(terminal)));
            (terminal, Session::new(&SharedKey::new(key(terminal)), local, dc, 1))
        };
        let socket = UdpSocket::bind(address).await?;
        socket.connect(SocketAddr::new(DC, NTM_PORT)).await?;
        Ok(Self {
            socket,
            address,
            terminals: (number..terminals).step_by(SLOTS).map(session).collect(),
            entropy: Entropy::new([number as u8; 32]),
            next: 1,
            repeated: 0,
        })
    }

    fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    async fn send(&mut self, terminal: usize, message: Message) -> Result<()> {
        let (datagram, _) = self.terminals[terminal].1.seal(&message, &mut self.entropy);
        self.socket.send(&datagram).await?;
        Ok(())
    }

    /// The DC's next message to one of `terminals`, and to which; `question`, from the first of them, is repeated until there is one.
    async fn receive(&mut self, terminals: &[usize], question: &Message) -> Result<(usize, Message)> {
        let mut buffer = [0; 2048];
        for _ in 0..ATTEMPTS {
            let Ok(length) = tokio::time::timeout(REPEAT, self.socket.recv(&mut buffer)).await else {
                self.repeated += 1;
                self.send(terminals[0], question.clone()).await?;
                continue;
            };
            let datagram = &buffer[..length?];
            let header = Header::parse(datagram)?;
            let opened = terminals.iter().find_map(|terminal| {
                Some((*terminal, self.terminals[*terminal].1.open(&header, datagram).ok()?))
            });
            // One for another is the late answer to what was asked twice.
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
        anyhow::bail!("the DC does not answer {question:?}")
    }

    async fn register(&mut self) -> Result<()> {
        for terminal in 0..self.terminals.len() {
            let request = self.request();
            let question = Message::from(RegistrationRequest {
                request,
                fqdn: fqdn(&name(self.terminals[terminal].0)),
                kind: NodeKind::Terminal,
                life: 1,
                addresses: [self.address].into_iter().collect(),
                rtts: List::default(),
                vips: None,
            });
            self.send(terminal, question.clone()).await?;
            match self.receive(&[terminal], &question).await? {
                (_, Message::RegistrationResponse(response)) if response.vip.is_some() => {}
                (_, other) => anyhow::bail!("a registration is answered by {other:?}"),
            }
        }
        Ok(())
    }

    /// Each terminal asks for the next one, until `most` did; both take what they are directed to. The number that asked.
    async fn direct(&mut self, most: usize) -> Result<usize> {
        let most = most.min(self.terminals.len().saturating_sub(1));
        for caller in 0..most {
            let called = caller + 1;
            let request = self.request();
            let wanted = fqdn(&name(self.terminals[called].0));
            let question =
                Message::from(DirectionRequest { request, fqdn: wanted, renewal: None, avoid: None });
            self.send(caller, question.clone()).await?;
            let mut told = [false; 2];
            while told != [true; 2] {
                let (terminal, message) = self.receive(&[caller, called], &question).await?;
                let Message::RouteDirection(direction) = message else {
                    anyhow::bail!("a Direction Request is answered by {message:?}");
                };
                told[usize::from(terminal == called)] = true;
                let response = RouteResponse { request: direction.request, accepted: true };
                self.send(terminal, response.into()).await?;
            }
        }
        Ok(most)
    }

    /// `most` terminals ask for names whose zone another name server has, each for another, and are refused: its DC is a stranger. What the DNS
    /// costs by the network: a question for the name, and one for the zone's record.
    async fn direct_far(&mut self, most: usize) -> Result<usize> {
        let most = most.min(self.terminals.len());
        for caller in 0..most {
            let request = self.request();
            let wanted = fqdn(&format!("t{}.far.test", self.terminals[caller].0));
            let question =
                Message::from(DirectionRequest { request, fqdn: wanted, renewal: None, avoid: None });
            self.send(caller, question.clone()).await?;
            match self.receive(&[caller], &question).await? {
                (_, Message::DirectionRefusal(refusal)) if refusal.error == DnsError::ServFail => {}
                (_, other) => anyhow::bail!("a Direction Request for a stranger is answered by {other:?}"),
            }
        }
        Ok(most)
    }

    /// Asks the DC's DNS server for the addresses of `most` terminals.
    async fn ask(&mut self, most: usize) -> Result<usize> {
        let socket = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0)).await?;
        socket.connect(SocketAddr::new(DC, 53)).await?;
        let mut buffer = [0; 512];
        let most = most.min(self.terminals.len());
        for (terminal, _) in &self.terminals[..most] {
            let mut question = Dns::query();
            question.add_query(Query::query(Name::from_ascii(name(*terminal) + ".")?, RecordType::A));
            let question = question.to_vec()?;
            let mut attempts = 0;
            let length = loop {
                anyhow::ensure!(attempts < ATTEMPTS, "the DNS does not answer");
                socket.send(&question).await?;
                if let Ok(length) = tokio::time::timeout(REPEAT, socket.recv(&mut buffer)).await {
                    break length?;
                }
                attempts += 1;
            };
            self.repeated += attempts;
            let answer = Dns::from_vec(&buffer[..length])?;
            anyhow::ensure!(
                answer.metadata.response_code == ResponseCode::NoError,
                "the DNS answers {answer:?}"
            );
        }
        Ok(most)
    }
}

/// A stretch of time, and what the DC worked in it.
struct Meter {
    pid: u32,
    begin: Instant,
    worked: Duration,
}

impl Meter {
    fn start(dc: &Process) -> Result<Self> {
        let pid = dc.0.id();
        Ok(Self { pid, begin: Instant::now(), worked: worked(pid)? })
    }

    /// Prints the rates of `number`; returns `what` if it is less than `least` in a second of a processor.
    fn tell(self, what: &str, number: usize, least: Option<f64>) -> Result<Option<&str>> {
        let rate = |time: Duration| number as f64 / time.as_secs_f64();
        let (clock, cpu) = (rate(self.begin.elapsed()), rate(worked(self.pid)? - self.worked));
        let at_least = least.map_or_else(String::new, |least| least.to_string());
        println!("| {what:<45} | {number:>8} | {clock:>9.0} | {cpu:>13.0} | {at_least:>9} |");
        Ok(least.is_some_and(|least| cpu < least).then_some(what))
    }
}

/// The processor time that a process has used, all its threads together.
fn worked(pid: u32) -> Result<Duration> {
    // Nanoseconds; the fields of `stat` have hundredths of a second.
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// The bytes of memory that a process holds.
fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()? * 1024)
}
