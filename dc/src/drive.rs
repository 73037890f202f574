//! The loop of `ntm-dc`: everything that happens goes to the machine, everything that the machine wants is done. No decision is made here.

use std::io::ErrorKind;
use std::task::Poll;

use crate::config::{Config, Prepared};
use crate::resolve::{Resolver, ResolverConfig};
use crate::sockets::Sockets;
use crate::store::{DurableStore, Store};
use crate::zone;
use futures::stream::{FuturesUnordered, StreamExt};
use ntm_daemon::program::Failure;
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{clock, control, notify, signals};
use ntm_dns::server::Counts;
use ntm_protocol::addr::VipRange;
use ntm_protocol::coordinator::lookup::{LookupId, LookupResult};
use ntm_protocol::coordinator::store::{WriteId, WriteOutcome};
use ntm_protocol::coordinator::{Acquaintance, Coordinator, CoordinatorConfig, Overlap};
use ntm_protocol::observe::Observation;
use ntm_protocol::wire::NodeKind;
use serde::Serialize;

/// Longest datagram that is looked at; no control message is longer.
const MAX_DATAGRAM: usize = 64 * 1024;
/// How many datagrams are taken before anything else gets its turn.
const BATCH: usize = 64;
/// How long a negotiation may take; an application's resolver gives up after five seconds.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);

/// Serves until told to stop.
pub async fn serve(Prepared { config, keys }: Prepared) -> Result<(), Failure> {
    let mut trace = TraceSink::open(config.trace.as_deref())?;
    let mut requests = control::Server::open(config.control.as_deref())?;
    let stop = signals::termination()?;
    tokio::pin!(stop);
    let (store, snapshot) = Store::open(&config.store).map_err(anyhow::Error::from)?;
    let acquaintances = keys.iter().map(|entry| Acquaintance {
        fqdn: entry.peer.clone(),
        kind: entry.kind,
        key: entry.key.clone(),
        vips: config.neighbours.get(&entry.peer).copied(),
    });
    let at = config.address.with_port(config.port);
    let mut coordinator = Coordinator::new(CoordinatorConfig {
        fqdn: config.fqdn.clone(),
        addresses: at.iter().copied().collect(),
        zone: config.zone.clone(),
        vips: config.vips,
        keep_alive: config.keepalive.0,
        suite: config.suite,
        selection: config.relay_selection,
        patience: PATIENCE,
        acquaintances: acquaintances.collect(),
        nodes: snapshot.nodes,
        generals: snapshot.generals,
        seed: clock::seed(),
        // Above every number of the boots before, each of which has 2^40 of its own.
        first_sequence: snapshot.boots << 40,
    });
    let sockets = Sockets::bind(&at).await.map_err(|(at, error)| {
        anyhow::anyhow!("UDP {at} cannot be bound: {error}{}", advice(error.kind()))
    })?;
    let terminals = keys.of_kind(NodeKind::Terminal).map(|entry| &entry.peer);
    let mut names = zone::serve(&config, terminals).await.map_err(|error| {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        anyhow::anyhow!("the DC's DNS server cannot be started: {error:#}{}", kind.map_or("", advice))
    })?;
    let families = config.address.iter().copied().collect();
    let from_the_root = ResolverConfig::new(config.roots.clone(), families);
    let resolver = Resolver::new(&from_the_root, Some(names.inside())).map_err(anyhow::Error::from)?;
    let mut lookups = FuturesUnordered::<Lookups>::new();
    let mut writes = FuturesUnordered::<Writes>::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut counters = Counters::default();
    if !trace.is_kept() {
        coordinator.close_journal();
    }
    coordinator.start(clock::now());
    let mut overlap_told = false;
    notify::ready(&format!("{} serves the zone {}", config.name, config.zone));
    loop {
        // What is known is answered at once, and may lead to the next look-up.
        while let Some((id, lookup)) = coordinator.poll_lookup() {
            let resolver = resolver.clone();
            let mut found: Lookups = Box::pin(async move { (id, resolver.look_up(&lookup).await) });
            match futures::poll!(&mut found) {
                Poll::Ready((id, result)) => coordinator.handle_lookup(id, result, clock::now()),
                Poll::Pending => lookups.push(found),
            }
        }
        // Before anything is sent, so that whatever anybody was told stands in the trace, even if the process is killed at once.
        while let Some((t, what)) = coordinator.poll_observation() {
            trace.write(&Observation { t, node: config.name.clone(), what });
        }
        trace.flush();
        if let Some(overlap) = coordinator.overlap().filter(|_| !std::mem::replace(&mut overlap_told, true)) {
            let Overlap { peer, vips, at_start } = overlap;
            let own = config.vips;
            let what = format!(
                "the virtual range {own} overlaps with {vips}, says '{peer}': give each DC a range of its own ('vips')"
            );
            if *at_start {
                return Err(Failure::Config(what));
            }
            tracing::error!("{what}; no VIP is handed out any more");
            notify::status(&what);
        }
        while let Some(transmit) = coordinator.poll_transmit() {
            // Control messages are few and small; one that the system will not take now is repeated by its sender.
            match sockets.send(&transmit.bytes, transmit.to) {
                Ok(()) => counters.sent += 1,
                Err(_) => counters.not_sent += 1,
            }
        }
        while let Some((id, write)) = coordinator.poll_write() {
            let outcome = store.submit(write);
            writes.push(Box::pin(async move { (id, outcome.await) }));
        }
        tokio::select! {
            ready = sockets.readable() => {
                let socket = ready?;
                for _ in 0..BATCH {
                    match socket.try_recv_from(&mut buffer) {
                        Ok((length, from)) => {
                            counters.received += 1;
                            coordinator.handle_datagram(from, &buffer[..length], clock::now());
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // An ICMP error about something that was sent before: the request is repeated or given up in its own time.
                        Err(_) => counters.not_sent += 1,
                    }
                }
            }
            Some((id, result)) = lookups.next() => coordinator.handle_lookup(id, result, clock::now()),
            Some((id, outcome)) = writes.next() => coordinator.handle_written(id, outcome, clock::now()),
            () = clock::sleep_until(coordinator.poll_timeout()) => coordinator.handle_timeout(clock::now()),
            request = requests.next() => match request.command() {
                "status" => request.answer(&Status::of(&config, &coordinator, &counters, names.counts(), &trace)),
                _ => request.refuse_unknown(&["status"]),
            },
            error = names.failed() => return Err(anyhow::Error::from(error).context("the DC's DNS server").into()),
            signal = &mut stop => {
                notify::stopping(signal);
                names.shut_down().await;
                return Ok(());
            }
        }
    }
}

/// What to do about an address that cannot be bound.
fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrNotAvailable => " (this machine has no such address: configure one that it has)",
        ErrorKind::AddrInUse => " (another process has this port: end it, or configure another port)",
        ErrorKind::PermissionDenied => " (a port below 1024 needs root or CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

type Lookups = std::pin::Pin<Box<dyn Future<Output = (LookupId, LookupResult)>>>;
type Writes = std::pin::Pin<Box<dyn Future<Output = (WriteId, WriteOutcome)>>>;

#[derive(Default)]
struct Counters {
    received: u64,
    sent: u64,
    not_sent: u64,
}

/// The answer to `status`.
#[derive(Serialize)]
struct Status<'a> {
    fqdn: &'a str,
    zone: &'a str,
    vips: VipRange,
    /// A DC that claims part of that range, or of a third one's, and the range: no VIP is handed out.
    overlap: Option<(&'a str, VipRange)>,
    terminals: usize,
    relays: usize,
    received: u64,
    sent: u64,
    not_sent: u64,
    refused: u64,
    /// What its DNS server answered.
    dns: Counts,
    trace_lost: u64,
}

impl<'a> Status<'a> {
    fn of(
        config: &'a Config,
        coordinator: &'a Coordinator,
        counters: &Counters,
        dns: Counts,
        trace: &TraceSink,
    ) -> Self {
        Self {
            fqdn: config.fqdn.as_str(),
            zone: config.zone.as_str(),
            vips: config.vips,
            overlap: coordinator.overlap().map(|overlap| (overlap.peer.as_str(), overlap.vips)),
            terminals: coordinator.registered(NodeKind::Terminal),
            relays: coordinator.registered(NodeKind::Relay),
            received: counters.received,
            sent: counters.sent,
            not_sent: counters.not_sent,
            refused: coordinator.refused(),
            dns,
            trace_lost: trace.lost(),
        }
    }
}
