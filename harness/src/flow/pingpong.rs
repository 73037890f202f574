//! Small messages over one TCP connection, one at a time: how long an exchange takes between two programs that wait for each other.
//!
//! Both ends block in the kernel, as programs do, each in a thread of its own; and their nodes are kept [`apart`](super::apart), as two hosts are. On one processor the kernel
//! hands over without waking anybody, and would seem four times as fast.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::apart::{Apart, Side, settle};
use super::datagrams::resolve;
use super::worker::Worker;
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::statistics::percentile;
use crate::world::space::Space;

/// The most messages of a flow.
pub const MOST: u64 = 1_000_000;
/// The largest message, in bytes.
pub const LARGEST: u64 = 65_536;
/// Of the messages that go before those that are measured: at most so many.
const WARM_UP: u64 = 200;

/// How many messages go before `count` that are measured.
pub fn warm_up(count: u64) -> u64 {
    (count / 10).min(WARM_UP)
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A thread that waits looks so often whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const NAMES: &[&str] =
    &["exchanged", "rtt_min_ms", "rtt_p50_ms", "rtt_p99_ms", "rtt_max_ms", "remote_address", "virtual"];

/// About how long `count` exchanges take.
pub fn time(count: u64) -> Duration {
    Duration::from_micros(500).saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The end that sends every message back; it ends when dropped.
pub struct Server {
    _worker: Worker,
}

impl Server {
    /// Listens, and sends back messages of `size` bytes on each connection, one connection after the other.
    pub fn start(space: &Space, place: &Place, size: u64) -> Result<Self, Failure> {
        let listener = space.within(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, place.port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let name = format!("TCP port {} of `{}`", place.port, space.name);
        let listener = listener.map_err(|error: io::Error| Failure::error(format!("{name}: {error}")))?;
        let (_worker, _) = Worker::start("pong", move |stop| {
            settle(Side::Server);
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    // What goes wrong on a connection is seen by its other end.
                    Ok((stream, _)) => drop(answer(stream, size, stop)),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        })?;
        Ok(Self { _worker })
    }
}

/// Sends every message of `size` bytes back.
fn answer(stream: TcpStream, size: u64, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut end = End::new(stream, stop)?;
    let mut message = vec![0; size as usize];
    // For as long as the other end is there.
    while end.receive(&mut message, None)? {
        end.stream.write_all(&message)?;
    }
    Ok(())
}

/// One end of the connection.
struct End<'a> {
    stream: TcpStream,
    stop: &'a AtomicBool,
}

impl<'a> End<'a> {
    fn new(stream: TcpStream, stop: &'a AtomicBool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self { stream, stop })
    }

    /// Fills `message`; false if the other end closed, this one shall end, or it took longer than `patience`.
    fn receive(&mut self, message: &mut [u8], patience: Option<Duration>) -> io::Result<bool> {
        let begin = Instant::now();
        let mut filled = 0;
        while filled < message.len() {
            match self.stream.read(&mut message[filled..]) {
                Ok(0) => return Ok(false),
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let is_late = patience.is_some_and(|patience| begin.elapsed() > patience);
                    if is_late || self.stop.load(Ordering::Relaxed) {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Exchanges `count` messages of `size` bytes, after some that are not measured.
pub async fn run(
    id: &str,
    to: &str,
    count: u64,
    size: u64,
    place: &Place,
    server: Server,
) -> Result<Quantities, Failure> {
    let Some(address) = resolve(id, to, place).await? else {
        return Ok(unmeasured(NAMES, &format!("{to} has no address")));
    };
    let peer = SocketAddr::new(address, place.port);
    let _client = Apart::keep(&place.from, Side::Client);
    let _server = place.to.as_ref().map(|space| Apart::keep(space, Side::Server));
    let (space, limit) = (place.from.clone(), place.limit);
    let (worker, told): (_, oneshot::Receiver<Result<_, Failure>>) = Worker::start("ping", move |stop| {
        settle(Side::Client);
        let (begin, mut times) = (Instant::now(), Vec::with_capacity(count as usize));
        // A thread of its own, which may wait there.
        let exchange = || exchange(peer, (count, size), limit.map(|limit| begin + limit), stop, &mut times);
        let ended = space.within(exchange)?;
        Ok((times, ended.err().map(|error| error.to_string())))
    })?;
    let ended = told.await.map_err(|_| Failure::error(format!("the messages of `{id}` ended by a panic")))?;
    drop((worker, server));
    let (times, error) = ended?;
    Ok(quantities(&times, address, &error.unwrap_or_else(|| "no answer came".to_owned())))
}

/// The client's work: each round trip of the `count` measured messages goes to `times`.
fn exchange(
    peer: SocketAddr,
    (count, size): (u64, u64),
    until: Option<Instant>,
    stop: &AtomicBool,
    times: &mut Vec<Duration>,
) -> io::Result<()> {
    let mut end = End::new(TcpStream::connect_timeout(&peer, PATIENCE)?, stop)?;
    let sent = super::bytes(size, count);
    let mut answer = vec![0; sent.len()];
    let warm_up = warm_up(count);
    for number in 0..warm_up + count {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let begin = Instant::now();
        end.stream.write_all(&sent)?;
        if !end.receive(&mut answer, Some(PATIENCE))? || answer != sent {
            break;
        }
        if number >= warm_up {
            times.push(begin.elapsed());
        }
    }
    Ok(())
}

/// What `times` of the messages that were answered at `address` tell; `why` there are no more.
pub fn quantities(times: &[Duration], address: IpAddr, why: &str) -> Quantities {
    let mut out = unmeasured(NAMES, why);
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), Ok(value));
    set("exchanged", Value::Number(times.len() as f64));
    set("remote_address", Value::Text(address.to_string()));
    set("virtual", Value::Truth(is_virtual(&address.to_string())));
    if !times.is_empty() {
        let ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        for (name, part) in
            [("rtt_min_ms", 0.0), ("rtt_p50_ms", 0.5), ("rtt_p99_ms", 0.99), ("rtt_max_ms", 1.0)]
        {
            set(name, Value::Number(percentile(&ms, part)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_told_by_their_ranks() {
        let times: Vec<Duration> = (1..=101).rev().map(Duration::from_millis).collect();
        let measured = quantities(&times, [198, 18, 0, 1].into(), "");
        let is = |name: &str, value: Value| assert_eq!(measured[name], Ok(value), "{name}");
        is("exchanged", Value::Number(101.0));
        is("rtt_min_ms", Value::Number(1.0));
        is("rtt_p50_ms", Value::Number(51.0));
        is("rtt_p99_ms", Value::Number(100.0));
        is("rtt_max_ms", Value::Number(101.0));
        is("virtual", Value::Truth(true));
    }

    #[test]
    fn without_an_answer_no_time_is_invented() {
        let measured = quantities(&[], [10, 0, 0, 1].into(), "refused");
        assert_eq!(measured["exchanged"], Ok(Value::Number(0.0)));
        assert_eq!(measured["rtt_p50_ms"], Err("refused".to_owned()));
        assert_eq!(measured.len(), NAMES.len());
    }

    /// Both ends over the loopback: every message comes back whole, and an end that says nothing more ends the exchange.
    #[test]
    fn messages_come_back_whole_until_the_other_end_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let (stop, mut times) = (AtomicBool::new(false), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| answer(listener.accept().unwrap().0, 1000, &stop));
            exchange(peer, (50, 1000), None, &stop, &mut times).unwrap();
        });
        assert_eq!(times.len(), 50);
        times.clear();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(listener.accept()));
            // Reset or closed, as it comes.
            let _ = exchange(peer, (50, 1000), None, &stop, &mut times);
        });
        assert_eq!(times.len(), 0);
    }
}
