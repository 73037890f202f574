//! Traffic between nodes: real programs, started in the nodes' namespaces, and what they say they measured.
//!
//! A flow has a server, started before time begins and awaited until it listens, and a client, started at its time. Each kind
//! is a module: [`iperf3`], [`ping`], [`http`], [`exec`]. What only packets can tell is added afterwards by
//! [`measure`](crate::measure).

pub mod exec;
pub mod http;
pub mod iperf3;
pub mod ping;
pub mod process;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::plan::{Plan, VIRTUAL};
use crate::scenario::model::{Flow, FlowKind};
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
    /// The port of the flow's own server.
    pub port: u16,
    /// Files of HTTP servers; not part of what the run leaves.
    pub pages: PathBuf,
}

/// A flow's server, if it has one; dropping it ends it.
pub enum Server {
    /// The kind needs none.
    None,
    /// An iperf3 server for one test.
    Iperf3(iperf3::Server),
    /// An HTTP server.
    Http(http::Server),
}

/// The server's port of the flow numbered `index`.
pub fn port(index: usize) -> u16 {
    5201 + index as u16
}

/// Where the flow's two ends are in the plan: names of nodes.
pub fn ends<'a>(flow: &'a Flow, plan: &'a Plan) -> (&'a str, Option<&'a str>) {
    match &flow.kind {
        FlowKind::Exec { node, .. } => (node.get_ref(), None),
        FlowKind::Iperf3 { ends, .. } | FlowKind::Ping { ends, .. } | FlowKind::Http { ends, .. } => {
            (ends.from.get_ref(), plan.host_named(ends.to.get_ref()).map(|host| host.name.as_str()))
        }
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
        FlowKind::Ping { .. } | FlowKind::Exec { .. } => Ok(Server::None),
    }
}

/// Runs `flow` to its end. A flow that fails is a measurement, not a failure of the run.
pub async fn run(flow: &Flow, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let id = flow.id.get_ref();
    match (&flow.kind, server) {
        (FlowKind::Iperf3 { ends, duration, reverse, rate }, Server::Iperf3(server)) => {
            let test = iperf3::Test {
                to: ends.to.get_ref().as_str(),
                duration: *duration,
                reverse: *reverse,
                rate: *rate,
            };
            iperf3::run(id, &test, place, server).await
        }
        (FlowKind::Ping { ends, count, interval }, _) => {
            ping::run(id, ends.to.get_ref().as_str(), *count, *interval, place).await
        }
        (FlowKind::Http { ends, .. }, Server::Http(server)) => {
            http::run(id, ends.to.get_ref().as_str(), place, server).await
        }
        (FlowKind::Exec { command, timeout, .. }, _) => exec::run(id, command, *timeout, place).await,
        (FlowKind::Iperf3 { .. } | FlowKind::Http { .. }, _) => {
            Err(Failure::error(format!("flow `{id}` has no server of its kind")))
        }
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

/// The same reason for each of `names`.
pub fn unmeasured(names: &[&str], why: &str) -> Quantities {
    names.iter().map(|name| ((*name).to_owned(), Err(why.to_owned()))).collect()
}
