//! One packet at one place, as far as the tables need it.

use std::net::IpAddr;

use ntm_protocol::addr::NTM_PORT;
use ntm_protocol::crypto::Suite;
use ntm_protocol::wire::{HEADER_LEN, Header, Kind};

use crate::capture::packet::{self, Whole};
use crate::capture::sealed::{self, Datagram, Key};

/// Where packets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// A terminal's virtual interface: what its applications see.
    Application,
    /// A host's real interface.
    Real,
    /// The outer side of a router.
    Outside,
}

/// A packet that passed a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When: nanoseconds of any clock that all sightings share.
    pub t: u64,
    /// Whose interface.
    pub node: String,
    /// Which.
    pub point: Point,
    /// Whether the node sent it.
    pub outgoing: bool,
    /// Its source there.
    pub source: IpAddr,
    /// Its destination there.
    pub destination: IpAddr,
    /// What it is.
    pub body: Body,
}

/// Names a control message between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Its type.
    pub kind: Kind,
    /// Its sequence number.
    pub sequence: u64,
}

/// What a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A control message of NTMobile.
    Control(Message),
    /// A data packet of NTMobile.
    Sealed {
        /// Its name.
        key: Key,
        /// The length of the application's packet in it.
        length: usize,
        /// Source and destination of the application's packet, where the suite leaves it readable.
        inner: Option<(IpAddr, IpAddr)>,
    },
    /// An application's packet.
    Open {
        /// Its length.
        length: usize,
        /// What translation leaves as it is: protocol and transport header without ports and checksum, and what follows.
        carried: Vec<u8>,
    },
}

impl Sighting {
    /// Reads the IP packet `bytes`; nothing where it is not whole, or a fragment. Data packets that
    /// left their node as one train, to be cut up by its network device, are as many.
    pub fn read(t: u64, node: &str, point: Point, outgoing: bool, bytes: &[u8]) -> Vec<Self> {
        let all = || {
            let ip = packet::whole(bytes)?;
            let bodies = match ip.between(NTM_PORT).filter(|_| point != Point::Application) {
                Some(datagram) => match Header::parse(datagram).ok()? {
                    Header { kind: Kind::Data, .. } => sealed::train(datagram).map(Body::from).collect(),
                    Header { kind, sequence, .. } => vec![Body::Control(Message { kind, sequence })],
                },
                None => {
                    vec![Body::Open { length: bytes.len(), carried: carried(ip.protocol, ip.transport)? }]
                }
            };
            let Whole { source, destination, .. } = ip;
            let node = || node.to_owned();
            let of = |body| Self { t, node: node(), point, outgoing, source, destination, body };
            Some(bodies.into_iter().map(of).collect())
        };
        all().unwrap_or_default()
    }

    /// The length of the application's packet; of a control message 0.
    pub fn length(&self) -> usize {
        match &self.body {
            Body::Sealed { length, .. } | Body::Open { length, .. } => *length,
            Body::Control(_) => 0,
        }
    }
}

impl From<Datagram<'_>> for Body {
    fn from(Datagram { key, suite, length, bytes }: Datagram<'_>) -> Self {
        let inner = bytes.get(HEADER_LEN..HEADER_LEN + length).filter(|_| suite == Suite::None);
        let inner = inner.and_then(packet::whole).map(|ip| (ip.source, ip.destination));
        Self::Sealed { key, length, inner }
    }
}

fn carried(protocol: u8, transport: &[u8]) -> Option<Vec<u8>> {
    let parts: &[std::ops::Range<usize>] = match protocol {
        // Sequence numbers, flags and window; not the checksum.
        6 => &[4..16, 18..transport.len()],
        17 => &[4..6, 8..transport.len()],
        // Type, code; not checksum and identifier.
        1 => &[0..2, 6..transport.len()],
        _ => return None,
    };
    let mut out = vec![protocol];
    for part in parts {
        out.extend(transport.get(part.clone())?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        let mut whole = vec![0x45, 0, 0, 76, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        whole.extend([0x10, 0xea, 0x10, 0xea, 0, 56, 0, 0]);
        whole.extend([1, 0x30, 0, 0, 0, 20]);
        whole.resize(76, 0);
        for point in [Point::Application, Point::Real] {
            assert_eq!(Sighting::read(0, "mn", point, true, &whole).len(), 1);
            for cut in 0..whole.len() {
                for first in [0x45, 0x4f, 0x40, 0x60, 0xff] {
                    let mut bytes = whole[..cut].to_vec();
                    if let Some(byte) = bytes.first_mut() {
                        *byte = first;
                    }
                    assert_eq!(Sighting::read(0, "mn", point, true, &bytes), []);
                }
            }
        }
    }
}
