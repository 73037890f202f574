//! The loop. It decides nothing: inputs go to the shell, which gives them to the role machine and does what that wants done.

use std::net::SocketAddr;

use anyhow::anyhow;
use ntm_daemon::program::Failure;
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{clock, control, notify, signals};
use ntm_protocol::data::{Inbound, Outbound};
use ntm_protocol::relay::Relay;
use ntm_tunnel::{Plane, PlaneOptions, Udp, UdpConfig};

use crate::config::Config;
use crate::rs_n::RsN;
use crate::rs_s::RsS;
use crate::shell::Shell;

/// Runs the relay until it is told to stop.
pub async fn run(config: Config) -> Result<(), Failure> {
    let trace = TraceSink::open(config.trace.as_deref())?;
    let mut requests = control::Server::open(config.control.as_deref())?;
    let stop = signals::termination()?;
    tokio::pin!(stop);
    // One port for all addresses; there is always one.
    let port = config.address.first().map_or(0, |address| address.port());
    let udp = Udp::bind(&UdpConfig::port(port)).map_err(|error| anyhow!(error.to_string()))?;
    let own = config.address.iter().map(SocketAddr::ip).collect();
    let rs_n = match RsN::open(&config.tun, config.vips, own, port).await {
        Err(Failure::Lacks(why)) => {
            tracing::warn!(
                "this machine cannot serve general nodes (RS-N), only switch tunnels (RS-S): {why}"
            );
            Err(why)
        }
        other => Ok(other?),
    };
    let coordinators = config.coordinators.iter().flat_map(|dc| dc.address.iter().copied());
    let rs_s = RsS::open(config.rs_s, udp.clone(), port, config.capacity, coordinators);
    let tun = rs_n.as_ref().ok().map(|rs_n| rs_n.tun().clone());
    let (outbound, inbound) = (Outbound::default(), Inbound::default());
    let translate = rs_n.as_ref().is_ok_and(|rs_n| rs_n.without_ipv6().is_none());
    let options = PlaneOptions { translate, ..PlaneOptions::default() };
    let plane = Plane::start(tun, udp.clone(), outbound, inbound, options)?;
    let relay = Relay::new(config.machine(clock::seed(), clock::wall_micros()), clock::now());
    let mut shell = Shell::new(config, relay, plane, udp, rs_n, rs_s, trace);

    loop {
        shell.drain();
        let due = shell.poll_timeout();
        tokio::select! {
            signal = &mut stop => break notify::stopping(signal),
            input = shell.input() => shell.take(input)?,
            request = requests.next() => shell.answer(request),
            () = clock::sleep_until(due) => shell.handle_timeout(),
        }
    }
    shell.stop()
}
