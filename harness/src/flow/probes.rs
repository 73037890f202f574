//! Probes in both directions: each end sends the other numbered and timed datagrams at a steady pace, by sockets of our own on a thread of
//! its own. Both ends are on one machine and so on one clock: what was lost, reordered or doubled, and how long each took, is known in
//! each direction by itself.
//!
//! The called end learns from the first probe where to send its own, and goes on sending there, as an application with a connection does.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use ntm_protocol::time::Instant;
use serde::{Deserialize, Serialize};

use super::datagrams::resolve;
use super::worker::Worker;
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::clock;
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::world::space::Space;

mod way;

pub use way::Way;

/// A probe has at least its number and the time it was sent at.
pub const LEAST: u64 = 12;
/// The longest probe.
pub const MOST: u64 = 1400;
/// The most probes in one direction.
pub const COUNT: u64 = 1_000_000;
/// How long the last probes may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Probes that are sent at once at most, by a thread that was held up, before what has come is taken: a socket holds some 160, and what is
/// lost in it would seem lost on the way.
const CAUGHT_UP: u64 = 16;
/// How soon the thread notices that nobody wants it any more.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The names of what is measured in a direction, without the direction.
const NAMES: [&str; 8] = [
    "sent",
    "arrived",
    "lost",
    "reordered",
    "duplicated",
    "delay_p50_ms",
    "delay_p95_ms",
    "longest_stall_ms",
];

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Probes {
    /// How long each end sends.
    pub duration: Duration,
    /// Time between two of one end.
    pub interval: Duration,
    /// Payload of each, in bytes.
    pub size: u64,
}

impl Probes {
    /// How many each end sends.
    pub fn count(&self) -> u64 {
        let count = self.duration.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// Both directions of a flow; `flows/ID.probes.json` is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// From the client to the server.
    pub out: Way,
    /// From the server to the client.
    #[serde(rename = "in")]
    pub back: Way,
}

impl Ways {
    /// What the flow `id` of a run left in `folder`; the error says why it is nothing.
    pub fn load(id: &str, folder: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file(id, folder)).map_err(|_| format!("flow `{id}` sent no probes"))?;
        serde_json::from_str(&text).map_err(|error| format!("the probes of `{id}`: {error}"))
    }

    /// The quantities of the flow.
    pub fn quantities(&self) -> Quantities {
        let mut out = self.out.quantities("out");
        out.extend(self.back.quantities("in"));
        out
    }
}

fn file(id: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{id}.probes.json"))
}

/// The called end.
pub struct Server(UdpSocket);

impl Server {
    /// Opens the called end.
    pub fn start(space: &Space, place: &Place) -> Result<Self, Failure> {
        open(space, place.port).map(Self)
    }
}

fn open(space: &Space, port: u16) -> Result<UdpSocket, Failure> {
    let opened = space.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(socket)
    })?;
    opened.map_err(|error: io::Error| Failure::error(format!("UDP port {port} of `{}`: {error}", space.name)))
}

/// Sends the probes of both ends, and waits for the last.
pub async fn run(
    id: &str,
    to: &str,
    probes: Probes,
    place: &Place,
    server: Server,
) -> Result<Quantities, Failure> {
    let Some(address) = resolve(id, to, place).await? else {
        let names: Vec<String> = ["out", "in"]
            .iter()
            .flat_map(|way| NAMES.map(|name| format!("{way}_{name}")))
            .chain(["remote_address", "virtual"].map(str::to_owned))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Ok(unmeasured(&names, &format!("{to} has no address")));
    };
    let client = open(&place.from, 0)?;
    let connected = client.connect((address, place.port));
    connected.map_err(Failure::during(format!("`{id}`: {address}")))?;
    let path = file(id, &place.folder);
    let (worker, told) = Worker::start("probes", move |stop| {
        let mut exchange = Exchange::new(client, server.0, probes);
        let ended = exchange.run(stop);
        let text = serde_json::to_string(&exchange.ways).unwrap_or_default();
        let written = fs::write(&path, text);
        ended.and(written).map(|()| exchange.ways)
    })?;
    let ended = told.await.map_err(|_| Failure::error(format!("the probes of `{id}` ended by a panic")))?;
    drop(worker);
    let mut out = ended.map_err(Failure::during(format!("the probes of `{id}`")))?.quantities();
    out.insert("remote_address".to_owned(), Ok(Value::Text(address.to_string())));
    out.insert("virtual".to_owned(), Ok(Value::Truth(is_virtual(&address.to_string()))));
    Ok(out)
}

/// Both ends at work.
struct Exchange {
    client: UdpSocket,
    server: UdpSocket,
    /// Whom the server sends to, once it knows.
    caller: Option<SocketAddr>,
    probes: Probes,
    ways: Ways,
    buffer: Vec<u8>,
}

impl Exchange {
    fn new(client: UdpSocket, server: UdpSocket, probes: Probes) -> Self {
        let buffer = vec![0; 1 << 16];
        Self { client, server, caller: None, probes, ways: Ways::default(), buffer }
    }

    /// Until all have come, or the last had their time, or `stop`.
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let (begin, probes) = (clock::now(), self.probes);
        let count = probes.count();
        let due =
            |number: u64| begin + probes.interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let deadline = begin + probes.duration + PATIENCE;
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = clock::now();
            if number < count && now >= due(number) {
                self.send()?;
                number += 1;
                if number % CAUGHT_UP == 0 {
                    self.wait(Duration::ZERO)?;
                }
                continue;
            }
            if number == count && (now >= deadline || (self.ways.out.is_whole() && self.ways.back.is_whole()))
            {
                break;
            }
            let next = if number < count { due(number) } else { deadline };
            self.wait(next.since(now).min(LOOK_EVERY))?;
        }
        Ok(())
    }

    /// Each end sends one; the server, if it knows whom to.
    fn send(&mut self) -> io::Result<()> {
        let size = self.probes.size as usize;
        post(&self.client, &mut self.ways.out, size)?;
        if self.caller.is_some() {
            post(&self.server, &mut self.ways.back, size)?;
        }
        Ok(())
    }

    /// Takes what comes within `time`.
    fn wait(&mut self, time: Duration) -> io::Result<()> {
        let mut ready = [
            PollFd::new(self.client.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.server.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut ready, Some(TimeSpec::from_duration(time)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some((number, stamp, at, from)) = receive(&self.server, &mut self.buffer)? {
            let is_ours = self.ways.out.take(number, stamp, at);
            if let (true, None, Some(from)) = (is_ours, self.caller, from) {
                // From now on it hears this caller alone.
                self.server.connect(from)?;
                self.caller = Some(from);
            }
        }
        while let Some((number, stamp, at, _)) = receive(&self.client, &mut self.buffer)? {
            self.ways.back.take(number, stamp, at);
        }
        Ok(())
    }
}

/// Sends the next probe of `way`. One that the kernel refuses is lost like any other: there may be no network just now.
fn post(socket: &UdpSocket, way: &mut Way, size: usize) -> io::Result<()> {
    let mut probe = [0; MOST as usize];
    let (number, stamp) = (way.sent.len() as u32, clock::now().as_nanos());
    probe[..4].copy_from_slice(&number.to_le_bytes());
    probe[4..12].copy_from_slice(&stamp.to_le_bytes());
    way.sent.push(stamp);
    let probe = &probe[..size.clamp(LEAST as usize, MOST as usize)];
    // Once more where an ICMP error of an earlier probe was told instead of sending this one.
    if socket.send(probe).is_err() {
        let _ = socket.send(probe);
    }
    Ok(())
}

type Received = (u32, u64, u64, Option<SocketAddr>);

/// The next probe that is there: its number and stamp, when it came, and from whom.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    loop {
        let mut room = nix::cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            // An ICMP error of an earlier probe: told once.
            Err(
                nix::errno::Errno::EINTR
                | nix::errno::Errno::ECONNREFUSED
                | nix::errno::Errno::EHOSTUNREACH
                | nix::errno::Errno::ENETUNREACH
                | nix::errno::Errno::ENETDOWN,
            ) => continue,
            Err(error) => return Err(error.into()),
        };
        let (now, wall) = (clock::now(), clock::wall());
        let came = message.cmsgs().into_iter().flatten().find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(time) => u64::try_from(Duration::from(time).as_nanos()).ok(),
            _ => None,
        });
        let at: Instant = clock::before(now, came.and_then(|came| wall.checked_sub(came)));
        let from = message.address.map(|from| SocketAddr::from((from.ip(), from.port())));
        let length = message.bytes;
        let probe = &buffer[..length];
        if let (Some(number), Some(stamp)) =
            (probe.first_chunk(), probe.get(4..).and_then(<[u8]>::first_chunk))
        {
            let (number, stamp) = (u32::from_le_bytes(*number), u64::from_le_bytes(*stamp));
            return Ok(Some((number, stamp, at.as_nanos(), from)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over the loopback everything arrives, in both directions and in order.
    #[test]
    fn probes_go_both_ways() {
        go_both_ways(Duration::from_millis(2), 50);
        // As if the thread were always late: nothing is lost in its own sockets.
        go_both_ways(Duration::from_nanos(100), 2000);
    }

    fn go_both_ways(interval: Duration, count: u32) {
        let socket = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
            socket
        };
        let (client, server) = (socket(), socket());
        client.connect(server.local_addr().unwrap()).unwrap();
        let duration = interval * count;
        let mut exchange = Exchange::new(client, server, Probes { duration, interval, size: 100 });
        exchange.run(&AtomicBool::new(false)).unwrap();
        let measured = exchange.ways.quantities();
        assert_eq!(measured["out_arrived"], Ok(Value::Number(count.into())));
        for name in
            ["out_lost", "in_lost", "out_reordered", "in_reordered", "out_duplicated", "in_duplicated"]
        {
            assert_eq!(measured[name], Ok(Value::Number(0.0)), "{name}");
        }
        // The server begins when it is called.
        assert!(exchange.ways.back.sent.len() >= count as usize * 4 / 5, "{}", exchange.ways.back.sent.len());
        assert!(
            exchange
                .ways
                .out
                .arrived
                .iter()
                .all(|(number, t)| *t >= exchange.ways.out.sent[*number as usize] - 1_000_000)
        );
        let folder = tempfile::tempdir().unwrap();
        fs::write(file("p", folder.path()), serde_json::to_string(&exchange.ways).unwrap()).unwrap();
        assert_eq!(Ways::load("p", folder.path()), Ok(exchange.ways));
        assert!(Ways::load("q", folder.path()).unwrap_err().contains("`q` sent no probes"));
    }

    #[test]
    fn one_that_is_stopped_keeps_what_it_has() {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let probes =
            Probes { duration: Duration::from_secs(60), interval: Duration::from_millis(1), size: 12 };
        let mut exchange = Exchange::new(client, server, probes);
        exchange.run(&AtomicBool::new(true)).unwrap();
        assert_eq!((probes.count(), exchange.ways.out.sent.len()), (60_000, 0));
    }
}
