//! Finds out whether each NAT of a world is what its scenario says, on real packets, before anything else happens: the driver of
//! [`ntm_nat::probe`].
//!
//! The machine's two hosts are put into the LAN of each router, its server onto the internet; all routers are probed at once. Afterwards
//! the hosts are gone, and the routers have forgotten them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket as StdSocket};
use std::task::Poll;

use futures::future::try_join_all;
use ntm_nat::Axes;
use ntm_nat::probe::{Findings, Mismatch, Prober, Responder, Setup, Transmit, Unprobeable};
use ntm_protocol::addr::NTM_PORT;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::clock;
use crate::daemons::control;
use crate::exit::Failure;
use crate::flow::Quantities;
use crate::judge::expr::Value;
use crate::plan::config::Folders;
use crate::plan::{Plan, ProbeNet, RouterPlan};
use crate::world::build::World;
use crate::world::probing::Grounds;
use crate::world::space::Space;

/// The server's ports. One is that of NTMobile: a router that treated it otherwise than others would be no NAT as there are (T3.1-f).
pub const PORTS: [u16; 2] = [3478, NTM_PORT];

/// What is known of a router that is what it was declared to be.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probed {
    /// It was probed.
    Found(Box<Findings>),
    /// It cannot be probed, for this reason.
    Not(String),
}

/// By router.
pub type Probes = BTreeMap<String, Probed>;

/// The routers of `plan` that translate.
pub fn nats(plan: &Plan) -> Vec<(&RouterPlan, Axes)> {
    plan.routers.iter().filter_map(|router| Some((router, *router.nat.axes()?))).collect()
}

/// Probes every NAT of `plan`, whose routers run and whose links do nothing yet to packets. The error names each axis on which a router is
/// not what it was declared to be.
pub async fn probe(world: &World, plan: &Plan, seed: u64, folders: &Folders) -> Result<Probes, Failure> {
    let nats = nats(plan);
    if nats.is_empty() {
        return Ok(Probes::new());
    }
    let net = ProbeNet::beside(plan)
        .ok_or_else(|| Failure::error("no addresses are left for the hosts that probe the routers"))?;
    let routers: Vec<&RouterPlan> = nats.iter().map(|(router, _)| *router).collect();
    let grounds = world.open_grounds(net, &routers).await?;
    let responder = Responder { addresses: net.outer(), ports: PORTS };
    let outside = open(world.outside(), Responder::PLACES.map(|place| responder.at(place)).into_iter())?;
    let probes = nats.iter().zip(0..).map(|((router, declared), number)| {
        let setup = Setup { declared: *declared, hosts: net.hosts(), responder };
        one(router, setup, &grounds, seed.wrapping_add(number), folders)
    });
    let found = tokio::select! {
        found = try_join_all(probes) => found?,
        broken = serve(&responder, &outside) => return Err(broken),
    };
    world.close_grounds(grounds).await?;

    let mut wrong = Vec::new();
    for ((router, _), (_, mismatches)) in nats.iter().zip(&found) {
        let shown = mismatches.iter().map(|mismatch| format!("\n  {mismatch}"));
        if !mismatches.is_empty() {
            let name = &router.name;
            wrong.push(format!(
                "the router `{name}` is not the NAT that it was declared to be:{}",
                shown.collect::<String>()
            ));
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::error(wrong.join("\n")));
    }
    let names = nats.iter().map(|(router, _)| router.name.clone());
    Ok(names.zip(found.into_iter().map(|(probed, _)| probed)).collect())
}

/// Probes one router, and lets it forget the probe.
async fn one(
    router: &RouterPlan,
    setup: Setup,
    grounds: &Grounds,
    seed: u64,
    folders: &Folders,
) -> Result<(Probed, Vec<Mismatch>), Failure> {
    let name = &router.name;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut prober = match Prober::new(setup, bytes, clock::now()) {
        Ok(prober) => prober,
        Err(why @ (Unprobeable::TooFewPorts(_) | Unprobeable::TooShortTimeout(_))) => {
            return Ok((Probed::Not(why.to_string()), Vec::new()));
        }
    };
    let sockets = open(grounds.behind(name)?, prober.sockets().into_iter())?;
    let findings = loop {
        while let Some(Transmit { socket, to, bytes }) = prober.poll_transmit() {
            send(&sockets[socket], to, &bytes).await.map_err(Failure::during(format!("probing `{name}`")))?;
        }
        if let Some(outcome) = prober.outcome() {
            let why = |broken| {
                Failure::error(format!(
                    "the router `{name}` is not the NAT that it was declared to be: {broken}"
                ))
            };
            break outcome.clone().map_err(why)?;
        }
        let wait = prober.poll_timeout().map(|at| at.since(clock::now())).unwrap_or_default();
        tokio::select! {
            biased;
            came = receive(&sockets) => {
                let (socket, from, bytes) = came.map_err(Failure::during(format!("probing `{name}`")))?;
                prober.handle_input(socket, from, &bytes, clock::now());
            }
            () = tokio::time::sleep(wait) => prober.handle_timeout(clock::now()),
        }
    };
    let mut mismatches = findings.mismatches(&setup.declared, router.outer);
    let control = folders.control_of(name);
    let asked = |command| async move {
        let answer = control::ask(&folders.control_of(name), command).await;
        answer.map_err(Failure::during(format!("the router `{name}`")))
    };
    // A router that is something else has nothing to tell.
    if findings.lifetime.is_none() && mismatches.is_empty() {
        let told = told_timeout(&asked("status").await?, setup.hosts[0]);
        let told = told.ok_or_else(|| Failure::error(format!("{} tells no timeout", control.display())))?;
        mismatches.extend(Findings::told_timeout(setup.declared.timeouts.udp, told));
    }
    asked("forget").await?;
    Ok((Probed::Found(Box::new(findings)), mismatches))
}

/// The timeout of a UDP mapping of `host`, in seconds, as the router's status tells it.
fn told_timeout(status: &Json, host: std::net::Ipv4Addr) -> Option<u64> {
    let inside = |mapping: &&Json| {
        let end = mapping["inside"].as_str().and_then(|inside| inside.parse::<SocketAddrV4>().ok());
        mapping["protocol"] == "udp" && end.is_some_and(|end| *end.ip() == host)
    };
    status["mappings"].as_array()?.iter().find(inside)?["timeout"].as_u64()
}

/// Answers until it is dropped, or cannot go on.
async fn serve(responder: &Responder, sockets: &[UdpSocket]) -> Failure {
    let broken = Failure::during("the server of the probes");
    loop {
        let (socket, source, bytes) = match receive(sockets).await {
            Ok(came) => came,
            Err(error) => return broken(error),
        };
        let Some(answer) = responder.handle(Responder::PLACES[socket], source, &bytes) else { continue };
        let from = Responder::PLACES.iter().position(|place| *place == answer.from).unwrap_or(0);
        if let Err(error) = send(&sockets[from], answer.to, &answer.bytes).await {
            return broken(error);
        }
    }
}

/// UDP sockets in a namespace.
fn open(space: &Space, at: impl Iterator<Item = SocketAddrV4>) -> Result<Vec<UdpSocket>, Failure> {
    let bind = |at: SocketAddrV4| {
        let socket = StdSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let bound: io::Result<Vec<StdSocket>> = space.within(|| at.map(bind).collect())?;
    let opened = bound.and_then(|all| all.into_iter().map(UdpSocket::from_std).collect());
    opened.map_err(Failure::during(format!("sockets in `{}`", space.name)))
}

async fn send(socket: &UdpSocket, to: SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
    socket.send_to(bytes, SocketAddr::V4(to)).await.map(drop)
}

/// The next datagram at any of `sockets`: at which, from where, what.
async fn receive(sockets: &[UdpSocket]) -> io::Result<(usize, SocketAddrV4, Vec<u8>)> {
    poll_fn(|context| {
        for (number, socket) in sockets.iter().enumerate() {
            let mut bytes = [0; 256];
            let mut buffer = ReadBuf::new(&mut bytes);
            match socket.poll_recv_from(context, &mut buffer) {
                Poll::Ready(Ok(SocketAddr::V4(from))) => {
                    return Poll::Ready(Ok((number, from, buffer.filled().to_vec())));
                }
                Poll::Ready(Ok(SocketAddr::V6(_))) | Poll::Pending => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    })
    .await
}

/// What the probes say in expectations.
pub fn quantities(plan: &Plan, probes: &Probes) -> Quantities {
    let mut out = Quantities::new();
    for (router, declared) in nats(plan) {
        let mut set = |what: &str, value: Result<Value, String>| {
            out.insert(format!("nat.{}.{what}", router.name), value);
        };
        let text = |value: &dyn ToString| Ok(Value::Text(value.to_string()));
        match probes.get(&router.name) {
            Some(Probed::Found(found)) => {
                set("mapping", text(&found.mapping));
                set("filtering", text(&found.filtering));
                let unknown =
                    "hosts behind it cannot find out: mapping and filtering both depend on the peer";
                set("hairpin", found.hairpin.map(Value::Truth).ok_or_else(|| unknown.to_owned()));
                set("allocation", text(&found.allocation));
                set("ports", text(&found.ports));
                // It was compared.
                set("udp_timeout_s", Ok(Value::Number(declared.timeouts.udp.as_secs_f64())));
            }
            other => {
                let why = match other {
                    Some(Probed::Not(why)) => why,
                    _ => "the router was not probed",
                };
                for (what, ..) in crate::judge::catalogue::NAT {
                    set(what, Err(why.to_owned()));
                }
            }
        }
    }
    out
}
