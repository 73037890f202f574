//! `ntm-terminal`: an NTM terminal on a real machine, as a shell around [`ntm_protocol::terminal::Terminal`].
//!
//! # The map
//!
//! * [`config`]: the configuration file.
//! * [`network`]: the machine's usable real addresses, followed by netlink; a change is a handover (T4.1.4-a).
//! * [`interface`]: the TUN with the VIP.
//! * [`stub`]: the DNS server that applications ask (T3.2.2-a, T3.2.3-b).
//! * [`node`]: what an input means to the machine, and what the machine's events mean to the others.
//! * [`mod@drive`]: the one loop over all inputs.
//! * [`status`], [`standing`]: what the control socket shows, and readiness.
//!
//! The TUN, the UDP socket and the threads that move data packets are `ntm-tunnel`'s; configuration, readiness, control
//! socket and trace are `ntm-daemon`'s.

mod config;
mod drive;
mod interface;
mod network;
mod node;
mod standing;
mod status;
mod stub;

use std::process::ExitCode;

use ntm_daemon::program::{self, Failure, Program};
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{clock, control, signals};
use ntm_protocol::data::{Inbound, Outbound};
use ntm_tunnel::{Plane, PlaneOptions, Udp, UdpConfig};

use config::Config;
use drive::{Inputs, drive};
use interface::Interface;
use network::{Policy, Watch};
use node::Node;
use stub::Stub;

const PROGRAM: Program = Program {
    name: "ntm-terminal",
    version: env!("CARGO_PKG_VERSION"),
    about: "An NTM terminal: applications keep their addresses and connections while the machine moves between networks",
};

fn main() -> ExitCode {
    program::run(PROGRAM, Config::load, serve)
}

/// Opens everything that the terminal needs, drives it until a signal ends it, and closes everything.
async fn serve(config: Config) -> Result<(), Failure> {
    let trace = TraceSink::open(config.trace.as_deref())?;
    let control = control::Server::open(config.control.as_deref())?;
    let stop = signals::termination()?;

    let interface = Interface::open(&config).await?;
    let tun = interface.tun().clone();
    let udp = Udp::bind(&UdpConfig::port(config.port)).map_err(anyhow::Error::new)?;
    let (out, inb) = (Outbound::default(), Inbound::default());
    // Applications are told where no way leads.
    let options = PlaneOptions { answer: true, spin: config.spin, ..PlaneOptions::default() };
    let plane = Plane::start(Some(tun), udp.clone(), out, inb, options)?;
    let stub = Stub::open(config.dns_listen).await?;
    let coordinator = config.coordinator_addresses.iter().map(|address| address.ip()).collect();
    let network = Watch::open(Policy { coordinator, tun: interface.tun().index(), vips: config.vips })?;

    // The clock's microseconds are above all sequence numbers of an earlier life, which sent less than a message in each.
    let node = Node::new(&config, trace, clock::seed(), clock::wall_micros());
    drive(node, interface, udp, Inputs { plane, network, stub, control }, stop).await
}
