//! What a NAT looks at: protocol, addresses and ports, and of TCP the flags that open and close.

use std::net::{IpAddr, SocketAddr};

use crate::names::named;

/// The protocols that a NAT here translates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// UDP (RFC 4787).
    Udp,
    /// TCP (RFC 5382).
    Tcp,
    /// ICMP Echo (RFC 5508): the query identifier stands where the inner host's port would.
    Icmp,
}

named!(Protocol, "protocol", "udp" => Udp, "tcp" => Tcp, "icmp" => Icmp);

/// What a TCP segment does to its connection, as coarsely as a NAT needs it (RFC 5382, section 5). Of no meaning elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Segment {
    /// Neither SYN, FIN nor RST.
    #[default]
    Data,
    /// SYN, with or without ACK.
    Open,
    /// FIN or RST.
    Close,
}

/// One packet, as far as a NAT is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Source address and port. For an ICMP Echo Request from inside: the host and the query identifier.
    pub source: SocketAddr,
    /// Destination address and port. For an ICMP Echo Reply from outside: the NAT's address and the query identifier.
    pub destination: SocketAddr,
    /// What it does to a TCP connection.
    pub segment: Segment,
}

impl Flow {
    /// A UDP datagram.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { protocol: Protocol::Udp, source, destination, segment: Segment::Data }
    }

    /// A TCP segment.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, segment: Segment) -> Self {
        Self { protocol: Protocol::Tcp, source, destination, segment }
    }

    /// An ICMP Echo Request from `host` with the query identifier `id`.
    pub fn echo_request(host: IpAddr, id: u16, to: IpAddr) -> Self {
        Self {
            protocol: Protocol::Icmp,
            source: SocketAddr::new(host, id),
            destination: SocketAddr::new(to, 0),
            segment: Segment::Data,
        }
    }

    /// An ICMP Echo Reply to `host`'s query `id`.
    pub fn echo_reply(from: IpAddr, host: IpAddr, id: u16) -> Self {
        Self {
            protocol: Protocol::Icmp,
            source: SocketAddr::new(from, 0),
            destination: SocketAddr::new(host, id),
            segment: Segment::Data,
        }
    }
}
