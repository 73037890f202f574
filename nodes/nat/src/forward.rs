//! Forwarded ports: what lets a host behind a NAT be reached by anybody.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::behaviour::Behaviour;
use crate::flow::Protocol;

/// A port of the NAT's outer address that always leads to one inner host, whoever sends to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// The port of the outer address.
    pub port: u16,
    /// The inner host and its port.
    pub to: SocketAddr,
}

/// Forwards that cannot be set up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ForwardError {
    /// Two forwards of one protocol have one port.
    #[error("{protocol} port {port} is forwarded twice: give each forward a port of its own")]
    Twice {
        /// Their protocol.
        protocol: Protocol,
        /// Their port.
        port: u16,
    },
    /// Only UDP and TCP have ports to forward.
    #[error("{0} has no ports to forward: a forward is of udp or tcp")]
    Protocol(Protocol),
    /// Port 0 is no port.
    #[error("the forward to {0} needs ports from 1 to 65535 on both sides")]
    Zero(SocketAddr),
    /// The host has an address of another family than the NAT.
    #[error("{to} cannot be reached from {external}: both must be IPv4, or both IPv6")]
    Family {
        /// The inner host.
        to: SocketAddr,
        /// The NAT's outer address.
        external: IpAddr,
    },
    /// The behaviour is `none`.
    #[error(
        "a router whose behaviour is 'none' has no ports to forward: its hosts are reached at their own addresses"
    )]
    NoNat,
}

/// Whether a NAT of `behaviour` at `external` can have `forwards`; if not, the index of the first that it cannot have, and why.
pub fn check_forwards(
    behaviour: &Behaviour,
    external: IpAddr,
    forwards: &[Forward],
) -> Result<(), (usize, ForwardError)> {
    let mut seen = BTreeSet::new();
    let mut check = |&Forward { protocol, port, to }: &Forward| {
        if *behaviour == Behaviour::None {
            return Err(ForwardError::NoNat);
        }
        if protocol == Protocol::Icmp {
            return Err(ForwardError::Protocol(protocol));
        }
        if port == 0 || to.port() == 0 {
            return Err(ForwardError::Zero(to));
        }
        if to.is_ipv4() != external.is_ipv4() {
            return Err(ForwardError::Family { to, external });
        }
        if !seen.insert((protocol, port)) {
            return Err(ForwardError::Twice { protocol, port });
        }
        Ok(())
    };
    forwards.iter().enumerate().try_for_each(|(n, forward)| check(forward).map_err(|why| (n, why)))
}
