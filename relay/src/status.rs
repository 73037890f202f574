//! What the control socket tells.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ntm_protocol::addr::{Fqdn, NodeId, VipRange};
use ntm_protocol::relay::table::Row;
use ntm_tunnel::Counts;
use serde::Serialize;

use crate::rs_s::RsSStatus;

/// The commands that a relay has.
pub const COMMANDS: [&str; 2] = ["status", "table"];

/// The answer to `status`. Instants are nanoseconds of the trace's clock.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its name in the DNS.
    pub fqdn: &'a Fqdn,
    /// Its real addresses and port.
    pub address: &'a [SocketAddr],
    /// Whether every DC has registered it.
    pub registered: bool,
    /// Its DCs.
    pub coordinators: Vec<CoordinatorStatus<'a>>,
    /// Whether it can serve general nodes.
    pub rs_n: RsNStatus<'a>,
    /// Who switches tunnels, and what the kernel did of it.
    pub rs_s: RsSStatus,
    /// The Relay Table (TA-c).
    pub table: Vec<Row>,
    /// How full the table is, in thousandths.
    pub load: u16,
    /// What was counted.
    pub counters: Counters,
}

/// A DC.
#[derive(Debug, Serialize)]
pub struct CoordinatorStatus<'a> {
    /// Its name.
    pub fqdn: &'a Fqdn,
    /// Its Node ID, as the table shows it.
    pub node: NodeId,
    /// Its real addresses and port.
    pub address: &'a [SocketAddr],
    /// Whether it has registered this relay.
    pub registered: bool,
}

/// RS-N as far as this machine has it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum RsNStatus<'a> {
    /// It is in place.
    Available {
        /// True.
        available: bool,
        /// The TUN.
        tun: &'a str,
        /// The virtual range routed into it.
        vips: VipRange,
        /// The nftables table.
        table: &'a str,
        /// The helpers in use (T5.1.2-b).
        helpers: Vec<&'static str>,
        /// VIP_GN → RIP_GN.
        translations: &'a BTreeMap<Ipv4Addr, IpAddr>,
        /// Why general nodes that have only IPv6 are not served; nothing where they are (T3.1-d).
        #[serde(skip_serializing_if = "Option::is_none")]
        without_ipv6: Option<&'a str>,
    },
    /// It is not.
    Unavailable {
        /// False.
        available: bool,
        /// What is missing, and what to do.
        why: &'a str,
    },
}

/// What was counted since the start.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Inputs that were refused, control and data.
    pub refused: u64,
    /// Control messages that the kernel would not send.
    pub control_not_sent: u64,
    /// Translations that could not be made.
    pub not_translated: u64,
    /// Observations that could not be written.
    pub trace_lost: u64,
    /// What the data threads counted.
    #[serde(flatten)]
    pub data: Counts,
}
