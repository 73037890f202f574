//! Finds out whether each NAT of a plan is what its scenario says, as emulation does before anything else happens: the same probe, against the
//! router's library, in a time of its own. Every datagram takes no time.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};

use ntm_nat::probe::{Findings, Prober, Responder, Setup, Transmit};
use ntm_nat::{Axes, Behaviour, Flow, Side, Translator};
use ntm_protocol::time::Instant;

use crate::exit::Failure;
use crate::plan::{Plan, ProbeNet, RouterPlan};
use crate::probe::{PORTS, Probed, Probes, nats};

/// Probes every NAT of `plan`. The error names each axis on which a router is not what it was declared to be.
pub(super) fn probe(plan: &Plan, seed: u64) -> Result<Probes, Failure> {
    let nats = nats(plan);
    if nats.is_empty() {
        return Ok(Probes::new());
    }
    let net = ProbeNet::beside(plan)
        .ok_or_else(|| Failure::error("no addresses are left for the hosts that probe the routers"))?;
    let responder = Responder { addresses: net.outer(), ports: PORTS };
    nats.into_iter()
        .map(|(router, declared)| {
            let setup = Setup { declared, hosts: net.hosts(), responder };
            Ok((router.name.clone(), one(router, declared, setup, seed)?))
        })
        .collect()
}

fn one(router: &RouterPlan, declared: Axes, setup: Setup, seed: u64) -> Result<Probed, Failure> {
    let name = &router.name;
    let failed = |why: String| {
        Failure::error(format!("the router `{name}` is not the NAT that it was declared to be: {why}"))
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let responder = setup.responder;
    let mut nat = Translator::new(Behaviour::Nat(declared), router.outer.into(), &[], bytes)
        .map_err(|error| failed(error.to_string()))?;
    let mut now = Instant::ZERO;
    let mut prober = match Prober::new(setup, bytes, now) {
        Ok(prober) => prober,
        Err(why) => return Ok(Probed::Not(why.to_string())),
    };
    let sockets = prober.sockets();
    let findings: Findings = loop {
        let mut waiting: VecDeque<Transmit> = VecDeque::new();
        waiting.extend(std::iter::from_fn(|| prober.poll_transmit()));
        let is_quiet = waiting.is_empty();
        for Transmit { socket, to, bytes } in waiting {
            let came = pass(&mut nat, &responder, (sockets[socket], to), bytes, now);
            let Some((from, to, bytes)) = came else { continue };
            if let Some(socket) = sockets.iter().position(|socket| *socket == to) {
                prober.handle_input(socket, from, &bytes, now);
            }
        }
        if let Some(outcome) = prober.outcome() {
            break outcome.clone().map_err(|broken| failed(broken.to_string()))?;
        }
        if let (true, Some(at)) = (is_quiet, prober.poll_timeout()) {
            now = at;
            prober.handle_timeout(now);
        }
    };
    let mismatches = findings.mismatches(&declared, router.outer);
    if mismatches.is_empty() {
        return Ok(Probed::Found(Box::new(findings)));
    }
    Err(failed(mismatches.iter().map(|mismatch| format!("\n  {mismatch}")).collect()))
}

/// A datagram from inside goes through the router, to the server and back, or back inside: from where it comes, and to whom.
fn pass(
    nat: &mut Translator,
    responder: &Responder,
    (from, to): (SocketAddrV4, SocketAddrV4),
    bytes: Vec<u8>,
    now: Instant,
) -> Option<(SocketAddrV4, SocketAddrV4, Vec<u8>)> {
    let v4 = |end: SocketAddr| match end {
        SocketAddr::V4(end) => Some(end),
        SocketAddr::V6(_) => None,
    };
    let passed = nat.outbound(Flow::udp(from.into(), to.into()), now).ok()?;
    let (source, destination) = (v4(passed.flow.source)?, v4(passed.flow.destination)?);
    if passed.to == Side::Inside {
        return Some((source, destination, bytes));
    }
    let place = Responder::PLACES.into_iter().find(|place| responder.at(*place) == destination)?;
    let answer = responder.handle(place, source, &bytes)?;
    let origin = responder.at(answer.from);
    let back = nat.inbound(Flow::udp(origin.into(), answer.to.into()), now).ok()?;
    Some((origin, v4(back.flow.destination)?, answer.bytes))
}
