//! Traffic between nodes: real programs, started in the nodes' namespaces, and what they say they measured.
//!
//! A flow has a server, started before time begins and awaited until it listens, and a client, started at its time. Each kind
//! is a module: [`iperf3`], [`ping`], [`dns`], [`http`], [`ftp`], [`sip`], [`datagrams`], [`pingpong`],
//! [`probes`], [`exec`]. What only packets can tell is added afterwards by
//! [`measure`](crate::measure).

pub mod apart;
pub mod datagrams;
pub mod dns;
pub mod exec;
pub mod fetch;
pub mod ftp;
pub mod http;
pub mod iperf3;
pub mod ping;
pub mod pingpong;
pub mod probes;
pub mod process;
pub mod shared;
pub mod sip;
pub mod worker;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::exit::Failure;
use crate::judge::catalogue;
use crate::judge::expr::Value;
use crate::plan::{Plan, VIRTUAL};
use crate::scenario::model::{End, Flow, FlowKind};
use crate::world::space::Space;

/// Quantities by name; for one that could not be measured, why.
pub type Quantities = BTreeMap<String, Result<Value, String>>;

/// Where a flow's programs run, and where they leave what they print.
#[derive(Clone)]
pub struct Place {
    /// Where the client runs.
    pub from: Arc<Space>,
    /// Where the server runs, for kinds that have one.
    pub to: Option<Arc<Space>>,
    /// The run's folder for what flows print.
    pub folder: PathBuf,
    /// The flow's number in the file.
    pub index: usize,
    /// The port of the flow's own server.
    pub port: u16,
    /// The address of the server's node.
    pub peer: IpAddr,
    /// An address that the client reaches its peer by as an application does: a virtual one, or `peer`.
    pub towards: IpAddr,
    /// The flow is ended after so long.
    pub limit: Option<Duration>,
    /// Servers of several flows.
    pub shared: shared::Shared,
    /// Files of HTTP servers; not part of what the run leaves.
    pub pages: PathBuf,
}

impl Place {
    /// How long the flow's program may take that needs `time`.
    pub fn at_most(&self, time: Duration) -> Duration {
        self.limit.map_or(time, |limit| limit.min(time))
    }

    /// The client's own address as an application has it.
    pub fn own_address(&self) -> Result<IpAddr, Failure> {
        // Connecting sends nothing; it asks the routes.
        let asked = self.from.within(|| {
            let any = match self.towards {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((self.towards, 9))?;
            socket.local_addr()
        })?;
        let address = asked.map_err(Failure::during(format!("the address of `{}`", self.from.name)))?;
        Ok(address.ip())
    }
}

/// A flow's server, if it has one; dropping it ends it.
pub enum Server {
    /// The kind needs none.
    None,
    /// An iperf3 server for one test.
    Iperf3(iperf3::Server),
    /// An HTTP server.
    Http(http::Server),
    /// A file at an FTP server.
    Ftp(ftp::Server),
    /// The end that answers datagrams.
    Datagrams(datagrams::Server),
    /// The end that sends messages back.
    PingPong(pingpong::Server),
    /// The called end of probes.
    Probes(probes::Server),
}

/// The server's port of the flow numbered `index`.
pub fn port(index: usize) -> u16 {
    5201 + index as u16
}

/// Where the flow's two ends are in the plan: names of nodes.
pub fn ends<'a>(flow: &'a Flow, plan: &'a Plan) -> (&'a str, Option<&'a str>) {
    match (flow.kind.ends_or_node(), &flow.kind) {
        (Ok(ends), _) => {
            (ends.from.get_ref(), plan.host_named(ends.to.get_ref()).map(|host| host.name.as_str()))
        }
        (Err(node), FlowKind::Dns { server: Some(server), .. }) => (node.get_ref(), Some(server.get_ref())),
        (Err(node), _) => (node.get_ref(), None),
    }
}

/// Starts the server of `flow` and waits until it listens.
pub async fn prepare(flow: &Flow, place: &Place, seed: u64) -> Result<Server, Failure> {
    let id = flow.id.get_ref();
    let Some(to) = &place.to else { return Ok(Server::None) };
    match &flow.kind {
        FlowKind::Iperf3 { .. } => iperf3::Server::start(id, to, place).await.map(Server::Iperf3),
        FlowKind::Http { size, .. } => {
            http::Server::start(id, to, place, *size, seed).await.map(Server::Http)
        }
        FlowKind::Ftp { size, .. } => ftp::Server::start(id, to, place, *size, seed).await.map(Server::Ftp),
        FlowKind::Sip { .. } => sip::serve(to, place).await.map(|()| Server::None),
        FlowKind::Udp { size, reply, whole, listen: true, .. } => {
            datagrams::Server::start(to, place, *size, *reply, *whole).map(Server::Datagrams)
        }
        FlowKind::PingPong { size, .. } => pingpong::Server::start(to, place, *size).map(Server::PingPong),
        FlowKind::Probe { .. } => probes::Server::start(to, place).map(Server::Probes),
        FlowKind::Udp { .. } | FlowKind::Ping { .. } | FlowKind::Dns { .. } | FlowKind::Exec { .. } => {
            Ok(Server::None)
        }
    }
}

/// So long a program that was told to end may take to say what it measured.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Runs `flow` to its end, or until its time is over, and says which it was. A flow that fails is a measurement, not a failure of the run.
pub async fn run(flow: &Flow, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let begin = tokio::time::Instant::now();
    let driven = drive(flow, place, server);
    let measured = match flow.duration {
        None => Some(driven.await?),
        Some(limit) => tokio::time::timeout(limit + LAST_WORDS, driven).await.ok().transpose()?,
    };
    let was_cut = flow.duration.is_some_and(|limit| begin.elapsed() >= limit);
    let mut out = measured.unwrap_or_else(|| {
        let names: Vec<&str> = catalogue::of_flow(&flow.kind).iter().map(|(name, ..)| *name).collect();
        unmeasured(&names, "the flow was ended by its `duration` before it could tell")
    });
    let end = match was_cut {
        true => End::Cut,
        false if is_complete(&flow.kind, &out) => End::Complete,
        false => End::Failed,
    };
    out.insert("end".to_owned(), Ok(Value::Text(end.word().to_owned())));
    Ok(out)
}

/// Whether a flow that ended by itself did what it was there for.
pub fn is_complete(kind: &FlowKind, measured: &Quantities) -> bool {
    let value = |name: &str| measured.get(name).and_then(|value| value.as_ref().ok());
    let truth = |name: &str| value(name) == Some(&Value::Truth(true));
    let number = |name: &str| match value(name) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    match kind {
        FlowKind::Iperf3 { .. } | FlowKind::Ftp { .. } | FlowKind::Sip { .. } => truth("completed"),
        FlowKind::Http { .. } => truth("intact") && number("status") == Some(200.0),
        FlowKind::Ping { .. } | FlowKind::Udp { .. } => {
            number("received").is_some_and(|received| received > 0.0)
        }
        FlowKind::PingPong { count, .. } => number("exchanged") == Some(*count as f64),
        FlowKind::Probe { .. } => number("in_arrived").is_some_and(|arrived| arrived > 0.0),
        FlowKind::Dns { .. } => number("resolved").is_some() && number("resolved") == number("sent"),
        FlowKind::Exec { .. } => number("exit") == Some(0.0),
    }
}

async fn drive(flow: &Flow, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let id = flow.id.get_ref();
    match (&flow.kind, server) {
        (
            FlowKind::Iperf3 {
                ends,
                duration,
                udp,
                reverse,
                rate,
                omit,
                congestion,
                window,
                streams,
                length,
            },
            Server::Iperf3(server),
        ) => {
            let test = iperf3::Test {
                to: ends.to.get_ref().as_str(),
                duration: *duration,
                udp: *udp,
                reverse: *reverse,
                rate: *rate,
                omit: *omit,
                congestion: congestion.as_deref(),
                window: *window,
                streams: *streams,
                length: *length,
            };
            iperf3::run(id, &test, place, server).await
        }
        (FlowKind::Ping { ends, count, interval }, _) => {
            ping::run(id, ends.to.get_ref().as_str(), *count, *interval, place).await
        }
        (FlowKind::Dns { name, record, count, interval, .. }, _) => {
            let (name, count, interval) = (name.get_ref().as_str(), *count, *interval);
            dns::run(id, &dns::Questions { name, kind: *record, count, interval }, place).await
        }
        (FlowKind::Http { ends, .. }, Server::Http(server)) => {
            http::run(id, ends.to.get_ref().as_str(), place, server).await
        }
        (FlowKind::Ftp { ends, mode, size, rate }, Server::Ftp(server)) => {
            let to = ends.to.get_ref().as_str();
            let transfer = ftp::Transfer { to, mode: *mode, size: *size, rate: *rate };
            ftp::run(id, &transfer, place, &server).await
        }
        (FlowKind::Sip { ends, calls, duration, media }, _) => {
            let to = ends.to.get_ref().as_str();
            let calls = sip::Calls { to, count: *calls, duration: *duration, media: *media };
            sip::run(id, &calls, place).await
        }
        (FlowKind::Udp { ends, size, reply, count, interval, whole, .. }, server) => {
            let to = ends.to.get_ref().as_str();
            let (size, reply, count, interval, whole) = (*size, *reply, *count, *interval, *whole);
            let datagrams = datagrams::Datagrams { to, size, reply, count, interval, whole };
            let server = if let Server::Datagrams(server) = &server { Some(server) } else { None };
            datagrams::run(id, &datagrams, place, server).await
        }
        (FlowKind::PingPong { ends, count, size }, Server::PingPong(server)) => {
            pingpong::run(id, ends.to.get_ref().as_str(), *count, *size, place, server).await
        }
        (FlowKind::Probe { ends, duration, interval, size }, Server::Probes(server)) => {
            let probes = probes::Probes { duration: *duration, interval: *interval, size: *size };
            probes::run(id, ends.to.get_ref().as_str(), probes, place, server).await
        }
        (FlowKind::Exec { command, timeout, .. }, _) => exec::run(id, command, *timeout, place).await,
        (
            FlowKind::Iperf3 { .. }
            | FlowKind::Http { .. }
            | FlowKind::Ftp { .. }
            | FlowKind::PingPong { .. }
            | FlowKind::Probe { .. },
            _,
        ) => Err(Failure::error(format!("flow `{id}` has no server of its kind"))),
    }
}

/// Whether an application's address is a virtual one (T3.1-b).
pub fn is_virtual(address: &str) -> bool {
    matches!(address.parse(), Ok(IpAddr::V4(address)) if in_virtual(address))
}

fn in_virtual(address: Ipv4Addr) -> bool {
    let host = VIRTUAL.base().to_bits();
    address.to_bits() & (u32::MAX << (32 - VIRTUAL.length())) == host
}

/// The same bytes for the same seed, none of them compressible (splitmix64).
pub(crate) fn bytes(size: u64, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(size as usize + 8);
    while (out.len() as u64) < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend((z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(size as usize);
    out
}

/// The same reason for each of `names`.
pub fn unmeasured(names: &[&str], why: &str) -> Quantities {
    names.iter().map(|name| ((*name).to_owned(), Err(why.to_owned()))).collect()
}
